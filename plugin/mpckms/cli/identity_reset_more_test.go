package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// brokenShares are those of an account that is gone or whose nodes are down.
type brokenShares struct{ err error }

func (s brokenShares) InForce(context.Context, *identity.Asset) (string, []byte, error) {
	return "", nil, s.err
}

func (s brokenShares) Replace(context.Context, string, *identity.Asset) error {
	return errors.New("replaced what is not there")
}

// TestResetOfSeveral: a bag with two authenticators in it is lost. Both were
// reported, so that the server takes nothing that is sealed to either, and they
// opened different roles.
func TestResetOfSeveral(t *testing.T) {
	r := newRecords()
	ada, drawer, ben := company(t, r)
	inForce := furnish(t, ada)
	carl := newUser(t, r, "carl")
	err := ada.hold(t, "acme").change(t.Context(), "grant", false, identity.SetLevel{Level: identity.Level{Name: "safe", Roles: []string{"treasury"}}},
		identity.AddGrant{Authenticator: carl.record, Level: "safe"})
	if err != nil {
		t.Fatal(err)
	}
	r.lost = map[identity.ID]bool{ben.record.ID: true, carl.record.ID: true}
	h := drawer.hold(t, "acme")
	x := &resetting{holder: h, custody: &shares{h: h, inForce: inForce}}
	if err := x.run(t.Context(), "ben", "carl"); err != nil {
		t.Fatal(err)
	}
	slices.Sort(x.doc.Roles)
	if m := x.opened.Manifest; grantOf(m, "ben") != nil || grantOf(m, "carl") != nil || fmt.Sprint(x.doc.Roles) != "[treasury web]" || len(pendingRoles(m)) > 0 {
		t.Errorf("%+v", x.doc)
	}
	if len(x.doc.Change) != 2 {
		t.Errorf("to change: %v", x.doc.Change)
	}
	if err := x.run(t.Context(), "ada", "ben"); err == nil || !strings.Contains(err.Error(), `"ben" has no grant`) || grantOf(x.opened.Manifest, "ada") == nil {
		t.Errorf("one that has no grant: %v", err)
	}
}

// TestResetOfRoles: a grant that was revoked, and only then known to be lost.
func TestResetOfRoles(t *testing.T) {
	r := newRecords()
	ada, drawer, ben := company(t, r)
	furnish(t, ada)
	if err := drawer.hold(t, "acme").change(t.Context(), "revoke", false, identity.RemoveGrant{Authenticator: ben.record.ID}); err != nil {
		t.Fatal(err)
	}
	for _, failAt := range []int{2, 0} { // cut off, and again
		r.writes, r.failAt = 0, failAt
		x := &resetting{holder: drawer.hold(t, "acme"), roles: []string{"web"}}
		err := x.run(t.Context())
		if (err != nil) != (failAt > 0) {
			t.Fatal(err)
		}
		if web := x.opened.Manifest.Role("web"); web.Generation != 2 || (web.Past == nil) != (failAt == 0) {
			t.Errorf("role web at generation %d, past %v", web.Generation, web.Past != nil)
		}
	}
	x := &resetting{holder: drawer.hold(t, "acme"), roles: []string{"nothing"}}
	if err := x.run(t.Context()); err == nil || !strings.Contains(err.Error(), "no role") {
		t.Errorf("a role that is not there: %v", err)
	}
}

// TestResetWithAnAccountThatIsGone: an asset may outlive its account. It must not
// keep the reset, and every later one, from its end.
func TestResetWithAnAccountThatIsGone(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	custody := furnish(t, ada)
	h := drawer.hold(t, "acme")
	a, _, err := h.asset(t.Context(), "gold")
	if err != nil {
		t.Fatal(err)
	}
	// Its custody key was being replaced when it was destroyed.
	signed, err := h.opened.ReplaceCustody(a, h.now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store(t.Context(), "gold", signed); err != nil {
		t.Fatal(err)
	}
	x := &resetting{holder: h, custody: brokenShares{refusedBy("find it", errNoAccount)}}
	if err := x.run(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	after, _, err := x.asset(t.Context(), "gold")
	if err != nil || identity.Stale(x.opened.Manifest, after) || !bytes.Equal(after.Key(identity.CustodyKey).Public, custody) || len(pendingRoles(x.opened.Manifest)) > 0 {
		t.Errorf("%v: %+v", err, after)
	}
	if _, err := x.custodyKey(after, identity.CustodyKey); err != nil {
		t.Error(err)
	}
	if fmt.Sprint(x.doc.Untied) != "[acme/gold]" {
		t.Errorf("%+v", x.doc)
	}
}

// TestResetMovesWhatItCan: an account that cannot be refreshed now leaves no other
// asset under keys that were lost, and the old keys stay until it can be.
func TestResetMovesWhatItCan(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	inForce := furnish(t, ada)
	h := drawer.hold(t, "acme")
	x := &resetting{holder: h, custody: brokenShares{errors.New("too few nodes")}}
	err := x.run(t.Context(), "ada")
	if err == nil || !strings.Contains(err.Error(), "acme/gold") || !strings.Contains(err.Error(), "too few nodes") {
		t.Fatalf("the reset of an account without nodes: %v", err)
	}
	if len(pendingRoles(x.opened.Manifest)) != 3 {
		t.Error("old keys were dropped that an asset needs")
	}
	for _, name := range []string{"dns", "safe"} {
		a, _, err := x.asset(t.Context(), name)
		if err != nil || identity.Stale(x.opened.Manifest, a) {
			t.Errorf("%s is under the old keys: %v", name, err)
		}
	}
	x = &resetting{holder: h, custody: &shares{h: h, inForce: inForce}}
	if err := x.run(t.Context(), "ada"); err != nil || len(pendingRoles(x.opened.Manifest)) > 0 {
		t.Errorf("once the nodes are back: %v", err)
	}
}

// TestResetWhileAnotherOwnerGrantsMore: what the lost authenticator got between
// the reset's reading and its writing is replaced as well.
func TestResetWhileAnotherOwnerGrantsMore(t *testing.T) {
	r := newRecords()
	ada, drawer, ben := company(t, r)
	other := ada.hold(t, "acme")
	if _, err := other.put(t.Context(), "safe", defaultKey, secret.New([]byte("gold bars")), []string{"treasury"}, "", false); err != nil {
		t.Fatal(err)
	}
	r.meanwhile = func() {
		level := identity.Level{Name: "staff", Roles: []string{"web", "treasury"}}
		if err := other.change(t.Context(), "set level", false, identity.SetLevel{Level: level}); err != nil {
			t.Error(err)
		}
	}
	x := &resetting{holder: drawer.hold(t, "acme")}
	if err := x.run(t.Context(), "ben"); err != nil {
		t.Fatal(err)
	}
	if g := x.opened.Manifest.Role("treasury").Generation; g != 2 || len(x.doc.Change) != 1 {
		t.Errorf("role treasury, which ben opened meanwhile, is at generation %d; to change: %v", g, x.doc.Change)
	}
	_ = ben
}

// TestResetWhileAnotherOwnerRevokes: without the keys being replaced.
func TestResetWhileAnotherOwnerRevokes(t *testing.T) {
	r := newRecords()
	ada, drawer, ben := company(t, r)
	furnish(t, ada)
	other := ada.hold(t, "acme")
	r.meanwhile = func() {
		if err := other.change(t.Context(), "revoke", false, identity.RemoveGrant{Authenticator: ben.record.ID}); err != nil {
			t.Error(err)
		}
	}
	x := &resetting{holder: drawer.hold(t, "acme")}
	if err := x.run(t.Context(), "ben"); err != nil {
		t.Fatal(err)
	}
	if g := x.opened.Manifest.Role("web").Generation; g != 2 {
		t.Errorf("role web is at generation %d", g)
	}
}

// TestTwoOwnersReset: each takes another authenticator away at the same time.
func TestTwoOwnersReset(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	inForce := furnish(t, ada)
	carl := newUser(t, r, "carl")
	if err := ada.hold(t, "acme").change(t.Context(), "grant", false, identity.AddGrant{Authenticator: carl.record, Level: "staff"}); err != nil {
		t.Fatal(err)
	}
	h := ada.hold(t, "acme")
	nodes := &shares{h: h, inForce: inForce}
	r.meanwhile = func() { // cut off after its first write
		if err := h.change(t.Context(), "reset", false, identity.RemoveGrant{Authenticator: carl.record.ID}, identity.RotateRoles{Roles: []string{"web"}}); err != nil {
			t.Error(err)
		}
	}
	x := &resetting{holder: drawer.hold(t, "acme"), custody: nodes}
	if err := x.run(t.Context(), "ben"); err != nil {
		t.Fatal(err)
	}
	m := x.opened.Manifest
	if grantOf(m, "ben") != nil || grantOf(m, "carl") != nil || len(pendingRoles(m)) > 0 || m.Role("web").Generation != 3 {
		t.Errorf("web at generation %d, pending %v", m.Role("web").Generation, pendingRoles(m))
	}
}
