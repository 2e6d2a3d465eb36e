//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// lifecycle is a mount on Raft with a few accounts, and what it promised.
type lifecycle struct {
	*engine
	ledger *ledger
}

// newLifecycle makes an account of three algorithms, named after the test.
func newLifecycle(t *testing.T, prefix string) *lifecycle {
	t.Helper()
	l := &lifecycle{sharedRaft(t), newLedger()}
	c := newClient(t, l.Vault, l.path)
	for _, algorithm := range []string{bip340, ed25519, ecdsaCurve} {
		if err := l.ledger.create(t.Context(), c, prefix+"-"+algorithm, algorithm, nil); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// verify has every account sign within a minute, ECDSA with the auxiliary keys
// that the nodes had before.
func (l *lifecycle) verify(t testing.TB, what string) {
	t.Helper()
	started := time.Now()
	c := newClient(t, l.Vault, l.path)
	for _, name := range l.ledger.names() {
		ctx, cancel := context.WithTimeout(t.Context(), signsWithin)
		if err := retry(ctx, func() error { return l.ledger.sign(ctx, c, name, []byte(what)) }); err != nil {
			t.Errorf("%s, %s does not sign: %v", what, name, err)
		}
		cancel()
		t.Logf("%s, %s has signed after %v", what, name, time.Since(started).Round(time.Millisecond))
	}
	for _, lost := range l.ledger.losses() {
		t.Errorf("lost: %s", lost)
	}
}

// load has every account sign without pause, until the function it returns is
// called. Requests may be refused meanwhile; what is answered must be right.
func (l *lifecycle) load(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := newClient(t, l.Vault, l.path)
	var clients sync.WaitGroup
	var answered, refused atomic.Int64
	for _, name := range l.ledger.names() {
		clients.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				if err := l.ledger.sign(ctx, c, name, fmt.Appendf(nil, "round %d", round)); err == nil {
					answered.Add(1)
				} else if ctx.Err() == nil {
					refused.Add(1)
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); clients.Wait() }) // should the test end before stop
	l.await(t, time.Minute, "signatures under load", func() bool { return answered.Load() >= 5 })
	return func() {
		before := answered.Load()
		l.await(t, signsWithin, "signatures under load, afterwards", func() bool { return answered.Load() >= before+5 })
		cancel()
		clients.Wait()
		t.Logf("%d signatures meanwhile, %d requests refused", answered.Load(), refused.Load())
	}
}

// generations returns the generation of each node's auxiliary keys.
func (l *lifecycle) generations(t testing.TB) map[string]int {
	t.Helper()
	out := map[string]int{}
	for id, n := range l.nodes(t) {
		out[id] = number(t, n["aux_generation"])
	}
	return out
}

// TestSealed: sealing ends plugin and nodes; unsealing brings the accounts
// back, with the auxiliary keys there were.
func TestSealed(t *testing.T) {
	l := newLifecycle(t, "sealed")
	family, generations := l.family(t), l.generations(t)
	stop := l.load(t)
	started := time.Now()
	l.Seal(t)
	t.Logf("sealing under load took %v", time.Since(started).Round(time.Millisecond))
	e2e.WaitGone(t, family, gone)
	if left := e2e.ProcessTree(t, l.PID()); len(left) > 0 {
		t.Errorf("a sealed Vault runs %v", left)
	}
	if _, err := l.trySign("sealed-"+bip340, []byte("sealed")); err == nil {
		t.Error("a sealed Vault signs")
	}
	l.Unseal(t)
	stop()
	l.verify(t, "after unsealing")
	if got := l.generations(t); fmt.Sprint(got) != fmt.Sprint(generations) {
		t.Errorf("generations of auxiliary keys %v, before %v", got, generations)
	}
}

// TestReloaded: an operator reloads the plugin, as for an upgrade, while
// clients sign. Requests may fail; what is answered is right.
func TestReloaded(t *testing.T) {
	l := newLifecycle(t, "reloaded")
	stop := l.load(t)
	for _, args := range [][]string{
		{"plugin", "reload", "-type=secret", "-plugin=mpc"},
		{"write", "sys/plugins/reload/backend", "mounts=mpc"}, // what -mounts does
	} {
		family := l.family(t)
		if r := l.CLI(t, args...); r.Code != 0 {
			t.Fatalf("vault %v: %+v", args, r)
		}
		e2e.WaitGone(t, family, gone)
		l.verify(t, fmt.Sprintf("after vault %v", args))
		l.waitNodes(t, 3)
	}
	stop()
}

// TestMoved: the mount gets another path and comes back. Nothing that is
// stored or sealed knows the path: it goes on there, also after a reload.
func TestMoved(t *testing.T) {
	l := newLifecycle(t, "moved")
	for _, to := range []string{"elsewhere/deep", "mpc"} {
		if r := l.CLI(t, "secrets", "move", l.path+"/", to+"/"); r.Code != 0 {
			t.Fatalf("vault secrets move: %+v", r)
		}
		l.path = to
		l.verify(t, "moved to "+to)
		family := l.family(t)
		if r := l.CLI(t, "write", "sys/plugins/reload/backend", "mounts="+to); r.Code != 0 {
			t.Fatalf("reload: %+v", r)
		}
		e2e.WaitGone(t, family, gone)
		l.verify(t, "started at "+to)
		l.waitNodes(t, 3)
		c := newClient(t, l.Vault, l.path)
		for _, name := range l.ledger.names() {
			if err := l.ledger.refresh(t.Context(), c, name); err != nil {
				t.Errorf("refreshing %s at %s: %v", name, to, err)
			}
		}
	}
	l.verify(t, "moved back and refreshed")
}

// TestSnapshotRestored: Vault's storage goes back to an earlier state. Accounts
// are in the epochs they had then, later ones are gone, and since it is not
// known which nodes saw which shares meanwhile, there are no spares until each
// account's next refresh.
func TestSnapshotRestored(t *testing.T) {
	l := newLifecycle(t, "snapshot")
	c := newClient(t, l.Vault, l.path)
	names := l.ledger.names()
	allowed := func(name string) bool { return l.read(t, "accounts/"+name)["spares_allowed"] == true }
	for _, name := range names {
		l.await(t, 10*time.Second, "spares of "+name+" at first", func() bool { return allowed(name) })
	}
	file := filepath.Join(t.TempDir(), "raft.snapshot")
	if r := l.CLI(t, "operator", "raft", "snapshot", "save", file); r.Code != 0 {
		t.Fatalf("saving the snapshot: %+v", r)
	}
	then := newLedger() // what the snapshot must hold
	for _, name := range names {
		p := l.ledger.promised(name)
		then.accounts[name] = &p
		if err := l.ledger.refresh(t.Context(), c, name); err != nil {
			t.Fatal(err)
		}
	}
	l.create(t, "snapshot-too-late", bip340, 2, 3)

	family := l.family(t)
	if r := l.CLI(t, "operator", "raft", "snapshot", "restore", file); r.Code != 0 {
		t.Fatalf("restoring the snapshot: %+v", r)
	}
	e2e.WaitGone(t, family, gone)
	// The snapshot is seconds old, too young to be noticed: the operator says it.
	within, cancel := context.WithTimeout(t.Context(), signsWithin)
	defer cancel()
	if err := retry(within, func() error { _, err := c.write(within, "recovery/restored", nil); return err }); err != nil {
		t.Fatal(err)
	}
	l.ledger = then
	for _, name := range names {
		before := then.promised(name)
		got := l.read(t, "accounts/"+name)
		if epoch := integer(got, "share_epoch"); epoch != before.epoch {
			t.Errorf("%s is in epoch %d, the snapshot has %d", name, epoch, before.epoch)
		}
		if allowed(name) {
			t.Errorf("%s may use spares on restored storage", name)
		}
	}
	all, err := c.accounts(t.Context())
	if err != nil || slices.Contains(all, "snapshot-too-late") {
		t.Errorf("accounts of restored storage: %v, %v", all, err)
	}
	l.verify(t, "restored")
	for _, name := range names {
		if err := then.refresh(t.Context(), c, name); err != nil {
			t.Errorf("refreshing %s: %v", name, err)
		}
		if !allowed(name) {
			t.Errorf("%s may not use spares after its refresh", name)
		}
	}
	l.verify(t, "restored and refreshed")
	l.waitNodes(t, 3)
}
