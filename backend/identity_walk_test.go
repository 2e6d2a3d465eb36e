package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// TestIdentityWalk has clients do what comes to their mind, also what makes no
// sense, and looks after each request whether what is stored belongs together:
// every grant has its authenticator, every asset verifies and opens for whom it is,
// and nothing is sealed to an authenticator after it was lost.
func TestIdentityWalk(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	m := enrolled(t)
	alice := newPerson(m, "alice").store()
	people := map[string]*person{"alice": alice}
	for _, name := range []string{"bob", "carol", "dave"} {
		people[name] = newPerson(m, name).store()
	}
	alice.creates("home", "r0", "r1")
	roles, names := []string{"owner", "r0", "r1", "r2"}, []string{"bob", "carol", "dave"}
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	some := func() (out []string) {
		for _, role := range roles {
			if r.IntN(2) == 0 {
				out = append(out, role)
			}
		}
		return append(out, pick(roles))
	}
	counts := map[string]int{}
	for step := range 400 {
		rec := m.record2(t, "home")
		o := alice.opens(&rec.Signed)
		var change identity.Change
		what, path, body := "", "", map[string]any(nil)
		op := logical.Operation(logical.UpdateOperation)
		switch r.IntN(13) {
		case 0:
			what, change = "add role", identity.AddRole{Name: pick(roles)}
		case 1:
			what, change = "remove role", identity.RemoveRole{Name: pick(roles)}
		case 2, 3:
			what, change = "level", identity.SetLevel{Level: identity.Level{Name: pick([]string{"full", "l1", "l2"}), Roles: some()}}
		case 4:
			what, change = "grant", identity.AddGrant{Authenticator: people[pick(names)].a, Level: pick([]string{"full", "l1", "l2"})}
		case 5:
			what, change = "revoke", identity.RemoveGrant{Authenticator: people[pick(names)].a.ID, Force: r.IntN(2) == 0}
		case 6:
			what, change = "rotate", identity.RotateRoles{Roles: []string{pick(roles)}}
		case 7:
			what, change = "drop", identity.DropPast{Roles: []string{pick(roles)}}
		case 8:
			name := pick([]string{"x", "y", "z"})
			what, path = "put", "identities/home/assets/"+name
			a := o.NewAsset(name, identity.SecretAsset)
			if _, status, _ := m.do(logical.ReadOperation, path, nil); status == http.StatusOK {
				a = m.stored(o, name)
			}
			if s, err := o.WriteAsset(a, time.Now(), func(n *identity.Asset) error { return sealInto(o, n, "value", nil, []byte(name), some()) }); err == nil {
				body = assetBody(s)
			}
		case 9:
			what = "reseal"
			for _, name := range []string{"x", "y", "z"} {
				if _, status, _ := m.do(logical.ReadOperation, "identities/home/assets/"+name, nil); status != http.StatusOK {
					continue
				}
				if a := m.stored(o, name); identity.Stale(o.Manifest, a) {
					if s, err := o.Reseal(a, time.Now(), nil); err == nil {
						path, body = "identities/home/assets/"+name, assetBody(s)
					}
				}
			}
		case 10:
			what, op, path, body = "delete asset", logical.DeleteOperation, "identities/home/assets/"+pick([]string{"x", "y", "z"}), map[string]any{}
		case 11:
			what, path, body = "lost or found", "authenticators/"+pick(names)+"/"+pick([]string{"lost", "found"}), map[string]any{}
		case 12:
			what, op, path, body = "delete authenticator", logical.DeleteOperation, "authenticators/"+pick(names), map[string]any{}
		}
		if change != nil {
			if s, err := o.Change(time.Now(), change); err == nil {
				path, body = "identities/home", manifestBody(s)
				body["force"] = r.IntN(2) == 0
			}
		}
		if body == nil {
			continue // the client itself refuses
		}
		_, status, msg := m.do(op, path, body)
		if status >= http.StatusInternalServerError {
			t.Fatalf("seed %d, step %d, %s: %d %s", seed, step, what, status, msg)
		}
		counts[fmt.Sprintf("%s %d", what, status)]++
		if op == logical.DeleteOperation && status == http.StatusOK && what == "delete authenticator" {
			for _, name := range names { // others of the name come
				if entry, err := m.storage.Get(t.Context(), prefixAuthentic+name); err == nil && entry == nil {
					people[name] = newPerson(m, name).store()
				}
			}
		}
		if err := m.belongs(t, rec, people); err != nil {
			t.Fatalf("seed %d, step %d, %s, answered by %d %s: %v", seed, step, what, status, msg, err)
		}
	}
	for _, want := range []string{"grant 200", "grant 409", "rotate 200", "drop 200", "drop 409", "put 200", "reseal 200", "delete authenticator 409", "delete authenticator 200", "level 200", "revoke 200"} {
		if counts[want] == 0 {
			t.Logf("seed %d: never came to %s: %v", seed, want, counts)
		}
	}
	if counts["put 200"] == 0 || counts["level 200"] == 0 {
		t.Errorf("seed %d: next to nothing was done: %v", seed, counts)
	}
}

// belongs checks what is stored, given the record before.
func (m *mount) belongs(t *testing.T, before *identityRecord, people map[string]*person) error {
	t.Helper()
	rec := m.record2(t, "home")
	manifest, err := rec.open("home")
	if err != nil {
		return err
	}
	old, err := before.open("home")
	if err != nil {
		return err
	}
	var opened []*identity.Opened
	for _, g := range manifest.Grants {
		r, err := m.b.store.authenticator(t.Context(), g.Name)
		if err != nil || r == nil || r.ID != g.Authenticator.String() {
			return fmt.Errorf("%s is granted %s and is not there: %v", g.Name, g.Level, err)
		}
		o, _, err := identity.OpenIdentity(&rec.Signed, identity.Pin{}, g.Authenticator, people[g.Name].keys)
		if err != nil {
			return fmt.Errorf("%s does not open: %w", g.Name, err)
		}
		opened = append(opened, o)
		if r.Lost == nil {
			continue
		}
		was := old.Grant(g.Authenticator)
		for _, s := range g.Sealed {
			kept := was != nil
			if kept {
				kept = false
				for _, b := range was.Sealed {
					kept = kept || string(b.Sealed) == string(s.Sealed)
				}
			}
			if !kept {
				return fmt.Errorf("role %s was sealed to %s, which is lost", s.Role, g.Name)
			}
		}
	}
	names, err := m.b.store.assetNames(t.Context(), manifest.Identity)
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := m.b.store.asset(t.Context(), manifest.Identity, name)
		if err != nil {
			return err
		}
		a, err := r.open(manifest, name)
		if err != nil {
			return err
		}
		for _, o := range opened {
			may := false
			for _, k := range a.Key("value").Sealed {
				may = may || o.Roles[k.Role] != nil
			}
			v, err := o.AssetValue(a, "value")
			if may && (err != nil || string(v.Expose()) != name) {
				return fmt.Errorf("asset %s does not open: %w", name, err)
			}
			if !may && err == nil {
				return errors.New("asset " + name + " opens for somebody whom it is not for")
			}
		}
	}
	return nil
}
