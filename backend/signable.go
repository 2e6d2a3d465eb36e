package backend

import (
	"context"
	"maps"

	"vault-plugin-secrets-mpc/mpc"
)

// signable is what signing needs of an account's entry. It is cached and
// shared: nobody changes it.
type signable struct {
	account *mpc.Account // with the exposures at the start of the epoch
	lineage string
	// unsettled says that the epoch before is still in the entry.
	unsettled bool
	// frozen and deleted are nil in an account that signs.
	frozen  *frozenRecord
	deleted *deletedRecord
	// custody is that of the entry.
	custody *custodyRecord
	// policy is the approval policy in force, marshalled; empty for none.
	policy []byte
	// renamingTo is that of the entry.
	renamingTo string
}

// usable is nil for an account that may sign. Every route to a signature asks.
func (v *signable) usable(name string) error { return notSigning(name, v.frozen, v.deleted) }

// addedExposures are those of an exposuresRecord; the zero value stands for no
// record. It is cached and shared.
type addedExposures struct {
	epoch     string // hex
	exposures mpc.Exposures
}

// of returns the exposures if they belong to the epoch. They are not changed.
func (e *addedExposures) of(id mpc.EpochID) mpc.Exposures {
	if e.epoch != id.String() {
		return nil
	}
	return e.exposures
}

// signable returns what signing needs of an account, nil for a name that is not
// taken.
func (s *store) signable(ctx context.Context, name string) (*signable, error) {
	return s.accounts.get(name, func() (*signable, bool, error) {
		r, err := s.account(ctx, name)
		if err != nil || r == nil {
			return nil, false, err
		}
		v, err := newSignable(r)
		return v, true, err
	})
}

func newSignable(r *accountRecord) (*signable, error) {
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	return &signable{
		account: a, lineage: r.Current.Lineage, unsettled: r.Previous != nil,
		frozen: r.Frozen, deleted: r.Deleted, custody: r.Custody, policy: r.Current.Policy, renamingTo: r.RenamingTo,
	}, nil
}

// forUse returns the account as the pool takes it, with every exposure so far.
func (s *store) forUse(ctx context.Context, v *signable) (*mpc.Account, error) {
	id := v.account.Record.AccountID.String()
	added, err := s.exposures.get(id, func() (*addedExposures, bool, error) {
		e, err := s.readExposures(ctx, id)
		return e, true, err
	})
	if err != nil {
		return nil, err
	}
	a := *v.account
	a.Exposures = maps.Clone(v.account.Exposures)
	maps.Copy(a.Exposures, added.of(a.Record.EpochID))
	a.NoSpares = !s.spares.allow(ctx, v.lineage)
	return &a, nil
}

// readExposures reads the exposures entry of an account from Vault.
func (s *store) readExposures(ctx context.Context, accountID string) (*addedExposures, error) {
	var r exposuresRecord
	ok, err := s.get(ctx, prefixExposures+accountID, &r)
	if err != nil || !ok {
		return &addedExposures{}, err
	}
	exposures, err := parseExposures(r.Exposures)
	if err != nil {
		return nil, err
	}
	return &addedExposures{epoch: r.EpochID, exposures: exposures}, nil
}
