package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a real Vault on Raft storage with the engine at mpc/, transit at
// transit/, the plugin that does least at floor/, and a SoftHSM token. Everything lies in one temporary folder.
type server struct {
	dir, addr, token string
	cmd              *exec.Cmd
	client           *http.Client
}

// startVault starts and configures it; stop ends it whatever happened.
func startVault(ctx context.Context, o options) (*server, error) {
	dir, err := os.MkdirTemp("", "mpc-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}}
	if err := s.start(ctx, o); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "vault.log"))
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, log[max(0, len(log)-2000):])
	}
	return s, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *server) start(ctx context.Context, o options) error {
	listen, err := freePort()
	if err != nil {
		return err
	}
	cluster, err := freePort()
	if err != nil {
		return err
	}
	s.addr = "http://" + listen
	for _, d := range []string{"data", "plugins", "tokens", "t"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			return err
		}
	}
	name, sum, err := s.install(o.plugin)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("storage \"raft\" {\n  path = %q\n  node_id = \"bench\"\n}\nlistener \"tcp\" {\n  address = %q\n  tls_disable = true\n}\n"+
		"api_addr = %q\ncluster_addr = \"https://%s\"\nplugin_directory = %q\ndisable_mlock = true\n",
		filepath.Join(s.dir, "data"), listen, s.addr, cluster, filepath.Join(s.dir, "plugins"))
	if err := os.WriteFile(filepath.Join(s.dir, "vault.hcl"), []byte(conf), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "vault.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.CommandContext(ctx, o.vault, "server", "-config="+filepath.Join(s.dir, "vault.hcl"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Sockets of plugins and nodes go with the folder. Their paths must stay
	// short: a socket's name has 107 bytes at most.
	s.cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(s.dir, "t"))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.unseal(ctx); err != nil {
		return err
	}
	pin, err := s.makeToken(ctx)
	if err != nil {
		return err
	}
	type step struct {
		path string
		body map[string]any
	}
	steps := []step{
		{"sys/plugins/catalog/secret/mpc", map[string]any{"command": name, "sha256": sum, "version": o.version,
			"env": []string{"MPC_PKCS11_MODULES=softhsm=" + o.softhsm, "SOFTHSM2_CONF=" + filepath.Join(s.dir, "softhsm2.conf")}}},
		{"sys/mounts/mpc", map[string]any{"type": "mpc"}},
		{"sys/mounts/transit", map[string]any{"type": "transit"}},
		{"transit/keys/ed25519", map[string]any{"type": "ed25519"}},
		{"transit/keys/ecdsa-p256", map[string]any{"type": "ecdsa-p256"}},
		{"mpc/config/nodes", map[string]any{"local": o.nodes, "session_timeout": "60s"}},
		{"mpc/config/rotation", map[string]any{"refresh_period": "24h", "aux_period": "24h"}},
		{"mpc/config/hsm", map[string]any{"uri": "pkcs11:token=bench?module-name=softhsm", "pin": pin}},
	}
	if o.floor != "" {
		name, sum, err := s.install(o.floor)
		if err != nil {
			return err
		}
		steps = append(steps, step{"sys/plugins/catalog/secret/floor", map[string]any{"command": name, "sha256": sum}},
			step{"sys/mounts/floor", map[string]any{"type": "floor"}})
	}
	for _, step := range steps {
		if _, err := s.write(step.path, step.body); err != nil {
			return fmt.Errorf("%s: %w", step.path, err)
		}
	}
	return nil
}

// install copies a plugin to where Vault looks for plugins.
func (s *server) install(path string) (name, sum string, err error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	name = filepath.Base(path)
	digest := sha256.Sum256(binary)
	return name, hex.EncodeToString(digest[:]), os.WriteFile(filepath.Join(s.dir, "plugins", name), binary, 0o700)
}

func (s *server) unseal(ctx context.Context) error {
	var init struct {
		Keys  []string `json:"keys"`
		Token string   `json:"root_token"`
	}
	for end := time.Now().Add(30 * time.Second); ; {
		err := s.call("PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &init)
		if err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.token = init.Token
	if err := s.call("PUT", "sys/unseal", map[string]any{"key": init.Keys[0]}, nil); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if err := s.call("GET", "sys/mounts", nil, nil); err == nil {
			return nil
		} else if time.Now().After(end) {
			return err
		}
	}
}

// makeToken makes a throwaway SoftHSM token; its tool takes PINs as arguments
// only.
func (s *server) makeToken(ctx context.Context) (pin string, err error) {
	var random [16]byte
	_, _ = rand.Read(random[:])
	pin, soPIN := hex.EncodeToString(random[:8]), hex.EncodeToString(random[8:])
	conf := filepath.Join(s.dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(s.dir, "tokens"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", pin, "--so-pin", soPIN)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("softhsm2-util: %w: %s", err, out)
	}
	return pin, nil
}

func (s *server) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		// The whole group: a plugin outlives a Vault that is killed, unless it
		// looks after itself as the engine does.
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

func (s *server) call(method, path string, body, out any) error {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(b)
	}
	r, err := http.NewRequest(method, s.addr+"/v1/"+path, reader)
	if err != nil {
		return err
	}
	r.Header.Set("X-Vault-Token", s.token)
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	if out != nil && len(b) > 0 { // 204 has no body
		return json.Unmarshal(b, out)
	}
	return nil
}

func (s *server) write(path string, body map[string]any) (map[string]any, error) {
	var answer struct {
		Data map[string]any `json:"data"`
	}
	err := s.call("PUT", path, body, &answer)
	return answer.Data, err
}

func (s *server) read(path string) (map[string]any, error) {
	var answer struct {
		Data map[string]any `json:"data"`
	}
	err := s.call("GET", path, nil, &answer)
	return answer.Data, err
}

// waitNodes waits until the nodes are ready, and with their auxiliary keys
// complete.
func (s *server) waitNodes(count int, auxiliary bool) error {
	for end := time.Now().Add(10 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		ready := 0
		for i := 1; i <= count; i++ {
			n, err := s.read("mpc/nodes/local-" + strconv.Itoa(i))
			if err == nil && n["state"] == "ready" && (!auxiliary || n["aux_state"] == "ready") {
				ready++
			}
		}
		if ready == count {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("the nodes do not become ready")
		}
	}
}

// usage is processor time and resident memory by kind of process.
type usage struct{ cpu, rss map[string]float64 } // seconds; MB, the largest of its kind

func (s *server) usage() usage {
	u := usage{map[string]float64{}, map[string]float64{}}
	parents, names := map[int]int{}, map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		stat, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
		parents[pid], _ = strconv.Atoi(fields[1])
		names[pid] = string(stat)
	}
	for pid, stat := range names {
		kind := ""
		switch p := parents[pid]; {
		case pid == s.cmd.Process.Pid:
			kind = "vault"
		case p == s.cmd.Process.Pid:
			kind = "plugin"
		case parents[p] == s.cmd.Process.Pid:
			kind = "node"
		default:
			continue
		}
		fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+2:])
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		pages, _ := strconv.ParseFloat(fields[21], 64)
		u.cpu[kind] += (user + system) / 100 // clock ticks, 100 a second on Linux
		u.rss[kind] = max(u.rss[kind], pages*float64(os.Getpagesize())/1e6)
	}
	return u
}
