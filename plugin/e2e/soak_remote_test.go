//go:build e2e

package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// remoteDisturbances is the deck of a soak with node daemons: what happens to
// Vault, as with local nodes, and what happens to hosts and the lines between
// them.
var remoteDisturbances = []disturbance{
	{"rotations", 2, (*soak).rotateWrapping},
	{"daemon kills", 3, (*soak).killDaemon},
	{"daemon restarts", 2, (*soak).restartDaemon},
	{"link cuts", 3, (*soak).cutLink},
	{"plugin kills", 1, (*soak).killPlugin},
	{"Vault kills", 1, (*soak).killVault},
	{"reloads", 1, (*soak).reload},
	{"seals", 1, (*soak).sealAndUnseal},
	{"token outages", 1, (*soak).takeRemoteToken},
}

// startRemote starts the daemons of a soak, spread over three regions.
func (s *soak) startRemote(t *testing.T, text string) {
	t.Helper()
	count, err := strconv.Atoi(text)
	if err != nil || count < 3 || count > 30 {
		t.Fatalf("%s=%q: want a number of nodes from 3 to 30", soakRemoteEnv, text)
	}
	if err := netlab.Available(); err != nil {
		t.Fatalf("%s=%d: %v", soakRemoteEnv, count, err)
	}
	var nodes []string
	for i := range count {
		nodes = append(nodes, fmt.Sprintf("node-%d@%s", i+1, []string{"eu", "us", "ap"}[i%3]))
	}
	s.remote = newRemoteCluster(t, netlab.Config{Seed: s.seed, Paths: betweenRegions(far)}, "eu", nodes...)
	s.engine = s.remote.engine
	s.waitAuxiliary(t)
}

// pick draws one of the daemons. It is also where those that ended by
// themselves are started again, as a service manager would: a daemon ends when
// its token can only be seen again by a new process.
func (s *soak) pick(t *testing.T, random *rand.Rand) string {
	s.tend(t)
	names := s.remote.names("")
	return names[random.IntN(len(names))]
}

func (s *soak) tend(t *testing.T) {
	for _, node := range s.remote.nodes {
		if !node.Running() {
			node.Start(t)
		}
	}
}

// killDaemon kills a daemon, which its service manager starts again.
func (s *soak) killDaemon(t *testing.T, _ *client, random *rand.Rand) error {
	node, down := s.remote.nodes[s.pick(t, random)], time.Duration(random.Int64N(int64(2*time.Second)))
	node.Kill9(t)
	time.Sleep(down)
	node.Start(t)
	return nil
}

// restartDaemon has a daemon end by itself, and starts it again.
func (s *soak) restartDaemon(t *testing.T, _ *client, random *rand.Rand) error {
	node := s.remote.nodes[s.pick(t, random)]
	code := node.Terminate(t)
	node.Start(t)
	if code != 0 {
		return fmt.Errorf("%s ended with %d on SIGTERM", node.Name, code)
	}
	return nil
}

// cutLink cuts a node off, for less time than anybody notices or for more.
func (s *soak) cutLink(t *testing.T, _ *client, random *rand.Rand) error {
	site, away := s.remote.sites[s.pick(t, random)], time.Duration(random.Int64N(int64(10*time.Second)))
	one, all := []*netlab.Site{site}, s.remote.lab.Sites(nil)
	s.remote.lab.Cut(one, all)
	time.Sleep(away)
	s.remote.lab.Mend(one, all)
	return nil
}

// takeRemoteToken has a region's HSM vanish for a moment.
func (s *soak) takeRemoteToken(t *testing.T, _ *client, random *rand.Rand) error {
	node, away := s.remote.nodes[s.pick(t, random)], 300*time.Millisecond+time.Duration(random.Int64N(int64(1500*time.Millisecond)))
	back, err := node.Token.TakeAway()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(away)
	if err := back(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s.tend(t)
	}
	return nil
}
