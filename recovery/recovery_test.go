package recovery_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// people are an authority and its custodians.
type people struct {
	authority  ed25519.PrivateKey
	custodians []*ecdh.PrivateKey
	set        []byte // signed
}

func (p *people) public() ed25519.PublicKey { return p.authority.Public().(ed25519.PublicKey) }

func name(i int) string { return fmt.Sprintf("custodian-%d", i+1) }

func newPeople(t testing.TB, n int) *people {
	t.Helper()
	p := &people{}
	var err error
	if _, p.authority, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	var list []recovery.Recipient
	for i := range n {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p.custodians = append(p.custodians, key)
		list = append(list, recovery.Recipient{Name: name(i), Version: 1, PublicKey: key.PublicKey().Bytes()})
	}
	set, err := recovery.NewSet(1, list)
	if err != nil {
		t.Fatal(err)
	}
	if p.set, err = set.Sign(p.authority); err != nil {
		t.Fatal(err)
	}
	return p
}

// account makes a key by the real protocol and its bundle for the people.
func account(t testing.TB, a mpc.Algorithm, threshold, shares int, p *people) (*mpc.PublicRecord, *recovery.Bundle) {
	t.Helper()
	var id mpc.SessionID
	_, _ = rand.Read(id[:])
	parties := map[mpc.Index]*frost.KeyParty{}
	var queue []mpc.Message
	for i := mpc.Index(1); int(i) <= shares; i++ {
		party, err := frost.NewKeygen(frost.KeyConfig{Self: i, Algorithm: a, Threshold: threshold, Shares: shares, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = party
		out, err := party.Start()
		if err != nil {
			t.Fatal(err)
		}
		queue = append(queue, out...)
	}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		for to, party := range parties {
			if to == m.From || !m.Broadcast && to != m.To {
				continue
			}
			out, err := party.Step(m)
			if err != nil {
				t.Fatal(err)
			}
			queue = append(queue, out...)
		}
	}
	signed, err := recovery.ParseSignedSet(p.set)
	if err != nil {
		t.Fatal(err)
	}
	record := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: threshold, Shares: shares,
		Epoch: 7, EpochID: mpc.EpochID{1}, RecipientsHash: signed.Hash(), PolicyHash: mpc.EmptySetHash()}
	results := map[mpc.Index]*mpc.KeyShare{}
	for i, party := range parties {
		if results[i], err = party.Result(); err != nil {
			t.Fatal(err)
		}
		record.PublicKey, record.PublicShares, record.ChainCode = results[i].PublicKey, results[i].PublicShares, results[i].ChainCode
	}
	b := &recovery.Bundle{Account: "treasury", Record: record.Marshal(), Recipients: p.set, Created: time.Unix(1, 0)}
	for i := mpc.Index(1); int(i) <= shares; i++ {
		to, err := signed.Unverified().ForShare(i)
		if err != nil {
			t.Fatal(err)
		}
		// The HSM's own seal is beside it; this one's key nobody has any more.
		lost, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		own := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 3, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: lost.PublicKey().Bytes()}
		envelope, err := hsm.Seal(hsm.ShareContext(uint8(i), record.Hash()), results[i].Share, []hsm.WrappingKey{own, to})
		if err != nil {
			t.Fatal(err)
		}
		b.Shares = append(b.Shares, envelope)
	}
	return record, b
}

// mount is a target and the key of its HSM.
type mount struct {
	key    *ecdh.PrivateKey
	target []byte // signed
	hash   [32]byte
}

func newMount(t testing.TB, p *people) *mount {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	target := &recovery.Target{MountID: [16]byte{9}, Made: time.Unix(2, 0),
		Key: hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, PublicKey: key.PublicKey().Bytes()}}
	_, _ = rand.Read(target.Nonce[:])
	raw, err := target.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m := &mount{key: key}
	if m.target, err = recovery.SignTarget(raw, p.authority); err != nil {
		t.Fatal(err)
	}
	m.hash = m.parsed(t).Hash()
	return m
}

func (m *mount) parsed(t testing.TB) *recovery.SignedTarget {
	t.Helper()
	s, err := recovery.ParseSignedTarget(m.target)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open is a node's part: it has the token, and the sub-shares of one receiver.
func (m *mount) open(record *mpc.PublicRecord, i mpc.Index) func(*recovery.Deal) (*secret.Bytes, error) {
	key := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: m.key.PublicKey().Bytes()}
	return func(d *recovery.Deal) (*secret.Bytes, error) {
		s, _, err := hsm.Open(context.Background(), hsm.SoftwareKey(m.key), []hsm.WrappingKey{key},
			hsm.DealContext(record.AccountID, m.hash, uint8(d.Dealer), uint8(i)), d.Sealed[i-1])
		return s, err
	}
}

func deal(t testing.TB, p *people, b *recovery.Bundle, i int, m *mount) *recovery.Deal {
	t.Helper()
	d, err := recovery.MakeDeal(t.Context(), b, name(i), p.custodians[i], p.public(), m.parsed(t))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := recovery.ParseDeal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// TestRebuild: t custodians rebuild an account on another HSM, each node seeing
// one sub-share of each of them.
func TestRebuild(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		for _, who := range [][]int{{0, 1}, {0, 2}, {2, 1}, {2, 1, 0}} {
			t.Run(fmt.Sprint(a, who), func(t *testing.T) {
				p := newPeople(t, 4)
				old, bundle := account(t, a, 2, 3, p)
				raw, err := bundle.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				if bundle, err = recovery.ParseBundle(raw); err != nil {
					t.Fatal(err)
				}
				m := newMount(t, p)
				var deals []*recovery.Deal
				for _, i := range who {
					deals = append(deals, deal(t, p, bundle, i, m))
				}
				record, err := recovery.NewRecord(old, m.hash, mpc.EmptySetHash(), deals)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(record.PublicKey, old.PublicKey) || record.Epoch != old.Epoch+1 || record.AccountID != old.AccountID ||
					record.EpochID == old.EpochID || record.ChainCode != old.ChainCode || record.PolicyHash != old.PolicyHash {
					t.Errorf("the new record: %+v", record)
				}
				for i := mpc.Index(1); i <= 3; i++ {
					var mine []*recovery.Deal
					for _, d := range deals {
						only, err := d.For(i)
						if err != nil {
							t.Fatal(err)
						}
						mine = append(mine, only)
					}
					again, err := recovery.NewRecord(old, m.hash, mpc.EmptySetHash(), mine)
					if err != nil || again.Hash() != record.Hash() {
						t.Fatalf("node %d arrives at another record: %v", i, err)
					}
					share, err := recovery.CombineShare(old, record, m.hash, mine, i, m.open(old, i))
					if err != nil {
						t.Fatal(err)
					}
					if err := frost.CheckShare(record, i, share); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestRefusals: whatever does not belong together is refused.
func TestRefusals(t *testing.T) {
	p, others := newPeople(t, 3), newPeople(t, 3)
	old, bundle := account(t, mpc.Ed25519, 2, 3, p)
	m, elsewhere := newMount(t, p), newMount(t, p)
	d1, d2 := deal(t, p, bundle, 0, m), deal(t, p, bundle, 1, m)

	t.Run("signatures", func(t *testing.T) {
		set, err := recovery.ParseSignedSet(p.set)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Verify(p.public()); err != nil {
			t.Error(err)
		}
		if _, err := set.Verify(others.public()); !errors.Is(err, recovery.ErrSignature) {
			t.Errorf("another authority's set: %v", err)
		}
		if _, err := set.Verify(nil); !errors.Is(err, recovery.ErrSignature) {
			t.Errorf("a set without an authority: %v", err)
		}
		if _, err := m.parsed(t).Verify(others.public()); !errors.Is(err, recovery.ErrSignature) {
			t.Errorf("another authority's target: %v", err)
		}
		// A signature over a set is none over a target, and the other way round.
		var file struct{ Payload, Signature []byte }
		if err := json.Unmarshal(m.target, &file); err != nil {
			t.Fatal(err)
		}
		if ed25519.Verify(p.public(), file.Payload, file.Signature) {
			t.Error("the signature has no label")
		}
		file.Payload[len(file.Payload)/2] ^= 1
		changed, err := json.Marshal(map[string][]byte{"payload": file.Payload, "signature": file.Signature})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := recovery.ParseSignedTarget(changed); err == nil {
			if _, err := s.Verify(p.public()); err == nil {
				t.Error("accepted a changed target")
			}
		}
	})
	t.Run("dealing", func(t *testing.T) {
		if _, err := recovery.MakeDeal(t.Context(), bundle, name(0), p.custodians[1], p.public(), m.parsed(t)); err == nil {
			t.Error("dealt with another custodian's key")
		}
		if _, err := recovery.MakeDeal(t.Context(), bundle, "nobody", p.custodians[1], p.public(), m.parsed(t)); err == nil {
			t.Error("dealt for somebody who is not in the set")
		}
		swapped := *bundle
		swapped.Shares = [][]byte{bundle.Shares[1], bundle.Shares[0], bundle.Shares[2]}
		if _, err := recovery.MakeDeal(t.Context(), &swapped, name(0), p.custodians[0], p.public(), m.parsed(t)); err == nil {
			t.Error("dealt from swapped shares")
		}
	})
	t.Run("combining", func(t *testing.T) {
		foreign, foreignBundle := account(t, mpc.Ed25519, 2, 3, p)
		third := deal(t, p, foreignBundle, 2, m)
		for what, deals := range map[string][]*recovery.Deal{
			"too few":          {d1},
			"twice":            {d1, d1},
			"another account":  {d1, third},
			"another target":   {d1, deal(t, p, bundle, 1, elsewhere)},
			"too few sealed":   {d1, {Dealer: 2, Record: d2.Record, Target: d2.Target, Commitments: d2.Commitments, Sealed: d2.Sealed[:2]}},
			"wrong dealer":     {d1, {Dealer: 3, Record: d2.Record, Target: d2.Target, Commitments: d2.Commitments, Sealed: d2.Sealed}},
			"none":             nil,
			"twice and a good": {d1, d2, d2},
		} {
			if _, err := recovery.NewRecord(old, m.hash, mpc.EmptySetHash(), deals); err == nil {
				t.Errorf("%s: accepted", what)
			}
		}
		if _, err := recovery.NewRecord(foreign, m.hash, mpc.EmptySetHash(), []*recovery.Deal{d1, d2}); err == nil {
			t.Error("accepted deals of another account")
		}
	})
	t.Run("a dealer who lies", func(t *testing.T) {
		liar := *d2
		liar.Sealed = [][]byte{d2.Sealed[1], d2.Sealed[0], d2.Sealed[2]}
		record, err := recovery.NewRecord(old, m.hash, mpc.EmptySetHash(), []*recovery.Deal{d1, &liar})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := recovery.CombineShare(old, record, m.hash, []*recovery.Deal{d1, &liar}, 1, m.open(old, 1)); !errors.Is(err, hsm.ErrOpen) || !strings.Contains(err.Error(), "share 2") {
			t.Errorf("a sub-share of another receiver: %v", err)
		}
		// Properly sealed, but not what was committed to.
		bad := *d2
		sealed, err := hsm.Seal(hsm.DealContext(old.AccountID, m.hash, 2, 1), secret.Copy(bytes.Repeat([]byte{1}, 32)),
			[]hsm.WrappingKey{m.parsed(t).Unverified().Key})
		if err != nil {
			t.Fatal(err)
		}
		bad.Sealed = [][]byte{sealed, d2.Sealed[1], d2.Sealed[2]}
		var dealer *frost.DealerError
		if _, err := recovery.CombineShare(old, record, m.hash, []*recovery.Deal{d1, &bad}, 1, m.open(old, 1)); !errors.As(err, &dealer) || dealer.Index != 2 {
			t.Errorf("a wrong sub-share: %v", err)
		}
	})
	t.Run("sets", func(t *testing.T) {
		good := func() []recovery.Recipient {
			s, err := recovery.ParseSignedSet(p.set)
			if err != nil {
				t.Fatal(err)
			}
			return append([]recovery.Recipient(nil), s.Unverified().Recipients...)
		}
		for what, change := range map[string]func(r []recovery.Recipient) []recovery.Recipient{
			"one":            func(r []recovery.Recipient) []recovery.Recipient { return r[:1] },
			"twice":          func(r []recovery.Recipient) []recovery.Recipient { r[1] = r[0]; return r },
			"the same key":   func(r []recovery.Recipient) []recovery.Recipient { r[1].PublicKey = r[0].PublicKey; return r },
			"the same name":  func(r []recovery.Recipient) []recovery.Recipient { r[1].Name = r[0].Name; return r },
			"no version":     func(r []recovery.Recipient) []recovery.Recipient { r[1].Version = 0; return r },
			"no key":         func(r []recovery.Recipient) []recovery.Recipient { r[1].PublicKey = nil; return r },
			"capital letter": func(r []recovery.Recipient) []recovery.Recipient { r[1].Name = "Bob"; return r },
			"off the curve": func(r []recovery.Recipient) []recovery.Recipient {
				r[1].PublicKey = append(bytes.Clone(r[1].PublicKey[:64]), r[1].PublicKey[64]^1)
				return r
			},
		} {
			if _, err := recovery.NewSet(1, change(good())); err == nil {
				t.Errorf("%s: accepted", what)
			}
		}
		if _, err := recovery.NewSet(0, good()); err == nil {
			t.Error("serial 0: accepted")
		}
	})
}

// FuzzParse: no parser panics, and what they accept they write again.
func FuzzParse(f *testing.F) {
	p := newPeople(f, 3)
	_, bundle := account(f, mpc.ECDSAP256, 2, 3, p)
	m := newMount(f, p)
	raw, err := bundle.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(p.set)
	f.Add(domainSet(f, p, nil))
	f.Add(m.target)
	target, err := m.parsed(f).Unverified().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(target)
	dealt, err := deal(f, p, &recovery.Bundle{Account: bundle.Account, Record: bundle.Record, Shares: bundle.Shares, Recipients: bundle.Recipients}, 0, m).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dealt)
	f.Add([]byte(`{"payload":"e30=","signature":""}`))
	f.Add([]byte(`{"format":"mpc-recovery-deal-1","dealer":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := recovery.ParseSignedSet(b); err == nil {
			set := s.Unverified()
			var again *recovery.RecipientSet
			if len(set.Domains) > 0 {
				again, err = recovery.NewDomainSet(set.Serial, set.Recipients, set.Domains)
			} else {
				again, err = recovery.NewSet(set.Serial, set.Recipients)
			}
			if err != nil || again.Format != set.Format {
				t.Fatalf("%v, format %s", err, set.Format)
			}
			signed, err := set.Sign(p.authority)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := recovery.ParseSignedSet(signed); err != nil || !reflect.DeepEqual(back.Unverified(), set) {
				t.Fatalf("signed anew it is another set: %v", err)
			}
		}
		rewritten(t, b, recovery.ParseTarget)
		rewritten(t, b, recovery.ParseBundle)
		rewritten(t, b, recovery.ParseDeal)
		_, _ = recovery.ParseRecipient(b)
		_, _ = recovery.ParseSignedTarget(b)
	})
}

// rewritten checks that what a parser accepts is written in a form that it reads
// and that stays.
func rewritten[T interface{ Marshal() ([]byte, error) }](t *testing.T, b []byte, parse func([]byte) (T, error)) {
	t.Helper()
	v, err := parse(b)
	if err != nil {
		return
	}
	first, err := v.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if v, err = parse(first); err != nil {
		t.Fatalf("does not read what it wrote: %v", err)
	}
	if second, err := v.Marshal(); err != nil || !bytes.Equal(first, second) {
		t.Fatalf("written differently the second time: %v", err)
	}
}
