package backend

import (
	"context"
	"errors"
	"slices"

	"vault-plugin-secrets-mpc/identity"
)

// What a session may call, beside what the signatures on records and the keys that
// it lacks keep it from. Everything that is not named here is a 403:
//
//	identities/<granted>                       read; write with the owner role
//	identities/<granted>/assets                list
//	identities/<granted>/assets/<asset>        read, write; delete with a role that
//	                                           may use it, or the owner role
//	identities/<granted>/freeze, …/unfreeze    write with the owner role
//	authenticators/<own>                       read; write: change of its secret
//	authenticators/<own>/register              write: the first step of that
//	authenticators/<own>/devices               list, write
//	authenticators/<own>/devices/<id>          read, delete
//	authenticators/<other>                     read: the owner role of an identity
//	                                           that has granted it a level
//	authenticators/<other>/lost                write: that of all such identities
//	accounts/<account>                         read      where its custody key is in
//	custody/<account>/begin, …/finish          write     an asset of its roles
//	sign/<account>                             write     likewise; it is approved
//	                                           first, or refused
//	requests/<id>, …/wait, …/cancel, …/code    read, write: a request of an identity
//	                                           that this login opens
//	nodes, nodes/<id>                          list, read
//	requests/<id>/login                        write: an approver of the request who
//	                                           is an identity that this login opens
//	approvers/<own>                            read: who is that identity
//	approvers/<own>/enrol, …/confirm           write  with its owner role
//	approvers/<own>/enrolments                 list   with it
//	approvers/<own>/totp                       write, delete  with it
//	approvers/<own>/totp/confirm               write  with it
//	approvers/<own>/factors/<key>              delete with it
//
// An identity that is frozen is not read nor written; its owner may unfreeze it and
// report authenticators lost.

func errNotAllowed() error {
	return forbidden("this session may not do that: there is no such thing, or it belongs to an identity, role or authenticator that this login does not open")
}

// allowed fails where the session may not make the call. The authenticator is read
// each time: one that was lost or deleted does nothing any more, also if its
// session was not found when that was said. The same holds for a session that was
// begun with a secret which is not the authenticator's any more.
func (b *backend) allowed(ctx context.Context, s *session, c *called) error {
	n, err := b.loginAuthenticator(ctx, s.name, s.kind, s.authenticator)
	if err != nil {
		return err
	}
	if n.record == nil || n.record.Lost != nil || registrationSum(n.record.Registration) != s.registered {
		b.sessions.end(s.id)
		return errNoSession()
	}
	switch c.parts[0] {
	case "identities":
		return b.allowedIdentity(ctx, n.opened, c)
	case "authenticators":
		return b.allowedAuthenticator(ctx, n.opened, c)
	case "approvers":
		return b.allowedApprover(ctx, n.opened, c)
	case "accounts":
		if len(c.parts) == 2 && c.is(identity.ReadOperation) {
			return b.allowedAccount(ctx, n.opened, c.parts[1])
		}
	case "custody":
		if len(c.parts) == 3 && (c.parts[2] == "begin" || c.parts[2] == "finish") && c.is(identity.WriteOperation) {
			return b.allowedAccount(ctx, n.opened, c.parts[1])
		}
	case "sign":
		if len(c.parts) == 2 && c.is(identity.WriteOperation) {
			return b.allowedAccount(ctx, n.opened, c.parts[1])
		}
	case "requests":
		if len(c.parts) == 2 && c.is(identity.ReadOperation) ||
			len(c.parts) == 3 && (c.parts[2] == "wait" || c.parts[2] == "cancel" || c.parts[2] == "code") && c.is(identity.WriteOperation) {
			return b.allowedRequest(ctx, s, c.parts[1])
		}
		if len(c.parts) == 3 && c.parts[2] == "login" && c.is(identity.WriteOperation) {
			return b.allowedLogin(ctx, n.opened, c.parts[1])
		}
	case "nodes":
		if len(c.parts) == 1 && c.is(identity.ListOperation) || len(c.parts) == 2 && c.is(identity.ReadOperation) {
			return nil
		}
	}
	return errNotAllowed()
}

func (c *called) is(operations ...identity.Operation) bool {
	return slices.Contains(operations, c.operation)
}

// opens is what an authenticator opens of an identity.
type opens struct {
	name     string
	record   *identityRecord
	manifest *identity.Manifest
	roles    []string
}

func (o *opens) owner() bool { return slices.Contains(o.roles, identity.OwnerRole) }

// opens reads an identity; nil where the authenticator has no grant in it, or there
// is none of that name. The grant has to be for these keys, too.
func (b *backend) opens(ctx context.Context, a *identity.Authenticator, name string) (*opens, error) {
	if identity.CheckName("identity", name) != nil {
		return nil, nil
	}
	r, err := b.store.identity(ctx, name)
	if err != nil || r == nil {
		return nil, err
	}
	m, err := r.open(name)
	if err != nil {
		return nil, err
	}
	g := m.Grant(a.ID)
	if g == nil || !g.Keys.Equal(a.Keys) {
		return nil, nil
	}
	return &opens{name, r, m, m.Level(g.Level).Roles}, nil
}

func (b *backend) allowedIdentity(ctx context.Context, a *identity.Authenticator, c *called) error {
	if len(c.parts) < 2 {
		return errNotAllowed()
	}
	o, err := b.opens(ctx, a, c.parts[1])
	if err != nil {
		return err
	}
	if o == nil {
		return errNotAllowed()
	}
	if len(c.parts) == 3 && (c.parts[2] == "freeze" || c.parts[2] == "unfreeze") {
		if c.is(identity.WriteOperation) && o.owner() {
			return nil
		}
		return errNotAllowed()
	}
	if err := checkIdentityActive(o.name, o.record); err != nil {
		return err
	}
	switch {
	case len(c.parts) == 2 && c.is(identity.ReadOperation),
		len(c.parts) == 2 && c.is(identity.WriteOperation) && o.owner(),
		len(c.parts) == 3 && c.parts[2] == "assets" && c.is(identity.ListOperation):
		return nil
	case len(c.parts) == 4 && c.parts[2] == "assets":
		if c.is(identity.ReadOperation, identity.WriteOperation) || c.is(identity.DeleteOperation) && o.owner() {
			return nil // whoever writes has to sign with the keys of a role
		}
		if c.is(identity.DeleteOperation) {
			return b.allowedAsset(ctx, o, c.parts[3])
		}
	}
	return errNotAllowed()
}

// allowedAsset: a role that may use the asset may remove it.
func (b *backend) allowedAsset(ctx context.Context, o *opens, name string) error {
	if identity.CheckName("asset", name) != nil {
		return errNotAllowed()
	}
	r, err := b.store.asset(ctx, o.manifest.Identity, name)
	if err != nil {
		return err
	}
	if r == nil {
		return errNotAllowed()
	}
	asset, err := r.open(o.manifest, name)
	if err != nil {
		return err
	}
	if !o.any(asset.Roles()) {
		return errNotAllowed()
	}
	return nil
}

func (o *opens) any(roles []string) bool {
	return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(o.roles, r) })
}

func (b *backend) allowedAuthenticator(ctx context.Context, a *identity.Authenticator, c *called) error {
	if len(c.parts) < 2 {
		return errNotAllowed()
	}
	if c.parts[1] == a.Name {
		switch {
		case len(c.parts) == 2 && c.is(identity.ReadOperation, identity.WriteOperation),
			len(c.parts) == 3 && c.parts[2] == "register" && c.is(identity.WriteOperation),
			len(c.parts) == 3 && c.parts[2] == "devices" && c.is(identity.ListOperation, identity.WriteOperation),
			len(c.parts) == 4 && c.parts[2] == "devices" && c.is(identity.ReadOperation, identity.DeleteOperation):
			return nil
		}
		return errNotAllowed()
	}
	if len(c.parts) == 2 && c.is(identity.ReadOperation) || len(c.parts) == 3 && c.parts[2] == "lost" && c.is(identity.WriteOperation) {
		return b.allowedOther(ctx, a, c.parts[1], len(c.parts) == 3)
	}
	return errNotAllowed()
}

// allowedOther: the owner of an identity looks after all who open it. To report one
// lost he has to own every identity that has granted it something: otherwise anybody
// could grant a stranger's authenticator something in an identity of his own, which
// needs nobody's consent, and so end it everywhere.
func (b *backend) allowedOther(ctx context.Context, a *identity.Authenticator, name string, all bool) error {
	if identity.CheckName("authenticator", name) != nil {
		return errNotAllowed()
	}
	other, err := b.authenticatorFacts(ctx, name)
	if err != nil {
		return err
	}
	if other == nil {
		return errNotAllowed()
	}
	granted, unreadable, err := b.grantedIn(ctx, other.ID)
	if err != nil {
		return err
	}
	owned := 0
	for _, g := range granted {
		o, err := b.opens(ctx, a, g.Name)
		if err != nil {
			return err
		}
		if o != nil && o.owner() && o.manifest.Grant(other.ID) != nil {
			owned++
		}
	}
	switch {
	case owned == 0:
		return errNotAllowed()
	case all && owned < len(granted)+len(unreadable):
		return forbidden("identities of other owners have granted this authenticator something as well, so whoever runs the mount reports it lost (authenticators/%s/lost). Meanwhile take its grant in yours away: mpckms identity reset", name)
	}
	return nil
}

// allowedAccount: the account's custody key is for one of its roles.
func (b *backend) allowedAccount(ctx context.Context, a *identity.Authenticator, name string) error {
	if len(name) > maxAccountNameLen || !accountName.MatchString(name) {
		return errNotAllowed()
	}
	r, err := b.store.account(ctx, name)
	if err != nil {
		return err
	}
	if r == nil || r.Custody == nil {
		return errNotAllowed()
	}
	owner, _, asset, err := b.assetForCustody(ctx, r.Custody)
	if err != nil {
		return err
	}
	o, err := b.opens(ctx, a, owner)
	if err != nil {
		return err
	}
	if o == nil || !o.any(asset.Roles()) {
		return errNotAllowed()
	}
	return checkIdentityActive(owner, o.record)
}

// allowedRequest: a request that an identity asked for which this login opens.
func (b *backend) allowedRequest(ctx context.Context, s *session, id string) error {
	r, err := b.requests.read(ctx, id)
	var f *fault
	if errors.As(err, &f) { // no such request
		return errNotAllowed()
	}
	if err != nil {
		return err
	}
	own, err := b.openedBy(ctx, s, r)
	if err != nil {
		return err
	}
	if !own {
		return errNotAllowed()
	}
	return nil
}
