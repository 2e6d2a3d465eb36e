package backend

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// oidcTimeout bounds one request to a provider; a token needs two at most, its
// configuration and its keys, which are both kept.
const oidcTimeout = 4 * time.Second

// providerCheckTimeout bounds the look at a provider that was just configured.
const providerCheckTimeout = 3 * time.Second

// maxOIDCAnswer bounds what is read of a provider's answer, in bytes.
const maxOIDCAnswer = 1 << 20

// oidcKeep is how long a provider's configuration is believed. Its keys are read
// anew when a token has one that is not known.
const oidcKeep = time.Hour

// errNoProvider: the third party does not answer. The same for every name, since
// nobody's account is looked at before the token verifies.
var errNoProvider = errors.New("the provider does not answer")

// providers verifies ID tokens of third parties. Safe for concurrent use.
type providers struct {
	now func() time.Time

	mu   sync.Mutex
	kept map[string]*keptProvider // by name
}

type keptProvider struct {
	settings oidcProviderRecord
	provider *oidc.Provider
	read     time.Time
	close    func() // of idle connections
}

func newProviders(now func() time.Time) *providers {
	return &providers{now: now, kept: map[string]*keptProvider{}}
}

// verify checks an ID token (OpenID Connect Core 1.0, 3.1.3.7): issuer, audience,
// authorised party, signature, expiry, nonce. It returns the subject. Errors:
// errNoProvider; every other one says what is wrong with the token and quotes
// nothing of it.
func (p *providers) verify(ctx context.Context, name string, settings oidcProviderRecord, token, nonce string) (subject string, err error) {
	provider, err := p.provider(ctx, name, settings)
	if err != nil {
		return "", err
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: settings.ClientID, Now: p.now})
	t, err := verifier.Verify(ctx, token)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return "", errors.New("the token has expired")
	case err != nil && ctx.Err() != nil:
		return "", fmt.Errorf("%w: %w", errNoProvider, ctx.Err())
	case err != nil:
		return "", errors.New("issuer, audience or signature of the token is not right, or the provider's keys could not be read")
	case subtle.ConstantTimeCompare([]byte(t.Nonce), []byte(nonce)) != 1:
		return "", errors.New("the token is for another challenge")
	case t.Subject == "":
		return "", errors.New("the token names nobody")
	}
	var claims struct {
		AuthorizedParty string `json:"azp"`
	}
	if err := t.Claims(&claims); err != nil {
		return "", errors.New("the token's claims cannot be read")
	}
	if claims.AuthorizedParty != "" && claims.AuthorizedParty != settings.ClientID || claims.AuthorizedParty == "" && len(t.Audience) > 1 {
		return "", errors.New("the token was given to another party")
	}
	return t.Subject, nil
}

// provider returns what was read of a provider, or reads it.
func (p *providers) provider(ctx context.Context, name string, settings oidcProviderRecord) (*oidc.Provider, error) {
	p.mu.Lock()
	k := p.kept[name]
	p.mu.Unlock()
	if k != nil && sameProvider(k.settings, settings) && p.now().Sub(k.read) < oidcKeep && !p.now().Before(k.read) {
		return k.provider, nil
	}
	k, err := discover(ctx, settings)
	if err != nil {
		return nil, err
	}
	k.read = p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.kept[name]; old != nil {
		old.close()
	}
	p.kept[name] = k
	return k.provider, nil
}

// forget drops a provider that was removed, and closes its connections; an empty
// name drops all.
func (p *providers) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, k := range p.kept {
		if name == "" || n == name {
			k.close()
			delete(p.kept, n)
		}
	}
}

func sameProvider(a, b oidcProviderRecord) bool {
	return a.Issuer == b.Issuer && a.ClientID == b.ClientID && a.CAPEM == b.CAPEM
}

// discover reads a provider's configuration (OpenID Connect Discovery 1.0, 4).
func discover(ctx context.Context, settings oidcProviderRecord) (*keptProvider, error) {
	client, err := outboundClient(settings.CAPEM, oidcTimeout)
	if err != nil {
		return nil, err
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), settings.Issuer)
	if err != nil {
		client.CloseIdleConnections()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", errNoProvider, err)
	}
	return &keptProvider{settings: settings, provider: provider, close: client.CloseIdleConnections}, nil
}

// outboundClient follows no redirect, reads a bounded answer in a bounded time, and
// trusts the given certificates alone where some are given.
func outboundClient(caPEM string, timeout time.Duration) (*http.Client, error) {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: timeout,
		IdleConnTimeout:       time.Minute,
		MaxIdleConns:          2,
	}
	if caPEM != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(caPEM)) {
			return nil, invalid("ca_pem has no certificate in PEM")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Transport: boundedAnswers{transport}, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// boundedAnswers cuts the answers of a transport off.
type boundedAnswers struct{ *http.Transport }

func (t boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxOIDCAnswer), resp.Body}
	return resp, nil
}

// scopes are those that a client asks for: openid and what is configured.
func (r oidcProviderRecord) scopes() []string {
	out := []string{oidc.ScopeOpenID}
	for _, s := range r.Scopes {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
