package backend

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func TestDecodeAnyBase64(t *testing.T) {
	raw := []byte{0xfb, 0xff, 0xfe, 0x01}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
		if got, err := decodeAnyBase64("x", e.EncodeToString(raw), 4, 4); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%x, %v", got, err)
		}
	}
	for _, bad := range []string{"", "+//+AQ===========", "+//+AR", "+//\n+AQ==", "+//+A", "+//+AQ==\r\n", "not base64", strings.Repeat("A", 4000)} {
		if got, err := decodeAnyBase64("x", bad, 4, 4); err == nil {
			t.Errorf("%q decodes to %x", bad, got)
		}
	}
}

// fieldsOf is data as a request to one of the paths brings it.
func fieldsOf(pattern string, raw map[string]any) *framework.FieldData {
	for _, p := range (&backend{}).pathApprove() {
		if p.Pattern == pattern {
			return &framework.FieldData{Raw: raw, Schema: p.Fields}
		}
	}
	return nil
}

func TestParseAnswering(t *testing.T) {
	ticket := encode64URL(make([]byte, approveTicketSize))
	key := approval.ID{1}.String()
	factor := func(changes ...any) map[string]any {
		out := map[string]any{"key": key, "signature": encode64([]byte{1})}
		for i := 0; i < len(changes); i += 2 {
			out[changes[i].(string)] = changes[i+1]
		}
		return out
	}
	many := make([]any, approval.MaxKeys+1)
	for i := range many {
		many[i] = factor("key", approval.ID{byte(i + 1)}.String())
	}
	good := func(changes ...any) map[string]any {
		out := map[string]any{"ticket": ticket, "decision": "approve", "signatures": []any{factor()}}
		for i := 0; i < len(changes); i += 2 {
			out[changes[i].(string)] = changes[i+1]
		}
		return out
	}
	for what, x := range map[string]struct {
		in   map[string]any
		text string
	}{
		"good":                   {good(), ""},
		"with a code":            {good("totp", "123456"), ""},
		"as many as go":          {good("signatures", many[:approval.MaxKeys]), ""},
		"too many":               {good("signatures", many), "1 to 8"},
		"none":                   {good("signatures", []any{}), "1 to 8"},
		"a text":                 {good("signatures", []any{"x"}), "objects"},
		"a key twice":            {good("signatures", []any{factor(), factor()}), "twice"},
		"a field more":           {good("signatures", []any{factor("counter", "1")}), "counter"},
		"a number":               {good("signatures", []any{factor("signature", 7)}), "signature"},
		"no signature":           {good("signatures", []any{factor("signature", "")}), "1 to 1024"},
		"a long signature":       {good("signatures", []any{factor("signature", strings.Repeat("A", 100_000))}), "too long"},
		"long client data":       {good("signatures", []any{factor("client_data", strings.Repeat("A", 100_000))}), "too long"},
		"long authenticator":     {good("signatures", []any{factor("authenticator_data", strings.Repeat("A", 100_000))}), "too long"},
		"an upper-case key":      {good("signatures", []any{factor("key", strings.Repeat("AB", 16))}), "hex"},
		"no ticket":              {good("ticket", ""), "ticket"},
		"a short ticket":         {good("ticket", "AAAA"), "ticket"},
		"another decision":       {good("decision", "Approve"), "approve or refuse"},
		"no decision":            {good("decision", ""), "approve or refuse"},
		"a long code":            {good("totp", strings.Repeat("1", 17)), "six digits"},
		"a code with a refusal":  {good("decision", "refuse", "totp", "123456"), "refusal"},
		"a refusal":              {good("decision", "refuse"), ""},
		"null in place of texts": {good("signatures", []any{factor("client_data", nil, "authenticator_data", nil)}), ""},
	} {
		_, err := parseAnswering(fieldsOf("approve/answer$", x.in))
		if (err == nil) != (x.text == "") || err != nil && !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: %v, want %q", what, err, x.text)
		}
	}
}

// FuzzParseAnswering: whatever is sent is refused or within its bounds, and what is
// stored of it is what was sent.
func FuzzParseAnswering(f *testing.F) {
	f.Add(`{"ticket":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","decision":"approve","signatures":[{"key":"01000000000000000000000000000000","signature":"AAAA"}],"totp":"123456"}`)
	f.Add(`{"ticket":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","decision":"refuse","signatures":[{"key":"01000000000000000000000000000000","signature":"AA","client_data":"e30","authenticator_data":"-_8"}]}`)
	f.Add(`{"signatures":[null,1,{"key":{}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var raw map[string]any
		if json.Unmarshal([]byte(text), &raw) != nil {
			return
		}
		data := fieldsOf("approve/answer$", raw)
		if data.Validate() != nil {
			return // refused before a handler sees it
		}
		a, err := parseAnswering(data)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if len(a.ticket) != approveTicketSize || len(a.signatures) == 0 || len(a.signatures) > approval.MaxKeys || len(a.totp) > maxTOTPText ||
			a.decision != approval.Approve && a.decision != approval.Refuse {
			t.Errorf("%+v", a)
		}
		for i, s := range a.factors() {
			if o := a.signatures[i]; s.Key != o.Key.String() || !bytes.Equal(s.Signature, o.Signature) || len(s.Signature) > maxFactorSignature ||
				len(s.AuthenticatorData) > maxFactorAuthenticator || len(s.ClientData) > maxFactorClientData {
				t.Errorf("%+v", s)
			}
		}
	})
}

// FuzzParseOpening does the same for what opens a request.
func FuzzParseOpening(f *testing.F) {
	f.Add(`{"request":"01000000000000000000000000000000","form":"AAAAAAAAAAAAAAAAAAAAAA","key":"02000000000000000000000000000000","time":1700000000,"signature":"` + encode64(make([]byte, 64)) + `"}`)
	f.Add(`{"time":"1e99"}`)
	f.Fuzz(func(t *testing.T, text string) {
		var raw map[string]any
		if json.Unmarshal([]byte(text), &raw) != nil {
			return
		}
		data := fieldsOf("approve/open$", raw)
		if data.Validate() != nil {
			return
		}
		o, err := parseOpening(data)
		if err != nil {
			return
		}
		if o.request == (approval.ID{}) || o.key == (approval.ID{}) || len(o.signature) != deviceSignatureSize || o.time < 1 {
			t.Errorf("%+v", o)
		}
	})
}
