package backend

import (
	"bytes"
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// maxServerPart bounds a wrapped server part, in bytes.
const maxServerPart = 1024

// authenticatorWrite stores a new authenticator by one Put. Through a session it
// changes the secret of that session's own: see changeSecret.
func (b *backend) authenticatorWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	if s := sessionOf(ctx); s != nil {
		return b.changeSecret(ctx, s, data, name)
	}
	r, a, err := b.sentAuthenticator(ctx, data, name)
	if err != nil {
		return nil, err
	}
	// Keys are made for the first registration only: with an authenticator here and
	// no keys, a mount takes them for lost.
	if keys, err := b.store.identityKeys(ctx); err != nil {
		return nil, err
	} else if keys == nil {
		return nil, conflict("nobody has registered at this mount yet, so the registration is another's: nothing was created; register first (authenticators/%s/register)", name)
	}
	defer b.hierarchy.all()()
	if err := ctx.Err(); err != nil {
		return nil, err // it waited for its turn
	}
	was, err := b.store.authenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	if was != nil {
		if !bytes.Equal(was.Signed.Authenticator, r.Signed.Authenticator) || !bytes.Equal(was.Registration, r.Registration) {
			if was.ID == r.ID {
				return nil, errOwnSession(name)
			}
			return nil, conflict("there is an authenticator %q, and none is changed: nothing was changed; choose another name, or delete that one first", name)
		}
		resp, err := b.authenticatorAnswer(ctx, was, a)
		if err == nil {
			resp.AddWarning(alreadyStored)
		}
		return resp, err
	}
	if err := onlyOperation(req, false, "authenticator", name); err != nil {
		return nil, err
	}
	if other, err := b.authenticatorByID(ctx, a.ID); err != nil {
		return nil, err
	} else if other != "" {
		return nil, conflict("authenticator %q has the ID %s: nothing was created; draw a new one", other, a.ID)
	}
	// What is left of a former one of this name says nothing about this one.
	if err := b.dropLock(ctx, name); err != nil {
		return nil, err
	}
	if err := b.store.put(ctx, prefixAuthentic+name, r); err != nil {
		return nil, err
	}
	b.log.Info("an authenticator was created", "authenticator", name, "authenticator_id", r.ID, "kind", string(a.Method))
	return b.authenticatorAnswer(ctx, r, a)
}

// sentAuthenticator reads and verifies what was sent.
func (b *backend) sentAuthenticator(ctx context.Context, data *framework.FieldData, name string) (*authenticatorRecord, *identity.Authenticator, error) {
	r, a, err := sentRecord(data, name)
	if err != nil {
		return nil, nil, err
	}
	r.Phone = data.Get("phone").(string)
	_, part := data.GetOk("server_part")
	switch {
	case part != a.Method.HasServerPart():
		return nil, nil, invalid("authenticators of kind oidc and phone have a server_part, and no others; this one is of kind %s: nothing was created", a.Method)
	case (a.Method == identity.Phone) != (r.Phone != "") || r.Phone != "" && !phoneNumber.MatchString(r.Phone):
		return nil, nil, invalid("authenticators of kind phone have a phone, + and 7 to 15 digits, and no others: nothing was created")
	}
	if part {
		if r.ServerPart, err = decoded(data, "server_part", maxServerPart); err != nil {
			return nil, nil, err
		}
		if err := b.checkServerPart(ctx, a.ID, r.ServerPart); err != nil {
			return nil, nil, err
		}
	}
	if o := a.Parameters.OIDC; o != nil {
		if err := b.checkProvider(ctx, o); err != nil {
			return nil, nil, err
		}
	}
	return r, a, nil
}

// sentRecord reads and verifies what a new authenticator and a changed one have in
// common.
func sentRecord(data *framework.FieldData, name string) (*authenticatorRecord, *identity.Authenticator, error) {
	r := &authenticatorRecord{Version: recordVersion}
	var err error
	if r.Signed.Authenticator, err = decoded(data, "authenticator", identity.MaxAuthenticator); err != nil {
		return nil, nil, err
	}
	if r.Signed.Signature, err = decoded(data, "signature", ed25519Signature); err != nil {
		return nil, nil, err
	}
	if r.Registration, err = decoded(data, "registration", identity.RegistrationSize); err != nil {
		return nil, nil, err
	}
	a, err := r.Signed.Verify()
	if err != nil {
		return nil, nil, invalid("the authenticator is refused and nothing was written: %v", err)
	}
	if err := identity.CheckRegistration(r.Registration, a.KDF); err != nil {
		return nil, nil, invalid("the registration is refused and nothing was written: %v", err)
	}
	if a.Name != name {
		return nil, nil, invalid("the record is of authenticator %q and the path names %q: nothing was written", a.Name, name)
	}
	r.ID = a.ID.String()
	return r, a, nil
}

// checkProvider: the third party is one that this mount asks.
func (b *backend) checkProvider(ctx context.Context, o *identity.OIDCParameters) error {
	conf := &identitiesConfigRecord{}
	if _, err := b.store.get(ctx, keyIdentities, conf); err != nil {
		return err
	}
	p, ok := conf.OIDC[o.Provider]
	if !ok || p.Issuer != o.Issuer {
		return invalid("there is no third party %q with the issuer that the record names: nothing was created; configure it first (config/identities/oidc/NAME)", clip(o.Provider))
	}
	return nil
}

// authenticatorByID finds an authenticator by its ID; an empty name where there is
// none. A record that cannot be read is an error, since the ID may be that one's.
func (b *backend) authenticatorByID(ctx context.Context, id identity.ID) (string, error) {
	names, err := b.store.sorted(ctx, prefixAuthentic)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		f, err := b.authenticatorFacts(ctx, name)
		if err != nil {
			return "", err
		}
		if f != nil && f.ID == id {
			return name, nil
		}
	}
	return "", nil
}

// dropLock removes what is stored about failures, if anything is.
func (b *backend) dropLock(ctx context.Context, name string) error {
	entry, err := b.store.s.Get(ctx, prefixAuthLocks+name)
	if err != nil {
		return storageError(ctx, "reading", prefixAuthLocks+name, err)
	}
	if entry != nil {
		if err := b.store.delete(ctx, prefixAuthLocks+name); err != nil {
			return err
		}
	}
	if b.hierarchy.unlocked != nil {
		b.hierarchy.unlocked(name)
	}
	return nil
}

// authenticatorDelete removes what is stored about failures and then the record,
// so that a crash in between leaves an authenticator that can be deleted again.
func (b *backend) authenticatorDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.all()()
	_, a, err := b.needAuthenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	granted, unreadable, err := b.grantedIn(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	if len(granted) > 0 {
		names := make([]string, len(granted))
		for i, g := range granted {
			names[i] = g.Name
		}
		return nil, conflict("authenticator %q is granted in %s: nothing was changed; have these identities' owners remove the grants first (mpckms identity revoke), or report it lost (authenticators/%s/lost)", name, few(names), name)
	}
	if len(unreadable) > 0 {
		return nil, conflict("authenticator %q may be granted in identities that cannot be read: %s; nothing was changed. Restore them from a backup of Vault's storage", name, strings.Join(unreadable, ", "))
	}
	if err := b.dropLock(ctx, name); err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepAuthenticatorUnlocked); err != nil {
		return nil, err
	}
	if err := b.store.delete(ctx, prefixAuthentic+name); err != nil {
		return nil, err
	}
	b.endSessions(a.ID)
	b.log.Info("an authenticator was deleted", "authenticator", name, "authenticator_id", a.ID.String())
	return nil, nil
}

// endSessions ends what was begun with an authenticator. The record that says why
// is stored before, so that nothing begins after.
func (b *backend) endSessions(id identity.ID) {
	if b.hierarchy.ended != nil {
		b.hierarchy.ended(id)
	}
}
