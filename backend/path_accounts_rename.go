package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathAccountRename() []*framework.Path {
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/rename$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "rename", OperationSuffix: "account",
		},
		Fields: map[string]*framework.FieldSchema{
			"name": nameField(),
			"new_name": {
				Type:         framework.TypeString,
				Description:  "The name that the account is to have. No account may have it, nor a deleted one.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "New name"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Give an account another name.", true, b.handle("accounts/rename", 0, b.accountRename), accountAnswerFields()),
		},
		HelpSynopsis: "Give an account another name.",
		HelpDescription: `
Moves an account to another name:

  $ vault write mpc/accounts/alice/rename new_name=treasury

Key, ID, shares, schedule, state and metadata stay. Once this is answered the new
name signs and the old one is free. A signature that is under way under the old
name may fail with 404.

Policies go by names: whoever may rename an account decides which policies hold for
it, so this path is for operators.
`,
	}}
}

func (b *backend) accountRename(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	to := data.Get("new_name").(string)
	switch {
	case to == "":
		return nil, invalid("new_name is missing: the name that account %q is to have", name)
	case len(to) > maxAccountNameLen || !accountName.MatchString(to):
		return nil, invalid("new_name %q is not an account name: use up to %d letters, digits, dots, dashes and underscores, with a letter or digit at both ends", clip(to), maxAccountNameLen)
	case to == wrappingKeysName:
		return nil, invalid("no account can be called %q, since destroy/%s ends a mount: choose another name", to, to)
	case to == name:
		return nil, invalid("account %q has that name: nothing was changed", name)
	}
	if from := b.moves.into(to); from != "" && from != name {
		return nil, &movingError{from, to}
	}
	release, err := b.reserveBoth(ctx, name, to)
	if err != nil {
		return nil, err
	}
	defer release()
	// What a request began that is repeated now goes on.
	if now, err := b.leaving(ctx, name, to); err != nil {
		return nil, err
	} else if now == nil {
		if err := b.markLeaving(ctx, name, to); err != nil {
			return nil, err
		}
	}
	b.moves.note(name, to)
	// What has begun is finished, also when the caller has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	if err := b.step(ctx, stepRenameMarked); err != nil {
		return nil, err
	}
	r, err := b.finishMove(ctx, name, to)
	if errors.Is(err, errMoveUndone) {
		return nil, conflict("another account is called %q, so account %q keeps its name: choose another name", to, name)
	}
	if err != nil {
		return nil, fmt.Errorf("the account is on its way from %q to %q, which is finished by itself within a minute or by the next request; until then it signs under neither or under the new name: %w", name, to, err)
	}
	if r == nil { // both names are reserved
		return nil, errEpochChanged
	}
	return b.accountAnswer(ctx, to, r)
}

// markLeaving checks that the move is possible and begins it. The caller has
// reserved both names, so nobody takes the new one meanwhile.
func (b *backend) markLeaving(ctx context.Context, name, to string) error {
	there, err := b.store.account(ctx, to)
	if err != nil {
		return err
	}
	if there != nil {
		return taken(to, there)
	}
	_, err = b.changeAccount(ctx, name, func(r *accountRecord) (bool, error) {
		switch {
		case r.arrived(name):
			return false, &movingError{name, name}
		case r.Deleted != nil:
			return false, conflict("account %q was deleted: nothing was changed; %s", name, wayBack(name, r.Deleted))
		}
		r.RenamingTo = to
		return true, nil
	})
	return err
}

// taken is a 409 for a name that an account has.
func taken(name string, r *accountRecord) error {
	if r.Deleted != nil {
		return conflict("account %q was deleted and can still be restored, so its name is taken: choose another name, restore it (accounts/%s/restore), or remove it for good (destroy/%s)", name, name, name)
	}
	return conflict("account %q exists already: choose another name, or read it", name)
}
