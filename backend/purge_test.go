package backend

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// aged is a mount with a clock that can be set and one that cannot.
type aged struct {
	*mount
	clock *clock
	up    time.Duration
}

func (a *aged) open(t *testing.T, storage logical.Storage, fake *fakeEngine) {
	a.up = 0
	a.mount = openWith(t, storage, fake, func(c *Config) {
		c.now, c.elapsed = a.clock.now, func() time.Duration { return a.up }
	})
}

func newAged(t *testing.T) *aged {
	a := &aged{clock: newClock()}
	a.open(t, &logical.InmemStorage{}, newFake(t))
	configure(a.mount)
	a.create("alice", "ed25519")
	a.create("bob", "ed25519")
	return a
}

// live lets time pass and looks every minute, as Vault has it.
func (a *aged) live(d time.Duration) {
	a.t.Helper()
	for ; d > 0; d -= time.Minute {
		a.clock.add(time.Minute)
		a.up += time.Minute
		a.look()
	}
}

func (a *aged) look() {
	a.t.Helper()
	if err := a.b.spares.beat(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.b.tend(true)
}

func (a *aged) there(name string) bool {
	a.t.Helper()
	_, status, _ := a.do(logical.ReadOperation, "accounts/"+name, nil)
	return status == http.StatusOK
}

func (a *aged) wants(what string, there bool) {
	a.t.Helper()
	if a.there("alice") != there {
		a.t.Errorf("%s: alice is there: %v", what, !there)
	}
	if !a.there("bob") {
		a.t.Fatalf("%s: bob is gone", what)
	}
}

// due lets a deleted account's time pass in one go, for tests of the steps.
func (m *mount) due(at *clock, name string) {
	r := m.record(name)
	up := time.Duration(0)
	m.b.cfg.elapsed = func() time.Duration { return up }
	at.add(r.Deleted.Destroy.Sub(at.now()))
	m.b.tend(true)
	for range 2 { // an hour, or what is left of a hold after a restore
		up += restoreGrace
		at.add(restoreGrace)
		m.b.tend(true)
	}
}

func TestPurge(t *testing.T) {
	a := newAged(t)
	a.fake.spare = true
	a.signs("alice") // has exposures
	a.must(logical.DeleteOperation, "accounts/alice", nil)
	a.live(defaultDeletionWait - time.Minute)
	a.wants("a minute before its time", true)
	a.live(purgeGrace)
	a.wants("within the hour", true)
	a.live(3 * time.Minute)
	a.wants("after its time", false)
	if left := strings.Join(keys(t, a.storage), " "); strings.Contains(left, prefixExposures) {
		t.Errorf("left: %s", left)
	}
	a.signs("bob")
	a.create("alice", "ed25519")
	a.live(48 * time.Hour)
	a.wants("made anew", true)
}

func TestPurgeWaits(t *testing.T) {
	t.Run("restored in time", func(t *testing.T) {
		a := newAged(t)
		a.update("config/accounts", map[string]any{"deletion_wait": "1m"})
		a.must(logical.DeleteOperation, "accounts/alice", nil)
		a.live(defaultDeletionWait / 2)
		if a.there("alice") {
			t.Fatal("a minute is over")
		}
		a.create("alice", "ed25519")
		a.must(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": "168h"})
		a.live(100 * time.Hour)
		a.update("accounts/alice/restore", nil)
		a.live(100 * time.Hour)
		a.wants("restored", true)
		a.must(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": "168h"})
		a.live(100 * time.Hour)
		a.wants("deleted anew", true)
		a.update("accounts/alice/restore", nil)
	})
	t.Run("frozen", func(t *testing.T) {
		a := newAged(t)
		a.must(logical.DeleteOperation, "accounts/alice", nil)
		a.live(time.Hour)
		a.update("accounts/alice/freeze", nil)
		a.live(2 * defaultDeletionWait)
		a.wants("frozen", true)
		if back := a.update("accounts/alice/restore", nil); back["state"] != "frozen" {
			t.Errorf("restored: %v", back["state"])
		}
		a.update("accounts/alice/unfreeze", nil)
		a.must(logical.DeleteOperation, "accounts/alice", nil)
		a.live(defaultDeletionWait + 2*purgeGrace)
		a.wants("deleted anew, not frozen", false)
	})
	t.Run("a clock that is ahead", func(t *testing.T) {
		a := newAged(t)
		a.update("config/accounts", map[string]any{"deletion_wait": "1m"})
		a.must(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": "168h"})
		for range 5 {
			a.clock.add(1000 * time.Hour)
			a.live(purgeGrace - 2*time.Minute)
			a.wants("ahead", true)
			a.clock.add(-1000 * time.Hour)
			a.live(time.Minute)
		}
		a.live(100 * time.Hour)
		a.wants("set right", true)
		a.update("accounts/alice/restore", nil)
	})
	t.Run("restarts", func(t *testing.T) {
		a := newAged(t)
		a.update("config/accounts", map[string]any{"deletion_wait": "1m"})
		a.must(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": "168h"})
		a.live(168 * time.Hour)
		for range 10 {
			storage := a.storage
			a.b.Cleanup(t.Context())
			a.open(t, snapshot(t, storage), a.fake)
			a.read()
			a.live(purgeGrace - 2*time.Minute)
			a.wants("just started", true)
		}
		a.live(4 * time.Minute)
		a.wants("started an hour ago", false)
	})
	t.Run("short waits after a start", func(t *testing.T) {
		a := newAged(t)
		a.update("config/accounts", map[string]any{"deletion_wait": "1m"})
		a.must(logical.DeleteOperation, "accounts/alice", nil)
		a.live(time.Minute)
		storage := a.storage
		a.b.Cleanup(t.Context())
		a.open(t, snapshot(t, storage), a.fake)
		a.read()
		a.live(purgeQuiet - time.Minute)
		a.wants("just started", true)
		a.live(2 * time.Minute)
		a.wants("started minutes ago", false)
	})
	t.Run("restored storage", func(t *testing.T) {
		a := newAged(t)
		a.update("config/accounts", map[string]any{"deletion_wait": "1m"})
		a.must(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": "168h"})
		a.live(time.Hour)
		snap := snapshot(t, a.storage)
		// Weeks later somebody wants her back.
		a.b.Cleanup(t.Context())
		a.clock.add(2000 * time.Hour)
		a.open(t, snapshot(t, snap), a.fake)
		a.read()
		a.live(restoreGrace - time.Minute)
		a.wants("within a day of a restore", true)
		a.live(purgeGrace + 3*time.Minute)
		a.wants("a day after a restore", false)

		// The same while the server runs.
		for _, key := range keys(t, snap) {
			e, _ := snap.Get(t.Context(), key)
			if err := a.storage.Put(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			a.b.invalidate(t.Context(), key)
		}
		a.read()
		a.live(restoreGrace - time.Minute)
		a.wants("within a day of an exchange of storage", true)
		a.update("recovery/restored", nil)
		a.live(restoreGrace - time.Minute)
		a.wants("declared", true)
		a.live(purgeGrace + 3*time.Minute)
		a.wants("a day after", false)
	})
}

// TestPurgeCountsAnew: a clock that was right in between ends the hour of one
// account, whatever another one's time is.
func TestPurgeCountsAnew(t *testing.T) {
	start := time.Now()
	y := newGraveyard()
	y.set("alice", &accountRecord{ID: "1", Deleted: &deletedRecord{Time: start, Destroy: start.Add(1000 * time.Hour)}})
	y.set("bob", &accountRecord{ID: "2", Deleted: &deletedRecord{Time: start, Destroy: start.Add(100 * time.Hour)}})
	at := func(now, up time.Duration, want int) {
		t.Helper()
		if !y.anyPast(start.Add(now)) {
			t.Error("nothing is past")
		}
		if got := y.look(start.Add(now), up, time.Time{}); len(got) != want {
			t.Errorf("after %v: %v", up, got)
		}
	}
	at(2000*time.Hour, 1*time.Hour, 0)
	at(200*time.Hour, 90*time.Minute, 0) // set right
	at(2000*time.Hour, 2*time.Hour, 1)   // bob alone
	at(2000*time.Hour, 3*time.Hour, 2)
}

// TestPurgeSurprised: what is in storage counts, not what is remembered.
func TestPurgeSurprised(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*accountRecord)
		gone   bool
	}{
		"as it was":     {func(*accountRecord) {}, true},
		"restored":      {func(r *accountRecord) { r.Deleted = nil }, false},
		"another time":  {func(r *accountRecord) { r.Deleted.Destroy = r.Deleted.Destroy.Add(time.Hour) }, false},
		"deleted later": {func(r *accountRecord) { r.Deleted.Time = r.Deleted.Time.Add(time.Second) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAged(t)
			a.must(logical.DeleteOperation, "accounts/alice", nil)
			a.live(defaultDeletionWait + 30*time.Minute)
			r := a.record("alice")
			c.change(r)
			if err := a.b.store.putAccount(t.Context(), "alice", r); err != nil {
				t.Fatal(err)
			}
			a.live(40 * time.Minute)
			a.wants(name, !c.gone)
		})
	}
}

// TestPurgeTrouble: an account that cannot be removed is tried again, and others
// do not wait for it; many are done in turn.
func TestPurgeTrouble(t *testing.T) {
	a := newAged(t)
	s := &refusing{Storage: a.storage, key: prefixAccounts + "n-007"}
	a.b.Cleanup(t.Context())
	a.open(t, s, a.fake)
	for i := range purgeBatch + 20 {
		name := "n-" + string([]byte{'0' + byte(i/100), '0' + byte(i/10%10), '0' + byte(i%10)})
		a.create(name, "ed25519")
		a.must(logical.DeleteOperation, "accounts/"+name, nil)
	}
	a.live(defaultDeletionWait + time.Minute)
	s.refuses = true
	for minute := 0; len(keysUnder(t, a.mount, prefixAccounts)) == 2+purgeBatch+20 && minute < 100; minute++ {
		a.live(time.Minute)
	}
	if n := len(keysUnder(t, a.mount, prefixAccounts)); n != 2+20+1 {
		t.Errorf("%d accounts after one look", n)
	}
	a.live(time.Minute)
	if n := len(keysUnder(t, a.mount, prefixAccounts)); n != 2+1 {
		t.Errorf("%d accounts after two looks", n)
	}
	if !strings.Contains(a.logs.String(), "deleted accounts stay for now") {
		t.Error("nobody is told of the one that stays")
	}
	s.refuses = false
	a.live(time.Minute)
	if n := len(keysUnder(t, a.mount, prefixAccounts)); n != 2 {
		t.Errorf("%d accounts at the end", n)
	}
}

// refusing is a storage that does not delete one key.
type refusing struct {
	logical.Storage
	key     string
	refuses bool
}

func (s *refusing) Delete(ctx context.Context, key string) error {
	if s.refuses && key == s.key {
		return errors.New("no")
	}
	return s.Storage.Delete(ctx, key)
}
