package frost

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// eachSchnorr runs f for the algorithms that sign here.
func eachSchnorr(t *testing.T, f func(*testing.T, mpc.Algorithm)) {
	for _, a := range []mpc.Algorithm{mpc.BIP340Secp256k1, mpc.Ed25519} {
		t.Run(string(a), func(t *testing.T) { f(t, a) })
	}
}

// TestAnyOrder delivers messages in random order, each up to three times: round
// 2 before round 1, shares before a party has all commitments. Everybody ends
// with the same valid signature.
func TestAnyOrder(t *testing.T) {
	eachSchnorr(t, func(t *testing.T, a mpc.Algorithm) {
		record, shares := account(t, a, 4, 5)
		for range 25 {
			parties := signParties(t, record, shares, []mpc.Index{1, 2, 3, 5})
			type delivery struct {
				to mpc.Index
				m  mpc.Message
			}
			var open []delivery
			send := func(out []mpc.Message) {
				for _, m := range out {
					for to := range parties {
						for range 1 + mathrand.IntN(3) {
							if to != m.From {
								open = append(open, delivery{to, m})
							}
						}
					}
				}
			}
			for _, i := range sorted(parties) {
				out, err := parties[i].Start()
				if err != nil {
					t.Fatal(err)
				}
				send(out)
			}
			for len(open) > 0 {
				k := mathrand.IntN(len(open))
				d := open[k]
				open = slices.Delete(open, k, k+1)
				out, err := parties[d.to].Step(d.m)
				if err != nil {
					t.Fatalf("share %d: %v", d.to, err)
				}
				send(out)
			}
			var all [][]byte
			for _, i := range sorted(parties) {
				if !parties[i].Done() {
					t.Fatalf("share %d is not done", i)
				}
				sig, err := parties[i].(Signer).Result()
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, sig.Bytes)
			}
			if len(slices.CompactFunc(all, bytes.Equal)) != 1 {
				t.Fatal("the parties have different signatures")
			}
			if a == mpc.Ed25519 && !ed25519.Verify(record.PublicKey, []byte("message"), all[0]) {
				t.Fatal("the signature does not verify")
			}
		}
	})
}

// TestOtherInputs: parties whose inputs differ in anything part at once and do
// not call each other's shares wrong.
func TestOtherInputs(t *testing.T) {
	eachSchnorr(t, func(t *testing.T, a mpc.Algorithm) {
		record, shares := account(t, a, 2, 3)
		for name, change := range map[string]func(c *SignConfig){
			"message":  func(c *SignConfig) { c.Message = []byte("other message") },
			"session":  func(c *SignConfig) { c.SessionID[0] ^= 1 },
			"signers":  func(c *SignConfig) { c.Signers = []mpc.Index{2, 3} },
			"policy":   func(c *SignConfig) { c.Record.PolicyHash[0] ^= 1 },
			"epoch":    func(c *SignConfig) { c.Record.EpochID[0] ^= 2 },
			"account":  func(c *SignConfig) { c.Record.AccountID[0] ^= 2 },
			"nothing?": func(*SignConfig) {},
		} {
			id := sessionID(t)
			parties := map[mpc.Index]mpc.Party{}
			for _, i := range []mpc.Index{1, 2} {
				own := *record
				c := SignConfig{Self: i, Signers: []mpc.Index{1, 2}, Record: &own, Share: shares[i], Message: []byte("message"), SessionID: id}
				if i == 2 {
					change(&c)
				}
				p, err := NewSign(c)
				if err != nil {
					t.Fatal(err)
				}
				parties[i] = p
			}
			err := route(t, parties, nil)
			if name == "nothing?" {
				if err != nil {
					t.Errorf("equal inputs: %v", err)
				}
			} else if !errors.Is(err, mpc.ErrOtherSession) && !(name == "signers" && errors.Is(err, mpc.ErrMalformedMessage)) {
				t.Errorf("another %s: %v", name, err)
			}
		}
	})
}

// TestReplay: messages of another signing of the same account are refused, the
// same message signed again included.
func TestReplay(t *testing.T) {
	eachSchnorr(t, func(t *testing.T, a mpc.Algorithm) {
		record, shares := account(t, a, 2, 3)
		recorded := map[uint8]mpc.Message{}
		if err := route(t, signParties(t, record, shares, []mpc.Index{1, 2}), func(to mpc.Index, m mpc.Message) *mpc.Message {
			if m.From == 1 {
				recorded[m.Round] = m
			}
			return &m
		}); err != nil {
			t.Fatal(err)
		}
		if len(recorded) != 2 {
			t.Fatalf("%d messages recorded", len(recorded))
		}
		for round, old := range recorded {
			err := route(t, signParties(t, record, shares, []mpc.Index{1, 2}), func(to mpc.Index, m mpc.Message) *mpc.Message {
				if m.From == 1 && m.Round == round {
					return &old
				}
				return &m
			})
			if !errors.Is(err, mpc.ErrOtherSession) {
				t.Errorf("round %d: %v", round, err)
			}
		}
	})
}

func TestNewSignRefuses(t *testing.T) {
	eachSchnorr(t, func(t *testing.T, a mpc.Algorithm) {
		record, shares := account(t, a, 2, 3)
		for name, change := range map[string]func(c *SignConfig){
			"another's share":   func(c *SignConfig) { c.Share = shares[2] },
			"no share":          func(c *SignConfig) { c.Share = nil },
			"zero share":        func(c *SignConfig) { c.Share = secret.New(make([]byte, 32)) },
			"huge share":        func(c *SignConfig) { c.Share = secret.New(bytes.Repeat([]byte{0xff}, 32)) },
			"one signer":        func(c *SignConfig) { c.Signers = []mpc.Index{1} },
			"three signers":     func(c *SignConfig) { c.Signers = []mpc.Index{1, 2, 3} },
			"descending":        func(c *SignConfig) { c.Signers = []mpc.Index{2, 1} },
			"twice":             func(c *SignConfig) { c.Signers = []mpc.Index{1, 1} },
			"no such index":     func(c *SignConfig) { c.Signers = []mpc.Index{1, 4} },
			"index 0":           func(c *SignConfig) { c.Signers = []mpc.Index{0, 1} },
			"not among them":    func(c *SignConfig) { c.Signers = []mpc.Index{2, 3} },
			"no message":        func(c *SignConfig) { c.Message = nil },
			"no session":        func(c *SignConfig) { c.SessionID = mpc.SessionID{} },
			"other algorithm":   func(c *SignConfig) { c.Record.Algorithm = mpc.ECDSASecp256k1 },
			"bad public share":  func(c *SignConfig) { c.Record.PublicShares[1] = make([]byte, a.PublicShareSize()) },
			"bad public key":    func(c *SignConfig) { c.Record.PublicKey = bytes.Repeat([]byte{0xff}, 32) },
			"unfinished record": func(c *SignConfig) { c.Record.Epoch = 0 },
		} {
			own := *record
			own.PublicShares = slices.Clone(record.PublicShares)
			c := SignConfig{Self: 1, Signers: []mpc.Index{1, 2}, Record: &own, Share: shares[1], Message: []byte("m"), SessionID: sessionID(t)}
			change(&c)
			p, err := NewSign(c)
			if err == nil {
				_, err = p.Start() // the library looks at the key only then
			}
			if err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
	record, shares := account(t, mpc.ECDSAP256, 2, 3)
	_, err := NewSign(SignConfig{Self: 1, Signers: []mpc.Index{1, 2}, Record: record, Share: shares[1], Message: []byte("m"), SessionID: sessionID(t)})
	if !errors.Is(err, mpc.ErrUnknownAlgorithm) {
		t.Errorf("an ECDSA account: %v", err)
	}
}

// TestEd25519SecretsEnd: nonces and share are cleared as soon as the signature
// share is out, after a failure, and by Wipe at any time; afterwards the party
// does nothing. The caller's share is not touched.
func TestEd25519SecretsEnd(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	start := func(t *testing.T) (p *ed25519Party, peer []mpc.Message) {
		parties := signParties(t, record, shares, []mpc.Index{1, 2})
		p = parties[1].(*ed25519Party)
		out, err := parties[2].Start()
		if err != nil {
			t.Fatal(err)
		}
		return p, out
	}
	for name, end := range map[string]func(t *testing.T, p *ed25519Party, peer []mpc.Message){
		"share sent": func(t *testing.T, p *ed25519Party, peer []mpc.Message) {
			out, err := p.Step(peer[0])
			if err != nil || len(out) != 1 || out[0].Round != roundShare {
				t.Fatalf("%v, %v", out, err)
			}
		},
		"failure": func(t *testing.T, p *ed25519Party, peer []mpc.Message) {
			peer[0].Data = peer[0].Data[1:]
			if _, err := p.Step(peer[0]); err == nil {
				t.Fatal("accepted")
			}
		},
		"wipe": func(t *testing.T, p *ed25519Party, peer []mpc.Message) {
			p.Wipe()
			if _, err := p.Step(peer[0]); err == nil {
				t.Fatal("a wiped party works on")
			}
			if _, err := p.Result(); err == nil || p.Done() {
				t.Fatal("a wiped party has a result")
			}
			p.Wipe()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, peer := start(t)
			if _, err := p.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Start(); err == nil {
				t.Fatal("started twice")
			}
			share, hiding, binding := p.share, p.nonces.hiding, p.nonces.binding
			end(t, p, peer)
			for _, s := range [][]byte{share.Bytes(), hiding.Bytes(), binding.Bytes()} {
				if !bytes.Equal(s, make([]byte, 32)) {
					t.Fatal("a secret is still there")
				}
			}
			if p.share != nil || p.nonces != nil {
				t.Fatal("a wiped secret can still be used")
			}
		})
	}
	p, peer := start(t)
	if _, err := p.Step(peer[0]); err == nil {
		t.Error("a message before Start was accepted")
	}
	p.Wipe()
	if _, err := p.Start(); err == nil {
		t.Error("a wiped party starts")
	}
	if err := CheckShare(record, 1, shares[1]); err != nil {
		t.Errorf("the caller's share: %v", err)
	}
}

// TestWrongRecord: shares that fit their public shares but not the public key
// give no signature, and nobody is blamed for it.
func TestWrongRecord(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	other, _ := account(t, mpc.Ed25519, 2, 3)
	wrong := *record
	wrong.PublicKey = other.PublicKey
	parties := signParties(t, &wrong, shares, []mpc.Index{1, 3})
	err := route(t, parties, nil)
	var abort *mpc.AbortError
	if !errors.As(err, &abort) || len(abort.Culprits) != 0 || !strings.Contains(err.Error(), "does not verify") {
		t.Fatalf("got %v", err)
	}
}

// TestNoRandomness: a party without randomness makes no nonces.
func TestNoRandomness(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	p := signParties(t, record, shares, []mpc.Index{1, 2})[1].(*ed25519Party)
	p.random = bytes.NewReader(make([]byte, 63))
	if _, err := p.Start(); err == nil || p.nonces != nil {
		t.Fatalf("%v", err)
	}
}

// TestNoncesAreFresh: two sessions on the same inputs never share a commitment.
func TestNoncesAreFresh(t *testing.T) {
	eachSchnorr(t, func(t *testing.T, a mpc.Algorithm) {
		record, shares := account(t, a, 2, 3)
		id := sessionID(t)
		seen := map[string]bool{}
		for range 20 {
			p, err := NewSign(SignConfig{Self: 1, Signers: []mpc.Index{1, 2}, Record: record, Share: shares[1], Message: []byte("m"), SessionID: id})
			if err != nil {
				t.Fatal(err)
			}
			out, err := p.Start()
			if err != nil || len(out) != 1 {
				t.Fatalf("%v, %v", out, err)
			}
			if seen[string(out[0].Data)] {
				t.Fatal("a nonce commitment came twice")
			}
			seen[string(out[0].Data)] = true
		}
	})
}
