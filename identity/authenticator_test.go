package identity

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"filippo.io/edwards25519"

	"vault-plugin-secrets-mpc/secret"
)

// TestLoginSecret: what is one secret however it was written, and what is another.
func TestLoginSecret(t *testing.T) {
	id, other := ID{1}, ID{2}
	text := func(s string) *secret.Bytes { return secret.Copy([]byte(s)) }
	login := func(id ID, m Method, information, part, personal string) string {
		t.Helper()
		s, err := AuthenticationInformation{text(information), text(part), text(personal)}.LoginSecret(id, m)
		if err != nil || s.Len() != 32 {
			t.Fatal("no login secret of 32 bytes:", err)
		}
		return string(s.Expose())
	}
	zoe := login(id, Password, "pw", "", "zo\u00eb")
	for what, personal := range map[string]string{"upper case": "ZO\u00cb", "space": "\t Zo\u00eb \n", "two runes": "Zoe\u0308", "all": " ZOE\u0308"} {
		if login(id, Password, "pw", "", personal) != zoe {
			t.Errorf("personal information written in %s is another", what)
		}
	}
	seen := map[string]string{zoe: "the first"}
	for what, s := range map[string]string{
		"another password":      login(id, Password, "pW", "", "zo\u00eb"),
		"space in the password": login(id, Password, "pw ", "", "zo\u00eb"),
		"no answer":             login(id, Password, "pw", "", ""),
		"another answer":        login(id, Password, "pw", "", "zoe"),
		"another authenticator": login(other, Password, "pw", "", "zo\u00eb"),
		"another method":        login(id, KeyFile, "pw", "", "zo\u00eb"),
		"moved to the part":     login(id, Password, "p", "w", "zo\u00eb"),
		"all in the part":       login(id, Password, "", "pw", "zo\u00eb"),
		"moved to the answer":   login(id, Password, "", "pwzo\u00eb", ""),
	} {
		if before, twice := seen[s]; twice {
			t.Errorf("%s and %s give one secret", what, before)
		}
		seen[s] = what
	}
	if _, err := (AuthenticationInformation{Personal: text("zoe")}).LoginSecret(id, Password); !errors.Is(err, ErrRecord) {
		t.Errorf("an answer alone: %v", err)
	}
	info := AuthenticationInformation{Information: text("pw"), Personal: text(" Zoe ")}
	if _, err := info.LoginSecret(id, Password); err != nil || string(info.Personal.Expose()) != " Zoe " || string(info.Information.Expose()) != "pw" {
		t.Error("deriving changed or wiped what it was given")
	}
}

// TestAuthenticatorRefused lists records that no client makes and no one accepts.
func TestAuthenticatorRefused(t *testing.T) {
	w := newWho(t, "alice", Password)
	for what, change := range map[string]func(*Authenticator){
		"format":           func(a *Authenticator) { a.Format = 2 },
		"no ID":            func(a *Authenticator) { a.ID = ID{} },
		"name":             func(a *Authenticator) { a.Name = "../alice" },
		"method":           func(a *Authenticator) { a.Method = "retina" },
		"PIN":              func(a *Authenticator) { a.PIN = true },
		"another's params": func(a *Authenticator) { a.Parameters.OIDC = &OIDCParameters{"p", "i", "s"} },
		"no params":        func(a *Authenticator) { a.Method = Passkey },
		"no seed":          func(a *Authenticator) { a.Wrapped = nil },
		"weak KDF":         func(a *Authenticator) { a.KDF.Time = 1 },
		"endless KDF":      func(a *Authenticator) { a.KDF.Memory = 1 << 30 },
		"question":         func(a *Authenticator) { a.PersonalInformation = strings.Repeat("?", MaxText+1) },
		"escape":           func(a *Authenticator) { a.PersonalInformation = "\x1b]0;" },
		"not UTF-8":        func(a *Authenticator) { a.PersonalInformation = "\xff" },
		"others' keys":     func(a *Authenticator) { a.Keys = drawKeys(t).Public() },
		"sealing key":      func(a *Authenticator) { a.Keys.Seal = make([]byte, 32) },
	} {
		a := copyOf(t, w.a)
		change(a)
		if _, err := SignAuthenticator(a, w.keys); !errors.Is(err, ErrRecord) && !errors.Is(err, ErrWeakKDF) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFingerprint: it changes with all that a server could lie about.
func TestFingerprint(t *testing.T) {
	w := newWho(t, "third", OIDC)
	seen := map[string]string{}
	for what, change := range map[string]func(*Authenticator){
		"itself":     func(*Authenticator) {},
		"ID":         func(a *Authenticator) { a.ID = NewID() },
		"method":     func(a *Authenticator) { a.Method = Phone },
		"PIN":        func(a *Authenticator) { a.PIN = true },
		"other keys": func(a *Authenticator) { a.Keys = drawKeys(t).Public() },
	} {
		a := copyOf(t, w.a)
		change(a)
		f := a.Fingerprint()
		if before, twice := seen[f]; twice || len(f) != 39 {
			t.Errorf("%s: %q, also of %s", what, f, before)
		}
		seen[f] = what
	}
	g := Grant{Authenticator: w.a.ID, Name: "x", Kind: OIDC, Keys: w.a.Keys, ServerTrusting: true}
	if g.Fingerprint() != w.a.Fingerprint() {
		t.Error("a grant and its authenticator have two fingerprints")
	}
}

// TestPublicKeysRefused: keys under which everybody could sign, or to which nobody
// can seal.
func TestPublicKeysRefused(t *testing.T) {
	good := drawKeys(t).Public()
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	one := append([]byte{1}, make([]byte, 31)...)
	order2 := append([]byte{0xec}, bytes.Repeat([]byte{0xff}, 31)...) // y = -1
	order2[31] = 0x7f
	notCanonical := append([]byte{0xee}, bytes.Repeat([]byte{0xff}, 31)...) // y = p + 1
	notCanonical[31] = 0x7f
	if _, err := new(edwards25519.Point).SetBytes(notCanonical); err != nil {
		t.Fatal("this encoding is refused anyway, so it tests nothing:", err)
	}
	for what, k := range map[string]PublicKeys{
		"no keys":             {},
		"a short sealing key": {good.Seal[1:], good.Sign},
		"sealing to zero":     {make([]byte, 32), good.Sign},
		"sealing to one":      {one, good.Sign},
		"a short signing key": {good.Seal, good.Sign[1:]},
		"the neutral element": {good.Seal, one},
		"a point of order 2":  {good.Seal, order2},
		"a point of order 4":  {good.Seal, make([]byte, 32)},
		"another encoding":    {good.Seal, notCanonical},
		"no point":            {good.Seal, append([]byte{2}, make([]byte, 31)...)},
	} {
		if err := k.Check(); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWiped: keys that were wiped open and sign nothing and end nothing.
func TestWiped(t *testing.T) {
	alice := newWho(t, "alice", Password)
	s, o := create(t, "alice", alice)
	a := verify(t, o, put(t, o, "bank", "1", OwnerRole))
	seed := o.Roles[OwnerRole].Seed()
	o.Wipe()
	o.Wipe()
	if len(seed.Expose()) != 0 {
		t.Error("the seed is still there")
	}
	_, err := o.AssetValue(a, "value")
	wantError(t, "a key of an identity that was wiped", err, ErrNotHeld)
	_, err = o.Change(at, SetKind{Persona})
	wantError(t, "a change of one", err, ErrNotHeld)
	alice.keys.Wipe()
	if _, err := alice.keys.Open(AuthenticatorContext(ID{1}), make([]byte, 81)); err == nil {
		t.Error("wiped keys open something")
	}
	defer func() {
		if recover() != nil {
			t.Error("opening with wiped keys panics")
		}
	}()
	if _, _, err := OpenIdentity(s, Pin{}, alice.a.ID, alice.keys); err == nil {
		t.Error("wiped keys open an identity")
	}
}
