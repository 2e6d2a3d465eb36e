package backend

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// Sessions live in the memory of the active server only: they end with it, with
// their time, and with the authenticator that was used.

// Bounds of sessions and of logins that were begun and not finished.
const (
	maxSessions                 = 4096
	maxSessionsPerAuthenticator = 16
	maxPendingLogins            = 8192
	maxLoginsAtOnce             = 16 // in nodes
	// pendingLoginTTL leaves a slow client time for the password hash.
	pendingLoginTTL = 2 * time.Minute
)

// session is one login that has succeeded.
type session struct {
	id            identity.ID
	name          string // of the authenticator
	kind          identity.Method
	authenticator identity.ID
	began         time.Time
	expires       time.Time
	channel       *identity.Channel
	// registered is what the login was made with: see registrationSum. Whoever has
	// the turn changes it.
	registered [sha256.Size]byte
	// turn is held by the call under way: calls come one after the other, and each
	// is answered before the next is looked at.
	turn chan struct{}
}

// pendingLogin is what login/finish needs of login/start. It exists for
// authenticators that do not exist, too.
type pendingLogin struct {
	name       string
	kind       identity.Method
	id         identity.ID
	registered [sha256.Size]byte
	clientMAC  []byte
	sessionKey *secret.Bytes
	expires    time.Time
}

// registrationSum names what a login was made with: a session or a login under way
// is worth nothing once another secret is registered.
func registrationSum(registration []byte) [sha256.Size]byte { return sha256.Sum256(registration) }

func (p *pendingLogin) wipe() {
	p.sessionKey.Wipe()
	secret.Wipe(p.clientMAC)
}

// sessions holds both. Its methods may be called concurrently.
type sessions struct {
	now func() time.Time

	mu      sync.Mutex
	live    map[identity.ID]*session
	pending map[identity.ID]*pendingLogin
	order   []identity.ID // of pending, oldest first; may name what is gone
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, live: map[identity.ID]*session{}, pending: map[identity.ID]*pendingLogin{}}
}

func newID() (id identity.ID) {
	for id == (identity.ID{}) {
		_, _ = rand.Read(id[:]) // never fails: it ends the program instead
	}
	return id
}

// await keeps what login/finish will need. Where there are too many, those that
// have waited longest are dropped.
func (s *sessions) await(p *pendingLogin) identity.ID {
	id := newID()
	now := s.now()
	p.expires = now.Add(pendingLoginTTL)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.order) > 0 {
		first, ok := s.pending[s.order[0]]
		if ok && !now.After(first.expires) && len(s.order) < maxPendingLogins {
			break
		}
		if ok {
			first.wipe()
			delete(s.pending, s.order[0])
		}
		s.order = s.order[1:]
	}
	s.pending[id] = p
	s.order = append(s.order, id)
	return id
}

// take returns a pending login once; the caller wipes it.
func (s *sessions) take(id identity.ID) (*pendingLogin, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pending[id]
	delete(s.pending, id)
	if p != nil && s.now().After(p.expires) {
		p.wipe()
		p = nil
	}
	if p == nil {
		return nil, forbidden("the login is over, was finished before, or was not begun with this server: begin again with login/challenge")
	}
	return p, nil
}

// begin makes a session. The oldest of the same authenticator makes room where it
// has too many.
func (s *sessions) begin(p *pendingLogin, ttl time.Duration) (*session, error) {
	now := s.now()
	n := &session{
		id: newID(), name: p.name, kind: p.kind, authenticator: p.id, began: now, expires: now.Add(ttl), registered: p.registered,
		channel: identity.NewChannel(p.sessionKey, false), turn: make(chan struct{}, 1),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(now)
	var oldest *session
	count := 0
	for _, other := range s.live {
		if other.authenticator != n.authenticator {
			continue
		}
		if count++; oldest == nil || other.began.Before(oldest.began) {
			oldest = other
		}
	}
	if count >= maxSessionsPerAuthenticator {
		s.endLocked(oldest)
	}
	if len(s.live) >= maxSessions {
		n.channel.Wipe()
		return nil, &fault{status: http.StatusServiceUnavailable, msg: "this server has as many sessions as it takes: nothing was begun; log in again in some minutes"}
	}
	s.live[n.id] = n
	return n, nil
}

// errNoSession says the same of all sessions that are not there.
func errNoSession() error {
	return forbidden("session unknown or over: log in again")
}

func (s *sessions) get(id identity.ID) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.live[id]
	if n != nil && !s.now().Before(n.expires) {
		s.endLocked(n)
		n = nil
	}
	if n == nil {
		return nil, errNoSession()
	}
	return n, nil
}

// enter returns the session with its turn, which the caller gives back with leave.
func (s *sessions) enter(ctx context.Context, id identity.ID) (*session, error) {
	n, err := s.get(id)
	if err != nil {
		return nil, err
	}
	select {
	case n.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, conflict("another call of this session is under way: send one after the other")
	}
	if _, err := s.get(id); err != nil { // ended while waiting
		n.leave()
		return nil, err
	}
	return n, nil
}

func (n *session) leave() { <-n.turn }

// end ends one session; ending what is not there is fine.
func (s *sessions) end(id identity.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.live[id]; n != nil {
		s.endLocked(n)
	}
}

// endAuthenticator ends every session of an authenticator, and every login with it
// that is under way: it was lost or deleted.
func (s *sessions) endAuthenticator(authenticator identity.ID) {
	s.endOthers(authenticator, identity.ID{})
}

// endOthers is endAuthenticator but for one session: the one that has changed the
// secret.
func (s *sessions) endOthers(authenticator, keep identity.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.live {
		if n.authenticator == authenticator && n.id != keep {
			s.endLocked(n)
		}
	}
	for id, p := range s.pending {
		if p.id == authenticator {
			p.wipe()
			delete(s.pending, id)
		}
	}
}

// endAll ends everything; the mount is being ended.
func (s *sessions) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.live {
		s.endLocked(n)
	}
	for id, p := range s.pending {
		p.wipe()
		delete(s.pending, id)
	}
	s.order = nil
}

// sweep wipes what is over.
func (s *sessions) sweep() {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(now)
	for id, p := range s.pending {
		if now.After(p.expires) {
			p.wipe()
			delete(s.pending, id)
		}
	}
}

func (s *sessions) sweepLocked(now time.Time) {
	for _, n := range s.live {
		if !now.Before(n.expires) {
			s.endLocked(n)
		}
	}
}

// endLocked takes the session out. A call under way cannot be answered any more.
func (s *sessions) endLocked(n *session) {
	delete(s.live, n.id)
	n.channel.Wipe()
}
