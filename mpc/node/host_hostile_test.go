package node

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// TestHostTakesNothing: what a node has from its own host, a coordinator can
// neither bring nor change.
func TestHostTakesNothing(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	own := h.domains["a"].keys[0]
	stranger := bytes.Repeat([]byte{5}, 32)
	moved := func(change func(*nodepb.WrappingKey)) []*nodepb.WrappingKey {
		k := &nodepb.WrappingKey{Domain: own.Domain, Version: own.Version, Suite: own.Suite, Id: own.Id, PublicKey: own.PublicKey}
		change(k)
		return []*nodepb.WrappingKey{k}
	}
	for what, c := range map[string]struct {
		change func(*nodepb.SetupRequest)
		reason nodepb.Failure_Reason
		text   string
	}{
		"another mount":     {func(r *nodepb.SetupRequest) { r.MountId = bytes.Repeat([]byte{8}, 16) }, nodepb.Failure_REFUSED, "node enrol"},
		"another name":      {func(r *nodepb.SetupRequest) { r.NodeId = "n2" }, nodepb.Failure_REFUSED, `name is "n1"`},
		"another authority": {func(r *nodepb.SetupRequest) { r.Authority = stranger }, nodepb.Failure_REFUSED, "another authority"},
		"a token":           {func(r *nodepb.SetupRequest) { r.Token = &nodepb.Token{Module: "fake", Label: "fake"} }, nodepb.Failure_REFUSED, "from its own host"},
		"a PIN":             {func(r *nodepb.SetupRequest) { r.Token = &nodepb.Token{Pin: []byte("1234")} }, nodepb.Failure_REFUSED, "was not tried"},
		"an identity":       {func(r *nodepb.SetupRequest) { r.IdentityEnvelope = []byte("x") }, nodepb.Failure_REFUSED, "identity from its own host"},
		"another identity":  {func(r *nodepb.SetupRequest) { r.Identity = stranger }, nodepb.Failure_REFUSED, "not the one that is pinned"},
		"another domain's key": {func(r *nodepb.SetupRequest) { r.WrappingKeys = h.domains["b"].keys }, nodepb.Failure_REFUSED,
			`is of domain "b"`},
		"a key of its own": {func(r *nodepb.SetupRequest) { r.WrappingKeys = []*nodepb.WrappingKey{h.evilKey("a", 1)} }, nodepb.Failure_WRAPPING_KEY,
			"wrapping key version 1"},
		"a known ID with another key": {func(r *nodepb.SetupRequest) {
			r.WrappingKeys = moved(func(k *nodepb.WrappingKey) { k.PublicKey = h.evilKey("a", 1).PublicKey })
		}, nodepb.Failure_WRAPPING_KEY, "wrapping key version 1"},
	} {
		client, n := h.serveAs(Config{Host: h.of["n1"]})
		r := h.setup("n1")
		c.change(r)
		reply, err := client.Setup(h.ctx(), r)
		if err != nil || !saysSo(reply.GetFailure(), c.reason, c.text) {
			t.Errorf("%s: %v, %v", what, err, reply.GetFailure())
		}
		// And it goes on: the honest coordinator still gets the node.
		if reply, err := client.Setup(h.ctx(), h.setup("n1")); err != nil || reply.GetFailure() != nil {
			t.Errorf("after %s: %v, %v", what, err, reply.GetFailure())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	client, _ := h.serveAs(Config{Host: h.of["n1"]})
	if _, err := client.Probe(h.ctx(), &nodepb.ProbeRequest{MountId: mount, Token: h.wireToken("1234")}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "own host") {
		t.Errorf("a probe of another token: %v", err)
	}
	reply, err := client.Setup(h.ctx(), h.setup("n1"))
	if err != nil || reply.GetDomain() != "a" || reply.GetRegion() != "r-a" || reply.GetZone() != "z" || reply.GetToken().GetLabel() != "fake" || len(reply.GetIdentityEnvelope()) > 0 {
		t.Errorf("what the node says of itself: %v, %v", reply, err)
	}
	// The host's token outlives every node that used it.
	h.signs(h.make(h.keygen(), nil))

	without := *h.of["n2"]
	without.Authority = nil
	client, _ = h.serveAs(Config{Host: &without})
	if reply, err := client.Setup(h.ctx(), h.setup("n2")); err != nil || !saysSo(reply.GetFailure(), nodepb.Failure_REFUSED, "takes none from a coordinator") {
		t.Errorf("an authority for a host without: %v, %v", err, reply.GetFailure())
	}
}

// TestHostWithoutKeys: before its domain has a wrapping key a node makes one,
// answers, and takes part in nothing.
func TestHostWithoutKeys(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	client, _ := h.serveAs(Config{Host: h.of["n1"]})
	r := h.setup("n1")
	r.WrappingKeys = nil
	if reply, err := client.Setup(h.ctx(), r); err != nil || reply.GetFailure() != nil {
		t.Fatal(err, reply.GetFailure())
	}
	if s, err := client.Status(h.ctx(), &nodepb.StatusRequest{}); err != nil || s.GetHsm() != "ok" || s.GetTimeUnixMs() == 0 {
		t.Errorf("%v, %v", s, err)
	}
	known := h.clients["n1"]
	h.clients["n1"] = client
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_WRAPPING_KEY, `wrapping domain "a"`)
	h.refuses(h.session(h.keygen(), hooks{}), nodepb.Failure_WRAPPING_KEY, "has one")
	made := h.makeKey("n1", 7)
	key := wrappingKeyFromWire(made.GetWrappingKey())
	if id := h.nodes["n1"].self(); key.Domain != "a" || !hsm.VerifyKeyEndorsement(id[:], [16]byte(mount), key, made.GetEndorsement()) {
		t.Errorf("the key %v or its endorsement", key)
	}
	h.clients["n1"] = known
	h.signs(a)
}

// TestForeignKeys: a node seals only to keys whose private half it has seen in
// its token, whichever version it is told to use.
func TestForeignKeys(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	set := func(keys ...*nodepb.WrappingKey) *nodepb.Failure {
		reply, err := h.clients["n1"].SetWrappingKeys(h.ctx(), &nodepb.SetWrappingKeysRequest{WrappingKeys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return reply.GetFailure()
	}
	own := h.domains["a"].keys[0]
	if f := set(own, h.evilKey("a", 2)); !saysSo(f, nodepb.Failure_WRAPPING_KEY, "version 2") {
		t.Errorf("its own key as the newest: %v", f)
	}
	if f := set(h.evilKey("a", 1)); !saysSo(f, nodepb.Failure_REFUSED, "pinned on this node with another key") {
		t.Errorf("its own key for a known version: %v", f)
	}
	if f := set(h.domains["b"].keys[0]); !saysSo(f, nodepb.Failure_REFUSED, `is of domain "b"`) {
		t.Errorf("another domain's key: %v", f)
	}
	h.signs(a)

	// As an older version: a list like that is taken, since an older key may be
	// destroyed already. Nothing is ever sealed to it.
	second := h.makeKey("n1", 3).GetWrappingKey()
	if f := set(own, h.evilKey("a", 2), second); f != nil {
		t.Fatal(f)
	}
	keygen := h.keygen()
	keygen.WrappingVersion = 2
	h.refuses(h.session(keygen, hooks{}), nodepb.Failure_WRAPPING_KEY, "nothing was sealed to it")
	refresh := h.refresh(a)
	refresh.WrappingVersion = 2
	h.refuses(h.session(refresh, handing(a.envelopes)), nodepb.Failure_WRAPPING_KEY, "nothing was sealed to it")
	rewrap, err := h.clients["n1"].RewrapShare(h.ctx(), &nodepb.RewrapShareRequest{Record: a.record.Marshal(), Index: 1, Envelope: a.envelopes[1], WrappingVersion: 2})
	if err != nil || !saysSo(rewrap.GetFailure(), nodepb.Failure_WRAPPING_KEY, "nothing was sealed to it") {
		t.Errorf("rewrapping to it: %v, %v", rewrap, err)
	}
	logins, err := h.clients["n1"].Identity(h.ctx(), &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{WrappingVersion: 2}}})
	if err != nil || !saysSo(logins.GetFailure(), nodepb.Failure_WRAPPING_KEY, "nothing was sealed to it") {
		t.Errorf("keys of logins to it: %v, %v", logins, err)
	}
	// It does not become the newest by being the last that is left: the node's own
	// secrets, which it does not open after sealing, would go to it.
	if f := set(own, h.evilKey("a", 2)); !saysSo(f, nodepb.Failure_WRAPPING_KEY, "version 2") {
		t.Errorf("its own key as what is left: %v", f)
	}
	// Versions that are in the token are good, older ones too.
	if f := set(own, second); f != nil {
		t.Fatal(f)
	}
	h.signs(h.make(h.refresh(a), a))
}

// TestStrangers: a node talks to nobody whom its host or the authority has not
// named, and tells its operator how that is changed.
func TestStrangers(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	evilPublic, evil, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	roster := func(set []byte, members ...*nodepb.Member) error {
		_, err := h.clients["n1"].SetRoster(h.ctx(), &nodepb.SetRosterRequest{Members: members, Recipients: set})
		return err
	}
	if err := roster(nil, &nodepb.Member{NodeId: "evil", Identity: evilPublic}, h.members(2)[0]); err != nil {
		t.Errorf("a roster with a stranger keeps the others out: %v", err)
	}
	if err := roster(nil, &nodepb.Member{NodeId: "n3", Identity: evilPublic}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "another identity") {
		t.Errorf("a swapped identity in the roster: %v", err)
	}
	if err := roster(nil, &nodepb.Member{NodeId: "n1", Identity: evilPublic}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another identity for the node itself: %v", err)
	}
	// The coordinator sits in the session itself, once under a name of its own and
	// once as a node that is known. n1 is asked alone: the test would be the other.
	asked := func(member *nodepb.Member) *nodepb.Failure {
		t.Helper()
		start := h.signing(a)
		start.Members, start.Self, start.Envelope = []*nodepb.Member{start.Members[0], member}, 1, a.envelopes[1]
		out := h.alone("n1", start, func(terms session.Terms) *nodepb.Hello {
			terms.Members[1].Identity = mpc.NodeIdentity(evilPublic) // nobody can sign as another
			_, hello, err := session.Begin(terms, 3, evil)
			if err != nil {
				t.Fatal(err)
			}
			return &nodepb.Hello{Index: 3, Nonce: hello.Nonce[:], Ephemeral: hello.Ephemeral[:], Signature: hello.Signature[:]}
		})
		return out
	}
	if f := asked(&nodepb.Member{Index: 3, NodeId: "evil", Identity: evilPublic}); !saysSo(f, nodepb.Failure_UNPINNED, "node peers add") {
		t.Errorf("a stranger: %v", f)
	}
	if f := asked(&nodepb.Member{Index: 3, NodeId: "n3", Identity: evilPublic}); !saysSo(f, nodepb.Failure_REFUSED, "another identity") {
		t.Errorf("a known name with its identity: %v", f)
	}
	three := h.nodes["n3"].self()
	if f := asked(&nodepb.Member{Index: 3, NodeId: "n3", Identity: three[:]}); !saysSo(f, nodepb.Failure_PROTOCOL, "did not sign these terms") {
		t.Errorf("a known node without its key: %v", f)
	}
	if h.counts.of(nodepb.Failure_UNPINNED) == 0 {
		t.Error("it was not counted")
	}
	h.signs(a)

	// What the host's operator and the authority change counts at once.
	h.pin("n1", "n3", nil)
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_UNPINNED, `node peers add "n3"`)
	set, _ := h.set(1, h.people.authority, nil, nil)
	strangers := newCustodians(t, 0)
	forged, _ := h.set(2, strangers.authority, nil, nil)
	if err := roster(forged, h.members(3)...); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not signed by the authority") {
		t.Errorf("another authority's set: %v", err)
	}
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_UNPINNED, "node peers add")
	if err := roster(set, h.members(3)...); err != nil {
		t.Fatal(err)
	}
	h.signs(a)
	stranger := mpc.NodeIdentity(evilPublic)
	h.pin("n1", "n3", &stranger) // the host knows better than the authority
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_REFUSED, "another identity")
}

// alone runs a session with one node whose other member the test plays up to its
// hello, and returns how it failed.
func (h *hosts) alone(id string, start *nodepb.Start, hello func(session.Terms) *nodepb.Hello) *nodepb.Failure {
	h.t.Helper()
	stream, err := h.clients[id].Session(h.ctx())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: start}}); err != nil {
		h.t.Fatal(err)
	}
	for {
		out, err := stream.Recv()
		if err != nil {
			h.t.Fatal(err)
		}
		switch {
		case out.GetOutcome() != nil:
			h.t.Fatal("the node finished")
		case out.GetFailure() != nil:
			return out.GetFailure()
		case out.GetHello() != nil:
			terms := session.Terms{Operation: start.GetOperation(), Inputs: inputsHash([16]byte(mount), start)}
			for _, m := range start.GetMembers() {
				terms.Members = append(terms.Members, session.Member{Index: mpc.Index(m.GetIndex()), NodeID: m.GetNodeId(), Identity: mpc.NodeIdentity(m.GetIdentity())})
			}
			evil := hello(terms)
			_ = stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: &nodepb.Hellos{Hellos: []*nodepb.Hello{out.GetHello(), evil}}}})
		}
	}
}

// TestHostileRecipients: no share goes to anybody the pinned authority has not
// signed for.
func TestHostileRecipients(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.make(h.keygen(), nil)
	strangers := newCustodians(t, 3)
	with := func(set []byte, hash [32]byte) *nodepb.Start {
		s := h.keygen()
		s.Recipients, s.RecipientsHash = set, hash[:]
		return s
	}
	foreign, foreignHash := h.set(1, strangers.authority, strangers.list(), nil)
	h.refuses(h.session(with(foreign, foreignHash), hooks{}), nodepb.Failure_REFUSED, "not signed by the authority")
	set, hash := h.set(2, h.people.authority, h.people.list(), nil)
	h.refuses(h.session(with(foreign, hash), hooks{}), nodepb.Failure_REFUSED, "not signed by the authority")
	broken := bytes.Replace(set, []byte(`"signature":"`), []byte(`"signature":"AAAA`), 1)
	h.refuses(h.session(with(broken, hash), hooks{}), nodepb.Failure_REFUSED, "")
	refresh := h.refresh(a)
	refresh.Recipients = foreign
	h.refuses(h.session(refresh, handing(a.envelopes)), nodepb.Failure_REFUSED, "not signed by the authority")
	sealed := h.make(with(set, hash), nil)
	h.people.opens(t, sealed.record, sealed.envelopes)
	h.signs(sealed)
	h.signs(a)
}

// TestHostileSession: what a coordinator can do to hellos and messages, and to the
// terms of members, ends the session and nothing else.
func TestHostileSession(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a, other := h.make(h.keygen(), nil), h.make(h.keygen(), nil)
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
	var earlier []*nodepb.Sealed
	var greetings []*nodepb.Hello
	h.session(h.signing(a), hooks{start: handing(a.envelopes).start,
		hellos:  func(_ uint32, all *nodepb.Hellos) { greetings = all.Hellos },
		message: func(m *nodepb.Sealed) []*nodepb.Sealed { earlier = append(earlier, m); return []*nodepb.Sealed{m} }})
	one := func(m *nodepb.Sealed) []*nodepb.Sealed { return []*nodepb.Sealed{m} }
	for what, c := range map[string]struct {
		start  *nodepb.Start
		from   *held
		h      hooks
		reason nodepb.Failure_Reason
		text   string
	}{
		"swapped session keys": {h.signing(a), a, hooks{hellos: func(self uint32, all *nodepb.Hellos) {
			for k, x := range all.Hellos {
				if x.Index != self {
					key, _ := ecdh.X25519().GenerateKey(rand.Reader)
					all.Hellos[k] = &nodepb.Hello{Index: x.Index, Nonce: x.Nonce, Ephemeral: key.PublicKey().Bytes(), Signature: x.Signature}
				}
			}
		}}, nodepb.Failure_PROTOCOL, "did not sign these terms"},
		"the hello of another": {h.refresh(a), a, hooks{hellos: func(_ uint32, all *nodepb.Hellos) {
			for _, x := range all.Hellos {
				x.Index = x.Index%3 + 1
			}
		}}, nodepb.Failure_PROTOCOL, "did not sign these terms"},
		"a replayed hello": {h.signing(a), a, hooks{hellos: func(self uint32, all *nodepb.Hellos) {
			for k, x := range all.Hellos {
				for _, old := range greetings {
					if old.Index == x.Index && x.Index != self {
						all.Hellos[k] = old
					}
				}
			}
		}}, nodepb.Failure_PROTOCOL, "session message refused"},
		"a replayed session": {h.signing(a), a, hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			for _, old := range earlier {
				if old.From == m.From && old.To == m.To {
					return one(old)
				}
			}
			return nil
		}}, nodepb.Failure_PROTOCOL, "session message refused"},
		"a forged sender": {h.refresh(a), a, hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return one(&nodepb.Sealed{From: 6 - m.From - m.To, To: m.To, Body: m.Body})
		}}, nodepb.Failure_PROTOCOL, "session message refused"},
		"a message altered": {h.refresh(a), a, hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return one(&nodepb.Sealed{From: m.From, To: m.To, Body: flip(m.Body)})
		}}, nodepb.Failure_PROTOCOL, "session message refused"},
		"a broadcast that is another for each": {h.refresh(a), a, hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return one(&nodepb.Sealed{From: m.From, To: 6 - m.From - m.To, Body: m.Body})
		}}, nodepb.Failure_PROTOCOL, "session message refused"},
		"another message for one": {h.signing(a), a, hooks{start: func(self uint32, s *nodepb.Start) {
			if self == 3 {
				s.Input = []byte("pay eve")
			}
		}}, nodepb.Failure_PROTOCOL, "did not sign these terms"},
		"another home for one": {h.refresh(a), a, hooks{start: func(self uint32, s *nodepb.Start) {
			if self == 3 {
				s.Members = h.placed(1, 2, 3)
				s.Members[0].Domain = "b"
			}
		}}, nodepb.Failure_PROTOCOL, "did not sign these terms"},
		"another account's envelope":                 {h.signing(a), other, hooks{}, nodepb.Failure_SHARE_UNUSABLE, ""},
		"another policy":                             {h.resigned(a, func(r *mpc.PublicRecord) { r.PolicyHash = [32]byte{1} }), a, hooks{}, nodepb.Failure_BELOW_FLOOR, "another record"},
		"another policy for an account not used yet": {h.resigned(other, func(r *mpc.PublicRecord) { r.PolicyHash = [32]byte{1} }), other, hooks{}, nodepb.Failure_APPROVALS, "was not sent"},
		"a later epoch by name only":                 {h.resigned(a, func(r *mpc.PublicRecord) { r.Epoch = 1 << 60 }), a, hooks{}, nodepb.Failure_SHARE_UNUSABLE, ""},
		"too many members": {h.signing(a), a, hooks{start: func(_ uint32, s *nodepb.Start) {
			for len(s.Members) < 17 {
				s.Members = append(s.Members, s.Members[1])
			}
		}}, nodepb.Failure_REFUSED, "17 members"},
		"a message far too long": {h.signing(a), a, hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return one(&nodepb.Sealed{From: m.From, To: m.To, Body: make([]byte, 3<<20)})
		}}, nodepb.Failure_PROTOCOL, ""},
	} {
		t.Run(what, func(t *testing.T) {
			h.t, h.world.t = t, t
			hand := c.h.start
			c.h.start = func(self uint32, s *nodepb.Start) {
				s.Envelope = c.from.envelopes[self]
				if hand != nil {
					hand(self, s)
				}
			}
			h.refuses(h.session(c.start, c.h), c.reason, c.text)
			h.signs(a)
		})
	}
	h.t, h.world.t = t, t
	// More than gRPC takes: the stream ends, the node goes on.
	big := h.signing(a)
	big.Input = make([]byte, 8<<20)
	for i, r := range h.session(big, handing(a.envelopes)) {
		if r.outcome != nil || !strings.Contains(r.failure.GetText(), "larger than max") {
			t.Errorf("share %d with eight megabytes: %v", i, r)
		}
	}
	h.signs(a)
}

// resigned is a signature under a record that was changed.
func (h *hosts) resigned(a *held, change func(*mpc.PublicRecord)) *nodepb.Start {
	s, r := h.signing(a), *a.record
	change(&r)
	s.Record = r.Marshal()
	return s
}

// TestHostileRelease: what an owner released for one thing serves no other.
func TestHostileRelease(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	owner := newOwner(t)
	keygen := h.keygen()
	keygen.CustodyKey = owner.PublicKey().Bytes()
	a := h.make(keygen, nil)
	permitted := func(start *nodepb.Start) hooks {
		t.Helper()
		p := agreedTo(&account{record: a.record}, start)
		releases := map[uint32]permit{}
		for _, s := range p.Signers {
			id := h.ids[s.Index-1]
			o := offer(t, h.nodes[id], a.record, s, p.Hash())
			release, err := custody.Release(o, p.Hash(), a.record, a.envelopes[uint32(s.Index)], owner)
			if err != nil {
				t.Fatal(err)
			}
			releases[uint32(s.Index)] = permit{o.ReleaseID[:], release}
		}
		return hooks{start: func(self uint32, s *nodepb.Start) {
			s.Envelope = a.envelopes[self]
			releases[self].on(s)
		}}
	}
	other := h.signing(a)
	other.Input = []byte("pay eve")
	h.refuses(h.session(other, permitted(h.signing(a))), nodepb.Failure_REFUSED, "for another operation")
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_REFUSED, "released nothing")
	used := permitted(h.signing(a))
	for i, r := range h.session(h.signing(a), used) {
		if r.outcome == nil {
			t.Errorf("share %d with what its owner released: %v", i, r.failure)
		}
	}
	h.refuses(h.session(h.signing(a), used), nodepb.Failure_REFUSED, "no longer has")
}
