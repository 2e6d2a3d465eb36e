package cli

import (
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/secret"
)

// TestHostileRecords: a server that swaps records, or goes back to older ones, is
// refused with an error that says so.
func TestHostileRecords(t *testing.T) {
	r := newRecords()
	ada, _, ben := company(t, r)
	furnish(t, ada)
	first, dns := r.manifests["acme"], r.assets["acme"]["dns"]
	h := ada.hold(t, "acme")
	if _, err := h.put(t.Context(), "dns", defaultKey, secret.New([]byte("newer")), nil, "", false); err != nil {
		t.Fatal(err)
	}
	if err := h.change(t.Context(), "revoke", false, identity.RemoveGrant{Authenticator: ben.record.ID}); err != nil {
		t.Fatal(err)
	}
	other, opened, err := identity.Create(identity.NewIdentity{Name: "acme", Kind: identity.Person, Authenticator: ada.record, Keys: ada.keys, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	opened.Wipe()
	for what, x := range map[string]struct {
		path string
		show any
		want error
	}{
		"an older manifest":               {"identities/acme", first, identity.ErrRolledBack},
		"another identity of that name":   {"identities/acme", other, identity.ErrRolledBack},
		"an older asset":                  {"identities/acme/assets/dns", dns, identity.ErrRolledBack},
		"another asset":                   {"identities/acme/assets/dns", r.assets["acme"]["safe"], identity.ErrSignature},
		"an asset with another signature": {"identities/acme/assets/dns", &identity.SignedAsset{Asset: dns.Asset, Signature: make([]byte, 64)}, identity.ErrSignature},
		"half a manifest":                 {"identities/acme", &identity.SignedManifest{Manifest: first.Manifest[:100], Signature: first.Signature}, identity.ErrRecord},
	} {
		t.Run(what, func(t *testing.T) {
			r.show = map[string]any{x.path: x.show}
			defer func() { r.show = nil }()
			h, err := ada.tryHold(t, "acme")
			if err == nil {
				_, _, err = h.asset(t.Context(), "dns")
			}
			var refused *refusal
			if !errors.Is(err, x.want) || !errors.As(err, &refused) || refused.advice == "" {
				t.Errorf("got %v, want %v with what to do", err, x.want)
			}
		})
	}
	if h, err := ada.tryHold(t, "acme"); err != nil {
		t.Fatal(err)
	} else if _, _, err := h.asset(t.Context(), "dns"); err != nil {
		t.Errorf("the honest server afterwards: %v", err)
	}
}

// TestColluderWritesForOthers: a hostile server with the keys of one role shows assets
// of other roles in its name. Nobody who has seen the asset takes them, and so puts no
// secret where that role reads it.
func TestColluderWritesForOthers(t *testing.T) {
	r := newRecords()
	ada, _, ben := company(t, r)
	furnish(t, ada)
	b := ben.hold(t, "acme") // opens web alone
	stored := r.assets["acme"]["safe"]
	honest, err := b.opened.OpenAsset(stored)
	if err != nil {
		t.Fatal(err)
	}
	forged := *honest
	forged.Generation, forged.Writer = honest.Generation+2, "web"
	k, err := identity.SealAssetKey(b.opened.Manifest, honest, defaultKey, nil, secret.New([]byte("ben's")), []string{"treasury", "web"})
	if err != nil {
		t.Fatal(err)
	}
	forged.Keys = []identity.AssetKey{*k}
	signed, err := identity.SignAsset(&forged, b.opened.Roles["web"])
	if err != nil {
		t.Fatal(err)
	}
	r.show = map[string]any{"identities/acme/assets/safe": signed}
	h := ada.hold(t, "acme")
	if _, _, err := h.asset(t.Context(), "safe"); !errors.Is(err, identity.ErrRolledBack) {
		t.Errorf("a forged asset: %v", err)
	}
	writes := r.writes
	if _, err := h.put(t.Context(), "safe", defaultKey, secret.New([]byte("for treasury")), nil, "", false); !errors.Is(err, identity.ErrRolledBack) || r.writes != writes {
		t.Errorf("a secret was put into a forged asset: %v", err)
	}
}

// TestCustodyKeyOfSomebodyElse: a custody key that is there before its account is
// taken only for the roles that are meant.
func TestCustodyKeyOfSomebodyElse(t *testing.T) {
	r := newRecords()
	ada, _, ben := company(t, r)
	if _, err := ben.hold(t, "acme").custodyAsset(t.Context(), "gold", []string{"web"}); err != nil {
		t.Fatal(err)
	}
	h := ada.hold(t, "acme")
	for _, roles := range [][]string{{"treasury"}, {"treasury", "web"}, nil} {
		if _, err := h.custodyAsset(t.Context(), "gold", roles); err == nil {
			t.Errorf("ben's custody key is taken for roles %v", roles)
		}
	}
	if _, err := h.custodyAsset(t.Context(), "gold", []string{"web", "web"}); err != nil {
		t.Errorf("for the roles that it is for: %v", err)
	}
}

// TestAnotherAccountsAsset: a server that shows the asset of one account for another,
// whose own ID and public key it shows too, does not get the custody key used.
func TestAnotherAccountsAsset(t *testing.T) {
	ada, _, _ := company(t, newRecords())
	furnish(t, ada)
	h := ada.hold(t, "acme")
	a, _, err := h.asset(t.Context(), "gold")
	if err != nil {
		t.Fatal(err)
	}
	if task, err := h.task("sign", &account{Name: "gold", ID: a.Account}, a, custody.Purpose{}); err != nil || task.key == nil || task.account != "gold" {
		t.Errorf("the account of the asset: %v", err)
	}
	var refused *refusal
	if task, err := h.task("sign", &account{Name: "silver", ID: randomHexID()}, a, custody.Purpose{}); !errors.Is(err, identity.ErrSignature) ||
		!errors.As(err, &refused) || refused.advice == "" || task.key != nil {
		t.Errorf("another account: %v", err)
	}
}

// TestChangeIsMadeAnew: two owners change the identity at once.
func TestChangeIsMadeAnew(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	one, two := ada.hold(t, "acme"), drawer.hold(t, "acme")
	if err := one.change(t.Context(), "add", false, identity.AddRole{Name: "mail"}); err != nil {
		t.Fatal(err)
	}
	if err := two.change(t.Context(), "add", false, identity.AddRole{Name: "phone"}); err != nil {
		t.Fatal(err)
	}
	m := drawer.hold(t, "acme").opened.Manifest
	if m.Role("mail") == nil || m.Role("phone") == nil {
		t.Error("one of the two changes is lost")
	}
	err := two.change(t.Context(), "add", false, identity.AddRole{Name: "phone"})
	if err == nil {
		t.Error("a role was added twice")
	}
}
