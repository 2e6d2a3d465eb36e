package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// startTimeout bounds the start of a node process; it takes about 25 ms.
const startTimeout = 15 * time.Second

// Launcher starts node processes. The default runs this binary again as a
// subprocess. Calls may be concurrent.
type Launcher interface {
	// Start starts the node of that name and waits until it can be spoken to.
	// The process is a new one each time: it knows nothing of an earlier one
	// of the same name.
	Start(name string) (Process, error)
}

// Process is one running node. All methods may be called concurrently.
type Process interface {
	// Client is the connection to the node, the same each time.
	Client() nodepb.NodeClient
	// PID is for people to read; 0 where there is none.
	PID() int
	// Exited reports whether the process has ended; it is polled.
	Exited() bool
	// Stop ends the process and waits for it, a second at most. Calls after
	// the first do nothing.
	Stop()
}

// process is a node that this pool started: client is the Process's own, and
// number tells it from every other process of this pool, from 1.
type process struct {
	Process
	client nodepb.NodeClient
	number uint64
	// remote says that it is a connection to another host.
	remote bool
}

// subprocess is one node started by go-plugin.
type subprocess struct {
	client nodepb.NodeClient
	pid    int
	cmd    *exec.Cmd
	plug   *plugin.Client
	// alive is the write end of the pipe whose closing ends the node.
	alive *os.File
	// dir holds the node's socket; mode 0700.
	dir  string
	once sync.Once
}

// subprocesses is the default Launcher.
type subprocesses struct {
	executable string
	env        []string
	logger     hclog.Logger
}

// Start executes the plugin's own binary again as a node. The node ends when
// the pipe closes, so also when this process is killed.
func (l subprocesses) Start(name string) (Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close() // the child has its own copy
	dir, err := nodelink.MakeSocketDir()
	if err != nil {
		w.Close()
		return nil, err
	}
	cmd := exec.Command(l.executable, "node")
	cmd.ExtraFiles = []*os.File{r}
	cmd.Env = append(slices.Clip(l.env), nodelink.SocketDirEnv(dir))
	c := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  nodelink.Handshake(),
		Plugins:          plugin.PluginSet{nodelink.Name: &nodelink.Plugin{}},
		Cmd:              cmd,
		SkipHostEnv:      true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		StartTimeout:     startTimeout,
		Logger:           processLog{l.logger.Named(name)},
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(nodelink.MaxMessage), grpc.MaxCallSendMsgSize(nodelink.MaxMessage))},
	})
	p := &subprocess{cmd: cmd, plug: c, alive: w, dir: dir}
	conn, err := c.Client()
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("starting node process: %w", err)
	}
	raw, err := conn.Dispense(nodelink.Name)
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("starting node process: %w", err)
	}
	p.client = raw.(nodepb.NodeClient)
	p.pid, _ = strconv.Atoi(c.ID()) // the ID of a subprocess is its PID
	return p, nil
}

func (p *subprocess) Client() nodepb.NodeClient { return p.client }
func (p *subprocess) PID() int                  { return p.pid }
func (p *subprocess) Exited() bool              { return p.plug.Exited() }

// Stop ends the process and waits for it. It may be called more than once and
// returns well within a second, also when the node hangs: a node has nothing to
// save, and go-plugin alone would first ask it to end, without a time limit.
func (p *subprocess) Stop() {
	p.once.Do(func() {
		_ = p.alive.Close()
		if p.cmd.Process != nil {
			_ = p.cmd.Process.Kill()
		}
		p.plug.Kill()
		nodelink.RemoveSocketDir(p.dir)
	})
}

// waitExit polls until the process has ended or ctx is done.
func (p *process) waitExit(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if p.Exited() {
			if p.remote {
				return errors.New("the connection to the node has ended")
			}
			return errors.New("the node process ended")
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
