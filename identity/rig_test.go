package identity

import (
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // read only

// who is an authenticator with its keys.
type who struct {
	a    *Authenticator
	keys *Keys
}

func drawKeys(t testing.TB) *Keys {
	t.Helper()
	seed := NewSeed()
	defer seed.Wipe()
	keys, err := NewKeys(seed)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// newWho makes an authenticator; its seed is wrapped under a key that nobody
// remembers, since these tests log in with the keys.
func newWho(t testing.TB, name string, m Method) who {
	t.Helper()
	keys, id, kek := drawKeys(t), NewID(), NewSeed()
	wrapped, err := Wrap(kek, AuthenticatorSeedContext(id), keys.Seed())
	if err != nil {
		t.Fatal(err)
	}
	a := &Authenticator{Format: 1, ID: id, Name: name, Method: m, Keys: keys.Public(), KDF: DefaultKDF(), Created: at, Wrapped: wrapped}
	if m == OIDC {
		a.Parameters.OIDC = &OIDCParameters{Provider: "p", Issuer: "https://issuer.example", Subject: name}
	}
	signed, err := SignAuthenticator(a, keys)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = signed.Verify(); err != nil {
		t.Fatal(err)
	}
	return who{a, keys}
}

func create(t testing.TB, name string, w who, roles ...string) (*SignedManifest, *Opened) {
	t.Helper()
	s, o, err := Create(NewIdentity{Name: name, Kind: Person, Roles: roles, Authenticator: w.a, Keys: w.keys, Time: at})
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

func (w who) open(t testing.TB, s *SignedManifest) *Opened {
	t.Helper()
	o, _, err := OpenIdentity(s, Pin{}, w.a.ID, w.keys)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// change changes an identity as w and opens what it has become.
func (w who) change(t testing.TB, o *Opened, changes ...Change) *Opened {
	t.Helper()
	s, err := o.Change(at, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return w.open(t, s)
}

// put writes a new asset with one key for these roles.
func put(t testing.TB, o *Opened, name, value string, roles ...string) *SignedAsset {
	t.Helper()
	s, err := o.WriteAsset(o.NewAsset(name, SecretAsset), at, func(a *Asset) error {
		return o.sealTo(a, "value", nil, secret.Copy([]byte(value)), roles)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// putAccount writes an account's asset.
func putAccount(t testing.TB, o *Opened, name string, roles ...string) *SignedAsset {
	t.Helper()
	public, private, err := NewCustodyKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := o.WriteAsset(o.NewAsset(name, AccountAsset), at, func(a *Asset) error {
		return o.sealTo(a, CustodyKey, public, private, roles)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verify(t testing.TB, o *Opened, s *SignedAsset) *Asset {
	t.Helper()
	a, err := o.OpenAsset(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantValue opens a key and compares it.
func wantValue(t testing.TB, o *Opened, s *SignedAsset, key, want string) {
	t.Helper()
	got, err := o.AssetValue(verify(t, o, s), key)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Expose()) != want {
		t.Fatalf("the value of key %s is another one", key)
	}
}

// wantError fails unless err wraps want.
func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}
