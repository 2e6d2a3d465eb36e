package identity

import (
	"bytes"
	"testing"
)

// TestReset walks a reset: the lost authenticator opens nothing of what is there
// afterwards, the others everything, and each step can follow a crash.
func TestReset(t *testing.T) {
	alice, phone := newWho(t, "alice", Password), newWho(t, "alice-key", KeyFile)
	_, o := create(t, "alice", alice, "money", "mail")
	o = alice.change(t, o, SetLevel{Level{Name: "half", Roles: []string{"money"}}}, AddGrant{Authenticator: phone.a, Level: "half"})
	money, mail, account := put(t, o, "bank", "m1", "money"), put(t, o, "letters", "m2", "mail"), putAccount(t, o, "coins", "money", "owner")
	lost := phone.open(t, o.Signed)
	wantValue(t, lost, money, "value", "m1")

	o = alice.change(t, o, RotateRoles{[]string{"money"}}, RemoveGrant{Authenticator: phone.a.ID})
	_, _, err := OpenIdentity(o.Signed, Pin{}, phone.a.ID, phone.keys)
	wantError(t, "opening as the lost one", err, ErrNotGranted)
	_, err = o.Change(at, RotateRoles{[]string{"money"}})
	wantError(t, "rotating twice", err, ErrPending)

	m, l, c := verify(t, o, money), verify(t, o, mail), verify(t, o, account)
	if !Stale(o.Manifest, m) || Stale(o.Manifest, l) || !Stale(o.Manifest, c) {
		t.Fatal("the stale assets are others")
	}
	money2, err := o.Reseal(m, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	account2, err := o.Reseal(c, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, o, money2, "value", "m1")
	c2 := verify(t, o, account2)
	if Stale(o.Manifest, verify(t, o, money2)) || Stale(o.Manifest, c2) || !Pending(c2) || Pending(c) {
		t.Fatal("resealing did not move the assets")
	}
	if !bytes.Equal(c2.Key(CustodyKey).Public, c.Key(CustodyKey).Public) {
		t.Fatal("the custody key in force is another one before its account was refreshed")
	}
	next := c2.Key(NextCustodyKey).Public
	account3, err := o.PromoteCustody(c2, at)
	if err != nil {
		t.Fatal(err)
	}
	c3 := verify(t, o, account3)
	if Pending(c3) || !bytes.Equal(c3.Key(CustodyKey).Public, next) {
		t.Fatal("the successor is not the custody key")
	}
	if v, err := o.AssetValue(c3, CustodyKey); err != nil || !custodyPair(next, v) {
		t.Fatal("the custody key does not open:", err)
	}
	o = alice.change(t, o, DropPast{[]string{"money"}})
	if _, err := o.OpenAsset(money); err == nil {
		t.Error("the asset before the reset still verifies")
	}
	// What the lost one can do with all records and its old keys.
	for _, s := range []*SignedAsset{money2, account2, account3} {
		a := verify(t, o, s)
		for _, k := range a.Keys {
			for role, keys := range lost.Roles {
				for generation := range uint64(4) {
					if _, err := OpenAssetKey(a, k.Name, role, generation, keys); err == nil {
						t.Errorf("the lost authenticator opens key %s of %s", k.Name, a.Name)
					}
				}
			}
		}
	}
	if _, err := lost.OpenAsset(money2); err == nil {
		t.Error("an asset of after the reset verifies against the manifest before it")
	}
}
