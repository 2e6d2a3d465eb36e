package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/rotation"
)

// A rewrap seals the shares of an account to the newest version of the wrapping
// key and changes nothing else: record, epoch, exposures and presignatures stay
// what they are. It is for accounts that are refreshed rarely; a refresh does
// the same by the way. The old envelopes stay in the entry until the new ones
// have been opened; see epochs.go.

// RewrapAccount implements rotation.Rewrapper. It also finishes a rewrap that
// was not.
func (b *backend) RewrapAccount(ctx context.Context, name string) (rotation.Record, error) {
	if err := b.awaits(ctx, name); err != nil {
		return rotation.Record{}, b.goneOr(err)
	}
	r, err := b.rewrapAccount(ctx, name)
	if err != nil {
		return rotation.Record{}, b.goneOr(err)
	}
	return scheduleOf(name, r), nil
}

func (b *backend) rewrapAccount(ctx context.Context, name string) (out *accountRecord, err error) {
	release, err := b.busy.reserve(prefixAccounts+name, "is being rewrapped")
	if err != nil {
		return nil, err
	}
	defer release()
	eng, r, err := b.settled(ctx, name)
	if err != nil && !errors.Is(err, errRolledBack) {
		return nil, err
	}
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return nil, err
	}
	newest := ring.newest()
	if newest == nil || r.refers().sealed >= newest.KeyVersion {
		return r, nil
	}
	defer func() { b.metrics.rewrapped(err) }()
	old, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	// The set that the record names: a rewrap does not change recipients.
	set, err := b.store.recipientSet(ctx, old.Record.RecipientsHash)
	if err != nil {
		return nil, err
	}
	res, err := eng.Rewrap(ctx, pool.RewrapRequest{Account: *old, Recipients: set, Expose: b.expose(name, &old.Record)})
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRewrapMade); err != nil {
		return nil, err
	}
	envelopes, err := checkRewrapped(old, res, newest.KeyVersion)
	if err == nil {
		err = checkRecipientSeals(envelopes, set)
	}
	for i := 0; err == nil && r.Custody != nil && i < len(envelopes); i++ {
		if err = sameButSeals(r.Current.Shares[i], envelopes[i]); err != nil {
			err = fmt.Errorf("share %d: %w", i+1, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the rewrap is void, the shares stay under their old wrapping key: %w", err)
	}
	r, err = b.updateAccount(ctx, name, old.Record.EpochID, func(r *accountRecord) error {
		previous := r.Current
		r.Current.Shares, r.Current.WrappingVersion = envelopes, res.WrappingVersion
		r.Current.Rewrapped = b.cfg.now().UTC()
		r.Previous = &previous
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRewrapStored); err != nil {
		return nil, err
	}
	return b.settle(ctx, eng, name, r)
}

// checkRewrapped verifies the shape of what a rewrap returned: every share once,
// each sealed anew, to the newest version and in the domain that it was sealed in.
// Record and epoch are not the nodes' to return, so they cannot differ.
func checkRewrapped(old *mpc.Account, res *pool.RewrapResult, newest uint32) ([][]byte, error) {
	if res.WrappingVersion != newest {
		return nil, fmt.Errorf("nodes sealed to version %d of the wrapping key, and %d is the newest: they have not been told yet, or storage is behind", res.WrappingVersion, newest)
	}
	envelopes, err := envelopesOf(res.Shares, len(old.Shares), newest, old.Homes)
	if err != nil {
		return nil, err
	}
	for i, e := range envelopes {
		if slices.ContainsFunc(old.Shares, func(o mpc.WrappedShare) bool { return bytes.Equal(o.Envelope, e) }) {
			return nil, fmt.Errorf("nodes returned share %d as it was", i+1)
		}
		for _, was := range envelopeRefs([][]byte{old.Shares[i].Envelope}).seals {
			if err := sealedOnce(e, was.domain); err != nil {
				return nil, fmt.Errorf("share %d: %w", i+1, err)
			}
		}
	}
	return envelopes, nil
}
