package node

import (
	"bytes"
	"crypto/ecdh"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

func newOwner(t *testing.T) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCustodyRig(t *testing.T) *rig {
	t.Helper()
	g := newRig(t)
	g.owner = newOwner(t)
	return g
}

// custodyAccount makes a key whose shares need the owner.
func (g *rig) custodyAccount(a mpc.Algorithm) *account {
	g.t.Helper()
	start := g.keygen(a)
	start.CustodyKey = g.owner.PublicKey().Bytes()
	made := g.mustFinish(start, nil)
	if made.record.Custody != mpc.CustodyHash(g.owner.PublicKey().Bytes()) {
		g.t.Fatal("the record does not name the owner's custody key")
	}
	return made
}

// opensForOwner opens a share as the owner and the node together can.
func (g *rig) opensForOwner(i uint32, a *account) error {
	c := shareContext(i, a.record)
	k2, err := hsm.OpenCustodySeal(g.owner, c, a.envelopes[i])
	if err != nil {
		return err
	}
	defer k2.Wipe()
	share, err := g.nodes[i].openShare(g.t.Context(), c, a.envelopes[i], k2)
	if err != nil {
		return err
	}
	defer share.Wipe()
	return frost.CheckShare(a.record, mpc.Index(i), share)
}

// refreshTo is a refresh whose shares will be sealed to that custody key.
func (g *rig) refreshTo(a *account, next *ecdh.PrivateKey) *nodepb.Start {
	start := g.refresh(a)
	start.CustodyKey = next.PublicKey().Bytes()
	return start
}

// agreedTo is what an owner agrees to who wants what start says. It is not made
// with the node's own function.
func agreedTo(a *account, start *nodepb.Start) custody.Purpose {
	p := custody.Purpose{Operation: start.GetOperation(), Record: a.record.Hash(), Input: start.GetInput(), MessageType: start.GetMessageType(),
		HashAlgorithm: start.GetHashAlgorithm(), DerivationPath: start.GetDerivationPath(), TaprootTweak: start.GetTaprootTweak(), NextCustody: start.GetCustodyKey()}
	if next := start.GetNextPolicy(); next != nil {
		hash := sha256.Sum256(next)
		p.NextPolicy = hash[:]
	}
	for _, m := range start.GetMembers() {
		p.Signers = append(p.Signers, custody.Signer{Index: mpc.Index(m.GetIndex()), Node: mpc.NodeIdentity(m.GetIdentity())})
	}
	return p
}

// permit is what one node gets from the owner.
type permit struct{ id, release []byte }

func (p permit) on(s *nodepb.Start) { s.ReleaseId, s.Release = p.id, p.release }

// offer asks a node for an offer, over the interface that coordinators use.
func offer(t testing.TB, n nodepb.NodeServer, record *mpc.PublicRecord, signer custody.Signer, purpose [32]byte) custody.Offer {
	t.Helper()
	r, err := n.PrepareRelease(t.Context(), &nodepb.PrepareReleaseRequest{Record: record.Marshal(), Index: uint32(signer.Index), Purpose: purpose[:]})
	if err != nil || r.GetFailure() != nil {
		t.Fatalf("share %d: %v, %v", signer.Index, err, r.GetFailure())
	}
	return custody.Offer{ReleaseID: custody.ReleaseID(r.GetReleaseId()), Index: signer.Index, Node: signer.Node, PublicKey: r.GetPublicKey(),
		Expires: time.UnixMilli(int64(r.GetExpiresUnixMs())), Signature: r.GetSignature()}
}

// permits has the owner agree to start: real offers of the nodes, checked and
// answered by the code that the owner's client runs.
func (g *rig) permits(a *account, start *nodepb.Start) map[uint32]permit {
	g.t.Helper()
	p := agreedTo(a, start)
	approval := custody.Approval{Purpose: p, Record: a.record, Envelopes: map[mpc.Index][]byte{}, Now: time.Now(), Pinned: func(id mpc.NodeIdentity) bool {
		return id == g.nodes[1].self() || id == g.nodes[2].self() || id == g.nodes[3].self()
	}}
	for _, s := range p.Signers {
		approval.Offers = append(approval.Offers, offer(g.t, g.nodes[uint32(s.Index)], a.record, s, p.Hash()))
		approval.Envelopes[s.Index] = a.envelopes[uint32(s.Index)]
	}
	releases, err := approval.Release(g.owner)
	if err != nil {
		g.t.Fatal(err)
	}
	out := map[uint32]permit{}
	for _, o := range approval.Offers {
		out[uint32(o.Index)] = permit{id: bytes.Clone(o.ReleaseID[:]), release: releases[o.Index]}
	}
	return out
}

// with hands each node its permit.
func with(permits map[uint32]permit) faults {
	return faults{start: func(self uint32, s *nodepb.Start) { permits[self].on(s) }}
}

// signs signs honestly, with the owner.
func (g *rig) signs(a *account, start *nodepb.Start) {
	g.t.Helper()
	ends := g.run(start, a, with(g.permits(a, start)))
	for i, e := range ends {
		if e.outcome == nil {
			g.t.Errorf("node %d cannot sign: %v, %v", i, e.failure, e.err)
		}
	}
	g.signed(a, ends)
}

// refreshes makes the next epoch, with the owner, and leaves g.owner as the one
// that is needed from then on.
func (g *rig) refreshes(a *account, next *ecdh.PrivateKey) *account {
	g.t.Helper()
	start := g.refreshTo(a, next)
	ends := g.run(start, a, with(g.permits(a, start)))
	g.owner = next
	made, err := g.agreed(ends, a)
	if err != nil || made == nil || len(made.envelopes) != 3 {
		g.t.Fatalf("a refresh with the owner: %v, %v", err, ends)
	}
	if made.record.Custody != mpc.CustodyHash(next.PublicKey().Bytes()) {
		g.t.Fatal("the next epoch names another custody key")
	}
	return made
}

// TestUserCustody: with the owner nodes sign and refresh, also to another custody
// key; without him they can do neither.
func TestUserCustody(t *testing.T) {
	for _, a := range []mpc.Algorithm{mpc.BIP340Secp256k1, mpc.Ed25519} {
		t.Run(string(a), func(t *testing.T) {
			g := newCustodyRig(t)
			first := g.custodyAccount(a)
			g.signs(first, g.sign(first, 1, 3))
			g.signs(first, g.sign(first, 2, 3))
			second := g.refreshes(first, g.owner)
			g.signs(second, g.sign(second, 1, 2))

			lost := g.owner
			third := g.refreshes(second, newOwner(t))
			g.signs(third, g.sign(third, 1, 3))
			if third.record.Custody == second.record.Custody {
				t.Fatal("the custody key was not replaced")
			}
			// The former key opens nothing of the epoch that came after it.
			for i, envelope := range third.envelopes {
				if _, err := hsm.OpenCustodySeal(lost, shareContext(i, third.record), envelope); err == nil {
					t.Errorf("share %d opens with the custody key that was replaced", i)
				}
			}
		})
	}
}

// TestCustodyNeedsTheOwner: what a coordinator can try without anything that the
// owner has released.
func TestCustodyNeedsTheOwner(t *testing.T) {
	g := newCustodyRig(t)
	a := g.custodyAccount(mpc.Ed25519)
	plain := g.newAccount(mpc.Ed25519)
	stranger := newOwner(t)
	child := g.sign(a, 1, 3)
	child.DerivationPath = "m/0"
	garbage := make([]byte, custody.ReleaseSize)
	garbage[0] = 1
	for name, c := range map[string]struct {
		start *nodepb.Start
		of    *account
		told  func(uint32, *nodepb.Start)
		says  string
	}{
		"sign":                        {g.sign(a, 1, 3), a, nil, "released nothing"},
		"refresh to the same key":     {g.refreshTo(a, g.owner), a, nil, "released nothing"},
		"refresh to a key of its":     {g.refreshTo(a, stranger), a, nil, "released nothing"},
		"refresh to no key":           {g.refresh(a), a, nil, "no custody key is given"},
		"an offer that was not":       {g.sign(a, 1, 3), a, func(_ uint32, s *nodepb.Start) { s.ReleaseId, s.Release = make([]byte, 16), garbage }, "no longer has"},
		"an ID without a release":     {g.sign(a, 1, 3), a, func(_ uint32, s *nodepb.Start) { s.ReleaseId = make([]byte, 16) }, "malformed"},
		"a release without an ID":     {g.sign(a, 1, 3), a, func(_ uint32, s *nodepb.Start) { s.Release = garbage }, "malformed"},
		"give custody to a refresh":   {g.refreshTo(plain, g.owner), plain, nil, "cannot be given it"},
		"a release for no custody":    {g.sign(plain, 1, 3), plain, func(_ uint32, s *nodepb.Start) { s.ReleaseId, s.Release = make([]byte, 16), garbage }, "no custody key"},
		"a key for a signature":       {func() *nodepb.Start { s := g.sign(plain, 1, 3); s.CustodyKey = g.owner.PublicKey().Bytes(); return s }(), plain, nil, "changes no custody key"},
		"a release for a new key":     {g.keygen(mpc.Ed25519), nil, func(_ uint32, s *nodepb.Start) { s.Release = garbage }, "without any release"},
		"a custody key off the curve": {func() *nodepb.Start { s := g.keygen(mpc.Ed25519); s.CustodyKey = make([]byte, 65); return s }(), nil, nil, "P-256"},
		"a compressed custody key": {func() *nodepb.Start {
			s := g.keygen(mpc.Ed25519)
			s.CustodyKey = append([]byte{2}, g.owner.PublicKey().Bytes()[1:33]...)
			return s
		}(), nil, nil, "P-256"},
	} {
		g.refusedAll(name, g.run(c.start, c.of, faults{start: c.told}), c.says)
	}
	for i, n := range g.nodes {
		if r, err := n.OpenShare(t.Context(), &nodepb.OpenShareRequest{Record: a.record.Marshal(), Index: i, Envelope: a.envelopes[i]}); err != nil || r.GetFailure().GetReason() != nodepb.Failure_REFUSED {
			t.Errorf("node %d opens a share without its owner: %v, %v", i, err, r)
		}
		r, err := n.ImportShare(t.Context(), &nodepb.ImportShareRequest{OldRecord: a.record.Marshal(), Index: i, Target: make([]byte, 32), Deals: [][]byte{{1}}})
		if err != nil || r.GetFailure().GetReason() != nodepb.Failure_REFUSED || !strings.Contains(r.GetFailure().GetText(), "user custody") {
			t.Errorf("node %d imports an account with user custody: %v, %v", i, err, r)
		}
	}
	g.signs(a, g.sign(a, 1, 3))
	g.usable(plain)
}

// refusedAll demands that each node that was asked refuses at once.
func (g *rig) refusedAll(what string, ends map[uint32]ending, says string) {
	g.t.Helper()
	if len(ends) == 0 {
		g.t.Errorf("%s: nobody was asked", what)
	}
	for i, e := range ends {
		if e.outcome != nil || e.failure.GetReason() != nodepb.Failure_REFUSED || !strings.Contains(e.failure.GetText(), says) {
			g.t.Errorf("%s: node %d: outcome %t, %v, %v; want a refusal that says %q", what, i, e.outcome != nil, e.failure, e.err, says)
		}
	}
}

// TestReleaseServesItsPurposeOnly: a coordinator has the owner's releases for one
// operation and tries to get another one done with them. Every case has releases
// of its own: what was named once is used up.
func TestReleaseServesItsPurposeOnly(t *testing.T) {
	g := newCustodyRig(t)
	before := g.custodyAccount(mpc.BIP340Secp256k1)
	a := g.refreshes(before, g.owner)
	stranger := newOwner(t)
	sign := func(change func(s *nodepb.Start)) *nodepb.Start {
		s := g.sign(a, 1, 3)
		change(s)
		return s
	}
	elsewhere := func(s *nodepb.Start) { // the same shares, at other nodes
		s.Members = g.members(1, 2)
		s.Members[1].Index = 3
	}
	for name, c := range map[string]struct {
		agreed, tried *nodepb.Start
		of            *account // nil: a
	}{
		"another message":                  {g.sign(a, 1, 3), sign(func(s *nodepb.Start) { s.Input = []byte("pay eve") }), nil},
		"a digest":                         {g.sign(a, 1, 3), sign(func(s *nodepb.Start) { s.MessageType, s.Input = string(mpc.MessageDigest), make([]byte, 32) }), nil},
		"a child key":                      {g.sign(a, 1, 3), sign(func(s *nodepb.Start) { s.DerivationPath = "m/0/7" }), nil},
		"another child key":                {sign(func(s *nodepb.Start) { s.DerivationPath = "m/0/8" }), sign(func(s *nodepb.Start) { s.DerivationPath = "m/0/7" }), nil},
		"a tweaked key":                    {g.sign(a, 1, 3), sign(func(s *nodepb.Start) { s.TaprootTweak = "bip86" }), nil},
		"other signers":                    {g.sign(a, 1, 3), g.sign(a, 1, 2), nil},
		"the same share at another node":   {g.sign(a, 1, 3), sign(elsewhere), nil},
		"an older epoch":                   {g.sign(a, 1, 3), g.sign(before, 1, 3), before},
		"a refresh":                        {g.sign(a, 1, 3), g.refreshTo(a, g.owner), nil},
		"a signature instead of a refresh": {g.refreshTo(a, g.owner), g.sign(a, 1, 3), nil},
		"a refresh to another custody key": {g.refreshTo(a, g.owner), g.refreshTo(a, stranger), nil},
		"a refresh of the epoch before":    {g.refreshTo(a, g.owner), g.refreshTo(before, g.owner), before},
	} {
		t.Run(name, func(t *testing.T) {
			permits := g.permits(a, c.agreed)
			of := c.of
			if of == nil {
				of = a
			}
			spare := permit{}
			for _, p := range permits {
				spare = p
			}
			ends := g.run(c.tried, of, faults{limit: hurry, start: func(self uint32, s *nodepb.Start) {
				p, ok := permits[self]
				if !ok {
					p = spare // another node's: it does not know this offer
				}
				p.on(s)
			}})
			for i, e := range ends {
				if e.outcome != nil || e.failure.GetReason() != nodepb.Failure_REFUSED {
					t.Errorf("node %d: outcome %t, %v, %v", i, e.outcome != nil, e.failure, e.err)
				}
				// Some nodes are told of an offer that is another's, or of a share.
				text := e.failure.GetText()
				if _, ok := permits[i]; ok && !strings.Contains(text, "for another operation") && !strings.Contains(text, "not this node's") {
					t.Errorf("node %d does not say why: %v", i, e.failure)
				}
			}
			// The releases are used up by the attempt, also for what they were for.
			ends = g.run(c.agreed, a, faults{limit: hurry, start: func(self uint32, s *nodepb.Start) { permits[self].on(s) }})
			if g.ended(ends, 0) == len(ends) {
				t.Error("a release was used twice")
			}
		})
	}
	g.signs(a, g.sign(a, 1, 3))
}

// TestReleaseIsUsedOnce: one release, one session: neither a second one for the
// same message nor a second one that comes at the same time.
func TestReleaseIsUsedOnce(t *testing.T) {
	g := newCustodyRig(t)
	a := g.custodyAccount(mpc.Ed25519)
	start := g.sign(a, 1, 3)
	permits := g.permits(a, start)
	ends := g.run(start, a, with(permits))
	g.signed(a, ends)
	if g.ended(ends, 0) != 2 {
		t.Fatalf("the first: %v", ends)
	}
	g.refusedAll("again", g.run(start, a, with(permits)), "no longer has")

	t.Run("exchanged between nodes", func(t *testing.T) {
		permits := g.permits(a, start)
		permits[1], permits[3] = permits[3], permits[1]
		g.refusedAll("exchanged", g.run(start, a, with(permits)), "no longer has")
	})
	t.Run("IDs right, releases exchanged", func(t *testing.T) {
		permits := g.permits(a, start)
		one, three := permits[1], permits[3]
		one.release, three.release = three.release, one.release
		g.refusedAll("exchanged", g.run(start, a, with(map[uint32]permit{1: one, 3: three})), "does not open")
	})
	t.Run("of an earlier offer for the same", func(t *testing.T) {
		earlier, later := g.permits(a, start), g.permits(a, start)
		mixed := map[uint32]permit{}
		for i := range later {
			mixed[i] = permit{id: later[i].id, release: earlier[i].release}
		}
		g.refusedAll("earlier", g.run(start, a, with(mixed)), "does not open")
		// The earlier ones are good still, with their own IDs.
		if ends := g.run(start, a, with(earlier)); g.ended(ends, 0) != 2 {
			t.Errorf("two signings of the same message disturb each other: %v", ends)
		}
	})
	t.Run("changed", func(t *testing.T) {
		permits := g.permits(a, start)
		for i, p := range permits {
			p.release = bytes.Clone(p.release)
			p.release[len(p.release)-1] ^= 1
			permits[i] = p
		}
		g.refusedAll("changed", g.run(start, a, with(permits)), "does not open")
	})
	t.Run("too old", func(t *testing.T) {
		permits := g.permits(a, start)
		for _, i := range []uint32{1, 3} {
			g.nodes[i].offers.mu.Lock()
			for _, o := range g.nodes[i].offers.held {
				o.expires = time.Now().Add(-time.Second)
			}
			g.nodes[i].offers.mu.Unlock()
		}
		g.refusedAll("too old", g.run(start, a, with(permits)), "older than")
	})
	t.Run("one node gets none", func(t *testing.T) {
		permits := g.permits(a, start)
		delete(permits, 3)
		ends := g.run(start, a, faults{limit: hurry, start: func(self uint32, s *nodepb.Start) { permits[self].on(s) }})
		if g.ended(ends, 0) != 0 {
			t.Error("a signature with one release")
		}
	})
	g.signs(a, start)
}

// TestCustodyEnvelopes: a share without custody, another's custody part, and an
// envelope whose custody holder the coordinator has made.
func TestCustodyEnvelopes(t *testing.T) {
	g := newCustodyRig(t)
	a := g.custodyAccount(mpc.Ed25519)
	start := g.sign(a, 1, 3)
	parsed := map[uint32]*hsm.Envelope{}
	for i, b := range a.envelopes {
		e, err := hsm.ParseEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		parsed[i] = e
	}
	marshal := func(e hsm.Envelope) []byte {
		b, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	try := func(name string, permits map[uint32]permit, envelopes map[uint32][]byte, reason nodepb.Failure_Reason) {
		t.Helper()
		fake := &account{a.record, envelopes}
		for i, e := range g.run(start, fake, with(permits)) {
			if e.outcome != nil || e.failure.GetReason() != reason {
				t.Errorf("%s: node %d: outcome %t, %v, %v", name, i, e.outcome != nil, e.failure, e.err)
			}
		}
	}
	bare := map[uint32][]byte{}
	for i, e := range parsed {
		stripped := *e
		stripped.Holders = stripped.Holders[:1]
		bare[i] = marshal(stripped)
	}
	try("stripped of the custody holder", g.permits(a, start), bare, nodepb.Failure_SHARE_UNUSABLE)

	// The coordinator knows the public custody key and seals a part of its own to
	// it, in the right context: the owner opens and releases that one.
	forged := &account{a.record, maps.Clone(a.envelopes)}
	for i, e := range parsed {
		own, err := g.nodes[i].forge(t, shareContext(i, a.record), g.owner.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		mixed := *e
		mixed.Holders = []hsm.Holder{e.Holders[0], own.Holders[1]}
		forged.envelopes[i] = marshal(mixed)
	}
	permits := g.permits(forged, start)
	try("a custody part of the coordinator's, the real share", permits, a.envelopes, nodepb.Failure_REFUSED)
	permits = g.permits(forged, start)
	try("a custody part of the coordinator's, its own envelope", permits, forged.envelopes, nodepb.Failure_REFUSED)
	g.signs(a, start)
}

// forge seals something for a context, as whoever knows the public keys can.
func (n *Node) forge(t *testing.T, c hsm.Context, to *ecdh.PublicKey) (*hsm.Envelope, error) {
	t.Helper()
	envelope, k2, err := hsm.SealCustody(c, secret.Copy([]byte("not the share")), n.keys.all()[:1], to)
	if err != nil {
		return nil, err
	}
	k2.Wipe()
	return hsm.ParseEnvelope(envelope)
}

// TestKeygenCustodyIsAgreed: nodes that were told different custody keys, or some
// of them none, make no key.
func TestKeygenCustodyIsAgreed(t *testing.T) {
	g := newCustodyRig(t)
	start := g.keygen(mpc.Ed25519)
	start.CustodyKey = g.owner.PublicKey().Bytes()
	other := newOwner(t).PublicKey().Bytes()
	for name, told := range map[string][]byte{"another": other, "none": nil} {
		ends := g.run(start, nil, faults{limit: hurry, start: func(self uint32, s *nodepb.Start) {
			if self == 2 {
				s.CustodyKey = told
			}
		}})
		if g.ended(ends, 0) != 0 {
			t.Errorf("one node was told %s custody key, and a key was made", name)
		}
	}
	// And in a refresh: whoever was told another key has no release for it.
	a := g.custodyAccount(mpc.Ed25519)
	refresh := g.refreshTo(a, g.owner)
	permits := g.permits(a, refresh)
	ends := g.run(refresh, a, faults{limit: hurry, start: func(self uint32, s *nodepb.Start) {
		permits[self].on(s)
		if self == 2 {
			s.CustodyKey = other
		}
	}})
	if g.ended(ends, 0) != 0 || ends[2].failure.GetReason() != nodepb.Failure_REFUSED {
		t.Errorf("one node was told another custody key: %v", ends)
	}
	g.signs(a, g.sign(a, 1, 3))
}

// TestRewrapCustodyShare: the HSM layer is replaced without the owner, and the
// owner's part stays.
func TestRewrapCustodyShare(t *testing.T) {
	g := newCustodyRig(t)
	a := g.custodyAccount(mpc.BIP340Secp256k1)
	after := &account{a.record, map[uint32][]byte{}}
	for i, n := range g.nodes {
		request := func(envelope []byte) *nodepb.RewrapShareRequest {
			return &nodepb.RewrapShareRequest{Record: a.record.Marshal(), Index: i, Envelope: envelope, WrappingVersion: 1}
		}
		r, err := n.RewrapShare(t.Context(), request(a.envelopes[i]))
		if err != nil || r.GetFailure() != nil {
			t.Fatal(err, r.GetFailure())
		}
		after.envelopes[i] = r.GetEnvelope()
		if bytes.Equal(after.envelopes[i], a.envelopes[i]) {
			t.Error("nothing was resealed")
		}
		e, err := hsm.ParseEnvelope(a.envelopes[i])
		if err != nil {
			t.Fatal(err)
		}
		e.Holders = e.Holders[:1]
		bare, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if r, err := n.RewrapShare(t.Context(), request(bare)); err != nil || r.GetFailure().GetReason() != nodepb.Failure_SHARE_UNUSABLE {
			t.Errorf("rewrapped a share that lost its custody holder: %v, %v", err, r.GetFailure())
		}
		if r, err := n.RewrapShare(t.Context(), request(a.envelopes[i%3+1])); err != nil || r.GetFailure().GetReason() != nodepb.Failure_SHARE_UNUSABLE {
			t.Errorf("rewrapped another share: %v, %v", err, r.GetFailure())
		}
	}
	g.signs(after, g.sign(after, 1, 3))
	after = g.refreshes(after, g.owner)
	g.signs(after, g.sign(after, 2, 3))
}

// TestOffers: how many a node keeps, for how long, and for what.
func TestOffers(t *testing.T) {
	g := newCustodyRig(t)
	a := g.custodyAccount(mpc.Ed25519)
	plain := g.newAccount(mpc.Ed25519)
	n := g.nodes[1]
	ask := func(record *mpc.PublicRecord, index uint32, purpose []byte) *nodepb.Failure {
		t.Helper()
		r, err := n.PrepareRelease(t.Context(), &nodepb.PrepareReleaseRequest{Record: record.Marshal(), Index: index, Purpose: purpose})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetFailure()
	}
	purpose := make([]byte, 32)
	for name, f := range map[string]*nodepb.Failure{
		"an account without custody": ask(plain.record, 1, purpose), "share 0": ask(a.record, 0, purpose), "share 4 of 3": ask(a.record, 4, purpose),
		"share 257": ask(a.record, 257, purpose), "a short purpose": ask(a.record, 1, purpose[:31]), "no purpose": ask(a.record, 1, nil),
	} {
		if f.GetReason() != nodepb.Failure_REFUSED {
			t.Errorf("%s: %v", name, f)
		}
	}
	if r, err := n.PrepareRelease(t.Context(), &nodepb.PrepareReleaseRequest{Record: []byte("no record"), Index: 1, Purpose: purpose}); err != nil || r.GetFailure().GetReason() != nodepb.Failure_REFUSED {
		t.Errorf("no record: %v, %v", err, r)
	}

	// One account's owner cannot use up what others need.
	for range maxAccountOffers {
		if f := ask(a.record, 1, purpose); f != nil {
			t.Fatal(f)
		}
	}
	if f := ask(a.record, 1, purpose); f.GetReason() != nodepb.Failure_BUSY {
		t.Errorf("one offer too many of an account: %v", f)
	}
	for k := 0; len(n.offers.held) < maxOffers; k++ {
		other := *a.record
		other.AccountID = mpc.AccountID{9, byte(k), byte(k >> 8)}
		if f := ask(&other, 1, purpose); f != nil {
			t.Fatal(f)
		}
	}
	other := *a.record
	other.AccountID = mpc.AccountID{8}
	if f := ask(&other, 1, purpose); f.GetReason() != nodepb.Failure_BUSY {
		t.Errorf("one offer too many: %v", f)
	}
	// Their time is over: the keys are gone, not only out of use.
	s := n.offers
	s.mu.Lock()
	var keys []*offered
	for _, o := range s.held {
		keys = append(keys, o)
		o.timer.Reset(0)
	}
	s.mu.Unlock()
	for range 500 {
		s.mu.Lock()
		left := len(s.held) + len(s.perID)
		s.mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, o := range keys {
		if s.mu.Lock(); o.key.Len() != 0 {
			t.Error("an old offer's key is kept")
		}
		s.mu.Unlock()
	}
	if f := ask(a.record, 1, purpose); f != nil {
		t.Errorf("no room although all offers are over: %v", f)
	}
	s.mu.Lock()
	keys = keys[:0]
	for _, o := range s.held {
		keys = append(keys, o)
	}
	s.mu.Unlock()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || keys[0].key.Len() != 0 {
		t.Error("a closed node keeps the keys of offers")
	}
	if f := ask(a.record, 1, purpose); f == nil {
		t.Error("a closed node makes offers")
	}
}

// TestCustodySessionFails: a session that breaks uses its releases up and nothing
// else; the account stays in the epoch that it was in.
func TestCustodySessionFails(t *testing.T) {
	before := baseline()
	g := newCustodyRig(t)
	a := g.custodyAccount(mpc.BIP340Secp256k1)
	for name, start := range map[string]*nodepb.Start{"sign": g.sign(a, 1, 3), "refresh": g.refreshTo(a, newOwner(t))} {
		permits := g.permits(a, start)
		f := with(permits)
		f.limit = hurry
		f.route = func(r *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			if m.GetTo() == 1 {
				return nil
			}
			return deliverAs(m)
		}
		ends := g.run(start, a, f)
		if g.ended(ends, 0) == len(ends) {
			t.Errorf("%s: everybody finished without node 1's messages", name)
		}
		g.signed(a, ends)
		g.refusedAll(name+" again with the same releases", g.run(start, a, with(permits)), "no longer has")
	}
	for i := range g.nodes {
		if err := g.opens(i, a); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
	g.signs(a, g.sign(a, 1, 3))
	next := g.refreshes(a, g.owner)
	g.signs(next, g.sign(next, 1, 3))
	for _, n := range g.nodes {
		_ = n.Close()
	}
	quiet(t, before)
}
