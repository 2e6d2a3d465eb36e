package mpctest

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/session"
)

// Sealed is one sealed message as its router sees it: everything but From and
// To is ciphertext.
type Sealed struct {
	From, To mpc.Index
	Body     []byte
}

// Router returns what is delivered instead of a message, at the moment of its
// delivery: to whom, in whose name and what it likes. What it returns is
// delivered as it is, after all that is under way if Late.
type Router func(r *rand.Rand, m Sealed) (instead []Sealed, late bool)

// SealedConfig describes a run over sealed channels.
type SealedConfig struct {
	// Members are the parties' indices, ascending.
	Members []mpc.Index
	// New makes the parties once the session has an ID.
	New    func(id mpc.SessionID) (map[mpc.Index]mpc.Party, error)
	Seed   uint64
	Router Router
	// Strict ends a party with the first message that its channel refuses, as
	// nodes do. Otherwise such a message is dropped.
	Strict bool
}

// SealedResult is what became of honest parties behind a hostile router.
type SealedResult struct {
	Done   []mpc.Index
	Errors map[mpc.Index]error
	// Refused counts messages that a channel refused.
	Refused int
	// Sent is every message as it was sealed, in order.
	Sent       []Sealed
	Violations []string
}

// RunSealed makes fresh identities, opens a session among them, and routes its
// messages until none is under way. All parties are honest; only the router is
// hostile.
func RunSealed(cfg SealedConfig) (*SealedResult, error) {
	channels, err := Channels(cfg.Members)
	if err != nil {
		return nil, err
	}
	parties, err := cfg.New(channels[cfg.Members[0]].ID())
	if err != nil {
		return nil, err
	}
	s := &sealedRun{cfg: cfg, random: Random(cfg.Seed), channels: channels, parties: parties,
		result: &SealedResult{Errors: map[mpc.Index]error{}}}
	if !within(defaultTimeout, func() { err = s.run() }) {
		return nil, fmt.Errorf("%w\n%s", ErrDeadline, stacks())
	}
	return s.result, err
}

// Channels opens a session of members with identities made for it.
func Channels(members []mpc.Index) (map[mpc.Index]*session.Channel, error) {
	terms := session.Terms{Operation: "test"}
	keys := map[mpc.Index]ed25519.PrivateKey{}
	for _, i := range members {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		keys[i] = private
		terms.Members = append(terms.Members, session.Member{Index: i, NodeID: fmt.Sprint("node ", i), Identity: mpc.NodeIdentity(public)})
	}
	shakes, hellos := map[mpc.Index]*session.Handshake{}, map[mpc.Index]session.Hello{}
	for _, i := range members {
		var err error
		if shakes[i], hellos[i], err = session.Begin(terms, i, keys[i]); err != nil {
			return nil, err
		}
	}
	channels := map[mpc.Index]*session.Channel{}
	for i, s := range shakes {
		c, err := s.Complete(hellos)
		if err != nil {
			return nil, err
		}
		channels[i] = c
	}
	return channels, nil
}

type sealedRun struct {
	cfg      SealedConfig
	random   *rand.Rand
	channels map[mpc.Index]*session.Channel
	parties  map[mpc.Index]mpc.Party
	queue    []routed
	result   *SealedResult
}

type routed struct {
	Sealed
	late, touched bool
}

func (s *sealedRun) run() error {
	for _, i := range s.cfg.Members {
		out, err := s.parties[i].Start()
		if err != nil {
			s.result.Errors[i] = err
			continue
		}
		if err := s.post(i, out); err != nil {
			return err
		}
	}
	for steps := 0; len(s.queue) > 0; steps++ {
		if steps > 20_000 {
			return ErrSteps
		}
		m := s.pick()
		if !m.touched && s.cfg.Router != nil {
			instead, late := s.cfg.Router(s.random, m.Sealed)
			for _, x := range instead {
				s.queue = append(s.queue, routed{Sealed{x.From, x.To, slices.Clone(x.Body)}, late, true})
			}
			continue
		}
		if err := s.deliver(m.Sealed); err != nil {
			return err
		}
	}
	for _, i := range s.cfg.Members {
		if s.result.Errors[i] == nil && s.parties[i].Done() {
			s.result.Done = append(s.result.Done, i)
		}
	}
	return nil
}

func (s *sealedRun) pick() routed {
	var ready []int
	for k, m := range s.queue {
		if !m.late {
			ready = append(ready, k)
		}
	}
	k := s.random.IntN(len(s.queue))
	if len(ready) > 0 {
		k = ready[s.random.IntN(len(ready))]
	}
	m := s.queue[k]
	s.queue = slices.Delete(s.queue, k, k+1)
	return m
}

func (s *sealedRun) post(from mpc.Index, out []mpc.Message) error {
	for _, m := range out {
		body, err := session.EncodeProtocol(m)
		if err != nil {
			return err
		}
		for _, to := range s.cfg.Members {
			if to == from || (!m.Broadcast && m.To != to) {
				continue
			}
			sealed, err := s.channels[from].Seal(to, body)
			if err != nil {
				return err
			}
			s.queue = append(s.queue, routed{Sealed: Sealed{from, to, sealed}})
			s.result.Sent = append(s.result.Sent, Sealed{from, to, sealed})
		}
	}
	return nil
}

func (s *sealedRun) deliver(m Sealed) (err error) {
	if s.channels[m.To] == nil || s.result.Errors[m.To] != nil {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			s.violation("a panic left share %d: %v\n%s", m.To, r, stacks())
		}
	}()
	plain, err := s.channels[m.To].Open(m.From, m.Body)
	if err != nil {
		s.result.Refused++
		if !errors.Is(err, session.ErrMessage) {
			s.violation("refused with %v", err)
		}
		if len(Culprits(err)) > 0 {
			s.violation("a message that anybody can have made blames somebody: %v", err)
		}
		if s.cfg.Strict {
			s.result.Errors[m.To] = err
		}
		return nil
	}
	body, err := session.Decode(plain, m.From, m.To)
	if err != nil || body.Kind != session.KindProtocol {
		s.violation("an honest message of share %d is not decoded by share %d: %v", m.From, m.To, err)
		return nil
	}
	out, err := s.parties[m.To].Step(body.Message)
	if err != nil {
		s.result.Errors[m.To] = err
		s.violation("an honest message of share %d ends share %d: %v", m.From, m.To, err)
		return nil
	}
	return s.post(m.To, out)
}

func (s *sealedRun) violation(format string, args ...any) {
	s.result.Violations = append(s.result.Violations, fmt.Sprintf(format, args...))
}
