package cmp

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cronokirby/saferith"
	"github.com/fxamacker/cbor/v2"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/protocol"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// startPresign makes the parties of a presigning session.
func startPresign(t testing.TB, configs map[mpc.Index]SignConfig) map[mpc.Index]*PresignParty {
	t.Helper()
	out := map[mpc.Index]*PresignParty{}
	for i, c := range configs {
		p, err := NewPresign(*c.withoutDigest())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Wipe)
		out[i] = p
	}
	return out
}

// results takes the presignatures of a finished session.
func results(t testing.TB, parties map[mpc.Index]*PresignParty) map[mpc.Index]*Presignature {
	t.Helper()
	out := map[mpc.Index]*Presignature{}
	for i, p := range parties {
		made, err := p.Result()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(made.Wipe)
		out[i] = made
	}
	return out
}

// TestPresign: presign, then sign, with real messages.
func TestPresign(t *testing.T) {
	for _, c := range []struct {
		algorithm         mpc.Algorithm
		threshold, shares int
		signers           []mpc.Index
	}{
		{mpc.ECDSASecp256k1, 2, 3, []mpc.Index{1, 3}},
		{mpc.ECDSASecp256k1, 3, 5, []mpc.Index{1, 3, 5}},
		{mpc.ECDSAP256, 2, 3, []mpc.Index{2, 3}},
		{mpc.ECDSAP256, 3, 5, []mpc.Index{1, 2, 5}},
	} {
		t.Run(fmt.Sprintf("%s %v of %d", c.algorithm, c.signers, c.shares), func(t *testing.T) {
			if c.threshold > 2 && testing.Short() {
				t.Skip("takes seconds")
			}
			record, shares := dealOn(t, c.algorithm, c.threshold, c.shares)
			parties := startPresign(t, signers(t, record, shares, c.signers, [32]byte{}))
			if _, err := parties[c.signers[0]].Result(); err == nil {
				t.Fatal("a result before the end")
			}
			if err := route(parties, nil); err != nil {
				t.Fatal(err)
			}
			made := results(t, parties)
			for i, p := range parties {
				if made[i].Public() != made[c.signers[0]].Public() || made[i].Public() == [32]byte{} {
					t.Fatal("signers have different presignatures")
				}
				if _, err := p.Result(); !errors.Is(err, ErrPresignatureUsed) {
					t.Fatalf("a second result: %v", err)
				}
				scalars := p.keys.scalars
				p.Wipe() // what was handed out stays
				for _, x := range scalars {
					if !x.IsZero() {
						t.Fatal("a scalar survives Wipe")
					}
				}
				if _, err := p.Result(); err == nil {
					t.Fatal("a wiped party has a result")
				}
			}
			digest := sha256.Sum256(record.PublicKey)
			online := startOnline(t, onlineConfigs(record, made, c.signers, digest))
			if err := route(online, nil); err != nil {
				t.Fatal(err)
			}
			var first *mpc.Signature
			for _, p := range online {
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
			}
		})
	}
}

// TestPresignUntaken: a presignature that nobody took goes with its party.
func TestPresignUntaken(t *testing.T) {
	record, shares := deal(t, 2, 3)
	parties := startPresign(t, signers(t, record, shares, []mpc.Index{1, 2}, [32]byte{}))
	if err := route(parties, nil); err != nil {
		t.Fatal(err)
	}
	other, err := parties[2].Result()
	if err != nil {
		t.Fatal(err)
	}
	inner := other.inner.Load()
	parties[1].Wipe()
	if _, err := parties[1].Result(); err == nil {
		t.Fatal("a wiped party has a result")
	}
	other.Wipe()
	if !inner.KShare.IsZero() || !inner.ChiShare.IsZero() {
		t.Fatal("the scalars survive Wipe")
	}
}

func TestNewPresignRefuses(t *testing.T) {
	record, shares := deal(t, 2, 3)
	for name, c := range map[string]struct {
		change func(*PresignConfig)
		want   error
	}{
		"other index's share": {func(c *PresignConfig) { c.Share = shares[2] }, mpc.ErrShareMismatch},
		"too many signers":    {func(c *PresignConfig) { c.Signers = []mpc.Index{1, 2, 3} }, nil},
		"not a signer":        {func(c *PresignConfig) { c.Self = 2 }, nil},
		"no record":           {func(c *PresignConfig) { c.Record = nil }, nil},
		"no session":          {func(c *PresignConfig) { c.SessionID = mpc.SessionID{} }, nil},
		"other algorithm":     {func(c *PresignConfig) { r := *c.Record; r.Algorithm = mpc.BIP340Secp256k1; c.Record = &r }, mpc.ErrUnknownAlgorithm},
		"wiped secret":        {func(c *PresignConfig) { c.Secret = &AuxSecret{} }, errWiped},
		"unchecked key":       {func(c *PresignConfig) { c.Aux[3] = reparse(t, c.Aux[3]) }, ErrUnchecked},
	} {
		t.Run(name, func(t *testing.T) {
			signing := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{})[1]
			cfg := *signing.withoutDigest()
			c.change(&cfg)
			p, err := NewPresign(cfg)
			p.Wipe()
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestPresignOtherInputs: as TestOtherInputs.
func TestPresignOtherInputs(t *testing.T) {
	record, shares := deal(t, 2, 3)
	for name, change := range map[string]func(*SignConfig){
		"session": func(c *SignConfig) { c.SessionID[0]++ },
		"epoch":   func(c *SignConfig) { r := *c.Record; r.Epoch++; c.Record = &r },
	} {
		t.Run(name, func(t *testing.T) {
			configs := signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{})
			c := configs[3]
			change(&c)
			configs[3] = c
			if err := route(startPresign(t, configs), nil); !errors.Is(err, mpc.ErrOtherSession) {
				t.Fatalf("got %v, want ErrOtherSession", err)
			}
		})
	}
}

// library reaches the library's handler below a party of this package or of
// mpc/handler, to cheat from the inside.
func library(p *handler.Party) *protocol.MultiHandler {
	f := reflect.ValueOf(p).Elem().FieldByName("h")
	return *(**protocol.MultiHandler)(unsafe.Pointer(f.UnsafeAddr()))
}

// spoil adds one to an additive share that the library holds in the named map,
// if it is in a round that has it, and reports whether it did.
func spoil(p *handler.Party, name string) bool {
	f := reflect.ValueOf(library(p)).Elem().FieldByName("currentRound")
	round := reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Elem()
	if !strings.HasSuffix(round.Type().String(), ".presign3") {
		return false
	}
	shares := round.Elem().FieldByName(name).Interface().(map[party.ID]*saferith.Int)
	for _, x := range shares {
		x.Add(x, new(saferith.Int).SetUint64(1), -1)
		return true
	}
	return false
}

// TestPresignCheat: a party with one false additive share, all of whose proofs
// hold, ends the session at the others with an error before the library opens
// their nonces or panics. The library names nobody when χ is false.
func TestPresignCheat(t *testing.T) {
	for _, c := range []struct {
		share   string
		signers []mpc.Index
		round   uint8 // after which it is noticed
	}{
		{"DeltaShareBeta", []mpc.Index{1, 3}, 6},
		{"ChiShareBeta", []mpc.Index{1, 3}, 7},
		{"DeltaShareBeta", []mpc.Index{1, 3, 5}, 6},
		{"ChiShareBeta", []mpc.Index{1, 3, 5}, 7},
	} {
		t.Run(fmt.Sprint(c.share, c.signers), func(t *testing.T) {
			if len(c.signers) > 2 && testing.Short() {
				t.Skip("takes seconds")
			}
			record, shares := deal(t, len(c.signers), 5)
			parties := startPresign(t, signers(t, record, shares, c.signers, [32]byte{}))
			cheater := parties[1]
			done, last := false, uint8(0)
			errs := routeAll(parties, func(to mpc.Index, m *mpc.Message) {
				done = done || spoil(cheater.Party, c.share)
				last = max(last, m.Round)
			})
			if !done {
				t.Fatal("the test never cheated")
			}
			if last != c.round {
				t.Fatalf("messages up to round %d were sent, want %d", last, c.round)
			}
			for _, i := range c.signers[1:] {
				var abort *mpc.AbortError
				if !errors.As(errs[i], &abort) || !errors.Is(errs[i], ErrInconsistent) {
					t.Fatalf("share %d: got %v", i, errs[i])
				}
				want := []mpc.Index{1}
				if len(c.signers) > 2 {
					want = nil
				}
				if !slices.Equal(abort.Culprits, want) {
					t.Fatalf("share %d blames %v", i, abort.Culprits)
				}
				if _, err := parties[i].Result(); !errors.Is(err, ErrInconsistent) {
					t.Fatalf("share %d has a result: %v", i, err)
				}
			}
		})
	}
}

// TestLibraryAborts shows what the parties above are kept from, with the
// library behind mpc/handler alone: a false χ makes it panic, a false δ makes it
// send its nonces. If one of these fails, the library has changed, and
// PresignParty.inspect may be needed no more.
func TestLibraryAborts(t *testing.T) {
	record, shares := deal(t, 2, 3)
	start := func() map[mpc.Index]*handler.Party {
		out := map[mpc.Index]*handler.Party{}
		for i, c := range signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{}) {
			cfg, err := new(keys).library(c.withoutDigest())
			if err != nil {
				t.Fatal(err)
			}
			out[i], err = handler.New(handler.Config{Self: i, Parties: c.Signers, SessionID: c.SessionID,
				Start: cmp.Presign(cfg, handler.PartyIDs(c.Signers), nil), FinalRound: presignRounds})
			if err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	t.Run("χ", func(t *testing.T) {
		parties := start()
		done := false
		errs := routeAll(parties, func(mpc.Index, *mpc.Message) { done = done || spoil(parties[1], "ChiShareBeta") })
		if !done || !errors.Is(errs[3], mpc.ErrPanic) {
			t.Fatalf("got %v, want a panic that was recovered", errs[3])
		}
	})
	t.Run("δ", func(t *testing.T) {
		parties := start()
		done, opened := false, false
		routeAll(parties, func(_ mpc.Index, m *mpc.Message) {
			done = done || spoil(parties[1], "DeltaShareBeta")
			opened = opened || (m.From == 3 && m.Round == 7 && bytes.Contains(m.Data, []byte("KProof")))
		})
		if !done || !opened {
			t.Fatal("the honest party did not open its nonce")
		}
	})
}

// TestPresignHostileMessages: malformed messages and those of abort rounds end
// the session, name the sender and never reach the library.
func TestPresignHostileMessages(t *testing.T) {
	record, shares := deal(t, 2, 3)
	encode := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(m *mpc.Message, f func(fields map[string]any)) {
		var fields map[string]any
		if err := cbor.Unmarshal(m.Data, &fields); err != nil {
			t.Fatal(err)
		}
		f(fields)
		m.Data = encode(fields)
	}
	for name, c := range map[string]struct {
		round     uint8
		broadcast bool
		change    func(m *mpc.Message)
	}{
		"no commitment": {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { delete(f, "CommitmentID") }) }},
		"null ElGamal":  {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["Z"] = nil }) }},
		"null L":        {2, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["Z"] = map[string]any{"L": nil, "M": nil} }) }},
		"null proof":    {2, false, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["Proof"] = nil }) }},
		"abort1": {2, true, func(m *mpc.Message) {
			m.Round, m.Data = 7, encode(map[string]any{"GammaShare": []byte{0}, "KProof": nil, "DeltaProofs": map[string]any{"\x03": nil}})
		}},
		"abort2": {2, true, func(m *mpc.Message) {
			m.Round, m.Data = 8, encode(map[string]any{"YHat": make([]byte, 33), "YHatProof": nil, "KProof": nil, "ChiProofs": nil})
		}},
		"round 0":    {2, true, func(m *mpc.Message) { m.Round = 0 }},
		"false echo": {3, true, func(m *mpc.Message) { m.Echo = bytes.Clone(m.Echo); m.Echo[5] ^= 1 }},
		"empty echo": {3, false, func(m *mpc.Message) { m.Echo = nil }},
		"nobody's":   {3, true, func(m *mpc.Message) { edit(m, func(f map[string]any) { f["ChiCiphertext"] = map[string]any{} }) }},
		"another's": {3, true, func(m *mpc.Message) {
			edit(m, func(f map[string]any) { f["ChiCiphertext"] = map[string]any{"\x02": make([]byte, 512)} })
		}},
		"zero ciphers": {3, true, func(m *mpc.Message) {
			edit(m, func(f map[string]any) { f["ChiCiphertext"] = map[string]any{"\x03": make([]byte, 512)} })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.round > 2 && testing.Short() {
				t.Skip("takes seconds")
			}
			parties := startPresign(t, signers(t, record, shares, []mpc.Index{1, 3}, [32]byte{}))
			err := route(parties, func(to mpc.Index, m *mpc.Message) {
				if to == 3 && m.Round == c.round && m.Broadcast == c.broadcast {
					c.change(m)
				}
			})
			var abort *mpc.AbortError
			if !errors.As(err, &abort) || !slices.Equal(abort.Culprits, []mpc.Index{1}) {
				t.Fatalf("got %v, want an abort that blames share 1", err)
			}
			if errors.Is(err, mpc.ErrPanic) {
				t.Fatal("it reached the library, which panicked")
			}
		})
	}
}

// TestPresignatureIsNotShown: no way of printing or encoding shows the secrets.
func TestPresignatureIsNotShown(t *testing.T) {
	record, shares := deal(t, 2, 3)
	p := dealPresignatures(t, record, shares, []mpc.Index{1, 2})[1]
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if out := fmt.Sprintf(format, p); out != "[presignature]" {
			t.Errorf("%s: %s", format, out)
		}
		if out := fmt.Sprintf(format, struct{ P *Presignature }{p}); strings.Contains(out, "Secp256k1") {
			t.Errorf("%s in a struct: %s", format, out)
		}
	}
	if p.String() != "[presignature]" || p.GoString() != "[presignature]" {
		t.Error("String")
	}
	if _, err := json.Marshal(p); err == nil {
		t.Error("JSON")
	}
	if _, err := cbor.Marshal(p); err == nil {
		t.Error("CBOR")
	}
	if err := gob.NewEncoder(&bytes.Buffer{}).Encode(p); err == nil {
		t.Error("gob")
	}
	if _, err := p.MarshalText(); err == nil {
		t.Error("text")
	}
	if _, err := p.MarshalBinary(); err == nil {
		t.Error("binary")
	}
}
