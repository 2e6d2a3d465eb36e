package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// maxAttempts bounds the sessions of one job, so that what fails every time
// does not keep all nodes busy until the deadline.
const maxAttempts = 8

// maxConflicts bounds how often a job chooses anew because others placed shares
// at the same time; each time it knows at least one more exposure.
const maxConflicts = 2 * mpc.MaxShares

// minAttempt is the least time an attempt is given, however little is left.
const minAttempt = 500 * time.Millisecond

// job is one operation that may take several sessions.
type job struct {
	pool      *Pool
	operation string // for errors
	// account has a turn among others when nodes are busy; all creations
	// share one turn under the zero ID, else each would have its own.
	account mpc.AccountID
	// background lets other jobs go first and leaves nodes half free.
	background bool
	n, count   int // shares in all, shares needed
	seen       mpc.Exposures
	// noSpares allows only nodes that seen shows with a share.
	noSpares bool
	expose    func(ctx context.Context, added mpc.Exposures) error
	// compatible restricts which nodes can work together; nil for no limit.
	compatible func(a, b candidate) bool
	// missing explains why compatible leaves nobody; only with compatible.
	missing func() error
	// describe, where not nil, completes what a session says of a member.
	describe func(*nodepb.Member)
	// start writes the Start message for one member; members are complete.
	start func(a assignment, members []*nodepb.Member) *nodepb.Start
	// need is how many outcomes finish the session; accept refuses an outcome
	// that its node should not have sent, so that others are tried.
	need   int
	accept func(*nodepb.Outcome) error

	attempts int
	avoid    map[string]bool    // nodes that failed in this job
	broken   map[mpc.Index]bool // shares that did not open
	last     ending
}

// run tries sessions until one succeeds, the request turns out to be wrong, or
// ctx ends. On success it returns the assignments and outcomes.
func (j *job) run(ctx context.Context) ([]assignment, map[mpc.Index]*nodepb.Outcome, error) {
	j.avoid, j.broken = map[string]bool{}, map[mpc.Index]bool{}
	conflicts := 0
	for {
		chosen, err := j.choose(ctx)
		if err != nil {
			return nil, nil, j.fail(err)
		}
		clients, ok := j.clients(chosen)
		if !ok {
			continue // a node went away in between
		}
		var exposed *ExposedError
		if err := j.store(ctx, chosen); errors.As(err, &exposed) && conflicts < maxConflicts {
			// Another session was faster with a spare: choose anew with what
			// it stored.
			conflicts++
			j.seen = maps.Clone(exposed.Current)
			continue
		} else if err != nil {
			return nil, nil, err
		}
		attempt, cancel := context.WithTimeout(ctx, attemptTime(ctx))
		j.attempts++
		j.last = runSession(attempt, j.participants(chosen, clients), j.need, j.accept)
		cancel()
		if j.last.err == nil {
			return chosen, j.last.outcomes, nil
		}
		if stop := j.learn(ctx, chosen); stop != nil {
			return nil, nil, j.fail(stop)
		}
		if j.attempts >= maxAttempts {
			return nil, nil, j.fail(j.last.err)
		}
		// A failure that no node is known for may come back at once.
		if len(j.last.suspects) == 0 && !pause(ctx, time.Duration(j.attempts+1)*20*time.Millisecond) || ctx.Err() != nil {
			return nil, nil, j.fail(ctx.Err())
		}
	}
}

// attemptTime gives an attempt half of what is left, so that a node that hangs
// leaves time for another try.
func attemptTime(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return time.Minute
	}
	return max(time.Until(deadline)/2, minAttempt)
}

// choose waits until a placement is possible.
func (j *job) choose(ctx context.Context) ([]assignment, error) {
	for {
		nodes, configured, changed, err := j.pool.ready()
		if err != nil {
			return nil, err
		}
		var fresh, all []candidate
		for _, n := range nodes {
			c, ok := n.candidate()
			if !ok {
				continue
			}
			all = append(all, c)
			if !j.avoid[c.id] {
				fresh = append(fresh, c)
			}
		}
		compatible := j.compatible
		if compatible == nil {
			compatible = func(a, b candidate) bool { return true }
		}
		if chosen := place(j.n, j.count, j.seen, fresh, j.broken, compatible); chosen != nil {
			return chosen, nil
		}
		// Nobody else is left: forgive, a node that failed may work again.
		if len(fresh) < len(all) {
			if chosen := place(j.n, j.count, j.seen, all, j.broken, compatible); chosen != nil {
				clear(j.avoid)
				if !pause(ctx, 50*time.Millisecond) {
					return nil, j.explain(all, configured)
				}
				return chosen, nil
			}
		}
		if len(j.broken) > j.n-j.count {
			return nil, ErrShareUnusable
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, j.explain(all, configured)
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// explain says why no placement was found before the deadline.
func (j *job) explain(ready []candidate, configured int) error {
	if j.missing != nil && len(ready) >= j.count && (j.last.err == nil || j.last.failure.GetReason() == nodepb.Failure_AUX_PENDING) {
		if err := j.missing(); err != nil {
			return err
		}
	}
	names := map[mpc.NodeIdentity]string{}
	for _, n := range j.pool.all() {
		if c, ok := n.candidate(); ok {
			names[c.identity] = c.id
		}
	}
	var reason error = &TooFewNodesError{Ready: len(ready), Needed: j.count, Configured: configured}
	if e := unserved(j.n, j.seen, ready, names); e != nil && len(ready) >= j.count {
		reason = e
	}
	if j.last.err != nil {
		reason = j.last.err
	}
	for _, n := range j.pool.all() {
		if err := n.trouble(); err != nil {
			return fmt.Errorf("%w; %s: %w", reason, n.id, err)
		}
	}
	return reason
}

// clients finds the connection to each chosen node. It returns false when one
// has just gone.
func (j *job) clients(chosen []assignment) (map[string]nodepb.NodeClient, bool) {
	clients := map[string]nodepb.NodeClient{}
	for _, a := range chosen {
		n := j.pool.node(a.node.id)
		if n == nil {
			return nil, false
		}
		if clients[a.node.id] = n.client(); clients[a.node.id] == nil {
			return nil, false
		}
	}
	return clients, true
}

// store makes exposures durable before any share leaves this process.
func (j *job) store(ctx context.Context, chosen []assignment) error {
	added := mpc.Exposures{}
	for _, a := range chosen {
		if a.spare {
			added[a.node.identity] = a.index
		}
	}
	if len(added) == 0 || j.expose == nil {
		return nil
	}
	if err := j.expose(ctx, added); err != nil {
		return fmt.Errorf("storing which node sees which share: %w", err)
	}
	for identity, i := range added {
		j.seen[identity] = i
	}
	return nil
}

func (j *job) participants(chosen []assignment, clients map[string]nodepb.NodeClient) []participant {
	members := make([]*nodepb.Member, len(chosen))
	for k, a := range chosen {
		members[k] = &nodepb.Member{Index: uint32(a.index), NodeId: a.node.id, Identity: a.node.identity[:]}
		if j.describe != nil {
			j.describe(members[k])
		}
	}
	parts := make([]participant, len(chosen))
	for k, a := range chosen {
		parts[k] = participant{assignment: a, client: clients[a.node.id], start: j.start(a, members)}
	}
	return parts
}

// learn draws conclusions from a failed session. It returns an error when
// trying again is pointless.
func (j *job) learn(ctx context.Context, chosen []assignment) error {
	byIndex := map[mpc.Index]string{}
	for _, a := range chosen {
		byIndex[a.index] = a.node.id
	}
	for _, i := range j.last.suspects {
		j.avoid[byIndex[i]] = true
	}
	f := j.last.failure
	if f == nil {
		return nil
	}
	switch f.GetReason() {
	case nodepb.Failure_REFUSED:
		return fmt.Errorf("refused: %w", j.last.err)
	case nodepb.Failure_SHARE_UNUSABLE:
		j.broken[j.last.reporter] = true
	case nodepb.Failure_UNPINNED:
		j.pool.introduce(ctx)
	case nodepb.Failure_AUX_PENDING:
		// The node's process may be a new one that has not heard of its peers.
		j.pool.forgetAccepted(byIndex[j.last.reporter])
		j.attempts--
	case nodepb.Failure_BUSY:
		j.attempts-- // it will be free again; until then the deadline counts
	}
	return nil
}

// fail turns the end of a job into the error callers see.
func (j *job) fail(err error) error {
	var few *TooFewNodesError
	var none *NoEligibleNodeError
	var aux *AuxPendingError
	if errors.Is(err, ErrNotConfigured) || errors.Is(err, ErrClosed) ||
		errors.As(err, &few) || errors.As(err, &none) || errors.As(err, &aux) {
		return err
	}
	if j.last.failure.GetReason() == nodepb.Failure_AUX_PENDING {
		return j.pool.auxPending()
	}
	e := &SessionError{Operation: j.operation, Attempts: j.attempts, Err: err}
	if errors.Is(err, context.DeadlineExceeded) && j.last.err != nil {
		e.Err = j.last.err
	}
	if f := j.last.failure; f != nil {
		if kind := failureKind(f); kind != nil && !errors.Is(e.Err, kind) {
			e.Err = fmt.Errorf("%w: %w", kind, e.Err)
		}
		for _, i := range j.last.suspects {
			if slices.Contains(f.GetCulprits(), uint32(i)) {
				e.Culprits = append(e.Culprits, fmt.Sprintf("the node of share %d", i))
			}
		}
	}
	return e
}
