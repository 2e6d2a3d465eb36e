package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// An account is active, frozen or deleted. A frozen or deleted account signs
// nothing, and nothing else changes for it: its shares are refreshed, rewrapped
// and exported as ever, so that it is as safe while it waits as it was before,
// and as sound when it is taken back.
//
// When a state holds: it is written by one Put, under the account's lock, and
// that Put makes the cache of signing forget the account before the request is
// answered. A signature that was accepted before (its account was read) may still
// be finished, within its own time limit; none is accepted after. Every other
// write of the entry reads it again under the same lock, so none brings an older
// state back.

// accountState is the value of "state" in answers and filters.
type accountState string

const (
	stateActive  accountState = "active"
	stateFrozen  accountState = "frozen"
	stateDeleted accountState = "deleted"
	stateLost    accountState = "lost" // authenticators only
)

// state of a deleted account is that, also where it was frozen before.
func (r *accountRecord) state() accountState {
	switch {
	case r.Deleted != nil:
		return stateDeleted
	case r.Frozen != nil:
		return stateFrozen
	}
	return stateActive
}

// notSigning is a 409 that says why the account signs nothing; nil where it
// does.
func notSigning(name string, frozen *frozenRecord, deleted *deletedRecord) error {
	switch {
	case deleted != nil:
		return conflict("account %q was deleted at %s and signs nothing: %s", name, rfc3339(deleted.Time), wayBack(name, deleted))
	case frozen != nil:
		why := ""
		if frozen.Reason != "" {
			why = fmt.Sprintf(" (%s)", frozen.Reason)
		}
		return conflict("account %q has been frozen since %s%s and signs nothing: vault write -force <mount>/accounts/%s/unfreeze ends that", name, rfc3339(frozen.Time), why, name)
	}
	return nil
}

// wayBack says how a deleted account is had again, and how it is not.
func wayBack(name string, d *deletedRecord) string {
	return fmt.Sprintf("vault write -force <mount>/accounts/%s/restore brings it back; after %s it may be destroyed at any time", name, rfc3339(d.Destroy))
}

// needSigning is needAccount for an account that is to sign.
func (b *backend) needSigning(ctx context.Context, name string) (*accountRecord, error) {
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	return r, notSigning(name, r.Frozen, r.Deleted)
}

// changeAccount changes an account's entry by one Put, whatever epoch it is in.
// Where change reports false nothing is written.
func (b *backend) changeAccount(ctx context.Context, name string, change func(*accountRecord) (bool, error)) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	changed, err := change(r)
	if err != nil || !changed {
		return r, err
	}
	return r, b.store.putAccount(ctx, name, r)
}

// stateChanged tells everybody about a state that was just stored. What is ready
// for signing is forgotten where the account does not sign any more.
func (b *backend) stateChanged(ctx context.Context, name string, r *accountRecord) error {
	b.accountChanged(name, r)
	if r.state() == stateActive {
		return nil
	}
	a, err := r.Current.account()
	if err != nil {
		return err
	}
	b.forgetPresignatures(ctx, a.Record.AccountID)
	return nil
}

// stateFields describes stateAnswer.
func stateFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"state":         field(framework.TypeString, "active, frozen or deleted. Only active accounts sign; shares are refreshed in every state."),
		"frozen_time":   field(framework.TypeString, "Since when the account is frozen; empty where it is not."),
		"frozen_reason": field(framework.TypeString, "Why, as far as somebody said."),
		"deleted_time":  field(framework.TypeString, "When the account was deleted; empty where it was not."),
		"destroy_time":  field(framework.TypeString, "From when on a deleted account may be destroyed at any time; until it is, it can be restored."),
	}
}

func stateAnswer(r *accountRecord, into map[string]any) {
	into["state"] = string(r.state())
	into["frozen_time"], into["frozen_reason"], into["deleted_time"], into["destroy_time"] = "", "", "", ""
	if r.Frozen != nil {
		into["frozen_time"], into["frozen_reason"] = rfc3339(r.Frozen.Time), r.Frozen.Reason
	}
	if r.Deleted != nil {
		into["deleted_time"], into["destroy_time"] = rfc3339(r.Deleted.Time), rfc3339(r.Deleted.Destroy)
	}
}

// utcSeconds is the present time as it is stored of a change of state: people
// read it.
func (b *backend) utcSeconds() time.Time { return b.cfg.now().UTC().Truncate(time.Second) }
