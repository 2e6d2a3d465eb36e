package keyholder

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

const (
	// oidcTimeout bounds one request to the provider, oidcLogin the time that a
	// person has in the browser.
	oidcTimeout = 20 * time.Second
	oidcLogin   = 5 * time.Minute
	// maxOIDC bounds an answer of the provider, in bytes.
	maxOIDC = 1 << 20
	// callbackPath is where the browser comes back to.
	callbackPath = "/callback"
)

// OIDCConfig is what OIDC needs from its surroundings.
type OIDCConfig struct {
	// Client speaks to the provider; it decides which authorities are trusted.
	// Nil means http.DefaultTransport. Redirects are not followed.
	Client *http.Client
	// Port of the loopback address that the browser comes back to. 0, the
	// default, takes a free one (RFC 8252, 7.3); providers that want the exact
	// address registered need a fixed one.
	Port int
}

type oidcSource struct {
	asker
	client *http.Client
	port   int
}

// OIDC has the person log in with a third party in the browser (authorization
// code with PKCE, RFC 7636, and a loopback redirect, RFC 8252), and asks for the
// PIN where the authenticator has one.
func OIDC(p Prompter, cfg OIDCConfig) Source {
	client := &http.Client{Timeout: oidcTimeout}
	if cfg.Client != nil {
		*client = *cfg.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return oidcSource{asker{p}, client, cfg.Port}
}

func (oidcSource) Method() identity.Method { return identity.OIDC }

// New has the person log in once to learn which account it is.
func (s oidcSource) New(ctx context.Context, n *Registering) (*secret.Bytes, error) {
	if n.Provider == nil {
		return nil, errors.New("keyholder: no provider to log in with")
	}
	provider := *n.Provider
	provider.Nonce = token()
	idToken, err := s.login(ctx, provider)
	if err != nil {
		return nil, fmt.Errorf("the account at %s was not shown, so nothing was made: %w", provider.Issuer, err)
	}
	claims, err := readClaims(idToken)
	if err != nil {
		return nil, err
	}
	n.Parameters.OIDC = &identity.OIDCParameters{Provider: provider.Provider, Issuer: provider.Issuer, Subject: claims.Subject}
	return s.newPIN(ctx, n)
}

func (s oidcSource) Get(ctx context.Context, c *Challenge) (*Answer, error) {
	if c.OIDC == nil {
		return nil, errors.New("the server did not say with whom to log in: authenticator " + c.Name + " is of another kind")
	}
	idToken, err := s.login(ctx, *c.OIDC)
	if err != nil {
		return nil, err
	}
	pin, err := s.pin(ctx, c)
	return &Answer{Information: pin, IDToken: idToken}, err
}

// provider is what discovery says (OpenID Connect Discovery 1.0, 4.2).
type provider struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
}

// login gets an ID token for the nonce.
func (s oidcSource) login(ctx context.Context, c OIDCChallenge) (string, error) {
	p, err := s.discover(ctx, c.Issuer)
	if err != nil {
		return "", err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		return "", fmt.Errorf("the browser has nowhere to come back to: %w", err)
	}
	defer listener.Close() // again, where the server has done so
	redirect := "http://" + listener.Addr().String() + callbackPath
	state, verifier := token(), token()
	challenge := sha256.Sum256([]byte(verifier))
	query := url.Values{
		"response_type": {"code"}, "client_id": {c.ClientID}, "redirect_uri": {redirect}, "scope": {scopes(c.Scopes)},
		"state": {state}, "nonce": {c.Nonce}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])},
	}
	address, err := url.Parse(p.Authorization)
	if err != nil || address.Scheme != "https" && address.Scheme != "http" {
		return "", fmt.Errorf("%s names a page to log in on that is none", c.Issuer)
	}
	all := address.Query()
	for name, values := range query {
		all[name] = values
	}
	address.RawQuery = all.Encode()
	back := serveCallbacks(listener, state)
	s.p.Show("Log in with " + c.Issuer + " in the browser:\n\n  " + address.String() + "\n")
	if err := s.p.OpenURL(address.String()); err != nil {
		s.p.Show("The browser could not be opened; open the address above yourself, on this machine.")
	}
	code, err := back.await(ctx)
	if err != nil {
		return "", err
	}
	return s.exchange(ctx, p, c, code, verifier, redirect)
}

// scopes always has openid, without which there is no ID token.
func scopes(more []string) string {
	if !slices.Contains(more, "openid") {
		more = append([]string{"openid"}, more...)
	}
	return strings.Join(more, " ")
}

// token is 256 random bits for state, verifier (RFC 7636, 4.1) or nonce.
func token() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	return base64.RawURLEncoding.EncodeToString(b)
}

func (s oidcSource) discover(ctx context.Context, issuer string) (provider, error) {
	var p provider
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", nil)
	if err == nil {
		err = s.do(req, &p)
	}
	if err != nil {
		return p, fmt.Errorf("%s does not say how to log in: %w", issuer, err)
	}
	if p.Issuer != issuer {
		return p, fmt.Errorf("%s says that it is %s", issuer, p.Issuer)
	}
	return p, nil
}

// exchange redeems the code: whoever intercepts that lacks the verifier. Some
// providers want what they call the client's secret too (RFC 6749, 2.3.1).
func (s oidcSource) exchange(ctx context.Context, p provider, c OIDCChallenge, code, verifier, redirect string) (string, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
		"client_id": {c.ClientID}, "code_verifier": {verifier},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if c.ClientSecret != "" {
		req.SetBasicAuth(url.QueryEscape(c.ClientID), url.QueryEscape(c.ClientSecret))
	}
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := s.do(req, &answer); err != nil {
		return "", fmt.Errorf("%s gave no token for the login: %w", c.Issuer, err)
	}
	// The token came from the issuer itself, over the connection that was just
	// made, so its signature is for the server to check (OpenID Connect Core
	// 1.0, 3.1.3.7, 6). What the server would refuse is better said here.
	claims, err := readClaims(answer.IDToken)
	if err != nil {
		return "", err
	}
	if claims.Issuer != c.Issuer || claims.Nonce != c.Nonce || claims.Subject == "" {
		return "", fmt.Errorf("the token of %s is for another login than this one", c.Issuer)
	}
	return answer.IDToken, nil
}

// do sends a request and decodes the answer. Its errors hold no part of a body,
// which may have tokens in it.
func (s oidcSource) do(req *http.Request, into any) error {
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOIDC))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Error string `json:"error"` // RFC 6749, 5.2: printable ASCII
		}
		if json.Unmarshal(body, &refusal) == nil && refusal.Error != "" && len(refusal.Error) < 64 {
			return fmt.Errorf("%s answered %q (status %d)", req.URL.Host, refusal.Error, resp.StatusCode)
		}
		return fmt.Errorf("%s answered with status %d", req.URL.Host, resp.StatusCode)
	}
	if json.Unmarshal(body, into) != nil {
		return fmt.Errorf("the answer of %s is not the JSON that it should be", req.URL.Host)
	}
	return nil
}

type claims struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	Nonce   string `json:"nonce"`
}

// readClaims reads an ID token without checking its signature.
func readClaims(idToken string) (c claims, err error) {
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		return c, errors.New("the provider's ID token is not a signed JWT")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return c, errors.New("the provider's ID token cannot be read")
	}
	return c, nil
}
