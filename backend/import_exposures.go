package backend

import (
	"context"
	"encoding/hex"
	"errors"
	"maps"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// The rule that a node sees one share of an epoch holds for imports too, and for
// those that fail: the same deals give the same shares at each attempt, and
// already one custodian's sub-shares for several nodes give his old share. So
// who was handed what is stored by account and target, before it is handed over,
// and stays: the same deals may be imported again after the account was
// destroyed.

// placeImport tells the engine which node has seen which share of what was dealt
// to the target, and stores what is added. The caller has reserved the account
// by its ID.
func (b *backend) placeImport(ctx context.Context, r *pool.ImportRequest) error {
	key := prefixImports + r.Old.AccountID.String() + "/" + hex.EncodeToString(r.Target[:])
	stored := exposuresRecord{}
	if _, err := b.store.get(ctx, key, &stored); err != nil {
		return err
	}
	seen, err := parseExposures(stored.Exposures)
	if err != nil {
		return err
	}
	r.Exposures = maps.Clone(seen)
	r.Expose = func(ctx context.Context, added mpc.Exposures) error {
		next := maps.Clone(seen)
		for node, index := range added {
			if old, ok := next[node]; ok && old != index {
				return &pool.ExposedError{Node: node, Seen: old, Want: index, Current: next}
			}
			next[node] = index
		}
		if err := b.store.put(ctx, key, &exposuresRecord{Version: recordVersion,
			EpochID: hex.EncodeToString(r.Target[:16]), Exposures: formatExposures(next)}); err != nil {
			return err
		}
		seen = next
		return nil
	}
	return nil
}

// onlyHere refuses to have one account under two names: what its nodes have seen
// is stored under the account's ID, and the two would overwrite each other's, so
// that a node could be handed a second share of an epoch. An entry that cannot
// be read serves nobody, and does not stand in the way of recovery.
func (b *backend) onlyHere(ctx context.Context, name string, id mpc.AccountID) error {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	for _, other := range names {
		if other == name {
			continue
		}
		r, err := b.store.account(ctx, other)
		var damaged *damagedError
		if errors.As(err, &damaged) {
			continue
		}
		if err != nil {
			return err
		}
		if r == nil { // it may be this account, and have a name now that was not listed
			return conflict("account %q was renamed or destroyed while this mount was searched for the account that is to be imported: nothing was imported; repeat the request", other)
		}
		if r.ID == id.String() {
			return conflict("this mount has the account already, under the name %q: nothing was imported; import it under that name, or destroy that one first", other)
		}
	}
	return nil
}
