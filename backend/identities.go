package backend

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// Identities, their assets, and authenticators refer to each other: grants name
// authenticators, assets are sealed to roles, accounts' custody names assets. What
// keeps these references whole is checked and written under hierarchy's locks, all
// of it on the active server.

// hierarchy serialises changes. Nobody holds one of its locks over a call of a
// node or another host.
type hierarchy struct {
	// whole is held for writing by what concerns several objects: manifests, and
	// authenticators that come, go, are lost or found. All other changes hold it
	// for reading, beside the stripe of their object.
	whole   sync.RWMutex
	stripes []*locksutil.LockEntry

	// ended and unlocked, where they are set, are told that an authenticator's
	// sessions are over, and that what is counted of a name is forgotten. Set
	// before the first request; neither may take a lock of this type.
	ended    func(authenticator identity.ID)
	unlocked func(authenticator string)
}

func newHierarchy() *hierarchy { return &hierarchy{stripes: locksutil.CreateLocks()} }

// all locks everything: nothing of any identity or authenticator changes meanwhile.
func (h *hierarchy) all() (unlock func()) {
	h.whole.Lock()
	return h.whole.Unlock
}

// still keeps manifests and authenticators as they are.
func (h *hierarchy) still() (unlock func()) {
	h.whole.RLock()
	return h.whole.RUnlock
}

func (h *hierarchy) one(key string) (unlock func()) {
	h.whole.RLock()
	l := locksutil.LockForKey(h.stripes, key)
	l.Lock()
	return func() {
		l.Unlock()
		h.whole.RUnlock()
	}
}

// lockIdentity keeps an identity, its assets and all grants as they are until
// unlock. Who holds it takes no other lock of the hierarchy, and may take that of
// an account. An account that is given custody, or another custody key, is stored
// under it, once the asset has been read again.
func (b *backend) lockIdentity(name string) (unlock func()) {
	return b.hierarchy.one(prefixIdentities + name)
}

// lockAuthenticator is the same for an authenticator: whoever lets somebody in
// with it looks under this lock whether it is lost.
func (b *backend) lockAuthenticator(name string) (unlock func()) {
	return b.hierarchy.one(prefixAuthentic + name)
}

// identity returns nil for a name that is not taken.
func (s *store) identity(ctx context.Context, name string) (*identityRecord, error) {
	r := &identityRecord{}
	ok, err := s.get(ctx, prefixIdentities+name, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// asset returns nil for a name that the identity has no asset of.
func (s *store) asset(ctx context.Context, id identity.ID, name string) (*assetRecord, error) {
	r := &assetRecord{}
	ok, err := s.get(ctx, assetKey(id, name), r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// authenticator returns nil for a name that is not taken.
func (s *store) authenticator(ctx context.Context, name string) (*authenticatorRecord, error) {
	r := &authenticatorRecord{}
	ok, err := s.get(ctx, prefixAuthentic+name, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// authenticatorLock returns nil where nothing is stored about failures.
func (s *store) authenticatorLock(ctx context.Context, name string) (*authenticatorLockRecord, error) {
	r := &authenticatorLockRecord{}
	ok, err := s.get(ctx, prefixAuthLocks+name, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

func assetKey(id identity.ID, name string) string {
	return prefixAssets + id.String() + "/" + name
}

// sorted lists the names under a prefix in order.
func (s *store) sorted(ctx context.Context, prefix string) ([]string, error) {
	names, err := s.list(ctx, prefix)
	slices.Sort(names)
	return names, err
}

func (s *store) assetNames(ctx context.Context, id identity.ID) ([]string, error) {
	return s.sorted(ctx, prefixAssets+id.String()+"/")
}

// open verifies what the owner signed, which says also that the record is under
// the right name.
func (r *identityRecord) open(name string) (*identity.Manifest, error) {
	m, err := r.Signed.Verify()
	if err == nil && (m.Name != name || m.Identity.String() != r.ID) {
		err = errors.New("holds the manifest of another identity")
	}
	if err != nil {
		return nil, &damagedError{prefixIdentities + name, err}
	}
	return m, nil
}

func (r *assetRecord) open(m *identity.Manifest, name string) (*identity.Asset, error) {
	a, err := r.Signed.Verify(m)
	if err == nil && a.Name != name {
		err = errors.New("holds another asset")
	}
	if err != nil {
		return nil, &damagedError{assetKey(m.Identity, name), err}
	}
	return a, nil
}

func (r *authenticatorRecord) open(name string) (*identity.Authenticator, error) {
	a, err := r.Signed.Verify()
	if err == nil && (a.Name != name || a.ID.String() != r.ID) {
		err = errors.New("holds another authenticator")
	}
	if err != nil {
		return nil, &damagedError{prefixAuthentic + name, err}
	}
	return a, nil
}

// needIdentity reads an identity that the caller says exists.
func (b *backend) needIdentity(ctx context.Context, name string) (*identityRecord, *identity.Manifest, error) {
	r, err := b.store.identity(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, unknown("there is no identity %q: list identities/ for those there are", name)
	}
	m, err := r.open(name)
	if err != nil {
		return nil, nil, err
	}
	return r, m, nil
}

// needAuthenticator reads an authenticator that the caller says exists.
func (b *backend) needAuthenticator(ctx context.Context, name string) (*authenticatorRecord, *identity.Authenticator, error) {
	r, err := b.store.authenticator(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, unknown("there is no authenticator %q: list authenticators/ for those there are", name)
	}
	a, err := r.open(name)
	if err != nil {
		return nil, nil, err
	}
	return r, a, nil
}

// needAsset reads an asset that the caller says exists.
func (b *backend) needAsset(ctx context.Context, m *identity.Manifest, name string) (*assetRecord, *identity.Asset, error) {
	r, err := b.store.asset(ctx, m.Identity, name)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, unknown("identity %q has no asset %q: list identities/%s/assets for those there are", m.Name, name, m.Name)
	}
	a, err := r.open(m, name)
	if err != nil {
		return nil, nil, err
	}
	return r, a, nil
}

// identityByID finds an identity by its ID; an empty name and nil where there is
// none.
func (b *backend) identityByID(ctx context.Context, id identity.ID) (name string, r *identityRecord, err error) {
	names, err := b.store.sorted(ctx, prefixIdentities)
	if err != nil {
		return "", nil, err
	}
	for _, name := range names {
		f, err := b.identityFacts(ctx, name)
		var damaged *damagedError
		if errors.As(err, &damaged) { // it is told to whoever asks for it by name
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if f == nil || f.ID != id {
			continue
		}
		r, err := b.store.identity(ctx, name)
		if err != nil || r == nil {
			return "", nil, err
		}
		return name, r, nil
	}
	return "", nil, nil
}

// identityForCustody finds the identity that holds an account's custody key.
func (b *backend) identityForCustody(ctx context.Context, c *custodyRecord) (name string, r *identityRecord, err error) {
	id, err := identity.ParseID(c.Identity)
	if err != nil {
		return "", nil, err
	}
	name, r, err = b.identityByID(ctx, id)
	if err == nil && r == nil {
		err = conflict("the identity %s that holds the account's custody key is not in storage, or cannot be read: restore it from a backup of Vault's storage", c.Identity)
	}
	return name, r, err
}

// assetForCustody finds the asset that holds an account's custody key, and its
// identity. Under lockIdentity of that name both stay as they are.
func (b *backend) assetForCustody(ctx context.Context, c *custodyRecord) (name string, m *identity.Manifest, a *identity.Asset, err error) {
	var before uint64
	for {
		if name, m, a, err = b.findCustody(ctx, c); err == nil || m == nil || m.Generation == before {
			return name, m, a, err
		}
		// Manifest and asset were read at two moments, and may have been changed
		// together in between: they do not fit then.
		before = m.Generation
	}
}

// findCustody also returns the manifest with an error about the asset.
func (b *backend) findCustody(ctx context.Context, c *custodyRecord) (name string, m *identity.Manifest, a *identity.Asset, err error) {
	name, r, err := b.identityForCustody(ctx, c)
	if err != nil {
		return "", nil, nil, err
	}
	if m, err = r.open(name); err != nil {
		return name, nil, nil, err
	}
	all, err := b.assetsOf(ctx, m)
	if err != nil {
		return name, m, nil, err
	}
	for _, f := range all {
		if f.ID.String() == c.Asset {
			_, a, err = b.needAsset(ctx, m, f.Name)
			return name, m, a, err
		}
	}
	return name, m, nil, conflict("identity %q has no asset %s any more, which held the account's custody key: restore it from a backup of Vault's storage", name, c.Asset)
}

// checkIdentityActive is a 409 where the identity is frozen.
func checkIdentityActive(name string, r *identityRecord) error {
	if r.Frozen == nil {
		return nil
	}
	why := ""
	if r.Frozen.Reason != "" {
		why = " (" + r.Frozen.Reason + ")"
	}
	return conflict("identity %q has been frozen since %s%s: nothing was changed; vault write -force <mount>/identities/%s/unfreeze ends that", name, rfc3339(r.Frozen.Time), why, name)
}

// onlyOperation refuses a write for which Vault asked for the other capability:
// the object came or went since.
func onlyOperation(req *logical.Request, exists bool, what, name string) error {
	switch {
	case exists && req.Operation == logical.CreateOperation:
		return conflict("%s %q was created meanwhile: nothing was changed; read it again", what, name)
	case !exists && req.Operation == logical.UpdateOperation:
		return conflict("%s %q was deleted meanwhile: nothing was changed", what, name)
	}
	return nil
}
