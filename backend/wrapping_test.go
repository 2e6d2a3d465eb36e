package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

const longPeriod = "8760h"

// wrapped is a mount with a token, a clock, two accounts that are refreshed
// once a year and the keys of a node, all read.
func wrapped(t *testing.T, storage logical.Storage, fake *fakeEngine, at *clock, change ...func(*Config)) *mount {
	t.Helper()
	m := openWith(t, storage, fake, func(c *Config) {
		c.now = at.now
		for _, f := range change {
			f(c)
		}
	})
	if d, _, _ := m.do(logical.ReadOperation, "config/hsm", nil); d == nil {
		configure(m)
		for _, name := range []string{"alice", "bob"} {
			m.must(logical.UpdateOperation, "accounts/"+name, map[string]any{"algorithm": "bip340-secp256k1", "refresh_period": longPeriod})
		}
		if err := m.b.store.PutNodeKeys(t.Context(), "local-1", nodeKeys(1)); err != nil {
			t.Fatal(err)
		}
	}
	m.read()
	return m
}

func nodeKeys(version uint32) *pool.NodeKeys {
	return &pool.NodeKeys{Identity: nodeIdentity(1), IdentityEnvelope: fakeEnvelope([]byte("seed"), version),
		Aux: &pool.AuxKeys{Generation: 1, Public: []byte("p"), Envelope: fakeEnvelope([]byte("aux"), version)}}
}

// read has everything read, as the rotation runner does at the start.
func (m *mount) read() {
	m.t.Helper()
	if _, err := m.b.Schedule(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mount) pass() { m.b.wrappingPass(context.Background()) }

func (m *mount) rotate() uint32 {
	m.t.Helper()
	return uint32(m.must(logical.UpdateOperation, "wrapping-keys/rotate", nil)["version"].(int64))
}

func (m *mount) version(v uint32) map[string]any {
	m.t.Helper()
	return m.must(logical.ReadOperation, fmt.Sprintf("wrapping-keys/%d", v), nil)
}

// references returns "accounts/node keys" that refer to a version.
func (m *mount) references(v uint32) string {
	m.t.Helper()
	r := m.version(v)["references"].(map[string]any)
	return fmt.Sprintf("%v/%v", r["accounts"], r["node_keys"])
}

func (m *mount) rewrap(name string) {
	m.t.Helper()
	if _, err := m.b.RewrapAccount(m.t.Context(), name); err != nil {
		m.t.Fatalf("rewrapping %s: %v", name, err)
	}
}

// damage writes an entry behind the backend's back, and remove removes one.
func (m *mount) damage(f *flaky, key, value string) {
	m.t.Helper()
	if err := f.Storage.Put(m.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mount) remove(f *flaky, key string) {
	m.t.Helper()
	if err := f.Storage.Delete(m.t.Context(), key); err != nil {
		m.t.Fatal(err)
	}
	m.b.store.invalidate(key)
	m.read()
}

func mustAccount(t *testing.T, r *accountRecord) *mpc.Account {
	t.Helper()
	a, err := r.Current.account()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (m *mount) record(name string) *accountRecord {
	m.t.Helper()
	r, err := m.b.store.account(m.t.Context(), name)
	if err != nil || r == nil {
		m.t.Fatal(name, err)
	}
	return r
}

// TestWrappingKeyLife follows a version from its making to its destruction.
func TestWrappingKeyLife(t *testing.T) {
	at, fake := newClock(), newFake(t)
	m := wrapped(t, &logical.InmemStorage{}, fake, at)
	if d := m.version(1); d["state"] != "live" || d["newest"] != true || d["suite"] != "hpke-p256" || d["retired_time"] != "" || m.references(1) != "2/1" {
		t.Fatalf("version 1: %v", d)
	}
	before := m.record("alice")
	if v := m.rotate(); v != 2 {
		t.Fatalf("version %d", v)
	}
	if d := m.version(1); d["state"] != "retired" || d["newest"] != false || d["retired_time"] == "" || d["destroy_after"] == "" {
		t.Errorf("version 1 after a rotation: %v", d)
	}
	if d := m.version(2); d["state"] != "live" || d["newest"] != true || !strings.HasSuffix(d["label"].(string), " v2") {
		t.Errorf("version 2: %v", d)
	}
	if keys := fake.applied[len(fake.applied)-1].WrappingKeys; len(keys) != 2 || keys[1].Version != 2 {
		t.Errorf("nodes have %v", keys)
	}
	m.signs("alice") // under the old key
	m.create("carol", "ed25519")
	m.must(logical.UpdateOperation, "accounts/bob/refresh", nil)
	if m.references(1) != "1/1" || m.references(2) != "2/0" {
		t.Errorf("references: %s and %s", m.references(1), m.references(2))
	}

	m.rewrap("alice")
	after := m.record("alice")
	if !bytes.Equal(after.Current.Record, before.Current.Record) || !after.Current.Started.Equal(before.Current.Started) || after.Previous != nil {
		t.Error("a rewrap changed more than envelopes")
	}
	if after.Current.WrappingVersion != 2 || after.Current.Rewrapped.IsZero() || bytes.Equal(after.Current.Shares[0], before.Current.Shares[0]) {
		t.Errorf("version %d at %v", after.Current.WrappingVersion, after.Current.Rewrapped)
	}
	if d := m.must(logical.ReadOperation, "accounts/alice", nil); d["wrapping_version"] != 2 || d["last_rewrap_time"] == "" || d["last_rewrap_error"] != "" {
		t.Errorf("alice: %v", d)
	}
	m.signs("alice")
	rewraps := fake.rewraps
	m.rewrap("alice")
	if fake.rewraps != rewraps {
		t.Error("rewrapped twice")
	}

	m.pass() // the nodes' keys follow
	if m.references(1) != "0/0" || m.references(2) != "3/1" || fake.nodeRewraps != 1 {
		t.Errorf("references: %s and %s", m.references(1), m.references(2))
	}
	m.pass()
	if m.version(1)["state"] != "retired" || fake.nodeRewraps != 1 {
		t.Error("destroyed before its time, or nodes' keys resealed twice")
	}
	at.add(defaultRetireAfter)
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0}) // no version 3 yet
	m.pass()
	if d := m.version(1); d["state"] != "destroyed" || d["destroyed_time"] == "" || d["last_error"] != "" {
		t.Fatalf("version 1: %v\n%s", d, m.logs)
	}
	if len(fake.token) != 1 {
		t.Errorf("%d keys in the token", len(fake.token))
	}
	old, _ := before.Current.account()
	if fake.OpenCheck(t.Context(), *old) == nil {
		t.Error("an envelope under a destroyed key opens")
	}
	if keys := fake.applied[len(fake.applied)-1].WrappingKeys; len(keys) != 1 || keys[0].Version != 2 {
		t.Errorf("nodes have %v", keys)
	}
	list := m.must(logical.ListOperation, "wrapping-keys/", nil)
	if fmt.Sprint(list["keys"]) != "[1 2]" || list["key_info"].(map[string]any)["1"].(map[string]any)["state"] != "destroyed" {
		t.Errorf("list: %v", list)
	}
	if v := m.rotate(); v != 3 {
		t.Errorf("after 2 comes %d", v)
	}
	for _, name := range []string{"alice", "bob", "carol"} {
		m.signs(name)
	}
	m.fails(logical.ReadOperation, "wrapping-keys/9", nil, 404, "no version 9")
	m.fails(logical.ReadOperation, "wrapping-keys/99999999999999999999", nil, 404, "no version")
}

// TestRewrapClock: the clock makes versions, and accounts are told to follow.
func TestRewrapClock(t *testing.T) {
	at, fake := newClock(), newFake(t)
	m := wrapped(t, &logical.InmemStorage{}, fake, at)
	d := m.must(logical.ReadOperation, "config/rotation", nil)
	made, _ := time.Parse(time.RFC3339Nano, m.version(1)["created_time"].(string))
	if next, _ := time.Parse(time.RFC3339Nano, d["next_rewrap"].(string)); !next.Equal(made.Add(24 * time.Hour)) {
		t.Errorf("next rewrap %v after %v", next, made)
	}
	m.pass()
	if fake.made != 1 {
		t.Fatal("a version was made before its time")
	}
	at.add(24 * time.Hour)
	fake.makeErr = pool.ErrHSMUnavailable
	m.pass()
	m.pass() // waits after a failure
	d = m.must(logical.ReadOperation, "config/rotation", nil)
	if e := d["rewrap"].(map[string]any)["last_error"].(map[string]any); !strings.Contains(fmt.Sprint(e["error"]), "HSM unavailable") {
		t.Errorf("last error: %v", d["rewrap"])
	}
	if n := strings.Count(m.logs.String(), "no version was added"); n != 1 {
		t.Errorf("tried %d times", n)
	}
	fake.makeErr = nil
	at.add(keeperBackoffMin)
	m.pass()
	d = m.must(logical.ReadOperation, "config/rotation", nil)
	wrap := d["rewrap"].(map[string]any)
	if m.version(2)["state"] != "live" || fmt.Sprint(wrap["version"], wrap["done"], wrap["total"], len(wrap["last_error"].(map[string]any))) != "2 0 2 0" {
		t.Fatalf("after a day: %v\n%s", wrap, m.logs)
	}
	// They are refreshed in a year, so a rewrap within the hour is due.
	a := m.must(logical.ReadOperation, "accounts/alice", nil)
	next, err := time.Parse(time.RFC3339Nano, a["next_rewrap_time"].(string))
	if err != nil || next.Sub(at.now()) > time.Hour {
		t.Errorf("alice is rewrapped at %v", a["next_rewrap_time"])
	}
	m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"refresh_period": "10s"})
	if b := m.must(logical.ReadOperation, "accounts/bob", nil); b["next_rewrap_time"] != "" {
		t.Errorf("bob is rewrapped at %v, and refreshed before that", b["next_rewrap_time"])
	}
	// By hand only.
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0})
	at.add(1000 * time.Hour)
	m.pass()
	if d := m.must(logical.ReadOperation, "config/rotation", nil); fake.made != 2 || d["next_rewrap"] != "" {
		t.Errorf("%d versions, next %v", fake.made, d["next_rewrap"])
	}
}

// TestRunnerFollows: the real goroutines bring accounts to a new version.
func TestRunnerFollows(t *testing.T) {
	fake := newFake(t)
	m := openWith(t, &logical.InmemStorage{}, fake, func(c *Config) {
		c.now, c.rotationInterval, c.wrappingInterval = time.Now, 10*time.Millisecond, 10*time.Millisecond
	})
	configure(m)
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"retire_after": "1s", "rewrap_period": 0})
	for _, name := range []string{"alice", "bob"} {
		m.must(logical.UpdateOperation, "accounts/"+name, map[string]any{"algorithm": "ed25519", "refresh_period": longPeriod})
	}
	m.b.startBackground()
	m.rotate()
	for end := time.Now().Add(30 * time.Second); m.version(1)["state"] != "destroyed"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("version 1 stays: %v\n%s", m.version(1), m.logs)
		}
	}
	d := m.must(logical.ReadOperation, "config/rotation", nil)
	if wrap := d["rewrap"].(map[string]any); wrap["done"] != 2 || wrap["rewrapped_total"] != int64(2) || d["accounts"] != 2 {
		t.Errorf("%v", d)
	}
	m.signs("alice")
	m.signs("bob")
}

// TestDestructionIsRefused: everything that stands in its way.
func TestDestructionIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		hinder func(*mount, *flaky)
		text   string // in last_error; empty where waiting is the normal thing
		help   func(*mount, *flaky)
	}{
		"an account": {
			hinder: func(m *mount, _ *flaky) { m.must(logical.UpdateOperation, "accounts/bob", nil) },
			help:   func(m *mount, _ *flaky) { m.rewrap("bob") },
		},
		"an account that cannot be read": {
			hinder: func(m *mount, f *flaky) {
				m.rewrap("bob")
				m.damage(f, prefixAccounts+"mallory", `{"version":99}`)
				m.read()
			},
			text: "accounts/mallory cannot be read",
			help: func(m *mount, f *flaky) { m.remove(f, prefixAccounts+"mallory") },
		},
		"an account that the index does not know": {
			hinder: func(m *mount, f *flaky) {
				m.rewrap("bob")
				other := bareStore(f.Storage)
				r := m.record("bob")
				hash := mustAccount(m.t, r).Record.Hash()
				for i := range r.Current.Shares {
					r.Current.Shares[i] = envelope(1, hash, 1)
				}
				if err := other.putAccount(m.t.Context(), "zoe", r); err != nil {
					m.t.Fatal(err)
				}
			},
			text: "1 accounts and 0 nodes' keys refer to it, among them accounts/zoe",
			help: func(m *mount, f *flaky) { m.remove(f, prefixAccounts+"zoe") },
		},
		"damaged keys of a node": {
			hinder: func(m *mount, f *flaky) {
				m.rewrap("bob")
				m.damage(f, prefixNodeKeys+"local-9", `{"version":3,"identity":"x"}`)
				m.read()
			},
			text: "node-keys/local-9 cannot be read",
			help: func(m *mount, f *flaky) { m.remove(f, prefixNodeKeys+"local-9") },
		},
		"storage that does not answer": {
			hinder: func(m *mount, f *flaky) { m.rewrap("bob"); f.noReads = prefixAccounts + "alice" },
			text:   "an account could not be read",
			help:   func(_ *mount, f *flaky) { f.noReads = "" },
		},
		"a write that failed": {
			hinder: func(m *mount, _ *flaky) {
				r := m.record("bob")
				m.rewrap("bob")
				// A write of the old shares may still take effect.
				done, err := m.b.store.refs.begin(prefixAccounts+"bob", r)
				if err != nil {
					m.t.Fatal(err)
				}
				done(errors.New("no answer"))
			},
			help: func(m *mount, _ *flaky) { m.must(logical.UpdateOperation, "accounts/bob", nil) },
		},
		"a token that is away": {
			hinder: func(m *mount, _ *flaky) { m.rewrap("bob"); m.fake.destroyErr = pool.ErrHSMUnavailable },
			text:   "not known to be gone from the token",
			help:   func(m *mount, _ *flaky) { m.fake.destroyErr = nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			at, fake, f := newClock(), newFake(t), &flaky{Storage: &logical.InmemStorage{}}
			m := wrapped(t, f, fake, at)
			m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0})
			m.rotate()
			m.rewrap("alice")
			m.pass()
			c.hinder(m, f)
			at.add(defaultRetireAfter)
			m.pass()
			d := m.version(1)
			if d["state"] == "destroyed" || len(fake.token) != 2 {
				t.Fatalf("destroyed: %v", d)
			}
			if !strings.Contains(d["last_error"].(string), c.text) || c.text == "" && d["last_error"] != "" {
				t.Errorf("last error: %q, want %q", d["last_error"], c.text)
			}
			// What waits for it can still be opened and written.
			if fake.destroyErr == nil && d["state"] != "retired" {
				t.Errorf("state %v", d["state"])
			}
			c.help(m, f)
			at.add(keeperBackoffMax)
			m.pass()
			if d := m.version(1); d["state"] != "destroyed" || len(fake.token) != 1 {
				t.Errorf("not destroyed in the end: %v\n%s", d, m.logs)
			}
			m.signs("alice")
			m.signs("bob")
		})
	}
}

// TestDoomedVersion: a write that refers to a version that is being destroyed is
// refused, and one under way is waited for.
func TestDoomedVersion(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	refs := m.b.store.refs
	done, err := refs.begin(prefixAccounts+"alice", m.record("alice"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := refs.doom(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("doomed during a write: %v", err)
	}
	m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 0}) // not doomed after all
	waited := make(chan error, 1)
	go func() { waited <- refs.doom(context.Background(), 1) }()
	for refused := false; !refused; time.Sleep(time.Millisecond) { // until it is doomed
		_, status, _ := m.do(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 0})
		refused = status == http.StatusConflict
	}
	select {
	case err := <-waited:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	done(nil)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 0}, http.StatusConflict, "version 1 of the wrapping key, which is being destroyed")
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"algorithm": "ed25519"}, http.StatusConflict, "being destroyed")
	if err := m.b.store.PutNodeKeys(t.Context(), "local-2", nodeKeys(1)); err == nil {
		t.Error("a node's keys were stored under a doomed version")
	}
	m.signs("bob")
	refs.undoom(1)
	m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 0})
}

// TestTooManyVersions: 64 versions that are not destroyed are enough.
func TestTooManyVersions(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	for range maxLiveVersions - 1 {
		m.rotate()
	}
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, http.StatusConflict, "64 versions that are not destroyed")
	if len(m.fake.token) != maxLiveVersions {
		t.Errorf("%d keys in the token", len(m.fake.token))
	}
	m.signs("alice")
}

// TestTombstones: a bounded number stays, and no number is used again.
func TestTombstones(t *testing.T) {
	at := newClock()
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), at)
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"retire_after": 1, "rewrap_period": 0})
	for i := range maxTombstones + 5 {
		if v := m.rotate(); v != uint32(i+2) {
			t.Fatalf("version %d", v)
		}
		m.rewrap("alice")
		m.rewrap("bob")
		m.pass()
		at.add(2 * time.Second)
		m.pass()
	}
	ring, err := m.b.store.keyring(t.Context())
	if err != nil || len(ring.records) != maxTombstones+1 || len(m.fake.token) != 1 {
		t.Errorf("%d records, %d keys in the token, %v", len(ring.records), len(m.fake.token), err)
	}
}

// TestRotateRefuses: what a node returns is checked, and the suite is the one of
// config/hsm.
func TestRotateRefuses(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 400, "no HSM is configured")
	configure(m)
	m.fake.makeErr = fmt.Errorf("no such mechanism")
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 500, "no version was added")
	// Who asked was told, and nothing is going to be tried again.
	if why, at := m.b.keeper.failure(chore{what: choreMake}); why != "" || !at.IsZero() {
		t.Errorf("the keeper keeps a failure that is the caller's: %s", why)
	}
	m.fake.makeErr = nil
	for name, spoil := range map[string]func(*hsm.WrappingKey){
		"version":    func(k *hsm.WrappingKey) { k.Version++ },
		"domain":     func(k *hsm.WrappingKey) { k.Domain = "eu" },
		"suite":      func(k *hsm.WrappingKey) { k.Suite = 77 },
		"public key": func(k *hsm.WrappingKey) { k.PublicKey = make([]byte, 65) },
		"key ID":     func(k *hsm.WrappingKey) { k.ID = nil },
	} {
		m.fake.makeMismatch = spoil
		m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 500, "no version was added")
		if list := m.must(logical.ListOperation, "wrapping-keys/", nil); len(list["keys"].([]string)) != 1 {
			t.Errorf("%s: stored all the same", name)
		}
	}
	m.fake.makeMismatch = nil
	// The keys that those attempts left are reported and not used.
	resp, status, msg := m.do(logical.UpdateOperation, "wrapping-keys/rotate", nil)
	if status != 200 || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "they are not used and stay") {
		t.Fatalf("%d %s %+v", status, msg, resp)
	}
	m.fake.down = true
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 503, "0 of 5 nodes are ready")
	m.fake.down = false

	// One at a time, also with config/hsm.
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	ended := make(chan int)
	go func() {
		_, status, _ := m.do(logical.UpdateOperation, "wrapping-keys/rotate", nil)
		ended <- status
	}()
	<-m.fake.entered
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 409, "is being made or destroyed")
	m.fails(logical.UpdateOperation, "config/hsm", map[string]any{"pin": testPIN}, 409, "waits while a wrapping key is made")
	close(m.fake.block)
	if status := <-ended; status != 200 {
		t.Error(status)
	}
}

// TestSlowToken: a key that takes longer than a request may is made all the
// same, and the caller is told.
func TestSlowToken(t *testing.T) {
	m := configured(t)
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan string)
	go func() {
		resp, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "wrapping-keys/rotate", Storage: m.storage})
		status, msg := answer(resp, err)
		ended <- fmt.Sprint(status, msg)
	}()
	<-m.fake.entered
	cancel()
	if s := <-ended; !strings.HasPrefix(s, "409") || !strings.Contains(s, "still making the key") {
		t.Error(s)
	}
	close(m.fake.block)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, status, _ := m.do(logical.ReadOperation, "wrapping-keys/2", nil); status == 200 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the version was not made")
		}
	}
}

// TestFailedVersionNumber: whether a version was stored is not known, so its
// number is not used again in this process.
func TestFailedVersionNumber(t *testing.T) {
	f := &flaky{Storage: &logical.InmemStorage{}}
	m := wrapped(t, f, newFake(t), newClock())
	f.noWrites = wrappingKey(2)
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 500, "the wrapping key that was made is not used")
	f.noWrites = ""
	if v := m.rotate(); v != 3 {
		t.Errorf("version %d", v)
	}
}

func TestRewrapRefuses(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.rotate()
	before := m.record("alice")
	for text, spoil := range map[string]func(*pool.RewrapResult){
		"sealed to version 1":     func(r *pool.RewrapResult) { r.WrappingVersion = 1 },
		"2 of 3 shares":           func(r *pool.RewrapResult) { r.Shares = r.Shares[1:] },
		"no usable envelope":      func(r *pool.RewrapResult) { r.Shares[0], r.Shares[1] = r.Shares[1], r.Shares[0] },
		"not sealed to version 2": func(r *pool.RewrapResult) { r.Shares[2].Envelope = before.Current.Shares[2] },
		"version 2 of the wrapping key alone": func(r *pool.RewrapResult) {
			r.Shares[2].Envelope = fakeEnvelope([]byte("x"), 1, 2)
		},
	} {
		m.fake.rewrapMismatch = spoil
		if _, err := m.b.RewrapAccount(t.Context(), "alice"); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
		if r := m.record("alice"); r.Previous != nil || !slices.EqualFunc(r.Current.Shares, before.Current.Shares, bytes.Equal) {
			t.Fatalf("%q: stored all the same", text)
		}
	}
	m.fake.rewrapMismatch = nil
	if _, err := m.b.RewrapAccount(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "no longer exists") {
		t.Errorf("an account that is gone: %v", err)
	}

	// A resealed share that does not open is taken back; so is a check that
	// could not be made kept open.
	m.fake.garbage = true
	if _, err := m.b.RewrapAccount(t.Context(), "alice"); !errors.Is(err, errRolledBack) {
		t.Errorf("garbage: %v", err)
	}
	if r := m.record("alice"); r.Previous != nil || !slices.EqualFunc(r.Current.Shares, before.Current.Shares, bytes.Equal) || r.Current.WrappingVersion != 1 {
		t.Error("garbage stayed")
	}
	m.signs("alice")
	m.fake.openErr = errors.New("no answer")
	var unsettled *unsettledError
	if _, err := m.b.RewrapAccount(t.Context(), "alice"); !errors.As(err, &unsettled) {
		t.Errorf("unchecked: %v", err)
	}
	if m.references(1) != "2/1" || m.references(2) != "1/0" {
		t.Errorf("references: %s and %s", m.references(1), m.references(2))
	}
	m.signs("alice")
	m.fake.openErr = nil
	m.rewrap("alice")
	if m.record("alice").Previous != nil || m.references(1) != "1/1" {
		t.Error("not settled")
	}
}

// TestUnsettledRewrapSigns: a resealed share does not open and most nodes are
// away, so that nothing can be checked. The account signs with its old
// envelopes.
func TestUnsettledRewrapSigns(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.rotate()
	m.fake.garbage, m.fake.openErr = true, &pool.TooFewNodesError{Ready: 2, Needed: 3, Configured: 5}
	if _, err := m.b.RewrapAccount(t.Context(), "alice"); err == nil {
		t.Fatal("settled without nodes")
	}
	if r := m.record("alice"); !r.sameEpoch() || !scheduleOf("alice", r).Unsettled {
		t.Fatal("the old envelopes are gone")
	}
	m.signs("alice")
	if r := m.record("alice"); r.Previous != nil || r.Current.WrappingVersion != 1 {
		t.Error("the account did not go back")
	}
	m.fake.openErr = nil
	m.rewrap("alice")
	m.signs("alice")
}

// TestRewrapKeepsExposures: a node that got a share for a rewrap is remembered,
// also when the rewrap is taken back.
func TestRewrapKeepsExposures(t *testing.T) {
	for _, garbage := range []bool{false, true} {
		m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
		m.rotate()
		m.fake.spare, m.fake.garbage = true, garbage
		if _, err := m.b.RewrapAccount(t.Context(), "alice"); (err != nil) != garbage {
			t.Fatal(err)
		}
		a, err := m.b.store.usable(t.Context(), m.record("alice"))
		if err != nil || a.Exposures[nodeIdentity(4)] != 1 {
			t.Errorf("garbage=%v: %v %v", garbage, a.Exposures, err)
		}
		alive(t, m)
	}
}

// TestPresignaturesSurviveRewrap: nothing of a presignature depends on an
// envelope.
func TestPresignaturesSurviveRewrap(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.must(logical.UpdateOperation, "accounts/eve", map[string]any{"algorithm": "ecdsa-secp256k1", "refresh_period": longPeriod})
	a, err := m.b.store.usable(t.Context(), m.record("eve"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.fake.Presign(t.Context(), pool.PresignRequest{Account: *a, Lifetime: time.Hour, Expose: m.b.expose("eve", &a.Record)}); err != nil {
		t.Fatal(err)
	}
	m.rotate()
	m.rewrap("eve")
	if d := m.must(logical.ReadOperation, "accounts/eve", nil); d["presignatures"] != 1 {
		t.Errorf("%v presignatures", d["presignatures"])
	}
	if d := m.signs("eve"); d["presigned"] != true {
		t.Error("signed without it")
	}
}

// TestManyMeetGarbage: several signatures meet a share that does not open at
// once. One settles, the others wait for it, and all are answered.
func TestManyMeetGarbage(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.rotate()
	m.fake.garbage, m.fake.openErr = true, errors.New("no answer")
	if _, err := m.b.RewrapAccount(t.Context(), "alice"); err == nil {
		t.Fatal("settled without nodes")
	}
	m.fake.openErr = nil
	release, err := m.b.busy.reserve(prefixAccounts+"alice", "is being refreshed")
	if err != nil {
		t.Fatal(err)
	}
	statuses := make(chan string, 8)
	for range cap(statuses) {
		go func() {
			_, status, msg := m.do(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="})
			statuses <- fmt.Sprint(status, msg)
		}()
	}
	select {
	case s := <-statuses:
		t.Errorf("answered while the account was reserved: %s", s)
		statuses <- s
	case <-time.After(50 * time.Millisecond):
	}
	release()
	for range cap(statuses) {
		if s := <-statuses; s != "200" {
			t.Error(s)
		}
	}
}
