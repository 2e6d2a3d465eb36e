package pool

import (
	"context"
	"errors"
)

// This file decides when local nodes try the PIN of the settings.

// logIn runs the login of a starting node, one at a time over the whole pool,
// and none after the token has refused the PIN: real tokens lock after a few
// wrong ones, and all nodes have the same. (A running node whose module lost its
// sessions logs in again by itself, once.) Apply lifts the refusal.
func (p *Pool) logIn(ctx context.Context, login func(Token) error) error {
	select {
	case p.login <- struct{}{}:
		defer func() { <-p.login }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	refused := p.refusedPIN
	settings := p.settings
	p.mu.Unlock()
	if refused != nil {
		return refused
	}
	err := login(settings.Token)
	if isPIN(err) && !p.refuse(settings, err) {
		return errors.New("the settings changed during a login that failed")
	}
	return err
}

// refuse notes that the token has refused the settings' PIN. It returns false,
// and does nothing, where other settings are in force by now.
func (p *Pool) refuse(s *Settings, err error) bool {
	p.mu.Lock()
	current, known := p.settings == s, p.refusedPIN != nil
	if current && !known {
		p.refusedPIN = err
	}
	p.mu.Unlock()
	if current && !known && p.cfg.OnPINRefused != nil {
		p.cfg.OnPINRefused(s.Token.Accepted, err)
	}
	return current
}

// refuseLater notes that the token has refused, after it lost its sessions, the
// PIN that a running node had logged in with.
func (p *Pool) refuseLater(login Token) {
	p.mu.Lock()
	settings := p.settings
	p.mu.Unlock()
	if settings != nil && settings.Token.samePIN(login) && settings.Token.Accepted.Equal(login.Accepted) {
		p.refuse(settings, ErrPINIncorrect)
	}
}

func isPIN(err error) bool { return errors.Is(err, ErrPINIncorrect) || errors.Is(err, ErrPINLocked) }

// awaitPIN waits until Apply has lifted the refusal of the PIN.
func (p *Pool) awaitPIN(ctx context.Context) {
	for {
		p.mu.Lock()
		refused, changed := p.refusedPIN, p.changed
		p.mu.Unlock()
		if refused == nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// wantsLogin reports whether a running node should be renewed to log in as
// wanted: it has logged in with another PIN, or the token has refused its PIN
// since. What PIN the host provides is not known here, so that each acceptance
// by a probe counts as another one.
func (n *poolNode) wantsLogin(wanted Token) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.remote == nil && n.proc != nil && (n.pinRefused || !n.login.samePIN(wanted))
}

func (t Token) samePIN(o Token) bool {
	return t.PIN.Equal(o.PIN) && (t.PIN.Len() > 0 || t.Accepted.Equal(o.Accepted))
}
