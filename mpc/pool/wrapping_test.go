//go:build cgo

package pool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

func versions(t *testing.T, envelope []byte) (out []uint32) {
	t.Helper()
	seals, err := hsm.Seals(envelope)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seals {
		out = append(out, s.Version)
	}
	return out
}

// nextKey makes a version of the wrapping key and gives it to the pool, as the
// backend does.
func (f *fixture) nextKey(t *testing.T) hsm.WrappingKey {
	t.Helper()
	version := f.settings.WrappingKeys[len(f.settings.WrappingKeys)-1].Version + 1
	made, err := f.pool.MakeWrappingKey(deadline(t, 10*time.Second), hsm.DefaultDomain, version, []hsm.Suite{hsm.SuiteHPKEP256})
	if err != nil {
		t.Fatal(err)
	}
	f.setKeys(t, append(f.settings.WrappingKeys, made.Key)...)
	return made.Key
}

func (f *fixture) setKeys(t *testing.T, keys ...hsm.WrappingKey) {
	t.Helper()
	f.settings.WrappingKeys = keys
	if err := f.pool.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
}

// TestWrappingVersions turns the wrapping key over under running nodes, with a
// real token: no node is started again, old envelopes open while their version
// lives, and nothing opens them once it is destroyed.
func TestWrappingVersions(t *testing.T) {
	f := start(t, 4)
	f.waitReady(t, 4)
	account := f.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	pids := map[string]int{}
	for _, n := range f.pool.Nodes() {
		pids[n.ID] = n.PID
	}
	old := account
	first := f.settings.WrappingKeys[0]
	second := f.nextKey(t)
	if second.Version != 2 || bytes.Equal(second.ID, first.ID) || second.Label != fmt.Sprintf("vault-mpc %x v2", f.settings.MountID) {
		t.Fatalf("the new version: %+v", second)
	}
	found, err := f.pool.FindWrappingKeys(deadline(t, 5*time.Second), hsm.DefaultDomain, second.Label)
	if err != nil || len(found) != 1 || !bytes.Equal(found[0].ID, second.ID) || found[0].Private != 1 || found[0].Public != 1 {
		t.Errorf("the token has under the new label: %+v, %v", found, err)
	}
	f.sign(t, account, l, []byte("sealed to version 1"))

	r, err := f.pool.Rewrap(deadline(t, 5*time.Second), pool.RewrapRequest{Account: account, Expose: l.expose})
	if err != nil {
		t.Fatal(err)
	}
	if r.WrappingVersion != 2 || len(r.Shares) != 3 {
		t.Fatalf("rewrapped: %+v", r)
	}
	for i, s := range r.Shares {
		if got := versions(t, s.Envelope); len(got) != 1 || got[0] != 2 || int(s.Index) != i+1 {
			t.Errorf("share %d is sealed to %v", s.Index, got)
		}
	}
	account.Shares = r.Shares
	f.sign(t, account, l, []byte("sealed to version 2"))

	next, err := f.pool.Refresh(deadline(t, 10*time.Second), pool.RefreshRequest{Account: account, Expose: l.expose})
	if err != nil || next.WrappingVersion != 2 {
		t.Fatalf("refresh after the new version: %+v, %v", next, err)
	}
	for id := range pids {
		if err := f.pool.RewrapNodeKeys(deadline(t, 5*time.Second), id); err != nil {
			t.Fatal(err)
		}
		if got := versions(t, f.store.keys[id].IdentityEnvelope); len(got) != 1 || got[0] != 2 {
			t.Errorf("the identity of %s is sealed to %v", id, got)
		}
	}
	for _, n := range f.pool.Nodes() {
		if n.PID != pids[n.ID] || n.State != pool.NodeReady {
			t.Errorf("%s was started again: %+v", n.ID, n)
		}
	}

	if err := f.pool.DestroyWrappingKey(deadline(t, 5*time.Second), first); err != nil {
		t.Fatal(err)
	}
	if err := f.pool.DestroyWrappingKey(deadline(t, 5*time.Second), first); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("destroying it once more: %v", err)
	}
	// The old envelopes are kept, as a thief or a backup would.
	old.Exposures = l.copy()
	if err := f.pool.OpenCheck(deadline(t, 5*time.Second), old); !errors.Is(err, pool.ErrWrappingKey) {
		t.Errorf("an envelope of the destroyed version: %v", err)
	}
	f.setKeys(t, second)
	if err := f.pool.OpenCheck(deadline(t, 5*time.Second), old); !errors.Is(err, pool.ErrWrappingKey) {
		t.Errorf("an envelope of a version that is struck off: %v", err)
	}
	f.sign(t, account, l, []byte("after the destruction"))
	// A node that starts now finds all its own keys.
	f.settings.Local = 5
	f.setKeys(t, second)
	f.waitReady(t, 5)
}

// TestKeysOfDepartedNode: the keys of a node that left the pool are resealed by
// a process of its name that is started for this alone.
func TestKeysOfDepartedNode(t *testing.T) {
	f := start(t, 3)
	f.waitReady(t, 3)
	f.settings.Local = 2
	f.setKeys(t, f.settings.WrappingKeys...)
	f.await(t, "two nodes", func() bool { return len(f.pool.Nodes()) == 2 })
	f.nextKey(t)
	if err := f.pool.RewrapNodeKeys(deadline(t, 10*time.Second), "local-3"); err != nil {
		t.Fatal(err)
	}
	if got := versions(t, f.store.keys["local-3"].IdentityEnvelope); len(got) != 1 || got[0] != 2 {
		t.Errorf("the identity is sealed to %v", got)
	}
	if len(f.pool.Nodes()) != 2 {
		t.Error("the node stayed in the pool")
	}
	identity := f.store.keys["local-3"].Identity
	f.settings.Local = 3
	f.setKeys(t, f.settings.WrappingKeys...)
	f.waitReady(t, 3)
	for _, n := range f.pool.Nodes() {
		if n.ID == "local-3" && n.Identity != identity.String() {
			t.Error("it came back as another node")
		}
	}
}

// TestLostVersion: a node starts although the token lacks an old version, which
// a destruction that was not written down leaves behind; without the newest it
// does not.
func TestLostVersion(t *testing.T) {
	f := start(t, 3)
	f.waitReady(t, 3)
	first := f.settings.WrappingKeys[0]
	f.nextKey(t)
	for _, n := range f.pool.Nodes() {
		if err := f.pool.RewrapNodeKeys(deadline(t, 5*time.Second), n.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.pool.DestroyWrappingKey(deadline(t, 5*time.Second), first); err != nil {
		t.Fatal(err)
	}
	f.settings.Local = 4
	f.setKeys(t, f.settings.WrappingKeys...)
	f.waitReady(t, 4)
}
