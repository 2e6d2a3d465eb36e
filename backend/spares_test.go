package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

// clock is moved by hand, and a little by every look at it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time { return c.add(time.Millisecond) }

func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	return c.at
}

// sparesAllowed checks that the answer and what nodes are told agree, and that
// a signature that needs a spare gets one or a good explanation.
func sparesAllowed(t *testing.T, m *mount, name string) bool {
	t.Helper()
	allowed := m.must(logical.ReadOperation, "accounts/"+name, nil)["spares_allowed"].(bool)
	m.fake.spare = true
	if allowed {
		m.signs(name)
	} else {
		m.fails(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8="}, http.StatusServiceUnavailable, "storage was restored, or may have been")
		m.signs(name) // by the nodes that are known to have the shares
	}
	r, err := m.b.store.account(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.b.store.usable(t.Context(), r)
	if err != nil || a.NoSpares == allowed {
		t.Errorf("answered %v, told nodes %v (%v)", allowed, !a.NoSpares, err)
	}
	return allowed
}

func heartbeatIn(t *testing.T, s logical.Storage) *heartbeatRecord {
	t.Helper()
	r, damage, err := bareStore(s).heartbeat(t.Context())
	if err != nil || damage != "" {
		t.Fatal(damage, err)
	}
	return r
}

// TestHeartbeatAtStart: what the stored heartbeat says to a new process.
func TestHeartbeatAtStart(t *testing.T) {
	for name, c := range map[string]struct {
		age     time.Duration // of the heartbeat when the new process starts
		missing bool
		damaged bool
		allowed bool
		log     string
	}{
		"at once":          {age: 0, allowed: true},
		"a failover later": {age: staleHeartbeat - time.Second, allowed: true},
		"old":              {age: staleHeartbeat + time.Second, log: "3m1s old"},
		"very old":         {age: 30 * 24 * time.Hour, log: "720h0m0s old"},
		"clock a bit back": {age: -staleHeartbeat + time.Second, allowed: true},
		"clock went back":  {age: -staleHeartbeat - time.Second, log: "3m1s in the future"},
		"missing":          {missing: true, log: "no heartbeat"},
		"damaged":          {damaged: true, log: "has no time"},
	} {
		t.Run(name, func(t *testing.T) {
			at, fake, storage := newClock(), newFake(t), &logical.InmemStorage{}
			m := openAt(t, storage, fake, at.now)
			configure(m)
			// The runner reads the real time and must not refresh by itself.
			m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1", "refresh_period": "8760h"})
			m.b.Cleanup(t.Context())
			beat := heartbeatIn(t, storage)
			if beat == nil {
				t.Fatal("no heartbeat was written")
			}
			if c.missing {
				if err := storage.Delete(t.Context(), keyHeartbeat); err != nil {
					t.Fatal(err)
				}
			}
			if c.damaged {
				if err := storage.Put(t.Context(), &logical.StorageEntry{Key: keyHeartbeat, Value: []byte(`{"version":2}`)}); err != nil {
					t.Fatal(err)
				}
			}
			at.mu.Lock()
			at.at = beat.Time.Add(c.age)
			at.mu.Unlock()

			m = openAt(t, storage, fake, at.now)
			m.b.startBackground()
			if sparesAllowed(t, m, "alice") != c.allowed {
				t.Errorf("spares allowed: %v", !c.allowed)
			}
			if warned := strings.Contains(m.logs.String(), "may have been restored"); warned == c.allowed || !strings.Contains(m.logs.String(), c.log) {
				t.Errorf("log: %s", m.logs)
			}
			if now := heartbeatIn(t, storage); now.Time.Sub(at.now()).Abs() > time.Minute {
				t.Errorf("the heartbeat was not renewed: %v", now.Time)
			}
			// What is not allowed stays so over a restart, until a refresh.
			m.b.Cleanup(t.Context())
			m = openAt(t, storage, fake, at.now)
			if sparesAllowed(t, m, "alice") != c.allowed {
				t.Errorf("after a restart spares are allowed: %v", !c.allowed)
			}
			// Also with a clock that is behind the times of everything stored.
			at.add(-c.age.Abs())
			m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
			if !sparesAllowed(t, m, "alice") {
				t.Error("no spares after a refresh")
			}
			m.create("bob", "bip340-secp256k1")
			if !sparesAllowed(t, m, "bob") {
				t.Error("no spares for a new account")
			}
		})
	}
}

func TestHeartbeatOfANewMount(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	m.b.startBackground()
	m.b.tasks.Wait()
	if got := keys(t, m.storage); !slices.Equal(got, []string{keyHeartbeat}) {
		t.Errorf("stored %v", got)
	}
	configure(m)
	m.create("alice", "ed25519")
	if !sparesAllowed(t, m, "alice") {
		t.Error("no spares in a new mount")
	}
}

func TestPeriodicWritesTheHeartbeat(t *testing.T) {
	at := newClock()
	m := openAt(t, &logical.InmemStorage{}, newFake(t), at.now)
	configure(m)
	m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1", "refresh_period": "8760h"})
	periodic := func() {
		t.Helper()
		if _, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
		m.b.tasks.Wait()
	}
	for range 5 {
		at.add(heartbeatPeriod)
		before := heartbeatIn(t, m.storage).Time
		periodic()
		if after := heartbeatIn(t, m.storage).Time; after.Sub(before) < heartbeatPeriod {
			t.Errorf("%v after %v", after, before)
		}
	}
	if !sparesAllowed(t, m, "alice") {
		t.Error("no spares")
	}
	// Storage is exchanged under the running process: the next heartbeat sees it.
	older := snapshot(t, m.storage)
	at.add(heartbeatPeriod)
	periodic()
	for _, k := range keys(t, older) {
		e, _ := older.Get(t.Context(), k)
		if err := m.storage.Put(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	at.add(heartbeatPeriod)
	periodic()
	if sparesAllowed(t, m, "alice") {
		t.Error("spares although storage was exchanged")
	}
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	at.add(heartbeatPeriod)
	periodic()
	if !sparesAllowed(t, m, "alice") {
		t.Error("no spares after the refresh")
	}
}

// TestBeatAfterFailedWrites: a write that failed may have taken effect or not;
// neither looks like a restore.
func TestBeatAfterFailedWrites(t *testing.T) {
	for _, late := range []bool{false, true} {
		c := &flaky{Storage: &logical.InmemStorage{}}
		m := open(t, c, newFake(t))
		configure(m)
		m.create("alice", "bip340-secp256k1")
		c.set(true, late)
		if err := m.b.spares.beat(t.Context()); err == nil {
			t.Fatal("the storage works")
		}
		c.set(false, false)
		for range 2 {
			if err := m.b.spares.beat(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !sparesAllowed(t, m, "alice") {
			t.Errorf("late=%v: taken for a restore", late)
		}
	}
}

// flaky is a storage that can stop working for a while.
type flaky struct {
	logical.Storage
	mu         sync.Mutex
	fail, late bool
	noReads    string // a key that cannot be read
	noWrites   string // and one that cannot be written
}

func (f *flaky) set(fail, late bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.late = fail, late
}

func (f *flaky) Put(ctx context.Context, e *logical.StorageEntry) error {
	f.mu.Lock()
	fail, late := f.fail || f.noWrites == e.Key, f.late
	f.mu.Unlock()
	if !fail || late {
		if err := f.Storage.Put(ctx, e); err != nil {
			return err
		}
	}
	if fail {
		return errors.New("storage does not answer")
	}
	return nil
}

func (f *flaky) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	f.mu.Lock()
	fail := f.noReads == key
	f.mu.Unlock()
	if fail {
		return nil, errors.New("storage does not answer")
	}
	return f.Storage.Get(ctx, key)
}

// TestUndecided: as long as the heartbeat cannot be read there are no spares,
// and everything else works.
func TestUndecided(t *testing.T) {
	for name, damage := range map[string]func(*flaky){
		"unreadable": func(f *flaky) { f.noReads = keyHeartbeat },
		"damaged marker": func(f *flaky) {
			_ = f.Storage.Put(context.Background(), &logical.StorageEntry{Key: keySpares, Value: []byte(`{"version":2}`)})
		},
		"newer": func(f *flaky) {
			_ = f.Storage.Put(context.Background(), &logical.StorageEntry{Key: keyHeartbeat, Value: []byte(`{"version":99}`)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake, f := newFake(t), &flaky{Storage: &logical.InmemStorage{}}
			m := open(t, f, fake)
			configure(m)
			m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1", "refresh_period": "8760h"})
			good, _ := f.Storage.Get(t.Context(), keyHeartbeat)
			m.b.Cleanup(t.Context())

			damage(f)
			m = open(t, f, fake)
			m.b.startBackground()
			if sparesAllowed(t, m, "alice") {
				t.Error("spares although nothing is known")
			}
			m.b.tasks.Wait()
			if name != "damaged marker" && !strings.Contains(m.logs.String(), "not known yet") {
				t.Errorf("log: %s", m.logs)
			}
			if name == "damaged marker" { // the way out that the text names
				m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, 500, "recovery/restored replaces it")
				if d := m.must(logical.UpdateOperation, "recovery/restored", nil); d["accounts_affected"] != 1 {
					t.Errorf("%v", d)
				}
				if sparesAllowed(t, m, "alice") {
					t.Error("spares after a declared restore")
				}
				m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
			} else {
				f.mu.Lock()
				f.noReads = ""
				f.mu.Unlock()
				if err := f.Storage.Put(t.Context(), good); err != nil {
					t.Fatal(err)
				}
			}
			if !sparesAllowed(t, m, "alice") {
				t.Error("no spares in the end")
			}
		})
	}
}

func TestDeclaredRestore(t *testing.T) {
	m := configured(t)
	if d := m.must(logical.UpdateOperation, "recovery/restored", nil); d["accounts_affected"] != 0 {
		t.Errorf("%v", d)
	}
	m.fails(logical.UpdateOperation, "recovery/restored", map[string]any{"x": 1}, 400, "takes no fields")
	for _, name := range []string{"alice", "bob"} {
		m.create(name, "bip340-secp256k1")
		if !sparesAllowed(t, m, name) {
			t.Errorf("%s, made after it, has no spares", name)
		}
	}
	d := m.must(logical.UpdateOperation, "recovery/restored", nil)
	if d["accounts_affected"] != 2 || d["declared_time"] == "" {
		t.Errorf("%v", d)
	}
	for _, name := range []string{"alice", "bob"} {
		if sparesAllowed(t, m, name) {
			t.Errorf("%s has spares", name)
		}
	}
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	if !sparesAllowed(t, m, "alice") || sparesAllowed(t, m, "bob") {
		t.Error("the refresh of one account is not about that account")
	}
	// Back to an epoch of the time before: its exposures are as doubtful as ever.
	m.must(logical.UpdateOperation, "recovery/restored", nil)
	m.fake.garbage = true
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, 500, "keeps the shares it has")
	if sparesAllowed(t, m, "alice") {
		t.Error("spares after a refresh that was rolled back")
	}
	// A snapshot from before the first restore brings no old permission back.
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	if !sparesAllowed(t, m, "alice") {
		t.Error("no spares after the refresh")
	}
	// Another server declares it.
	other := bareStore(m.storage)
	if _, err := other.spares.declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.b.InvalidateKey(t.Context(), keySpares)
	if sparesAllowed(t, m, "alice") {
		t.Error("the marker was cached past its invalidation")
	}
}

// TestDeclaredDuringSign: a signature that was allowed a spare a moment ago.
func TestDeclaredDuringSign(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	v, _ := m.b.store.signable(t.Context(), "alice")
	a, err := m.b.store.forUse(t.Context(), v)
	if err != nil || a.NoSpares {
		t.Fatal(err)
	}
	m.must(logical.UpdateOperation, "recovery/restored", nil)
	before := len(keys(t, m.storage))
	if err := m.b.expose("alice", &a.Record)(t.Context(), mpc.Exposures{nodeIdentity(5): 2}); !errors.Is(err, errEpochChanged) {
		t.Errorf("a spare got a share: %v", err)
	}
	if err := m.b.expose("alice", &a.Record)(t.Context(), mpc.Exposures{nodeIdentity(2): 2}); err != nil {
		t.Errorf("a node that has the share: %v", err)
	}
	if len(keys(t, m.storage)) != before {
		t.Error("an exposure was written")
	}
	m.fake.spare = true
	if _, _, err := m.b.signAccount(t.Context(), m.fake, "alice", false, a, &message{input: []byte("x"), kind: mpc.MessageRaw, hash: mpc.HashNone}); err != nil {
		t.Errorf("not signed by the nodes that are known: %v", err)
	}
}

// TestDeclaredDuringRefresh: the new epoch began with the old marker.
func TestDeclaredDuringRefresh(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	done := make(chan int)
	go func() {
		_, status, _ := m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
		done <- status
	}()
	<-m.fake.entered
	m.must(logical.UpdateOperation, "recovery/restored", nil)
	close(m.fake.block)
	if status := <-done; status != 200 {
		t.Fatalf("refresh: %d", status)
	}
	m.fake.block, m.fake.entered = nil, nil
	if sparesAllowed(t, m, "alice") {
		t.Error("a refresh that began before the restore was declared lifts it")
	}
}

func TestCrashDuringRestore(t *testing.T) {
	crashEverywhere(t, withAccount,
		func(m *mount) { m.do(logical.UpdateOperation, "recovery/restored", nil) },
		func(t *testing.T, m *mount) {
			sparesAllowed(t, m, "alice")
			m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
			alive(t, m)
		})
	// The process dies between the marker and the new heartbeat.
	crashEverywhere(t,
		func(m *mount) {
			withAccount(m)
			m.b.Cleanup(t.Context())
			if err := m.storage.Delete(t.Context(), keyHeartbeat); err != nil {
				t.Fatal(err)
			}
		},
		func(m *mount) { _ = m.b.spares.decide(t.Context()) },
		func(t *testing.T, m *mount) {
			if sparesAllowed(t, m, "alice") {
				t.Error("a crash brought spares back")
			}
		})
}

// TestOnlyTheActiveServerDecides: others read accounts and do not speak of what
// they do not know.
func TestOnlyTheActiveServerDecides(t *testing.T) {
	storage, fake := &logical.InmemStorage{}, newFake(t)
	m := open(t, storage, fake)
	configure(m)
	m.create("alice", "ecdsa-secp256k1")
	m.b.Cleanup(t.Context())
	before := fmt.Sprint(heartbeatIn(t, storage))
	standby := open(t, storage, fake)
	standby.b.System().(*systemView).SystemView.(*logical.StaticSystemView).ReplicationStateVal = consts.ReplicationPerformanceStandby
	standby.b.startBackground()
	standby.b.beat()
	standby.b.tasks.Wait()
	d := standby.must(logical.ReadOperation, "accounts/alice", nil)
	if d["spares_allowed"] != nil || d["presignatures"] != nil || d["presign"] != 0 {
		t.Errorf("%v", d)
	}
	if standby.must(logical.UpdateOperation, "accounts/alice/derive", map[string]any{"derivation_path": "m/1"})["public_key_hex"] == "" {
		t.Error("no child")
	}
	if fmt.Sprint(heartbeatIn(t, storage)) != before {
		t.Error("a standby wrote the heartbeat")
	}
}
