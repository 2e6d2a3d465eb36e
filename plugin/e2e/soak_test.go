//go:build e2e

package e2e_test

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
	"sync/atomic"
	"testing"
	"time"
)

const (
	soakDurationEnv = "MPC_SOAK_DURATION" // set by scripts/soak.sh
	soakSeedEnv     = "MPC_SOAK_SEED"
	soakSummaryEnv  = "MPC_SOAK_SUMMARY" // file for the last line
	soakRemoteEnv   = "MPC_SOAK_REMOTE"  // number of daemons in a network lab, instead of local nodes
	soakSmoke       = 20 * time.Second   // without soakDurationEnv: does the soak itself work?
	soakClients     = 3
	soakPeriod      = 20 * time.Second // refresh_period of the mount
	// soakRetire has superseded wrapping keys destroyed during the run: a share
	// that was still sealed to one would be lost.
	soakRetire = 5 * time.Second
	soakNodes  = 3
)

// soak is one run: clients that create, sign and refresh without pause, a
// conductor that disturbs them, and a ledger that holds the engine to what it
// answered.
type soak struct {
	*engine
	remote    *remoteCluster // nil: the nodes are local
	ledger    *ledger
	seed      uint64
	duration  time.Duration
	most      int // accounts; each must sign at the end
	mostECDSA int
	say       func(format string, args ...any)

	started     time.Time
	took        time.Duration // once the load has ended
	signatures  atomic.Int64
	refused     atomic.Int64
	disturbed   map[string]int
	slowest     time.Duration // from a disturbance to the next signature
	slowestWhat string

	mu     sync.Mutex
	errors map[string]int
}

// TestSoak runs for 20 seconds in the suite; `make soak` has it run for as long
// as one likes. The seed that it prints repeats the choices, though not their
// interleaving.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	s.say("%v, SOAK_SEED=%d to repeat the choices", s.duration, s.seed)
	finished := false
	defer func() {
		line := s.summary(finished, t.Failed())
		file := os.Getenv(soakSummaryEnv)
		if file == "" {
			s.say("%s", line)
		} else if err := os.WriteFile(file, []byte("soak: "+line+"\n"), 0o600); err != nil {
			t.Error(err)
		}
	}()
	s.run(t)
	finished = true
	if s.signatures.Load() == 0 {
		t.Error("nothing was signed")
	}
	if len(s.ledger.losses()) > 0 {
		t.Error("something was lost: see the last line")
	}
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{
		ledger: newLedger(), seed: uint64(time.Now().UnixNano()), duration: soakSmoke, say: t.Logf,
		disturbed: map[string]int{}, errors: map[string]int{},
	}
	if text := os.Getenv(soakDurationEnv); text != "" {
		var err error
		if s.duration, err = time.ParseDuration(text); err != nil || s.duration <= 0 {
			t.Fatalf("%s=%q: want a time like 10m", soakDurationEnv, text)
		}
		s.say = func(format string, args ...any) { fmt.Printf("soak: "+format+"\n", args...) }
	}
	if text := os.Getenv(soakSeedEnv); text != "" {
		var err error
		if s.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%q: want a number", soakSeedEnv, text)
		}
	}
	s.most = min(10+int(s.duration/(4*time.Second)), 400)
	s.mostECDSA = s.most / 4
	if text := os.Getenv(soakRemoteEnv); text != "" {
		s.startRemote(t, text)
	} else {
		s.engine = sharedRaft(t)
	}
	return s
}

func (s *soak) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

func (s *soak) run(t *testing.T) {
	rotation := s.read(t, "config/rotation")
	s.write(t, "config/rotation", map[string]any{"refresh_period": soakPeriod.String(), "retire_after": soakRetire.String()})
	c := newClient(t, s.Vault, s.path)
	for i, algorithm := range []string{bip340, ed25519, ecdsaCurve, ecdsaP256} {
		if err := s.ledger.create(t.Context(), c, fmt.Sprintf("soak-first-%d", i), algorithm, nil); err != nil {
			t.Fatal(err)
		}
	}

	if s.remote == nil {
		watched, unwatch := context.WithCancel(t.Context())
		var watch sync.WaitGroup
		defer watch.Wait()
		defer unwatch()
		watch.Go(func() { s.mendToken(watched) })
	}

	ctx, cancel := context.WithCancel(t.Context())
	var background sync.WaitGroup
	// However this function ends, t.Fatal included, nothing goes on behind it.
	defer background.Wait()
	defer cancel()
	s.started = time.Now()
	for i := range soakClients {
		l := &soakClient{soak: s, client: newClient(t, s.Vault, s.path), id: i, random: s.random(uint64(i + 1))}
		background.Go(func() { l.run(ctx) })
	}
	background.Go(func() { s.progress(ctx) })
	s.conduct(t, c)
	cancel()
	background.Wait()
	s.took = time.Since(s.started)

	if s.remote != nil {
		s.tend(t)
	}
	s.say("verifying %d accounts", len(s.ledger.names()))
	before := time.Now()
	good := s.ledger.verifyAll(t.Context(), c, 2*time.Minute+time.Duration(s.mostECDSA)*5*time.Second)
	s.signatures.Add(int64(good))
	s.say("%d of %d accounts opened all shares and signed, in %v", good, len(s.ledger.names()), time.Since(before).Round(time.Second))
	s.checkWhole(t, s.ledger.names())
	s.settle(t, c)
	s.sayWrapping(t)
	s.write(t, "config/rotation", map[string]any{"refresh_period": rotation["refresh_period"], "retire_after": rotation["retire_after"]})
	s.sayErrors()
}

// settle gives the mount its first number of nodes again. That is refused while
// a node that would go has a share that no other may serve: a refresh of all
// gives them to those that stay.
func (s *soak) settle(t *testing.T, c *client) {
	if s.remote != nil {
		s.tend(t)
		s.remote.awaitReady(t, true, s.remote.names("")...)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err := retry(ctx, func() error {
		_, err := c.write(ctx, "config/nodes", map[string]any{"local": soakNodes})
		if err != nil {
			for _, name := range s.ledger.names() {
				_ = s.ledger.refresh(ctx, c, name) // what was lost is noted
			}
		}
		return err
	})
	if err != nil {
		t.Fatalf("the pool does not shrink to %d nodes: %v", soakNodes, err)
	}
	s.waitNodes(t, soakNodes)
}

// mendToken brings SoftHSM's token back where it lost it, and says so.
func (s *soak) mendToken(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if n, err := s.Token.Mend(); n > 0 || err != nil {
				s.say("SoftHSM has lost %d token(s) of a process that was killed while it logged in; mended: %v", n, err)
			}
		}
	}
}

// progress prints a line every ten seconds.
func (s *soak) progress(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.say("%s", s.counts())
		}
	}
}

// refreshes counts every epoch after an account's first, those that the runner
// made included.
func (s *soak) refreshes() int {
	sum := 0
	for _, name := range s.ledger.names() {
		sum += s.ledger.promised(name).epoch - 1
	}
	return sum
}

func (s *soak) counts() string {
	s.mu.Lock()
	disturbed := maps.Clone(s.disturbed)
	s.mu.Unlock()
	took := s.took
	if took == 0 {
		took = time.Since(s.started)
	}
	parts := []string{
		took.Round(time.Second).String(),
		thousands(len(s.ledger.names())) + " accounts",
		thousands(int(s.signatures.Load())) + " signatures",
		thousands(s.refreshes()) + " refreshes",
	}
	for _, d := range s.disturbances() {
		parts = append(parts, fmt.Sprintf("%s %s", thousands(disturbed[d.name]), d.name))
	}
	return strings.Join(append(parts, thousands(int(s.refused.Load()))+" requests refused"), ", ")
}

func (s *soak) summary(finished, failed bool) string {
	lost := s.ledger.losses()
	switch {
	case s.started.IsZero():
		return "not begun; lost: not known"
	case !finished:
		lost = append(lost, "not known, since the run ended early: see above")
	case len(lost) == 0 && failed:
		lost = []string{"nothing of the accounts, but the run failed: see above"}
	case len(lost) == 0:
		lost = []string{"nothing"}
	}
	return s.counts() + "; lost: " + strings.Join(lost, "; ")
}

// sayWrapping tells what became of the wrapping keys.
func (s *soak) sayWrapping(t *testing.T) {
	states := map[string]int{}
	list, err := s.Client.Logical().List(s.path + "/wrapping-keys")
	if err != nil || list == nil {
		t.Errorf("list wrapping-keys: %v", err)
		return
	}
	versions, _ := list.Data["key_info"].(map[string]any)
	for _, v := range versions {
		fields, _ := v.(map[string]any)
		states[text(fields, "state")]++
	}
	s.say("wrapping keys: %d live, %d retired, %d being destroyed, %d destroyed", states["live"], states["retired"], states["destroying"], states["destroyed"])
}

func (s *soak) sayErrors() {
	s.say("slowest recovery: %v, after %s", s.slowest.Round(100*time.Millisecond), s.slowestWhat)
	s.mu.Lock()
	defer s.mu.Unlock()
	texts := slices.SortedFunc(maps.Keys(s.errors), func(a, b string) int { return s.errors[b] - s.errors[a] })
	for _, text := range texts[:min(12, len(texts))] {
		s.say("%d refused: %s", s.errors[text], text)
	}
}

// thousands writes 4211 as 4,211.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
