//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// disturbance is something that happens to a mount in its life.
type disturbance struct {
	name string // plural, after its number
	// times says how often it is in a deck. Every deck is dealt to its end.
	times int
	do    func(s *soak, t *testing.T, c *client, random *rand.Rand) error
}

var localDisturbances = []disturbance{
	{"rotations", 2, (*soak).rotateWrapping},
	{"node kills", 3, (*soak).killNode},
	{"plugin kills", 1, (*soak).killPlugin},
	{"Vault kills", 1, (*soak).killVault},
	{"reloads", 1, (*soak).reload},
	{"seals", 1, (*soak).sealAndUnseal},
	{"token outages", 1, (*soak).takeToken},
	{"pool changes", 1, (*soak).changePool},
}

// disturbances is the deck of this run.
func (s *soak) disturbances() []disturbance {
	if s.remote != nil {
		return remoteDisturbances
	}
	return localDisturbances
}

// errNothingToDo: the disturbance found nothing to disturb.
var errNothingToDo = errors.New("nothing to do")

// recoversWithin is how long the conductor waits for a signature before it goes
// on disturbing.
const recoversWithin = 60 * time.Second

// conduct disturbs until the time is up. It leaves an active Vault and a token
// in its place. It runs in the test's goroutine.
func (s *soak) conduct(t *testing.T, c *client) {
	random := s.random(0)
	var deck []disturbance
	for time.Since(s.started) < s.duration {
		if len(deck) == 0 {
			for _, d := range s.disturbances() {
				for range d.times {
					deck = append(deck, d)
				}
			}
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		d := deck[0]
		deck = deck[1:]
		pause := time.Duration(random.Int64N(int64(time.Second)))
		patient := random.IntN(3) > 0
		began := time.Now()
		err := d.do(s, t, c, random)
		if took := time.Since(began); took > 10*time.Second {
			s.say("%s: one took %v", d.name, took.Round(time.Second))
		}
		switch {
		case errors.Is(err, errNothingToDo):
			continue
		case err != nil: // another disturbance is still felt
			s.refuse(fmt.Errorf("%s: %w", d.name, err))
		default:
			s.mu.Lock()
			s.disturbed[d.name]++
			s.mu.Unlock()
		}
		if patient {
			s.awaitSignature(t.Context(), c, d.name)
		}
		time.Sleep(pause)
	}
}

// awaitSignature waits until the mount signs again.
func (s *soak) awaitSignature(ctx context.Context, c *client, what string) {
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, recoversWithin)
	defer cancel()
	name := s.ledger.names(bip340)[0]
	err := retry(ctx, func() error { return s.ledger.sign(ctx, c, name, fmt.Appendf(nil, "after %s at %v", what, started)) })
	if err != nil {
		s.say("after %s nothing was signed for %v: %v", what, recoversWithin, err)
	} else {
		s.signatures.Add(1)
	}
	if took := time.Since(started); took > s.slowest {
		s.slowest, s.slowestWhat = took, what
	}
}

func (s *soak) rotateWrapping(t *testing.T, c *client, _ *rand.Rand) error {
	_, err := c.write(t.Context(), "wrapping-keys/rotate", nil)
	return err
}

// below returns the processes under Vault that run a node, or the plugin.
func (s *soak) below(t *testing.T, node bool) []e2e.Process {
	return slices.DeleteFunc(e2e.ProcessTree(t, s.PID()), func(p e2e.Process) bool {
		return len(p.Cmdline) == 0 || (p.Cmdline[len(p.Cmdline)-1] == "node") != node
	})
}

func kill(list []e2e.Process, random *rand.Rand) error {
	choice := random.Float64()
	if len(list) == 0 {
		return errNothingToDo
	}
	p := list[int(choice*float64(len(list)))]
	if !p.Alive() {
		return errNothingToDo
	}
	return syscall.Kill(p.PID, syscall.SIGKILL)
}

func (s *soak) killNode(t *testing.T, _ *client, random *rand.Rand) error {
	return kill(s.below(t, true), random)
}

func (s *soak) killPlugin(t *testing.T, _ *client, random *rand.Rand) error {
	return kill(s.below(t, false), random)
}

func (s *soak) killVault(t *testing.T, _ *client, _ *rand.Rand) error {
	e2e.WaitGone(t, s.Kill9(t), 10*time.Second)
	s.Restart(t)
	return nil
}

func (s *soak) reload(t *testing.T, _ *client, _ *rand.Rand) error {
	_, err := s.Client.Logical().WriteWithContext(t.Context(), "sys/plugins/reload/backend", map[string]any{"plugin": "mpc"})
	return err
}

func (s *soak) sealAndUnseal(t *testing.T, _ *client, random *rand.Rand) error {
	sealed := time.Duration(random.Int64N(int64(time.Second)))
	s.Seal(t)
	time.Sleep(sealed)
	s.Unseal(t)
	return nil
}

func (s *soak) takeToken(t *testing.T, _ *client, random *rand.Rand) error {
	away := 300*time.Millisecond + time.Duration(random.Int64N(int64(1500*time.Millisecond)))
	back, err := s.Token.TakeAway()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(away)
	if err := back(); err != nil {
		t.Fatal(err)
	}
	return nil
}

// changePool adds a node or two, or takes them away. New ones make auxiliary
// keys, which costs processor time, so short runs never have a fifth.
func (s *soak) changePool(t *testing.T, c *client, random *rand.Rand) error {
	local := soakNodes + random.IntN(2)
	if more := random.IntN(2); s.duration > time.Minute {
		local += more
	}
	_, err := c.write(t.Context(), "config/nodes", map[string]any{"local": local})
	return err
}
