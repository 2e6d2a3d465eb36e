package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// ErrSessionOver: the session cannot be used any more. Nothing was done for the
// request; log in again.
var ErrSessionOver = errors.New("the session is over: log in again")

// Session is what a login opens: a Caller whose requests and answers are sealed
// between client and engine, whatever is in between. It ends by itself at Expires,
// and with the engine's process. Safe for concurrent use until Wipe; requests go
// one after the other.
type Session struct {
	// Warn, if it is set before the first request, is told the warnings of
	// answers.
	Warn func(string)

	caller  Caller
	id      identity.ID
	expires time.Time
	channel *identity.Channel

	authenticator *identity.Authenticator
	keys          *identity.Keys
	identities    []IdentityInfo
	information   identity.AuthenticationInformation

	// turn holds one token: who has it may use sequence, over and the
	// channel. It is taken across a request, because the engine takes numbers
	// in their order only; waiting for it ends with the context.
	turn     chan struct{}
	sequence uint64
	over     bool

	wipe sync.Once
}

var _ Caller = (*Session)(nil)

func newSession(c Caller, id identity.ID, channel *identity.Channel) *Session {
	s := &Session{caller: c, id: id, channel: channel, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// Authenticator is the verified record. It is not to be changed.
func (s *Session) Authenticator() *identity.Authenticator { return s.authenticator }

// Keys are the authenticator's own, valid until Wipe.
func (s *Session) Keys() *identity.Keys { return s.keys }

// Identities is what the server says that this authenticator opens.
func (s *Session) Identities() []IdentityInfo { return s.identities }

// Info is what the login was made with, for binding a device; valid until Wipe.
func (s *Session) Info() identity.AuthenticationInformation { return s.information }

// Expires is when the engine ends the session.
func (s *Session) Expires() time.Time { return s.expires }

// take waits for the session's turn, since its numbers rise; give hands it on.
func (s *Session) take(ctx context.Context) error {
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Session) give() { s.turn <- struct{}{} }

// Call sends a request through the session. Refusals of the path itself are
// *Refusal as outside; ErrSessionOver says that the session is gone, or that an
// answer was lost, after which its numbers cannot be used any more.
func (s *Session) Call(ctx context.Context, op Op, path string, in map[string]any, out any) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	if s.over {
		return ErrSessionOver
	}
	body := []byte("{}")
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("keyholder: the request cannot be encoded: %w", err)
		}
	}
	s.sequence++
	message, err := s.channel.Seal(s.sequence, identity.SessionCallContext(s.id, s.sequence, identity.Operation(op), path), body)
	if err != nil {
		return err
	}
	var reply struct {
		Message []byte `json:"message"`
		Status  int    `json:"status"`
	}
	err = s.caller.Call(ctx, Write, "session/call", map[string]any{
		"session": s.id, "sequence": s.sequence, "operation": op, "path": path, "message": message,
	}, &reply)
	if err != nil {
		s.over = true
		if Refused(err, http.StatusForbidden) {
			return fmt.Errorf("%w (%w)", ErrSessionOver, err)
		}
		return fmt.Errorf("%w; the session cannot go on after this: log in again", err)
	}
	return s.answer(op, path, reply.Message, reply.Status, out)
}

// answer opens what came back: the message is bound to the request and the status.
func (s *Session) answer(op Op, path string, message []byte, status int, out any) error {
	var inside struct {
		Data     json.RawMessage `json:"data"`
		Warnings []string        `json:"warnings"`
		Errors   []string        `json:"errors"`
	}
	bound := identity.SessionAnswerContext(s.id, s.sequence, identity.Operation(op), path, status)
	if err := s.openMessage(s.sequence, bound, message, &inside); err != nil {
		s.over = true
		return err
	}
	if s.Warn != nil {
		for _, w := range inside.Warnings {
			s.Warn(w)
		}
	}
	if status >= 400 || len(inside.Errors) > 0 {
		return &Refusal{Status: status, Messages: inside.Errors}
	}
	if out == nil || len(inside.Data) == 0 || string(inside.Data) == "null" {
		return nil
	}
	if err := json.Unmarshal(inside.Data, out); err != nil {
		return fmt.Errorf("the answer to %s of %s does not have the expected form: %w", op, path, err)
	}
	return nil
}

func (s *Session) openMessage(sequence uint64, bound, message []byte, into any) error {
	body, err := s.channel.Open(sequence, bound, message)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoMessage, err)
	}
	defer secret.Wipe(body)
	if err := json.Unmarshal(body, into); err != nil {
		return errors.New("the server's message does not have the expected form; mpckms and the plugin may be of versions that do not fit together")
	}
	return nil
}

// End tells the engine to forget the session. The session is over, whatever it
// returns; Wipe is still to be called.
func (s *Session) End(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	if s.over {
		return nil
	}
	s.over = true
	return s.caller.Call(ctx, Write, "session/end", map[string]any{"session": s.id}, nil)
}

// Wipe forgets the keys and the information. The session cannot be used after.
func (s *Session) Wipe() {
	s.wipe.Do(func() {
		s.channel.Wipe()
		s.keys.Wipe()
		wipeInformation(&s.information)
	})
}
