package approval_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

func TestPolicyCheck(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, tt := range []struct {
		name  string
		spoil func(p *approval.Policy)
		says  string // empty: accepted
	}{
		{"as it should be", func(*approval.Policy) {}, ""},
		{"all factors", func(p *approval.Policy) { p.Factors, p.SignatureFactors = 5, 3 }, ""},
		{"nobody", func(p *approval.Policy) { p.Approvers = nil }, "needs approvers"},
		{"too many", func(p *approval.Policy) { p.Approvers = make([]approval.Approver, 17) }, "17 approvers"},
		{"quorum 0", func(p *approval.Policy) { p.Quorum = 0 }, "quorum"},
		{"quorum below 0", func(p *approval.Policy) { p.Quorum = -1 }, "quorum"},
		{"quorum 3 of 2", func(p *approval.Policy) { p.Quorum = 3 }, "quorum"},
		{"no factors", func(p *approval.Policy) { p.Factors = 0 }, "two different kinds"},
		{"one factor", func(p *approval.Policy) { p.Factors = 1 }, "two different kinds"},
		{"six factors", func(p *approval.Policy) { p.Factors = 6 }, "two different kinds"},
		{"no signature factor", func(p *approval.Policy) { p.SignatureFactors = 0 }, "that nodes verify"},
		{"more signature factors than factors", func(p *approval.Policy) { p.SignatureFactors = 3 }, "that nodes verify"},
		{"four signature factors", func(p *approval.Policy) { p.Factors, p.SignatureFactors = 5, 4 }, "that nodes verify"},
		{"short expiry", func(p *approval.Policy) { p.Expiry = time.Minute - time.Second }, "expiry"},
		{"long expiry", func(p *approval.Policy) { p.Expiry = approval.MaxExpiry + time.Second }, "expiry"},
		{"half a second", func(p *approval.Policy) { p.Expiry += time.Second / 2 }, "expiry"},

		{"no ID", func(p *approval.Policy) { p.Approvers[0].ID = approval.ID{} }, "no ID"},
		{"one ID twice", func(p *approval.Policy) { p.Approvers[0].ID = p.Approvers[1].ID }, "twice"},
		{"one name twice", func(p *approval.Policy) { p.Approvers[0].Name = p.Approvers[1].Name }, "twice"},
		{"no name", func(p *approval.Policy) { p.Approvers[0].Name = "" }, "name"},
		{"long name", func(p *approval.Policy) { p.Approvers[0].Name = long }, "name"},
		{"hidden name", func(p *approval.Policy) { p.Approvers[0].Name = "an\u200bn" }, "invisible"},
		{"no keys", func(p *approval.Policy) { p.Approvers[0].Keys = nil }, "1 to 8 keys"},
		{"too many keys", func(p *approval.Policy) { p.Approvers[0].Keys = make([]approval.Key, 9) }, "1 to 8 keys"},
		{"not said who asks", func(p *approval.Policy) { p.Approvers[0].Requesters = nil }, "none"},
		{"none", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"none"} }, ""},
		{"none and one", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"entity:a", "none"} }, "requester"},
		{"a requester of no kind", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"ann"} }, "requester"},
		{"a requester in capitals", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"Entity:a"} }, "requester"},
		{"an empty requester", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"entity:"} }, "requester"},
		{"a requester with a space", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"entity:a "} }, "requester"},
		{"requesters out of order", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"entity:b", "entity:a"} }, "order"},
		{"a requester twice", func(p *approval.Policy) { p.Approvers[0].Requesters = []string{"entity:a", "entity:a"} }, "twice"},
		{"too many requesters", func(p *approval.Policy) { p.Approvers[0].Requesters = make([]string, 17) }, "17 requester"},
		{"a device checked by the coordinator", func(p *approval.Policy) { p.Approvers[0].Checked[0] = approval.Device }, "coordinator checks"},
		{"a check twice", func(p *approval.Policy) { p.Approvers[0].Checked[1] = p.Approvers[0].Checked[0] }, "coordinator checks"},

		{"a key twice", func(p *approval.Policy) { p.Approvers[0].Keys[1] = p.Approvers[0].Keys[0] }, "there twice"},
		{"a key as two kinds", func(p *approval.Policy) { p.Approvers[0].Keys[2].Public = p.Approvers[0].Keys[0].Public }, "there twice"},
		{"a key of two people", func(p *approval.Policy) { p.Approvers[0].Keys[0].Public = p.Approvers[1].Keys[0].Public }, "there twice"},
		{"a key of two people as two kinds", func(p *approval.Policy) { p.Approvers[0].Keys[2].Public = p.Approvers[1].Keys[1].Public }, "there twice"},
		{"a factor missing", func(p *approval.Policy) {
			p.Approvers[0].Keys, p.Approvers[0].Checked = p.Approvers[0].Keys[:1], nil
		}, "1 kinds"},
		{"a signature factor missing", func(p *approval.Policy) {
			p.SignatureFactors, p.Approvers[0].Keys = 2, p.Approvers[0].Keys[:1]
		}, "1 of which"},
		{"a key of no kind", func(p *approval.Policy) { p.Approvers[0].Keys[0].Kind = "" }, "kind of key"},
		{"a one-time code as key", func(p *approval.Policy) { p.Approvers[0].Keys[0].Kind = approval.TOTP }, "kind of key"},
		{"a key without a name", func(p *approval.Policy) { p.Approvers[0].Keys[0].Name = "" }, "name"},
		{"a key with a name over two lines", func(p *approval.Policy) { p.Approvers[0].Keys[0].Name = "a\nb" }, "control"},
		{"a site of a device", func(p *approval.Policy) { p.Approvers[0].Keys[0].RPID = "a" }, "belong to a passkey"},
		{"origins of a device", func(p *approval.Policy) { p.Approvers[0].Keys[0].Origins = []string{"https://a"} }, "belong to a passkey"},
		{"a passkey without a site", func(p *approval.Policy) { p.Approvers[0].Keys[1].RPID = "" }, "belong to a passkey"},
		{"a passkey without origins", func(p *approval.Policy) { p.Approvers[0].Keys[1].Origins = nil }, "belong to a passkey"},
		{"a passkey without a credential", func(p *approval.Policy) { p.Approvers[0].Keys[1].Credential = nil }, "belong to a passkey"},
		{"long credential", func(p *approval.Policy) { p.Approvers[0].Keys[1].Credential = make([]byte, 1024) }, "too long"},
		{"long site", func(p *approval.Policy) { p.Approvers[0].Keys[1].RPID = strings.Repeat("x", 513) }, "too long"},
		{"many origins", func(p *approval.Policy) { p.Approvers[0].Keys[1].Origins = make([]string, 9) }, "too long"},
		{"a site in another script", func(p *approval.Policy) { p.Approvers[0].Keys[1].RPID = "väult.example.com" }, "ASCII"},
		{"no public key", func(p *approval.Policy) { p.Approvers[0].Keys[0].Public = nil }, "SubjectPublicKeyInfo"},
		{"a byte after a public key", func(p *approval.Policy) {
			p.Approvers[0].Keys[0].Public = append(bytes.Clone(p.Approvers[0].Keys[0].Public), 0)
		}, "SubjectPublicKeyInfo"},
		{"a point beside its curve", func(p *approval.Policy) {
			k := bytes.Clone(p.Approvers[0].Keys[0].Public)
			k[len(k)-1] ^= 1
			p.Approvers[0].Keys[0].Public = k
		}, "SubjectPublicKeyInfo"},
		{"more than a policy may have", func(p *approval.Policy) {
			for i := range p.Approvers {
				for k := range p.Approvers[i].Keys {
					if p.Approvers[i].Keys[k].Kind == approval.Passkey {
						for range 7 {
							p.Approvers[i].Keys[k].Origins = append(p.Approvers[i].Keys[k].Origins, "https://"+strings.Repeat("x", 500))
						}
					}
				}
			}
		}, "fewer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			people := []*approvaltest.Approver{approvaltest.New(t, "ann"), approvaltest.New(t, "bob")}
			if tt.says == "fewer" { // needs a whole crowd of passkeys
				people = nil
				for i := range 16 {
					people = append(people, approvaltest.New(t, string(rune('a'+i))))
					for range 2 {
						people[i].Add(t, approval.Passkey, newKey(t))
					}
				}
			}
			p := approvaltest.Policy(t, 1, people...)
			tt.spoil(p)
			err := p.Check()
			if tt.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				back, err := approval.ParsePolicy(p.Marshal())
				if err != nil || !reflect.DeepEqual(back, p) || back.Hash() != p.Hash() {
					t.Errorf("it comes back as %+v, %v", back, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("%v does not say %q", err, tt.says)
			}
			// Whole seconds are all that an encoding holds.
			if _, err := approval.ParsePolicy(p.Marshal()); err == nil && p.Expiry%time.Second == 0 {
				t.Error("it is read all the same")
			}
		})
	}
}

// TestKeys: which public keys each kind may have, and that they are then verified.
func TestKeys(t *testing.T) {
	spki := func(public any) []byte {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	ec := func(c elliptic.Curve) []byte {
		private, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return spki(&private.PublicKey)
	}
	modulus := func(bits int, odd uint) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return n.SetBit(n, 0, odd)
	}
	for name, c := range map[string]struct {
		public                       []byte
		device, passkey, certificate bool
	}{
		"P-256":                 {ec(elliptic.P256()), true, true, true},
		"P-384":                 {ec(elliptic.P384()), false, false, true},
		"P-521":                 {ec(elliptic.P521()), false, false, false},
		"RSA-2048":              {spki(&rsa.PublicKey{N: modulus(2048, 1), E: 65537}), false, true, true},
		"RSA-4096":              {spki(&rsa.PublicKey{N: modulus(4096, 1), E: 3}), false, true, true},
		"RSA-1024":              {spki(&rsa.PublicKey{N: modulus(1024, 1), E: 65537}), false, false, false},
		"RSA-4097":              {spki(&rsa.PublicKey{N: modulus(4097, 1), E: 65537}), false, false, false},
		"RSA, exponent 1":       {spki(&rsa.PublicKey{N: modulus(2048, 1), E: 1}), false, false, false},
		"RSA, even exponent":    {spki(&rsa.PublicKey{N: modulus(2048, 1), E: 65536}), false, false, false},
		"RSA, even modulus":     {spki(&rsa.PublicKey{N: modulus(2048, 0), E: 65537}), false, false, false},
		"Ed25519":               {append([]byte{0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0}, make([]byte, 32)...), false, false, false},
		"P-256, written longer": {longer(t, ec(elliptic.P256())), false, false, false},
	} {
		for kind, want := range map[approval.Kind]bool{approval.Device: c.device, approval.Passkey: c.passkey, approval.Certificate: c.certificate} {
			a := approvaltest.New(t, "ann")
			a.Of(t, kind).Public = c.public
			p := &approval.Policy{Quorum: 1, Factors: 2, SignatureFactors: 1, Expiry: time.Minute, Approvers: []approval.Approver{a.Approver}}
			if err := p.Check(); (err == nil) != want {
				t.Errorf("%s as %s: %v", name, kind, err)
			}
		}
	}
}

// longer writes the same key with a length in two bytes where one does (BER).
func longer(t *testing.T, der []byte) []byte {
	t.Helper()
	var v asn1.RawValue
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		t.Fatal(err)
	}
	return append([]byte{0x30, 0x81, byte(len(v.Bytes))}, v.Bytes...)
}

// TestRSA: keys of certificates and passkeys may be RSA.
func TestRSA(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := approval.Key{Kind: approval.Certificate, Name: "card", Public: public}
	s := approval.Signature{Key: certificate.ID(), Signature: signRSA(t, private, st.CertificateMessage())}
	if err := certificate.Verify(st, &s); err != nil {
		t.Error(err)
	}
	s.Signature = signRSA(t, private, st.DeviceMessage())
	if certificate.Verify(st, &s) == nil {
		t.Error("a signature over another message")
	}
	passkey := approval.Key{Kind: approval.Passkey, Name: "key", Public: public, RPID: approvaltest.RPID, Origins: []string{approvaltest.Origin}, Credential: []byte{1}}
	hash := st.Hash()
	s = approval.Signature{Key: passkey.ID()}
	s.ClientData, s.AuthenticatorData = approvaltest.Assertion{Challenge: hash[:]}.Encode(t, &passkey)
	s.Signature = signRSA(t, private, passkeyMessage(&s))
	if err := passkey.Verify(st, &s); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for _, ok := range []string{"ann", "Zoë Ünal", "李雷", "Νίκος", "محمد", "o'Brien (2)", "👩 phone", strings.Repeat("x", 128)} {
		if err := approval.CheckName(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
		if got := approval.CleanName(ok); got != ok {
			t.Errorf("%q becomes %q", ok, got)
		}
	}
	for _, bad := range []string{"", " ann", "ann ", "a\x00b", "a\nb", "a\tb", "a\x1b[31mb", "a\u0085b", "a\u202eb", "a\u2066b", "a\u200fb", "a\u200bb", "a\ufeffb",
		"a\u00a0b", "a\u2028b", "a\u3000b", "a\u3164b", "a\ue000b", "a\xffb", "a\u00adb", "a\U000e0041b", strings.Repeat("x", 129)} {
		if err := approval.CheckName(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
		if clean := approval.CleanName(bad); clean != "" && approval.CheckName(clean) != nil {
			t.Errorf("%q becomes %q, which is none either", bad, clean)
		}
	}
	if got := approval.CleanName(strings.Repeat("ü", 100)); got != strings.Repeat("ü", 64) {
		t.Errorf("cut off to %q", got)
	}
}

func TestOrigins(t *testing.T) {
	for origin, ok := range map[string]bool{
		"https://vault.example.com": true, "https://vault.example.com:8200": true, "http://localhost:8200": true, "http://localhost": true, "https://10.0.0.1": true,
		"": false, "vault.example.com": false, "http://vault.example.com": false, "http://localhost.example.com": false, "http://127.0.0.1": false,
		"https://vault.example.com/": false, "https://vault.example.com/v1": false, "https://u@vault.example.com": false, "https://Vault.example.com": false,
		"https://vault.example.com?x": false, "https://vault.example.com#x": false, "https:// x": false, "https://": false, "null": false, "android:apk-key-hash:x": false,
		"https://väult.example.com": false,
	} {
		a := approvaltest.New(t, "ann")
		a.Of(t, approval.Passkey).Origins = []string{origin}
		p := &approval.Policy{Quorum: 1, Factors: 2, SignatureFactors: 1, Expiry: time.Minute, Approvers: []approval.Approver{a.Approver}}
		if err := p.Check(); (err == nil) != ok {
			t.Errorf("%q: %v", origin, err)
		}
	}
}
