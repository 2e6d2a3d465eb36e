//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
)

// handle is a key pair that was checked. Handles are good until the login is
// lost or the objects are destroyed.
type handle struct {
	private p11.ObjectHandle
	suite   hsm.Suite
	public  string   // hsm.WrappingKey.PublicKey
	lent    *lentKey // the same key through crypto11; nil: not that way
}

// pair is what lies in the token under one CKA_ID.
type pair struct {
	private, public []p11.ObjectHandle
}

func (p pair) whole() bool { return len(p.private) == 1 && len(p.public) == 1 }

// errHalf is ErrKeyNotFound where waiting may help: another process is making
// the pair, and its halves appear one after the other.
var errHalf = fmt.Errorf("%w: the pair is not there or not whole", ErrKeyNotFound)

// Bind finds key in the token, checks it and remembers where it is: both halves
// exactly once under its CKA_ID, the pinned public key, the protection that
// GenerateWrappingKey asks for, and a private half that really is the other
// half. It waits for missing halves until ctx ends, at most five times
// Config.Timeout. It may be called concurrently, and while another process
// makes the key.
func (t *Token) Bind(ctx context.Context, key hsm.WrappingKey) error {
	if err := t.usable(key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	pause := 20 * time.Millisecond
	var half error
	for {
		err := t.retry(ctx, func() error {
			_, err := t.locate(ctx, key)
			return err
		})
		if half != nil && ctx.Err() != nil {
			err = half // says more than that the last look was cut short
		}
		if !errors.Is(err, errHalf) || ctx.Err() != nil {
			return outward("binding "+name(key), err)
		}
		half = err
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return outward("binding "+name(key), err)
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// usable checks a key before anything is done with it.
func (t *Token) usable(key hsm.WrappingKey) error {
	if err := key.Check(); err != nil {
		return err
	}
	if key.Suite == hsm.SuiteRSA3072OAEPSHA1 && !t.sha1 {
		return fmt.Errorf("%w: %s is for %s, which this host does not allow; nothing was used", ErrKeyMismatch, name(key), key.Suite)
	}
	return nil
}

// locate finds and checks key once and caches its handle.
func (t *Token) locate(ctx context.Context, key hsm.WrappingKey) (handle, error) {
	gen := t.generation()
	h, err := withSession(ctx, t, true, func(s p11.SessionHandle) (handle, error) {
		p, err := t.lookTwice(s, key.ID)
		if err != nil {
			return handle{}, err
		}
		if len(p.private) > 1 || len(p.public) > 1 {
			return handle{}, fmt.Errorf("%w: %d private and %d public keys have the ID %x; nothing was used, remove the ones that do not belong there", ErrKeyMismatch, len(p.private), len(p.public), key.ID)
		}
		if !p.whole() {
			return handle{}, errHalf
		}
		if err := checkPair(t.mod, s, p, key); err != nil {
			return handle{}, err
		}
		h := handle{private: p.private[0], suite: key.Suite, public: string(key.PublicKey)}
		if _, ok := key.Suite.OAEPHash(); ok {
			// Here, because crypto11 searches too, and searches must not run
			// at once.
			h.lent, err = t.shared.find(gen, key.ID)
		}
		return h, err
	}, nil)
	if err != nil {
		return handle{}, err
	}
	if err := t.prove(ctx, h, key); err != nil {
		return handle{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if gen == t.gen { // else the handle is of a login that is over
		t.handles[string(key.ID)] = h
	}
	return h, nil
}

// lookTwice is findPair, but what it does not find was missing before and after
// the token was seen to be there. It returns ErrUnavailable if the token is not.
func (t *Token) lookTwice(s p11.SessionHandle, id []byte) (pair, error) {
	p, err := findPair(t.mod, s, id)
	if err != nil || len(p.private) > 0 && len(p.public) > 0 {
		return p, err
	}
	if err := t.checkPresence(); err != nil {
		return pair{}, err
	}
	return findPair(t.mod, s, id)
}

// prove shows by doing it that the token can use the key for its suite, and
// that it is the private half of the pinned public key.
func (t *Token) prove(ctx context.Context, h handle, key hsm.WrappingKey) error {
	if _, ok := key.Suite.OAEPHash(); ok {
		return t.proveOAEP(ctx, h, key)
	}
	return t.proveECDH(ctx, h, key)
}

// handleOf returns a handle for key, from the cache or by looking for it once.
func (t *Token) handleOf(ctx context.Context, key hsm.WrappingKey) (handle, error) {
	h, err := t.known(key)
	if err == nil && h.public == "" {
		h, err = t.locate(ctx, key)
	}
	return h, err
}

// known returns the cached handle of key, or none.
func (t *Token) known(key hsm.WrappingKey) (handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.handles[string(key.ID)]
	if ok && (h.public != string(key.PublicKey) || h.suite != key.Suite) {
		return handle{}, fmt.Errorf("%w: the ID %x belongs to another public key", ErrKeyMismatch, key.ID)
	}
	return h, nil
}

func (t *Token) forget(id []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.handles, string(id))
}

// findPair lists the key objects under a CKA_ID. Without a login private
// objects are invisible, so it insists on one before it reports absence.
func findPair(m module, s p11.SessionHandle, id []byte) (pair, error) {
	si, err := m.GetSessionInfo(s)
	if err != nil {
		return pair{}, err
	}
	if !loggedIn(si) {
		return pair{}, p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	var p pair
	if p.private, err = find(m, s, p11.CKO_PRIVATE_KEY, id); err != nil {
		return pair{}, err
	}
	p.public, err = find(m, s, p11.CKO_PUBLIC_KEY, id)
	return p, err
}

// find returns the objects of a class with a CKA_ID, at most 64.
func find(m module, s p11.SessionHandle, class uint, id []byte) ([]p11.ObjectHandle, error) {
	const most = 64 // far more than the one there may be
	return search(m, s, most, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, class),
		p11.NewAttribute(p11.CKA_ID, id),
	})
}

// search returns the objects that match, `most` and a few more at the most. It
// always ends the search; on an error the pool closes the session.
func search(m module, s p11.SessionHandle, most int, template []*p11.Attribute) (found []p11.ObjectHandle, err error) {
	if err = m.FindObjectsInit(s, template); err != nil {
		return nil, err
	}
	defer func() {
		if ferr := m.FindObjectsFinal(s); err == nil {
			err = ferr
		}
	}()
	for len(found) < most {
		hs, _, err := m.FindObjects(s, 16)
		if err != nil {
			return nil, err
		}
		if len(hs) == 0 {
			break
		}
		found = append(found, hs...)
	}
	return found, nil
}

func name(key hsm.WrappingKey) string {
	return fmt.Sprintf("wrapping key %q version %d", key.Domain, key.Version)
}

// outward prepares an error for the caller: sentinels pass, codes of the module
// get one.
func outward(doing string, err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{ErrUnavailable, ErrKeyNotFound, ErrKeyMismatch, ErrPINIncorrect, ErrPINLocked, ErrNoSuite, hsm.ErrOpen, context.Canceled} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return explain(doing, err)
}
