package cmp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/polynomial"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// dealPresignatures makes presignature shares with a dealer, which takes no time
// and is for tests only: χ = ∑χⱼ = k·x, R = k⁻¹·G.
func dealPresignatures(t testing.TB, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index) map[mpc.Index]*Presignature {
	t.Helper()
	group, err := groupOf(record.Algorithm)
	if err != nil {
		t.Fatal(err)
	}
	ids := handler.PartyIDs(signers)
	lagrange := polynomial.Lagrange(group, ids)
	k, x := group.NewScalar(), group.NewScalar()
	ks, chis := map[party.ID]libcurve.Scalar{}, map[party.ID]libcurve.Scalar{}
	for _, i := range signers {
		share, err := curve.ParseScalar(group, shares[i])
		if err != nil {
			t.Fatal(err)
		}
		x.Add(share.Mul(lagrange[handler.PartyID(i)]))
		ks[handler.PartyID(i)] = sample.Scalar(rand.Reader, group)
		k.Add(ks[handler.PartyID(i)])
	}
	rest := x.Mul(k)
	for _, id := range ids[1:] {
		chis[id] = sample.Scalar(rand.Reader, group)
		rest.Sub(chis[id])
	}
	chis[ids[0]] = rest
	r := group.NewScalar().Set(k).Invert().ActOnBase()
	rBar, s := map[party.ID]libcurve.Point{}, map[party.ID]libcurve.Point{}
	for _, id := range ids {
		rBar[id], s[id] = ks[id].Act(r), chis[id].Act(r)
	}
	out := map[mpc.Index]*Presignature{}
	for _, i := range signers {
		id := make([]byte, 32)
		id[0] = 1
		out[i], err = newPresignature(&PresignConfig{Self: i, Signers: signers, Record: record}, &ecdsa.PreSignature{ID: id, R: r,
			RBar: party.NewPointMap(rBar), S: party.NewPointMap(s), KShare: ks[handler.PartyID(i)], ChiShare: chis[handler.PartyID(i)]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(out[i].Wipe)
	}
	return out
}

func onlineConfigs(record *mpc.PublicRecord, made map[mpc.Index]*Presignature, signers []mpc.Index, digest [32]byte) map[mpc.Index]OnlineConfig {
	var id mpc.SessionID
	_, _ = rand.Read(id[:])
	out := map[mpc.Index]OnlineConfig{}
	for _, i := range signers {
		out[i] = OnlineConfig{Self: i, Signers: signers, Record: record, Presignature: made[i], Digest: digest, SessionID: id}
	}
	return out
}

func startOnline(t testing.TB, configs map[mpc.Index]OnlineConfig) map[mpc.Index]*OnlineParty {
	t.Helper()
	out := map[mpc.Index]*OnlineParty{}
	for i, c := range configs {
		p, err := NewOnline(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Wipe)
		out[i] = p
	}
	return out
}

// TestOnline: signatures of all sizes of signer sets, and what is left of the
// secrets at every step.
func TestOnline(t *testing.T) {
	for _, a := range ecdsaAlgorithms() {
		for n := 2; n <= mpc.MaxShares; n += 7 {
			t.Run(fmt.Sprint(a, n), func(t *testing.T) {
				record, shares := dealOn(t, a, n, n)
				var all []mpc.Index
				for i := range n {
					all = append(all, mpc.Index(i+1))
				}
				made := dealPresignatures(t, record, shares, all)
				inner := made[1].inner.Load()
				digest := [32]byte{9}
				parties := startOnline(t, onlineConfigs(record, made, all, digest))
				if inner.KShare.IsZero() {
					t.Fatal("wiped before its use")
				}
				for _, p := range made {
					p.Wipe() // the parties own it
				}
				if err := route(parties, nil); err != nil {
					t.Fatal(err)
				}
				if !inner.KShare.IsZero() || !inner.ChiShare.IsZero() {
					t.Fatal("kᵢ and χᵢ survive their use")
				}
				for _, p := range parties {
					sig, err := p.Result()
					if err != nil {
						t.Fatal(err)
					}
					checkSignature(t, record, digest, sig)
					p.Wipe()
					if _, err := p.Result(); err == nil {
						t.Fatal("a wiped party has a result")
					}
				}
			})
		}
	}
}

func ecdsaAlgorithms() (out []mpc.Algorithm) {
	for _, a := range mpc.Algorithms() {
		if _, err := groupOf(a); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func TestNewOnlineRefuses(t *testing.T) {
	record, shares := deal(t, 2, 3)
	made := dealPresignatures(t, record, shares, []mpc.Index{1, 3})
	other, otherShares := deal(t, 2, 3)
	good := func() OnlineConfig { return onlineConfigs(record, made, []mpc.Index{1, 3}, [32]byte{1})[1] }
	for name, change := range map[string]func(*OnlineConfig){
		"other account":   func(c *OnlineConfig) { c.Record = other },
		"other epoch":     func(c *OnlineConfig) { r := *record; r.Epoch++; c.Record = &r },
		"other epoch ID":  func(c *OnlineConfig) { r := *record; r.EpochID[3]++; c.Record = &r },
		"other policy":    func(c *OnlineConfig) { r := *record; r.PolicyHash[0]++; c.Record = &r },
		"other algorithm": func(c *OnlineConfig) { r := *record; r.Algorithm = mpc.BIP340Secp256k1; c.Record = &r },
		"other signers":   func(c *OnlineConfig) { c.Signers = []mpc.Index{1, 2} },
		"more signers":    func(c *OnlineConfig) { c.Signers = []mpc.Index{1, 2, 3} },
		"other self":      func(c *OnlineConfig) { c.Self = 3 },
		"not a signer":    func(c *OnlineConfig) { c.Self = 2 },
		"no record":       func(c *OnlineConfig) { c.Record = nil },
		"no presignature": func(c *OnlineConfig) { c.Presignature = nil },
		"no session":      func(c *OnlineConfig) { c.SessionID = mpc.SessionID{} },
		"other account's": func(c *OnlineConfig) {
			c.Presignature = dealPresignatures(t, other, otherShares, []mpc.Index{1, 3})[1]
		},
		"the peer's": func(c *OnlineConfig) { c.Presignature = made[3] },
	} {
		cfg := good()
		change(&cfg)
		if p, err := NewOnline(cfg); err == nil || errors.Is(err, ErrPresignatureUsed) || p != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := NewOnline(good())
	if err != nil {
		t.Fatalf("refused configurations used the presignature up: %v", err)
	}
	p.Wipe()
	cfg := good()
	cfg.Digest[0]++
	if _, err := NewOnline(cfg); !errors.Is(err, ErrPresignatureUsed) {
		t.Fatalf("a second digest: %v", err)
	}
	made[3].Wipe()
	made[3].Wipe()
	if _, err := NewOnline(onlineConfigs(record, made, []mpc.Index{1, 3}, [32]byte{1})[3]); !errors.Is(err, ErrPresignatureUsed) {
		t.Fatalf("a wiped presignature: %v", err)
	}
	(*Presignature)(nil).Wipe()
	(*OnlineParty)(nil).Wipe()
}

// TestOneOnlineWins: of many that want a presignature one gets it, and wiping at
// the same time takes nothing from the one that did.
func TestOneOnlineWins(t *testing.T) {
	record, shares := deal(t, 2, 3)
	for range 50 {
		made := dealPresignatures(t, record, shares, []mpc.Index{1, 3})[1]
		var won, wiped atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if i == 5 {
					made.Wipe()
					wiped.Add(1)
					return
				}
				p, err := NewOnline(OnlineConfig{Self: 1, Signers: []mpc.Index{1, 3}, Record: record, Presignature: made,
					Digest: [32]byte{byte(i)}, SessionID: mpc.SessionID{byte(i + 1)}})
				if err != nil {
					if !errors.Is(err, ErrPresignatureUsed) {
						t.Error(err)
					}
					return
				}
				won.Add(1)
				out, err := p.Start()
				if err != nil || len(out) != 1 || isZero(out[0].Data) {
					t.Errorf("the winner's share: %v", err)
				}
				p.Wipe()
			})
		}
		wg.Wait()
		if won.Load() > 1 || wiped.Load() != 1 {
			t.Fatalf("%d sessions got the presignature", won.Load())
		}
	}
}

// TestOnlineOtherInputs: signers with other inputs notice.
func TestOnlineOtherInputs(t *testing.T) {
	record, shares := deal(t, 2, 3)
	for name, change := range map[string]func(*OnlineConfig){
		"digest":  func(c *OnlineConfig) { c.Digest[0]++ },
		"session": func(c *OnlineConfig) { c.SessionID[0]++ },
		"presignature": func(c *OnlineConfig) {
			c.Presignature = dealPresignatures(t, record, shares, []mpc.Index{1, 3})[3]
		},
	} {
		configs := onlineConfigs(record, dealPresignatures(t, record, shares, []mpc.Index{1, 3}), []mpc.Index{1, 3}, [32]byte{1})
		c := configs[3]
		change(&c)
		configs[3] = c
		for i, err := range routeAll(startOnline(t, configs), nil) {
			if !errors.Is(err, mpc.ErrOtherSession) {
				t.Errorf("%s: share %d got %v", name, i, err)
			}
		}
	}
}

// TestOnlineCheat: a false σ is noticed by every honest signer, and its sender
// named.
func TestOnlineCheat(t *testing.T) {
	record, shares := deal(t, 4, 5)
	all := []mpc.Index{1, 2, 4, 5}
	for name, liars := range map[string][]mpc.Index{"one": {2}, "two": {1, 5}} {
		parties := startOnline(t, onlineConfigs(record, dealPresignatures(t, record, shares, all), all, [32]byte{1}))
		errs := routeAll(parties, func(_ mpc.Index, m *mpc.Message) {
			if slices.Contains(liars, m.From) {
				m.Data = bytes.Clone(m.Data)
				m.Data[16+m.From] ^= 1 // never two that cancel out
			}
		})
		for _, i := range all {
			// A liar sees its own true share.
			want := slices.DeleteFunc(slices.Clone(liars), func(l mpc.Index) bool { return l == i })
			if len(want) == 0 {
				continue
			}
			var abort *mpc.AbortError
			if !errors.As(errs[i], &abort) || !slices.Equal(abort.Culprits, want) {
				t.Errorf("%s: share %d got %v, want an abort that blames %v", name, i, errs[i], want)
			}
			if _, err := parties[i].Result(); err == nil {
				t.Errorf("%s: share %d has a result", name, i)
			}
		}
	}
}

func TestOnlineHostileMessages(t *testing.T) {
	record, shares := deal(t, 2, 3)
	order := bytes.Repeat([]byte{0xff}, 32)
	for name, c := range map[string]struct {
		change func(m *mpc.Message)
		blames mpc.Index
	}{
		"zero":        {func(m *mpc.Message) { m.Data = make([]byte, 32) }, 1},
		"no data":     {func(m *mpc.Message) { m.Data = nil }, 1},
		"short":       {func(m *mpc.Message) { m.Data = m.Data[1:] }, 1},
		"long":        {func(m *mpc.Message) { m.Data = append(bytes.Clone(m.Data), 0) }, 1},
		"huge":        {func(m *mpc.Message) { m.Data = make([]byte, 1<<20) }, 1},
		"not reduced": {func(m *mpc.Message) { m.Data = order }, 1},
		"echo":        {func(m *mpc.Message) { m.Echo = make([]byte, 64) }, 1},
		"round 7":     {func(m *mpc.Message) { m.Round = 7 }, 1},
		"round 0":     {func(m *mpc.Message) { m.Round = 0 }, 1},
		"addressed":   {func(m *mpc.Message) { m.To = 3 }, 1},
		"private":     {func(m *mpc.Message) { m.To, m.Broadcast = 3, false }, 1},
		"stranger":    {func(m *mpc.Message) { m.From = 2 }, 2},
		"own":         {func(m *mpc.Message) { m.From = 3 }, 3},
		"transcript":  {func(m *mpc.Message) { m.Transcript[9]++ }, 1},
	} {
		parties := startOnline(t, onlineConfigs(record, dealPresignatures(t, record, shares, []mpc.Index{1, 3}), []mpc.Index{1, 3}, [32]byte{1}))
		inner := parties[3].made
		errs := routeAll(parties, func(to mpc.Index, m *mpc.Message) {
			if to == 3 {
				c.change(m)
			}
		})
		var abort *mpc.AbortError
		if !errors.As(errs[3], &abort) || !slices.Equal(abort.Culprits, []mpc.Index{c.blames}) {
			t.Errorf("%s: got %v, want an abort that blames %d", name, errs[3], c.blames)
		}
		if !inner.KShare.IsZero() || !inner.ChiShare.IsZero() {
			t.Errorf("%s: secrets survive", name)
		}
	}
	// Doubles change nothing, and what comes too early or late is harmless.
	configs := onlineConfigs(record, dealPresignatures(t, record, shares, []mpc.Index{1, 3}), []mpc.Index{1, 3}, [32]byte{1})
	parties := startOnline(t, configs)
	a, err := parties[1].Start()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parties[3].Step(a[0]); err == nil {
		t.Fatal("a step before the start")
	}
	if _, err := parties[3].Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := parties[3].Step(a[0]); err != nil || !parties[3].Done() {
			t.Fatal(err)
		}
	}
	if _, err := parties[3].Start(); err == nil {
		t.Fatal("started twice")
	}
}

// TestPresignatureParts: parts that do not belong together are refused.
func TestPresignatureParts(t *testing.T) {
	record, shares := deal(t, 2, 3)
	for name, change := range map[string]func(*ecdsa.PreSignature){
		"k":         func(p *ecdsa.PreSignature) { p.KShare.Add(p.ChiShare) },
		"χ":         func(p *ecdsa.PreSignature) { p.ChiShare.Add(p.KShare) },
		"R̄":        func(p *ecdsa.PreSignature) { p.RBar.Points["\x03"] = p.R },
		"S":         func(p *ecdsa.PreSignature) { p.S.Points["\x03"] = p.R },
		"R":         func(p *ecdsa.PreSignature) { p.R = p.R.Add(p.R) },
		"no signer": func(p *ecdsa.PreSignature) { delete(p.S.Points, "\x03"); delete(p.RBar.Points, "\x03") },
		"stranger": func(p *ecdsa.PreSignature) {
			p.S.Points["\x02"], p.RBar.Points["\x02"] = p.S.Points["\x03"], p.RBar.Points["\x03"]
		},
	} {
		made := dealPresignatures(t, record, shares, []mpc.Index{1, 3})[1].inner.Load()
		change(made)
		if _, err := newPresignature(&PresignConfig{Self: 1, Signers: []mpc.Index{1, 3}, Record: record}, made); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if !made.KShare.IsZero() || !made.ChiShare.IsZero() {
			t.Errorf("%s: secrets survive", name)
		}
	}
}
