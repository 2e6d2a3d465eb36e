//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"
)

// DestroyWrappingKey destroys both halves of the key pair with this CKA_ID and
// looks again to be sure. Destroying half a pair is fine, and so is a planted
// second pair; with nothing there it returns ErrKeyNotFound. A token that is
// away is ErrUnavailable, never ErrKeyNotFound or success. Copies of the token
// outside it (backups, other members of a cluster) are not touched.
func (t *Token) DestroyWrappingKey(ctx context.Context, id []byte) error {
	if len(id) != keyIDSize {
		return fmt.Errorf("pkcs11: a key ID has %d bytes, not %d; nothing was destroyed", keyIDSize, len(id))
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	t.forget(id)
	destroyed := 0
	err := t.retry(ctx, func() error {
		n, err := withSession(ctx, t, true, func(s p11.SessionHandle) (int, error) { return t.destroyPair(s, id) }, nil)
		destroyed += n
		return err
	})
	t.forget(id) // an ECDH may have found it again in between
	doing := fmt.Sprintf("destroying the key with the ID %x", id)
	if err != nil {
		return outward(doing, err)
	}
	if destroyed == 0 {
		return fmt.Errorf("%s: %w", doing, ErrKeyNotFound)
	}
	return nil
}

// destroyPair destroys the private half first: it is the one that matters. It
// returns without an error only if the token was there after the last look, and
// before it.
func (t *Token) destroyPair(s p11.SessionHandle, id []byte) (int, error) {
	p, err := findPair(t.mod, s, id)
	if err != nil {
		return 0, err
	}
	destroyed := 0
	for _, o := range append(p.private, p.public...) {
		if err := t.mod.DestroyObject(s, o); err != nil {
			return destroyed, err
		}
		destroyed++
	}
	// Where nothing was found at all, once more after the token was seen to be
	// there: one that was away for a moment shows nothing and is back.
	looks := 1
	if destroyed == 0 {
		looks = 2
	}
	for range looks {
		if err := t.checkPresence(); err != nil {
			return destroyed, err
		}
		if p, err = findPair(t.mod, s, id); err != nil {
			return destroyed, err
		}
		if n := len(p.private) + len(p.public); n > 0 && destroyed > 0 {
			// NSS does this when its database files are gone.
			return destroyed, fmt.Errorf("%w: it accepted the order to destroy, but %d objects are still there; try again", ErrUnavailable, n)
		} else if n > 0 {
			return 0, fmt.Errorf("%w: it showed nothing under the ID %x, and %d objects a moment later; try again", ErrUnavailable, id, n)
		}
	}
	return destroyed, t.checkPresence()
}

// maxByLabel bounds what FindByLabel reads, in objects of each class.
const maxByLabel = 1024

// FindByLabel lists the key objects that have this CKA_LABEL by their CKA_ID, in
// ascending order; it finds keys that nobody refers to any more. At most 1024
// objects of each class are looked at. An empty list means that the token is
// there and has none.
func (t *Token) FindByLabel(ctx context.Context, label string) ([]KeyObject, error) {
	if label == "" {
		return nil, fmt.Errorf("pkcs11: looking for keys needs a label")
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	var objects []KeyObject
	err := t.retry(ctx, func() error {
		var err error
		objects, err = withSession(ctx, t, true, func(s p11.SessionHandle) ([]KeyObject, error) { return t.byLabel(s, label) }, nil)
		return err
	})
	if err != nil {
		return nil, outward(fmt.Sprintf("looking for keys with the label %q", label), err)
	}
	return objects, nil
}

func (t *Token) byLabel(s p11.SessionHandle, label string) ([]KeyObject, error) {
	si, err := t.mod.GetSessionInfo(s)
	if err != nil {
		return nil, err
	}
	if !loggedIn(si) { // private objects would be invisible
		return nil, p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	var objects []KeyObject
	for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY} {
		found, err := search(t.mod, s, maxByLabel, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, class),
			p11.NewAttribute(p11.CKA_LABEL, label),
		})
		if err != nil {
			return nil, err
		}
		for _, o := range found {
			id, err := readAttribute(t.mod, s, o, p11.CKA_ID)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(objects, func(k KeyObject) bool { return bytes.Equal(k.ID, id) })
			if i < 0 {
				objects, i = append(objects, KeyObject{ID: id}), len(objects)
			}
			if class == p11.CKO_PRIVATE_KEY {
				objects[i].Private++
			} else {
				objects[i].Public++
			}
		}
	}
	slices.SortFunc(objects, func(a, b KeyObject) int { return bytes.Compare(a.ID, b.ID) })
	return objects, t.checkPresence()
}
