//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// tokenlessCaller is keyholder's caller over Vault's own client, without a token.
type tokenlessCaller struct{ client *api.Client }

func (c tokenlessCaller) Call(ctx context.Context, op keyholder.Op, path string, in map[string]any, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if op != keyholder.Write {
		return &keyholder.Refusal{Status: http.StatusMethodNotAllowed}
	}
	resp, err := c.client.Logical().WriteRawWithContext(ctx, "mpc/"+path, raw)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || out == nil || len(answer.Data) == 0 {
		return err
	}
	return json.Unmarshal(answer.Data, out)
}

// noPrompter is a prompter that has nothing to say.
type noPrompter struct{ keyholder.Prompter }

func (noPrompter) Show(string) {}

// keysOf logs in as somebody with a key file and returns the keys that only he has.
func keysOf(t *testing.T, p *person) *identity.Keys {
	t.Helper()
	client, err := p.v.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.ClearToken()
	s, err := keyholder.Login(t.Context(), tokenlessCaller{client}, p.authenticator, identity.KeyFile, keyholder.KeyFile(noPrompter{}, filepath.Join(p.home, "key")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Wipe)
	keys, err := identity.NewKeys(s.Keys().Seed())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Wipe)
	return keys
}

// stolen is what who has all of Vault's storage sees of identities.
type stolen struct {
	manifests []*identity.Manifest
	assets    []*identity.Asset
	// sealed are all ciphertexts under somebody's public key.
	sealed [][]byte
}

func steal(t *testing.T, p *person) *stolen {
	t.Helper()
	s := &stolen{}
	byID := map[identity.ID]*identity.Manifest{}
	var assets []*identity.SignedAsset
	for _, key := range p.v.RawList(t, "mpc") {
		isManifest, isAsset := strings.HasPrefix(key, "identities/"), strings.HasPrefix(key, "assets/")
		if !isManifest && !isAsset {
			continue
		}
		raw := p.v.RawRead(t, "mpc", key)
		if isManifest {
			var r struct {
				Signed identity.SignedManifest `json:"signed"`
			}
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			m, err := r.Signed.Verify()
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			byID[m.Identity] = m
			s.manifests = append(s.manifests, m)
			for _, g := range m.Grants {
				for _, x := range g.Sealed {
					s.sealed = append(s.sealed, x.Sealed)
				}
			}
			for _, role := range m.Roles {
				if role.Past != nil {
					s.sealed = append(s.sealed, role.Past.Sealed)
				}
			}
			continue
		}
		var r struct {
			Signed identity.SignedAsset `json:"signed"`
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		assets = append(assets, &r.Signed)
	}
	for _, signed := range assets {
		for _, m := range s.manifests {
			if a, err := signed.Verify(m); err == nil {
				s.assets = append(s.assets, a)
				for _, k := range a.Keys {
					for _, x := range k.Sealed {
						s.sealed = append(s.sealed, x.Sealed)
					}
				}
			}
		}
	}
	if len(s.manifests) == 0 || len(s.assets) != len(assets) {
		t.Fatalf("%d manifests, %d of %d assets", len(s.manifests), len(s.assets), len(assets))
	}
	return s
}

// contexts are all that anything could be sealed in, whoever it is said to be for:
// a thief may put any ciphertext in any record's place.
func (s *stolen) contexts(identities []*identity.Manifest) (out []identity.Context) {
	for _, m := range identities {
		for _, role := range m.Roles {
			for gen := uint64(1); gen <= role.Generation; gen++ {
				for _, g := range m.Grants {
					out = append(out, identity.RoleSeedContext(m.Identity, role.Name, gen, g.Authenticator))
				}
				if gen > 1 {
					out = append(out, identity.PastSeedContext(m.Identity, role.Name, gen-1, gen))
				}
				for _, a := range s.assets {
					for _, k := range a.Keys {
						out = append(out, identity.AssetKeyContext(m.Identity, a.ID, k.Name, k.Generation, role.Name, gen))
					}
				}
			}
		}
	}
	return out
}

// opens tries every ciphertext with the key in every context, and with every key
// that it gives, until nothing new opens. It returns the roles and the asset keys
// that open, as IDENTITY/ROLE and ASSET#KEY.
func (s *stolen) opens(t *testing.T, keys *identity.Keys, identities ...*identity.Manifest) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	contexts := s.contexts(identities)
	for todo := []*identity.Keys{keys}; len(todo) > 0; todo = todo[1:] {
		for _, c := range contexts {
			for _, sealed := range s.sealed {
				seed, err := todo[0].Open(c, sealed)
				if err != nil {
					continue
				}
				next, err := identity.NewKeys(seed)
				if err != nil {
					t.Fatal(err)
				}
				known := false
				for _, m := range identities {
					for _, role := range m.Roles {
						if role.Keys.Equal(next.Public()) || role.Past != nil && role.Past.Keys.Equal(next.Public()) {
							name := m.Name + "/" + role.Name
							if known = true; !found[name] {
								found[name] = true
								todo = append(todo, next)
							}
						}
					}
				}
				for _, a := range s.assets {
					for _, k := range a.Keys {
						v, err := identity.Unwrap(seed, identity.AssetValueContext(a.Identity, a.ID, k.Name, k.Generation), k.Value)
						if err == nil {
							v.Wipe()
							known, found[a.Name+"#"+k.Name] = true, true
						}
					}
				}
				if !known {
					t.Error("something opened that is neither a role nor an asset's key")
				}
			}
		}
	}
	return found
}

func (s *stolen) manifest(t *testing.T, name string) *identity.Manifest {
	t.Helper()
	for _, m := range s.manifests {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no identity %s in storage", name)
	return nil
}

func same(t *testing.T, what string, got map[string]bool, want ...string) {
	t.Helper()
	for _, w := range want {
		if !got[w] {
			t.Errorf("%s do not open %s", what, w)
		}
		delete(got, w)
	}
	for g := range got {
		t.Errorf("%s open %s", what, g)
	}
}

// TestPermissionIsCryptographic: all that Vault has stored and the keys of one
// authenticator open what the authenticator is for, and nothing of other roles,
// whatever record one puts in another's place; and after a reset nothing at all.
func TestPermissionIsCryptographic(t *testing.T) {
	e := shared(t)
	_, drawer, ben := acme(t, e.Vault, "perm")
	drawer.operates(t, "identity", "create", "perm-2", "--kind", "person", "--role", "web")
	drawer.put(t, "perm-2/dns", "another dns token", "web")

	keys := map[string]*identity.Keys{"ben": keysOf(t, ben), "drawer": keysOf(t, drawer)}
	s := steal(t, ben)
	both := []*identity.Manifest{s.manifest(t, "perm"), s.manifest(t, "perm-2")}
	s.only(both)
	same(t, "ben's keys", s.opens(t, keys["ben"], both...), "perm/web", "dns#value")
	same(t, "the drawer's keys", s.opens(t, keys["drawer"], both...),
		"perm/owner", "perm/web", "perm/treasury", "perm-2/owner", "perm-2/web", "dns#value", "safe#value")

	drawer.does(t, "identity", "reset", "perm", "--lost", ben.authenticator)
	drawer.put(t, "perm/dns", "newer token")
	s = steal(t, ben)
	both = []*identity.Manifest{s.manifest(t, "perm")}
	s.only(both)
	same(t, "ben's keys after the reset", s.opens(t, keys["ben"], both...))
	same(t, "the drawer's keys after the reset", s.opens(t, keys["drawer"], both...), "perm/owner", "perm/web", "perm/treasury", "dns#value", "safe#value")
	ben.refused(t, []string{"perm"}, "secret", "show", "perm/dns")
	drawer.shows(t, "perm/dns", "newer token")
}

// only keeps the assets of these identities: the mount is shared with other tests.
func (s *stolen) only(identities []*identity.Manifest) {
	var kept []*identity.Asset
	s.sealed = nil
	for _, m := range identities {
		for _, g := range m.Grants {
			for _, x := range g.Sealed {
				s.sealed = append(s.sealed, x.Sealed)
			}
		}
		for _, role := range m.Roles {
			if role.Past != nil {
				s.sealed = append(s.sealed, role.Past.Sealed)
			}
		}
		for _, a := range s.assets {
			if a.Identity != m.Identity {
				continue
			}
			kept = append(kept, a)
			for _, k := range a.Keys {
				for _, x := range k.Sealed {
					s.sealed = append(s.sealed, x.Sealed)
				}
			}
		}
	}
	s.assets = kept
}
