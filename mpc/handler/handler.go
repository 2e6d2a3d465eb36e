// Package handler drives one handler of the multi-party-sig library as an
// mpc.Party: it hides the library's channel, mutex and goroutine needs, refuses
// messages the library is known to mishandle, and turns panics into errors.
//
// Border: it knows the library's message handling, not its protocols; those
// are in mpc/frost and mpc/cmp. It does no I/O and authenticates nobody: the
// From of an incoming message must already be proven by the caller.
package handler

import (
	"crypto/sha256"
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
	cfg    Config
	h      *protocol.MultiHandler
	out    <-chan *protocol.Message
	peers  map[mpc.Index]bool // every party but Self
	seen   map[slot]bool
	size   int // bytes accepted so far
	ssid   []byte
	tag    [32]byte
	name   string // the library's protocol ID
	result any
	failed error
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
	p := &Party{cfg: cfg, peers: map[mpc.Index]bool{}, seen: map[slot]bool{}}
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

// Step implements mpc.Party.
func (p *Party) Step(m mpc.Message) ([]mpc.Message, error) {
	if p.h == nil {
		return nil, errors.New("handler: not started")
	}
	if p.failed != nil {
		return nil, p.failed
	}
	if p.result != nil {
		return nil, nil // a straggler after the end changes nothing
	}
	if err := p.admit(m); err != nil {
		p.failed = &mpc.AbortError{Culprits: []mpc.Index{m.From}, Err: err}
		return nil, p.failed
	}
	s := slot{m.From, m.Round, m.Broadcast}
	if p.seen[s] {
		return nil, nil
	}
	p.seen[s] = true
	if m.Broadcast && p.cfg.Broadcasts != nil {
		p.cfg.Broadcasts(m)
	}

	in := &protocol.Message{
		SSID:                  p.ssid,
		From:                  PartyID(m.From),
		To:                    p.to(m),
		Protocol:              p.name,
		Data:                  m.Data,
		Broadcast:             m.Broadcast,
		BroadcastVerification: m.Echo,
	}
	setNumber(&in.RoundNumber, m.Round)
	out, err := p.accept(in)
	if err != nil {
		abort := &mpc.AbortError{Err: err}
		// A panic may come from a message that was queued earlier, so with
		// more than one peer it convicts nobody.
		if len(p.peers) == 1 {
			abort.Culprits = []mpc.Index{m.From}
		}
		p.failed = abort
		return nil, p.failed
	}
	return p.convert(out)
}

// setNumber assigns to the library's round number, whose type cannot be named
// outside its module.
func setNumber[T ~uint16](dst *T, n uint8) { *dst = T(n) }

// to restores the library's addressing: broadcasts have no recipient, anything
// else is for us (an empty recipient there makes the library panic).
func (p *Party) to(m mpc.Message) party.ID {
	if m.Broadcast {
		return ""
	}
	return PartyID(p.cfg.Self)
}

// admit refuses what must never reach the library.
func (p *Party) admit(m mpc.Message) error {
	switch {
	case !p.peers[m.From]:
		return fmt.Errorf("%w: share %d is not in this session", mpc.ErrMalformedMessage, m.From)
	case !m.Broadcast && m.To != p.cfg.Self, m.Broadcast && m.To != 0:
		return fmt.Errorf("%w: addressed to share %d", mpc.ErrMalformedMessage, m.To)
	case m.Round < 2 || m.Round > p.cfg.FinalRound:
		// Round 0 would abort the session and blame its sender.
		return fmt.Errorf("%w: round %d", mpc.ErrMalformedMessage, m.Round)
	case len(m.Data) == 0 || len(m.Data) > mpc.MaxMessageSize:
		return fmt.Errorf("%w: %d bytes", mpc.ErrMalformedMessage, len(m.Data))
	case len(m.Echo) != 0 && len(m.Echo) != 64:
		return fmt.Errorf("%w: echo of %d bytes", mpc.ErrMalformedMessage, len(m.Echo))
	case m.Transcript != p.tag:
		return mpc.ErrOtherSession
	}
	if p.size += len(m.Data); p.size > mpc.MaxSessionSize {
		return fmt.Errorf("%w: more than %d bytes in one session", mpc.ErrMalformedMessage, mpc.MaxSessionSize)
	}
	if p.cfg.Check != nil {
		if err := p.cfg.Check(m); err != nil {
			return fmt.Errorf("%w: %w", mpc.ErrMalformedMessage, err)
		}
	}
	return nil
}

// accept hands one message to the library and returns what it sends. A single
// message can complete several rounds, more than the library's channel holds,
// so the channel is emptied while the library works.
func (p *Party) accept(m *protocol.Message) ([]*protocol.Message, error) {
	stop := make(chan struct{})
	collected := make(chan []*protocol.Message)
	go func() {
		var out []*protocol.Message
		ch := p.out
		for {
			select {
			case o, ok := <-ch:
				if !ok {
					ch = nil // closed: wait for stop
					continue
				}
				out = append(out, o)
			case <-stop:
				if ch != nil {
					out = append(out, drain(ch)...)
				}
				collected <- out
				return
			}
		}
	}()
	err := p.guard(func() error {
		p.h.Accept(m)
		return nil
	})
	close(stop)
	return <-collected, err
}

// drain takes what is in ch now, without waiting.
func drain(ch <-chan *protocol.Message) []*protocol.Message {
	var out []*protocol.Message
	for {
		select {
		case m, ok := <-ch:
			if !ok {
				return out
			}
			out = append(out, m)
		default:
			return out
		}
	}
}

// convert reads the library's state and translates what it wants sent.
func (p *Party) convert(out []*protocol.Message) ([]mpc.Message, error) {
	result, err := p.h.Result()
	var abort protocol.Error // returned by value
	switch {
	case err == nil:
		p.result = result
	case errors.As(err, &abort):
		p.failed = abortError(abort)
		return nil, p.failed
	}

	messages := make([]mpc.Message, 0, len(out))
	for _, o := range out {
		if o.RoundNumber == 0 {
			continue // the library's own abort notice; the session has its own
		}
		if p.ssid == nil {
			p.ssid, p.name = o.SSID, o.Protocol
			p.tag = sha256.Sum256(o.SSID)
		}
		m := mpc.Message{
			From:       p.cfg.Self,
			To:         Index(o.To),
			Broadcast:  o.Broadcast,
			Round:      uint8(o.RoundNumber),
			Transcript: p.tag,
			Echo:       o.BroadcastVerification,
			Data:       o.Data,
		}
		if m.Broadcast && p.cfg.Broadcasts != nil {
			p.cfg.Broadcasts(m)
		}
		messages = append(messages, m)
	}
	return messages, nil
}

func abortError(e protocol.Error) error {
	abort := &mpc.AbortError{Err: e.Err}
	for _, id := range e.Culprits {
		abort.Culprits = append(abort.Culprits, Index(id))
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
}

// guard runs f and turns a panic into an error. The panic's value is not
// passed on: it may hold anything that was in memory.
func (p *Party) guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = mpc.ErrPanic
		}
	}()
	return f()
}
