package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// maxAttempts bounds the sessions of one job, so that what fails every time
// does not keep all nodes busy until the deadline. One lying node among the
// signers of an account with sixteen shares can spoil nine (see suspicion).
const maxAttempts = 12

// maxConflicts bounds how often a job chooses anew because others placed shares
// at the same time; each time it knows at least one more exposure.
const maxConflicts = 2 * mpc.MaxShares

// strandPause is what a job waits for the pool to follow its configuration.
const strandPause = 50 * time.Millisecond

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
	// where the shares live. For shares that are only to be made, plans says where
	// they are to live if these nodes are all there are, and what that is worth.
	where siting
	plans func(nodes []candidate) (siting, mpc.Guarantee)
	// domains, where not empty, are the only ones that plans uses.
	domains []string
	// noSpares allows only nodes that seen shows with a share.
	noSpares bool
	expose   func(ctx context.Context, added mpc.Exposures) error
	// single says that there is one attempt, which may take all the time there is.
	single bool
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
	// check, where not nil, compares the outcomes of a session that is
	// complete. With an error it returns the shares among whose nodes one must
	// be wrong.
	check func(chosen []assignment, outcomes map[mpc.Index]*nodepb.Outcome) ([]mpc.Index, error)

	attempts int
	doubts   doubts
	busy     int          // answers "busy" of nodes, which count as no attempt
	chosen   []assignment // of the last session
	last     ending
}

// maxBusy is how many nodes may answer "busy" before a background job gives up:
// a node at a limit of its own, such as a full stock, stays there for a while.
const maxBusy = 3

// run tries sessions until one succeeds, the request turns out to be wrong, or
// ctx ends. On success it returns the assignments and outcomes.
func (j *job) run(ctx context.Context) ([]assignment, map[mpc.Index]*nodepb.Outcome, error) {
	conflicts := 0
	for {
		err := j.attempt(ctx)
		var exposed *ExposedError
		switch {
		case errors.Is(err, ErrNodeGone):
			continue // in between; the next choice is without it
		case errors.As(err, &exposed) && conflicts < maxConflicts:
			// Another session was faster with a spare: choose anew with what
			// it stored.
			conflicts++
			j.seen = maps.Clone(exposed.Current)
			continue
		case errors.Is(err, ErrStrands) && conflicts < maxConflicts && pause(ctx, strandPause):
			// The configuration is ahead of the pool for a moment.
			conflicts++
			continue
		case err != nil:
			return nil, nil, err
		case j.last.err == nil:
			return j.chosen, j.last.outcomes, nil
		}
		if stop := j.learn(ctx); stop != nil {
			return nil, nil, j.fail(stop)
		}
		if j.attempts >= maxAttempts {
			return nil, nil, j.fail(j.last.err)
		}
		// A failure that no node is known for may come back at once.
		if len(j.last.suspects) == 0 && !pause(ctx, min(time.Duration(j.attempts+1)*20*time.Millisecond<<min(j.busy, 6), time.Second)) || ctx.Err() != nil {
			return nil, nil, j.fail(ctx.Err())
		}
	}
}

// attempt runs one session and leaves its ending in j.last. An error means that
// there was none.
func (j *job) attempt(ctx context.Context) error {
	chosen, release, err := j.choose(ctx)
	if err != nil {
		return j.fail(err)
	}
	defer release()
	clients, ok := j.clients(chosen)
	if !ok {
		return ErrNodeGone
	}
	if err := j.store(ctx, chosen); err != nil {
		return err
	}
	limit := attemptTime(ctx)
	if j.single {
		limit *= 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j.attempts++
	j.chosen = chosen
	j.last = runSession(ctx, j.participants(chosen, clients), j.need, j.accept)
	if j.last.err == nil && j.check != nil {
		j.last.suspects, j.last.err = j.check(chosen, j.last.outcomes)
	}
	return nil
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

// choose waits until a placement is possible, the nodes have free slots, and it
// is this job's turn. The caller must call release after the session.
func (j *job) choose(ctx context.Context) (chosen []assignment, release func(), err error) {
	var place *ticket
	defer func() {
		if err != nil && place != nil {
			place.leave()
		}
	}()
	rested := false
	for {
		ready, configured, changed, err := j.pool.candidates()
		if err != nil {
			return nil, nil, err
		}
		w, forgives := j.plan(ready)
		if w == nil {
			if err := j.doubts.final(j.n, j.count); err != nil {
				return nil, nil, err
			}
		}
		if forgives && !rested {
			// Nobody else is left: a node that failed may work again soon.
			rested = true
			if !pause(ctx, 50*time.Millisecond) {
				return nil, nil, j.explain(ready, configured)
			}
			continue
		}
		if place != nil {
			place.update(w)
		} else if place, err = j.pool.sched.join(j.account, j.background, w); err != nil {
			return nil, nil, err
		}
		select {
		case <-place.started:
			return place.chosen, place.leave, nil
		case <-changed:
		case <-ctx.Done():
			if w != nil && j.last.err == nil {
				return nil, nil, &BusyError{Waiting: place.waiting()}
			}
			return nil, nil, j.explain(ready, configured)
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
	reason := j.tooFew(ready, configured)
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

// tooFew says which nodes are missing for a placement.
func (j *job) tooFew(ready []candidate, configured int) error {
	var known []candidate
	few := &TooFewNodesError{Ready: len(ready), Needed: j.count, Configured: configured, Domains: j.domains}
	isReady, remote := map[string]bool{}, false
	for _, c := range ready {
		isReady[c.id] = true
		if len(j.domains) > 0 && !slices.Contains(j.domains, c.domain) {
			few.Ready--
		}
	}
	for _, n := range j.pool.all() {
		if len(j.domains) > 0 && !slices.Contains(j.domains, n.domain) {
			few.Configured--
			continue
		}
		c, ok := n.candidate()
		if ok {
			known = append(known, c)
		}
		remote = remote || n.remote != nil
		if !isReady[n.id] {
			few.WaitsFor = append(few.WaitsFor, n.described())
		}
	}
	if !remote {
		few.WaitsFor = nil
	}
	if len(ready) < j.count || j.plans != nil {
		return few
	}
	r, _ := j.rule(ready, nil)
	e := r.unserved(j.noSpares, ready, known)
	if e == nil {
		return few
	}
	settings, _ := j.pool.currentSettings()
	e.Local = (e.Domain == "" || e.Domain == hsm.DefaultDomain) && (!r.where.regions || e.Region == settings.LocalRegion)
	return e
}

// clients finds the connection to each chosen node. It returns false when one
// has just gone.
func (j *job) clients(chosen []assignment) (map[string]nodepb.NodeClient, bool) {
	clients := map[string]nodepb.NodeClient{}
	for _, a := range chosen {
		n := j.pool.node(a.node.id)
		if n == nil || !n.isReady() {
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
func (j *job) learn(ctx context.Context) error {
	name := map[mpc.Index]string{}
	for _, a := range j.chosen {
		name[a.index] = a.node.id
	}
	for _, i := range j.last.suspects {
		j.doubts.suspect(name[i], i == j.last.likely)
	}
	f, reporter := j.last.failure, name[j.last.reporter]
	if f == nil {
		return nil
	}
	switch f.GetReason() {
	case nodepb.Failure_REFUSED, nodepb.Failure_APPROVALS:
		err := fmt.Errorf("refused: %w", j.last.err)
		if f.GetReason() == nodepb.Failure_APPROVALS {
			// One node's clock may be wrong; two are believed.
			err = fmt.Errorf("%w: %w", ErrApprovals, j.last.err)
		}
		j.doubts.refuse(reporter, err)
		if len(j.doubts.refused) > 1 {
			return j.doubts.refusal
		}
	case nodepb.Failure_SHARE_UNUSABLE:
		j.doubts.unopened(j.last.reporter, reporter)
	case nodepb.Failure_UNPINNED:
		j.doubts.excuse(reporter)
		j.pool.introduce(ctx)
	case nodepb.Failure_AUX_PENDING:
		// The node's process may be a new one that has not heard of its peers.
		j.doubts.excuse(reporter)
		j.pool.forgetAccepted(reporter)
		j.attempts--
	case nodepb.Failure_BUSY:
		j.doubts.excuse(reporter)
		j.attempts-- // it will be free again; until then the deadline counts
		if j.busy++; j.background && j.busy >= maxBusy {
			return &BusyError{}
		}
	case nodepb.Failure_BELOW_FLOOR, nodepb.Failure_SWITCHED_OFF:
		j.doubts.bar(reporter, fmt.Errorf("%w: %w", failureKind(f), j.last.err))
	case nodepb.Failure_DRAINING:
		if n := j.pool.node(reporter); n != nil {
			n.noteEnding()
		}
		j.doubts.excuse(reporter)
		j.attempts--
	}
	return nil
}

// fail turns the end of a job into the error callers see.
func (j *job) fail(err error) error {
	var few *TooFewNodesError
	var none *NoEligibleNodeError
	var aux *AuxPendingError
	var busy *BusyError
	if errors.As(err, &busy) || errors.Is(err, ErrNotConfigured) || errors.Is(err, ErrClosed) ||
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
		if f.GetReason() == nodepb.Failure_APPROVALS && len(j.doubts.refused) < 2 {
			e.Err = fmt.Errorf("%w: %w", ErrOneNode, e.Err)
		}
		for _, a := range j.chosen {
			if slices.Contains(f.GetCulprits(), uint32(a.index)) {
				e.Culprits = append(e.Culprits, fmt.Sprintf("%s (share %d)", a.node.id, a.index))
			}
		}
	}
	return e
}
