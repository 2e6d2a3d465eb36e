package backend

import (
	"context"
	"errors"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/identity"
)

// What the rules about identities ask of all records at once is kept in memory:
// small facts per record, taken from what verified, and dropped with every write.

// Bounds of the caches, in records. A fact has a few hundred bytes.
const maxCachedFacts = 1 << 16

// identityFacts is what others ask about an identity.
type identityFacts struct {
	ID     identity.ID
	Frozen bool
	Grants []grantFacts
}

type grantFacts struct {
	Authenticator identity.ID
	Level         string
	Roles         []string
}

// assetFacts is an asset without its ciphertext.
type assetFacts struct {
	ID               identity.ID
	Name             string
	Kind             identity.AssetKind
	Account          string
	Generation       uint64
	Writer           string
	WriterGeneration uint64
	Keys             []keyFacts
}

type keyFacts struct {
	Name       string
	Generation uint64
	Public     []byte
	Sealed     []roleGeneration
}

type roleGeneration struct {
	Role       string
	Generation uint64
}

// authenticatorFacts is what grants are compared with.
type authenticatorFacts struct {
	ID             identity.ID
	Method         identity.Method
	Keys           identity.PublicKeys
	ServerTrusting bool
	Lost           bool
}

// custodyFacts says whose custody key an account needs; nil for none.
type custodyFacts struct {
	AccountID string
	Custody   *custodyRecord
}

// facts are the caches. Their values are shared: nobody changes one.
type facts struct {
	identities     *cache[*identityFacts]      // by name
	assets         *cache[*assetFacts]         // by identity ID / name
	authenticators *cache[*authenticatorFacts] // by name
	custodies      *cache[*custodyFacts]       // by account name
}

func newFacts() *facts {
	return &facts{
		identities:     newCache[*identityFacts](maxCachedFacts),
		assets:         newCache[*assetFacts](maxCachedFacts),
		authenticators: newCache[*authenticatorFacts](maxCachedFacts),
		custodies:      newCache[*custodyFacts](maxCachedFacts),
	}
}

// forgetter is a cache of any type.
type forgetter interface {
	drop(key string)
	wrote(key string, failed bool)
}

// of returns the cache that a stored record is in, and its key there; nil for none.
func (f *facts) of(key string) (forgetter, string) {
	for prefix, c := range map[string]forgetter{
		prefixIdentities: f.identities, prefixAssets: f.assets, prefixAuthentic: f.authenticators, prefixAccounts: f.custodies,
	} {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			return c, rest
		}
	}
	return nil, ""
}

// invalidate drops what another server wrote.
func (f *facts) invalidate(key string) {
	if c, key := f.of(key); c != nil {
		c.drop(key)
	}
}

// written drops what this server wrote.
func (f *facts) written(key string, err error) {
	if c, key := f.of(key); c != nil {
		c.wrote(key, err != nil)
	}
}

// identityFacts returns nil for a name that is not taken.
func (b *backend) identityFacts(ctx context.Context, name string) (*identityFacts, error) {
	return b.store.facts.identities.get(name, func() (*identityFacts, bool, error) {
		r, err := b.store.identity(ctx, name)
		if err != nil || r == nil {
			return nil, false, err
		}
		m, err := r.open(name)
		if err != nil {
			return nil, false, err
		}
		f := &identityFacts{ID: m.Identity, Frozen: r.Frozen != nil}
		for _, g := range m.Grants {
			f.Grants = append(f.Grants, grantFacts{g.Authenticator, g.Level, slices.Clone(m.Level(g.Level).Roles)})
		}
		return f, true, nil
	})
}

// authenticatorFacts returns nil for a name that is not taken.
func (b *backend) authenticatorFacts(ctx context.Context, name string) (*authenticatorFacts, error) {
	return b.store.facts.authenticators.get(name, func() (*authenticatorFacts, bool, error) {
		r, err := b.store.authenticator(ctx, name)
		if err != nil || r == nil {
			return nil, false, err
		}
		a, err := r.open(name)
		if err != nil {
			return nil, false, err
		}
		return &authenticatorFacts{ID: a.ID, Method: a.Method, Keys: a.Keys, ServerTrusting: a.ServerTrusting(), Lost: r.Lost != nil}, true, nil
	})
}

// assetFactsOf takes the facts of an asset that verified.
func assetFactsOf(a *identity.Asset) *assetFacts {
	f := &assetFacts{
		ID: a.ID, Name: a.Name, Kind: a.Kind, Account: a.Account, Generation: a.Generation,
		Writer: a.Writer, WriterGeneration: a.WriterGeneration,
	}
	for _, k := range a.Keys {
		kf := keyFacts{Name: k.Name, Generation: k.Generation, Public: k.Public}
		for _, s := range k.Sealed {
			kf.Sealed = append(kf.Sealed, roleGeneration{s.Role, s.Generation})
		}
		f.Keys = append(f.Keys, kf)
	}
	return f
}

// assetsOf returns the facts of every asset of an identity, by name in order. The
// caller keeps the manifest as it is. An asset that cannot be read is an error:
// whether a role is still needed is not known then.
func (b *backend) assetsOf(ctx context.Context, m *identity.Manifest) ([]*assetFacts, error) {
	names, err := b.store.assetNames(ctx, m.Identity)
	if err != nil {
		return nil, err
	}
	var out []*assetFacts
	for _, name := range names {
		f, err := b.store.facts.assets.get(m.Identity.String()+"/"+name, func() (*assetFacts, bool, error) {
			r, err := b.store.asset(ctx, m.Identity, name)
			if err != nil || r == nil {
				return nil, false, err
			}
			a, err := r.open(m, name)
			if err != nil {
				return nil, false, err
			}
			return assetFactsOf(a), true, nil
		})
		if err != nil {
			return nil, err
		}
		if f != nil {
			out = append(out, f)
		}
	}
	return out, nil
}

// roles lists the roles that may use a key of the asset, ascending.
func (f *assetFacts) roles() []string {
	var out []string
	for _, k := range f.Keys {
		for _, s := range k.Sealed {
			out = append(out, s.Role)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// uses reports whether the asset is sealed to the role, or signed by it.
func (f *assetFacts) uses(role string) bool {
	return f.Writer == role || slices.Contains(f.roles(), role)
}

// behind returns the role of which the asset uses keys that are not the manifest's
// present ones; empty where there is none.
func (f *assetFacts) behind(m *identity.Manifest) string {
	if r := m.Role(f.Writer); r == nil || r.Generation != f.WriterGeneration {
		return f.Writer
	}
	for _, k := range f.Keys {
		for _, s := range k.Sealed {
			if r := m.Role(s.Role); r == nil || r.Generation != s.Generation {
				return s.Role
			}
		}
	}
	return ""
}

// needsPast reports whether the asset is signed by the role, or a key of it sealed to
// it, under other keys than the manifest's present ones.
func (f *assetFacts) needsPast(m *identity.Manifest, role string) bool {
	present := func(generation uint64) bool {
		r := m.Role(role)
		return r != nil && r.Generation == generation
	}
	if f.Writer == role && !present(f.WriterGeneration) {
		return true
	}
	return slices.ContainsFunc(f.Keys, func(k keyFacts) bool {
		return slices.ContainsFunc(k.Sealed, func(s roleGeneration) bool { return s.Role == role && !present(s.Generation) })
	})
}

// custodies lists the accounts whose custody key is in one of these assets. An
// account that cannot be read is an error: it may be one of them.
func (b *backend) custodies(ctx context.Context, match func(*custodyRecord) bool) (map[string]*custodyFacts, error) {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]*custodyFacts{}
	for _, name := range names {
		f, err := b.store.facts.custodies.get(name, func() (*custodyFacts, bool, error) {
			r, err := b.store.account(ctx, name)
			if err != nil || r == nil {
				return nil, false, err
			}
			return &custodyFacts{AccountID: r.ID, Custody: r.Custody}, true, nil
		})
		if err != nil {
			return nil, err
		}
		if f != nil && f.Custody != nil && match(f.Custody) {
			out[name] = f
		}
	}
	return out, nil
}

// grantedIn lists the identities that an authenticator is granted in, by name in
// order. Those that cannot be read are returned by name, too: it may be one of them.
func (b *backend) grantedIn(ctx context.Context, id identity.ID) (granted []grantedIdentity, unreadable []string, err error) {
	names, err := b.store.sorted(ctx, prefixIdentities)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		f, err := b.identityFacts(ctx, name)
		var damaged *damagedError
		switch {
		case errors.As(err, &damaged):
			unreadable = append(unreadable, name)
		case err != nil:
			return nil, nil, err
		case f != nil:
			for _, g := range f.Grants {
				if g.Authenticator == id {
					granted = append(granted, grantedIdentity{Name: name, ID: f.ID, Frozen: f.Frozen, Level: g.Level, Roles: g.Roles})
				}
			}
		}
	}
	return granted, unreadable, nil
}

// grantedIdentity is an identity as an authenticator opens it.
type grantedIdentity struct {
	Name   string
	ID     identity.ID
	Frozen bool
	Level  string
	Roles  []string
}
