//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdh"
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
	public  [pointSize]byte
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
// Config.Timeout.
func (t *Token) Bind(ctx context.Context, key hsm.WrappingKey) error {
	if err := key.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	pause := 20 * time.Millisecond
	for {
		err := t.retry(ctx, func() error {
			_, err := t.locate(ctx, key)
			return err
		})
		if !errors.Is(err, errHalf) {
			return outward("binding "+name(key), err)
		}
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

// locate finds and checks key once and caches its handle.
func (t *Token) locate(ctx context.Context, key hsm.WrappingKey) (handle, error) {
	pub, err := ecdh.P256().NewPublicKey(key.PublicKey)
	if err != nil {
		return handle{}, fmt.Errorf("bad public key: %w", err)
	}
	gen := t.generation()
	private, err := withSession(ctx, t, true, func(s p11.SessionHandle) (p11.ObjectHandle, error) {
		p, err := findPair(t.mod, s, key.ID)
		if err != nil {
			return 0, err
		}
		if len(p.private) > 1 || len(p.public) > 1 {
			return 0, fmt.Errorf("%w: %d private and %d public keys have the ID %x; nothing was used, remove the ones that do not belong there", ErrKeyMismatch, len(p.private), len(p.public), key.ID)
		}
		if !p.whole() {
			return 0, errHalf
		}
		return p.private[0], checkPair(t.mod, s, p, key.PublicKey)
	}, nil)
	if err != nil {
		return handle{}, err
	}
	if err := t.probe(ctx, private, pub); err != nil {
		return handle{}, err
	}
	h := handle{private: private, public: [pointSize]byte(key.PublicKey)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if gen == t.gen { // else the handle is of a login that is over
		t.handles[string(key.ID)] = h
	}
	return h, nil
}

// known returns the cached handle of key, or none.
func (t *Token) known(key hsm.WrappingKey) (handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.handles[string(key.ID)]
	if ok && !bytes.Equal(h.public[:], key.PublicKey) {
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

// find returns every object of a class with a CKA_ID. It always ends the
// search; on an error the pool closes the session.
func find(m module, s p11.SessionHandle, class uint, id []byte) (found []p11.ObjectHandle, err error) {
	err = m.FindObjectsInit(s, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, class),
		p11.NewAttribute(p11.CKA_ID, id),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if ferr := m.FindObjectsFinal(s); err == nil {
			err = ferr
		}
	}()
	for len(found) < 64 { // far more than the one there may be
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

// checkPair compares the public half with the pinned key, if one is pinned,
// and checks how the private half is protected.
func checkPair(m module, s p11.SessionHandle, p pair, pinned []byte) error {
	point, err := readPoint(m, s, p.public[0])
	if err != nil {
		return err
	}
	if !bytes.Equal(point, pinned) {
		return fmt.Errorf("%w: its public key is another one; nothing was used", ErrKeyMismatch)
	}
	return checkProtection(m, s, p.private[0])
}

// readPoint returns the public key as 04 ‖ X ‖ Y, checked to be on the curve.
func readPoint(m module, s p11.SessionHandle, public p11.ObjectHandle) ([]byte, error) {
	v, err := readAttribute(m, s, public, p11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	point := rawPoint(v)
	if len(point) == 0 {
		return nil, errHalf // seen by another process before it was written
	}
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return nil, fmt.Errorf("%w: its public key is not a P-256 point", ErrKeyMismatch)
	}
	return point, nil
}

// checkProtection requires SENSITIVE, DERIVE and not EXTRACTABLE. A token may
// not know NEVER_EXTRACTABLE; it is then taken on EXTRACTABLE, which cannot be
// turned off and on again, for keys this package made. A token that does know
// it must say true: a key that was imported or was extractable once is refused.
func checkProtection(m module, s p11.SessionHandle, private p11.ObjectHandle) error {
	for _, a := range []struct {
		name     string
		typ      uint
		want     byte
		optional bool
	}{
		{"CKA_SENSITIVE", p11.CKA_SENSITIVE, 1, false},
		{"CKA_EXTRACTABLE", p11.CKA_EXTRACTABLE, 0, false},
		{"CKA_DERIVE", p11.CKA_DERIVE, 1, false},
		{"CKA_NEVER_EXTRACTABLE", p11.CKA_NEVER_EXTRACTABLE, 1, true},
	} {
		v, err := readAttribute(m, s, private, a.typ)
		if err != nil {
			return err
		}
		if len(v) == 0 && a.optional {
			continue
		}
		if len(v) != 1 || (v[0] != 0) != (a.want != 0) {
			return fmt.Errorf("%w: %s of its private key is not %v, so the token does not protect it; nothing was used", ErrKeyMismatch, a.name, a.want != 0)
		}
	}
	return nil
}

// readAttribute returns one attribute, empty if the token does not have it.
// Attributes are read one by one, since one unknown type fails the whole list.
func readAttribute(m module, s p11.SessionHandle, o p11.ObjectHandle, typ uint) ([]byte, error) {
	attrs, err := m.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(typ, nil)})
	switch {
	case errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)):
		return nil, nil
	case err != nil:
		return nil, err
	case len(attrs) != 1:
		return nil, nil
	}
	return attrs[0].Value, nil
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
	for _, known := range []error{ErrUnavailable, ErrKeyNotFound, ErrKeyMismatch, ErrPINIncorrect, ErrPINLocked, context.Canceled} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return explain(doing, err)
}
