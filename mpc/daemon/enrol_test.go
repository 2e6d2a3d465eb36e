package daemon

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

func TestEnrol(t *testing.T) {
	h := newHost(t)
	h.start()
	c := newCoordinator(t, time.Now().Add(time.Hour))
	token := h.token()
	defer token.Secret.Wipe()
	authority := bytes.Repeat([]byte{4}, 32)
	r := enrolRequest()
	r.Authority = authority
	reply, err := c.enrol(h.address, token, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if mpc.NodeIdentity(reply.GetIdentity()) != token.Identity || reply.GetDomain() != "eu" || reply.GetRegion() != "eu" || reply.GetZone() != "eu-a" || reply.GetVersion() != "v0.test" {
		t.Errorf("answer %v", reply)
	}
	st, err := ReadStatus(t.Context(), h.settings)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Enrolled || st.Coordinator != pinHex(c.pin) || st.MountID != hex.EncodeToString(testMount) || len(st.Peers) != 1 || st.Peers["local-1"] != hex.EncodeToString(peerIdentity(1)) {
		t.Errorf("status %+v", st)
	}
	if st.NotReady() != "no coordinator is attached" {
		t.Errorf("not ready: %q", st.NotReady())
	}

	// The token works once.
	second := newCoordinator(t, time.Now().Add(time.Hour))
	if _, err := second.enrol(h.address, token, enrolRequest(), nil); err == nil {
		t.Error("the token worked for another coordinator")
	}
	if _, err := c.enrol(h.address, token, enrolRequest(), nil); err == nil || !strings.Contains(err.Error(), "node enrol") {
		t.Errorf("the token worked twice: %v", err)
	}
	// Nobody else gets past the handshake any more.
	second.node = token.Pin
	if l, err := second.dial(h.address); err == nil {
		l.Close()
		t.Error("a stranger is let in")
	}
	for _, secret := range []string{testPIN, token.Encode(), string(token.Secret.Expose()), hex.EncodeToString(token.Secret.Expose())} {
		if strings.Contains(h.log.String(), secret) {
			t.Error("a secret is in the log")
		}
	}
	// What was pinned is there after a restart.
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	h.start()
	if st, err := ReadStatus(t.Context(), h.settings); err != nil || st.Coordinator != pinHex(c.pin) || st.Identity != token.Identity.String() || st.Pin != pinHex(token.Pin) {
		t.Errorf("after a restart: %+v, %v", st, err)
	}
	if p, err := newRegistry(h.settings, h.dir()).present(); err != nil || !bytes.Equal(p.authority, authority) || !bytes.Equal(p.mountID[:], testMount) {
		t.Errorf("pinned %+v, %v", p, err)
	}
}

// TestEnrolIsRefused changes one thing at a time; the right request works after all
// of them.
func TestEnrolIsRefused(t *testing.T) {
	h := newHost(t)
	h.settings.Authority = ed25519.PublicKey(bytes.Repeat([]byte{4}, 32))
	h.settings.Peers["pinned"] = mpc.NodeIdentity(peerIdentity(7))
	h.start()
	c := newCoordinator(t, time.Now().Add(time.Hour))
	token := h.token()
	defer token.Secret.Wipe()
	other := *token
	other.Secret = nodelink.NewEnrolSecret()
	for name, test := range map[string]struct {
		token  *nodelink.EnrolToken
		before func(*nodepb.EnrolRequest)
		after  func(*nodepb.EnrolRequest)
		says   string
	}{
		"wrong secret":              {&other, nil, nil, "proof"},
		"no proof":                  {token, nil, func(r *nodepb.EnrolRequest) { r.Proof = nil }, "proof"},
		"mount changed on the way":  {token, nil, func(r *nodepb.EnrolRequest) { r.MountId[0]++ }, "proof"},
		"peer added on the way":     {token, nil, func(r *nodepb.EnrolRequest) { r.Peers = append(r.Peers, r.Peers[0]) }, "proof"},
		"authority set on the way":  {token, nil, func(r *nodepb.EnrolRequest) { r.Authority = peerIdentity(4) }, "proof"},
		"another node's name":       {token, func(r *nodepb.EnrolRequest) { r.NodeId = "eu-2" }, nil, `this node is "eu-1"`},
		"no mount":                  {token, func(r *nodepb.EnrolRequest) { r.MountId = nil }, nil, "mount ID"},
		"zero mount":                {token, func(r *nodepb.EnrolRequest) { r.MountId = make([]byte, 16) }, nil, "mount ID"},
		"another authority":         {token, func(r *nodepb.EnrolRequest) { r.Authority = peerIdentity(5) }, nil, "another authority"},
		"short authority":           {token, func(r *nodepb.EnrolRequest) { r.Authority = []byte{1} }, nil, "32 bytes"},
		"peer of another identity":  {token, func(r *nodepb.EnrolRequest) { r.Peers[0].NodeId = "pinned" }, nil, "another identity in this node's node.hcl"},
		"peer with a strange name":  {token, func(r *nodepb.EnrolRequest) { r.Peers[0].NodeId = "a/b" }, nil, "malformed"},
		"peer with a short key":     {token, func(r *nodepb.EnrolRequest) { r.Peers[0].Identity = []byte{1} }, nil, "malformed"},
		"the same peer twice":       {token, func(r *nodepb.EnrolRequest) { r.Peers[1] = r.Peers[0] }, nil, "malformed"},
		"more peers than one needs": {token, func(r *nodepb.EnrolRequest) { r.Peers = make([]*nodepb.Member, maxPeers+1) }, nil, "more than"},
	} {
		r := enrolRequest()
		if test.before != nil {
			test.before(r)
		}
		_, err := c.enrol(h.address, test.token, r, test.after)
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
		if has, _ := h.dir().has(enrolledFile); has {
			t.Fatalf("%s: something was pinned", name)
		}
	}
	if _, err := c.enrol(h.address, token, enrolRequest(), nil); err != nil {
		t.Errorf("after the refusals: %v", err)
	}
}

func TestEnrolmentWindow(t *testing.T) {
	h := newHost(t)
	h.start()
	c := newCoordinator(t, time.Now().Add(time.Hour))
	token := h.token()
	defer token.Secret.Wipe()
	if until := time.Until(token.Expires); until > nodelink.EnrolWindow || until < nodelink.EnrolWindow-time.Minute {
		t.Errorf("the window is open for %s", until)
	}
	for name, expires := range map[string]time.Time{"expired": time.Now().Add(-time.Second), "longer than any": time.Now().Add(time.Hour)} {
		if err := openWindow(h.dir(), token.Secret, expires); err != nil {
			t.Fatal(err)
		}
		if _, err := c.enrol(h.address, token, enrolRequest(), nil); err == nil || !strings.Contains(err.Error(), "no enrolment is open") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := h.dir().read(windowFile); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the window is still there: %v", name, err)
		}
	}
	// A newer token ends the one before.
	newer := h.token()
	defer newer.Secret.Wipe()
	if _, err := c.enrol(h.address, token, enrolRequest(), nil); err == nil {
		t.Error("the older token works")
	}
	if _, err := c.enrol(h.address, newer, enrolRequest(), nil); err != nil {
		t.Error(err)
	}
	if _, err := OpenEnrolment(t.Context(), h.settings, h.open, false); err == nil || !strings.Contains(err.Error(), "--again") {
		t.Errorf("a second enrolment without --again: %v", err)
	}
}

// TestEnrolAgain puts another coordinator in the place of the first, which is out.
func TestEnrolAgain(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.enrolled()
	l, _ := first.attach(h.address)
	second := h.enrolled()
	if _, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{}); err == nil {
		t.Error("the first is still attached")
	}
	if r, err := l.Client().Setup(t.Context(), setupRequest()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the first attached again on its open connection: %v, %v", r, err)
	}
	l.Close()
	if l, err := first.dial(h.address); err == nil {
		l.Close()
		t.Error("the first is let in again")
	}
	second.attach(h.address)
}

// TestEnrolBeforeServe opens the window without a daemon, and takes no PIN where
// the identity is there.
func TestEnrolBeforeServe(t *testing.T) {
	h := newHost(t)
	token := h.token()
	defer token.Secret.Wipe()
	again := h.token()
	defer again.Secret.Wipe()
	if h.opened.Load() != 1 || token.Identity != again.Identity || token.Pin != again.Pin {
		t.Errorf("%d logins, identities %s and %s", h.opened.Load(), token.Identity, again.Identity)
	}
	h.start()
	c := newCoordinator(t, time.Now().Add(time.Hour))
	if _, err := c.enrol(h.address, again, enrolRequest(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestUnenrolledNodeServesNothingElse(t *testing.T) {
	h := newHost(t)
	h.start()
	c := newCoordinator(t, time.Now().Add(time.Hour))
	token := h.token()
	defer token.Secret.Wipe()
	c.node = token.Pin
	l := c.link(h.address)
	if _, err := l.Client().Setup(t.Context(), setupRequest()); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "node enrol") {
		t.Errorf("Setup: %v", err)
	}
	if _, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Status: %v", err)
	}
}
