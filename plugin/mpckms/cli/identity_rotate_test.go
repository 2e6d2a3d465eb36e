package cli

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/identity"
)

// TestRotateGoesOnAfterEveryFailure cuts a rotation off at every write, before and
// after it is done, and runs it again: everybody opens what they opened, and the
// custody key is replaced where that was asked for.
func TestRotateGoesOnAfterEveryFailure(t *testing.T) {
	for _, custody := range []bool{false, true} {
		for k := 1; ; k++ {
			failed := false
			for _, afterDone := range []bool{false, true} {
				t.Run(fmt.Sprintf("custody %v, write %d, done %v", custody, k, afterDone), func(t *testing.T) {
					r := newRecords()
					ada, drawer, ben := company(t, r)
					inForce := furnish(t, ada)
					r.writes, r.failAt, r.afterDone = 0, k, afterDone
					nodes := &shares{inForce: inForce}
					again := func() (*rotateDoc, error) {
						h := drawer.hold(t, "acme")
						nodes.h = h
						x := &resetting{holder: h, custody: nodes}
						return x.rotate(t.Context(), nil, custody)
					}
					doc, err := again()
					interrupted := err != nil
					if interrupted {
						failed = true
						if doc, err = again(); err != nil {
							t.Fatalf("the second run: %v", err)
						}
					}
					checkRotated(t, drawer, ben, nodes)
					checkRotated(t, ada, ben, nodes) // no grant is gone
					replaced := !bytes.Equal(nodes.inForce, inForce)
					if custody && !replaced || !custody && !interrupted && replaced || replaced && nodes.opens == 0 {
						t.Errorf("the custody key was replaced: %v, %d times", replaced, nodes.opens)
					}
					if !interrupted && (len(doc.Roles) != 3 || len(doc.Assets) != 3 || (len(doc.Accounts) == 1) != custody || doc.Generation == 0 || len(doc.Change) != 0) {
						t.Errorf("reported: %+v", doc)
					}
				})
			}
			if !failed {
				if k < 5 {
					t.Errorf("a rotation has %d writes", k-1)
				}
				break
			}
		}
	}
}

// checkRotated: nothing is pending, every role has newer keys and everything opens.
func checkRotated(t *testing.T, who, ben *user, nodes *shares) {
	t.Helper()
	h := who.hold(t, "acme")
	if p := pendingRoles(h.opened.Manifest); len(p) > 0 {
		t.Errorf("still pending: %v", p)
	}
	for _, role := range h.opened.Manifest.Roles {
		if role.Generation < 2 {
			t.Errorf("role %s is at generation %d", role.Name, role.Generation)
		}
	}
	opens := func(h *holder, name string) {
		t.Helper()
		a, _, err := h.asset(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := h.opened.AssetValue(a, defaultKey); err != nil || string(v.Expose()) != "value of "+name || identity.Stale(h.opened.Manifest, a) {
			t.Errorf("%s after the rotation: %v", name, err)
		}
	}
	opens(h, "dns")
	opens(h, "safe")
	opens(ben.hold(t, "acme"), "dns")
	a, _, err := h.asset(t.Context(), "gold")
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.custodyKey(a, identity.CustodyKey)
	if err != nil || len(a.Keys) != 1 || !bytes.Equal(key.PublicKey().Bytes(), nodes.inForce) {
		t.Errorf("the asset does not hold the custody key in force: %v", err)
	}
}

// TestRotateOne: the other roles keep their keys, and who does not open a role does
// not rotate it.
func TestRotateOne(t *testing.T) {
	r := newRecords()
	ada, _, ben := company(t, r)
	nodes := &shares{inForce: furnish(t, ada)}
	rotate := func(u *user, roles ...string) (*rotateDoc, error) {
		h := u.hold(t, "acme")
		nodes.h = h
		return (&resetting{holder: h, custody: nodes}).rotate(t.Context(), roles, false)
	}
	doc, err := rotate(ada, "web")
	if err != nil || fmt.Sprint(doc.Roles, doc.Assets, doc.Accounts) != "[web] [acme/dns] []" {
		t.Fatalf("%+v, %v", doc, err)
	}
	m := ada.hold(t, "acme").opened.Manifest
	if m.Role("web").Generation != 2 || m.Role("treasury").Generation != 1 || m.Role("owner").Generation != 1 {
		t.Errorf("roles: %+v", m.Roles)
	}
	before := m.Generation
	var refused *refusal
	if _, err := rotate(ben); !errors.As(err, &refused) {
		t.Errorf("ben rotates roles that he does not open: %v", err)
	}
	if _, err := rotate(ben, "web"); err == nil {
		t.Error("ben changes an identity without the owner role")
	}
	if _, err := rotate(ada, "nothing"); !errors.As(err, &refused) {
		t.Errorf("a role that is not there: %v", err)
	}
	if m := ada.hold(t, "acme").opened.Manifest; m.Generation != before {
		t.Error("a refusal has changed the identity")
	}
}
