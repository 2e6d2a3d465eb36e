package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/mpc/daemon"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// asProgram has this test binary be the program itself.
const asProgram = "MPC_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return // not reached: main exits
	}
	os.Exit(m.Run())
}

// nodeHost is a node's host with a SoftHSM token; the program runs as processes.
type nodeHost struct {
	t      *testing.T
	name   string
	dir    string
	config string
	pin    string
}

func newNodeHost(t *testing.T) *nodeHost {
	t.Helper()
	return nodeHostWith(t, hsmtest.SoftHSM(t), "eu-1") // in the environment of the processes, too
}

func nodeHostWith(t *testing.T, token hsmtest.SoftToken, name string) *nodeHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "mpcn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pin := token.PIN()
	defer pin.Wipe()
	h := &nodeHost{t: t, name: name, dir: dir, config: filepath.Join(dir, "node.hcl"), pin: string(pin.Expose())}
	h.write("pin", h.pin+"\n")
	h.write("node.hcl", fmt.Sprintf(`
name = %q
region = "eu"
domain = "eu"
listen = "127.0.0.1:0"
state_dir = "%s/state"
hsm {
  module = %q
  token = %q
  pin_file = "%s/pin"
}
`, name, dir, token.Module, token.Label, dir))
	return h
}

func (h *nodeHost) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *nodeHost) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append(append([]string{"node"}, args...), "--config", h.config)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// run runs a command to its end.
func (h *nodeHost) run(args ...string) (out, errOut string, code int) {
	h.t.Helper()
	cmd := h.command(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		h.t.Fatal(err)
	}
	if strings.Contains(o.String()+e.String(), h.pin+"\n") {
		h.t.Errorf("node %v prints the PIN", args)
	}
	return o.String(), e.String(), code
}

func (h *nodeHost) ok(args ...string) string {
	h.t.Helper()
	out, errOut, code := h.run(args...)
	if code != 0 {
		h.t.Fatalf("node %v: exit code %d\n%s%s", args, code, out, errOut)
	}
	return out
}

// running is a daemon process.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	mu   sync.Mutex
	log  bytes.Buffer
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}
func (r *running) text() string { r.mu.Lock(); defer r.mu.Unlock(); return r.log.String() }

func (h *nodeHost) serve() *running {
	h.t.Helper()
	r := &running{t: h.t, cmd: h.command("serve"), done: make(chan struct{})}
	r.cmd.Stderr = r
	if err := r.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = r.cmd.Wait(); close(r.done) }()
	h.t.Cleanup(func() { _ = r.cmd.Process.Kill(); <-r.done })
	return r
}

func (r *running) wait(what string, ok func() bool) {
	r.t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("%s\n%s", what, r.text())
}

// ready waits until the daemon answers and returns its state.
func (h *nodeHost) ready(r *running) (st daemon.Status) {
	h.t.Helper()
	s, err := daemon.LoadSettings(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	r.wait("the daemon does not answer", func() bool {
		st, err = daemon.ReadStatus(h.t.Context(), s)
		return err == nil && st.PID == r.cmd.Process.Pid
	})
	return st
}

// exit waits for the daemon's end.
func (r *running) exit() int {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		r.t.Fatalf("the daemon goes on\n%s", r.text())
	}
	return r.cmd.ProcessState.ExitCode()
}

// client is a coordinator's certificate.
func client(t *testing.T) (tls.Certificate, [32]byte) {
	t.Helper()
	cert, key, err := nodelink.NewCertificate("coordinator", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	own, err := tls.X509KeyPair(cert, key.Expose())
	if err != nil {
		t.Fatal(err)
	}
	return own, nodelink.SPKI(own.Leaf)
}

func dial(t *testing.T, address string, own tls.Certificate, pin [32]byte) *nodelink.Link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l, err := nodelink.Dial(ctx, address, own, nodelink.Peer{Pin: pin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestNodeProcess goes the whole way of an operator: check, enrol, serve, status,
// reload, a kill, a restart and the end.
func TestNodeProcess(t *testing.T) {
	h := newNodeHost(t)
	if out := h.ok("check"); !strings.Contains(out, "none yet") {
		t.Errorf("check of a new node:\n%s", out)
	}
	if _, errOut, code := h.run("status"); code != daemon.ExitFailed || !strings.Contains(errOut, "no daemon is running") {
		t.Errorf("status without a daemon: %d, %s", code, errOut)
	}
	token, err := nodelink.ParseEnrolToken(h.ok("enrol"))
	if err != nil {
		t.Fatal(err)
	}
	defer token.Secret.Wipe()
	first := h.serve()
	st := h.ready(first)
	if st.Identity != token.Identity.String() {
		t.Errorf("identity %s in the token and %s of the daemon", token.Identity, st.Identity)
	}
	own, pin := client(t)
	l := dial(t, st.Listen, own, token.Pin)
	mount := bytes.Repeat([]byte{7}, 16)
	r := &nodepb.EnrolRequest{NodeId: "eu-1", MountId: mount}
	r.Proof = nodelink.EnrolProof(token.Secret.Expose(), r, pin, token.Pin)
	reply, err := l.Enrolment().Enrol(t.Context(), r)
	if err != nil || !nodelink.SameProof(reply.GetProof(), nodelink.EnrolAnswerProof(token.Secret.Expose(), reply, pin, token.Pin)) {
		t.Fatalf("%v, %v", reply, err)
	}
	if _, _, code := h.run("status"); code != daemon.ExitNotReady {
		t.Errorf("status without an attachment: exit code %d", code)
	}
	setup := func(l *nodelink.Link) {
		t.Helper()
		reply, err := l.Client().Setup(t.Context(), &nodepb.SetupRequest{NodeId: "eu-1", MountId: mount})
		if err != nil || reply.GetFailure() != nil || reply.GetToken().GetLabel() == "" {
			t.Fatalf("%v, %v", reply, err)
		}
	}
	setup(l)
	made, err := l.Client().MakeWrappingKey(t.Context(), &nodepb.MakeWrappingKeyRequest{Version: 1, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
	if err != nil || made.GetFailure() != nil || made.GetWrappingKey().GetDomain() != "eu" || len(made.GetEndorsement()) == 0 {
		t.Fatalf("a wrapping key of the token: %v, %v", made, err)
	}
	var shown daemon.Status
	if err := json.Unmarshal([]byte(h.ok("status", "--json")), &shown); err != nil || !shown.Attached || shown.HSM != "ok" {
		t.Errorf("status %+v, %v", shown, err)
	}
	if limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", first.cmd.Process.Pid)); err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("core dumps are not forbidden: %v\n%s", err, limits)
	}
	// The commands beside a running daemon.
	id := strings.Repeat("ab", 32)
	h.ok("peers", "add", "local-1", id)
	if out := h.ok("peers", "list"); !strings.Contains(out, id) || !strings.Contains(out, "command") {
		t.Errorf("peers:\n%s", out)
	}
	if _, errOut, code := h.run("peers", "remove", "eu-9"); code != 0 || !strings.Contains(errOut, "recipient set") {
		t.Errorf("removing: %d\n%s", code, errOut)
	}
	if out := h.ok("floor", "list"); !strings.Contains(out, "ACCOUNT") {
		t.Errorf("floor:\n%s", out)
	}
	if _, errOut, code := h.run("floor", "lower", strings.Repeat("0", 32), "--epoch", "1"); code == 0 || !strings.Contains(errOut, "not in this node's floor") {
		t.Errorf("lowering what is not there: %d, %s", code, errOut)
	}
	if _, errOut, code := h.run("enrol"); code != daemon.ExitSettings || !strings.Contains(errOut, "--again") {
		t.Errorf("a second enrolment: %d, %s", code, errOut)
	}
	if err := first.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	first.wait("SIGHUP is not in the log", func() bool { return strings.Contains(first.text(), "were read again") })

	// A kill takes nothing that was pinned.
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.done
	second := h.serve()
	st = h.ready(second)
	if !st.Enrolled || st.Identity != token.Identity.String() || st.Peers["local-1"] != id {
		t.Errorf("after a kill: %+v", st)
	}
	setup(dial(t, st.Listen, own, token.Pin))
	h.ok("status")
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := second.exit(); code != daemon.ExitOK || !strings.Contains(second.text(), "drained") {
		t.Errorf("SIGTERM: exit code %d\n%s", code, second.text())
	}
	for _, r := range []*running{first, second} {
		if strings.Contains(r.text(), h.pin) && strings.Contains(r.text(), "pin="+h.pin) || strings.Contains(r.text(), token.Encode()) {
			t.Error("a secret is in the log")
		}
	}
	h.ok("check")
}

// TestNodeProcessEndsWithACode: service managers tell by it what a restart can do.
func TestNodeProcessEndsWithACode(t *testing.T) {
	h := newNodeHost(t)
	h.write("pin", "9999\n")
	if _, errOut, code := h.run("serve"); code != daemon.ExitPIN || !strings.Contains(errOut, "tried once") {
		t.Errorf("a wrong PIN: %d\n%s", code, errOut)
	}
	h.write("pin", h.pin)
	if err := os.Chmod(filepath.Join(h.dir, "pin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := h.run("serve"); code != daemon.ExitSettings || !strings.Contains(errOut, "chmod 0600") {
		t.Errorf("a PIN for all: %d\n%s", code, errOut)
	}
	if out, _, code := h.run("check"); code != daemon.ExitSettings || !strings.Contains(out, "FAIL") {
		t.Errorf("check: %d\n%s", code, out)
	}
	if err := os.Chmod(filepath.Join(h.dir, "pin"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The token vanishes under a daemon that runs, as SoftHSM's does with its folder.
	r := h.serve()
	h.ready(r)
	tokens := filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	if code := r.exit(); code != daemon.ExitToken {
		t.Errorf("a token that went away: %d\n%s", code, r.text())
	}
	if _, _, code := h.run("serve"); code != daemon.ExitToken {
		t.Errorf("started without the token: %d", code)
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	r = h.serve()
	if st := h.ready(r); st.HSM != "ok" {
		t.Errorf("the token is back: %+v", st)
	}
	h.write("node.hcl", "nmae = \"x\"\n")
	if _, errOut, code := h.run("status"); code != daemon.ExitSettings || !strings.Contains(errOut, "node.hcl:1: nmae: is no key here") {
		t.Errorf("wrong settings: %d\n%s", code, errOut)
	}
}

// TestNodeTellsSystemd plays systemd's end of Type=notify.
func TestNodeTellsSystemd(t *testing.T) {
	h := newNodeHost(t)
	path := filepath.Join(h.dir, "notify")
	c, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	r := h.serve()
	told := func() string {
		t.Helper()
		b := make([]byte, 64)
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, r.text())
		}
		return string(b[:n])
	}
	if got := told(); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	if code := r.exit(); code != daemon.ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestNodeUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"srve"}, {"serve", "x"}, {"serve", "--port", "1"}, {"peers"}, {"peers", "add", "x"}, {"floor"}, {"floor", "lower"}, {"floor", "lower", "x", "--epoch", "y"}, {"floor", "lower", strings.Repeat("0", 32)}} {
		var out, errOut bytes.Buffer
		if code := nodeCommand(args, &out, &errOut); code != daemon.ExitSettings || !strings.Contains(errOut.String(), "Error:") {
			t.Errorf("node %v: %d %s", args, code, errOut.String())
		}
	}
	var out, errOut bytes.Buffer
	if code := nodeCommand([]string{"--help"}, &out, &errOut); code != 0 || !strings.Contains(out.String(), "Exit codes:") {
		t.Errorf("help: %d\n%s", code, out.String())
	}
	// What a usage line says is what a person types.
	out.Reset()
	if code := nodeCommand([]string{"peers", "add", "--help"}, &out, &errOut); code != 0 || !strings.Contains(out.String(), "\n  vault-plugin-secrets-mpc node peers add NAME IDENTITY") {
		t.Errorf("help: %d\n%s", code, out.String())
	}
}

// TestDeployFiles has systemd look at the unit, where there is one.
func TestDeployFiles(t *testing.T) {
	path := filepath.Join("..", "..", "scripts", "deploy", "mpc-node.service")
	unit, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/vault-plugin-secrets-mpc"
	for _, want := range []string{"ExecStart=" + program + " node serve --config " + defaultConfig, "NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "LimitMEMLOCK=infinity", "Type=notify", "Restart=on-failure",
		fmt.Sprintf("RestartPreventExitStatus=%d %d", daemon.ExitSettings, daemon.ExitPIN)} {
		if !strings.Contains(string(unit), want+"\n") {
			t.Errorf("the unit has no line %q", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: the unit's text alone was looked at")
	}
	copied := filepath.Join(t.TempDir(), "mpc-node.service")
	if err := os.WriteFile(copied, []byte(strings.ReplaceAll(string(unit), program, os.Args[0])), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
