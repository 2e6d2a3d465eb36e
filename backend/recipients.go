package backend

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// The mount's authority and the recipient set it has signed are one entry, so
// that a set is never in force under another authority. Every set that was in
// force stays under its hash: public records name sets by it, and a refresh
// from one set to the next shows nodes both.

// recoveryConfig returns nil where no authority is pinned.
func (s *store) recoveryConfig(ctx context.Context) (*recoveryRecord, error) {
	r := &recoveryRecord{}
	ok, err := s.get(ctx, keyRecovery, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// recipientSet returns the signed set of a hash, nil for the empty set.
func (s *store) recipientSet(ctx context.Context, hash [32]byte) ([]byte, error) {
	if hash == mpc.EmptySetHash() {
		return nil, nil
	}
	r := &recipientSetRecord{}
	ok, err := s.get(ctx, prefixRecipients+hex.EncodeToString(hash[:]), r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("the recipient set %x is missing from storage: restore it from a backup", hash)
	}
	return r.Set, nil
}

// setInForce returns the signed recipient set for new epochs and its hash; nil
// and the empty set's hash where there is none.
func (b *backend) setInForce(ctx context.Context) ([]byte, [32]byte, error) {
	r, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, [32]byte{}, err
	}
	if r == nil || r.SetHash == "" {
		return nil, mpc.EmptySetHash(), nil
	}
	var hash [32]byte
	if err := decodeHex(r.SetHash, hash[:], "recipient set hash"); err != nil {
		return nil, hash, err
	}
	set, err := b.store.recipientSet(ctx, hash)
	return set, hash, err
}

// refreshSets returns the sets that a refresh of an account takes to its nodes:
// the one in force with its hash, and the account's present one if that is
// another.
func (b *backend) refreshSets(ctx context.Context, record *mpc.PublicRecord) (next, old []byte, hash [32]byte, err error) {
	if next, hash, err = b.setInForce(ctx); err != nil {
		return nil, nil, hash, err
	}
	if hash == record.RecipientsHash {
		return next, nil, hash, nil
	}
	if next == nil {
		// Only a restore of other storage can do this; nodes would refuse it.
		return nil, nil, hash, errors.New("the account has a recipient set and the mount has none: restore config/recovery")
	}
	old, err = b.store.recipientSet(ctx, record.RecipientsHash)
	return next, old, hash, err
}

// custodians returns the names of those that an account's shares are sealed to,
// and whether they are of the set in force.
func (b *backend) custodians(ctx context.Context, record *mpc.PublicRecord) ([]string, bool, error) {
	_, hash, err := b.setInForce(ctx)
	if err != nil {
		return nil, false, err
	}
	names := []string{}
	raw, err := b.store.recipientSet(ctx, record.RecipientsHash)
	if err != nil {
		return nil, false, err
	}
	if raw != nil {
		signed, err := recovery.ParseSignedSet(raw)
		if err != nil {
			return nil, false, err
		}
		names = recipientNames(signed.Unverified())
		names = names[:min(len(names), record.Shares)]
	}
	return names, hash == record.RecipientsHash, nil
}

// authority returns the pinned key for the pool, nil for none.
func (r *recoveryRecord) authority() (ed25519.PublicKey, error) {
	if r == nil {
		return nil, nil
	}
	key := make([]byte, ed25519.PublicKeySize)
	if err := decodeHex(r.Authority, key, "authority key"); err != nil {
		return nil, err
	}
	return key, nil
}

// parseSet checks a signed set against an authority.
func parseSet(raw []byte, authority ed25519.PublicKey) (*recovery.RecipientSet, [32]byte, error) {
	signed, err := recovery.ParseSignedSet(raw)
	if err != nil {
		return nil, [32]byte{}, invalid("set: %v; send the file that mpckms authority sign-set wrote", err)
	}
	set, err := signed.Verify(authority)
	if err != nil {
		return nil, [32]byte{}, invalid("set: %v; nothing was changed. Only a set signed by the pinned authority is taken", err)
	}
	return set, signed.Hash(), nil
}

// checkSetFits fails while an account has more shares than a set has
// recipients: its refreshes would stop.
func (b *backend) checkSetFits(ctx context.Context, set *recovery.RecipientSet) error {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		a, err := r.Current.account()
		if err != nil {
			return err
		}
		if len(set.Recipients) > 0 && a.Record.Shares > len(set.Recipients) {
			return invalid("the set has %d recipients and account %q has %d shares, each of which needs a recipient of its own: nothing was changed; sign a set with at least %d recipients",
				len(set.Recipients), name, a.Record.Shares, a.Record.Shares)
		}
	}
	return nil
}
