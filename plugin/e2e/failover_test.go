//go:build e2e

package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// signsWithin bounds the wait for signatures from a new active server. The
// time that it takes is printed; on idle machines it is a few seconds.
const signsWithin = 60 * time.Second

// failover is a cluster with the mount "mpc", and what it has promised.
type failover struct {
	*e2e.Cluster
	ledger *ledger
	// steady accounts are asked for the first signatures after an election.
	schnorr, ecdsa string
}

// TestFailover stops the active one of three servers that share a token, in the
// middle of everything that writes or signs. Whatever was answered before
// holds, and the next active server signs with the keys of nodes that it has
// just started: ECDSA too, since auxiliary keys are stored.
func TestFailover(t *testing.T) {
	c := harness.StartCluster(t, 3)
	c.Enable(t, "mpc")
	e := &engine{c.Leader(t), "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	e.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	e.waitAuxiliary(t)
	f := &failover{Cluster: c, ledger: newLedger(), schnorr: "steady-bip340", ecdsa: "steady-ecdsa"}
	for name, algorithm := range map[string]string{f.schnorr: bip340, f.ecdsa: ecdsaCurve} {
		if err := f.ledger.create(t.Context(), newClient(t, e.Vault, "mpc"), name, algorithm, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.checkActive(t)

	kill := func(t testing.TB) (*e2e.Vault, []e2e.Process) { return f.KillLeader(t) }
	stepDown := func(t testing.TB) (*e2e.Vault, []e2e.Process) { return f.StepDown(t) }
	for _, test := range []struct {
		name string
		stop func(testing.TB) (*e2e.Vault, []e2e.Process)
		load func(testing.TB) []work
		then func(testing.TB, *client)
	}{
		{"killed while accounts are made", kill, f.creating, nil},
		{"killed while signing", kill, f.signing, nil},
		{"stepped down while signing", stepDown, f.signing, nil},
		{"killed while refreshing", kill, f.refreshing, f.awaitRotation},
		{"killed while rewrapping", kill, f.rewrapping, f.awaitRewrapped},
	} {
		if !t.Run(test.name, func(t *testing.T) { f.disturb(t, test.stop, test.load(t), test.then) }) {
			return // a server may still be down
		}
	}
}

// work is done again and again, by one goroutine, through any server.
type work func(ctx context.Context, c *client, round int) error

func (f *failover) creating(testing.TB) []work {
	var load []work
	for w := range 4 {
		load = append(load, func(ctx context.Context, c *client, round int) error {
			algorithm := []string{bip340, ed25519, bip340, ecdsaP256}[w]
			switch { // each is verified after every one of the tests
			case round > 20:
				return f.ledger.sign(ctx, c, f.schnorr, fmt.Appendf(nil, "round %d", round))
			case algorithm == ecdsaP256 && round > 1:
				algorithm = ed25519
			}
			return f.ledger.create(ctx, c, fmt.Sprintf("made-%d-%d", w, round), algorithm, nil)
		})
	}
	return load
}

func (f *failover) signing(testing.TB) []work {
	sign := func(name string) work {
		return func(ctx context.Context, c *client, round int) error {
			return f.ledger.sign(ctx, c, name, fmt.Appendf(nil, "round %d", round))
		}
	}
	return []work{sign(f.schnorr), sign(f.schnorr), sign(f.ecdsa)}
}

// refreshing has the runner at work every second, and clients beside it.
func (f *failover) refreshing(t testing.TB) []work {
	c := newClient(t, f.Leader(t), "mpc")
	var names []string
	for i := range 6 {
		name := fmt.Sprintf("short-lived-%d", i)
		algorithm := []string{bip340, ed25519, ecdsaCurve}[i%3]
		if err := f.ledger.create(t.Context(), c, name, algorithm, map[string]any{"refresh_period": "1s"}); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return []work{
		func(ctx context.Context, c *client, round int) error {
			return f.ledger.refresh(ctx, c, f.schnorr)
		},
		func(ctx context.Context, c *client, round int) error {
			return f.ledger.refresh(ctx, c, names[round%len(names)])
		},
		func(ctx context.Context, c *client, round int) error {
			return f.ledger.sign(ctx, c, names[round%2], fmt.Appendf(nil, "round %d", round))
		},
	}
}

// disturb stops the active server in the middle of a load, and looks at
// everything afterwards; then at what is particular to the load.
func (f *failover) disturb(t *testing.T, stop func(testing.TB) (*e2e.Vault, []e2e.Process), load []work, then func(testing.TB, *client)) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var done, failed, underWay, begun atomic.Int64 // begun: kinds of work that succeeded once
	var workers sync.WaitGroup
	for i, w := range load {
		var clients []*client
		for _, v := range f.Servers {
			clients = append(clients, newClient(t, v, "mpc"))
		}
		workers.Go(func() {
			first := true
			for round := 0; ctx.Err() == nil; round++ {
				underWay.Add(1)
				err := w(ctx, clients[(i+round)%len(clients)], round)
				underWay.Add(-1)
				if err == nil {
					if done.Add(1); first {
						begun.Add(1)
						first = false
					}
					continue
				}
				if failed.Add(1); ctx.Err() == nil {
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	awaitTrue(t, 60*time.Second, "answers before the server is stopped", func() bool { return done.Load() >= 10 && begun.Load() == int64(len(load)) })
	before, caught := done.Load(), underWay.Load()
	old, below := stop(t)
	election := f.AwaitElection(t, old)
	t.Logf("stopped after %d answers with %d requests on their way; another server was active after %v", before, caught, election.Took.Round(time.Millisecond))

	c := newClient(t, election.Leader, "mpc")
	for _, name := range []string{f.schnorr, f.ecdsa} {
		within, end := context.WithTimeout(ctx, signsWithin)
		err := retry(within, func() error { return f.ledger.sign(within, c, name, []byte("after the election")) })
		end()
		if err != nil {
			t.Fatalf("%s does not sign %v after the election: %v", name, signsWithin, err)
		}
		t.Logf("%s signed %v after the election", name, time.Since(election.At).Round(time.Millisecond))
	}
	e2e.WaitGone(t, below, gone)
	f.checkActive(t)
	after := done.Load()
	awaitTrue(t, 60*time.Second, "answers after the election", func() bool { return done.Load() >= after+5 })
	cancel()
	workers.Wait()
	t.Logf("%d requests were answered, %d refused", done.Load(), failed.Load())

	count := f.ledger.verifyAll(t.Context(), c, 2*time.Minute)
	t.Logf("%d accounts signed", count)
	e := &engine{election.Leader, "mpc"}
	e.checkWhole(t, f.ledger.names())

	f.Rejoin(t, old)
	f.checkActive(t)
	if err := f.ledger.sign(t.Context(), newClient(t, old, "mpc"), f.schnorr, []byte("through the old one")); err != nil {
		t.Errorf("through the server that came back: %v", err)
	}
	if then != nil {
		then(t, c)
	}
	for _, lost := range f.ledger.losses() {
		t.Errorf("lost: %s", lost)
	}
}

// checkActive looks for the engine's processes: the active server has its
// nodes, and no other has any process below it, so that there rotation cannot
// run. On a busy machine another server may become active meanwhile; then it
// looks again.
func (f *failover) checkActive(t testing.TB) {
	t.Helper()
	for range 5 {
		leader := f.Leader(t)
		wrong := f.processes(t, leader)
		if wrong == "" {
			return
		}
		if f.Leader(t) == leader {
			t.Error(wrong)
			return
		}
	}
	t.Error("the active server changes all the time")
}

// processes says what is wrong with those below the servers; empty if nothing
// is. Processes may take a moment to start and to end.
func (f *failover) processes(t testing.TB, leader *e2e.Vault) (wrong string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		wrong = ""
		for _, v := range f.Servers {
			if !v.Running() {
				continue
			}
			plugins, nodes := 0, 0
			tree := e2e.ProcessTree(t, v.PID())
			for _, p := range tree {
				if len(p.Cmdline) > 1 && p.Cmdline[1] == "node" {
					nodes++
				} else {
					plugins++
				}
			}
			switch {
			case v == leader && (plugins != 1 || nodes != 3):
				wrong = fmt.Sprintf("below the active server are %v, want the plugin and three nodes", tree)
			case v != leader && len(tree) > 0:
				wrong = fmt.Sprintf("below a standby are %v", tree)
			}
		}
		if wrong == "" {
			return ""
		}
	}
	return wrong
}

// awaitRotation waits until the runner has refreshed every account with a
// short period, without an error.
func (f *failover) awaitRotation(t testing.TB, c *client) {
	t.Helper()
	for _, name := range f.ledger.names() {
		if !strings.HasPrefix(name, "short-lived-") {
			continue
		}
		before := f.ledger.promised(name).epoch
		var last map[string]any
		awaitTrue(t, 30*time.Second, "refresh of "+name+" by the runner", func() bool {
			promised := f.ledger.promised(name)
			answer, err := c.read(t.Context(), "accounts/"+name)
			if err != nil {
				return false
			}
			last = answer
			return f.ledger.saw(promised, answer) == nil && integer(answer, "share_epoch") > before && text(answer, "last_refresh_error") == ""
		})
		if last == nil {
			t.Errorf("%s was not read", name)
		}
	}
}

// checkWhole looks at what is stored of each account: the epoch that the
// engine shows, with all its shares, and beside it at most one other, whole
// too.
func (e *engine) checkWhole(t testing.TB, names []string) {
	t.Helper()
	type epoch struct {
		Record []byte   `json:"record"`
		Shares [][]byte `json:"shares"`
	}
	whole := func(e *epoch, shares int) error {
		if len(e.Record) == 0 || len(e.Shares) != shares {
			return fmt.Errorf("an epoch with %d bytes of public record and %d of %d shares", len(e.Record), len(e.Shares), shares)
		}
		if slices.ContainsFunc(e.Shares, func(s []byte) bool { return len(s) == 0 }) {
			return errors.New("an empty share")
		}
		return nil
	}
	c := newClient(t, e.Vault, e.path)
	check := func(name string) error {
		// A refresh between the two reads makes them differ: once more.
		var err error
		for range 10 {
			answer, readErr := c.read(t.Context(), "accounts/"+name)
			if readErr != nil {
				return readErr
			}
			var stored struct {
				Current  epoch  `json:"current"`
				Previous *epoch `json:"previous"`
			}
			if err = json.Unmarshal(e.RawRead(t, e.path, "accounts/"+name), &stored); err != nil {
				continue
			}
			hash := sha256.Sum256(stored.Current.Record)
			if hex.EncodeToString(hash[:]) != text(answer, "record_hash") {
				err = errors.New("the stored public record is not the one that is shown")
				continue
			}
			err = whole(&stored.Current, integer(answer, "shares"))
			if err == nil && stored.Previous != nil {
				err = whole(stored.Previous, integer(answer, "shares"))
			}
			if err == nil {
				return nil
			}
		}
		return err
	}
	for _, name := range names {
		if err := check(name); err != nil {
			t.Errorf("what is stored of %s: %v", name, err)
		}
	}
}

// awaitTrue polls until cond holds.
func awaitTrue(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	(&engine{}).await(t, within, what, cond)
}
