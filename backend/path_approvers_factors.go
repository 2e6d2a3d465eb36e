package backend

import (
	"context"
	"crypto/rand"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// totpIssuer is what authenticator apps show beside a code.
const totpIssuer = "Vault approvals"

// pathApproverFactors deletes keys, and looks after one-time codes.
func (b *backend) pathApproverFactors() []*framework.Path {
	name := pathField("Approver", "approver")
	return []*framework.Path{{
		Pattern: "approvers/" + namePattern + "/factors/(?P<key_id>[^/]+)$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "approver-factor", ItemType: "Factor",
		},
		Fields: map[string]*framework.FieldSchema{
			"name": name,
			"key_id": {
				Type: framework.TypeString, Description: "ID of the key: 32 hex digits, as approvers/NAME shows it.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID", Identifier: true},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.DeleteOperation: b.operation("Delete a key of an approver. Policies keep their copies.", true, b.handle("approvers/factors/delete", scanTimeout, b.factorDelete), stillNamedFields()),
		},
		HelpSynopsis: "A key that an approver approves with.",
		HelpDescription: `
Deletes a key of an approver, so that no later policy takes it:

  $ vault delete mpc/approvers/alice/factors/00112233445566778899aabbccddeeff

Policies hold copies: the answer names the accounts whose policy in force goes on
counting the key. A lost device is out once each of them has been changed.
`,
	}, {
		Pattern: "approvers/" + namePattern + "/totp$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "approver-one-time-code",
		},
		Fields: map[string]*framework.FieldSchema{"name": name},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Make a secret for an approver's one-time codes.", true, b.handle("approvers/totp", 0, b.totpWrite), map[string]*framework.FieldSchema{
				"url":    field(framework.TypeString, "The secret as authenticator apps scan it (otpauth://). It is shown once."),
				"secret": field(framework.TypeString, "The same for typing, in base32."),
			}),
			logical.DeleteOperation: b.operation("End an approver's one-time codes.", true, b.handle("approvers/totp/delete", scanTimeout, b.totpDelete), stillNamedFields()),
		},
		HelpSynopsis: "An approver's one-time codes (TOTP, RFC 6238).",
		HelpDescription: `
Makes a secret for an authenticator app; it is shown once:

  $ vault write -force mpc/approvers/alice/totp

It counts once a code of the app was right:

  $ vault write mpc/approvers/alice/totp/confirm code=123456

The coordinator keeps the secret and checks the codes, and nodes take no notice of
them: they are a second factor beside a device's key, never a factor that a policy
could count as verified by nodes. To have another secret, end this one first:

  $ vault delete mpc/approvers/alice/totp
`,
	}, {
		Pattern: "approvers/" + namePattern + "/totp/confirm$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "confirm", OperationSuffix: "approver-one-time-code",
		},
		Fields: map[string]*framework.FieldSchema{
			"name": name,
			"code": {Type: framework.TypeString, Description: "A one-time code: six digits.", DisplayAttrs: &framework.DisplayAttributes{Name: "Code", Sensitive: true}},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Show that an app gives the right one-time codes.", true, b.handle("approvers/totp/confirm", scanTimeout, b.totpConfirm), approverAnswerFields()),
		},
		HelpSynopsis: "Confirms one-time codes by one of them.",
		HelpDescription: `
Shows that the authenticator app has the secret, and its clock is right:

  $ vault write mpc/approvers/alice/totp/confirm code=123456

Wrong codes are counted: after five in a row none are taken for a minute, then for
longer. Where the approver is an identity, its owner confirms in a session, as with
devices.
`,
	}}
}

// changing gives the turn and the approver that a request names.
func (b *backend) changing(ctx context.Context, data *framework.FieldData) (name string, r *approverRecord, release func(), err error) {
	if name, err = pathText(data, "name", "approver"); err != nil {
		return "", nil, nil, err
	}
	if release, err = b.people.take(ctx); err != nil {
		return "", nil, nil, err
	}
	if r, err = b.needApprover(ctx, name); err != nil {
		release()
		return "", nil, nil, err
	}
	return name, r, release, nil
}

func (b *backend) factorDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, r, release, err := b.changing(ctx, data)
	if err != nil {
		return nil, err
	}
	defer release()
	text := data.Get("key_id").(string)
	id, err := approval.ParseID(text)
	if err != nil {
		return nil, invalid("key_id must be 32 hex digits in lower case, as approvers/%s shows it", name)
	}
	at := r.keyByID(text)
	if at < 0 {
		return nil, unknown("approver %q has no key %s: see approvers/%s for those there are", name, text, name)
	}
	r.Keys = slices.Delete(r.Keys, at, at+1)
	if err := b.store.putApprover(ctx, name, r); err != nil {
		return nil, err
	}
	b.log.Info("a key of an approver was deleted", "approver", name, "key_id", text)
	accounts, unreadable, err := b.policiesWith(ctx, func(p *approval.Policy) bool {
		_, k := p.ByKey(id)
		return k != nil
	})
	resp := &logical.Response{Data: map[string]any{"accounts": append([]string{}, accounts...)}}
	warnStillNamed(resp, "this key", accounts, unreadable, err)
	return resp, nil
}

func (b *backend) totpWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, r, release, err := b.changing(ctx, data)
	if err != nil {
		return nil, err
	}
	defer release()
	if r.TOTP != nil && r.TOTP.Confirmed {
		return nil, conflict("this approver has one-time codes already: nothing was changed. To have another secret, end them first: vault delete <mount>/approvers/%s/totp", name)
	}
	key, err := totp.Generate(totp.GenerateOpts{
		Issuer: totpIssuer, AccountName: name, Period: uint(totpStep.Seconds()), SecretSize: totpSecretSize,
		Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1, Rand: rand.Reader,
	})
	if err != nil {
		return nil, err
	}
	r.TOTP = &totpRecord{Secret: key.Secret(), Added: b.cfg.now().UTC()}
	if err := b.store.putApprover(ctx, name, r); err != nil {
		return nil, err
	}
	b.log.Info("a secret for one-time codes was made and waits for being confirmed", "approver", name)
	return &logical.Response{Data: map[string]any{"url": key.URL(), "secret": key.Secret()}}, nil
}

func (b *backend) totpConfirm(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, r, release, err := b.changing(ctx, data)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := b.mayConfirm(ctx, name, r); err != nil {
		return nil, err
	}
	if r.TOTP == nil {
		return nil, conflict("this approver has no one-time codes to confirm: make a secret first (vault write -force <mount>/approvers/%s/totp)", name)
	}
	if r.TOTP.Confirmed {
		return nil, conflict("the one-time codes of this approver were confirmed before: nothing was changed, and no code was used")
	}
	if err := b.takeCode(ctx, name, r, data.Get("code").(string)); err != nil {
		return nil, err
	}
	b.log.Info("an approver's one-time codes were confirmed", "approver", name)
	return b.approverAnswer(ctx, name, r)
}

func (b *backend) totpDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, r, release, err := b.changing(ctx, data)
	if err != nil {
		return nil, err
	}
	defer release()
	if r.TOTP == nil {
		return nil, unknown("approver %q has no one-time codes", name)
	}
	id, err := approval.ParseID(r.ID)
	if err != nil {
		return nil, &damagedError{prefixApprovers + name, err}
	}
	r.TOTP = nil
	if err := b.store.putApprover(ctx, name, r); err != nil {
		return nil, err
	}
	b.log.Info("an approver's one-time codes were ended", "approver", name)
	accounts, unreadable, err := b.policiesWith(ctx, func(p *approval.Policy) bool {
		a := p.Approver(id)
		return a != nil && slices.Contains(a.Checked, approval.TOTP)
	})
	resp := &logical.Response{Data: map[string]any{"accounts": append([]string{}, accounts...)}}
	warnStillNamed(resp, "one-time codes of this approver", accounts, unreadable, err)
	return resp, nil
}
