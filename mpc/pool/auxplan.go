package pool

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// clockSkew is how far in the future keys may have been made before that time
// is taken for a mistake.
const clockSkew = 5 * time.Minute

// auxPlan decides when auxiliary keys are renewed. It knows nodes by name, since
// what it holds outlives their processes.
type auxPlan struct {
	now   func() time.Time
	began time.Time
	// retry is the pause after a first failure of a step, grace how long keys
	// that were replaced stay usable for sessions that name them already.
	retry, grace time.Duration

	mu sync.Mutex
	// tried is the highest generation that a node was asked to make: a number
	// is used once, whatever became of the keys. stored is the highest one
	// that this process has tried to store.
	tried, stored map[string]uint64
	asked         map[string]renewal
	// notBefore delays the renewal of a node whose peers refused its new keys.
	notBefore map[string]time.Time
}

// renewal asks for keys of a generation after this one.
type renewal struct {
	after uint64
	at    time.Time
}

func newAuxPlan(retry, grace time.Duration) *auxPlan {
	return &auxPlan{now: time.Now, began: time.Now(), retry: cmp.Or(retry, auxRetry), grace: cmp.Or(grace, auxGrace), tried: map[string]uint64{},
		stored: map[string]uint64{}, asked: map[string]renewal{}, notBefore: map[string]time.Time{}}
}

// generation returns the number of the keys that a node shall make, when those
// that are stored have the number given.
func (a *auxPlan) generation(nodeID string, stored uint64) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tried[nodeID] = max(a.tried[nodeID], stored) + 1
	return a.tried[nodeID]
}

func (a *auxPlan) noteStored(nodeID string, generation uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored[nodeID] = max(a.stored[nodeID], generation)
}

// resetStored corrects noteStored after a write that failed.
func (a *auxPlan) resetStored(nodeID string, generation uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored[nodeID] = generation
}

// outdated reports whether newer keys than those may be stored.
func (a *auxPlan) outdated(nodeID string, keys *AuxKeys) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return keys != nil && keys.Generation < a.stored[nodeID]
}

// ask has a node's keys renewed, also where the next ones are being made now.
func (a *auxPlan) ask(nodeID string, keys *AuxKeys) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := renewal{after: a.tried[nodeID], at: a.now()}
	if keys != nil {
		r.after = max(r.after, keys.Generation)
	}
	a.asked[nodeID] = r
	delete(a.notBefore, nodeID)
}

// postpone delays a node's renewal after its peers refused the new keys.
func (a *auxPlan) postpone(nodeID string, by time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notBefore[nodeID] = a.now().Add(by)
}

// due says when a node's keys are to be renewed, the zero time for never, and
// whether somebody has asked for it.
func (a *auxPlan) due(nodeID string, keys *AuxKeys, period time.Duration) (at time.Time, asked bool) {
	if keys == nil {
		return time.Time{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r, ok := a.asked[nodeID]; {
	case ok && keys.Generation <= r.after:
		at, asked = r.at, true
	case keys.Made.IsZero():
		at = a.began
	case period <= 0:
		return time.Time{}, false
	case keys.Made.After(a.now().Add(clockSkew)):
		at = a.began
	default:
		at = keys.Made.Add(jittered(period, nodeID, keys.Generation))
	}
	if later := a.notBefore[nodeID]; later.After(at) {
		at = later
	}
	return at, asked
}

// jittered changes a period by up to a tenth, the same way for the same keys, so
// that nodes that began together do not stay together.
func jittered(period time.Duration, nodeID string, generation uint64) time.Duration {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s#%d", nodeID, generation)
	share := float64(h.Sum32()) / float64(1<<32) // 0 ≤ share < 1
	return time.Duration(float64(period) * (0.9 + 0.2*share))
}

// auxDue says when n's auxiliary keys are to be renewed; see AuxStatus.NextDue.
func (p *Pool) auxDue(n *poolNode) time.Time {
	settings, _ := p.currentSettings()
	at, _ := p.aux.due(n.id, n.auxView().keys, settings.AuxPeriod)
	return at
}

// RenewAuxiliary asks for new auxiliary keys of a node, of which somebody may
// know the old ones. It returns at once; the renewal is the next one to begin
// and can be followed in Nodes. A request that is not done when the pool closes
// is forgotten. The error says that there is no such node.
func (p *Pool) RenewAuxiliary(nodeID string) error {
	n := p.node(nodeID)
	if n == nil {
		return fmt.Errorf("%w: %s", ErrUnknownNode, nodeID)
	}
	p.aux.ask(nodeID, n.auxView().keys)
	p.notify()
	return nil
}
