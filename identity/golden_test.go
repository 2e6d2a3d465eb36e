package identity

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

// Golden files were made once and must be read, verified and opened for ever:
// people's secrets are in such records. The keys are test keys and public.
const goldenDir = "../testdata/golden/identity-v1"

var writeGolden = flag.Bool("write-golden", false, "make golden files that are not there yet; existing ones are never changed")

// goldenFacts is what the golden files were made with and must lead to, in hex
// unless it is text.
type goldenFacts struct {
	Password    string            `json:"password_text"`
	Personal    string            `json:"personal_text"`
	ExportKey   string            `json:"export_key_test_key"`
	Seeds       map[string]string `json:"authenticator_seeds_test_keys"`
	Roles       map[string]string `json:"role_seeds_test_keys"` // role/generation
	Seal        map[string]string `json:"seal_public_keys"`     // of the above
	Sign        map[string]string `json:"sign_public_keys"`
	Fingerprint map[string]string `json:"fingerprints_text"`
	LoginSecret string            `json:"login_secret_of_alice"`
	KEK         string            `json:"kek_of_alice"`
	Stretched   string            `json:"login_secret_stretched_with_binding_salt"`
	Identity    string            `json:"identity"`
	Manifests   map[string]string `json:"manifest_hashes"`
	Values      map[string]string `json:"values_text"` // asset-generation/key
	Custody     map[string]string `json:"custody_keys_test_keys"`
}

var (
	goldenManifests = []string{"manifest-1", "manifest-2", "manifest-3", "manifest-4"}
	goldenAuths     = []string{"alice", "card", "third", "passkey"}
)

func TestGolden(t *testing.T) {
	if _, err := os.Stat(goldenDir); *writeGolden && os.IsNotExist(err) {
		makeGolden(t)
	}
	var facts goldenFacts
	readGolden(t, "facts", &facts)
	same := func(what string, got []byte, want string) {
		t.Helper()
		if len(got) == 0 || hex.EncodeToString(got) != want {
			t.Errorf("%s is %x, it was %s", what, got, want)
		}
	}
	for name, seed := range facts.Seeds {
		p := goldenKeys(t, seed).Public()
		same("the sealing key of "+name, p.Seal, facts.Seal[name])
		same("the verification key of "+name, p.Sign, facts.Sign[name])
	}
	auths := map[string]*Authenticator{}
	for _, name := range goldenAuths {
		var s SignedAuthenticator
		readGolden(t, "authenticator-"+name, &s)
		a, err := s.Verify()
		if err != nil {
			t.Fatal(name, err)
		}
		if auths[name] = a; a.Fingerprint() != facts.Fingerprint[name] {
			t.Errorf("the fingerprint of %s is %s", name, a.Fingerprint())
		}
	}
	alice := auths["alice"]
	info := facts.info()
	login, err := info.LoginSecret(alice.ID, alice.Method)
	if err != nil {
		t.Fatal(err)
	}
	same("the login secret", login.Expose(), facts.LoginSecret)
	kek, err := AuthenticatorKEK(goldenSecret(t, facts.ExportKey), alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	same("the KEK", kek.Expose(), facts.KEK)
	seed, err := Unwrap(kek, AuthenticatorSeedContext(alice.ID), alice.Wrapped)
	if err != nil {
		t.Fatal(err)
	}
	same("alice's seed", seed.Expose(), facts.Seeds["alice"])

	// Each manifest after the one before it, opened by each who may.
	var before *SignedManifest
	var pin Pin
	opened := map[string]*Opened{}
	for _, name := range goldenManifests {
		s := &SignedManifest{}
		readGolden(t, name, s)
		hash := s.Hash()
		same("the hash of "+name, hash[:], facts.Manifests[name])
		if before != nil {
			if _, err := s.VerifyNext(before); err != nil {
				t.Errorf("%s does not follow: %v", name, err)
			}
		}
		before = s
		if opened[name], pin, err = OpenIdentity(s, pin, alice.ID, goldenKeys(t, facts.Seeds["alice"])); err != nil {
			t.Fatal(name, err)
		}
		same("the identity", pin.Identity[:], facts.Identity)
		for role, keys := range opened[name].Roles {
			same("the seed of role "+role, keys.Seed().Expose(), facts.Roles[fmt.Sprintf("%s/%d", role, opened[name].Manifest.Role(role).Generation)])
		}
		for role, keys := range opened[name].Past {
			same("the past seed of role "+role, keys.Seed().Expose(), facts.Roles[fmt.Sprintf("%s/%d", role, opened[name].Manifest.Role(role).Past.Generation)])
		}
	}
	if len(opened["manifest-3"].Past) != 2 {
		t.Error("manifest 3 has no past keys, so that they are not tested")
	}
	for _, name := range []string{"card", "third"} { // what they open, they open
		g := opened["manifest-2"].Manifest.Grant(auths[name].ID)
		for _, r := range g.Sealed {
			seed, err := goldenKeys(t, facts.Seeds[name]).Open(RoleSeedContext(pin.Identity, r.Role, r.Generation, g.Authenticator), r.Sealed)
			if err != nil {
				t.Fatal(name, err)
			}
			same("the role seed of "+name, seed.Expose(), facts.Roles[fmt.Sprintf("%s/%d", r.Role, r.Generation)])
		}
	}
	for _, c := range []struct{ name, manifest, before string }{
		{"bank-1", "manifest-2", ""}, {"coins-1", "manifest-2", ""},
		{"bank-2", "manifest-3", "bank-1"}, {"coins-2", "manifest-3", "coins-1"}, {"coins-3", "manifest-3", "coins-2"},
	} {
		var s, old SignedAsset
		readGolden(t, "asset-"+c.name, &s)
		o := opened[c.manifest]
		var was *Asset
		if c.before != "" {
			readGolden(t, "asset-"+c.before, &old)
			was = verify(t, o, &old)
		}
		a, err := s.VerifyNext(o.Manifest, was)
		if err != nil {
			t.Fatal(c.name, err)
		}
		for _, k := range a.Keys {
			v, err := o.AssetValue(a, k.Name)
			if err != nil {
				t.Fatal(c.name, k.Name, err)
			}
			if a.Kind == AccountAsset {
				same("custody key "+k.Name, v.Expose(), facts.Custody[c.name+"/"+k.Name])
			} else if string(v.Expose()) != facts.Values[c.name+"/"+k.Name] {
				t.Errorf("the value of %s of %s is another one", k.Name, c.name)
			}
		}
	}
	raw, err := os.ReadFile(filepath.Join(goldenDir, "binding.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBinding(raw)
	if err != nil {
		t.Fatal(err)
	}
	stretched, err := b.KDF.Derive(login, b.Salt)
	if err != nil {
		t.Fatal(err)
	}
	same("the stretched login secret", stretched.Expose(), facts.Stretched)
	off, err := b.Open(info)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := b.Asset(off, "bank"); err != nil || a == nil {
		t.Error("the bound asset:", err)
	} else if v, err := off.AssetValue(a, "word"); err != nil || string(v.Expose()) != facts.Values["bank-2/word"] {
		t.Error("its value:", err)
	}
}

func (f goldenFacts) info() AuthenticationInformation {
	return AuthenticationInformation{Information: secret.Copy([]byte(f.Password)), Personal: secret.Copy([]byte(f.Personal))}
}

func readGolden(t *testing.T, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(goldenDir, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(name, err)
	}
}

func goldenSecret(t *testing.T, text string) *secret.Bytes {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return secret.New(b)
}

func goldenKeys(t *testing.T, seed string) *Keys {
	t.Helper()
	keys, err := NewKeys(goldenSecret(t, seed))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// makeGolden makes the files. It runs where there are none.
func makeGolden(t *testing.T) {
	t.Helper()
	f := goldenFacts{Password: "correct horse battery staple", Personal: " Zo\u00eb's first cat, Ünal ", ExportKey: hex.EncodeToString(append(NewSeed().Expose(), NewSeed().Expose()...)),
		Seeds: map[string]string{}, Roles: map[string]string{}, Seal: map[string]string{}, Sign: map[string]string{}, Fingerprint: map[string]string{},
		Manifests: map[string]string{}, Values: map[string]string{}, Custody: map[string]string{}}
	write := func(name string, v any) {
		t.Helper()
		raw, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(goldenDir, name+".json"), append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(goldenDir, 0o755))
	people := map[string]who{}
	for i, m := range []Method{Password, Certificate, OIDC, Passkey} {
		name := goldenAuths[i]
		keys, id := drawKeys(t), NewID()
		kek, err := AuthenticatorKEK(goldenSecret(t, f.ExportKey), id)
		must(err)
		a := &Authenticator{Format: 1, ID: id, Name: name, Method: m, Keys: keys.Public(), KDF: DefaultKDF(), Created: at}
		a.Wrapped, err = Wrap(kek, AuthenticatorSeedContext(id), keys.Seed())
		must(err)
		switch m {
		case Password:
			a.PersonalInformation = "What was your first cat's name <& surname>?"
			login, err := f.info().LoginSecret(id, m)
			must(err)
			f.LoginSecret, f.KEK = hex.EncodeToString(login.Expose()), hex.EncodeToString(kek.Expose())
		case Certificate:
			a.Parameters.Certificate = &CertificateParameters{Certificate: []byte("a certificate"), Algorithm: "rsa-oaep-sha256", Sealed: []byte("sealed to it")}
		case OIDC:
			a.Parameters.OIDC = &OIDCParameters{Provider: "vault", Issuer: "https://issuer.example", Subject: "third"}
		case Passkey:
			a.Parameters.Passkey = &PasskeyParameters{RelyingParty: "issuer.example", CredentialID: []byte{1}, PublicKey: []byte{2}, Salt: make([]byte, 32)}
		}
		s, err := SignAuthenticator(a, keys)
		must(err)
		write("authenticator-"+name, s)
		people[name] = who{a, keys}
		f.Seeds[name], f.Fingerprint[name] = hex.EncodeToString(keys.Seed().Expose()), a.Fingerprint()
		f.Seal[name], f.Sign[name] = hex.EncodeToString(a.Keys.Seal), hex.EncodeToString(a.Keys.Sign)
	}
	alice := people["alice"]
	keep := func(name string, o *Opened) {
		write(name, o.Signed)
		f.Manifests[name] = hex.EncodeToString(o.Hash[:])
		for role, keys := range o.Roles {
			f.Roles[fmt.Sprintf("%s/%d", role, o.Manifest.Role(role).Generation)] = hex.EncodeToString(keys.Seed().Expose())
		}
	}
	_, o := create(t, "alice", alice, "mail", "money")
	f.Identity = o.Manifest.Identity.String()
	keep("manifest-1", o)
	o = alice.change(t, o, SetLevel{Level{Name: "half", Roles: []string{"mail", "money"}}}, SetLevel{Level{Name: "open", Roles: []string{"mail"}, ServerTrusting: true}},
		AddGrant{Authenticator: people["card"].a, Level: "half"}, AddGrant{Authenticator: people["third"].a, Level: "open", Custody: true})
	keep("manifest-2", o)
	asset := func(name string, s *SignedAsset) {
		write("asset-"+name, s)
		a := verify(t, o, s)
		for _, k := range a.Keys {
			v, err := o.AssetValue(a, k.Name)
			must(err)
			if a.Kind == AccountAsset {
				f.Custody[name+"/"+k.Name] = hex.EncodeToString(v.Expose())
			} else {
				f.Values[name+"/"+k.Name] = string(v.Expose())
			}
		}
	}
	bank, err := o.WriteAsset(o.NewAsset("bank", SecretAsset), at, func(a *Asset) error {
		a.Note = "the bank's app & card <old>"
		if err := o.sealTo(a, "pin", nil, secret.Copy([]byte("2580")), []string{"money"}); err != nil {
			return err
		}
		return o.sealTo(a, "word", nil, secret.Copy([]byte("mellon")), []string{"money", "mail", OwnerRole})
	})
	must(err)
	coins := putAccount(t, o, "coins", "money", OwnerRole)
	asset("bank-1", bank)
	asset("coins-1", coins)
	o = alice.change(t, o, RotateRoles{[]string{"money", OwnerRole}}, RemoveGrant{Authenticator: people["card"].a.ID})
	keep("manifest-3", o)
	bank, err = o.Reseal(verify(t, o, bank), at, nil)
	must(err)
	asset("bank-2", bank)
	coins, err = o.Reseal(verify(t, o, coins), at, nil)
	must(err)
	asset("coins-2", coins)
	coins, err = o.PromoteCustody(verify(t, o, coins), at)
	must(err)
	asset("coins-3", coins)
	b, err := Bind(o, alice.a, f.info(), NewID(), []*SignedAsset{bank, coins}, at)
	must(err)
	raw, err := b.Marshal()
	must(err)
	must(os.WriteFile(filepath.Join(goldenDir, "binding.json"), raw, 0o644))
	login, err := f.info().LoginSecret(alice.a.ID, Password)
	must(err)
	stretched, err := b.KDF.Derive(login, b.Salt)
	must(err)
	f.Stretched = hex.EncodeToString(stretched.Expose())
	o = alice.change(t, o, DropPast{[]string{"money", OwnerRole}})
	keep("manifest-4", o)
	write("facts", f)
}
