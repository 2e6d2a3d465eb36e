package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
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
//	{current: old}                  or one did not open (of two epochs: and all of the old do)
//
// Each arrow is one Put of one entry. A crash between two of them leaves an
// account that signs; what is left to do is done by the rotation runner, by the
// next refresh, or when a signature meets a share that does not open.

// maxShareEnvelope bounds one wrapped share in bytes. An envelope of one
// recipient has a few hundred.
const maxShareEnvelope = 16 << 10

// errNoSpares: a node was about to be handed a share that it is not known to
// have, in an epoch that gets no spares.
var errNoSpares = fmt.Errorf("%w: no spare node may take a share over before the next refresh", errEpochChanged)

func (b *backend) lockAccount(name string) func() {
	l := locksutil.LockForKey(b.accountLocks, name)
	l.Lock()
	return l.Unlock
}

// needAccount reads an account that the caller says exists. One that has left for
// another name is a movingError.
func (b *backend) needAccount(ctx context.Context, name string) (*accountRecord, error) {
	r, err := b.store.account(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noAccount(name)
	}
	if r.left(name) {
		return nil, &movingError{name, r.RenamingTo}
	}
	return r, nil
}

func noAccount(name string) error {
	return unknown("there is no account %q: list accounts/ for the accounts there are", name)
}

// updateAccount changes an account's entry by one Put. It fails with
// errEpochChanged when the account is not in the given epoch any more.
func (b *backend) updateAccount(ctx context.Context, name string, id mpc.EpochID, change func(*accountRecord) error) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil || r.left(name) {
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
		defer b.fit.still()() // the pool chose among its nodes, which may be more than are configured by now
		defer b.lockAccount(name)()
		r, err := b.store.account(ctx, name)
		if err != nil {
			return err
		}
		// Exposures of an account that has left are written under its new name,
		// whose lock is another.
		if r == nil || r.left(name) {
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
		if err := b.leavesAll(ctx, start, added, merged); err != nil {
			return err
		}
		return b.store.putExposures(ctx, &start.Record, merged)
	}
}

// epochFrom checks the shape of what the engine returned and makes an epoch
// of it. The nodes have checked the mathematics; this guards the one write
// that replaces good shares. recipients is the signed set that the request
// named, policy the approval policy that the epoch is to have; each empty for none.
func epochFrom(res *pool.KeyResult, started time.Time, lineage string, recipients, policy []byte) (*epochRecord, error) {
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
		Homes:           res.Account.Homes,
		Policy:          policy,
	}
	var err error
	if e.Shares, err = envelopesOf(res.Account.Shares, record.Shares, res.WrappingVersion, res.Account.Homes); err != nil {
		return nil, err
	}
	if err := checkRecipientSeals(e.Shares, recipients); err != nil {
		return nil, err
	}
	if err := checkCustodySeals(e.Shares, record); err != nil {
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

// envelopesOf takes the n envelopes in index order. Each must be sealed to one
// wrapping key, in the domain of the share's home if it has one, and in the version
// that nodes say it is: what they say is what is counted on when older versions are
// destroyed.
func envelopesOf(shares []mpc.WrappedShare, n int, version uint32, homes []mpc.Home) ([][]byte, error) {
	if len(shares) != n {
		return nil, fmt.Errorf("nodes returned %d of %d shares", len(shares), n)
	}
	if err := homesFit(homes, n); err != nil {
		return nil, fmt.Errorf("what nodes returned %w", err)
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
	for i, e := range out {
		domain := ""
		if len(homes) > 0 {
			domain = homes[i].Domain
		}
		if err := sealedOnce(e, domain); err != nil {
			return nil, fmt.Errorf("share %d: %w", i+1, err)
		}
	}
	return out, nil
}

// sealedOnce demands one seal to a wrapping key, and in that domain where it is not
// empty.
func sealedOnce(envelope []byte, domain string) error {
	seals, err := hsm.Seals(envelope)
	if err != nil {
		return err
	}
	found := 0
	for _, s := range seals {
		if !isWrappingDomain(s.Domain) {
			continue // checkRecipientSeals looks at it
		}
		if found++; domain != "" && s.Domain != domain {
			return fmt.Errorf("nodes sealed it to wrapping domain %q, and it lives in %q", s.Domain, domain)
		}
	}
	if found != 1 {
		return fmt.Errorf("nodes sealed it to %d wrapping keys, and not to one", found)
	}
	return nil
}

// sharesWithin demands that every share is sealed in one of the domains that were
// asked for; any is right where none was.
func sharesWithin(a *mpc.Account, domains []string) error {
	for i, s := range a.Shares {
		for _, seal := range envelopeRefs([][]byte{s.Envelope}).seals {
			if len(domains) > 0 && !slices.Contains(domains, seal.domain) {
				return fmt.Errorf("nodes sealed share %d to wrapping domain %q, which was not asked for", i+1, seal.domain)
			}
		}
	}
	return nil
}

func endorsements(in []pool.Endorsement) []endorsementRecord {
	out := make([]endorsementRecord, len(in))
	for i, c := range in {
		out[i] = endorsementRecord{Node: c.NodeID, Identity: c.Identity.String(), Signature: c.Signature}
	}
	return out
}

// successor is what the next epoch has to be sealed to: the hash of a recipient
// set, and that of a custody key, zero for none; the approval policy that it has,
// empty for none; and where its shares live, nil for where they are sealed to now.
type successor struct {
	recipients, custody [32]byte
	policy              []byte
	homes               []mpc.Home
}

// checkSuccessor verifies that next is the epoch after old of the same key,
// sealed as is wanted.
func checkSuccessor(old, next *mpc.PublicRecord, want successor) error {
	switch {
	case next.AccountID != old.AccountID:
		return errors.New("refresh returned another account")
	case next.Algorithm != old.Algorithm || next.Threshold != old.Threshold || next.Shares != old.Shares:
		return errors.New("refresh returned another algorithm or sharing")
	case !bytes.Equal(next.PublicKey, old.PublicKey) || next.ChainCode != old.ChainCode:
		return errors.New("refresh returned another key")
	case next.RecipientsHash != want.recipients || next.PolicyHash != policyHash(want.policy):
		return errors.New("refresh returned other recipients or another policy")
	case next.Custody != want.custody:
		return errors.New("refresh returned another custody key")
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
