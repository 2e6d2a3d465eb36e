package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// An account's new name. Entries are stored by name and there are no
// transactions, so a rename is a chain of writes, of which each leaves a state
// that says by itself what is left to do:
//
//	old{}                                      before
//	old{renaming_to: new}                      marked: nobody uses the account
//	old{renaming_to: new}  new{renaming_to: new}   moved: the new entry is in use
//	                       new{renaming_to: new}   the old entry is removed
//	                       new{}               after
//
// An entry with the name of another in renaming_to has *left*: whoever meets it
// has the move finished before anything else, so there is never more than one
// usable entry of an account. An entry with its own name in it has *arrived*: it
// is used like any other, but before it is renamed again or destroyed, the entry
// that it was moved from must be gone, or that one would bring the account back
// under the name that it has left.
//
// Who has met such an entry returns movingError with every lock and reservation
// given back; see handle and tend. Exposures, presignatures and answers kept by
// request_id go by the account's ID and are not moved.

// movingError: a rename has to be finished first. Nothing was done.
type movingError struct{ name, to string }

func (e *movingError) Error() string {
	return fmt.Sprintf("account %q is being renamed to %q", e.name, e.to)
}

func (r *accountRecord) left(name string) bool {
	return r.RenamingTo != "" && r.RenamingTo != name
}

func (r *accountRecord) arrived(name string) bool { return r.RenamingTo == name }

// moves remembers renames that are not finished: new names by old ones, or a
// name by itself where only the mark is left. It is a hint: what is stored
// counts. Its methods may be called concurrently.
type moves struct {
	mu sync.Mutex
	to map[string]string
}

func (m *moves) note(name, to string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.to == nil {
		m.to = map[string]string{}
	}
	m.to[name] = to
}

func (m *moves) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.to, name)
}

// wentTo returns the name that one is known to have been left for, empty for none.
func (m *moves) wentTo(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if to := m.to[name]; to != name {
		return to
	}
	return ""
}

// hasLeft says whether a name is known to be one that its account has left.
func (m *moves) hasLeft(name string) bool { return m.wentTo(name) != "" }

// knows says whether a name is remembered.
func (m *moves) knows(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.to[name]
	return ok
}

// into returns the account that is on its way to a name, empty for none.
func (m *moves) into(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for from, to := range m.to {
		if to == name && from != name {
			return from
		}
	}
	return ""
}

// names lists the unfinished, those that have left first: finishing one of them
// finishes what has arrived as well.
func (m *moves) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Sorted(maps.Keys(m.to))
	slices.SortStableFunc(out, func(a, b string) int {
		return map[bool]int{true: 1}[m.to[a] == a] - map[bool]int{true: 1}[m.to[b] == b]
	})
	return out
}

// errMoveUndone: the new name was taken before the account was there, so it
// keeps its name.
var errMoveUndone = errors.New("the new name was taken by another account meanwhile: the account keeps its name")

// settleMove finishes what was begun with the entry of a name, if anything was.
// It waits for others who work on the account. The caller holds no lock and no
// reservation.
func (b *backend) settleMove(ctx context.Context, name string) error {
	r, err := b.store.account(ctx, name)
	switch {
	case err != nil:
		return err
	case r == nil && b.moves.hasLeft(name):
		return b.settleGone(ctx, name, b.moves.wentTo(name))
	case r == nil || r.RenamingTo == "" && !b.moves.knows(name):
		b.moves.drop(name)
		return nil
	case !r.left(name):
		release, err := b.busy.reserveSoon(ctx, prefixAccounts+name, "is being renamed")
		if err != nil {
			return err
		}
		defer release()
		return b.settleArrival(ctx, name)
	}
	release, err := b.reserveBoth(ctx, name, r.RenamingTo)
	if err != nil {
		return err
	}
	defer release()
	_, err = b.finishMove(ctx, name, r.RenamingTo)
	if errors.Is(err, errMoveUndone) {
		return nil
	}
	return err
}

// settleGone finishes a move whose old entry is not there any more: its removal
// failed, as far as storage said, and took effect all the same; or somebody else
// has finished the move.
func (b *backend) settleGone(ctx context.Context, name, to string) error {
	release, err := b.reserveBoth(ctx, name, to)
	if err != nil {
		return err
	}
	defer release()
	r, err := b.store.account(ctx, name)
	if err != nil {
		return err
	}
	if r == nil { // nobody has taken the name
		b.forgetName(name)
	}
	b.moves.note(to, to)
	b.moves.drop(name)
	return b.settleArrival(ctx, to)
}

// forgetName tells those who watch accounts in the background that an account has
// left a name. Nobody can take the name meanwhile.
func (b *backend) forgetName(name string) {
	b.runner.Remove(name)
	b.stock.remove(name)
	b.grave.forget(name)
}

// reserveBoth reserves two names in an order in which nobody waits for another
// who waits for him.
func (b *backend) reserveBoth(ctx context.Context, one, two string) (func(), error) {
	if two < one {
		one, two = two, one
	}
	first, err := b.busy.reserveSoon(ctx, prefixAccounts+one, "is being renamed")
	if err != nil {
		return nil, err
	}
	second, err := b.busy.reserveSoon(ctx, prefixAccounts+two, "is being renamed")
	if err != nil {
		first()
		return nil, err
	}
	return func() { second(); first() }, nil
}

// finishMove moves an account whose entry has left for another name, and returns
// it as it is there; nil where somebody else has finished it. The caller has
// reserved both names.
func (b *backend) finishMove(ctx context.Context, name, to string) (*accountRecord, error) {
	leaving, err := b.leaving(ctx, name, to)
	if err != nil || leaving == nil {
		return nil, err
	}
	// From here on nobody changes the old entry.
	switch err := b.arrive(ctx, leaving, to); {
	case errors.Is(err, errMoveUndone):
		_, undoErr := b.changeMark(ctx, name, leaving.ID, to, "")
		if undoErr != nil {
			return nil, undoErr
		}
		b.moves.drop(name)
		b.log.Warn("a rename was taken back, because another account has the name by now", "account", name, "new_name", to)
		return nil, err
	case err != nil:
		return nil, err
	}
	if err := b.step(ctx, stepRenameArrived); err != nil {
		return nil, err
	}
	if err := b.removeLeft(ctx, name, to, leaving.ID); err != nil {
		return nil, err
	}
	b.forgetName(name)
	b.moves.note(to, to)
	b.moves.drop(name)
	if err := b.step(ctx, stepRenameRemoved); err != nil {
		return nil, err
	}
	now, err := b.changeMark(ctx, to, leaving.ID, to, "")
	if err != nil || now == nil {
		return nil, err
	}
	b.moves.drop(to)
	b.log.Info("an account was renamed", "account", to, "account_id", now.ID, "old_name", name)
	return now, b.step(ctx, stepRenameDone)
}

// leaving reads an entry that has left for the name; nil if it has not.
func (b *backend) leaving(ctx context.Context, name, to string) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil || r == nil || r.RenamingTo != to {
		return nil, err
	}
	return r, nil
}

// arrive writes the entry under the new name unless it is there.
func (b *backend) arrive(ctx context.Context, leaving *accountRecord, to string) error {
	defer b.lockAccount(to)()
	there, err := b.store.account(ctx, to)
	switch {
	case err != nil:
		return err
	case there == nil:
		// Its renaming_to names itself there, which is the mark of an arrival.
		return b.store.putAccount(ctx, to, leaving)
	case there.ID == leaving.ID:
		return nil // written before, and perhaps changed since
	}
	return errMoveUndone
}

// removeLeft deletes an entry that has left for the name.
func (b *backend) removeLeft(ctx context.Context, name, to, id string) error {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil || r == nil || r.ID != id || r.RenamingTo != to {
		return err
	}
	return b.store.delete(ctx, prefixAccounts+name)
}

// changeMark sets renaming_to of an account that has another value there, and tells
// those who watch accounts in the background about it; nil where the name has no
// such account.
func (b *backend) changeMark(ctx context.Context, name, id, from, to string) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil || r == nil || r.ID != id || r.RenamingTo != from {
		return nil, err
	}
	r.RenamingTo = to
	if err := b.store.putAccount(ctx, name, r); err != nil {
		return nil, err
	}
	b.tellArrived(name, r)
	return r, nil
}

// tellArrived tells those who watch accounts in the background about one that has
// a name again. The caller holds the lock of the name, so that what is told is not
// older than what others tell.
func (b *backend) tellArrived(name string, r *accountRecord) {
	b.accountChanged(name, r)
	b.runner.Opened(name) // whether it is idle was known of the old name
}

// settleArrival removes the entry that an arrived account was moved from, if it
// is still there, and then its mark. Which name that was is not stored, so all
// are read: this happens only where a rename was cut off. The caller has reserved
// the name.
func (b *backend) settleArrival(ctx context.Context, name string) error {
	r, err := b.arrival(ctx, name)
	if err != nil || r == nil {
		return err
	}
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	for _, other := range names {
		if other == name {
			continue
		}
		o, err := b.store.account(ctx, other)
		var damaged *damagedError
		if errors.As(err, &damaged) {
			return conflict("account %q was renamed and the server stopped before the old entry was removed; %q cannot be read and may be that entry: restore accounts/%s from a backup of Vault's storage first, then repeat the request", name, other, other)
		}
		if err != nil {
			return err
		}
		if o == nil || o.ID != r.ID || o.RenamingTo != name {
			continue
		}
		b.forgetName(other) // before somebody can take it
		if err := b.removeLeft(ctx, other, name, r.ID); err != nil {
			return err
		}
		b.moves.drop(other)
	}
	if _, err := b.changeMark(ctx, name, r.ID, name, ""); err != nil {
		return err
	}
	b.moves.drop(name)
	return nil
}

// arrival reads an account that has arrived at the name; nil where it has no mark
// (any more): the removal of the mark failed, as far as storage said, and took
// effect all the same, or somebody else has finished the move or taken it back.
func (b *backend) arrival(ctx context.Context, name string) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil || r != nil && r.arrived(name) {
		return r, err
	}
	if r != nil && !r.left(name) {
		b.tellArrived(name, r)
	}
	b.moves.drop(name)
	return nil, nil
}

// finished settles the move that an error is about and says whether the request
// may be done again.
func (b *backend) finished(ctx context.Context, err error) (again bool, _ error) {
	var moving *movingError
	if !errors.As(err, &moving) {
		return false, err
	}
	b.moves.note(moving.name, moving.to)
	if settleErr := b.settleMove(ctx, moving.name); settleErr != nil {
		return false, errors.Join(conflict("%v, which could not be finished: nothing was changed and nothing is lost; repeat the request", moving), settleErr)
	}
	return true, nil
}
