package keyholder

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
)

// idp is a provider that plays by the book, unless a test makes it not.
type idp struct {
	*httptest.Server
	subject string
	claims  func(map[string]any) // changes the ID token
	config  func(map[string]any) // changes what discovery says
	query   url.Values           // of the last page shown
	deny    bool
	secret  string // that it wants of clients
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	p := &idp{subject: "dan"}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		c := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize?tenant=1&state=of-the-provider", "token_endpoint": p.URL + "/token"}
		if p.config != nil {
			p.config(c)
		}
		_ = json.NewEncoder(w).Encode(c)
	})
	mux.HandleFunc("/token", p.token)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// browser is the person's: it follows the page back to mpckms.
func (p *idp) browser(t *testing.T) func(string) error {
	return func(page string) error {
		u, err := url.Parse(page)
		if err != nil {
			return err
		}
		p.query = u.Query()
		back := url.Values{"state": {p.query.Get("state")}, "code": {"the code"}}
		if p.deny {
			back = url.Values{"state": {p.query.Get("state")}, "error": {"access_denied"}, "error_description": {"<b>x</b>"}}
		}
		resp, err := http.Get(p.query.Get("redirect_uri") + "?" + back.Encode())
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

func (p *idp) token(w http.ResponseWriter, r *http.Request) {
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	_, escaped, _ := r.BasicAuth()
	secret, _ := url.QueryUnescape(escaped) // RFC 6749, 2.3.1
	if r.FormValue("code") != "the code" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.query.Get("code_challenge") ||
		p.query.Get("code_challenge_method") != "S256" || r.FormValue("redirect_uri") != p.query.Get("redirect_uri") || secret != p.secret {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"what a token looks like"}`))
		return
	}
	c := map[string]any{"iss": p.URL, "sub": p.subject, "nonce": p.query.Get("nonce"), "aud": r.FormValue("client_id")}
	if p.claims != nil {
		p.claims(c)
	}
	raw, _ := json.Marshal(c)
	_ = json.NewEncoder(w).Encode(map[string]string{"id_token": "e30." + base64.RawURLEncoding.EncodeToString(raw) + ".c2ln", "access_token": "x"})
}

func (p *idp) at(s *server) {
	s.data["config/identities/oidc/corp"] = map[string]any{"issuer": p.URL, "client_id": "mpckms", "scopes": []string{"email"}, "client_secret": p.secret}
}

func TestOIDC(t *testing.T) {
	for _, pin := range []bool{false, true} {
		s, provider := newServer(t), newIDP(t)
		if pin {
			provider.secret = "one of those: with a colon & more"
		}
		provider.at(s)
		p := &person{secrets: map[Topic]string{TopicPIN: "8261"}, browse: provider.browser(t)}
		a := register1(t, s, "dan", identity.OIDC, OIDC(p, OIDCConfig{}), RegisterOptions{Provider: "corp", PIN: pin})
		if o := a.Parameters.OIDC; o.Subject != "dan" || o.Issuer != provider.URL || o.Provider != "corp" || a.ServerTrusting() == pin {
			t.Errorf("made %+v", o)
		}
		if q := provider.query; q.Get("scope") != "openid email" || q.Get("client_id") != "mpckms" || q.Get("tenant") != "1" || q.Get("response_type") != "code" || q.Get("state") == "of-the-provider" {
			t.Errorf("asked for %v", q)
		}
		// The engine checks the token; here it takes the one it is given.
		session, err := Login(t.Context(), takesTokens{s}, "dan", identity.OIDC, OIDC(p, OIDCConfig{}))
		if err != nil {
			t.Fatal(err)
		}
		session.Wipe()
		if provider.query.Get("nonce") != s.nonce {
			t.Errorf("the nonce was %q", provider.query.Get("nonce"))
		}
	}
}

// takesTokens has the server release its part for whatever ID token comes.
type takesTokens struct{ *server }

func (s takesTokens) Call(ctx context.Context, op Op, path string, in map[string]any, out any) error {
	if token, ok := in["id_token"].(string); ok {
		s.idTokens[token] = true
	}
	return s.server.Call(ctx, op, path, in, out)
}

func TestOIDCRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *idp)
		says   string
	}{
		"another issuer":  {func(p *idp) { p.config = func(c map[string]any) { c["issuer"] = "https://else.example" } }, "says that it is"},
		"no web page":     {func(p *idp) { p.config = func(c map[string]any) { c["authorization_endpoint"] = "file:///etc/passwd" } }, "that is none"},
		"another nonce":   {func(p *idp) { p.claims = func(c map[string]any) { c["nonce"] = "of another login" } }, "for another login"},
		"another in it":   {func(p *idp) { p.claims = func(c map[string]any) { c["iss"] = "https://else.example" } }, "for another login"},
		"nobody":          {func(p *idp) { p.claims = func(c map[string]any) { c["sub"] = "" } }, "for another login"},
		"the person says": {func(p *idp) { p.deny = true }, "access_denied"},
		"a wrong code":    {func(p *idp) { p.secret = "that nobody was told" }, `"invalid_grant"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, provider := newServer(t), newIDP(t)
			provider.at(s)
			c.change(provider)
			p := &person{browse: provider.browser(t)}
			_, _, err := Register(t.Context(), s, "dan", identity.OIDC, OIDC(p, OIDCConfig{}), RegisterOptions{Provider: "corp"})
			fails(t, err, nil, c.says)
			if strings.Contains(err.Error(), "<b>") || strings.Contains(err.Error(), "looks like") || s.stored["dan"] != nil {
				t.Errorf("said or made too much: %v", err)
			}
		})
	}
}
