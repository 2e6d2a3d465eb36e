package backend

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// requestFacts is what lists and bounds need of a request.
type requestFacts struct {
	id, account, accountID   string
	action                   approval.Action
	state                    requestState
	byOwner                  bool
	requester, requesterName string
	created, expires, ended  time.Time
	approvals, refusals      int
	quorum                   int
	unreadable               bool // then there is the ID alone
}

func factsOf(r *requestRecord) *requestFacts {
	f := &requestFacts{
		id: r.ID, account: r.Account, accountID: r.AccountID, action: r.Action, state: r.State, byOwner: r.ByOwner,
		requester: r.Requester, requesterName: r.RequesterName, created: r.Created, expires: r.Expires, ended: r.Ended,
		approvals: r.count(approval.Approve), refusals: r.count(approval.Refuse),
	}
	if p, err := approval.ParsePolicy(r.Policy); err == nil {
		f.quorum = p.Quorum
	}
	return f
}

// requestIndex knows of every stored request what lists and bounds need. It is read
// from storage once, by the first who needs it, and kept up by whoever writes. Its
// methods may be called concurrently.
type requestIndex struct {
	store *store
	log   hclog.Logger
	turn  chan struct{} // capacity 1: held while it is read
	todo  []string      // IDs still to be read; guarded by turn

	mu       sync.Mutex
	listed   bool // todo has been made
	loaded   bool
	all      map[string]*requestFacts
	doubtful map[string]bool // may have changed in storage
	opening  map[string]int  // by account ID: being opened, and not in all yet
}

func newRequestIndex(s *store, log hclog.Logger) *requestIndex {
	return &requestIndex{store: s, log: log, turn: make(chan struct{}, 1),
		all: map[string]*requestFacts{}, doubtful: map[string]bool{}, opening: map[string]int{}}
}

// load reads what is not known yet. Who runs out of time leaves the rest to the next.
func (x *requestIndex) load(ctx context.Context) error {
	x.mu.Lock()
	ready := x.loaded && len(x.doubtful) == 0
	x.mu.Unlock()
	if ready {
		return nil
	}
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-x.turn }()
	if !x.listed {
		ids, err := x.store.requestIDs(ctx)
		if err != nil {
			return err
		}
		x.todo, x.listed = ids, true
	}
	for len(x.todo) > 0 {
		if err := x.readOne(ctx, x.todo[0], false); err != nil {
			return err
		}
		x.todo = x.todo[1:]
	}
	x.mu.Lock()
	x.loaded = true
	doubtful := make([]string, 0, len(x.doubtful))
	for id := range x.doubtful {
		doubtful = append(doubtful, id)
	}
	clear(x.doubtful) // who writes from here on doubts again
	x.mu.Unlock()
	for i, id := range doubtful {
		if err := x.readOne(ctx, id, true); err != nil {
			for _, id := range doubtful[i:] {
				x.doubt(id)
			}
			return err
		}
	}
	return nil
}

// readOne takes over one request from storage; what is known already is newer, unless
// it is in doubt.
func (x *requestIndex) readOne(ctx context.Context, id string, doubtful bool) error {
	if _, err := approval.ParseID(id); err != nil {
		return nil
	}
	r, err := x.store.request(ctx, id)
	var damaged *damagedError
	f := &requestFacts{id: id, unreadable: true}
	switch {
	case errors.As(err, &damaged):
		x.log.Warn("a request cannot be read", "request", id, "error", err)
	case err != nil:
		return err
	case r == nil:
		f = nil
	default:
		f = factsOf(r)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case f == nil:
		delete(x.all, id)
	case doubtful || x.all[id] == nil:
		x.all[id] = f
	}
	return nil
}

func (x *requestIndex) set(r *requestRecord) {
	f := factsOf(r)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all[r.ID] = f
	delete(x.doubtful, r.ID)
}

func (x *requestIndex) remove(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.all, id)
}

// doubt says that the request may have changed in storage.
func (x *requestIndex) doubt(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doubtful[id] = true
}

// reserve makes room for one more request of an account; release gives back what is
// not needed, or is in the index by then.
func (x *requestIndex) reserve(ctx context.Context, accountID string) (release func(), err error) {
	if err := x.load(ctx); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	all, own := 0, x.opening[accountID]
	for _, n := range x.opening {
		all += n
	}
	for _, f := range x.all {
		if f.unreadable || f.state.ended() {
			continue
		}
		if all++; f.accountID == accountID {
			own++
		}
	}
	switch {
	case own >= maxPendingPerAccount:
		return nil, tooMany("this account has %d requests that wait, as many as it may: have some answered or cancel them; see <mount>/requests/", own)
	case all >= maxPending:
		return nil, tooMany("this mount has %d requests that wait, as many as it may: have some answered or cancel them; see <mount>/requests/", all)
	}
	x.opening[accountID]++
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.opening[accountID]--; x.opening[accountID] == 0 {
			delete(x.opening, accountID)
		}
	}, nil
}

// facts lists what is known, oldest first.
func (x *requestIndex) facts() []requestFacts {
	x.mu.Lock()
	out := make([]requestFacts, 0, len(x.all))
	for _, f := range x.all {
		out = append(out, *f)
	}
	x.mu.Unlock()
	slices.SortFunc(out, func(a, b requestFacts) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id))
	})
	return out
}

// counts returns how many there are in each state; false where not all have been read.
func (x *requestIndex) counts() (map[requestState]int, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := map[requestState]int{}
	for _, f := range x.all {
		if !f.unreadable {
			out[f.state]++
		}
	}
	return out, x.loaded
}
