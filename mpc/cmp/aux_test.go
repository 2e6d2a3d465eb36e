package cmp

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// reparse returns an unchecked copy.
func reparse(t testing.TB, p *AuxPublic) *AuxPublic {
	t.Helper()
	out, err := ParseAuxPublic(p.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// signedCopy returns an unchecked, changed copy of n's keys that n has signed.
func signedCopy(t testing.TB, n *testNode, change func(*AuxPublic)) *AuxPublic {
	t.Helper()
	p := reparse(t, n.public)
	change(p)
	p.owner.Identity = n.owner.Identity
	if err := p.sign(n.identity); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuxPublicRoundTrip(t *testing.T) {
	for _, n := range nodes() {
		p := reparse(t, n.public)
		if !bytes.Equal(p.Marshal(), n.public.Marshal()) || p.Hash() != n.public.Hash() || p.Owner() != n.owner {
			t.Fatal("the copy differs")
		}
		if p.Checked() || p.verified.Load() {
			t.Fatal("a parsed copy counts as checked")
		}
	}
	t.Logf("public keys: %d bytes", len(nodes()[0].public.Marshal()))
	p := reparse(t, nodes()[0].public)
	start := time.Now()
	if err := p.Verify(nodes()[0].owner); err != nil {
		t.Fatal(err)
	}
	t.Logf("Verify: %v", time.Since(start))
	if p.Checked() {
		t.Fatal("keys count as checked without a factor proof")
	}
}

// TestVerifyRefuses: every field is covered by the signature, and where the
// node itself signs something false, by a proof or a check.
func TestVerifyRefuses(t *testing.T) {
	n, other := nodes()[0], nodes()[1]
	t.Run("owner", func(t *testing.T) {
		for name, change := range map[string]func(*Owner){
			"mount":      func(o *Owner) { o.MountID[0]++ },
			"node":       func(o *Owner) { o.NodeID += "x" },
			"identity":   func(o *Owner) { o.Identity = other.owner.Identity },
			"generation": func(o *Owner) { o.Generation++ },
		} {
			owner := n.owner
			change(&owner)
			if err := reparse(t, n.public).Verify(owner); !errors.Is(err, ErrOwner) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	changes := map[string]func(*AuxPublic){
		"mount":            func(p *AuxPublic) { p.owner.MountID[0]++ },
		"node":             func(p *AuxPublic) { p.owner.NodeID = "local-9" },
		"generation":       func(p *AuxPublic) { p.owner.Generation++ },
		"modulus":          func(p *AuxPublic) { p.n = other.public.n },
		"s":                func(p *AuxPublic) { p.s[modulusSize-1] ^= 1 },
		"t":                func(p *AuxPublic) { p.t[modulusSize-1] ^= 1 },
		"s = t":            func(p *AuxPublic) { p.s = p.t },
		"swapped s and t":  func(p *AuxPublic) { p.s, p.t = p.t, p.s },
		"W":                func(p *AuxPublic) { p.mod[modulusSize-1] ^= 1 },
		"A and B":          func(p *AuxPublic) { p.mod[modulusSize+40*modRoundSize] ^= 3 },
		"X":                func(p *AuxPublic) { p.mod[modulusSize+79*modRoundSize+modulusSize] ^= 1 },
		"Z":                func(p *AuxPublic) { p.mod[modProofSize-1] ^= 1 },
		"prm A":            func(p *AuxPublic) { p.prm[modulusSize-1] ^= 1 },
		"prm Z":            func(p *AuxPublic) { p.prm[prmProofSize-1] ^= 1 },
		"other mod proof":  func(p *AuxPublic) { p.mod = other.public.mod },
		"other prm proof":  func(p *AuxPublic) { p.prm = other.public.prm },
		"ElGamal no point": func(p *AuxPublic) { p.elGamal[0].point[0] = 4 },
		"ElGamal off curve": func(p *AuxPublic) {
			p.elGamal[0].point = [pointSize]byte(append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...))
		},
		"all of another node": func(p *AuxPublic) {
			p.n, p.s, p.t, p.mod, p.prm = other.public.n, other.public.s, other.public.t, other.public.mod, other.public.prm
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			unsigned := reparse(t, n.public)
			change(unsigned)
			if err := unsigned.Verify(unsigned.owner); !errors.Is(err, ErrSignature) {
				t.Errorf("not signed: %v", err)
			}
			signed := signedCopy(t, n, change)
			if err := signed.Verify(signed.owner); !errors.Is(err, ErrProof) {
				t.Errorf("signed: %v", err)
			}
			if signed.verified.Load() {
				t.Error("counts as verified")
			}
		})
	}
	t.Run("foreign signature", func(t *testing.T) {
		p := reparse(t, n.public)
		p.signature = [64]byte(ed25519.Sign(other.identity, p.signed()))
		if err := p.Verify(n.owner); !errors.Is(err, ErrSignature) {
			t.Error(err)
		}
	})
}

// TestDecodersAreStrict: no decoder takes a truncated, extended or otherwise
// non-canonical encoding.
func TestDecodersAreStrict(t *testing.T) {
	n, peer := nodes()[0], nodes()[1]
	proof, err := ProveFactors(n.secret, n.owner, peer.public, peer.owner)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := SignReceipt(n.owner.NodeID, n.identity, peer.public)
	if err != nil {
		t.Fatal(err)
	}
	encodedSecret := n.secret.Marshal()
	for name, c := range map[string]struct {
		good  []byte
		parse func(b []byte) error
	}{
		"public":  {n.public.Marshal(), func(b []byte) error { _, err := ParseAuxPublic(b); return err }},
		"secret":  {encodedSecret.Expose(), func(b []byte) error { _, err := ParseAuxSecret(secret.Copy(b), n.public); return err }},
		"proof":   {proof.Marshal(), func(b []byte) error { _, err := ParseFactorProof(b); return err }},
		"receipt": {receipt.Marshal(), func(b []byte) error { _, err := ParseReceipt(b); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.parse(c.good); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{0, 3, 4, 50, len(c.good) - 1} {
				if c.parse(c.good[:size]) == nil {
					t.Errorf("accepted %d of %d bytes", size, len(c.good))
				}
			}
			if c.parse(append(bytes.Clone(c.good), 0)) == nil {
				t.Error("accepted a byte too many")
			}
			version := bytes.Replace(c.good, []byte(" v1"), []byte(" v2"), 1)
			if c.parse(version) == nil {
				t.Error("accepted another version")
			}
			long := bytes.Clone(c.good)
			long[0] = 0xff // the label's length
			if c.parse(long) == nil {
				t.Error("accepted a huge length")
			}
		})
	}
	for name, change := range map[string]func(*AuxPublic){
		"even modulus":    func(p *AuxPublic) { p.n[modulusSize-1] &^= 1 },
		"short modulus":   func(p *AuxPublic) { p.n[0] &^= 0x80 },
		"s = 0":           func(p *AuxPublic) { p.s = [modulusSize]byte{} },
		"t = N":           func(p *AuxPublic) { p.t = p.n },
		"W > N":           func(p *AuxPublic) { copy(p.mod[:], bytes.Repeat([]byte{0xff}, modulusSize)) },
		"flags":           func(p *AuxPublic) { p.mod[modulusSize] |= 4 },
		"X = N":           func(p *AuxPublic) { copy(p.mod[modulusSize+1:], p.n[:]) },
		"prm A = 0":       func(p *AuxPublic) { clear(p.prm[:modulusSize]) },
		"no ElGamal":      func(p *AuxPublic) { p.elGamal = nil },
		"ElGamal twice":   func(p *AuxPublic) { p.elGamal = append(p.elGamal, p.elGamal[1]) },
		"ElGamal order":   func(p *AuxPublic) { p.elGamal[0], p.elGamal[1] = p.elGamal[1], p.elGamal[0] },
		"other curve":     func(p *AuxPublic) { p.elGamal[0].curve = "edwards25519" },
		"unknown curve":   func(p *AuxPublic) { p.elGamal[0].curve = "p-256" },
		"no node ID":      func(p *AuxPublic) { p.owner.NodeID = "" },
		"long node ID":    func(p *AuxPublic) { p.owner.NodeID = strings.Repeat("x", maxNodeID+1) },
		"generation 0":    func(p *AuxPublic) { p.owner.Generation = 0 },
		"all-zero key":    func(p *AuxPublic) { p.owner.Identity = mpc.NodeIdentity{} },
		"too many curves": func(p *AuxPublic) { p.elGamal = make([]elGamalPublic, maxCurves+1) },
	} {
		p := reparse(t, n.public)
		change(p)
		if _, err := ParseAuxPublic(p.Marshal()); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuxSecret(t *testing.T) {
	n, other := nodes()[0], nodes()[1]
	encoded := n.secret.Marshal()
	s, err := ParseAuxSecret(encoded, n.public)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Marshal().Equal(encoded) || s.Generation() != 7 {
		t.Fatal("the copy differs")
	}
	if out := fmt.Sprintf("%v %+v %x", s, s, s.p); bytes.Contains([]byte(out), s.p.Expose()[:8]) {
		t.Fatal("printed")
	}
	p := s.p.Expose()
	s.Wipe()
	if !isZero(p) {
		t.Fatal("not wiped")
	}
	if _, err := ProveFactors(s, n.owner, other.public, other.owner); err == nil {
		t.Fatal("a wiped key proves")
	}
	if _, err := ParseAuxSecret(encoded, other.public); !errors.Is(err, ErrSecretMismatch) {
		t.Errorf("other node's public half: %v", err)
	}
	for name, change := range map[string]func(s *AuxSecret){
		"generation":      func(s *AuxSecret) { s.generation++ },
		"other P":         func(s *AuxSecret) { s.p = other.secret.p.Clone() },
		"P = Q":           func(s *AuxSecret) { s.p = s.q.Clone() },
		"P not a prime":   func(s *AuxSecret) { s.p.Expose()[64] ^= 1 },
		"short P":         func(s *AuxSecret) { s.p = secret.Copy(s.p.Expose()[1:]) },
		"other ElGamal":   func(s *AuxSecret) { s.elGamal[0].scalar = other.secret.elGamal[0].scalar.Clone() },
		"zero ElGamal":    func(s *AuxSecret) { clear(s.elGamal[0].scalar.Expose()) },
		"no ElGamal":      func(s *AuxSecret) { s.elGamal = nil },
		"one ElGamal":     func(s *AuxSecret) { s.elGamal = s.elGamal[1:] },
		"ElGamal order":   func(s *AuxSecret) { s.elGamal[0], s.elGamal[1] = s.elGamal[1], s.elGamal[0] },
		"unknown ElGamal": func(s *AuxSecret) { s.elGamal[0].curve = "p-256" },
	} {
		s, err := ParseAuxSecret(encoded, n.public)
		if err != nil {
			t.Fatal(err)
		}
		change(s)
		if _, err := ParseAuxSecret(s.Marshal(), n.public); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

// TestOneCurve: keys that an older version made, with an ElGamal key on
// secp256k1 alone, still load, verify and sign there, and say where they do not.
func TestOneCurve(t *testing.T) {
	n := nodes()[0]
	if got := n.public.Curves(); !slices.Equal(got, []string{"P-256", "secp256k1"}) || !slices.IsSorted(got) {
		t.Fatalf("new keys serve %v", got)
	}
	old := reparse(t, signedCopy(t, n, func(p *AuxPublic) { p.elGamal = p.elGamal[1:] }))
	if err := old.Verify(n.owner); err != nil {
		t.Fatal(err)
	}
	encoded := (&AuxSecret{generation: n.secret.generation, p: n.secret.p, q: n.secret.q, elGamal: n.secret.elGamal[1:]}).Marshal()
	oldSecret, err := ParseAuxSecret(encoded, old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseAuxSecret(encoded, n.public); !errors.Is(err, ErrSecretMismatch) {
		t.Errorf("the old secret half with the new public one: %v", err)
	}
	for a, want := range map[mpc.Algorithm]bool{mpc.ECDSASecp256k1: true, mpc.ECDSAP256: false, mpc.Ed25519: false, "": false} {
		if old.Serves(a) != want {
			t.Errorf("%q: %v", a, !want)
		}
		if n.public.Serves(a) != a.IsECDSA() {
			t.Errorf("new keys, %q: %v", a, !a.IsECDSA())
		}
		if !a.IsECDSA() {
			continue
		}
		record, shares := dealOn(t, a, 2, 3)
		own := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1})[1]
		own.Aux[1], own.Secret = old, oldSecret
		p, err := NewSign(own)
		p.Wipe()
		if (err == nil) != want || (!want && !errors.Is(err, ErrCurve)) {
			t.Errorf("own keys, %s: %v", a, err)
		}
		old.complete.Store(true)
		peer := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1})[3]
		peer.Aux[1] = old
		presign, err := NewPresign(*peer.withoutDigest())
		presign.Wipe()
		if (err == nil) != want || (!want && !errors.Is(err, ErrCurve)) {
			t.Errorf("a peer's keys, %s: %v", a, err)
		}
	}
}

func TestFactorProof(t *testing.T) {
	prover, verifier, third := nodes()[0], nodes()[1], nodes()[2]
	prove := func() *FactorProof {
		t.Helper()
		proof, err := ProveFactors(prover.secret, prover.owner, verifier.public, verifier.owner)
		if err != nil {
			t.Fatal(err)
		}
		if proof, err = ParseFactorProof(proof.Marshal()); err != nil {
			t.Fatal(err)
		}
		return proof
	}
	fresh := func() *AuxPublic {
		p := reparse(t, prover.public)
		p.verified.Store(true)
		return p
	}
	proof := prove()
	p := fresh()
	if err := VerifyFactors(proof, p, prover.owner, verifier.public, verifier.owner); err != nil {
		t.Fatal(err)
	}
	if !p.Checked() {
		t.Fatal("not remembered")
	}

	later := verifier.owner
	later.Generation++
	if err := VerifyFactors(proof, reparse(t, prover.public), prover.owner, verifier.public, verifier.owner); !errors.Is(err, ErrUnchecked) {
		t.Errorf("keys that were not verified: %v", err)
	}
	if _, err := ProveFactors(prover.secret, prover.owner, reparse(t, verifier.public), verifier.owner); !errors.Is(err, ErrUnchecked) {
		t.Errorf("proof to keys that were not verified: %v", err)
	}
	if _, err := ProveFactors(prover.secret, prover.owner, verifier.public, later); !errors.Is(err, ErrOwner) {
		t.Errorf("proof to another generation: %v", err)
	}
	if _, err := ProveFactors(prover.secret, prover.owner, prover.public, prover.owner); !errors.Is(err, ErrOwner) {
		t.Errorf("proof to itself: %v", err)
	}
	if err := VerifyFactors(proof, fresh(), prover.owner, verifier.public, later); !errors.Is(err, ErrOwner) {
		t.Errorf("verifier of another generation: %v", err)
	}
	if err := VerifyFactors(proof, fresh(), prover.owner, third.public, third.owner); !errors.Is(err, ErrProof) {
		t.Errorf("other verifier: %v", err)
	}
	if err := VerifyFactors(proof, third.public, third.owner, verifier.public, verifier.owner); !errors.Is(err, ErrProof) {
		t.Errorf("other prover: %v", err)
	}
	// Only the hash tells a generation from the next with the same numbers.
	next := signedCopy(t, verifier, func(p *AuxPublic) { p.owner.Generation++ })
	if err := VerifyFactors(proof, fresh(), prover.owner, next, later); !errors.Is(err, ErrProof) {
		t.Errorf("replayed to the verifier's next generation: %v", err)
	}

	// One changed bit in each of the eleven numbers.
	at := 0
	for i := range factorCommitments + len(factorBits) {
		size := modulusSize
		if i >= factorCommitments {
			size = 1 + (factorBits[i-factorCommitments]+7)/8
		}
		at += size
		bad := *proof
		bad.body[at-1] ^= 1
		q := fresh()
		if err := VerifyFactors(&bad, q, prover.owner, verifier.public, verifier.owner); !errors.Is(err, ErrProof) || q.Checked() {
			t.Errorf("number %d changed: %v", i, err)
		}
		bad = *proof
		if i < factorCommitments {
			copy(bad.body[at-size:at], verifier.public.n[:])
			if err := VerifyFactors(&bad, fresh(), prover.owner, verifier.public, verifier.owner); !errors.Is(err, ErrProof) {
				t.Errorf("number %d out of range: %v", i, err)
			}
			continue
		}
		bad.body[at-size] = 2
		if _, err := ParseFactorProof(bad.Marshal()); err == nil {
			t.Errorf("number %d: sign 2 accepted", i)
		}
		clear(bad.body[at-size : at])
		bad.body[at-size] = 1
		if _, err := ParseFactorProof(bad.Marshal()); err == nil {
			t.Errorf("number %d: −0 accepted", i)
		}
		if bits := factorBits[i-factorCommitments]; bits%8 != 0 {
			bad = *proof
			bad.body[at-size+1] |= 0x80
			if _, err := ParseFactorProof(bad.Marshal()); err == nil {
				t.Errorf("number %d: more than %d bits accepted", i, bits)
			}
		}
	}
	if at != factorProofSize {
		t.Fatalf("a body of %d bytes, the constant says %d", at, factorProofSize)
	}
}

func TestReceipt(t *testing.T) {
	me, peer, third := nodes()[0], nodes()[1], nodes()[2]
	signed, err := SignReceipt(me.owner.NodeID, me.identity, peer.public)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := ParseReceipt(signed.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	p := reparse(t, peer.public)
	if err := VerifyReceipt(receipt, me.owner.NodeID, me.owner.Identity, p, peer.owner); err != nil {
		t.Fatal(err)
	}
	if !p.Checked() || !p.verified.Load() {
		t.Fatal("not remembered")
	}
	if _, err := ProveFactors(me.secret, me.owner, p, peer.owner); err != nil {
		t.Fatalf("a receipt does not stand for the check: %v", err)
	}
	for _, state := range []func(*AuxPublic){func(*AuxPublic) {}, func(p *AuxPublic) { p.verified.Store(true) }, func(p *AuxPublic) { p.complete.Store(true) }} {
		p := reparse(t, peer.public)
		state(p)
		if _, err := SignReceipt(me.owner.NodeID, me.identity, p); !errors.Is(err, ErrUnchecked) {
			t.Errorf("receipt for unchecked keys: %v", err)
		}
	}

	resigned := func(change func(*AuxPublic)) *AuxPublic { return signedCopy(t, peer, change) }
	later := peer.owner
	later.Generation++
	for name, try := range map[string]func() error{
		"other node ID": func() error {
			return VerifyReceipt(receipt, "local-9", me.owner.Identity, reparse(t, peer.public), peer.owner)
		},
		"other checker": func() error {
			return VerifyReceipt(receipt, me.owner.NodeID, third.owner.Identity, reparse(t, peer.public), peer.owner)
		},
		"other peer": func() error {
			return VerifyReceipt(receipt, me.owner.NodeID, me.owner.Identity, reparse(t, third.public), third.owner)
		},
		"other generation": func() error {
			return VerifyReceipt(receipt, me.owner.NodeID, me.owner.Identity, reparse(t, peer.public), later)
		},
		"next generation": func() error {
			return VerifyReceipt(receipt, me.owner.NodeID, me.owner.Identity, resigned(func(p *AuxPublic) { p.owner = later }), later)
		},
		"other mount": func() error {
			o := peer.owner
			o.MountID[0]++
			return VerifyReceipt(receipt, me.owner.NodeID, me.owner.Identity, resigned(func(p *AuxPublic) { p.owner = o }), o)
		},
		"other content": func() error {
			return VerifyReceipt(receipt, me.owner.NodeID, me.owner.Identity, resigned(func(p *AuxPublic) { p.mod[300] ^= 1 }), peer.owner)
		},
		"forged": func() error {
			forged := *receipt
			forged.signature = [64]byte(ed25519.Sign(third.identity, forged.signed()))
			return VerifyReceipt(&forged, me.owner.NodeID, me.owner.Identity, reparse(t, peer.public), peer.owner)
		},
		"for other content": func() error { // a true signature moved to other keys
			p := resigned(func(p *AuxPublic) { p.mod[300] ^= 1 })
			forged := *receipt
			forged.peerHash = p.hash
			return VerifyReceipt(&forged, me.owner.NodeID, me.owner.Identity, p, peer.owner)
		},
	} {
		if err := try(); !errors.Is(err, ErrOwner) && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGenerateRefusesAndStops(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	owner := nodes()[0].owner
	if _, _, err := Generate(t.Context(), owner, stranger, nil); !errors.Is(err, ErrOwner) {
		t.Errorf("foreign identity: %v", err)
	}
	if _, _, err := Generate(t.Context(), Owner{Identity: owner.Identity, NodeID: "x"}, nodes()[0].identity, nil); err == nil {
		t.Error("generation 0 accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	last := -1
	_, _, err = Generate(ctx, owner, nodes()[0].identity, func(percent int) {
		if last = percent; percent == 0 {
			time.AfterFunc(20*time.Millisecond, cancel)
		}
	})
	if !errors.Is(err, context.Canceled) || last == 100 {
		t.Errorf("cancelled: %v at %d %%", err, last)
	}
}
