package backend

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// sim drives a backend and its pool over simulated nodes through random events,
// and checks after each of them that no node has been handed two shares of an
// epoch, and that signing works whenever the placement rule allows it.
type sim struct {
	t     *testing.T
	rng   *rand.Rand
	world *world
	base  *logical.InmemStorage
	snap  *logical.InmemStorage // an older state of base, or nil
	crash *crashing
	m     *mount
	clock *simClock
	local int
	names []string
	owned []string // accounts with user custody
	log   []string
	count map[string]int
}

type simClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *simClock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func (c *simClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// boot opens a new backend and pool on the storage, as a new plugin process.
func (s *sim) boot() {
	s.t.Helper()
	s.crash = &crashing{Storage: s.base, left: 1 << 30}
	m := &mount{t: s.t, storage: s.crash, logs: &logBuffer{}}
	factory := Factory(Config{
		NewEngine: func(c EngineConfig) Engine {
			return &simEngine{world: s.world, keys: c.Store,
				Pool: pool.New(pool.Config{Store: c.Store, Launcher: s.world, OnPresignatureUsed: c.OnPresignatureUsed, RestartMin: time.Millisecond, RestartMax: 5 * time.Millisecond})}
		},
		Modules:          testModules,
		now:              s.clock.read,
		rotationInterval: time.Hour,
	})
	view := logical.TestSystemView()
	view.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "1.21.0"}
	lb, err := factory(context.Background(), &logical.BackendConfig{StorageView: s.crash, System: view,
		Logger: hclog.New(&hclog.LoggerOptions{Output: m.logs, Level: hclog.Warn})})
	if err != nil {
		s.t.Fatal(err)
	}
	m.b = lb.(*backend)
	s.m = m
	// What happens in the background happens here when its turn comes.
	for _, stop := range []func(context.Context) error{m.b.runner.Stop, m.b.keeper.Stop} {
		if err := stop(context.Background()); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := m.b.Initialize(context.Background(), &logical.InitializationRequest{Storage: s.crash}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := m.b.Schedule(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

// shutdown ends the plugin process, perhaps one whose storage is dead.
func (s *sim) shutdown() {
	s.m.b.Cleanup(context.Background())
	s.world.mu.Lock()
	procs := slices.Collect(maps.Values(s.world.running))
	s.world.mu.Unlock()
	for _, p := range procs {
		p.Stop()
	}
}

// patience is the time of what has to work: nothing waits for its end, and a busy
// machine may need it.
const patience = 30 * time.Second

// request sends one request that may take a while at most.
func (s *sim) request(op logical.Operation, path string, data map[string]any, within time.Duration) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: s.crash}
	if op == logical.UpdateOperation {
		if found, exists, err := s.m.b.HandleExistenceCheck(ctx, req); err == nil && found && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := s.m.b.HandleRequest(ctx, req)
	if status, msg := answer(resp, err); status != 200 {
		return nil, fmt.Errorf("%d %s", status, msg)
	}
	if resp == nil {
		return nil, nil
	}
	return resp.Data, nil
}

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
	if len(s.log) > 60 {
		s.log = s.log[1:]
	}
}

func (s *sim) fatal(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nlast events:\n%s\nlog:\n%s", fmt.Sprintf(format, args...), strings.Join(s.log, "\n"), s.m.logs)
}

// settleNodes waits until the pool knows what is true: every node that can run
// is ready, no other is.
func (s *sim) settleNodes() {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		list := s.engine().Nodes()
		settled := len(list) == s.local
		s.world.mu.Lock()
		for _, n := range list {
			p := s.world.running[n.ID]
			up := p != nil && !p.Exited()
			settled = settled && up == !s.world.down[n.ID] && up == (n.State == pool.NodeReady)
		}
		s.world.mu.Unlock()
		if settled {
			return
		}
		if time.Now().After(end) {
			s.fatal("the nodes do not settle: %+v", list)
		}
	}
}

func (s *sim) engine() Engine {
	eng, err := s.m.b.engine(context.Background())
	if err != nil {
		s.fatal("engine: %v", err)
	}
	return eng
}

// up returns the identities of the nodes that are ready.
func (s *sim) up() []mpc.NodeIdentity {
	var out []mpc.NodeIdentity
	for _, n := range s.engine().Nodes() {
		if id, err := mpc.ParseNodeIdentity(n.Identity); err == nil && n.State == pool.NodeReady {
			out = append(out, id)
		}
	}
	return out
}

// reachable is the largest number of shares that the nodes that are up may
// serve at once under the rule, by what storage knows.
func (s *sim) reachable(name string) (most int, a *mpc.Account) {
	r, err := s.m.b.store.account(context.Background(), name)
	if err != nil || r == nil {
		s.fatal("account %s: %v", name, err)
	}
	if a, err = s.m.b.store.usable(context.Background(), r); err != nil {
		s.fatal("account %s: %v", name, err)
	}
	served, spares := map[mpc.Index]bool{}, 0
	for _, id := range s.up() {
		if i, ok := a.Exposures[id]; ok {
			served[i] = true
		} else if !a.NoSpares {
			spares++
		}
	}
	return min(a.Record.Shares, len(served)+spares), a
}

func (s *sim) pick() string { return s.names[s.rng.IntN(len(s.names))] }

func (s *sim) node() string { return pool.LocalNodeID(1 + s.rng.IntN(s.local)) }

// signMany runs concurrent signatures; with stable nodes each must succeed when
// the rule allows it.
func (s *sim) signMany(stable bool) {
	name, clients := s.pick(), 1+s.rng.IntN(4)
	if stable {
		s.settleNodes()
	}
	possible, a := s.reachable(name)
	s.note("%d signatures with %s (epoch %d, stable %v, reachable %d of %d)", clients, name, a.Record.Epoch, stable, possible, a.Record.Threshold)
	within := 3 * time.Second
	if stable {
		within = patience
	}
	if possible < a.Record.Threshold {
		within = 30 * time.Millisecond // it would wait for nodes that do not come
	}
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, errs[c] = s.request(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8="}, within)
		}()
	}
	wg.Wait()
	for _, err := range errs {
		s.count["signatures"]++
		switch {
		case err == nil && possible < a.Record.Threshold && stable:
			s.fatal("%s signed although only %d of %d shares can be reached", name, possible, a.Record.Threshold)
		case err != nil && possible >= a.Record.Threshold && stable && !s.crash.isDead():
			s.fatal("%s does not sign although the rule allows it: %v", name, err)
		case err != nil:
			s.count["refused signatures"]++
		}
	}
}

func (c *crashing) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

func (s *sim) refresh() {
	name := s.pick()
	s.settleNodes()
	if s.rng.IntN(4) == 0 {
		s.world.mu.Lock()
		s.world.garbage[mpc.Index(1+s.rng.IntN(3))] = true
		s.world.mu.Unlock()
	}
	possible, a := s.reachable(name)
	within := 3 * time.Second
	if possible < a.Record.Shares {
		within = 30 * time.Millisecond
	}
	_, err := s.request(logical.UpdateOperation, "accounts/"+name+"/refresh", nil, within)
	s.note("refresh of %s in epoch %d: %v", name, a.Record.Epoch, err)
	s.count["refreshes"]++
	s.world.mu.Lock()
	clear(s.world.garbage)
	s.world.mu.Unlock()
}

// step does one random thing.
func (s *sim) step() {
	switch n := s.rng.IntN(100); {
	case n < 12:
		s.custodyOp()
	case n < 45:
		s.signMany(true)
	case n < 60: // nodes fail their sessions meanwhile
		faults := []simFault{faultStart, faultHello, faultHSM, faultRefuses}
		s.world.mu.Lock()
		for range 1 + s.rng.IntN(2) {
			s.world.faults[s.node()] = faults[s.rng.IntN(len(faults))]
		}
		s.world.mu.Unlock()
		s.count["failed attempts"]++
		s.signMany(false)
	case n < 70:
		victim := s.node()
		s.note("%s dies", victim)
		s.count["deaths"]++
		s.world.kill(victim)
		s.signMany(s.rng.IntN(2) == 0)
	case n < 75: // a node that does not come back, and one that does
		s.world.mu.Lock()
		clear(s.world.down)
		if s.rng.IntN(3) > 0 {
			s.world.down[s.node()] = true
		}
		down := slices.Collect(maps.Keys(s.world.down))
		s.world.mu.Unlock()
		s.note("down: %v", down)
		for _, d := range down {
			s.world.kill(d)
		}
	case n < 82:
		s.refresh()
	case n < 86:
		s.rotate()
	case n < 90:
		s.changePool()
	case n < 96:
		s.crashAndRestart()
	case n < 98:
		s.note("snapshot")
		s.snap = snapshot(s.t, s.base)
	default:
		s.restore()
	}
	s.world.mu.Lock()
	violations := slices.Clone(s.world.violations)
	clear(s.world.faults)
	s.world.mu.Unlock()
	if len(violations) > 0 {
		s.fatal("the placement rule is broken: %s", strings.Join(violations, "; "))
	}
}

// changePool sets another number of nodes, where the engine allows it.
func (s *sim) changePool() {
	local := 3 + s.rng.IntN(4)
	_, err := s.request(logical.UpdateOperation, "config/nodes", map[string]any{"local": local}, 3*time.Second)
	s.note("pool of %d instead of %d: %v", local, s.local, err)
	s.count["pool changes"]++
	if err == nil {
		s.local = local
	}
}

// crashAndRestart stops the plugin process at one of its next writes.
func (s *sim) crashAndRestart() {
	s.settleNodes()
	s.crash.mu.Lock()
	s.crash.left, s.crash.late = s.rng.IntN(4), s.rng.IntN(2) == 0
	s.crash.mu.Unlock()
	s.count["crashes"]++
	name := s.pick()
	if s.rng.IntN(2) == 0 {
		_, err := s.request(logical.UpdateOperation, "accounts/"+name+"/refresh", nil, 200*time.Millisecond)
		s.note("crash during a refresh of %s: %v", name, err)
	} else {
		s.world.kill(s.node()) // so that a spare is needed and written
		_, err := s.request(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8="}, 200*time.Millisecond)
		s.note("crash during a signature of %s: %v", name, err)
	}
	s.restart()
}

func (s *sim) restart() {
	s.shutdown()
	s.clock.advance(time.Duration(s.rng.IntN(60)) * time.Second)
	s.boot()
	s.readLocal()
}

// readLocal finds out how many nodes the storage asks for.
func (s *sim) readLocal() {
	c, err := s.m.b.store.nodesConfig(context.Background())
	if err != nil {
		s.fatal("config/nodes: %v", err)
	}
	s.local = c.Local
}

// restore puts an older state of storage in place, some minutes later, as an
// operator does after a disaster.
func (s *sim) restore() {
	if s.snap == nil {
		return
	}
	s.count["restores"]++
	s.note("restore of a snapshot")
	s.shutdown()
	s.base = snapshot(s.t, s.snap)
	s.clock.advance(10 * time.Minute)
	s.boot()
	s.readLocal()
	names, err := s.m.b.store.accountNames(context.Background())
	if err != nil || len(names) == 0 {
		s.fatal("accounts after the restore: %v %v", names, err)
	}
	s.names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(s.owned, n) })
}

// TestPlacementRule is the property test. MPC_SIM_STEPS makes it longer,
// MPC_SIM_SEED repeats a run (as far as goroutines allow).
func TestPlacementRule(t *testing.T) {
	steps, seeds := 400, []uint64{1, 2, uint64(time.Now().UnixNano())}
	if testing.Short() {
		steps, seeds = 120, seeds[2:]
	}
	if v, err := strconv.Atoi(os.Getenv("MPC_SIM_STEPS")); err == nil {
		steps = v
	}
	if v, err := strconv.ParseUint(os.Getenv("MPC_SIM_SEED"), 10, 64); err == nil {
		seeds = []uint64{v}
	}
	total := map[string]int{}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 0)), world: newWorld(), base: &logical.InmemStorage{},
				clock: &simClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, count: total}
			s.boot()
			defer func() { s.shutdown() }()
			must := func(path string, data map[string]any) {
				if _, err := s.request(logical.UpdateOperation, path, data, 10*time.Second); err != nil {
					s.fatal("%s: %v", path, err)
				}
			}
			must("config/rotation", map[string]any{"rewrap_period": 0, "retire_after": 1})
			must("config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
			s.local = defaultNodes().Local
			s.settleNodes()
			for _, sharing := range [][2]int{{2, 3}, {2, 2}, {3, 4}, {3, 3}} {
				name := fmt.Sprintf("sim-%d-%d", sharing[0], sharing[1])
				must("accounts/"+name, map[string]any{"algorithm": "ed25519", "threshold": sharing[0], "shares": sharing[1], "refresh_period": "8760h"})
				s.names = append(s.names, name)
			}
			for _, sharing := range [][2]int{{2, 3}, {3, 4}} {
				name := fmt.Sprintf("owned-%d-%d", sharing[0], sharing[1])
				o := newOwner(t, s.base, name)
				must("accounts/"+name, map[string]any{"algorithm": "ed25519", "threshold": sharing[0], "shares": sharing[1],
					"custody_identity": name, "custody_asset": o.asset.Name})
				s.owned = append(s.owned, name)
			}
			for range steps {
				s.step()
			}
			// In the end everything works again.
			s.world.mu.Lock()
			clear(s.world.down)
			s.world.mu.Unlock()
			s.settleNodes()
			for _, name := range s.names {
				s.request(logical.UpdateOperation, "accounts/"+name+"/refresh", nil, 5*time.Second)
				possible, a := s.reachable(name)
				if _, err := s.request(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8="}, patience); err != nil && possible >= a.Record.Threshold {
					s.fatal("%s in the end: %v", name, err)
				}
			}
			s.world.mu.Lock()
			total["sessions"] += s.world.sessions
			total["destroyed wrapping keys"] += s.world.destroyed
			s.world.mu.Unlock()
		})
	}
	t.Logf("%v", total)
	for _, what := range []string{"signatures", "refused signatures", "failed attempts", "deaths", "refreshes", "pool changes", "crashes", "restores",
		"rotations", "rewraps", "failed rewraps", "destroyed wrapping keys",
		"custody operations", "refused custody operations", "custody successes", "custody failures"} {
		if total[what] == 0 && !testing.Short() {
			t.Errorf("no %s: the test tests less than it says", what)
		}
	}
}
