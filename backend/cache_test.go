package backend

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

func TestCache(t *testing.T) {
	c := newCache[int](3)
	reads := 0
	get := func(key string, v int) int {
		t.Helper()
		got, err := c.get(key, func() (int, bool, error) { reads++; return v, true, nil })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if get("a", 1) != 1 || get("a", 2) != 1 || reads != 1 {
		t.Errorf("%d reads", reads)
	}
	c.drop("a")
	if get("a", 2) != 2 {
		t.Error("an old value after a drop")
	}
	for i := range 50 {
		if get(fmt.Sprint(i), i) != i || len(c.entries) > 3 {
			t.Fatalf("%d entries", len(c.entries))
		}
	}

	// What is not to be kept, and what failed.
	for range 2 {
		if v, err := c.get("x", func() (int, bool, error) { return 5, false, nil }); v != 5 || err != nil {
			t.Errorf("%d, %v", v, err)
		}
		if _, err := c.get("y", func() (int, bool, error) { return 6, true, errors.New("no") }); err == nil {
			t.Error("an error was cached")
		}
	}
	if get("x", 7) != 7 || get("y", 8) != 8 {
		t.Error("cached all the same")
	}

	// A write overtakes a read.
	for name, write := range map[string]func(){
		"wrote": func() { c.wrote("r", false) },
		"drop":  func() { c.drop("r") },
	} {
		v, _ := c.get("r", func() (int, bool, error) { write(); return 1, true, nil })
		if v != 1 || get("r", 2) != 2 {
			t.Errorf("%s: the overtaken read was kept", name)
		}
		c.drop("r")
	}

	// A write that failed may take effect at any time.
	c.wrote("w", true)
	if get("w", 1) != 1 || get("w", 2) != 2 {
		t.Error("cached after a failed write")
	}
	c.drop("w")
	if get("w", 3) != 3 || get("w", 4) != 4 {
		t.Error("an invalidation made a failed write certain")
	}
	c.wrote("w", false)
	if get("w", 5) != 5 || get("w", 6) != 5 {
		t.Error("not cached after a write that succeeded")
	}
	for i := range 5 {
		c.wrote(fmt.Sprint("failed", i), true)
	}
	if get("w", 7) != 7 || get("w", 8) != 8 || len(c.entries)+len(c.unsure) != 0 {
		t.Error("the list of failed writes grows without bound")
	}
}

// counting counts reads.
type counting struct {
	logical.Storage
	gets atomic.Int64
	// pause, when set, is called between reading a value and returning it.
	pause func(key string)
}

func (c *counting) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	c.gets.Add(1)
	e, err := c.Storage.Get(ctx, key)
	if c.pause != nil {
		c.pause(key)
	}
	return e, err
}

// TestSigningReadsNothing: in steady state a signature needs no storage.
func TestSigningReadsNothing(t *testing.T) {
	c := &counting{Storage: &logical.InmemStorage{}}
	m := open(t, c, newFake(t))
	configure(m)
	m.create("alice", "ed25519")
	m.create("bob", "ecdsa-p256")
	for _, name := range []string{"alice", "bob"} {
		m.signs(name)
		before := c.gets.Load()
		for range 5 {
			m.signs(name)
		}
		if n := c.gets.Load() - before; n != 0 {
			t.Errorf("%s: %d reads for five signatures", name, n)
		}
	}
}

// TestSigningSeesEveryWrite: after a write, by this server or another one, the
// next signature is made with what was written.
func TestSigningSeesEveryWrite(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	epoch := func() uint64 {
		t.Helper()
		return m.signs("alice")["share_epoch"].(uint64)
	}
	if epoch() != 1 {
		t.Fatal("epoch")
	}
	for want := uint64(2); want < 5; want++ {
		m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
		if got := epoch(); got != want {
			t.Errorf("signed in epoch %d of %d", got, want)
		}
	}
	// Exposures: a spare is used, and from then on nodes know it.
	m.fake.spare = true
	epoch()
	v, _ := m.b.store.signable(t.Context(), "alice")
	if a, err := m.b.store.forUse(t.Context(), v); err != nil || a.Exposures[nodeIdentity(4)] != 1 {
		t.Errorf("exposures %v (%v)", a.Exposures, err)
	}
	// Another server exchanges account and exposures.
	old := snapshot(t, m.storage)
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	m.fake.spare = true
	if epoch() != 5 {
		t.Error("epoch")
	}
	for _, key := range keys(t, old) {
		e, _ := old.Get(t.Context(), key)
		if err := m.storage.Put(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		m.b.InvalidateKey(t.Context(), key)
	}
	if got := epoch(); got != 4 {
		t.Errorf("signed in epoch %d after an invalidation", got)
	}
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	m.fails(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="}, 404, "no account")
	m.fails(logical.UpdateOperation, "verify/alice", map[string]any{"input": "aGVsbG8=", "signature": "AAAA"}, 404, "no account")
	m.create("alice", "ed25519")
	m.signs("alice")
}

// TestCachedValuesStay: what one request does with an account is not seen by
// the next.
func TestCachedValuesStay(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	v, err := m.b.store.signable(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := m.b.store.forUse(t.Context(), v)
	a.Exposures[mpc.NodeIdentity{77}] = 1
	a.NoSpares = true
	if b, _ := m.b.store.forUse(t.Context(), v); len(b.Exposures) != 3 || b.NoSpares {
		t.Errorf("%v", b)
	}
}

// TestSlowReadIsNotCached: a read of the account that was on its way when the
// account was refreshed must not be kept.
func TestSlowReadIsNotCached(t *testing.T) {
	for _, prefix := range []string{prefixAccounts, prefixExposures} {
		t.Run(prefix, func(t *testing.T) {
			c := &counting{Storage: &logical.InmemStorage{}}
			m := open(t, c, newFake(t))
			withAccount(m)
			r, err := m.b.store.account(t.Context(), "alice")
			if err != nil {
				t.Fatal(err)
			}
			watched := map[string]string{prefixAccounts: prefixAccounts + "alice", prefixExposures: prefixExposures + r.ID}[prefix]
			var first atomic.Bool
			reading, wrote := make(chan struct{}), make(chan struct{})
			c.pause = func(key string) {
				if key == watched && first.CompareAndSwap(false, true) {
					close(reading)
					<-wrote
				}
			}
			done := make(chan map[string]any)
			go func() {
				resp, _, _ := m.do(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="})
				if resp == nil {
					done <- nil
					return
				}
				done <- resp.Data
			}()
			<-reading
			m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
			// A spare is used meanwhile, by another request.
			m.fake.spare = true
			m.signs("alice")
			close(wrote)
			if d := <-done; d == nil {
				t.Error("the slow signature failed")
			}
			if got := m.signs("alice")["share_epoch"]; got != uint64(2) {
				t.Errorf("the next signature is made in epoch %v", got)
			}
			v, _ := m.b.store.signable(t.Context(), "alice")
			if a, err := m.b.store.forUse(t.Context(), v); err != nil || a.Exposures[nodeIdentity(4)] != 1 {
				t.Errorf("exposures %v (%v)", a.Exposures, err)
			}
		})
	}
}

// TestFailedWriteIsNotCached: the promotion of an epoch takes effect although
// storage said that it failed.
func TestFailedWriteIsNotCached(t *testing.T) {
	f := &flaky{Storage: &logical.InmemStorage{}}
	m := open(t, f, newFake(t))
	withAccount(m)
	m.signs("alice")
	f.set(true, true)
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, 500, "storage does not answer")
	f.set(false, false)
	if got := m.signs("alice")["share_epoch"]; got != uint64(2) {
		t.Errorf("signed in epoch %v", got)
	}
	alive(t, m)
}

// BenchmarkSign is a BIP-340 request without nodes and without a round trip to
// Vault: what the backend itself costs. "uncached" drops the account before
// each request.
func BenchmarkSign(b *testing.B) {
	for _, cached := range []bool{false, true} {
		b.Run(fmt.Sprintf("cached=%v", cached), func(b *testing.B) {
			storage := &logical.InmemStorage{}
			lb, err := Factory(Config{
				NewEngine: func(EngineConfig) Engine { return instantEngine{newFake(nil)} },
				Modules:   testModules,
			})(context.Background(), &logical.BackendConfig{StorageView: storage, System: logical.TestSystemView()})
			if err != nil {
				b.Fatal(err)
			}
			defer lb.Cleanup(context.Background())
			request := func(op logical.Operation, path string, data map[string]any) *logical.Response {
				resp, err := lb.HandleRequest(context.Background(), &logical.Request{Operation: op, Path: path, Data: data, Storage: storage})
				if err != nil {
					b.Fatal(err)
				}
				return resp
			}
			request(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
			id := request(logical.CreateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"}).Data["id"].(string)
			input := base64.StdEncoding.EncodeToString(make([]byte, 32))
			store := lb.(*backend).store
			b.ReportAllocs()
			for b.Loop() {
				if !cached {
					store.accounts.drop("alice")
					store.exposures.drop(id)
				}
				request(logical.UpdateOperation, "sign/alice", map[string]any{"input": input})
			}
		})
	}
}
