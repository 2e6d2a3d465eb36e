package cmp

import (
	"bytes"
	"errors"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// ErrBroadcast: parties were told different things by a broadcast, or one of
// them says so.
var ErrBroadcast = errors.New("the parties did not receive the same broadcasts")

// ordered is a handler.Party that gets messages in the order of rounds: none
// before this party has sent its own messages of that round. So the echo of the
// previous round's broadcasts is compared before the library looks at a
// message. The library compares it last, and by then it has blamed an honest
// party whose proof fails only because a third one equivocated.
type ordered struct {
	*handler.Party
	self  mpc.Index
	peers []mpc.Index
	last  uint8 // FinalRound
	check func(mpc.Message) error

	tag  [32]byte         // of this party's own messages
	sent uint8            // round of the latest own messages
	echo map[uint8][]byte // the own echo in the messages of a round
	// seen holds every message taken; it stays as small as the session has
	// messages. waiting holds those ahead of this party's round.
	seen    map[place]bool
	waiting map[place]mpc.Message

	// received, when not nil, sees and may change every message right before
	// the library does. made sees own messages before they leave.
	received func(*mpc.Message)
	made     func(mpc.Message) error
	failed   error
}

// place is what a message is: a party sends at most one for each.
type place struct {
	from      mpc.Index
	round     uint8
	broadcast bool
}

func newOrdered(cfg handler.Config) (*ordered, error) {
	inner, err := handler.New(cfg)
	if err != nil {
		return nil, err
	}
	o := &ordered{Party: inner, self: cfg.Self, last: cfg.FinalRound, check: cfg.Check,
		echo: map[uint8][]byte{}, seen: map[place]bool{}, waiting: map[place]mpc.Message{}}
	for _, i := range cfg.Parties {
		if i != cfg.Self {
			o.peers = append(o.peers, i)
		}
	}
	return o, nil
}

// Start implements mpc.Party.
func (o *ordered) Start() ([]mpc.Message, error) {
	out, err := o.Party.Start()
	if err == nil {
		err = o.note(out)
	}
	if err != nil {
		o.failed = err
		return nil, err
	}
	return out, nil
}

// note remembers what own messages say about round and echo.
func (o *ordered) note(out []mpc.Message) error {
	for _, m := range out {
		if o.made != nil {
			if err := o.made(m); err != nil {
				return o.fail(err)
			}
		}
		o.tag, o.sent, o.echo[m.Round] = m.Transcript, max(o.sent, m.Round), m.Echo
	}
	return nil
}

// fail ends the session with err. It convicts the peer if there is only one.
func (o *ordered) fail(err error, culprits ...mpc.Index) error {
	if len(culprits) == 0 && len(o.peers) == 1 {
		culprits = slices.Clone(o.peers)
	}
	o.failed = &mpc.AbortError{Culprits: culprits, Err: err}
	return o.failed
}

// Step implements mpc.Party.
func (o *ordered) Step(m mpc.Message) ([]mpc.Message, error) {
	if o.failed != nil {
		return nil, o.failed
	}
	if !o.sound(m) || o.Done() {
		out, err := o.Party.Step(m) // which refuses it and says why, or ignores it
		if err != nil {
			o.failed = err
		}
		return out, err
	}
	at := place{m.From, m.Round, m.Broadcast}
	if o.seen[at] {
		return nil, nil
	}
	o.seen[at], o.waiting[at] = true, m
	var all []mpc.Message
	for {
		next, ok := o.take()
		if !ok || o.Done() {
			return all, nil
		}
		if !bytes.Equal(next.Echo, o.echo[next.Round]) {
			return nil, o.fail(ErrBroadcast)
		}
		if o.received != nil {
			o.received(&next)
		}
		out, err := o.Party.Step(next)
		if err == nil {
			err = o.note(out)
		}
		if err != nil {
			o.failed = err
			return nil, err
		}
		all = append(all, out...)
	}
}

// sound reports whether the handler would take the message.
func (o *ordered) sound(m mpc.Message) bool {
	addressed := (m.Broadcast && m.To == 0) || (!m.Broadcast && m.To == o.self)
	return o.sent > 0 && addressed && slices.Contains(o.peers, m.From) && m.Round >= 2 && m.Round <= o.last &&
		m.Transcript == o.tag && (len(m.Echo) == 0 || len(m.Echo) == 64) && o.check(m) == nil
}

// take removes one waiting message whose round has come: those of lower rounds
// first, broadcasts first, then by sender.
func (o *ordered) take() (next mpc.Message, ok bool) {
	var best place
	for at := range o.waiting {
		if at.round > o.sent {
			continue
		}
		if !ok || at.before(best) {
			best, ok = at, true
		}
	}
	if ok {
		next = o.waiting[best]
		delete(o.waiting, best)
	}
	return next, ok
}

func (p place) before(q place) bool {
	switch {
	case p.round != q.round:
		return p.round < q.round
	case p.broadcast != q.broadcast:
		return p.broadcast
	}
	return p.from < q.from
}

// Result shadows the handler's: a session that failed here has none.
func (o *ordered) Result() (any, error) {
	if o.failed != nil {
		return nil, o.failed
	}
	return o.Party.Result()
}

// Wipe implements mpc.Party.
func (o *ordered) Wipe() {
	if o.failed == nil {
		o.failed = errors.New("the session was ended")
	}
	clear(o.waiting)
	o.Party.Wipe()
}
