package custody_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/secret"
)

// scene is an account of two of three with user custody, three nodes that offer,
// and the owner who signs with shares 1 and 3.
type scene struct {
	t         testing.TB
	owner     *ecdh.PrivateKey
	record    *mpc.PublicRecord
	envelopes map[mpc.Index][]byte
	parts     map[mpc.Index]*secret.Bytes
	nodes     map[mpc.Index]ed25519.PrivateKey
	offerKeys map[mpc.Index]*ecdh.PrivateKey
	now       time.Time
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{t: t, owner: custodyKey(t), envelopes: map[mpc.Index][]byte{}, parts: map[mpc.Index]*secret.Bytes{},
		nodes: map[mpc.Index]ed25519.PrivateKey{}, offerKeys: map[mpc.Index]*ecdh.PrivateKey{}, now: time.UnixMilli(1_800_000_000_000)}
	s.record = &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3, PublicKey: make([]byte, 32),
		PublicShares: [][]byte{make([]byte, 32), make([]byte, 32), make([]byte, 32)}, Epoch: 1, EpochID: mpc.EpochID{1},
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash(), Custody: mpc.CustodyHash(s.owner.PublicKey().Bytes())}
	s.sealAll()
	for i := mpc.Index(1); i <= 3; i++ {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.nodes[i] = priv
	}
	return s
}

// withPolicy gives the account an approval policy.
func (s *scene) withPolicy() {
	s.record.PolicyHash = [32]byte(bytes.Repeat([]byte{7}, 32))
	s.sealAll()
}

// sealAll seals shares under the record as it is now.
func (s *scene) sealAll() {
	s.t.Helper()
	for i := mpc.Index(1); i <= 3; i++ {
		wrapping := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, PublicKey: custodyKey(s.t).PublicKey().Bytes()}
		var err error
		s.envelopes[i], s.parts[i], err = hsm.SealCustody(hsm.ShareContext(uint8(i), s.record.Hash()), secret.Copy([]byte("share")),
			[]hsm.WrappingKey{wrapping}, s.owner.PublicKey())
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func custodyKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (s *scene) node(i mpc.Index) mpc.NodeIdentity {
	return mpc.NodeIdentity(s.nodes[i].Public().(ed25519.PublicKey))
}

func (s *scene) sign() custody.Purpose {
	return custody.Purpose{Operation: custody.OpSign, Record: s.record.Hash(), Input: []byte("pay bob"), MessageType: string(mpc.MessageRaw),
		HashAlgorithm: string(mpc.HashNone), Signers: []custody.Signer{{Index: 1, Node: s.node(1)}, {Index: 3, Node: s.node(3)}}}
}

func (s *scene) refresh() custody.Purpose {
	p := custody.Purpose{Operation: custody.OpRefresh, Record: s.record.Hash(), NextCustody: s.owner.PublicKey().Bytes()}
	for i := mpc.Index(1); i <= 3; i++ {
		p.Signers = append(p.Signers, custody.Signer{Index: i, Node: s.node(i)})
	}
	return p
}

// offer is what an honest node i answers for a purpose.
func (s *scene) offer(p custody.Purpose, i mpc.Index) custody.Offer {
	s.t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	s.offerKeys[i] = key
	o := custody.Offer{ReleaseID: custody.ReleaseID{byte(i), 7}, Index: i, Node: s.node(i), PublicKey: key.PublicKey().Bytes(), Expires: s.now.Add(custody.OfferLifetime)}
	custody.SignOffer(s.nodes[i], p.Hash(), &o)
	return o
}

func (s *scene) approval(p custody.Purpose) custody.Approval {
	a := custody.Approval{Purpose: p, Record: s.record, Envelopes: s.envelopes, Now: s.now,
		Pinned: func(id mpc.NodeIdentity) bool { return id == s.node(1) || id == s.node(2) || id == s.node(3) }}
	for _, signer := range p.Signers {
		a.Offers = append(a.Offers, s.offer(p, signer.Index))
	}
	return a
}

func TestApproval(t *testing.T) {
	s := newScene(t)
	changed := newScene(t)
	changed.withPolicy()
	policy := changed.refresh()
	policy.NextPolicy = bytes.Repeat([]byte{8}, 32)
	first := s.refresh()
	first.NextPolicy = policy.NextPolicy
	for name, p := range map[string]custody.Purpose{"sign": s.sign(), "refresh": s.refresh(), "policy": policy, "first policy": first} {
		s := s
		if name == "policy" {
			s = changed
		}
		a := s.approval(p)
		releases, err := a.Release(s.owner)
		if err != nil || len(releases) != len(p.Signers) {
			t.Fatalf("%s: %d releases, %v", name, len(releases), err)
		}
		for _, o := range a.Offers {
			k2, err := custody.OpenRelease(s.offerKeys[o.Index], o, p.Hash(), releases[o.Index])
			if err != nil || !k2.Equal(s.parts[o.Index]) {
				t.Errorf("%s: share %d: %v", name, o.Index, err)
			}
			if bytes.Contains(releases[o.Index], s.parts[o.Index].Expose()) || len(releases[o.Index]) != custody.ReleaseSize {
				t.Errorf("%s: share %d: a release of %d bytes", name, o.Index, len(releases[o.Index]))
			}
		}
	}
}

// TestApprovalRefuses: what a hostile coordinator puts before an owner.
func TestApprovalRefuses(t *testing.T) {
	s := newScene(t)
	stranger := newScene(t)
	for name, c := range map[string]struct {
		change func(a *custody.Approval)
		want   error // nil: any
	}{
		"a node that is not pinned":       {func(a *custody.Approval) { a.Pinned = func(id mpc.NodeIdentity) bool { return id == s.node(1) } }, custody.ErrUnpinned},
		"no node is pinned":               {func(a *custody.Approval) { a.Pinned = nil }, custody.ErrUnpinned},
		"an offer of another message":     {func(a *custody.Approval) { a.Purpose.Input = []byte("pay eve") }, custody.ErrOffer},
		"an offer that is too old":        {func(a *custody.Approval) { a.Now = a.Now.Add(custody.OfferLifetime) }, custody.ErrOffer},
		"one offer too few":               {func(a *custody.Approval) { a.Offers = a.Offers[:1] }, custody.ErrOffer},
		"one offer too many":              {func(a *custody.Approval) { a.Offers = append(a.Offers, s.offer(a.Purpose, 2)) }, custody.ErrOffer},
		"one offer twice":                 {func(a *custody.Approval) { a.Offers[1] = a.Offers[0] }, custody.ErrOffer},
		"an offer with another key":       {func(a *custody.Approval) { a.Offers[0].PublicKey = stranger.offer(a.Purpose, 1).PublicKey }, custody.ErrOffer},
		"an offer for another share":      {func(a *custody.Approval) { a.Offers[0].Index = 2 }, custody.ErrOffer},
		"an offer with another expiry":    {func(a *custody.Approval) { a.Offers[0].Expires = a.Offers[0].Expires.Add(time.Hour) }, custody.ErrOffer},
		"an offer with another ID":        {func(a *custody.Approval) { a.Offers[0].ReleaseID[0]++ }, custody.ErrOffer},
		"an offer signed by someone else": {func(a *custody.Approval) { custody.SignOffer(s.nodes[2], a.Purpose.Hash(), &a.Offers[0]) }, custody.ErrOffer},
		"an offer without a signature":    {func(a *custody.Approval) { a.Offers[0].Signature = nil }, custody.ErrOffer},
		"a stranger's offer": {func(a *custody.Approval) {
			a.Offers[0] = stranger.offer(a.Purpose, 1)
		}, custody.ErrOffer},
		"an offer with a key of low order": {func(a *custody.Approval) {
			a.Offers[0].PublicKey = make([]byte, 32)
			custody.SignOffer(s.nodes[1], a.Purpose.Hash(), &a.Offers[0])
		}, custody.ErrOffer},
		"envelopes of other shares": {func(a *custody.Approval) {
			a.Envelopes = map[mpc.Index][]byte{1: s.envelopes[3], 3: s.envelopes[1]}
		}, hsm.ErrOpen},
		"envelopes of another account": {func(a *custody.Approval) { a.Envelopes = stranger.envelopes }, hsm.ErrOpen},
		"no envelopes":                 {func(a *custody.Approval) { a.Envelopes = nil }, hsm.ErrEnvelope},
		"another account's record":     {func(a *custody.Approval) { a.Record = stranger.record }, nil},
		"a record without custody":     {func(a *custody.Approval) { r := *a.Record; r.Custody = [32]byte{}; a.Record = &r }, nil},
		"a record of another epoch":    {func(a *custody.Approval) { r := *a.Record; r.Epoch++; a.Record = &r }, nil},
		"no record":                    {func(a *custody.Approval) { a.Record = nil }, nil},
		"a signer too few":             {func(a *custody.Approval) { a.Purpose.Signers = a.Purpose.Signers[:1] }, nil},
		"a node with two shares": {func(a *custody.Approval) {
			a.Purpose.Signers = []custody.Signer{{Index: 1, Node: s.node(1)}, {Index: 3, Node: s.node(1)}}
		}, nil},
		"one share at two nodes": {func(a *custody.Approval) {
			a.Purpose.Signers = []custody.Signer{{Index: 1, Node: s.node(1)}, {Index: 1, Node: s.node(3)}}
		}, nil},
		"a share that does not exist": {func(a *custody.Approval) {
			a.Purpose.Signers = []custody.Signer{{Index: 1, Node: s.node(1)}, {Index: 4, Node: s.node(3)}}
		}, nil},
		"a signature that changes a key": {func(a *custody.Approval) { a.Purpose.NextCustody = s.owner.PublicKey().Bytes() }, nil},
		"no message":                     {func(a *custody.Approval) { a.Purpose.Input = nil }, nil},
		"an operation that is not known": {func(a *custody.Approval) { a.Purpose.Operation = "presign" }, nil},
	} {
		a := s.approval(s.sign())
		c.change(&a)
		releases, err := a.Release(s.owner)
		if err == nil || releases != nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %d releases, %v", name, len(releases), err)
		}
	}
	for name, change := range map[string]func(p *custody.Purpose){
		"t of n":                func(p *custody.Purpose) { p.Signers = p.Signers[:2] },
		"a message":             func(p *custody.Purpose) { p.Input = []byte("pay eve") },
		"a derivation":          func(p *custody.Purpose) { p.DerivationPath = "m/0" },
		"no key for what comes": func(p *custody.Purpose) { p.NextCustody = nil },
		"a key off the curve":   func(p *custody.Purpose) { p.NextCustody = make([]byte, mpc.CustodyKeySize) },
	} {
		p := s.refresh()
		change(&p)
		a := s.approval(p)
		if releases, err := a.Release(s.owner); err == nil || releases != nil {
			t.Errorf("a refresh with %s", name)
		}
	}
	none := mpc.EmptySetHash()
	guarded := newScene(t)
	guarded.withPolicy()
	for name, c := range map[string]struct {
		s      *scene
		change func(p *custody.Purpose)
	}{
		"no policy, for an account without": {s, func(p *custody.Purpose) { p.NextPolicy = none[:] }},
		"no policy to come":                 {guarded, func(p *custody.Purpose) { p.NextPolicy = none[:] }},
		"the policy that there is":          {guarded, func(p *custody.Purpose) { p.NextPolicy = guarded.record.PolicyHash[:] }},
		"a short hash":                      {guarded, func(p *custody.Purpose) { p.NextPolicy = []byte{1} }},
		"a policy by a signature": {guarded, func(p *custody.Purpose) {
			*p = guarded.sign()
			p.NextPolicy = bytes.Repeat([]byte{8}, 32)
		}},
	} {
		p := c.s.refresh()
		c.change(&p)
		a := c.s.approval(p)
		if releases, err := a.Release(c.s.owner); err == nil || releases != nil {
			t.Errorf("released for %s", name)
		}
	}
	// Nodes that offered for a plain refresh get nothing for another policy, and the
	// other way round.
	plain, policy := guarded.refresh(), guarded.refresh()
	policy.NextPolicy = bytes.Repeat([]byte{8}, 32)
	for _, pair := range [][2]custody.Purpose{{plain, policy}, {policy, plain}} {
		a := guarded.approval(pair[0])
		a.Purpose = pair[1]
		if releases, err := a.Release(guarded.owner); !errors.Is(err, custody.ErrOffer) || releases != nil {
			t.Errorf("an offer for one kind of refresh and a release for the other: %v", err)
		}
	}
	// All that the nodes signed is in order, and it is for another record than the
	// one whose shares lie here.
	elsewhere := s.sign()
	elsewhere.Record[0]++
	a := s.approval(elsewhere)
	if releases, err := a.Release(s.owner); err == nil || releases != nil {
		t.Error("released for a purpose that names another record")
	}
	a = s.approval(s.sign())
	for _, key := range []*ecdh.PrivateKey{nil, custodyKey(t)} {
		if _, err := a.Release(key); !errors.Is(err, custody.ErrCustodyKey) {
			t.Errorf("another custody key: %v", err)
		}
	}
	// Nothing of the above has harmed the account.
	if _, err := a.Release(s.owner); err != nil {
		t.Error(err)
	}
}

// TestPurposeHashCoversEveryField: changing any field changes the hash, moving
// bytes between fields too, and the order of signers does not.
func TestPurposeHashCoversEveryField(t *testing.T) {
	s := newScene(t)
	base := func() custody.Purpose {
		p := s.sign()
		p.DerivationPath, p.TaprootTweak, p.NextCustody = "m/0", "bip86", []byte{4, 1}
		return p
	}
	seen := map[[32]byte]string{base().Hash(): "nothing"}
	for name, change := range map[string]func(p *custody.Purpose){
		"operation":      func(p *custody.Purpose) { p.Operation = custody.OpRefresh },
		"record":         func(p *custody.Purpose) { p.Record[0]++ },
		"input":          func(p *custody.Purpose) { p.Input = []byte("pay eve") },
		"message type":   func(p *custody.Purpose) { p.MessageType = "digest" },
		"hash algorithm": func(p *custody.Purpose) { p.HashAlgorithm = "sha2-256" },
		"path":           func(p *custody.Purpose) { p.DerivationPath = "m/1" },
		"tweak":          func(p *custody.Purpose) { p.TaprootTweak = "" },
		"next custody":   func(p *custody.Purpose) { p.NextCustody = []byte{4, 2} },
		"next policy":    func(p *custody.Purpose) { p.NextPolicy = bytes.Repeat([]byte{1}, 33) },
		"another policy": func(p *custody.Purpose) { p.NextPolicy = bytes.Repeat([]byte{2}, 33) },
		"a signer as policy": func(p *custody.Purpose) {
			p.NextPolicy = append([]byte{byte(p.Signers[0].Index)}, p.Signers[0].Node[:]...)
			p.Signers = p.Signers[1:]
		},
		"signer's index":  func(p *custody.Purpose) { p.Signers[1].Index = 2 },
		"signer's node":   func(p *custody.Purpose) { p.Signers[1].Node = s.node(2) },
		"nodes exchanged": func(p *custody.Purpose) { p.Signers[0].Node, p.Signers[1].Node = p.Signers[1].Node, p.Signers[0].Node },
		"one signer less": func(p *custody.Purpose) { p.Signers = p.Signers[:1] },
		"signer twice":    func(p *custody.Purpose) { p.Signers = append(p.Signers, p.Signers[0]) },
		"input and type":  func(p *custody.Purpose) { p.Input, p.MessageType = []byte("pay bobr"), "aw" },
		"path and tweak":  func(p *custody.Purpose) { p.DerivationPath, p.TaprootTweak = "m/0b", "ip86" },
	} {
		p := base()
		change(&p)
		if twin, ok := seen[p.Hash()]; ok {
			t.Errorf("changing %q is like changing %q", name, twin)
		}
		seen[p.Hash()] = name
	}
	p := base()
	p.Signers[0], p.Signers[1] = p.Signers[1], p.Signers[0]
	if seen[p.Hash()] != "nothing" {
		t.Error("the order of signers counts")
	}
	if p.Signers[0].Index != 3 {
		t.Error("hashing sorted the caller's slice")
	}
}

// TestReleaseIsBound: a release opens with its own offer's key, for its own
// purpose, share, node and ID, unchanged.
func TestReleaseIsBound(t *testing.T) {
	s := newScene(t)
	p := s.sign()
	o := s.offer(p, 1)
	key := s.offerKeys[1]
	release, err := custody.Release(o, p.Hash(), s.record, s.envelopes[1], s.owner)
	if err != nil {
		t.Fatal(err)
	}
	other := s.sign()
	other.Input = []byte("pay eve")
	s.offer(p, 3)
	for name, open := range map[string]func() (*secret.Bytes, error){
		"another purpose": func() (*secret.Bytes, error) { return custody.OpenRelease(key, o, other.Hash(), release) },
		"another key":     func() (*secret.Bytes, error) { return custody.OpenRelease(s.offerKeys[3], o, p.Hash(), release) },
		"another share": func() (*secret.Bytes, error) {
			x := o
			x.Index = 3
			return custody.OpenRelease(key, x, p.Hash(), release)
		},
		"another node": func() (*secret.Bytes, error) {
			x := o
			x.Node = s.node(3)
			return custody.OpenRelease(key, x, p.Hash(), release)
		},
		"another ID": func() (*secret.Bytes, error) {
			x := o
			x.ReleaseID[3]++
			return custody.OpenRelease(key, x, p.Hash(), release)
		},
	} {
		if _, err := open(); !errors.Is(err, custody.ErrRelease) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range release {
		bad := bytes.Clone(release)
		bad[i] ^= 0x40 // X25519 ignores the top bit of a point; every other bit counts
		if _, err := custody.OpenRelease(key, o, p.Hash(), bad); !errors.Is(err, custody.ErrRelease) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := custody.OpenRelease(key, o, p.Hash(), release[:i]); !errors.Is(err, custody.ErrRelease) {
			t.Fatalf("the first %d bytes: %v", i, err)
		}
	}
	if _, err := custody.OpenRelease(key, o, p.Hash(), release); err != nil {
		t.Fatal(err)
	}
}

// TestReleaseRefuses: the plain function makes its own checks of what the
// coordinator says.
func TestReleaseRefuses(t *testing.T) {
	s := newScene(t)
	p := s.sign()
	good := s.offer(p, 1)
	unsigned := good
	unsigned.PublicKey = s.offer(p, 3).PublicKey
	if _, err := custody.Release(unsigned, p.Hash(), s.record, s.envelopes[1], s.owner); !errors.Is(err, custody.ErrOffer) {
		t.Errorf("an offer with another key: %v", err)
	}
	four := good
	four.Index = 4
	custody.SignOffer(s.nodes[1], p.Hash(), &four)
	if _, err := custody.Release(four, p.Hash(), s.record, s.envelopes[1], s.owner); !errors.Is(err, custody.ErrOffer) {
		t.Errorf("share 4 of 3: %v", err)
	}
	if _, err := custody.Release(good, p.Hash(), s.record, s.envelopes[1], custodyKey(t)); !errors.Is(err, custody.ErrCustodyKey) {
		t.Errorf("another custody key: %v", err)
	}
	if good.Verify(p.Hash(), good.Expires) || !good.Verify(p.Hash(), good.Expires.Add(-time.Millisecond)) {
		t.Error("an offer ends at another moment than it says")
	}
}

// FuzzOpenRelease: whatever a coordinator hands to a node, k₂ comes out or
// nothing.
func FuzzOpenRelease(f *testing.F) {
	s := newScene(f)
	p := s.sign()
	o := s.offer(p, 1)
	release, err := custody.Release(o, p.Hash(), s.record, s.envelopes[1], s.owner)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(release)
	f.Add(release[:40])
	f.Add(make([]byte, custody.ReleaseSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		k2, err := custody.OpenRelease(s.offerKeys[1], o, p.Hash(), b)
		if err != nil && !errors.Is(err, custody.ErrRelease) {
			t.Fatalf("got %v", err)
		}
		if err == nil && !k2.Equal(s.parts[1]) {
			t.Fatal("opened something that was not released")
		}
	})
}
