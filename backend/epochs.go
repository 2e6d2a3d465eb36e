package backend

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/rotation"
)

// The life of a share epoch. A refresh makes the next epoch, has every share of
// it opened from the bytes that are about to be stored, and then replaces the
// present one by one Put:
//
//	{current: e}                    in use
//	{current: e+1}                  promoted: all n nodes agreed, all n shares open
//
// Until that Put nothing is stored, so a refresh that fails, or whose shares do
// not open, leaves everything as it was; after it every share has been opened
// once. An epoch that was never opened is never stored, there is nothing to go
// back to, and nothing older stays in the entry.
//
// A rewrap (rewrap.go) keeps the epoch and stores the old envelopes beside the
// new for a while, as older versions of this program did with two epochs:
//
//	{current: new, previous: old}   not settled
//	{current: new}                  every share was opened once
//	{current: old}                  or one did not open, and all of the old do
//
// Each arrow is one Put of one entry. A crash between two of them leaves an
// account that signs; what is left to do is done by the rotation runner, by the
// next refresh, or when a signature meets a share that does not open.

// maxShareEnvelope bounds one wrapped share in bytes. An envelope of one
// recipient has a few hundred.
const maxShareEnvelope = 16 << 10

// errVoid: a refresh ended without effect because a node made a share that does
// not open.
var errVoid = errors.New("a share of the new epoch did not open: the account keeps the shares it has")

// errRolledBack: what was stored last was undone because a share of it does not
// open.
var errRolledBack = errors.New("a share that was stored last did not open: the account keeps its previous shares")

// errNoSpares: a node was about to be handed a share that it is not known to
// have, in an epoch that gets no spares.
var errNoSpares = fmt.Errorf("%w: no spare node may take a share over before the next refresh", errEpochChanged)

// unsettledError: whether the current epoch opens could not be found out.
type unsettledError struct{ err error }

func (e *unsettledError) Error() string {
	return "the shares that were stored last are in use but could not be checked, the previous ones are kept: " + e.err.Error()
}
func (e *unsettledError) Unwrap() error { return e.err }

func (b *backend) lockAccount(name string) func() {
	l := locksutil.LockForKey(b.accountLocks, name)
	l.Lock()
	return l.Unlock
}

// updateAccount changes an account's entry by one Put. It fails with
// errEpochChanged when the account is not in the given epoch any more.
func (b *backend) updateAccount(ctx context.Context, name string, id mpc.EpochID, change func(*accountRecord) error) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errEpochChanged
	}
	if current, err := r.Current.account(); err != nil {
		return nil, err
	} else if current.Record.EpochID != id {
		return nil, errEpochChanged
	}
	if err := change(r); err != nil {
		return nil, err
	}
	if err := b.store.putAccount(ctx, name, r); err != nil {
		return nil, err
	}
	return r, nil
}

// expose returns the callback that the engine calls before it hands a share
// to a node for the first time in the epoch.
func (b *backend) expose(name string, record *mpc.PublicRecord) func(context.Context, mpc.Exposures) error {
	return func(ctx context.Context, wanted mpc.Exposures) error {
		defer b.lockAccount(name)()
		r, err := b.store.account(ctx, name)
		if err != nil {
			return err
		}
		if r == nil {
			return errEpochChanged
		}
		start, err := r.Current.account()
		if err != nil {
			return err
		}
		// The epoch ID is random, so it identifies the account as well.
		if start.Record.EpochID != record.EpochID {
			return errEpochChanged
		}
		added, err := b.store.addedExposures(ctx, &start.Record)
		if err != nil {
			return err
		}
		merged := maps.Clone(added)
		if merged == nil {
			merged = mpc.Exposures{}
		}
		for node, index := range wanted {
			if index < 1 || int(index) > start.Record.Shares {
				return fmt.Errorf("share %d of %d cannot be exposed", index, start.Record.Shares)
			}
			seen, ok := start.Exposures[node]
			if !ok {
				seen, ok = merged[node]
			}
			if ok && seen != index {
				current := maps.Clone(start.Exposures)
				maps.Copy(current, added)
				return &pool.ExposedError{Node: node, Seen: seen, Want: index, Current: current}
			}
			if !ok {
				merged[node] = index
			}
		}
		if len(merged) == len(added) {
			return nil
		}
		// The request may have been read before a restore was declared.
		if !b.spares.allow(ctx, r.Current.Lineage) {
			return errNoSpares
		}
		return b.store.putExposures(ctx, &start.Record, merged)
	}
}

// epochFrom checks the shape of what the engine returned and makes an epoch
// of it. The nodes have checked the mathematics; this guards the one write
// that replaces good shares.
func epochFrom(res *pool.KeyResult, started time.Time, lineage string) (*epochRecord, error) {
	record := &res.Account.Record
	if err := record.Check(); err != nil {
		return nil, err
	}
	if len(res.Account.Shares) != record.Shares || len(res.Certificate) != record.Shares || res.WrappingVersion == 0 {
		return nil, fmt.Errorf("nodes returned %d shares and %d endorsements for %d shares", len(res.Account.Shares), len(res.Certificate), record.Shares)
	}
	e := &epochRecord{
		Record:          record.Marshal(),
		Exposures:       formatExposures(res.Account.Exposures),
		WrappingVersion: res.WrappingVersion,
		Started:         started,
		Lineage:         lineage,
	}
	var err error
	if e.Shares, err = envelopesOf(res.Account.Shares, record.Shares, res.WrappingVersion); err != nil {
		return nil, err
	}
	holders := map[mpc.Index]bool{}
	for _, index := range res.Account.Exposures {
		holders[index] = true
	}
	for i := 1; i <= record.Shares; i++ {
		if !holders[mpc.Index(i)] {
			return nil, fmt.Errorf("nodes did not say which of them made share %d", i)
		}
	}
	e.Certificate = endorsements(res.Certificate)
	// What is written must be what can be read.
	if _, err := e.account(); err != nil {
		return nil, err
	}
	return e, nil
}

// envelopesOf takes the n envelopes in index order. Each must be sealed to the
// version that nodes say it is: what they say is what is counted on when older
// versions are destroyed.
func envelopesOf(shares []mpc.WrappedShare, n int, version uint32) ([][]byte, error) {
	if len(shares) != n {
		return nil, fmt.Errorf("nodes returned %d of %d shares", len(shares), n)
	}
	var out [][]byte
	for i, s := range shares {
		if int(s.Index) != i+1 || len(s.Envelope) == 0 || len(s.Envelope) > maxShareEnvelope {
			return nil, fmt.Errorf("nodes returned no usable envelope for share %d", i+1)
		}
		out = append(out, s.Envelope)
	}
	if r := envelopeRefs(out); r.broken || len(r.versions) != 1 || r.versions[0] != version {
		return nil, fmt.Errorf("nodes returned envelopes that are not sealed to version %d of the wrapping key alone", version)
	}
	return out, nil
}

func endorsements(in []pool.Endorsement) []endorsementRecord {
	out := make([]endorsementRecord, len(in))
	for i, c := range in {
		out[i] = endorsementRecord{Node: c.NodeID, Identity: c.Identity.String(), Signature: c.Signature}
	}
	return out
}

// checkSuccessor verifies that next is the epoch after old of the same key,
// sealed to the recipient set of the given hash.
func checkSuccessor(old, next *mpc.PublicRecord, recipients [32]byte) error {
	switch {
	case next.AccountID != old.AccountID:
		return errors.New("refresh returned another account")
	case next.Algorithm != old.Algorithm || next.Threshold != old.Threshold || next.Shares != old.Shares:
		return errors.New("refresh returned another algorithm or sharing")
	case !bytes.Equal(next.PublicKey, old.PublicKey) || next.ChainCode != old.ChainCode:
		return errors.New("refresh returned another key")
	case next.RecipientsHash != recipients || next.PolicyHash != old.PolicyHash:
		return errors.New("refresh returned other recipients or another policy")
	case next.Epoch != old.Epoch+1 || next.EpochID == old.EpochID:
		return fmt.Errorf("refresh returned epoch %d after %d", next.Epoch, old.Epoch)
	}
	for i := range next.PublicShares {
		if bytes.Equal(next.PublicShares[i], old.PublicShares[i]) {
			return fmt.Errorf("refresh left share %d as it was", i+1)
		}
	}
	return nil
}

// refreshed is the outcome of refreshAccount.
type refreshed struct {
	record    *accountRecord
	sessionID mpc.SessionID
}

// refreshAccount gives an account new shares, one call at a time per account.
func (b *backend) refreshAccount(ctx context.Context, name string) (*refreshed, error) {
	release, err := b.busy.reserve(prefixAccounts+name, "is being refreshed")
	if err != nil {
		return nil, err
	}
	defer release()
	eng, r, err := b.settled(ctx, name)
	if err != nil && !errors.Is(err, errRolledBack) {
		return nil, err
	}
	old, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	// Read before the session: a restore declared meanwhile counts for the new
	// epoch as well.
	lineage, err := b.spares.lineage(ctx)
	if err != nil {
		return nil, err
	}
	request := pool.RefreshRequest{Account: *old, Expose: b.expose(name, &old.Record)}
	var recipients [32]byte
	if request.Recipients, request.OldRecipients, recipients, err = b.refreshSets(ctx, &old.Record); err != nil {
		return nil, err
	}
	res, err := eng.Refresh(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRefreshMade); err != nil {
		return nil, err
	}
	next, err := b.nextEpoch(ctx, eng, old, res, lineage, recipients)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRefreshChecked); err != nil {
		return nil, err
	}
	r, err = b.updateAccount(ctx, name, old.Record.EpochID, func(r *accountRecord) error {
		// No earlier epoch is kept: all that a previous one could be gone back
		// for is known of this one.
		r.Current, r.Previous = *next, nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &refreshed{r, res.SessionID}, b.step(ctx, stepRefreshStored)
}

// settled reads an account and settles it if something is left over. With
// errRolledBack it returns the account all the same. The caller has reserved
// the account.
func (b *backend) settled(ctx context.Context, name string) (Engine, *accountRecord, error) {
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, nil, err
	}
	if r.Previous != nil {
		r, err = b.settle(ctx, eng, name, r)
	}
	return eng, r, err
}

// nextEpoch makes an epoch of what a refresh returned, once every share of it
// has been opened from the bytes that will be stored.
func (b *backend) nextEpoch(ctx context.Context, eng Engine, old *mpc.Account, res *pool.KeyResult, lineage string, recipients [32]byte) (*epochRecord, error) {
	next, err := epochFrom(res, b.cfg.now().UTC(), lineage)
	if err != nil {
		return nil, fmt.Errorf("the refresh is void, the account keeps its shares: %w", err)
	}
	if err := checkSuccessor(&old.Record, &res.Account.Record, recipients); err != nil {
		return nil, fmt.Errorf("the refresh is void, the account keeps its shares: %w", err)
	}
	account, err := next.account()
	if err != nil {
		return nil, err
	}
	switch err := openCheck(ctx, eng, account); {
	case errors.Is(err, pool.ErrShareUnusable):
		return nil, fmt.Errorf("%w (%w)", errVoid, err)
	case err != nil:
		return nil, fmt.Errorf("the new shares could not be checked, so the account keeps the shares it has: %w", err)
	}
	return next, nil
}

// settle ends the time of a previous epoch or of previous envelopes: it has
// every current share opened and then drops the previous, or goes back to it
// when a share does not open. After going back it returns the account and
// errRolledBack. When it cannot find out, the entry stays as it is and the error
// is unsettledError. The caller has reserved the account.
func (b *backend) settle(ctx context.Context, eng Engine, name string, r *accountRecord) (*accountRecord, error) {
	current, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	id := current.Record.EpochID
	openErr := openCheck(ctx, eng, current)
	if openErr == nil {
		if err := b.step(ctx, stepSettleChecked); err != nil {
			return nil, err
		}
		settled, err := b.updateAccount(ctx, name, id, func(r *accountRecord) error {
			r.Previous = nil
			return nil
		})
		if err == nil {
			err = b.step(ctx, stepSettleDropped)
		} else if !errors.Is(err, errEpochChanged) {
			return nil, &unsettledError{err}
		}
		return settled, err
	}
	if !errors.Is(openErr, pool.ErrShareUnusable) {
		return nil, &unsettledError{openErr}
	}
	// Going back is right only if there is something to go back to: with t
	// good shares the current ones may still be the better.
	previous, err := b.store.usable(ctx, &accountRecord{Current: *r.Previous})
	if err != nil {
		return nil, &unsettledError{errors.Join(openErr, err)}
	}
	if err := openCheck(ctx, eng, previous); err != nil {
		return nil, &unsettledError{fmt.Errorf("%w; the previous shares were not confirmed either: %w", openErr, err)}
	}
	if err := b.step(ctx, stepSettleBack); err != nil {
		return nil, err
	}
	back, err := b.updateAccount(ctx, name, id, func(r *accountRecord) error {
		if r.Previous == nil {
			return errEpochChanged
		}
		r.Current, r.Previous = *r.Previous, nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.log.Error("went back to the previous shares", "account", name, "error", openErr)
	if err := b.step(ctx, stepSettleWent); err != nil {
		return nil, err
	}
	return back, fmt.Errorf("%w (%w)", errRolledBack, openErr)
}

// openCheck gives a check half of the time that is left. It waits for nodes
// that are away, and what follows from its outcome takes time as well.
func openCheck(ctx context.Context, eng Engine, a *mpc.Account) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return eng.OpenCheck(ctx, *a)
}

// needAccount reads an account that the caller says exists.
func (b *backend) needAccount(ctx context.Context, name string) (*accountRecord, error) {
	r, err := b.store.account(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noAccount(name)
	}
	return r, nil
}

func noAccount(name string) error {
	return unknown("there is no account %q: list accounts/ for the accounts there are", name)
}

// scheduleOf is an account as the rotation runner sees it. An envelope that
// cannot be read counts as sealed to no version: that its rewrap fails is then
// there to be seen.
func scheduleOf(name string, r *accountRecord) rotation.Record {
	return rotation.Record{
		Key:         name,
		LastRefresh: r.Current.Started,
		Period:      time.Duration(r.RefreshPeriod) * time.Second,
		Sealed:      envelopeRefs(r.Current.Shares).sealed,
		Unsettled:   r.Previous != nil,
	}
}

// RefreshAccount implements rotation.Refresher.
func (b *backend) RefreshAccount(ctx context.Context, name string) (rotation.Record, error) {
	res, err := b.refreshAccount(ctx, name)
	if err != nil {
		return rotation.Record{}, goneOr(err)
	}
	b.stock.set(name, res.record)
	return scheduleOf(name, res.record), nil
}

// goneOr turns "no such account" into what the runner understands.
func goneOr(err error) error {
	var f *fault
	if errors.As(err, &f) && f.status == http.StatusNotFound {
		return rotation.ErrGone
	}
	return err
}

// accountChanged tells those who watch accounts in the background about one
// that was created, changed or refreshed.
func (b *backend) accountChanged(name string, r *accountRecord) {
	b.runner.Set(scheduleOf(name, r))
	b.stock.set(name, r)
}

// Schedule implements rotation.Store. An account that cannot be read is
// reported and left out, so that it does not hold up the others. Exposures
// that a crash during destruction left behind are removed on the way.
func (b *backend) Schedule(ctx context.Context) ([]rotation.Record, error) {
	// Listed first: an account created later is not taken for missing.
	orphans, err := b.store.list(ctx, prefixExposures)
	if err != nil {
		return nil, err
	}
	var out []rotation.Record
	ids := map[string]bool{}
	complete, err := b.readAll(ctx, func(name string, r *accountRecord) {
		ids[r.ID] = true
		b.stock.found(name, r)
		out = append(out, scheduleOf(name, r))
	})
	if err != nil {
		return nil, err
	}
	b.stock.listed()
	b.keeper.Kick()
	for _, id := range orphans {
		if _, err := hex.DecodeString(id); complete && err == nil && !ids[id] {
			if err := b.store.delete(ctx, prefixExposures+id); err != nil {
				b.log.Warn("left-over exposures stay", "error", err)
			}
		}
	}
	return out, nil
}

// readAll reads every account and every node's keys, and brings the references
// up to what is stored. complete is false when an account could not be read;
// what is damaged is noted as such, and only trouble with storage is an error.
func (b *backend) readAll(ctx context.Context, found func(name string, r *accountRecord)) (complete bool, err error) {
	scan, whole := b.store.refs.scan(), false
	defer func() { b.store.refs.end(scan, whole && err == nil) }()
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return false, err
	}
	whole, complete = true, true
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		var damaged *damagedError
		switch {
		case err == nil && r != nil:
			scan.found(prefixAccounts+name, r)
			found(name, r)
		case errors.As(err, &damaged):
			scan.found(prefixAccounts+name, nil)
			complete = false
			b.log.Error("account cannot be read and is not refreshed", "account", name, "error", err)
		case err != nil && ctx.Err() != nil:
			return false, err
		case err != nil: // perhaps only this once
			whole, complete = false, false
			b.log.Error("account cannot be read and is not refreshed", "account", name, "error", err)
		}
	}
	nodes, err := b.store.list(ctx, prefixNodeKeys)
	if err != nil {
		return false, err
	}
	for _, id := range nodes {
		var r nodeKeysRecord
		ok, err := b.store.get(ctx, prefixNodeKeys+id, &r)
		var damaged *damagedError
		switch {
		case err == nil && ok:
			scan.found(prefixNodeKeys+id, &r)
		case errors.As(err, &damaged):
			scan.found(prefixNodeKeys+id, nil)
		case err != nil:
			return false, err
		}
	}
	return complete, nil
}
