package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// issuer is a small OpenID Connect provider over TLS. plugin/e2e uses a real one.
type issuer struct {
	t      *testing.T
	server *httptest.Server
	key    *ecdsa.PrivateKey
	asked  atomic.Int32
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, key: key}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		i.asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	i.server = httptest.NewTLSServer(mux)
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw}))
}

// token signs claims with a key under an algorithm.
func (i *issuer) token(key any, alg jose.SignatureAlgorithm, claims map[string]any) string {
	i.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		i.t.Fatal(err)
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	jws, err := s.Sign(raw)
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func TestOIDC(t *testing.T) {
	m, clock, _ := loginMount(t)
	i := newIssuer(t)
	m.must(logical.UpdateOperation, "config/identities/oidc/corp", map[string]any{"issuer": i.server.URL, "client_id": "mpc", "ca_pem": i.pem(), "scopes": "email,openid"})
	p := m.enrol("alice-corp", identity.OIDC, "", "", func(a *identity.Authenticator) {
		a.Parameters.OIDC = &identity.OIDCParameters{Provider: "corp", Issuer: i.server.URL, Subject: "alice@corp"}
	})
	claims := func(challenge map[string]any, change map[string]any) map[string]any {
		now := clock.now()
		out := map[string]any{"iss": i.server.URL, "aud": "mpc", "sub": "alice@corp", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nonce": challenge["oidc"].(map[string]any)["nonce"]}
		for k, v := range change {
			out[k] = v
		}
		return out
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.ok(err)
	challenge := p.challenge()
	o := challenge["oidc"].(map[string]any)
	if o["provider"] != "corp" || o["issuer"] != i.server.URL || o["client_id"] != "mpc" || len(o["nonce"].(string)) != 32 || strings.Join(o["scopes"].([]string), " ") != "openid email" {
		t.Errorf("%v", o)
	}
	second := p.challenge()
	for what, bad := range map[string]string{
		"another account":       i.token(i.key, jose.ES256, claims(challenge, map[string]any{"sub": "bob@corp"})),
		"another audience":      i.token(i.key, jose.ES256, claims(challenge, map[string]any{"aud": "other"})),
		"another party":         i.token(i.key, jose.ES256, claims(challenge, map[string]any{"azp": "other"})),
		"several audiences":     i.token(i.key, jose.ES256, claims(challenge, map[string]any{"aud": []string{"mpc", "other"}})),
		"another issuer":        i.token(i.key, jose.ES256, claims(challenge, map[string]any{"iss": "https://other.example.com"})),
		"expired":               i.token(i.key, jose.ES256, claims(challenge, map[string]any{"exp": clock.now().Add(-time.Second).Unix()})),
		"another challenge's":   i.token(i.key, jose.ES256, claims(second, nil)),
		"without nonce":         i.token(i.key, jose.ES256, claims(challenge, map[string]any{"nonce": ""})),
		"without subject":       i.token(i.key, jose.ES256, claims(challenge, map[string]any{"sub": ""})),
		"signed by another":     i.token(other, jose.ES256, claims(challenge, nil)),
		"signed with a secret":  i.token([]byte(strings.Repeat("k", 32)), jose.HS256, claims(challenge, nil)),
		"not signed":            "eyJhbGciOiJub25lIn0.e30.",
		"no token at all":       "x",
		"with distributed ones": i.token(i.key, jose.ES256, claims(challenge, map[string]any{"sub": "x", "_claim_names": map[string]any{"a": "b"}})),
	} {
		_, _, status, msg := m.release(challenge, map[string]any{"id_token": bad})
		if status != http.StatusForbidden || !strings.Contains(msg, "login failed") || strings.Contains(msg, bad) {
			t.Errorf("%s: %d %s", what, status, msg)
		}
	}
	good := i.token(i.key, jose.ES256, claims(challenge, nil))
	c := p.releases(challenge, map[string]any{"id_token": good})
	c.does(identity.ReadOperation, "authenticators/alice-corp", nil)
	if _, _, status, _ := m.release(challenge, map[string]any{"id_token": good}); status != http.StatusForbidden {
		t.Errorf("the same token again: %d", status)
	}
	if n := i.asked.Load(); n > 4 { // two when it was configured or first used, the keys again for what is signed by nobody known
		t.Errorf("the provider was asked %d times", n)
	}

	// A name that does not exist: every token is refused, that of any account too.
	fake := m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": "nobody", "kind": "oidc"})
	if fake["oidc"].(map[string]any)["provider"] != "corp" {
		t.Errorf("%v", fake)
	}
	var said []string
	for _, k := range []map[string]any{fake, p.challenge()} {
		_, _, status, msg := m.release(k, map[string]any{"id_token": i.token(i.key, jose.ES256, claims(k, map[string]any{"sub": "mallory@corp"}))})
		if status != http.StatusForbidden {
			t.Errorf("%d %s", status, msg)
		}
		said = append(said, msg)
	}
	if said[0] != said[1] {
		t.Errorf("refusals differ: %q", said)
	}

	// The provider's keys change.
	i.key = other
	challenge = p.challenge()
	p.releases(challenge, map[string]any{"id_token": i.token(other, jose.ES256, claims(challenge, nil))})

	// Without the provider nobody gets in, and nobody is told apart.
	i.server.Close()
	clock.pass(oidcKeep + time.Second)
	for _, name := range []string{"alice-corp", "nobody"} {
		k := m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": name, "kind": "oidc"})
		_, _, status, msg := m.release(k, map[string]any{"id_token": i.token(other, jose.ES256, claims(k, nil))})
		if status != http.StatusServiceUnavailable || !strings.Contains(msg, "nothing was released") {
			t.Errorf("%s: %d %s", name, status, msg)
		}
	}
}

func TestConfigIdentities(t *testing.T) {
	m, _, _ := loginMount(t)
	got := m.must(logical.ReadOperation, "config/identities", nil)
	if got["session_ttl"] != int64(900) || got["phone_webhook"] != "" || got["phone_webhook_header_set"] != false {
		t.Errorf("defaults: %v", got)
	}
	for data, text := range map[*map[string]any]string{
		{"session_ttl": "10s"}:                                         "session_ttl must be 1m to 12h",
		{"session_ttl": "24h"}:                                         "session_ttl must be 1m to 12h",
		{"phone_webhook": "http://sms.example.com"}:                    "https://",
		{"phone_webhook": "https://user:pass@sms.example.com"}:         "user or password",
		{"phone_webhook": "sms"}:                                       "not a URL",
		{"phone_webhook_header": "Bearer x"}:                           "there is none",
		{"phone_webhook": "https://x", "phone_webhook_header": "a\nb"}: "printable",
		{"passkey_relying_party": "https://x"}:                         "must be a domain",
	} {
		m.fails(logical.UpdateOperation, "config/identities", *data, http.StatusBadRequest, text)
	}
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": "https://sms.example.com/send", "phone_webhook_header": "Bearer for-the-webhook"})
	got = m.must(logical.UpdateOperation, "config/identities", map[string]any{"session_ttl": 600})
	if got["phone_webhook_header_set"] != true || got["phone_webhook"] != "https://sms.example.com/send" || got["session_ttl"] != int64(600) {
		t.Errorf("fields that were left out: %v", got)
	}
	m.fails(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": "https://mallory.example.com"}, http.StatusBadRequest, "write phone_webhook_header with it")
	got = m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": ""})
	if got["phone_webhook_header_set"] != false {
		t.Errorf("the header stays: %v", got)
	}
	if r, err := m.b.store.identitiesConfig(t.Context()); err != nil || r.PhoneWebhookHeader != "" {
		t.Error("the header is kept in storage", err)
	}

	const path = "config/identities/oidc/corp"
	for data, text := range map[*map[string]any]string{
		{"client_id": "x"}: "issuer and client_id",
		{"issuer": "http://id.example.com", "client_id": "x"}:                                      "https://",
		{"issuer": "https://id.example.com/?a=b", "client_id": "x"}:                                "without a query",
		{"issuer": "https://id.example.com", "client_id": "x", "ca_pem": "x"}:                      "ca_pem",
		{"issuer": "https://id.example.com", "client_id": "x", "scopes": []string{"with a space"}}: "scopes",
	} {
		m.fails(logical.UpdateOperation, path, *data, http.StatusBadRequest, text)
	}
	m.fails(logical.ReadOperation, path, nil, http.StatusNotFound, "no provider")
	resp, status, msg := m.do(logical.UpdateOperation, path, map[string]any{"issuer": "http://127.0.0.1:1", "client_id": "mpc"})
	if status != http.StatusOK || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "could not be read") {
		t.Errorf("a provider that is not there: %d %s %v", status, msg, resp)
	}
	if got := m.must(logical.ReadOperation, path, nil); got["client_id"] != "mpc" || got["issuer"] != "http://127.0.0.1:1" {
		t.Errorf("%v", got)
	}
	if got := m.must(logical.ListOperation, "config/identities/oidc/", nil); len(got["keys"].([]string)) != 1 {
		t.Errorf("%v", got)
	}
	m.must(logical.DeleteOperation, path, nil)
	m.fails(logical.ReadOperation, path, nil, http.StatusNotFound, "no provider")
	m.fails(logical.ReadOperation, "config/identities/oidc/A!", nil, http.StatusBadRequest, "cannot be the name")
}

// TestPasskey: parameters come as they were registered; PRF's output opens it.
func TestPasskey(t *testing.T) {
	m, _, _ := loginMount(t)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"passkey_relying_party": "vault.example.com"})
	credential, salt := []byte("0123456789abcdef"), make([]byte, 32)
	p := m.enrol("alice-key", identity.Passkey, "the output of the PRF", "", func(a *identity.Authenticator) {
		a.Parameters.Passkey = &identity.PasskeyParameters{RelyingParty: "vault.example.com", CredentialID: credential, PublicKey: []byte("cose"), Salt: salt}
	})
	got := p.challenge()["passkey"].(map[string]any)
	if got["relying_party"] != "vault.example.com" || got["credential_id"] != encode64(credential) || got["salt"] != encode64(salt) || len(got) != 3 {
		t.Errorf("%v", got)
	}
	p.login().does(identity.ReadOperation, "authenticators/alice-key", nil)
}
