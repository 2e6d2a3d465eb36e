//go:build e2e

package e2e_test

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestPasskeyAuthenticator logs in with a passkey's PRF: a real browser on the page
// that mpckms serves, with an authenticator of the DevTools protocol.
func TestPasskeyAuthenticator(t *testing.T) {
	e := enable(t, harness.Shared(t), "passkeys", 3)
	b := harness.StartBrowser(t)
	ada := newUser(t, e)
	laptop := newKeyring(t, b, "passkey-ada", emulation.SetDeviceMetricsOverride(1280, 800, 1, false), true, true)
	create := []string{"authenticator", "create", "ada", "--kind", "passkey"}
	login := []string{"login", "--authenticator", "ada", "-o", "json"}

	t.Run("the operator has not said that there are any", func(t *testing.T) {
		advice := "vault write passkeys/config/identities passkey_relying_party=localhost"
		refusedWith(t, ada.admin(t, create...), 1, "passkey_relying_party", advice)
		e.write(t, "config/identities", map[string]any{"passkey_relying_party": "vault.example.com"})
		refusedWith(t, ada.admin(t, create...), 1, "vault.example.com", advice)
		e.write(t, "config/identities", map[string]any{"passkey_relying_party": "localhost"})
	})

	made := ada.start(t, e.RootToken, create...)
	laptop.open(t, passkeyPage(t, made))
	laptop.waitText(t, "Make a passkey", "ada")
	laptop.seen(t, "1-make")
	laptop.click(t, "Make the passkey")
	laptop.waitText(t, "Use it", "done")
	laptop.seen(t, "2-use-it")
	laptop.click(t, "Use it")
	laptop.waitText(t, "Go back to mpckms")
	laptop.seen(t, "3-done")
	ok(t, made.wait(t), "Authenticator ada was made", "passkey")
	owned(t, e, "acme", "ada")

	t.Run("log in and open a secret", func(t *testing.T) {
		opens(t, ada.withPasskey(t, laptop, login...), "ada", "acme")
		put := ada.start(t, "", "secret", "put", "acme/dns", "--role", "web", "--file", ada.file(t, "dns", "token"))
		laptop.usesPasskey(t, put)
		ok(t, put.wait(t))
		ok(t, ada.withPasskey(t, laptop, "secret", "show", "acme/dns"), "token")
	})
}

// newKeyring opens a tab in a browser that keeps passkeys.
func newKeyring(t *testing.T, b *e2e.Browser, name string, screen chromedp.Action, prf, verified bool) *page {
	t.Helper()
	p := newPage(t, b, name, screen, webauthn.Enable())
	p.run(t, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		p.authenticator, err = webauthn.AddVirtualAuthenticator(&webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Ctap2version: webauthn.Ctap2versionCtap21, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: verified, HasPrf: prf, AutomaticPresenceSimulation: true,
		}).Do(ctx)
		return err
	}))
	return p
}

var passkeyAddress = regexp.MustCompile(`http://(?:[a-z]+\.)?localhost:\d+/[\w-]{43}/`)

// passkeyPage waits for mpckms to show its page.
func passkeyPage(t *testing.T, r *running) (address string) {
	t.Helper()
	await(t, "the page for the passkey", func() bool {
		address = passkeyAddress.FindString(r.said())
		return address != ""
	})
	return address
}

// usesPasskey has the person go to the page and use the passkey.
func (p *page) usesPasskey(t *testing.T, r *running) {
	t.Helper()
	p.open(t, passkeyPage(t, r))
	p.waitText(t, "Use your passkey")
	p.click(t, "Use the passkey")
	p.waitText(t, "Go back to mpckms")
}

// withPasskey runs mpckms without a Vault token, and uses the passkey when it asks.
func (u *user) withPasskey(t *testing.T, p *page, args ...string) e2e.Result {
	t.Helper()
	r := u.start(t, "", args...)
	p.usesPasskey(t, r)
	return r.wait(t)
}

var _ = io.EOF
var _ = http.MethodGet
var _ = strings.Contains
