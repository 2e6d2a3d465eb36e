package identity

import (
	"testing"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// TestHierarchy walks the hierarchy once: seeds, manifest, asset.
func TestHierarchy(t *testing.T) {
	owner, err := NewKeys(NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewKeys(NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	id, authID := IdentityID(owner.Public()), ID{1}
	sealed, err := Seal(auth.Public(), RoleSeedContext(id, OwnerRole, 1, authID), owner.Seed())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m := &Manifest{Format: 1, Identity: id, Name: "alice", Kind: Person, Generation: 1, Time: at,
		Roles:      []Role{{Name: OwnerRole, Generation: 1, Keys: owner.Public()}},
		Levels:     []Level{{Name: "full", Roles: []string{OwnerRole}}},
		Succession: []Succession{{Generation: 1, Keys: owner.Public()}},
		Grants: []Grant{{Authenticator: authID, Name: "alice-password", Kind: Password, Keys: auth.Public(), Level: "full", Granted: at,
			Sealed: []SealedRole{{Role: OwnerRole, Generation: 1, Sealed: sealed}}}}}
	signed, err := SignManifest(m, owner)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = signed.Verify(); err != nil {
		t.Fatal(err)
	}
	seed, err := auth.Open(RoleSeedContext(id, OwnerRole, 1, authID), m.Grants[0].Sealed[0].Sealed)
	if err != nil || !seed.Equal(owner.Seed()) {
		t.Fatal("the authenticator does not open the role:", err)
	}
	a := &Asset{Format: 1, Identity: id, ID: ID{2}, Name: "mail", Kind: SecretAsset, Generation: 1, Time: at, Writer: OwnerRole, WriterGeneration: 1}
	key, err := SealAssetKey(m, a, "password", nil, secret.Copy([]byte("hunter2")), []string{OwnerRole})
	if err != nil {
		t.Fatal(err)
	}
	a.Keys = []AssetKey{*key}
	sa, err := SignAsset(a, owner)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = sa.Verify(m); err != nil {
		t.Fatal(err)
	}
	value, err := OpenAssetKey(a, "password", OwnerRole, 1, owner)
	if err != nil || string(value.Expose()) != "hunter2" {
		t.Fatal("the role does not open the asset:", err)
	}
}
