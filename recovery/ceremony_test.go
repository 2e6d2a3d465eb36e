package recovery_test

import (
	"bytes"
	stdecdsa "crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// rebuild has every node of the mount make its share.
func rebuild(t testing.TB, old *mpc.PublicRecord, m *mount, deals []*recovery.Deal) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
	t.Helper()
	record, err := recovery.NewRecord(old, m.hash, mpc.EmptySetHash(), deals)
	if err != nil {
		t.Fatal(err)
	}
	shares := map[mpc.Index]*secret.Bytes{}
	for i := mpc.Index(1); int(i) <= old.Shares; i++ {
		if shares[i], err = recovery.CombineShare(old, record, m.hash, deals, i, m.open(old, i)); err != nil {
			t.Fatalf("share %d: %v", i, err)
		}
	}
	return record, shares
}

// TestRebuiltSharesSign: whichever t custodians deal, whichever t of the new
// shares sign, the signature is one of the old key.
func TestRebuiltSharesSign(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		for _, sharing := range [][2]int{{2, 2}, {2, 3}, {3, 5}} {
			t.Run(fmt.Sprintf("%s/%d of %d", a, sharing[0], sharing[1]), func(t *testing.T) {
				p := newPeople(t, sharing[1])
				old, bundle := account(t, a, sharing[0], sharing[1], p)
				m := newMount(t, p)
				all := make([]*recovery.Deal, sharing[1])
				for i := range all {
					all[i] = deal(t, p, bundle, i, m)
				}
				for _, who := range subsets(sharing[1], sharing[0]) {
					var deals []*recovery.Deal
					for _, i := range who {
						deals = append(deals, all[i-1])
					}
					record, shares := rebuild(t, old, m, deals)
					// The last t indices sign: who dealt need not.
					var signers []mpc.Index
					for i := sharing[1] - sharing[0] + 1; i <= sharing[1]; i++ {
						signers = append(signers, mpc.Index(i))
					}
					message := fmt.Appendf(nil, "rebuilt by %v", who)
					hash := mpc.HashNone
					if a.IsECDSA() {
						hash = mpc.HashSHA256
					}
					signature := signWith(t, record, shares, signers, message)
					if ok, err := verify.Message(old, mpc.MessageRaw, hash, message, signature); !ok || err != nil {
						t.Errorf("custodians %v: the new shares do not sign for the old key (error %v)", who, err)
					}
				}
			})
		}
	}
}

// subsets lists the ascending selections of k of 1…n.
func subsets(n, k int) (out [][]mpc.Index) {
	for mask := range 1 << n {
		var s []mpc.Index
		for i := range n {
			if mask>>i&1 == 1 {
				s = append(s, mpc.Index(i+1))
			}
		}
		if len(s) == k {
			out = append(out, s)
		}
	}
	return out
}

// signWith signs by the real protocol for BIP-340 and Ed25519. ECDSA's takes
// auxiliary keys that only nodes have: there the test puts the key together.
func signWith(t *testing.T, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index, message []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(message)
	switch record.Algorithm {
	case mpc.ECDSASecp256k1:
		return ecdsa.Sign(secp256k1.PrivKeyFromBytes(keyFrom(t, record.Algorithm, shares, signers)), digest[:]).Serialize()
	case mpc.ECDSAP256:
		key, err := stdecdsa.ParseRawPrivateKey(elliptic.P256(), keyFrom(t, record.Algorithm, shares, signers))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 { // accounts' signatures have the lower of two possible s
			sig, err := stdecdsa.SignASN1(rand.Reader, key, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			if pub, err := key.PublicKey.Bytes(); err != nil || !bytes.Equal(pub[1:33], record.PublicKey[1:]) {
				t.Fatal("the new shares give another key")
			}
			if verify.ECDSAP256(record.PublicKey, digest[:], sig) {
				return sig
			}
		}
		t.Fatal("no signature with a low s in 100")
	}
	var id mpc.SessionID
	_, _ = rand.Read(id[:])
	parties := map[mpc.Index]frost.Signer{}
	var queue []mpc.Message
	for _, i := range signers {
		s, err := frost.NewSign(frost.SignConfig{Self: i, Signers: signers, Record: record, Share: shares[i], Message: message, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = s
		out, err := s.Start()
		if err != nil {
			t.Fatal(err)
		}
		queue = append(queue, out...)
	}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		for _, to := range signers {
			if to == m.From || !m.Broadcast && to != m.To {
				continue
			}
			out, err := parties[to].Step(m)
			if err != nil {
				t.Fatal(err)
			}
			queue = append(queue, out...)
		}
	}
	sig, err := parties[signers[0]].Result()
	if err != nil {
		t.Fatal(err)
	}
	return sig.Bytes
}

// keyFrom interpolates the private key from shares at 0, 32 bytes big-endian.
func keyFrom(t *testing.T, a mpc.Algorithm, shares map[mpc.Index]*secret.Bytes, from []mpc.Index) []byte {
	t.Helper()
	group, err := curve.For(a)
	if err != nil {
		t.Fatal(err)
	}
	number := func(i mpc.Index) *secret.Bytes { return secret.New(append(make([]byte, 31), byte(i))) }
	sum := group.NewScalar()
	for _, i := range from {
		term, err := curve.ParseScalar(group, shares[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range from {
			if j == i {
				continue
			}
			num, err := curve.ParseScalar(group, number(j))
			if err != nil {
				t.Fatal(err)
			}
			den, err := curve.ParseScalar(group, number(j))
			if err != nil {
				t.Fatal(err)
			}
			own, err := curve.ParseScalar(group, number(i))
			if err != nil {
				t.Fatal(err)
			}
			term.Mul(num).Mul(den.Sub(own).Invert())
		}
		sum.Add(term)
	}
	b, err := sum.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOldAndNewSharesDoNotMix: shares of two epochs are no shares of one key.
func TestOldAndNewSharesDoNotMix(t *testing.T) {
	p := newPeople(t, 3)
	old, bundle := account(t, mpc.ECDSAP256, 2, 3, p)
	m := newMount(t, p)
	record, shares := rebuild(t, old, m, []*recovery.Deal{deal(t, p, bundle, 0, m), deal(t, p, bundle, 1, m)})
	key := keyFrom(t, mpc.ECDSAP256, shares, []mpc.Index{1, 2})
	again := keyFrom(t, mpc.ECDSAP256, shares, []mpc.Index{2, 3})
	if !bytes.Equal(key, again) {
		t.Fatal("two pairs of new shares give two keys")
	}
	stale, _, err := hsm.Open(t.Context(), hsm.SoftwareKey(p.custodians[0]), []hsm.WrappingKey{recipientKey(t, p, 1)},
		hsm.ShareContext(1, old.Hash()), bundle.Shares[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := frost.CheckShare(record, 1, stale); !errors.Is(err, mpc.ErrShareMismatch) {
		t.Errorf("the old share passes for a new one: %v", err)
	}
	if bytes.Equal(keyFrom(t, mpc.ECDSAP256, map[mpc.Index]*secret.Bytes{1: stale, 2: shares[2]}, []mpc.Index{1, 2}), key) {
		t.Error("an old and a new share give the key")
	}
}

func recipientKey(t *testing.T, p *people, i mpc.Index) hsm.WrappingKey {
	t.Helper()
	set, err := recovery.ParseSignedSet(p.set)
	if err != nil {
		t.Fatal(err)
	}
	key, err := set.Unverified().ForShare(i)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestDealerChoice: the record depends on the deals of the t lowest dealers and
// on nothing else about the list, and another deal of the same custodian gives
// another epoch.
func TestDealerChoice(t *testing.T) {
	p := newPeople(t, 3)
	old, bundle := account(t, mpc.BIP340Secp256k1, 2, 3, p)
	m := newMount(t, p)
	d1, d2, d3 := deal(t, p, bundle, 0, m), deal(t, p, bundle, 1, m), deal(t, p, bundle, 2, m)
	record := func(target [32]byte, deals ...*recovery.Deal) *mpc.PublicRecord {
		t.Helper()
		r, err := recovery.NewRecord(old, target, mpc.EmptySetHash(), deals)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := record(m.hash, d1, d2)
	for name, deals := range map[string][]*recovery.Deal{"order": {d2, d1}, "one more": {d3, d1, d2}} {
		if record(m.hash, deals...).Hash() != first.Hash() {
			t.Errorf("%s: another record", name)
		}
	}
	if again := record(m.hash, deal(t, p, bundle, 0, m), d2); again.EpochID == first.EpochID || bytes.Equal(again.PublicShares[0], first.PublicShares[0]) {
		t.Error("another deal gives the same epoch")
	}
	other := newMount(t, p)
	if again := record(other.hash, deal(t, p, bundle, 0, other), deal(t, p, bundle, 1, other)); again.EpochID == first.EpochID {
		t.Error("another target gives the same epoch")
	}
	if !bytes.Equal(old.PublicShares[0], recordOf(t, bundle).PublicShares[0]) {
		t.Error("the old record was changed")
	}
	// A surplus deal that does not fit is refused, not ignored: an operator who
	// mixes up files hears of it.
	strange := *d3
	strange.Record[0] ^= 1
	if _, err := recovery.NewRecord(old, m.hash, mpc.EmptySetHash(), []*recovery.Deal{d1, d2, &strange}); err == nil {
		t.Error("ignored a deal of another record")
	}
}

func recordOf(t *testing.T, b *recovery.Bundle) *mpc.PublicRecord {
	t.Helper()
	r, err := mpc.ParsePublicRecord(b.Record)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestDealsOnlyToTheAuthoritysTargets: whoever could pass off a target of his
// own would collect t shares.
func TestDealsOnlyToTheAuthoritysTargets(t *testing.T) {
	p, attacker := newPeople(t, 3), newPeople(t, 3)
	_, bundle := account(t, mpc.Ed25519, 2, 3, p)
	m := newMount(t, attacker)
	for what, authority := range map[string][]byte{"the custodian's authority": p.public(), "none": nil, "half a key": p.public()[:16]} {
		d, err := recovery.MakeDeal(t.Context(), bundle, name(0), p.custodians[0], authority, m.parsed(t))
		if d != nil || !errors.Is(err, recovery.ErrSignature) {
			t.Errorf("a target of another authority, expecting %s: %v", what, err)
		}
	}
	// The signature of a good target on a changed one.
	good := newMount(t, p)
	forged := bytes.Replace(good.target, signature(t, good.target), signature(t, m.target), 1)
	s, err := recovery.ParseSignedTarget(forged)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := recovery.MakeDeal(t.Context(), bundle, name(0), p.custodians[0], p.public(), s); !errors.Is(err, recovery.ErrSignature) {
		t.Errorf("a transplanted signature: %v", err)
	}
}

// signature returns the base64 of a signed file's signature.
func signature(t *testing.T, file []byte) []byte {
	t.Helper()
	_, rest, ok := bytes.Cut(file, []byte(`"signature":"`))
	sig, _, end := bytes.Cut(rest, []byte(`"`))
	if !ok || !end {
		t.Fatalf("no signature in %s", file)
	}
	return sig
}
