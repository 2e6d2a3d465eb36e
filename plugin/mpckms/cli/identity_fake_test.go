package cli

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// records is a server that keeps records and nothing else, by the rules of package
// identity. Every write can be made to fail, before it is done or after it.
type records struct {
	manifests map[string]*identity.SignedManifest
	assets    map[string]map[string]*identity.SignedAsset
	// show, where not nil, may put another answer in the place of a read.
	show map[string]any
	// lost are authenticators that nothing may be sealed to any more.
	lost map[identity.ID]bool
	// meanwhile, where not nil, happens once before the next manifest is written.
	meanwhile func()

	writes    int
	failAt    int  // 0: never
	afterDone bool // fail although the write was done
}

func newRecords() *records {
	return &records{manifests: map[string]*identity.SignedManifest{}, assets: map[string]map[string]*identity.SignedAsset{}, show: map[string]any{}}
}

var errLineCut = &keyholder.Refusal{Status: http.StatusBadGateway, Messages: []string{"the line was cut"}}

// writing counts a write and does it unless it is to fail first.
func (r *records) writing(do func() error) error {
	r.writes++
	fail := r.writes == r.failAt
	if fail && !r.afterDone {
		return errLineCut
	}
	if err := do(); err != nil {
		return err
	}
	if fail {
		return errLineCut
	}
	return nil
}

func refuse(status int, text string) error {
	return &keyholder.Refusal{Status: status, Messages: []string{text}}
}

// Call implements keyholder.Caller.
func (r *records) Call(_ context.Context, op keyholder.Op, path string, in map[string]any, out any) error {
	parts := strings.Split(path, "/")
	if parts[0] != "identities" || len(parts) < 2 {
		return refuse(http.StatusForbidden, "not in a session")
	}
	name := parts[1]
	if r.manifests[name] == nil && op != keyholder.Write {
		return refuse(http.StatusNotFound, "there is no identity of that name")
	}
	switch {
	case op == keyholder.Read:
		var answer any
		if len(parts) == 2 {
			answer = r.manifests[name]
		} else if s := r.assets[name][parts[3]]; s != nil {
			answer = s
		}
		if other, ok := r.show[path]; ok {
			answer = other
		}
		if answer == nil {
			return refuse(http.StatusNotFound, "there is no asset of that name")
		}
		return through(answer, out)
	case op == keyholder.List:
		var names []string
		for n := range r.assets[name] {
			names = append(names, n)
		}
		return through(map[string]any{"keys": names}, out)
	case op == keyholder.Delete:
		return r.writing(func() error { delete(r.assets[name], parts[3]); return nil })
	case len(parts) == 2:
		if do := r.meanwhile; do != nil {
			r.meanwhile = nil
			do()
		}
		return r.writing(func() error { return r.putManifest(name, in) })
	}
	return r.writing(func() error { return r.putAsset(name, parts[3], in) })
}

func through(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil || to == nil {
		return err
	}
	return json.Unmarshal(b, to)
}

func (r *records) putManifest(name string, in map[string]any) error {
	s := &identity.SignedManifest{}
	if err := through(in, s); err != nil {
		return err
	}
	m, err := s.Verify()
	if before := r.manifests[name]; err == nil && before != nil {
		_, err = s.VerifyNext(before)
	}
	if err != nil || m.Name != name {
		return refuse(http.StatusConflict, "read it again")
	}
	for _, g := range m.Grants {
		if !r.lost[g.Authenticator] {
			continue
		}
		before, err := r.manifests[name].Verify()
		if err != nil {
			return err
		}
		if was := before.Grant(g.Authenticator); was == nil || !reflect.DeepEqual(*was, g) {
			return refuse(http.StatusConflict, "nothing may be sealed to a lost authenticator")
		}
	}
	for _, signed := range r.assets[name] {
		if _, err := signed.Verify(m); err != nil {
			return refuse(http.StatusConflict, "an asset needs the past keys")
		}
		a, _ := signed.Verify(m)
		for _, role := range m.Roles {
			if role.Past == nil && slices.Contains(a.Roles(), role.Name) {
				for _, k := range a.Keys {
					for _, sealed := range k.Sealed {
						if sealed.Role == role.Name && sealed.Generation != role.Generation {
							return refuse(http.StatusConflict, "an asset needs the past keys")
						}
					}
				}
			}
		}
	}
	r.manifests[name] = s
	return nil
}

func (r *records) putAsset(name, asset string, in map[string]any) error {
	s := &identity.SignedAsset{}
	if err := through(in, s); err != nil {
		return err
	}
	m, err := r.manifests[name].Verify()
	if err != nil {
		return err
	}
	a, err := s.Verify(m)
	if err != nil || a.Name != asset || identity.Stale(m, a) {
		return refuse(http.StatusBadRequest, "the asset does not verify")
	}
	if r.assets[name] == nil {
		r.assets[name] = map[string]*identity.SignedAsset{}
	}
	if before := r.assets[name][asset]; before != nil {
		b, err := before.Verify(m)
		if err != nil {
			return err
		}
		if err := a.Follows(b); err != nil {
			return refuse(http.StatusConflict, err.Error())
		}
	}
	r.assets[name][asset] = s
	return nil
}

// user is somebody with one authenticator and a home.
type user struct {
	*records
	record *identity.Authenticator
	keys   *identity.Keys
	home   *keyholder.Home
}

func newUser(t *testing.T, r *records, name string) *user {
	t.Helper()
	keys, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	home, err := keyholder.OpenHome(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := &identity.Authenticator{Format: 1, ID: identity.NewID(), Name: name, Method: identity.KeyFile, Keys: keys.Public(), KDF: identity.DefaultKDF(), Created: time.Now()}
	return &user{r, a, keys, home}
}

// OpenIdentity implements session, as keyholder.Session does.
func (u *user) OpenIdentity(ctx context.Context, name string) (*identity.Opened, error) {
	signed, err := keyholder.FetchManifest(ctx, u, name)
	if err != nil {
		return nil, err
	}
	pin, err := u.home.Pin(name)
	if err != nil {
		return nil, err
	}
	o, pin, err := identity.OpenIdentity(signed, pin, u.record.ID, u.keys)
	if err != nil {
		return nil, err
	}
	return o, u.home.SetPin(name, pin)
}

func (u *user) hold(t *testing.T, name string) *holder {
	t.Helper()
	h, err := u.tryHold(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (u *user) tryHold(t *testing.T, name string) (*holder, error) {
	h, err := hold(t.Context(), u, u.home, name)
	if err == nil {
		t.Cleanup(h.close)
	}
	return h, err
}

// company is an identity with two roles beside owner: ada and her drawer open
// everything, ben opens web.
func company(t *testing.T, r *records) (ada, drawer, ben *user) {
	t.Helper()
	ada, drawer, ben = newUser(t, r, "ada"), newUser(t, r, "ada-key"), newUser(t, r, "ben")
	signed, opened, err := identity.Create(identity.NewIdentity{Name: "acme", Kind: identity.Organization, Roles: []string{"web", "treasury"},
		Levels:        []identity.Level{{Name: fullLevel, Roles: []string{"owner", "web", "treasury"}}, {Name: "staff", Roles: []string{"web"}}},
		Authenticator: ada.record, Keys: ada.keys, Level: fullLevel, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	opened.Wipe()
	r.manifests["acme"] = signed
	h := ada.hold(t, "acme")
	err = h.change(t.Context(), "grant", false, identity.AddGrant{Authenticator: drawer.record, Level: fullLevel}, identity.AddGrant{Authenticator: ben.record, Level: "staff"})
	if err != nil {
		t.Fatal(err)
	}
	return ada, drawer, ben
}

func text64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func randomHexID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return identity.ID(b).String()
}
