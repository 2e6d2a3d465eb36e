package cmp

import (
	"bytes"
	stdecdsa "crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	btcecdsa "github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/cronokirby/saferith"
	"github.com/fxamacker/cbor/v2"
	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// TestSign: several accounts and sharings on the same auxiliary keys, with the
// nodes behind other indices each time.
func TestSign(t *testing.T) {
	for _, c := range []struct {
		algorithm         mpc.Algorithm
		threshold, shares int
		signers           []mpc.Index
	}{
		{mpc.ECDSASecp256k1, 2, 3, []mpc.Index{1, 3}},
		{mpc.ECDSASecp256k1, 2, 3, []mpc.Index{2, 3}},
		{mpc.ECDSASecp256k1, 3, 5, []mpc.Index{1, 3, 5}},
		{mpc.ECDSAP256, 2, 3, []mpc.Index{1, 2}},
		{mpc.ECDSAP256, 3, 5, []mpc.Index{2, 3, 4}},
	} {
		t.Run(fmt.Sprintf("%s %v of %d", c.algorithm, c.signers, c.shares), func(t *testing.T) {
			if c.threshold > 2 && testing.Short() {
				t.Skip("takes seconds")
			}
			record, shares := dealOn(t, c.algorithm, c.threshold, c.shares)
			digest := sha256.Sum256(record.PublicKey)
			parties := start(t, signers(t, record, shares, c.signers, digest))
			if err := route(parties, nil); err != nil {
				t.Fatal(err)
			}
			var first *mpc.Signature
			for _, p := range parties {
				sig, err := p.Result()
				if err != nil {
					t.Fatal(err)
				}
				checkSignature(t, record, digest, sig)
				if first == nil {
					first = sig
				}
				if !bytes.Equal(first.Bytes, sig.Bytes) || first.RecoveryID != sig.RecoveryID {
					t.Fatal("signers have different signatures")
				}
				scalars, prime := p.keys.scalars, p.keys.key.P()
				p.Wipe()
				for _, x := range scalars {
					if !x.IsZero() {
						t.Fatal("a scalar survives Wipe")
					}
				}
				if len(scalars) != 2 || prime.EqZero() != 1 {
					t.Fatal("the Paillier key survives Wipe")
				}
				if _, err := p.Result(); err == nil {
					t.Fatal("a wiped party has a result")
				}
			}
		})
	}
}

func checkSignature(t *testing.T, record *mpc.PublicRecord, digest [32]byte, sig *mpc.Signature) {
	t.Helper()
	if !bytes.Equal(sig.Digest, digest[:]) {
		t.Fatal("another digest")
	}
	if !textbookVerify(record, digest[:], sig) {
		t.Fatal("textbook ECDSA refuses the signature, its s is high or its recovery ID wrong")
	}
	if record.Algorithm == mpc.ECDSAP256 {
		x, y := elliptic.UnmarshalCompressed(elliptic.P256(), record.PublicKey)
		if !stdecdsa.VerifyASN1(&stdecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: y}, digest[:], sig.Bytes) {
			t.Fatal("the standard library refuses the signature")
		}
		return
	}
	key, err := btcec.ParsePubKey(record.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := btcecdsa.ParseDERSignature(sig.Bytes)
	if err != nil || !parsed.Verify(digest[:], key) {
		t.Fatalf("btcec refuses the signature: %v", err)
	}
	compact := append([]byte{byte(31 + sig.RecoveryID)}, append(sig.R[:], sig.S[:]...)...)
	recovered, _, err := btcecdsa.RecoverCompact(compact, digest[:])
	if err != nil || !recovered.IsEqual(key) {
		t.Fatalf("the recovery ID %d leads elsewhere: %v", sig.RecoveryID, err)
	}
}

// TestEncodeSignature covers what random signatures do not reach: both values of
// each bit of the recovery ID, with and without a high s.
func TestEncodeSignature(t *testing.T) {
	for _, a := range ecdsaAlgorithms() {
		t.Run(string(a), func(t *testing.T) { testEncodeSignature(t, a) })
	}
}

func testEncodeSignature(t *testing.T, a mpc.Algorithm) {
	group, err := groupOf(a)
	if err != nil {
		t.Fatal(err)
	}
	scalar := func(n int64) libcurve.Scalar {
		return group.NewScalar().SetNat(new(saferith.Nat).SetBig(big.NewInt(n), 256))
	}
	compress := func(p libcurve.Point) []byte {
		b, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	digest := sha256.Sum256([]byte("message"))
	e := group.NewScalar().SetNat(new(saferith.Nat).SetBytes(digest[:]))
	seen := map[int]bool{}
	for k := int64(1); len(seen) < 2 || k < 8; k++ {
		// An ordinary signature with nonce k and key 5.
		nonce := scalar(k).ActOnBase()
		pub := compress(scalar(5).ActOnBase())
		s := nonce.XScalar().Mul(scalar(5)).Add(e).Mul(scalar(k).Invert())
		for range 2 {
			sig, err := newSignature(a, &ecdsa.Signature{R: nonce, S: s}, digest)
			if err != nil {
				t.Fatal(err)
			}
			if err := verifySignature(a, sig, pub); err != nil {
				t.Fatalf("nonce %d: %v", k, err)
			}
			seen[sig.RecoveryID] = true
			wrong := *sig
			if wrong.RecoveryID ^= 1; verifySignature(a, &wrong, pub) == nil {
				t.Fatal("a wrong recovery ID passed")
			}
			wrong.RecoveryID = sig.RecoveryID | 2
			if verifySignature(a, &wrong, pub) == nil {
				t.Fatal("a wrong recovery ID passed")
			}
			wrong = *sig
			if wrong.Digest = bytes.Repeat([]byte{1}, 32); verifySignature(a, &wrong, pub) == nil {
				t.Fatal("a signature on another digest passed")
			}
			// −s belongs to the point −R.
			s.Negate()
			nonce = nonce.Negate()
		}
	}
	if !seen[0] || !seen[1] {
		t.Fatalf("recovery IDs seen: %v", seen)
	}

	// x between the order and the field's prime: r is reduced. A valid point
	// there has no known discrete logarithm, so the key is found from the
	// signature: Q = r⁻¹·(s·R − e·G).
	for i, found := int64(1), 0; found < 2; i++ {
		x := new(big.Int).Add(group.Order().Nat().Big(), big.NewInt(i))
		point, err := curve.ParsePoint(group, append([]byte{2 + byte(found)}, x.Bytes()...))
		if err != nil {
			continue
		}
		key := scalar(i).Invert().Act(scalar(9).Act(point).Sub(e.ActOnBase()))
		sig, err := newSignature(a, &ecdsa.Signature{R: point, S: scalar(9)}, digest)
		if err != nil {
			t.Fatal(err)
		}
		if sig.RecoveryID != 2+found || new(big.Int).SetBytes(sig.R[:]).Int64() != i {
			t.Fatalf("recovery ID %d, r = %x for x = order + %d", sig.RecoveryID, sig.R, i)
		}
		if err := verifySignature(a, sig, compress(key)); err != nil {
			t.Fatal(err)
		}
		sig.RecoveryID ^= 2
		if verifySignature(a, sig, compress(key)) == nil {
			t.Fatal("a wrong recovery ID passed")
		}
		found++
	}
}

func TestNewSignRefuses(t *testing.T) {
	record, shares := deal(t, 2, 3)
	other, otherShares := deal(t, 2, 3)
	for name, c := range map[string]struct {
		change func(*SignConfig)
		want   error
	}{
		"other index's share":   {func(c *SignConfig) { c.Share = shares[2] }, mpc.ErrShareMismatch},
		"other account's share": {func(c *SignConfig) { c.Share = otherShares[1] }, mpc.ErrShareMismatch},
		"short share":           {func(c *SignConfig) { c.Share = secret.New(make([]byte, 31)) }, mpc.ErrShareMismatch},
		"zero share":            {func(c *SignConfig) { c.Share = secret.New(make([]byte, 32)) }, mpc.ErrShareMismatch},
		"no share":              {func(c *SignConfig) { c.Share = nil }, mpc.ErrShareMismatch},
		"too many signers":      {func(c *SignConfig) { c.Signers = []mpc.Index{1, 2, 3} }, nil},
		"one signer":            {func(c *SignConfig) { c.Signers = []mpc.Index{1} }, nil},
		"unordered":             {func(c *SignConfig) { c.Signers = []mpc.Index{3, 1} }, nil},
		"share 4 of 3":          {func(c *SignConfig) { c.Signers = []mpc.Index{1, 4}; c.Aux[4] = c.Aux[3]; delete(c.Aux, 3) }, nil},
		"not a signer":          {func(c *SignConfig) { c.Self = 2 }, nil},
		"no session":            {func(c *SignConfig) { c.SessionID = mpc.SessionID{} }, nil},
		"other algorithm":       {func(c *SignConfig) { r := *c.Record; r.Algorithm = mpc.BIP340Secp256k1; c.Record = &r }, mpc.ErrUnknownAlgorithm},
		"other public key":      {func(c *SignConfig) { r := *c.Record; r.PublicKey = other.PublicKey; c.Record = &r }, nil},
		"other public share": {func(c *SignConfig) {
			r := *c.Record
			r.PublicShares = [][]byte{r.PublicShares[0], r.PublicShares[1], other.PublicShares[2]}
			c.Record = &r
		}, nil},
		"missing keys":  {func(c *SignConfig) { delete(c.Aux, 3) }, nil},
		"same node":     {func(c *SignConfig) { c.Aux[3] = c.Aux[1] }, nil},
		"other secret":  {func(c *SignConfig) { c.Secret = nodes()[1].secret }, ErrSecretMismatch},
		"wiped secret":  {func(c *SignConfig) { c.Secret = &AuxSecret{} }, errWiped},
		"unchecked key": {func(c *SignConfig) { c.Aux[3] = reparse(t, c.Aux[3]) }, ErrUnchecked},
		"only verified": {func(c *SignConfig) {
			c.Aux[3] = reparse(t, c.Aux[3])
			c.Aux[3].verified.Store(true)
		}, ErrUnchecked},
		"other mount": {func(c *SignConfig) {
			n := nodes()[1]
			c.Aux[3] = signedCopy(t, n, func(p *AuxPublic) { p.owner.MountID[0]++ })
			c.Aux[3].verified.Store(true)
			c.Aux[3].complete.Store(true)
		}, ErrOwner},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1})[1]
			if _, err := NewSign(cfg); err != nil {
				t.Fatal(err)
			}
			c.change(&cfg)
			p, err := NewSign(cfg)
			p.Wipe() // a failed NewSign leaves nothing to trip over
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestOtherInputs: a signer whose public inputs differ notices at the first
// message, before anything that depends on its share has left it.
func TestOtherInputs(t *testing.T) {
	record, shares := deal(t, 2, 3)
	for name, change := range map[string]func(*SignConfig){
		"digest":  func(c *SignConfig) { c.Digest[0]++ },
		"session": func(c *SignConfig) { c.SessionID[0]++ },
		"record":  func(c *SignConfig) { r := *c.Record; r.PolicyHash[0]++; c.Record = &r },
		"auxiliary keys": func(c *SignConfig) {
			// The same keys with another valid ElGamal key and signature.
			c.Aux[1] = signedCopy(t, nodes()[0], func(p *AuxPublic) { p.elGamal[0].point = nodes()[1].public.elGamal[0].point })
			c.Aux[1].verified.Store(true)
			c.Aux[1].complete.Store(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			configs := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1})
			c := configs[3]
			c.Aux = map[mpc.Index]*AuxPublic{1: c.Aux[1], 3: c.Aux[3]}
			change(&c)
			configs[3] = c
			if err := route(start(t, configs), nil); !errors.Is(err, mpc.ErrOtherSession) {
				t.Fatalf("got %v, want ErrOtherSession", err)
			}
		})
	}
}

// TestConcurrentUse: sessions and proofs share a node's auxiliary keys, but no
// library object. It means something under the race detector only.
func TestConcurrentUse(t *testing.T) {
	record, shares := deal(t, 2, 3)
	configs := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1})
	record, shares = dealOn(t, mpc.ECDSAP256, 2, 3)
	presigns := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1})
	a, b := nodes()[0], nodes()[1]
	var wg sync.WaitGroup
	for range 2 {
		for _, c := range configs {
			wg.Go(func() {
				p, err := NewSign(c)
				if err != nil {
					t.Error(err)
					return
				}
				defer p.Wipe()
				if _, err := p.Start(); err != nil {
					t.Error(err)
				}
			})
		}
		for _, c := range presigns {
			wg.Go(func() {
				p, err := NewPresign(*c.withoutDigest())
				if err != nil {
					t.Error(err)
					return
				}
				defer p.Wipe()
				if _, err := p.Start(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			proof, err := ProveFactors(a.secret, a.owner, b.public, b.owner)
			if err == nil {
				err = VerifyFactors(proof, a.public, a.owner, b.public, b.owner)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestHostileMessages: malformed messages end the session and name the sender.
func TestHostileMessages(t *testing.T) {
	record, shares := deal(t, 2, 3)
	edit := func(m *mpc.Message, f func(fields map[string]any)) {
		var fields map[string]any
		if err := cbor.Unmarshal(m.Data, &fields); err != nil {
			t.Fatal(err)
		}
		f(fields)
		var err error
		if m.Data, err = cbor.Marshal(fields); err != nil {
			t.Fatal(err)
		}
	}
	within := func(name string, f func(map[any]any)) func(m *mpc.Message) {
		return func(m *mpc.Message) {
			edit(m, func(fields map[string]any) { f(fields[name].(map[any]any)) })
		}
	}
	for name, c := range map[string]struct {
		round     uint8
		broadcast bool
		change    func(m *mpc.Message)
	}{
		"empty":            {2, false, func(m *mpc.Message) { m.Data = nil }},
		"empty map":        {2, false, func(m *mpc.Message) { m.Data = []byte{0xa0} }},
		"null":             {2, true, func(m *mpc.Message) { m.Data = []byte{0xf6} }},
		"array":            {2, true, func(m *mpc.Message) { m.Data = []byte{0x80} }},
		"trailing byte":    {2, true, func(m *mpc.Message) { m.Data = append(bytes.Clone(m.Data), 0) }},
		"truncated":        {2, true, func(m *mpc.Message) { m.Data = m.Data[:len(m.Data)/2] }},
		"round 0":          {2, true, func(m *mpc.Message) { m.Round = 0 }},
		"round 6":          {2, true, func(m *mpc.Message) { m.Round = 6 }},
		"no such message":  {2, false, func(m *mpc.Message) { m.Round = 5 }},
		"not a broadcast":  {2, true, func(m *mpc.Message) { m.Broadcast = false; m.To = 3 }},
		"no recipient":     {2, false, func(m *mpc.Message) { m.To = 0 }},
		"null ciphertext":  {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["K"] = nil }) }},
		"zero ciphertext":  {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["K"] = make([]byte, 512) }) }},
		"huge ciphertext":  {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["K"] = make([]byte, 100<<10) }) }},
		"text ciphertext":  {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["K"] = string(make([]byte, 512)) }) }},
		"extra field":      {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["k"] = f["K"] }) }},
		"null proof":       {2, false, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["ProofEnc"] = nil }) }},
		"empty proof":      {2, false, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["ProofEnc"] = map[string]any{} }) }},
		"proof without Z3": {2, false, within("ProofEnc", func(p map[any]any) { delete(p, "Z3") })},
		"null Z3":          {2, false, within("ProofEnc", func(p map[any]any) { p["Z3"] = nil })},
		"huge Z3":          {2, false, within("ProofEnc", func(p map[any]any) { p["Z3"] = bytes.Repeat([]byte{1}, 200<<10) })},
		"sign byte":        {2, false, within("ProofEnc", func(p map[any]any) { p["Z1"] = bytes.Repeat([]byte{2}, 98) })},
		"false proof":      {2, false, within("ProofEnc", func(p map[any]any) { p["Z1"].([]byte)[97] ^= 1 })},
		"point prefix":     {3, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["BigGammaShare"].([]byte)[0] = 4 }) }},
		"point off curve": {3, true, func(m *mpc.Message) {
			edit(m, func(f map[string]any) { f["BigGammaShare"] = append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...) })
		}},
		"null affine proof": {3, false, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["ChiProof"] = nil }) }},
		"swapped proofs": {3, false, func(m *mpc.Message) {
			edit(m, func(f map[string]any) { f["ChiProof"], f["DeltaProof"] = f["DeltaProof"], f["ChiProof"] })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.round > 2 && testing.Short() {
				t.Skip("takes seconds")
			}
			parties := start(t, signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{1}))
			err := route(parties, func(to mpc.Index, m *mpc.Message) {
				if to == 3 && m.Round == c.round && m.Broadcast == c.broadcast {
					c.change(m)
				}
			})
			var abort *mpc.AbortError
			if !errors.As(err, &abort) || len(abort.Culprits) != 1 || abort.Culprits[0] != 1 {
				t.Fatalf("got %v, want an abort that blames share 1", err)
			}
			if errors.Is(err, mpc.ErrPanic) {
				t.Fatal("it reached the library, which panicked")
			}
		})
	}
}

// TestMessageShapes runs the check on every message of every round alone, since
// a session above stops at its first fault.
func TestMessageShapes(t *testing.T) {
	presign := presignShapes([]mpc.Index{1, 2, 3})
	t.Run("sign", func(t *testing.T) { testMessageShapes(t, signRounds, inSlot(signShapes())) })
	t.Run("presign", func(t *testing.T) { testMessageShapes(t, presignRounds, presign) })
	// What is in a round-3 broadcast of presigning depends on its sender.
	for from := mpc.Index(1); from <= 4; from++ {
		s := presign(mpc.Message{From: from, Round: 3, Broadcast: true})
		if from == 4 {
			if s != nil {
				t.Error("a stranger's broadcast has a shape")
			}
			continue
		}
		if inner := s["ChiCiphertext"].within; len(inner) != 2 || inner[string([]byte{byte(from)})].size != 0 {
			t.Errorf("share %d: %v", from, inner)
		}
	}
}

func testMessageShapes(t *testing.T, rounds int, shapeOf func(mpc.Message) shape) {
	check, err := newMessageCheck(shapeOf)
	if err != nil {
		t.Fatal(err)
	}
	var build func(s shape) map[string]any
	build = func(s shape) map[string]any {
		out := map[string]any{}
		for name, k := range s {
			if k.within != nil {
				out[name] = build(k.within)
				continue
			}
			b := make([]byte, k.size)
			if k.point {
				b[0] = 2
			}
			out[name] = b
		}
		return out
	}
	for at := range 2 * (rounds + 2) {
		m := mpc.Message{From: 1, Round: uint8(at / 2), Broadcast: at%2 == 1}
		s := shapeOf(m)
		if s == nil {
			if m.Data, err = cbor.Marshal(map[string]any{}); err != nil {
				t.Fatal(err)
			}
			if check(m) == nil {
				t.Errorf("round %d, broadcast %v: a message that does not exist passed", m.Round, m.Broadcast)
			}
			continue
		}
		test := func(fields map[string]any, good bool, what string) {
			if m.Data, err = cbor.Marshal(fields); err != nil {
				t.Fatal(err)
			}
			if err := check(m); (err == nil) != good {
				t.Errorf("round %d, broadcast %v, %s: %v", m.Round, m.Broadcast, what, err)
			}
		}
		test(build(s), true, "complete")
		for name, k := range s {
			bad := build(s)
			delete(bad, name)
			test(bad, false, "without "+name)
			bad[name] = nil
			test(bad, false, "null "+name)
			bad[name] = make([]byte, k.size+1)
			test(bad, false, "long "+name)
			bad[name] = []byte{}
			test(bad, false, "empty "+name)
			for inner := range k.within {
				bad := build(s)
				delete(bad[name].(map[string]any), inner)
				test(bad, false, "without "+name+"."+inner)
				bad[name].(map[string]any)[inner] = nil
				test(bad, false, "null "+name+"."+inner)
			}
		}
	}
}
