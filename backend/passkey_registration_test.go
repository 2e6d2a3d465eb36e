package backend

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

var testSite = &uiRecord{Version: recordVersion, PublicURL: testPublicURL, RPID: "vault.example.com", Origins: []string{testPublicURL}, QRPeriod: 2000}

const testChallenge = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

func (p *softPasskey) registered(t testing.TB, challenge string) (*approval.Key, error) {
	attestation, clientData := p.register(t, challenge)
	return (&offeredPasskey{name: "passkey", attestation: attestation, clientData: clientData}).register(testSite, testChallenge)
}

func TestPasskeyRegistration(t *testing.T) {
	p := newPasskey(t, testSite)
	k, err := p.registered(t, testChallenge)
	if err != nil {
		t.Fatal(err)
	}
	want := p.approvalKey(t)
	if err := k.Check(); err != nil || k.ID() != want.ID() {
		t.Errorf("%v: %s, and the device has %s", err, k.ID(), want.ID())
	}
	card, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p.cose = map[int]any{1: 3, 3: -257, -1: card.N.Bytes(), -2: []byte{1, 0, 1}}
	if k, err = p.registered(t, testChallenge); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(); err != nil || b64(k.Public) != b64(spki(t, &card.PublicKey)) {
		t.Errorf("RSA: %v %x", err, k.Public)
	}
}

// TestPasskeyRegistrationRefused: what nodes would refuse later, and what was not
// made for this enrolment.
func TestPasskeyRegistrationRefused(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("no short RSA keys here: ", err)
	}
	off := make([]byte, 32)
	off[31] = 5
	for name, change := range map[string]func(*softPasskey){
		"an assertion":         func(p *softPasskey) { p.kind = "webauthn.get" },
		"another origin":       func(p *softPasskey) { p.origin = "https://evil.example.com" },
		"another port":         func(p *softPasskey) { p.origin = "https://vault.example.com" },
		"origin in capitals":   func(p *softPasskey) { p.origin = "https://VAULT.example.com:8200" },
		"in a frame":           func(p *softPasskey) { p.cross = true },
		"another site":         func(p *softPasskey) { p.rpID = "example.com" },
		"nobody present":       func(p *softPasskey) { p.flags &^= 0x01 },
		"user not verified":    func(p *softPasskey) { p.flags &^= 0x04 },
		"no key in it":         func(p *softPasskey) { p.flags &^= 0x40 },
		"extensions missing":   func(p *softPasskey) { p.flags |= 0x80 },
		"attestation of a TPM": func(p *softPasskey) { p.format = "tpm" },
		"of SafetyNet":         func(p *softPasskey) { p.format = "android-safetynet" },
		"of nothing known":     func(p *softPasskey) { p.format = "x" },
		"packed, and empty":    func(p *softPasskey) { p.format = "packed" },
		"Ed25519":              func(p *softPasskey) { p.cose = map[int]any{1: 1, 3: -8, -1: 6, -2: make([]byte, 32)} },
		"ES384": func(p *softPasskey) {
			p.cose = map[int]any{1: 2, 3: -35, -1: 2, -2: make([]byte, 48), -3: make([]byte, 48)}
		},
		"ES256 on P-384": func(p *softPasskey) {
			p.cose = map[int]any{1: 2, 3: -7, -1: 2, -2: make([]byte, 32), -3: make([]byte, 32)}
		},
		"no point": func(p *softPasskey) { p.cose = map[int]any{1: 2, 3: -7, -1: 1, -2: off, -3: off} },
		"beyond the field": func(p *softPasskey) {
			p.cose = map[int]any{1: 2, 3: -7, -1: 1, -2: elliptic.P256().Params().P.Bytes(), -3: off}
		},
		"half a point":        func(p *softPasskey) { p.cose = map[int]any{1: 2, 3: -7, -1: 1, -2: off[:16], -3: off[:16]} },
		"RSA of 1024 bits":    func(p *softPasskey) { p.cose = map[int]any{1: 3, 3: -257, -1: short.N.Bytes(), -2: []byte{1, 0, 1}} },
		"RSA, even exponent":  func(p *softPasskey) { p.cose = map[int]any{1: 3, 3: -257, -1: bigModulus(), -2: []byte{2}} },
		"RSA, exponent 1":     func(p *softPasskey) { p.cose = map[int]any{1: 3, 3: -257, -1: bigModulus(), -2: []byte{1}} },
		"RSA, no exponent":    func(p *softPasskey) { p.cose = map[int]any{1: 3, 3: -257, -1: bigModulus()} },
		"RSA, PSS":            func(p *softPasskey) { p.cose = map[int]any{1: 3, 3: -37, -1: bigModulus(), -2: []byte{1, 0, 1}} },
		"no credential":       func(p *softPasskey) { p.credential = nil },
		"too long credential": func(p *softPasskey) { p.credential = make([]byte, 1024) },
	} {
		p := newPasskey(t, testSite)
		change(p)
		if k, err := p.registered(t, testChallenge); err == nil {
			t.Errorf("%s is taken: %v", name, k)
		} else if !strings.Contains(err.Error(), "was not enrolled") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newPasskey(t, testSite).registered(t, strings.ToLower(testChallenge)); err == nil {
		t.Error("another challenge is taken")
	}
}

func bigModulus() []byte { return new(big.Int).Lsh(big.NewInt(5), 2046).Bytes() }

// TestPasskeyNeedsChallenge: what was registered before the device asked is not
// taken, whatever its challenge is.
func TestPasskeyNeedsChallenge(t *testing.T) {
	m := approvable(t)
	a, other := m.opensEnrolment("alice"), m.opensEnrolment("alice")
	p := m.newPhone()
	body, _ := p.offer(a)
	begun := m.must(logical.UpdateOperation, "approve/enrol", a.body())
	begun["challenge"] = ""
	stale, _ := p.offerFor(other, begun)
	m.fails(logical.UpdateOperation, "approve/enrol/finish", stale, http.StatusConflict, "begin with approve/enrol")
	m.must(logical.UpdateOperation, "approve/enrol", other.body())
	// A registration for the first enrolment, sent to the second.
	begun = m.must(logical.UpdateOperation, "approve/enrol", a.body())
	moved, _ := p.offerFor(other, begun)
	m.fails(logical.UpdateOperation, "approve/enrol/finish", moved, http.StatusForbidden, "was not enrolled")
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)
}

func FuzzPasskeyRegistration(f *testing.F) {
	attestation, clientData := newPasskey(f, testSite).register(f, testChallenge)
	f.Add(attestation, clientData)
	f.Add([]byte{0xa0}, []byte("{}"))
	f.Fuzz(func(t *testing.T, attestation, clientData []byte) {
		k, err := (&offeredPasskey{name: "x", attestation: attestation, clientData: clientData}).register(testSite, testChallenge)
		if err == nil && k.Check() != nil {
			t.Errorf("a key is taken that no policy would take: %v", k.Check())
		}
	})
}

func FuzzCOSEKey(f *testing.F) {
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		der, err := subjectPublicKey(raw)
		if err != nil {
			return
		}
		k := approval.Key{Kind: approval.Passkey, Name: "x", Public: der, RPID: "a", Origins: []string{"b"}, Credential: []byte{1}}
		if err := k.Check(); err != nil {
			t.Errorf("%x: %v", raw, err)
		}
	})
}

func FuzzOffer(f *testing.F) {
	f.Add("name", "AAAA", "x")
	f.Fuzz(func(t *testing.T, name, public, transport string) {
		o, err := parseOffer(map[string]any{"name": name, "public": public, "signature": public},
			map[string]any{"name": name, "attestation_object": public, "client_data_json": public, "transports": []any{transport, 1.5}[:1]}, nil)
		if err != nil {
			return
		}
		again, err := anyBase64(base64.StdEncoding.EncodeToString(o.device.public), maxOfferedPublic)
		if err != nil || string(again) != string(o.device.public) {
			t.Errorf("%q is read as %x", public, o.device.public)
		}
	})
}
