package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// Bounds of a node's stock of presignatures, each of which has about 2 KiB.
const (
	maxPresignatures        = 4096
	maxAccountPresignatures = 256
	maxPresignatureLifetime = 24 * time.Hour
)

// errPresignatureGone: used, expired, dropped, or of an earlier process.
var errPresignatureGone = errors.New("the presignature is not here any more")

// presignature is this node's part of one presignature, with all that its use
// is tied to.
type presignature struct {
	account mpc.AccountID
	record  [32]byte // hash of the public record, so epoch and policy too
	self    mpc.Index
	members []session.Member
	expires time.Time // by the monotonic clock
	secret  *cmp.Presignature
}

// errSuperseded: the presignature belongs to shares that are replaced by now.
var errSuperseded = fmt.Errorf("%w: the account's shares were refreshed while it was made", errPresignatureGone)

// stock holds presignatures by the session that made them. They exist here and
// nowhere else. All methods may be called concurrently.
type stock struct {
	mu      sync.Mutex
	held    map[mpc.SessionID]*presignature
	places  map[*place]struct{}   // for those that are being made
	perID   map[mpc.AccountID]int // held and places
	sweeper *time.Timer           // wipes what has expired, nil while nothing is held
	closed  bool
}

// place is kept free for one presignature while it is made, so that seconds of
// work do not end at a full stock.
type place struct {
	account mpc.AccountID
	void    bool // guarded by stock.mu: the account was refreshed since
}

func newStock() *stock {
	return &stock{held: map[mpc.SessionID]*presignature{}, places: map[*place]struct{}{}, perID: map[mpc.AccountID]int{}}
}

func (s *stock) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// reserve keeps a place for one more presignature of the account. The caller
// gives it up with leave, used or not.
func (s *stock) reserve(id mpc.AccountID) (*place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, errNotSetUp
	case len(s.held)+len(s.places) >= maxPresignatures:
		return nil, fmt.Errorf("%w: it holds or makes %d presignatures", errBusy, maxPresignatures)
	case s.perID[id] >= maxAccountPresignatures:
		return nil, fmt.Errorf("%w: it holds or makes %d presignatures of the account", errBusy, maxAccountPresignatures)
	}
	at := &place{account: id}
	s.places[at] = struct{}{}
	s.perID[id]++
	return at, nil
}

// leave gives up a place. Leaving twice, or nil, does nothing.
func (s *stock) leave(at *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.places[at]; ok {
		delete(s.places, at)
		s.uncountLocked(at.account)
	}
}

// put takes a presignature over, at the place that was reserved for it. It
// refuses one whose account was refreshed since: the drop of the account's stock
// would have missed it.
func (s *stock) put(at *place, id mpc.SessionID, p *presignature) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, reserved := s.places[at]
	switch {
	case s.closed:
		return errNotSetUp
	case !reserved || at.account != p.account || s.held[id] != nil:
		return errors.New("a presignature without a place of its own")
	case at.void:
		return errSuperseded
	}
	delete(s.places, at) // its count passes to p
	s.held[id] = p
	s.sweepLaterLocked()
	return nil
}

// take removes a presignature and hands it to the caller, who wipes it. It
// succeeds once.
func (s *stock) take(id mpc.SessionID) (*presignature, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.held[id]
	if p == nil {
		return nil, errPresignatureGone
	}
	s.removeLocked(id, p)
	if !time.Now().Before(p.expires) {
		p.secret.Wipe()
		return nil, errPresignatureGone
	}
	return p, nil
}

func (s *stock) removeLocked(id mpc.SessionID, p *presignature) {
	delete(s.held, id)
	s.uncountLocked(p.account)
}

func (s *stock) uncountLocked(account mpc.AccountID) {
	if s.perID[account]--; s.perID[account] == 0 {
		delete(s.perID, account)
	}
}

// supersede wipes an account's presignatures, and those that are being made now
// will not come in: all of them are of an epoch that may be over.
func (s *stock) supersede(account mpc.AccountID) {
	s.mu.Lock()
	for at := range s.places {
		at.void = at.void || at.account == account
	}
	s.mu.Unlock()
	s.drop(account, nil)
}

// drop wipes an account's presignatures but those of the sessions in keep.
func (s *stock) drop(account mpc.AccountID, keep []mpc.SessionID) {
	s.wipeWhere(func(id mpc.SessionID, p *presignature) bool {
		return p.account == account && !slices.Contains(keep, id)
	})
}

func (s *stock) wipeWhere(match func(mpc.SessionID, *presignature) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.held {
		if match(id, p) {
			s.removeLocked(id, p)
			p.secret.Wipe()
		}
	}
}

// sweepLaterLocked has expired presignatures wiped when the next one expires.
// The timer's function does memory work only and ends by itself.
func (s *stock) sweepLaterLocked() {
	var next time.Time
	for _, p := range s.held {
		if next.IsZero() || p.expires.Before(next) {
			next = p.expires
		}
	}
	if s.sweeper != nil {
		s.sweeper.Stop()
	}
	if next.IsZero() {
		s.sweeper = nil
		return
	}
	s.sweeper = time.AfterFunc(time.Until(next), s.sweep)
}

func (s *stock) sweep() {
	now := time.Now()
	s.wipeWhere(func(_ mpc.SessionID, p *presignature) bool { return !now.Before(p.expires) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.sweepLaterLocked()
	}
}

// close wipes everything, for good.
func (s *stock) close() {
	s.mu.Lock()
	s.closed = true
	if s.sweeper != nil {
		s.sweeper.Stop()
	}
	s.mu.Unlock()
	s.wipeWhere(func(mpc.SessionID, *presignature) bool { return true })
}

// DropPresignatures forgets an account's presignatures but those named.
func (n *Node) DropPresignatures(_ context.Context, r *nodepb.DropPresignaturesRequest) (*nodepb.DropPresignaturesReply, error) {
	var account mpc.AccountID
	if len(r.GetAccountId()) != len(account) || len(r.GetKeep()) > maxPresignatures {
		return nil, status.Error(codes.InvalidArgument, "malformed request to drop presignatures")
	}
	copy(account[:], r.GetAccountId())
	keep := make([]mpc.SessionID, len(r.GetKeep()))
	for i, id := range r.GetKeep() {
		if len(id) != len(keep[i]) {
			return nil, status.Error(codes.InvalidArgument, "malformed session ID")
		}
		copy(keep[i][:], id)
	}
	n.stock.drop(account, keep)
	return &nodepb.DropPresignaturesReply{}, nil
}
