// Package handler drives one handler of the multi-party-sig library as an
// mpc.Party: it hides the library's channel, mutex and goroutine needs, refuses
// messages the library is known to mishandle, and turns panics into errors.
//
// Border: it knows the library's message handling, not its protocols; those
// are in mpc/frost and mpc/cmp. It does no I/O and authenticates nobody: the
// From of an incoming message must already be proven by the caller.
package handler

import (
	"errors"
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/protocol"

	"vault-plugin-secrets-mpc/mpc"
)

// Config says which protocol a Party runs and with whom.
type Config struct {
	// Self is this party's share index; Parties holds all of them, Self
	// included, in ascending order.
	Self    mpc.Index
	Parties []mpc.Index
	// SessionID must be fresh for every session; the library binds its proofs
	// and its own session identifier to it.
	SessionID mpc.SessionID
	// Start creates the first round. It must use objects made for this session
	// only: the library mutates its inputs and races when they are shared.
	Start protocol.StartFunc
	// FinalRound is the number of the last round that has messages.
	FinalRound uint8
	// Check refuses messages that the library would panic on, before they are
	// decoded. It may be nil.
	Check func(mpc.Message) error
	// Broadcasts, when not nil, is given every round's broadcast once per
	// sender, Self included, in the form the library used it.
	Broadcasts func(mpc.Message)
}

// Party is an mpc.Party on a library handler. It belongs to one goroutine.
type Party struct {
	cfg   Config
	h     *protocol.MultiHandler
	out   <-chan *protocol.Message
	peers map[mpc.Index]bool // every party but Self
	seen  map[slot]bool
	size  int // bytes accepted so far
	// current is the round of this party's latest own messages; waiting holds
	// what has come for later rounds.
	current uint8
	waiting map[slot]mpc.Message
	ssid    []byte
	tag     [32]byte
	name    string // the library's protocol ID
	result  any
	failed  error
}

// slot is the place of one message in a session; a second one is ignored.
type slot struct {
	from      mpc.Index
	round     uint8
	broadcast bool
}

var _ mpc.Party = (*Party)(nil)

// New checks cfg and returns a party that has not started.
func New(cfg Config) (*Party, error) {
	p := &Party{cfg: cfg, peers: map[mpc.Index]bool{}, seen: map[slot]bool{}, waiting: map[slot]mpc.Message{}}
	last := mpc.Index(0)
	self := false
	for _, i := range cfg.Parties {
		if i <= last || i > mpc.MaxShares {
			return nil, fmt.Errorf("parties %v are not ascending share indices", cfg.Parties)
		}
		last = i
		if i == cfg.Self {
			self = true
			continue
		}
		p.peers[i] = true
	}
	if !self || len(p.peers) == 0 {
		return nil, fmt.Errorf("share %d cannot run a session of %v", cfg.Self, cfg.Parties)
	}
	if cfg.Start == nil || cfg.FinalRound < 2 || cfg.SessionID == (mpc.SessionID{}) {
		return nil, errors.New("handler: incomplete configuration")
	}
	return p, nil
}

// PartyID is the library's name of a share: one byte, so that the Lagrange
// scalars are 1…n and no two names can have equal scalars.
func PartyID(i mpc.Index) party.ID { return party.ID([]byte{byte(i)}) }

// PartyIDs maps PartyID over indices.
func PartyIDs(indices []mpc.Index) []party.ID {
	ids := make([]party.ID, len(indices))
	for k, i := range indices {
		ids[k] = PartyID(i)
	}
	return ids
}

// Index is the inverse of PartyID; it returns 0 for a name that is not one.
func Index(id party.ID) mpc.Index {
	if len(id) != 1 {
		return 0
	}
	return mpc.Index(id[0])
}

// Start implements mpc.Party. The library runs its first round here.
func (p *Party) Start() ([]mpc.Message, error) {
	if p.h != nil || p.failed != nil {
		return nil, errors.New("handler: started twice")
	}
	err := p.guard(func() error {
		h, err := protocol.NewMultiHandler(p.cfg.Start, p.cfg.SessionID[:])
		if err != nil {
			return err
		}
		p.h, p.out = h, h.Listen()
		return nil
	})
	if err != nil {
		p.failed = &mpc.AbortError{Err: err}
		return nil, p.failed
	}
	// The channel holds 2n messages and round 1 makes at most n: nothing can
	// have blocked, and everything is there.
	return p.convert(drain(p.out))
}

// abortError translates the library's error. Some of its checks tell only that
// somebody cheated; with one peer that is known to be the peer.
func (p *Party) abortError(e protocol.Error) error {
	abort := &mpc.AbortError{Err: e.Err}
	for _, id := range e.Culprits {
		abort.Culprits = append(abort.Culprits, Index(id))
	}
	if len(abort.Culprits) == 0 && len(p.peers) == 1 {
		for i := range p.peers {
			abort.Culprits = append(abort.Culprits, i)
		}
	}
	return abort
}

// Done implements mpc.Party.
func (p *Party) Done() bool { return p.result != nil }

// Result returns what the library computed.
func (p *Party) Result() (any, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.result == nil:
		return nil, errors.New("handler: the session has not ended")
	}
	return p.result, nil
}

// Wipe implements mpc.Party. The library offers no way to clear its rounds, so
// they are dropped for the collector; secrets that its user handed in are
// cleared by that user. The library's own Stop is never called: it does
// nothing while a session runs and panics afterwards.
func (p *Party) Wipe() {
	if p.failed == nil {
		p.failed = errors.New("handler: the session was ended")
	}
	p.h, p.out, p.result = nil, nil, nil
	clear(p.waiting)
}
