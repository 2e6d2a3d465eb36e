//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"
	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/secret"
)

// RSA keys are used through crypto11 v1.5.0, as crypto.Decrypter. What it
// lacks, this file and its callers add:
//
//   - It has no contexts. Every call runs in a goroutine under a permit of the
//     Token, like all others, so deadlines hold and its pool, which is as large
//     as the Token's, is never waited for.
//   - It never looks after its sessions: once they are lost, every call fails
//     with CKR_SESSION_HANDLE_INVALID for good. A context is therefore used for
//     one generation of sessions only (Token.generation) and then replaced.
//   - It logs in with the PIN as a string. It is told that the token needs no
//     login, which the Token has done for the whole process, and never sees the
//     PIN.
//   - It finalises the library when its last context is closed. A Token holds
//     one context at all times, so that this cannot happen while a Token is
//     open; another user of the same library in the process that does not go
//     through crypto11 would lose its sessions with the last Token.
//   - It must start the library itself, cannot hand over arguments, and opens
//     one session more. Where it cannot be had, the raw layer decrypts.
//
// Making, finding for good and destroying keys stay with the raw layer: crypto11
// takes the first of several public keys with one CKA_ID, cannot tell what it
// left behind after an error, does no ECDH, and hides the handles whose
// protection must be checked.
type sharing struct {
	configure func(slot *uint) (rsaContext, error)
	slot      uint

	mu  sync.Mutex // never held across a call into the module
	cur *lease     // not nil until close
}

// rsaContext is what is used of a *crypto11.Context.
type rsaContext interface {
	FindRSAPrivateKeys(id, label []byte) ([]crypto11.RSAPrivateKey, error)
	Close() error
}

// lease is one context and who uses it.
type lease struct {
	ctx rsaContext
	// Guarded by sharing.mu:
	gen     uint64 // good for this generation of sessions
	doubted bool   // to be replaced before its next use
	lost    bool   // its sessions are gone: closing them might hit others
	retired bool   // replaced; closed by its last user
	users   int
}

// lentKey is an RSA key of a lease.
type lentKey struct {
	of  *lease
	key crypto11.RSAPrivateKey
}

// share starts the library for crypto11, or returns nil if that is impossible.
// It must come before anybody else starts it.
func share(cfg Config) *sharing {
	s := &sharing{configure: func(slot *uint) (ctx rsaContext, err error) {
		// Its pool panics when the token allows one session only.
		defer func() {
			if r := recover(); r != nil {
				ctx, err = nil, fmt.Errorf("crypto11: %v", r)
			}
		}()
		c := &crypto11.Config{
			Path:              cfg.Module,
			LoginNotSupported: true,
			MaxSessions:       cfg.Sessions + 1, // one of them it keeps for itself
			PoolWaitTimeout:   cfg.Timeout,
		}
		// It takes exactly one way to name a token.
		switch {
		case slot != nil:
			number := int(*slot)
			c.SlotNumber = &number
		case cfg.Serial != "":
			c.TokenSerial = cfg.Serial
		default:
			c.TokenLabel = cfg.Label
		}
		return crypto11.Configure(c)
	}}
	ctx, err := s.configure(nil)
	if err != nil {
		return nil // findToken or the raw start says what is wrong, if anything is
	}
	s.cur = &lease{ctx: ctx, doubted: true} // perhaps of a namesake of the token
	return s
}

// aim says which slot the token turned out to be in.
func (s *sharing) aim(slot uint) {
	if s != nil {
		s.slot = slot
	}
}

// find returns the key with this CKA_ID through crypto11; nil if crypto11 cannot
// be had. The caller has checked that there is exactly one, holds admin, and
// proves afterwards that the right one was found.
func (s *sharing) find(gen uint64, id []byte) (*lentKey, error) {
	if s == nil {
		return nil, nil
	}
	l, err := s.take(gen)
	if err != nil {
		return nil, nil // the proof through the raw layer says what is wrong, if anything is
	}
	defer s.release(l)
	keys, err := l.ctx.FindRSAPrivateKeys(id, nil)
	if err != nil {
		return nil, err
	}
	if len(keys) != 1 {
		return nil, fmt.Errorf("%w: crypto11 finds %d RSA keys with the ID %x", ErrKeyMismatch, len(keys), id)
	}
	return &lentKey{of: l, key: keys[0]}, nil
}

// take returns a lease that is good for gen, and makes one if need be. Closing
// the one it replaces comes second, so that crypto11 always has a context.
func (s *sharing) take(gen uint64) (*lease, error) {
	s.mu.Lock()
	if l := s.cur; l.gen == gen && !l.doubted {
		l.users++
		s.mu.Unlock()
		return l, nil
	}
	s.mu.Unlock()
	ctx, err := s.configure(&s.slot)
	if err != nil {
		return nil, err
	}
	fresh := &lease{ctx: ctx, gen: gen, users: 1}
	s.mu.Lock()
	old := s.cur
	s.cur = fresh
	old.retired = true
	old.users++ // for the release below
	s.mu.Unlock()
	s.release(old)
	return fresh, nil
}

// release gives a lease back. The last user of a retired one closes it, unless
// its sessions are gone: their numbers may belong to others by now.
func (s *sharing) release(l *lease) {
	s.mu.Lock()
	l.users--
	end := l.retired && l.users == 0 && !l.lost
	s.mu.Unlock()
	if end {
		_ = l.ctx.Close()
	}
}

// decrypt uses a key that find returned. Errors of the module pass unchanged.
func (s *sharing) decrypt(k *lentKey, hash crypto.Hash, ciphertext []byte) (*secret.Bytes, error) {
	s.mu.Lock()
	if k.of.retired || k.of.doubted {
		s.mu.Unlock()
		return nil, p11.Error(p11.CKR_KEY_HANDLE_INVALID) // found anew by the retry
	}
	k.of.users++
	s.mu.Unlock()
	defer s.release(k.of)
	plaintext, err := k.key.Decrypt(rand.Reader, ciphertext, &rsa.OAEPOptions{Hash: hash})
	if err != nil {
		if _, ok := errors.AsType[p11.Error](err); !ok {
			err = fmt.Errorf("%w: crypto11: %w", ErrUnavailable, err)
		}
		return nil, err
	}
	return secret.New(plaintext), nil
}

// distrust has the context replaced before its next use; lost says that its
// sessions are gone with all others of the process.
func (s *sharing) distrust(lost bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.doubted = true
	s.cur.lost = s.cur.lost || lost
}

// close ends the use of crypto11. Nobody uses it any more, nor the raw layer: if
// no other Token of the process shares the library, crypto11 finalises it.
func (s *sharing) close() error {
	if s == nil || s.cur.lost {
		return nil
	}
	return s.cur.ctx.Close()
}
