package handler

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/protocol"

	"vault-plugin-secrets-mpc/mpc"
)

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
	p.seen[s], p.waiting[s] = true, m
	var all []mpc.Message
	for p.result == nil {
		next, ok := p.take()
		if !ok {
			break
		}
		out, err := p.process(next)
		if err != nil {
			return nil, err
		}
		all = append(all, out...)
	}
	return all, nil
}

// take removes one message that the library can look at now: those of lower
// rounds first, broadcasts first, then by sender. The library would queue the
// others itself, and a panic on one of its queue could come from anybody.
func (p *Party) take() (next mpc.Message, ok bool) {
	var best slot
	for s := range p.waiting {
		if s.round <= p.current && (!ok || s.before(best)) {
			best, ok = s, true
		}
	}
	next = p.waiting[best]
	delete(p.waiting, best)
	return next, ok
}

func (s slot) before(o slot) bool {
	switch {
	case s.round != o.round:
		return s.round < o.round
	case s.broadcast != o.broadcast:
		return s.broadcast
	}
	return s.from < o.from
}

// process hands one message to the library.
func (p *Party) process(m mpc.Message) ([]mpc.Message, error) {
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
		// A panic on this very message is its sender's: it is decoded and
		// verified by itself, after rounds that were found good. One in the
		// step that joins a round's messages may be any peer's.
		if len(p.peers) == 1 || !errors.Is(err, errJoining) {
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
		p.failed = p.abortError(abort)
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
		p.current = max(p.current, uint8(o.RoundNumber))
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
