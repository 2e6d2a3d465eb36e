package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// settle waits until locks are written.
func (m *mount) settleLocks() {
	m.t.Helper()
	for range 5000 {
		select {
		case m.b.lockTurn <- struct{}{}:
			due := m.b.limits.due()
			<-m.b.lockTurn
			if !due {
				return
			}
			m.b.writeLocks()
		default:
		}
		time.Sleep(time.Millisecond)
	}
	m.t.Fatal("locks are not written")
}

// fail begins n logins that are not finished and returns the last answer.
func (m *mount) fail(name string, n int) (status int, msg string) {
	m.t.Helper()
	l, ke1, err := identity.StartLogin(identity.NewSeed(), identity.NewID(), identity.DefaultKDF())
	m.ok(err)
	l.Wipe()
	for range n {
		challenge := m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": name, "kind": "password"})
		_, status, msg = m.send("login/start", map[string]any{"challenge": challenge["challenge"], "ke1": encode64(ke1)})
	}
	return status, msg
}

// TestRateLimit: names that exist and names that do not are locked after the same
// attempts for the same times and in the same words; writes are few, and none for
// the latter.
func TestRateLimit(t *testing.T) {
	m, clock, storage := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	m.settleLocks()
	steps := []struct {
		attempts int
		locked   string
		wait     time.Duration
	}{{5, "1m", time.Minute}, {5, "15m", 15 * time.Minute}, {10, "24h", 24 * time.Hour}, {10, "24h", 24 * time.Hour}}
	for _, name := range []string{"nobody", "alice"} {
		before := storage.writes()
		for i, s := range steps {
			if status, msg := m.fail(name, s.attempts); status != http.StatusOK {
				t.Fatalf("%s, step %d: refused too soon: %d %s", name, i, status, msg)
			}
			status, msg := m.fail(name, 3)
			if status != http.StatusForbidden || !strings.Contains(msg, "no more are taken for "+s.locked+".") {
				t.Errorf("%s, step %d: %d %s", name, i, status, msg)
			}
			clock.pass(s.wait - time.Second)
			if status, msg := m.fail(name, 1); status != http.StatusForbidden || !strings.Contains(msg, "for 1s.") {
				t.Errorf("%s, step %d, a second before its end: %d %s", name, i, status, msg)
			}
			m.settleLocks()
			clock.pass(time.Second)
		}
		want := 0
		if name == "alice" {
			want = len(steps)
		}
		if n := storage.writes() - before; n != want {
			t.Errorf("%s: %d writes, want %d", name, n, want)
		}
	}
	// The owner is let in when the time is over, and everything is forgotten.
	before := storage.writes()
	alice.login()
	m.settleLocks()
	if n := storage.writes() - before; n != 1 || len(storedLocks(t, m.storage)) != 0 {
		t.Errorf("a login after failures writes %d times and leaves %v", n, storedLocks(t, m.storage))
	}
	before = storage.writes()
	alice.login()
	m.settleLocks()
	if n := storage.writes() - before; n != 0 {
		t.Errorf("a login writes %d times", n)
	}
	if status, _ := m.fail("alice", 5); status != http.StatusOK {
		t.Error("failures from before the login are counted")
	}
}

// storedLocks lists the locks in storage.
func storedLocks(t *testing.T, s logical.Storage) (out []string) {
	t.Helper()
	for _, k := range keys(t, s) {
		if strings.HasPrefix(k, prefixAuthLocks) {
			out = append(out, k)
		}
	}
	return out
}

// TestLockSurvivesRestart, and is ended by whoever runs the mount.
func TestLockSurvivesRestart(t *testing.T) {
	m, clock, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	m.fail("alice", 5)
	m.settleLocks()
	again := openAt(t, m.storage, m.fake, clock.now)
	if status, msg := again.fail("alice", 1); status != http.StatusForbidden || !strings.Contains(msg, "1m") {
		t.Errorf("after a restart: %d %s", status, msg)
	}
	if got := again.must(logical.ReadOperation, "authenticators/alice", nil); got["locked_until"] == "" {
		t.Error("authenticators/alice does not say that it is locked")
	}
	again.must(logical.UpdateOperation, "authenticators/alice/unlock", nil)
	again.settleLocks()
	if left := storedLocks(t, m.storage); len(left) != 0 {
		t.Errorf("unlocked, and %v is stored", left)
	}
	alice.m = again
	alice.login()
	// The count of failures goes on where it was stored.
	again.fail("alice", 5)
	clock.pass(time.Minute) // one was written a moment ago
	again.settleLocks()
	third := openAt(t, m.storage, m.fake, clock.now)
	third.fail("alice", 5)
	if status, msg := third.fail("alice", 1); status != http.StatusForbidden || !strings.Contains(msg, "15m") {
		t.Errorf("ten failures, with a restart between: %d %s", status, msg)
	}
}

// TestLockWritesAreFew: failures and successes by turns do not make more writes of
// locks than one a minute, and what was put off is made up for.
func TestLockWritesAreFew(t *testing.T) {
	clock := newSteadyClock()
	l := newLimiter(clock.now)
	l.load("alice", true, nil)
	puts, deletes := 0, 0
	drain := func(err error) {
		for {
			w, ok := l.next()
			if !ok {
				return
			}
			if w.record == nil {
				deletes++
			} else {
				puts++
			}
			l.wrote(w, err)
			if err != nil {
				return
			}
		}
	}
	for range 20 { // 40 seconds
		for range 5 {
			l.failed("alice", true)
		}
		drain(nil)
		l.succeeded("alice")
		drain(nil)
		clock.pass(2 * time.Second)
	}
	if puts != 1 || deletes != 1 {
		t.Errorf("%d locks were written and %d removed within a minute", puts, deletes)
	}
	for range 5 {
		l.failed("alice", true)
	}
	drain(nil)
	if puts != 1 {
		t.Error("written too soon")
	}
	clock.pass(time.Minute)
	if !l.due() {
		t.Error("a lock that was put off is not due")
	}
	drain(errors.New("storage is away"))
	if puts != 2 || l.due() {
		t.Errorf("%d puts; due again at once: %v", puts, l.due())
	}
	clock.pass(time.Minute)
	drain(nil)
	if puts != 3 {
		t.Error("what failed is not tried again")
	}
}

// TestStrangeNamesAreBounded: names that do not exist take a bounded memory, and
// push out nobody who exists.
func TestStrangeNamesAreBounded(t *testing.T) {
	l := newLimiter(newSteadyClock().now)
	l.max = 100
	for range 5 {
		l.failed("alice", true)
	}
	for i := range 1000 {
		l.failed(fmt.Sprintf("nobody-%d", i), false)
	}
	if len(l.names) != 101 || l.strange.Len() != 100 || len(l.dirty) != 1 {
		t.Errorf("%d names, %d strange ones, %d to be written", len(l.names), l.strange.Len(), len(l.dirty))
	}
	if l.check("alice", true) == nil {
		t.Error("alice is not locked any more")
	}
	// One that is tried under a wrong kind exists all the same (named.known).
	l.failed("nobody-999", true)
	if l.names["nobody-999"].at != nil || l.names["nobody-999"].failures != 2 {
		t.Error("a name that came to exist is not treated as one")
	}
	for range 5 {
		l.failed("nobody-998", false)
	}
	if len(l.dirty) != 1 {
		t.Error("a name that does not exist would be written")
	}
}

// TestWrongKindIsKnown: trying a name under another kind makes its lock neither
// forgettable nor unwritten.
func TestWrongKindIsKnown(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.KeyFile, "correct horse", "", nil)
	alice.kind = identity.Password
	for range 5 {
		m.begin(alice.challenge(), identity.NewSeed())
	}
	m.settleLocks()
	if len(storedLocks(t, m.storage)) != 1 || m.b.limits.strange.Len() != 0 {
		t.Error("failures under another kind do not lock the authenticator")
	}
}

// TestUnansweredAttempts: what no node answered is no guess, and does not count.
func TestUnansweredAttempts(t *testing.T) {
	m, _, storage := loginMount(t)
	m.enrol("alice", identity.Password, "correct horse", "", nil)
	m.settleLocks()
	writes := storage.writes()
	for _, name := range []string{"alice", "nobody"} {
		for range 7 {
			challenge := m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": name, "kind": "password"})
			bad := make([]byte, identity.KE1Size) // no group element: refused by the node
			for i := range bad {
				bad[i] = 0xff
			}
			if _, status, _ := m.send("login/start", map[string]any{"challenge": challenge["challenge"], "ke1": encode64(bad)}); status == http.StatusOK || status == http.StatusForbidden {
				t.Fatalf("%s: a KE1 that is none: %d", name, status)
			}
		}
		if status, msg := m.fail(name, 5); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, msg)
		}
	}
	m.settleLocks()
	if n := storage.writes() - writes; n != 1 {
		t.Errorf("%d writes", n)
	}
}

// TestLimiterRace: everything at once.
func TestLimiterRace(t *testing.T) {
	m, _, _ := loginMount(t)
	m.enrol("alice", identity.Password, "correct horse", "", nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				name, known := "alice", true
				if j%3 == 0 {
					name, known = fmt.Sprintf("nobody-%d", j%7), false
				}
				if err := m.b.loginLimits(context.Background(), name, known); err != nil {
					t.Error(err)
				}
				switch (i + j) % 5 {
				case 0:
					m.b.limits.succeeded("alice")
				case 1:
					m.b.loginUnlocked("alice")
				case 2:
					_ = m.b.limits.code(name, known)
				default:
					_ = m.b.limits.begin(name, known)
				}
				m.b.writeLocks()
			}
		})
	}
	wg.Wait()
	m.b.limits.succeeded("alice")
	m.b.writeLocks()
	m.settleLocks()
	if left := storedLocks(t, m.storage); len(left) != 0 {
		t.Errorf("after a success %v is stored", left)
	}
}

// TestRandomSecretsAreNotLocked: nobody guesses a key file, so nobody can lock it,
// neither by attempts of its own kind nor by those of another.
func TestRandomSecretsAreNotLocked(t *testing.T) {
	m, _, _ := loginMount(t)
	bob := m.enrol("bob", identity.KeyFile, "0123456789abcdef0123456789abcdef", "", nil)
	m.settleLocks()
	l, ke1, err := identity.StartLogin(identity.NewSeed(), identity.NewID(), identity.DefaultKDF())
	m.ok(err)
	l.Wipe()
	for _, name := range []string{"bob", "nobody"} {
		for range 25 {
			challenge := m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": name, "kind": "key-file"})
			m.must(logical.UpdateOperation, "login/start", map[string]any{"challenge": challenge["challenge"], "ke1": encode64(ke1)})
		}
	}
	bob.login()
	if status, msg := m.fail("bob", 25); status != http.StatusForbidden {
		t.Errorf("attempts of another kind are not limited: %d %s", status, msg)
	}
	bob.login()
}
