package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// shares stands for an account's nodes: they are sealed to one custody key, and
// who refreshes them must open that one. Like every write, a refresh can fail.
type shares struct {
	h       *holder
	inForce []byte
	opens   int
}

func (s *shares) InForce(context.Context, *identity.Asset) (string, []byte, error) {
	return "gold", s.inForce, nil
}

func (s *shares) Replace(_ context.Context, _ string, a *identity.Asset) error {
	r := s.h.session.(*user).records
	return r.writing(func() error {
		key, err := s.h.custodyKey(a, identity.CustodyKey)
		if err != nil {
			return err
		}
		if !bytes.Equal(key.PublicKey().Bytes(), s.inForce) {
			return errors.New("the shares do not open")
		}
		s.inForce = a.Key(identity.NextCustodyKey).Public
		s.opens++
		return nil
	})
}

// furnish gives acme two secrets and the custody key of an account.
func furnish(t *testing.T, ada *user) (custody []byte) {
	t.Helper()
	h := ada.hold(t, "acme")
	for name, role := range map[string]string{"dns": "web", "safe": "treasury"} {
		if _, err := h.put(t.Context(), name, defaultKey, secret.New([]byte("value of "+name)), []string{role}, "", false); err != nil {
			t.Fatal(err)
		}
	}
	a, err := h.custodyAsset(t.Context(), "gold", []string{"treasury"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.write(t.Context(), a, func(next *identity.Asset) error { next.Account = randomHexID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return a.Key(identity.CustodyKey).Public
}

// TestResetGoesOnAfterEveryFailure cuts a reset off at every write, before and
// after it is done, and runs it again: nothing is lost, and in the end the lost
// authenticator opens nothing.
func TestResetGoesOnAfterEveryFailure(t *testing.T) {
	for k := 1; ; k++ {
		failed := false
		for _, afterDone := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, done %v", k, afterDone), func(t *testing.T) {
				r := newRecords()
				ada, drawer, ben := company(t, r)
				inForce := furnish(t, ada)
				old := r.assets["acme"]["gold"]
				stolen, err := identity.NewKeys(ada.keys.Seed())
				if err != nil {
					t.Fatal(err)
				}
				r.writes, r.failAt, r.afterDone = 0, k, afterDone

				nodes := &shares{inForce: inForce}
				again := func() (*resetting, error) {
					h := drawer.hold(t, "acme")
					nodes.h = h
					x := &resetting{holder: h, custody: nodes}
					return x, x.run(t.Context(), "ada")
				}
				if _, err := again(); err != nil {
					failed = true
					if x, err := again(); err != nil {
						// The last write was done, and only its answer lost.
						var refused *refusal
						if !errors.As(err, &refused) || len(pendingRoles(x.opened.Manifest)) > 0 || grantOf(x.opened.Manifest, "ada") != nil {
							t.Fatalf("the second run: %v", err)
						}
					}
				}
				checkReset(t, r, drawer, ben, nodes)

				// The thief has ada's keys and every record there is now.
				o, _, err := identity.OpenIdentity(r.manifests["acme"], identity.Pin{}, ada.record.ID, stolen)
				if !errors.Is(err, identity.ErrNotGranted) || o != nil {
					t.Errorf("the lost authenticator opens the identity: %v", err)
				}
				if bytes.Equal(r.assets["acme"]["gold"].Asset, old.Asset) || nodes.opens != 1 {
					t.Errorf("the custody key was replaced %d times", nodes.opens)
				}
			})
		}
		if !failed {
			if k < 8 {
				t.Fatalf("a reset has %d writes only", k-1)
			}
			return
		}
	}
}

// TestResetOfAnEarlierLevel: who had an owner's authenticator may have lowered its level
// before it was reported, so that a reset by level leaves the role keys that he has,
// and may have granted another one something.
func TestResetOfAnEarlierLevel(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	nodes := &shares{inForce: furnish(t, ada)}
	if err := ada.hold(t, "acme").change(t.Context(), "hide", false, identity.SetGrant{Authenticator: ada.record.ID, Level: "staff"}); err != nil {
		t.Fatal(err)
	}
	h := drawer.hold(t, "acme")
	nodes.h = h
	x := &resetting{holder: h, custody: nodes}
	if err := x.run(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(x.doc.Roles, x.doc.Kept) != "[web] [owner treasury]" || len(x.doc.Open) != 2 || x.doc.Open[0].Authenticator != "ada-key" || x.doc.Open[1].Authenticator != "ben" {
		t.Errorf("the report of the reset: %+v", x.doc)
	}
	x = &resetting{holder: h, custody: nodes, roles: []string{"treasury", "owner", "web"}}
	if err := x.run(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(x.doc.Roles, x.doc.Kept) != "[owner treasury web] []" || nodes.opens != 1 {
		t.Errorf("the report of the second reset: %+v", x.doc)
	}
	if g := h.opened.Manifest.Role("treasury").Generation; g != 2 {
		t.Errorf("treasury is at generation %d", g)
	}
	x = &resetting{holder: h, custody: nodes, roles: []string{"nothing"}}
	if err := x.run(t.Context(), "ada"); err == nil {
		t.Error("a role that does not exist got new keys")
	}
}

// TestResetDropsBegunReplacements: who is shut out may have begun to replace the
// custody key, or have shown the old one as its own successor. None of the keys that
// he knew is in force after the reset.
func TestResetDropsBegunReplacements(t *testing.T) {
	for what, refreshed := range map[string]bool{"begun": false, "begun and refreshed": true} {
		for _, swap := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, swapped %v", what, swap), func(t *testing.T) {
				r := newRecords()
				ada, drawer, ben := company(t, r)
				nodes := &shares{inForce: furnish(t, ada)}
				h := ada.hold(t, "acme")
				a, _, err := h.asset(t.Context(), "gold")
				if err != nil {
					t.Fatal(err)
				}
				known := map[string]bool{string(nodes.inForce): true}
				signed, err := h.opened.ReplaceCustody(a, h.now(), nil)
				if err == nil {
					err = h.store(t.Context(), "gold", signed)
				}
				if err == nil {
					a, _, err = h.asset(t.Context(), "gold")
				}
				if err != nil {
					t.Fatal(err)
				}
				known[string(a.Key(identity.NextCustodyKey).Public)] = true
				if refreshed {
					nodes.inForce = a.Key(identity.NextCustodyKey).Public
				}
				if swap {
					if err := h.write(t.Context(), a, func(next *identity.Asset) error {
						var made []*identity.AssetKey
						for from, to := range map[string]string{identity.CustodyKey: identity.NextCustodyKey, identity.NextCustodyKey: identity.CustodyKey} {
							value, err := h.opened.AssetValue(a, from)
							if err != nil {
								return err
							}
							k, err := identity.SealAssetKey(h.opened.Manifest, a, to, a.Key(from).Public, value, []string{"treasury"})
							if err != nil {
								return err
							}
							made = append(made, k)
						}
						for _, k := range made {
							next.Put(*k)
						}
						return nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				h = drawer.hold(t, "acme")
				nodes.h = h
				x := &resetting{holder: h, custody: nodes}
				if err := x.run(t.Context(), "ada"); err != nil {
					t.Fatal(err)
				}
				checkReset(t, r, drawer, ben, nodes)
				if known[string(nodes.inForce)] {
					t.Error("the lost authenticator knows the custody key in force")
				}
			})
		}
	}
}

func checkReset(t *testing.T, r *records, drawer, ben *user, nodes *shares) {
	t.Helper()
	h := drawer.hold(t, "acme")
	if p := pendingRoles(h.opened.Manifest); len(p) > 0 {
		t.Errorf("still pending: %v", p)
	}
	for _, role := range h.opened.Manifest.Roles {
		if role.Generation != 2 {
			t.Errorf("role %s is at generation %d", role.Name, role.Generation)
		}
	}
	for _, name := range []string{"dns", "safe"} {
		a, _, err := h.asset(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := h.opened.AssetValue(a, defaultKey)
		if err != nil || string(v.Expose()) != "value of "+name {
			t.Errorf("%s after the reset: %v", name, err)
		}
	}
	a, _, err := h.asset(t.Context(), "gold")
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.custodyKey(a, identity.CustodyKey)
	if err != nil || len(a.Keys) != 1 || !bytes.Equal(key.PublicKey().Bytes(), nodes.inForce) {
		t.Errorf("the asset does not hold the custody key in force: %v", err)
	}
	b := ben.hold(t, "acme")
	x, _, err := b.asset(t.Context(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := b.opened.AssetValue(x, defaultKey); err != nil || string(v.Expose()) != "value of dns" {
		t.Errorf("another authenticator lost its access: %v", err)
	}
}

func TestResetRefusals(t *testing.T) {
	r := newRecords()
	ada, drawer, ben := company(t, r)
	furnish(t, ada)
	for _, x := range []struct {
		who        *user
		lost, says string
	}{
		{ada, "ada", "logged in with"},
		{ada, "nobody", "has no grant"},
		{ben, "ada", "does not open role owner"},
	} {
		before := r.writes
		err := (&resetting{holder: x.who.hold(t, "acme")}).run(t.Context(), x.lost)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(x.says)) || r.writes != before {
			t.Errorf("%s resets %s: %v, %d writes", x.who.record.Name, x.lost, err, r.writes-before)
		}
	}
	// Ben only ever opened web: nothing else changes.
	x := &resetting{holder: drawer.hold(t, "acme"), custody: nil}
	if err := x.run(t.Context(), "ben"); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(x.doc.Roles, x.doc.Change, x.doc.Accounts) != "[web] [{acme/dns value}] []" {
		t.Errorf("%+v", x.doc)
	}
}

// TestUntiedCustodyKeySurvivesReset: an account may have been made with a key
// whose asset does not name it yet.
func TestUntiedCustodyKeySurvivesReset(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	a, err := ada.hold(t, "acme").custodyAsset(t.Context(), "new", []string{"treasury"})
	if err != nil {
		t.Fatal(err)
	}
	x := &resetting{holder: drawer.hold(t, "acme")}
	if err := x.run(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	after, _, err := x.asset(t.Context(), "new")
	if err != nil || !bytes.Equal(after.Key(identity.CustodyKey).Public, a.Key(identity.CustodyKey).Public) || identity.Stale(x.opened.Manifest, after) {
		t.Errorf("%v: %+v", err, after)
	}
	if fmt.Sprint(x.doc.Untied) != "[acme/new]" {
		t.Errorf("%+v", x.doc)
	}
}
