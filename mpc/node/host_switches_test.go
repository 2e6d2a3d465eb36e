package node

import (
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// TestSwitches: what a host's operator has switched off stays off, whatever the
// coordinator asks for, and the rest works.
func TestSwitches(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	approvers := newApprovers(t)
	strict := h.strict(approvers)
	with := func(s Switches, f func()) {
		h.switchOn("n1", s)
		f()
		h.switchOn("n1", Switches{})
	}
	off := func(start *nodepb.Start, from *held, text string) {
		t.Helper()
		hand := hooks{}
		if from != nil {
			hand = handing(from.envelopes)
		}
		h.refuses(h.session(start, hand), nodepb.Failure_SWITCHED_OFF, text)
	}
	with(Switches{RequirePolicy: true}, func() {
		off(h.keygen(), nil, "demands no approvals")
		off(h.signing(a), a, "require_policy")
		off(h.refresh(a), a, "require_policy")
		if f := h.opensAt("n1", a, 1); !saysSo(f, nodepb.Failure_SWITCHED_OFF, "require_policy") {
			t.Errorf("opening: %v", f)
		}
		h.signs(strict)
		h.signs(h.strict(approvers))
	})
	with(Switches{Operations: []string{opSign}}, func() {
		off(h.keygen(), nil, `the operation "keygen"`)
		off(h.refresh(a), a, `the operation "refresh"`)
		rewrap, err := h.clients["n1"].RewrapShare(h.ctx(), &nodepb.RewrapShareRequest{Record: a.record.Marshal(), Index: 1, Envelope: a.envelopes[1], WrappingVersion: 1})
		if err != nil || !saysSo(rewrap.GetFailure(), nodepb.Failure_SWITCHED_OFF, `"rewrap"`) {
			t.Errorf("rewrap: %v, %v", err, rewrap.GetFailure())
		}
		login, err := h.clients["n1"].Identity(h.ctx(), &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{}}})
		if err != nil || !saysSo(login.GetFailure(), nodepb.Failure_SWITCHED_OFF, `"login"`) {
			t.Errorf("login: %v, %v", err, login.GetFailure())
		}
		h.signs(a)
	})
	with(Switches{Operations: []string{opKeygen, opRefresh, opLogin}}, func() {
		off(h.signing(a), a, `the operation "sign"`)
		login, err := h.clients["n1"].Identity(h.ctx(), &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{}}})
		if err != nil || login.GetFailure() != nil {
			t.Errorf("login: %v, %v", err, login.GetFailure())
		}
		h.make(h.refresh(a), a)
	})
	with(Switches{Algorithms: []mpc.Algorithm{mpc.Ed25519}}, func() {
		off(h.keygen(), nil, "bip340")
		off(h.signing(a), a, "algorithms under switches")
	})
	with(Switches{RequireSpread: true}, func() {
		crowded, silent := h.keygen(), h.keygen()
		for _, m := range crowded.Members {
			m.Domain = "a"
		}
		for _, m := range silent.Members {
			m.Domain = ""
		}
		off(crowded, nil, `wrapping domain "a" would get 2 shares, and 2 sign`)
		off(silent, nil, "not said which wrapping domain")
		gathered := h.refresh(a)
		gathered.Members[0].Domain = "c"
		off(gathered, a, `wrapping domain "c"`)
		spread := h.make(h.keygen(), nil)
		h.signs(h.make(h.refresh(spread), spread))
	})
	h.signs(a)
}

// TestForeignObjects: a coordinator sees and destroys its own mount's keys only,
// and those only where the host's operator lets it.
func TestForeignObjects(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	own := h.domains["a"].keys[0]
	destroy := func(k *nodepb.WrappingKey) *nodepb.DestroyWrappingKeyReply {
		t.Helper()
		reply, err := h.clients["n1"].DestroyWrappingKey(h.ctx(), &nodepb.DestroyWrappingKeyRequest{WrappingKey: k})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	planted := h.evilKey("a", 1)
	if err := h.domains["a"].token.Plant(planted.Id, "another mount's", 1); err != nil {
		t.Fatal(err)
	}
	if f := destroy(planted).GetFailure(); !saysSo(f, nodepb.Failure_REFUSED, "nothing was destroyed") {
		t.Errorf("somebody else's key: %v", f)
	}
	if f := destroy(h.domains["b"].keys[0]).GetFailure(); !saysSo(f, nodepb.Failure_REFUSED, `of domain "b"`) {
		t.Errorf("another domain's key: %v", f)
	}
	absent := h.evilKey("a", 1)
	absent.Id = make([]byte, 16)
	if reply := destroy(absent); !reply.GetAbsent() || reply.GetFailure() != nil {
		t.Errorf("a key that is not there: %v", reply)
	}
	list, err := h.clients["n1"].FindWrappingKeys(h.ctx(), &nodepb.FindWrappingKeysRequest{Label: "another mount's"})
	if err != nil || !saysSo(list.GetFailure(), nodepb.Failure_REFUSED, "its own mount") {
		t.Errorf("looking for others' keys: %v, %v", list, err)
	}
	list, err = h.clients["n1"].FindWrappingKeys(h.ctx(), &nodepb.FindWrappingKeysRequest{Label: keyLabel([16]byte(mount), 1)})
	if err != nil || len(list.GetObjects()) != 1 {
		t.Errorf("looking for its own: %v, %v", list, err)
	}
	h.switchOn("n1", Switches{KeepWrappingKeys: true})
	if f := destroy(own).GetFailure(); !saysSo(f, nodepb.Failure_SWITCHED_OFF, "keep_wrapping_keys") {
		t.Errorf("a key that is kept: %v", f)
	}
	h.signs(a)
	h.switchOn("n1", Switches{})
	second := h.makeKey("n1", 2).GetWrappingKey()
	if reply := destroy(second); reply.GetAbsent() || reply.GetFailure() != nil {
		t.Errorf("its own unused key: %v", reply)
	}
	h.signs(a)
}

// TestDrain: a node that is about to end says so, takes no session, and answers
// what is asked otherwise.
func TestDrain(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	h.signs(a)
	if h.counts.of(nodepb.Failure_UNKNOWN) < 5 { // three of key generation, two of the signature
		t.Errorf("%d sessions were counted as done", h.counts.of(nodepb.Failure_UNKNOWN))
	}
	h.nodes["n1"].Drain()
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_DRAINING, "about to end")
	if s, err := h.clients["n1"].Status(h.ctx(), &nodepb.StatusRequest{}); err != nil || !s.GetDraining() {
		t.Errorf("%v, %v", s, err)
	}
	if f := h.opensAt("n1", a, 1); f != nil {
		t.Error(f)
	}
	if n := h.nodes["n1"].Sessions(); n != 0 {
		t.Errorf("%d sessions", n)
	}
	h.attach("n1")
	h.signs(a)
}
