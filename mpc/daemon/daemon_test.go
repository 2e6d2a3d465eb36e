package daemon

import (
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

func TestAttach(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.enrolled()
	l, reply := c.attach(h.address)
	if reply.GetDomain() != "eu" || reply.GetRegion() != "eu" || reply.GetZone() != "eu-a" || reply.GetToken().GetLabel() != "fake" || len(reply.GetIdentityEnvelope()) != 0 {
		t.Errorf("answer %v", reply)
	}
	st, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{})
	if err != nil || st.GetHsm() != "ok" || st.GetDraining() || st.GetTimeUnixMs() == 0 {
		t.Errorf("status %v, %v", st, err)
	}
	if st, err := ReadStatus(t.Context(), h.settings); err != nil || st.NotReady() != "" {
		t.Errorf("not ready: %q, %v", st.NotReady(), err)
	}
	if _, err := l.Client().Probe(t.Context(), &nodepb.ProbeRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Probe: %v", err)
	}

	// A second attachment ends the first and its connection, and knows nothing of it.
	second := c.link(h.address)
	if r, err := second.Client().Status(t.Context(), &nodepb.StatusRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a call before Setup: %v, %v", r, err)
	}
	again, err := second.Client().Setup(t.Context(), setupRequest())
	if err != nil || again.GetFailure() != nil || string(again.GetIdentity()) != string(reply.GetIdentity()) {
		t.Fatalf("second attachment: %v, %v", again, err)
	}
	waitDown(t, l)
	if _, err := second.Client().Status(t.Context(), &nodepb.StatusRequest{}); err != nil {
		t.Error(err)
	}
	second.Close()
	eventually(t, "the attachment outlives its connection", func() bool {
		st, err := ReadStatus(t.Context(), h.settings)
		return err == nil && !st.Attached
	})
	if h.opened.Load() != 1 { // attachments come and go, the token stays
		t.Errorf("%d logins", h.opened.Load())
	}
}

// TestSetupThatIsRefusedLeavesTheAttachment sends what an enrolled coordinator may not.
func TestSetupThatIsRefusedLeavesTheAttachment(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.enrolled()
	l, _ := c.attach(h.address)
	other := c.link(h.address)
	for name, change := range map[string]func(*nodepb.SetupRequest){
		"another mount": func(r *nodepb.SetupRequest) { r.MountId[0]++ },
		"another name":  func(r *nodepb.SetupRequest) { r.NodeId = "eu-2" },
		"a token":       func(r *nodepb.SetupRequest) { r.Token = &nodepb.Token{Module: "x", Label: "y", Pin: []byte("z")} },
		"an authority":  func(r *nodepb.SetupRequest) { r.Authority = peerIdentity(1) },
	} {
		r := setupRequest()
		change(r)
		reply, err := other.Client().Setup(t.Context(), r)
		if err != nil || reply.GetFailure().GetReason() != nodepb.Failure_REFUSED {
			t.Errorf("%s: %v, %v", name, reply, err)
		}
	}
	if _, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{}); err != nil {
		t.Errorf("the attachment ended: %v", err)
	}
	if text := h.log.String(); !strings.Contains(text, "refused") || !strings.Contains(text, "call=Setup") {
		t.Error("refusals are not in the log")
	}
}

// keygen starts a session that waits for its hellos.
func keygen(t *testing.T, l *nodelink.Link, identity []byte) (nodepb.Node_SessionClient, *nodepb.SessionOut) {
	t.Helper()
	stream, err := l.Client().Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	set := mpc.EmptySetHash()
	err = stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: &nodepb.Start{Operation: "keygen", Self: 1, Algorithm: string(mpc.Ed25519),
		Members:   []*nodepb.Member{{Index: 1, NodeId: "eu-1", Identity: identity}, {Index: 2, NodeId: "local-1", Identity: peerIdentity(1)}},
		AccountId: peerIdentity(1)[:16], Threshold: 2, Shares: 2, RecipientsHash: set[:], PolicyHash: set[:], WrappingVersion: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return stream, out
}

func TestDrain(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.enrolled()
	l, reply := c.attach(h.address)
	stream, out := keygen(t, l, reply.GetIdentity())
	if out.GetHello() == nil {
		t.Fatalf("no hello: %v", out)
	}
	h.stop()
	eventually(t, "the node does not drain", func() bool {
		st, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{})
		return err == nil && st.GetDraining() && st.GetSessions() == 1
	})
	if _, out := keygen(t, l, reply.GetIdentity()); out.GetFailure().GetReason() != nodepb.Failure_DRAINING {
		t.Errorf("a new session: %v", out)
	}
	other := c.link(h.address)
	if r, err := other.Client().Setup(t.Context(), setupRequest()); err != nil || r.GetFailure().GetReason() != nodepb.Failure_DRAINING {
		t.Errorf("a new attachment: %v, %v", r, err)
	}
	select {
	case err := <-h.ended:
		h.ended <- err
		t.Fatalf("the daemon ended with a session running: %v", err)
	default:
	}
	// The session ends by what its coordinator sends; it was not cut off.
	if err := stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: &nodepb.Hellos{}}}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); err != nil || out.GetFailure() == nil || out.GetFailure().GetReason() == nodepb.Failure_DRAINING {
		t.Errorf("the running session ended with %v, %v", out, err)
	}
	if err := h.wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if !strings.Contains(h.log.String(), "drained") {
		t.Error("the log does not say that it drained")
	}
}

func TestDrainHasATimeout(t *testing.T) {
	h := newHost(t)
	h.settings.DrainTimeout = 50 * time.Millisecond
	h.start()
	l, reply := h.enrolled().attach(h.address)
	stream, _ := keygen(t, l, reply.GetIdentity())
	if err := h.end(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if out, err := stream.Recv(); err == nil && out.GetFailure() == nil {
		t.Errorf("the session went on: %v", out)
	}
	if !strings.Contains(h.log.String(), "drain_timeout is over") {
		t.Error("the log does not say that sessions were ended")
	}
}

// TestCertificateIsReplaced changes the files while the node serves.
func TestCertificateIsReplaced(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.enrolled()
	l, _ := c.attach(h.address)
	before, err := ReadStatus(t.Context(), h.settings)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // certificates have whole seconds
	if err := renewCertificate(h.dir(), h.settings); err != nil {
		t.Fatal(err)
	}
	after, err := ReadStatus(t.Context(), h.settings)
	if err != nil || !after.CertificateExpires.After(before.CertificateExpires) || after.Pin != before.Pin {
		t.Errorf("before %v, after %v, %v", before.CertificateExpires, after.CertificateExpires, err)
	}
	if _, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{}); err != nil {
		t.Errorf("the attachment ended: %v", err)
	}
	c.link(h.address) // the pin is what it was

	// A broken file leaves the one before in use, and is in the log.
	if err := h.dir().write(certificateFile, []byte("broken")); err != nil {
		t.Fatal(err)
	}
	c.link(h.address)
	if !strings.Contains(h.log.String(), "the one before stays") {
		t.Error("the log does not say that the certificate is broken")
	}
	// Another key has another pin, which coordinators notice.
	cert, key, err := nodelink.NewCertificate("eu-1", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if err := errors.Join(h.dir().write(keyFile, key.Expose()), h.dir().write(certificateFile, cert)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.dial(h.address); !errors.Is(err, nodelink.ErrWrongPeer) {
		t.Errorf("another key: %v", err)
	}
	h.reload <- syscall.SIGHUP
	eventually(t, "the signal is not in the log", func() bool { return strings.Contains(h.log.String(), "were read again") })
}

// TestOldCertificateIsRenewed: a start is enough, and the pin stays.
func TestOldCertificateIsRenewed(t *testing.T) {
	h := newHost(t)
	token := h.token()
	token.Secret.Wipe()
	raw, err := h.dir().read(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	key := secretOf(raw)
	defer key.Wipe()
	expired, err := nodelink.RenewCertificate("eu-1", key, time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.dir().write(certificateFile, expired); err != nil {
		t.Fatal(err)
	}
	h.start()
	st, err := ReadStatus(t.Context(), h.settings)
	if err != nil || time.Until(st.CertificateExpires) < certificateLife/2 || st.Pin != pinHex(token.Pin) {
		t.Errorf("until %v with pin %s, %v", st.CertificateExpires, st.Pin, err)
	}
	// One that an authority has signed is left alone.
	ca := newAuthority(t, filepath.Join(t.TempDir(), "ca.pem")).coordinator(t, "eu-1")
	if err := h.dir().write(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.own.Leaf.Raw})); err != nil {
		t.Fatal(err)
	}
	if old(h.dir()) {
		t.Error("a certificate of somebody else's counts as old")
	}
}

func TestExpiredCertificates(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.enrolled()
	// The node's.
	raw, err := h.dir().read(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	good, err := h.dir().read(certificateFile)
	if err != nil {
		t.Fatal(err)
	}
	key := secretOf(raw)
	defer key.Wipe()
	expired, err := nodelink.RenewCertificate("eu-1", key, time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.dir().write(certificateFile, expired); err != nil {
		t.Fatal(err)
	}
	if _, err := c.dial(h.address); !errors.Is(err, nodelink.ErrCertificateExpired) || !strings.Contains(err.Error(), "the node's certificate expired") {
		t.Errorf("the node's: %v", err)
	}
	if st, err := ReadStatus(t.Context(), h.settings); err != nil || !strings.Contains(st.NotReady(), "expired") {
		t.Errorf("not ready: %q, %v", st.NotReady(), err)
	}
	if err := h.dir().write(certificateFile, good); err != nil {
		t.Fatal(err)
	}
	// A coordinator's, that could otherwise enrol. The client's own look is left out,
	// as a hostile or careless one would.
	h.token().Secret.Wipe()
	short := newCoordinator(t, time.Now().Add(-time.Minute))
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{short.own}, MinVersion: tls.VersionTLS13}
	conn, err := tls.Dial("tcp", h.address, config)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("the coordinator's: %v", err)
	}
	eventually(t, "the log does not say whose certificate expired", func() bool { return strings.Contains(h.log.String(), "the coordinator's certificate expired") })
	if _, err := short.dial(h.address); err == nil {
		t.Error("an expired coordinator connects")
	}
}

func TestPeersNeedNoRestart(t *testing.T) {
	h := newHost(t)
	h.settings.Peers["pinned"] = mpc.NodeIdentity(peerIdentity(7))
	h.start()
	r := newRegistry(h.settings, h.dir())
	h.enrolled()
	want := func(name string, b byte) {
		t.Helper()
		id, ok := r.peer(name)
		if ok != (b != 0) || ok && id != mpc.NodeIdentity(peerIdentity(b)) {
			t.Errorf("peer %s: %v, %v", name, id, ok)
		}
	}
	want("local-1", 1)
	want("local-2", 0)
	want("pinned", 7)
	want("eu-1", 0) // itself
	if err := AddPeer(h.settings, "local-2", hex.EncodeToString(peerIdentity(2))); err != nil {
		t.Fatal(err)
	}
	want("local-2", 2)
	if err := RemovePeer(h.settings, "local-1"); err != nil {
		t.Fatal(err)
	}
	want("local-1", 0)
	if err := AddPeer(h.settings, "local-1", hex.EncodeToString(peerIdentity(3))); err != nil {
		t.Fatal(err)
	}
	want("local-1", 3)
	list, err := ListPeers(h.settings)
	if err != nil || len(list) != 3 || list[0] != (Peer{"local-1", hex.EncodeToString(peerIdentity(3)), "command"}) || list[2].Source != "node.hcl" {
		t.Errorf("list %v, %v", list, err)
	}
	for name, err := range map[string]error{
		"of node.hcl":      AddPeer(h.settings, "pinned", hex.EncodeToString(peerIdentity(2))),
		"gone of node.hcl": RemovePeer(h.settings, "pinned"),
		"itself":           AddPeer(h.settings, "eu-1", hex.EncodeToString(peerIdentity(2))),
		"short":            AddPeer(h.settings, "x", "abcd"),
		"strange name":     AddPeer(h.settings, "../x", hex.EncodeToString(peerIdentity(2))),
	} {
		if !errors.Is(err, ErrSettings) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A file that cannot be read pins nobody.
	if err := h.dir().write(peersFile, []byte("{")); err != nil {
		t.Fatal(err)
	}
	want("local-2", 0)
	want("pinned", 0)
	if st, err := ReadStatus(t.Context(), h.settings); err != nil || !strings.Contains(st.NotReady(), "damaged") {
		t.Errorf("not ready: %q, %v", st.NotReady(), err)
	}
}

func TestTelemetry(t *testing.T) {
	h := newHost(t)
	h.start()
	base := "http://" + regexp.MustCompile(`telemetry listens: address=(\S+)`).FindStringSubmatch(h.log.String())[1]
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz %d", code)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no coordinator is enrolled") {
		t.Errorf("readyz %d %s", code, body)
	}
	l, reply := h.enrolled().attach(h.address)
	if code, body := get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz %d %s", code, body)
	}
	stream, _ := keygen(t, l, reply.GetIdentity())
	_, metrics := get("/metrics")
	for _, want := range []string{"mpc_node_hsm_up 1", "mpc_node_attached 1", "mpc_node_enrolled 1", "mpc_node_sessions_running 1", "mpc_node_floor_accounts 0", "mpc_node_draining 0",
		"mpc_node_certificate_expiry_timestamp_seconds 2.", "mpc_node_coordinator_certificate_expiry_timestamp_seconds 1.", `mpc_node_info{domain="eu",node="eu-1",region="eu",version="v0.test",zone="eu-a"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	if err := stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: &nodepb.Hellos{}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session is not counted", func() bool {
		_, metrics := get("/metrics")
		return strings.Contains(metrics, `mpc_node_sessions_total{operation="keygen",result="protocol"} 1`) && strings.Contains(metrics, `mpc_node_refusals_total{reason="protocol"} 1`)
	})
	for _, secret := range []string{testPIN, "session_key"} {
		if strings.Contains(metrics, secret) {
			t.Errorf("%q is in the metrics", secret)
		}
	}
}

func TestFloorCommands(t *testing.T) {
	h := newHost(t)
	h.start()
	path := h.dir().path(floorFile)
	account := mpc.AccountID{1}
	if lines, err := ListFloor(t.Context(), h.settings); err != nil || len(lines) != 0 {
		t.Errorf("an empty floor: %v, %v", lines, err)
	}
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	f := testFloor(t, path, false)
	if err := f.Raise(t.Context(), record(1, 7, [32]byte{7})); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	look := func(epoch uint64, policy, lowered bool) {
		t.Helper()
		lines, err := ListFloor(t.Context(), h.settings)
		if err != nil || len(lines) != 1 || lines[0].Account != account.String() || lines[0].Epoch != epoch || lines[0].Policy != policy || lines[0].Lowered != lowered {
			t.Errorf("%+v, %v", lines, err)
		}
	}
	look(7, true, false)
	if err := LowerFloor(t.Context(), h.settings, account.String(), 6); err != nil {
		t.Fatal(err)
	}
	look(6, false, true)
	h.start() // through the daemon from here
	look(6, false, true)
	if err := LowerFloor(t.Context(), h.settings, account.String(), 9); err == nil || !strings.Contains(err.Error(), "lowers only") {
		t.Errorf("raising: %v", err)
	}
	if err := LowerFloor(t.Context(), h.settings, "xyz", 1); !errors.Is(err, ErrSettings) {
		t.Errorf("no account: %v", err)
	}
	if err := LowerFloor(t.Context(), h.settings, account.String(), 5); err != nil {
		t.Fatal(err)
	}
	look(5, false, true)
	if !strings.Contains(h.log.String(), "lowered by this host's operator") {
		t.Error("lowering is not in the log")
	}
	if err := NewFloor(h.settings); !errors.Is(err, ErrInUse) {
		t.Errorf("a new floor under a daemon: %v", err)
	}
}

// TestFloorThatIsGone: an enrolled node does not start without its floor.
func TestFloorThatIsGone(t *testing.T) {
	h := newHost(t)
	h.start()
	h.enrolled()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(h.dir().path(floorFile)); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Config{Settings: h.settings, OpenToken: h.open})
	if ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), "floor new") {
		t.Errorf("error %v", err)
	}
	if err := NewFloor(h.settings); err != nil {
		t.Fatal(err)
	}
	h.start()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	if err := NewFloor(h.settings); err == nil {
		t.Error("a floor that is there was replaced")
	}
}

func TestRunIsRefused(t *testing.T) {
	run := func(h *host) error { return Run(t.Context(), Config{Settings: h.settings, OpenToken: h.open}) }
	t.Run("refused PIN", func(t *testing.T) {
		h := newHost(t)
		h.openErr = fmt.Errorf("%w: tried once", hsm.ErrPINIncorrect)
		if err := run(h); ExitCode(err) != ExitPIN || h.opened.Load() != 1 {
			t.Errorf("%v after %d logins", err, h.opened.Load())
		}
	})
	t.Run("token away", func(t *testing.T) {
		h := newHost(t)
		h.openErr = hsm.ErrTokenNotFound
		if err := run(h); ExitCode(err) != ExitToken {
			t.Error(err)
		}
	})
	t.Run("PIN file for all", func(t *testing.T) {
		h := newHost(t)
		if err := os.Chmod(h.settings.HSM.PINFile, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(h); ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), "chmod 0600") || h.opened.Load() != 0 {
			t.Error(err)
		}
	})
	t.Run("state for all", func(t *testing.T) {
		h := newHost(t)
		if err := os.Mkdir(h.settings.StateDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := run(h); ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), "chmod 0700") {
			t.Error(err)
		}
	})
	t.Run("another user's state", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give a directory away")
		}
		h := newHost(t)
		if err := os.Mkdir(h.settings.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(h.settings.StateDir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if err := run(h); ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Error(err)
		}
	})
	t.Run("a second daemon", func(t *testing.T) {
		h := newHost(t)
		h.start()
		if err := run(h); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
	})
	t.Run("another node's state", func(t *testing.T) {
		h := newHost(t)
		h.token().Secret.Wipe()
		h.settings.Name = "eu-2"
		if err := run(h); ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), `belongs to node "eu-1"`) {
			t.Error(err)
		}
	})
	t.Run("another token", func(t *testing.T) {
		h := newHost(t)
		h.token().Secret.Wipe()
		other := newHost(t)
		h.fake = other.fake
		if err := run(h); err == nil || !strings.Contains(err.Error(), "seals this node's identity") {
			t.Error(err)
		}
	})
	t.Run("an identity that was exchanged", func(t *testing.T) {
		h := newHost(t)
		h.token().Secret.Wipe()
		r, err := readIdentity(h.dir(), "eu-1")
		if err != nil {
			t.Fatal(err)
		}
		r.Identity = hex.EncodeToString(peerIdentity(1))
		if err := h.dir().writeJSON(identityFile, r); err != nil {
			t.Fatal(err)
		}
		if err := run(h); err == nil || !strings.Contains(err.Error(), "not the identity") {
			t.Error(err)
		}
	})
	t.Run("an identity that is gone", func(t *testing.T) {
		h := newHost(t)
		h.start()
		h.enrolled()
		if err := errors.Join(h.end(), h.dir().remove(identityFile)); err != nil {
			t.Fatal(err)
		}
		if err := run(h); ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), "backup") {
			t.Error(err)
		}
	})
	t.Run("key file for all", func(t *testing.T) {
		h := newHost(t)
		h.token().Secret.Wipe()
		if err := os.Chmod(h.dir().path(keyFile), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := run(h); ExitCode(err) != ExitSettings || !strings.Contains(err.Error(), "chmod 0600") {
			t.Error(err)
		}
	})
	t.Run("address in use", func(t *testing.T) {
		h := newHost(t)
		h.start()
		other := newHost(t)
		other.settings.Listen = h.address
		if err := run(other); ExitCode(err) != ExitFailed || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
	})
}

// TestTokenGoesAway ends the daemon after a while, for the service manager to start
// another; the clock is the test's.
func TestTokenGoesAway(t *testing.T) {
	h := newHost(t)
	token, err := h.open(t.Context(), configFor(h))
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	var w tokenWatch
	now := time.Now()
	look := func() error { return w.look(t.Context(), token, hsm.WrappingKey{}, func() time.Time { return now }) }
	if err := look(); err != nil || w.state() != nil {
		t.Fatal(err, w.state())
	}
	h.fake.SetAway(true)
	if err := look(); err != nil || w.state() == nil {
		t.Errorf("at once: %v, state %v", err, w.state())
	}
	now = now.Add(awayLimit - time.Second)
	h.fake.SetAway(false)
	if err := look(); err != nil || w.state() != nil {
		t.Errorf("back: %v, state %v", err, w.state())
	}
	h.fake.SetAway(true)
	_ = look()
	now = now.Add(awayLimit)
	if err := look(); ExitCode(err) != ExitToken {
		t.Errorf("away for long: %v", err)
	}
}

func TestCheck(t *testing.T) {
	h := newHost(t)
	bad := func() (out []string) {
		for _, f := range Check(t.Context(), h.settings, h.open) {
			if f.Err != nil {
				out = append(out, f.What+": "+f.Err.Error())
			}
		}
		return out
	}
	if faults := bad(); len(faults) != 0 {
		t.Errorf("a new node: %v", faults)
	}
	h.token().Secret.Wipe()
	if faults := bad(); len(faults) != 0 {
		t.Errorf("with an identity: %v", faults)
	}
	if has, _ := h.dir().has(floorFile); has {
		t.Error("check made something")
	}
	if err := os.WriteFile(filepath.Join(h.settings.StateDir, certificateFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.openErr = hsm.ErrPINLocked
	if faults := bad(); len(faults) != 2 {
		t.Errorf("faults %v", faults)
	}
}
