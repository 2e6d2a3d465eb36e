package approval_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

func TestVerifyPasskey(t *testing.T) {
	type assertion = approvaltest.Assertion
	const up, uv = approvaltest.UserPresent, approvaltest.UserVerified
	// json makes client data with the right challenge in it for %s.
	json := func(text string) func(*assertion, *approval.Statement) {
		return func(as *assertion, st *approval.Statement) {
			as.ClientData = []byte(strings.ReplaceAll(text, "%s", encode(st)))
		}
	}
	const wrong = `"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`
	for _, tt := range []struct {
		name   string
		change func(*assertion, *approval.Statement)
		says   string // empty: accepted
	}{
		{"as it should be", func(*assertion, *approval.Statement) {}, ""},
		{"backed up", func(as *assertion, _ *approval.Statement) { as.Flags = up | uv | 0x18 }, ""},
		{"reserved flags", func(as *assertion, _ *approval.Statement) { as.Flags = up | uv | 0x22 }, ""},
		{"with extensions", func(as *assertion, _ *approval.Statement) {
			as.Flags, as.Tail = up|uv|approvaltest.ExtensionData, []byte{0xa0}
		}, ""},
		{"members that browsers add", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","crossOrigin":false,"tokenBinding":{"status":"supported"},"other_keys_can_be_added_here":"do not compare clientDataJSON against a template"}`), ""},
		{"no crossOrigin", json(`{"origin":"https://vault.example.com","challenge":"%s","type":"webauthn.get"}`), ""},
		{"a member like another", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","Challenge":` + wrong + `,"ORIGIN":"https://evil.example"}`), ""},

		{"type of a registration", func(as *assertion, _ *approval.Statement) { as.Type = "webauthn.create" }, "of type"},
		{"type of a payment", func(as *assertion, _ *approval.Statement) { as.Type = "payment.get" }, "of type"},
		{"another challenge", func(as *assertion, _ *approval.Statement) { as.Challenge = make([]byte, 32) }, "challenge"},
		{"no challenge", func(as *assertion, _ *approval.Statement) { as.Challenge = nil }, "challenge"},
		{"a padded challenge", json(`{"type":"webauthn.get","challenge":"%s=","origin":"https://vault.example.com"}`), "challenge"},
		{"another origin", func(as *assertion, _ *approval.Statement) { as.Origin = "https://evil.example" }, "evil.example"},
		{"an origin below", func(as *assertion, _ *approval.Statement) { as.Origin = "https://x.vault.example.com" }, "the page was"},
		{"an origin with a port", func(as *assertion, _ *approval.Statement) { as.Origin = "https://vault.example.com:8443" }, "the page was"},
		{"inside another page", func(as *assertion, _ *approval.Statement) { as.CrossOrigin = true }, "inside"},
		{"inside a page that is named", func(as *assertion, _ *approval.Statement) { as.TopOrigin = "https://evil.example" }, "inside"},
		{"another site", func(as *assertion, _ *approval.Statement) { as.RPID = "evil.example" }, "another site"},
		{"nobody present", func(as *assertion, _ *approval.Statement) { as.Flags = uv }, "present"},
		{"nobody verified", func(as *assertion, _ *approval.Statement) { as.Flags = up }, "verify its user"},
		{"backed up and cannot be", func(as *assertion, _ *approval.Statement) { as.Flags = up | uv | approvaltest.BackupState }, "backed up"},
		{"attested data", func(as *assertion, _ *approval.Statement) {
			as.Flags, as.Tail = up|uv|approvaltest.AttestedData, make([]byte, 60)
		}, "registration"},
		{"a tail that no flag names", func(as *assertion, _ *approval.Statement) { as.Tail = []byte{0xa0} }, "does not end"},
		{"extensions that are not there", func(as *assertion, _ *approval.Statement) { as.Flags = up | uv | approvaltest.ExtensionData }, "does not end"},
		{"extensions that are no map", func(as *assertion, _ *approval.Statement) {
			as.Flags, as.Tail = up|uv|approvaltest.ExtensionData, []byte{0x01}
		}, "does not end"},
		{"long authenticator data", func(as *assertion, _ *approval.Statement) {
			as.Flags, as.Tail = up|uv|approvaltest.ExtensionData, append([]byte{0xbf}, make([]byte, 1024)...)
		}, "too long"},
		{"long client data", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","x":"` + strings.Repeat("x", 2048) + `"}`), "too long"},

		{"a challenge of another case only", json(`{"type":"webauthn.get","Challenge":"%s","origin":"https://vault.example.com"}`), "JSON object"},
		{"a challenge twice, the right one last", json(`{"type":"webauthn.get","challenge":` + wrong + `,"challenge":"%s","origin":"https://vault.example.com"}`), "JSON object"},
		{"a challenge twice, the right one first", json(`{"type":"webauthn.get","challenge":"%s","challenge":` + wrong + `,"origin":"https://vault.example.com"}`), "JSON object"},
		{"a challenge twice, once escaped", json(`{"type":"webauthn.get","ch\u0061llenge":` + wrong + `,"challenge":"%s","origin":"https://vault.example.com"}`), "JSON object"},
		{"another member twice", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","x":1,"x":1}`), "JSON object"},
		{"a challenge that is a list", json(`{"type":"webauthn.get","challenge":["%s"],"origin":"https://vault.example.com"}`), "JSON object"},
		{"crossOrigin as text", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","crossOrigin":"false"}`), "JSON object"},
		{"crossOrigin null", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","crossOrigin":null}`), "JSON object"},
		{"no origin", json(`{"type":"webauthn.get","challenge":"%s"}`), "JSON object"},
		{"null", json(`null`), "JSON object"},
		{"nothing", json(``), "JSON object"},
		{"a list", json(`[{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com"}]`), "JSON object"},
		{"something after it", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com"}{}`), "JSON object"},
		{"a brace after it", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com"}}`), "JSON object"},
		{"cut off", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com"`), "JSON object"},
		{"a comma too many", json(`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com",}`), "JSON object"},
		{"broken UTF-8", json("{\"type\":\"webauthn.get\",\"challenge\":\"%s\",\"origin\":\"https://vault.example.com\",\"x\":\"\xff\"}"), "JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.annsPasskey(t, tt.change)
			_, err := r.verify()
			if tt.says == "" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, approval.ErrSignature) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v does not say %q", err, tt.says)
			}
		})
	}
}

// TestVerifyPasskeyBytes: nothing of what the passkey signed can be changed after it.
func TestVerifyPasskeyBytes(t *testing.T) {
	for _, part := range []string{"signature", "authenticator data", "client data"} {
		r := newRig(t)
		s := &r.bundle.Given[0].Signatures[1]
		in := map[string]*[]byte{"signature": &s.Signature, "authenticator data": &s.AuthenticatorData, "client data": &s.ClientData}[part]
		whole := *in
		for i := range whole {
			*in = append([]byte{}, whole...)
			(*in)[i] ^= 1
			if _, err := r.verify(); err == nil {
				t.Errorf("byte %d of the %s is changed and it verifies", i, part)
			}
			*in = whole[:i]
			if _, err := r.verify(); err == nil {
				t.Errorf("of the %s %d bytes are left and it verifies", part, i)
			}
		}
		*in = whole
		if _, err := r.verify(); err != nil {
			t.Error(err)
		}
	}
}

func encode(st *approval.Statement) string {
	hash := st.Hash()
	return base64.RawURLEncoding.EncodeToString(hash[:])
}

// FuzzClientData: whatever is in client data, only what a browser writes for this
// statement on the pinned page is accepted, and the parser that a lenient program
// would use does not see anything else in it.
func FuzzClientData(f *testing.F) {
	r := newRig(f)
	k := r.ann.Of(f, approval.Passkey)
	st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
	challenge := encode(st)
	for _, seed := range []string{
		`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","crossOrigin":false}`,
		`{"type":"webauthn.get","Challenge":"%s","origin":"https://vault.example.com"}`,
		`{"type":"webauthn.get","challenge":"x","challenge":"%s","origin":"https://vault.example.com","x":[1,{"a":null}]}`,
		`{"type":"webauthn.get","challenge":"%s","origin":"https://vault.example.com","topOrigin":"","crossOrigin":true}`,
		`null`, `{}`, `[]`, `{"type":1}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		in := []byte(strings.ReplaceAll(text, "%s", challenge))
		s := r.ann.Assert(t, k, approvaltest.Assertion{ClientData: in})
		if in == nil || k.Verify(st, &s) != nil {
			return
		}
		for _, name := range []string{"type", "challenge", "origin"} {
			if n := strings.Count(string(in), fmt.Sprintf("%q", name)); n == 0 && !strings.Contains(string(in), `\`) {
				t.Errorf("accepted without %s: %s", name, in)
			}
		}
		if !strings.Contains(string(in), `\`) && (!strings.Contains(string(in), `"`+challenge+`"`) || !strings.Contains(string(in), `"https://vault.example.com"`)) {
			t.Errorf("accepted: %s", in)
		}
		if strings.Contains(string(in), `"crossOrigin":true`) && strings.Count(string(in), "{") == 1 {
			t.Errorf("accepted: %s", in)
		}
	})
}
