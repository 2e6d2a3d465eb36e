// Package nodelink is the link between a coordinator and its nodes. Local nodes
// are started as go-plugin subprocesses: the handshake, the gRPC service on it, and
// the pipe that ends a node when its parent is gone. Nodes on other hosts are
// dialled over mutual TLS 1.3 (remote.go and its neighbours): pins, certificates,
// and the token and proofs with which the two sides come to know each other.
//
// Border: it carries nodepb; it knows neither what a node does nor who it is.
package nodelink

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Name is the plugin's name in the go-plugin set.
const Name = "node"

// MaxMessage bounds one gRPC message, in bytes. The largest is a node's public
// auxiliary keys with their proofs, about 85 KiB.
const MaxMessage = 1 << 20

// parentPipe is the file descriptor of the inherited pipe: the first of
// exec.Cmd.ExtraFiles.
const parentPipe = 3

// Handshake keeps a user from starting a node by hand and a node from talking
// to a coordinator of another protocol version. It is no secret.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  1,
		MagicCookieKey:   "VAULT_MPC_NODE",
		MagicCookieValue: "8f1d6c0e-threshold-node",
	}
}

// Plugin implements plugin.GRPCPlugin. Node is set on the node's side only.
type Plugin struct {
	plugin.NetRPCUnsupportedPlugin
	Node nodepb.NodeServer
}

// GRPCServer implements plugin.GRPCPlugin.
func (p *Plugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if p.Node == nil {
		return errors.New("nodelink: no node to serve")
	}
	nodepb.RegisterNodeServer(s, p.Node)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin.
func (p *Plugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return nodepb.NewNodeClient(c), nil
}

// socketDirPrefix marks directories that this package made and may remove.
const socketDirPrefix = "vault-mpc-node-"

// MakeSocketDir makes a directory for one node's socket, mode 0700.
func MakeSocketDir() (string, error) { return os.MkdirTemp("", socketDirPrefix) }

// SocketDirEnv is the environment entry that makes a node use dir.
func SocketDirEnv(dir string) string { return plugin.EnvUnixSocketDir + "=" + dir }

// RemoveSocketDir removes a directory made by MakeSocketDir and nothing else.
func RemoveSocketDir(dir string) {
	if strings.HasPrefix(filepath.Base(dir), socketDirPrefix) {
		_ = os.RemoveAll(dir)
	}
}

// ExitWithParent ends this process when the pipe inherited from the parent is
// closed, which happens however the parent ends. It returns an error when there
// is no such pipe; the process should then not go on.
func ExitWithParent(exit func()) error {
	f := os.NewFile(parentPipe, "parent")
	if f == nil {
		return errors.New("nodelink: no pipe from a parent; nodes are started by the plugin")
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return errors.New("nodelink: file descriptor 3 is no pipe: the plugin starts local nodes; one on a host of its own is run with `vault-plugin-secrets-mpc node serve`, see `node --help`")
	}
	go func() {
		// The parent never writes: anything but blocking means it is gone.
		_, _ = io.Copy(io.Discard, f)
		// A parent that was killed has not tidied up.
		RemoveSocketDir(os.Getenv(plugin.EnvUnixSocketDir))
		exit()
	}()
	return nil
}
