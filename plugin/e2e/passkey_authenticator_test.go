//go:build e2e

package e2e_test

import (
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-mpc/keyholder"
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
	login := []string{"login", "acme", "--authenticator", "ada", "-o", "json"}

	nobody := func(t *testing.T, name string) {
		t.Helper()
		if s, err := e.Client.Logical().Read("passkeys/authenticators/" + name); err != nil || s != nil {
			t.Errorf("there is an authenticator %s: %v", name, err)
		}
	}

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

	t.Run("offline, on a bound device", func(t *testing.T) {
		ok(t, ada.withPasskey(t, laptop, "device", "bind", "acme", "--label", "laptop"))
		away := newUser(t, e, "VAULT_ADDR=http://127.0.0.1:1")
		away.dir = ada.dir
		ok(t, away.withPasskey(t, laptop, "secret", "show", "acme/dns", "--offline"), "token")
	})

	t.Run("sign with a custody key", func(t *testing.T) {
		r := ada.start(t, e.RootToken, "identity", "create", "hers", "--kind", "person", "--authenticator", "ada", "--role", "treasury")
		laptop.usesPasskey(t, r)
		ok(t, r.wait(t))
		r = ada.start(t, e.RootToken, "account", "create", "gold", "--algorithm", "ed25519", "--threshold", "2", "--shares", "3", "--custody", "hers/gold", "--role", "treasury")
		laptop.usesPasskey(t, r)
		ok(t, r.wait(t))
		r = ada.start(t, "", "account", "sign", "gold", "--input", "pay 5 to bob")
		laptop.usesPasskey(t, r)
		ok(t, r.wait(t))
	})

	t.Run("another browser has not got it, a name that there is not looks the same", func(t *testing.T) {
		phone := newKeyring(t, b, "passkey-phone", emulation.SetDeviceMetricsOverride(390, 844, 2, true), true, true)
		phone.run(t, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}))
		said := map[string]string{}
		for _, name := range []string{"ada", "eve"} {
			r := ada.start(t, "", "login", "--authenticator", name, "--kind", "passkey")
			address := passkeyPage(t, r)
			phone.open(t, address)
			phone.waitText(t, "Use your passkey", name)
			phone.seen(t, "1-"+name)
			phone.click(t, "Use the passkey")
			shown := phone.waitText(t, "No passkey was used", "Try again")
			phone.seen(t, "2-none-"+name)
			phone.click(t, "Stop")
			phone.waitText(t, "Not done")
			phone.seen(t, "3-not-done-"+name)
			out := r.wait(t)
			refusedWith(t, out, 1, "no passkey of authenticator "+name, "nothing was sent and nothing changed")
			said[name] = strings.NewReplacer(address, "ADDRESS", port(t, address), "PORT", name, "NAME").Replace(shown + out.Stderr)
		}
		if said["ada"] != said["eve"] {
			t.Errorf("they differ:\n%s\n%s", said["ada"], said["eve"])
		}
		known, unknown := passkeyChallenge(t, e, "ada"), passkeyChallenge(t, e, "eve")
		for _, c := range []map[string]any{known, unknown} {
			p, _ := c["passkey"].(map[string]any)
			salt, err := base64.StdEncoding.DecodeString(text(p, "salt"))
			id, err2 := base64.StdEncoding.DecodeString(text(p, "credential_id"))
			if err != nil || err2 != nil || len(salt) != 32 || !slices.Contains([]int{16, 20, 32, 64}, len(id)) || p["relying_party"] != "localhost" || len(p) != 3 {
				t.Errorf("the challenge has %v", p)
			}
		}
		if a, b := slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(unknown)); !slices.Equal(a, b) {
			t.Errorf("challenges have %v and %v", a, b)
		}
	})

	t.Run("without verification of its user", func(t *testing.T) {
		strict := newKeyring(t, b, "passkey-unverified", emulation.SetDeviceMetricsOverride(1280, 800, 1, false), true, false)
		r := ada.start(t, e.RootToken, "authenticator", "create", "unverified", "--kind", "passkey")
		strict.open(t, passkeyPage(t, r))
		strict.waitText(t, "Make a passkey")
		strict.click(t, "Make the passkey")
		strict.waitText(t, "No passkey was used")
		strict.click(t, "Stop")
		refusedWith(t, r.wait(t), 1, "its user was not verified", "nothing was made or changed")
		nobody(t, "unverified")
		// A browser that lets it pass is not believed.
		laptop.run(t, webauthn.SetResponseOverrideBits(laptop.authenticator).WithIsBadUV(true))
		refusedWith(t, ada.withPasskey(t, laptop, login...), 1, "not verified", "nothing was sent and nothing changed")
		laptop.run(t, webauthn.SetResponseOverrideBits(laptop.authenticator).WithIsBadUV(false))
		opens(t, ada.withPasskey(t, laptop, login...), "ada", "acme")
	})

	t.Run("again on the same page", func(t *testing.T) {
		r := ada.start(t, "", login...)
		laptop.open(t, passkeyPage(t, r))
		laptop.waitText(t, "Use your passkey")
		laptop.eval(t, `{
			const get = navigator.credentials.get.bind(navigator.credentials);
			navigator.credentials.get = async () => {
				navigator.credentials.get = get;
				throw new DOMException("the finger was dry", "NotAllowedError");
			};
		}`, nil)
		laptop.click(t, "Use the passkey")
		laptop.waitText(t, "No passkey was used")
		laptop.seen(t, "4-again")
		laptop.click(t, "Try again")
		laptop.waitText(t, "Go back to mpckms")
		opens(t, r.wait(t), "ada", "acme")
	})

	t.Run("without a PRF", func(t *testing.T) {
		old := newKeyring(t, b, "passkey-old", emulation.SetDeviceMetricsOverride(1280, 800, 1, false), false, true)
		r := ada.start(t, e.RootToken, "authenticator", "create", "old", "--kind", "passkey")
		old.open(t, passkeyPage(t, r))
		old.waitText(t, "Make a passkey")
		old.click(t, "Make the passkey")
		old.waitText(t, "Not done")
		refusedWith(t, r.wait(t), 1, "no PRF extension", "nothing was made or changed")
		nobody(t, "old")
	})

	t.Run("nobody else answers, and Ctrl-C ends it", func(t *testing.T) {
		r := ada.start(t, "", login...)
		address := passkeyPage(t, r)
		for _, elsewhere := range []string{address[:strings.LastIndex(strings.TrimSuffix(address, "/"), "/")+1], strings.Replace(address, "localhost", "127.0.0.1", 1)} {
			resp, err := http.Get(elsewhere)
			if err != nil {
				t.Fatal(err)
			}
			if _ = resp.Body.Close(); resp.StatusCode < 400 {
				t.Errorf("%s: %s", elsewhere, resp.Status)
			}
		}
		if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if out := r.wait(t); out.Code == 0 || !strings.Contains(out.Stderr, "nterrupted") {
			t.Errorf("exit %d: %s", out.Code, out.Stderr)
		}
		laptop.run(t, chromedp.Navigate("about:blank"))
		if err := laptop.try(chromedp.Navigate(address)); err == nil {
			t.Error("the page is served on")
		}
	})

	t.Run("another passkey in its place", func(t *testing.T) {
		change := []string{"authenticator", "change", "ada"}
		r := ada.start(t, "", change...)
		laptop.usesPasskey(t, r)
		var second string
		await(t, "the page for the new passkey", func() bool {
			all := passkeyAddress.FindAllString(r.said(), -1)
			second = all[len(all)-1]
			return len(all) == 2
		})
		laptop.open(t, second)
		laptop.click(t, "Make the passkey")
		laptop.click(t, "Use it")
		laptop.waitText(t, "Go back to mpckms")
		ok(t, r.wait(t), "The secret of authenticator ada was changed")
		opens(t, ada.withPasskey(t, laptop, login...), "ada", "acme")
	})

	t.Run("a site below localhost", func(t *testing.T) {
		e.write(t, "config/identities", map[string]any{"passkey_relying_party": "mpckms.localhost"})
		r := ada.start(t, e.RootToken, "authenticator", "create", "named", "--kind", "passkey")
		laptop.open(t, passkeyPage(t, r))
		laptop.click(t, "Make the passkey")
		laptop.click(t, "Use it")
		laptop.waitText(t, "Go back to mpckms")
		ok(t, r.wait(t))
		owned(t, e, "named", "named")
		opens(t, ada.withPasskey(t, laptop, "login", "named", "--authenticator", "named", "-o", "json"), "named", "named")
		opens(t, ada.withPasskey(t, laptop, login...), "ada", "acme") // the older one goes on
	})
}

// port is that of an address.
func port(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// passkeyChallenge asks for a login as anybody may.
func passkeyChallenge(t *testing.T, e *engine, name string) (c map[string]any) {
	t.Helper()
	if err := outside(t, e).Call(t.Context(), keyholder.Write, "login/challenge", map[string]any{"authenticator": name, "kind": "passkey"}, &c); err != nil {
		t.Fatal(err)
	}
	return c
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
	defer func() {
		if address == "" {
			t.Logf("mpckms says:\n%s", r.said())
		}
	}()
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
