package keyholder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// ErrPasskeySite: the mount's passkeys belong to no site, or to one whose pages this
// program cannot serve. Its operator sets passkey_relying_party of config/identities
// to localhost.
var ErrPasskeySite = errors.New("this mount has no passkeys that mpckms can use: they have to belong to localhost, whose page mpckms serves itself")

const (
	// passkeySalt and passkeyOutput are what the PRF takes and gives, in bytes
	// (WebAuthn Level 3, 10.1.4).
	passkeySalt   = 32
	passkeyOutput = 32
	// maxCredentialID is that of WebAuthn Level 3, section 4, in bytes.
	maxCredentialID = 1023
)

// PasskeyChallenge says which passkey to use. None of it is secret.
type PasskeyChallenge struct {
	RelyingParty string `json:"relying_party"`
	CredentialID []byte `json:"credential_id"`
	Salt         []byte `json:"salt"`
	// PublicKey is a COSE key. The server does not say it, a device's binding does.
	PublicKey []byte `json:"-"`
}

// is reports whether a record has the same passkey.
func (c *PasskeyChallenge) is(p *identity.PasskeyParameters) bool {
	return c != nil && c.RelyingParty == p.RelyingParty && bytes.Equal(c.CredentialID, p.CredentialID) && bytes.Equal(c.Salt, p.Salt)
}

// PasskeyConfig is what Passkey needs from its surroundings.
type PasskeyConfig struct {
	// Port of the loopback address that the page is served on. 0, the default,
	// takes a free one.
	Port int
}

type passkeySource struct {
	asker
	port int
}

// Passkey has the person use a passkey in the browser, whose PRF (WebAuthn Level 3,
// 10.1.4) gives the information: the same 32 bytes for the same passkey and salt, after
// its user was verified. The page is this program's own, on the loopback address, so
// that these bytes go from the browser to this process and nowhere else.
func Passkey(p Prompter, cfg PasskeyConfig) Source { return passkeySource{asker{p}, cfg.Port} }

func (passkeySource) Method() identity.Method { return identity.Passkey }

// New has a passkey made and used once: many authenticators have a PRF only then, and
// one that does not work is noticed while nothing depends on it. The salt is new, too.
func (s passkeySource) New(ctx context.Context, n *Registering) (*secret.Bytes, error) {
	const nothing = "so nothing was made or changed"
	if err := checkPasskeySite(n.RelyingParty); err != nil {
		return nil, err
	}
	salt := random(passkeySalt)
	task := &passkeyTask{Make: true, Name: n.Name, Site: n.RelyingParty, Salt: salt.Expose()}
	a, err := s.browse(ctx, task, "Make the passkey of "+n.Name+" in the browser, which asks for it twice:")
	if err != nil {
		return nil, fmt.Errorf("no passkey was made for authenticator %s, %s: %w", n.Name, nothing, err)
	}
	defer a.wipe()
	made, err := a.registered(task)
	if err != nil {
		return nil, fmt.Errorf("the passkey that was made for authenticator %s is refused, %s: %w", n.Name, nothing, err)
	}
	n.Parameters.Passkey = made
	return a.output(), nil
}

func (s passkeySource) Get(ctx context.Context, c *Challenge) (*Answer, error) {
	p := c.Passkey
	if p == nil || len(p.Salt) != passkeySalt || len(p.CredentialID) == 0 || len(p.CredentialID) > maxCredentialID {
		return nil, errors.New("the server did not say which passkey to use: authenticator " + c.Name + " is of another kind")
	}
	if err := checkPasskeySite(p.RelyingParty); err != nil {
		return nil, err
	}
	task := &passkeyTask{Name: c.Name, Site: p.RelyingParty, Salt: p.Salt, Credential: p.CredentialID}
	a, err := s.browse(ctx, task, "Use the passkey of "+c.Name+" in the browser:")
	if err != nil {
		return nil, fmt.Errorf("no passkey was used, so nothing was sent and nothing changed: %w", err)
	}
	defer a.wipe()
	if err := a.asserted(task, p.PublicKey); err != nil {
		return nil, fmt.Errorf("what the browser answered is refused, so nothing was sent and nothing changed: %w", err)
	}
	return &Answer{Information: a.output()}, nil
}

// browse shows the page and waits for what the browser answers.
func (s passkeySource) browse(ctx context.Context, task *passkeyTask, what string) (*passkeyAnswer, error) {
	page, err := servePasskey(ctx, s.port, task)
	if err != nil {
		return nil, fmt.Errorf("the browser has nothing to open: %w", err)
	}
	s.p.Show(what + "\n\n  " + page.address() + "\n\n" +
		"It has to be your own browser on this host. Over SSH, forward the port first: ssh -L " + page.port + ":localhost:" + page.port + " HOST\n")
	if err := s.p.OpenURL(page.address()); err != nil {
		s.p.Show("The browser could not be opened; open the address above yourself.")
	}
	a, err := page.await(ctx, passkeyLimit)
	if err != nil {
		return nil, err
	}
	if a.Error != "" {
		defer a.wipe()
		return nil, passkeyFailure(a.Error, task.Name)
	}
	return a, nil
}

// passkeyFailure puts into words what the browser or the page ended with. Codes in
// lower case are the page's own, the others names of DOM exceptions (Web IDL, 2.8.1).
func passkeyFailure(code, name string) error {
	switch code {
	case "stopped":
		return errors.New("it was stopped on the page")
	case "NotAllowedError":
		return fmt.Errorf("it was cancelled or took too long in the browser, its user was not verified, or there is no passkey of authenticator %s for this browser: try again, in the browser or with the device that the passkey was made with", name)
	case "no-webauthn":
		return errors.New("this browser uses no passkeys on the page: open the address in another one, on localhost and not on an IP address")
	case "no-prf":
		return errors.New("the browser, or what keeps its passkeys, has no PRF extension, which the secret comes from: use another browser, another device or a security key. If a passkey was made, it is of no use: delete it where your passkeys are listed")
	case "another":
		return fmt.Errorf("the browser used another passkey than that of authenticator %s", name)
	case "SecurityError":
		return errors.New("the browser does not let this page use passkeys of localhost (SecurityError): open the address as it was shown")
	}
	return fmt.Errorf("the browser failed with %s: try again, or another browser", code)
}

// checkPasskeySite lets through what browsers take for this host, whatever the name
// service says (RFC 6761, 6.3): localhost, and names below it.
func checkPasskeySite(site string) error {
	plain := strings.Trim(site, "abcdefghijklmnopqrstuvwxyz0123456789-.") == "" && len(site) <= 253 && !strings.Contains(site, "..")
	switch {
	case site == "":
		return fmt.Errorf("%w: the server names no site", ErrPasskeySite)
	case !plain:
		return fmt.Errorf("%w: the site that the server names is no name", ErrPasskeySite)
	case site != "localhost" && (!strings.HasSuffix(site, ".localhost") || strings.HasPrefix(site, ".")):
		return fmt.Errorf("%w: here they belong to %s", ErrPasskeySite, site)
	}
	return nil
}

// passkeySite asks which site the mount's passkeys belong to. Challenges say it, of
// names that there are and of those that there are not; so no Vault token is needed.
func passkeySite(ctx context.Context, c Caller, name string) (string, error) {
	ch, err := challenge(ctx, c, name, identity.Passkey)
	switch {
	case err != nil:
		return "", err
	case ch.Passkey == nil:
		return "", fmt.Errorf("%w: the server names no site", ErrPasskeySite)
	}
	return ch.Passkey.RelyingParty, nil
}

// challenge asks for the challenge of an authenticator.
func challenge(ctx context.Context, c Caller, name string, m identity.Method) (*Challenge, error) {
	ch := &Challenge{Name: name}
	err := c.Call(ctx, Write, "login/challenge", map[string]any{"authenticator": name, "kind": m}, ch)
	if m == identity.Passkey && Refused(err, http.StatusBadRequest) {
		err = fmt.Errorf("%w: %w", ErrPasskeySite, err)
	}
	return ch, err
}
