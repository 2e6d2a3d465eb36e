//go:build cgo

package pool_test

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// ceremony makes an account with recipients, and has t of them deal its shares
// to the same token.
func (f *fixture) ceremony(t *testing.T) pool.ImportRequest {
	t.Helper()
	public, authority, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.settings.Authority = public
	if err := f.pool.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	return f.dealt(t, authority, f.settings.WrappingKeys[0])
}

// dealt makes an account with recipients, and has t of them deal its shares to a key.
func (f *fixture) dealt(t *testing.T, authority ed25519.PrivateKey, wrapping hsm.WrappingKey) pool.ImportRequest {
	t.Helper()
	var keys []*ecdh.PrivateKey
	var list []recovery.Recipient
	for i := range 3 {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
		list = append(list, recovery.Recipient{Name: fmt.Sprintf("c%d", i+1), Version: 1, PublicKey: key.PublicKey().Bytes()})
	}
	set, err := recovery.NewSet(1, list)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := set.Sign(authority)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := recovery.ParseSignedSet(signed)
	if err != nil {
		t.Fatal(err)
	}
	made, err := f.pool.Create(deadline(t, 20*time.Second), pool.CreateRequest{AccountID: mpc.AccountID{9}, Algorithm: mpc.BIP340Secp256k1,
		Threshold: 2, Shares: 3, RecipientsHash: parsed.Hash(), Recipients: signed, PolicyHash: mpc.EmptySetHash()})
	if err != nil {
		t.Fatal(err)
	}
	bundle := &recovery.Bundle{Account: "treasury", Record: made.Account.Record.Marshal(), Recipients: signed, Created: time.Unix(1, 0)}
	for _, s := range made.Account.Shares {
		bundle.Shares = append(bundle.Shares, s.Envelope)
	}
	target := &recovery.Target{MountID: f.settings.MountID, Key: wrapping, Made: time.Unix(2, 0)}
	raw, err := target.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = recovery.SignTarget(raw, authority); err != nil {
		t.Fatal(err)
	}
	to, err := recovery.ParseSignedTarget(raw)
	if err != nil {
		t.Fatal(err)
	}
	r := pool.ImportRequest{Old: made.Account.Record, Recipients: signed, Target: to.Hash()}
	for i := range 2 {
		deal, err := recovery.MakeDeal(t.Context(), bundle, list[i].Name, keys[i], authority.Public().(ed25519.PublicKey), to)
		if err != nil {
			t.Fatal(err)
		}
		b, err := deal.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r.Deals = append(r.Deals, b)
	}
	return r
}

// TestImportAgain: the same deals give the same shares, so whatever attempt it
// is, a node sees one of them only, and nothing is handed over that could not be
// noted.
func TestImportAgain(t *testing.T) {
	f := start(t, 4)
	f.waitReady(t, 4)
	r := f.ceremony(t)
	full := errors.New("storage is full")
	r.Expose = func(context.Context, mpc.Exposures) error { return full }
	if _, err := f.pool.Import(deadline(t, 10*time.Second), r); !errors.Is(err, full) {
		t.Fatalf("an import that could not be noted: %v", err)
	}
	l := &ledger{by: mpc.Exposures{}}
	r.Expose = l.expose
	var first *pool.KeyResult
	for attempt := range 12 { // by chance all would agree once in 24^11 times
		r.Exposures = l.copy()
		got, err := f.pool.Import(deadline(t, 10*time.Second), r)
		if err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		if first == nil {
			first = got
		}
		if got.Account.Record.EpochID != first.Account.Record.EpochID {
			t.Fatal("the same deals give another epoch")
		}
		if !maps.Equal(got.Account.Exposures, l.copy()) || !maps.Equal(got.Account.Exposures, first.Account.Exposures) {
			t.Fatalf("attempt %d: nodes saw %v, then %v", attempt, first.Account.Exposures, got.Account.Exposures)
		}
	}
	if err := f.pool.OpenCheck(deadline(t, 10*time.Second), first.Account); err != nil {
		t.Error(err)
	}
	f.sign(t, first.Account, l, []byte("after the import"))
}

// TestImportIntoOneDomain: custodians deal to the key of one wrapping domain, and no
// node of another opens what they dealt.
func TestImportIntoOneDomain(t *testing.T) {
	c := startCluster(t, 3, "eu-1 eu eu", "us-1 us us")
	l := &ledger{by: mpc.Exposures{}}
	r := c.dealt(t, c.authority, c.settings.WrappingKeys[0])
	r.Expose = l.expose
	got, err := c.pool.Import(deadline(t, 10*time.Second), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range got.Account.Homes {
		if h != (mpc.Home{Domain: hsm.DefaultDomain, Region: "here"}) {
			t.Errorf("homes %v", got.Account.Homes)
		}
	}
	c.sign(t, got.Account, l, []byte("after the import"))
	var few *pool.TooFewNodesError
	eu := c.settings.WrappingKeys[1]
	if _, err := c.pool.Import(deadline(t, 10*time.Second), c.dealt(t, c.authority, eu)); !errors.As(err, &few) || few.Configured != 1 {
		t.Errorf("three shares for the one node of %s: %v", eu.Domain, err)
	}
}
