package keyholder

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

func TestPasskey(t *testing.T) {
	for _, site := range []string{"localhost", "mpckms.localhost"} {
		s, b := newServer(t), newSoftBrowser(t)
		s.site = site
		p := &person{secrets: map[Topic]string{TopicAnswer: "rex"}, browse: dialled(b, site)}
		src := Passkey(p, PasskeyConfig{})
		a := register1(t, s, "ada", identity.Passkey, src, RegisterOptions{PersonalQuestion: "Dog?"})
		if k := a.Parameters.Passkey; k.RelyingParty != site || !bytes.Equal(k.CredentialID, b.id) || len(k.Salt) != 32 || len(k.PublicKey) == 0 || a.ServerTrusting() {
			t.Errorf("made %+v", k)
		}
		session := logIn(t, s, a, src)
		if b.status != http.StatusNoContent || len(b.visited) != 2 || b.visited[0] == b.visited[1] {
			t.Errorf("the browser was at %v and got %d at last", b.visited, b.status)
		}
		// Bound, it opens without a server, and then its signature is verified, too.
		binding := &identity.Binding{Method: identity.Passkey, AuthenticatorName: "ada", Parameters: a.Parameters, PersonalInformation: a.PersonalInformation}
		info, err := Inform(t.Context(), binding, src)
		if err != nil || !info.Information.Equal(session.information.Information) {
			t.Errorf("offline: %v", err)
		}
		wipeInformation(&info)
		stolen := newSoftBrowser(t)
		stolen.id, stolen.prf = b.id, b.prf
		p.browse = dialled(stolen, site)
		_, err = Inform(t.Context(), binding, src)
		fails(t, err, nil, "signature", "nothing changed")
		// Somebody else's passkey, that claims to be hers, opens nothing.
		stolen.prf = newSoftBrowser(t).prf
		_, err = Login(t.Context(), s, "ada", identity.Passkey, src)
		fails(t, err, ErrLogin)
	}
}

// dialled has names below localhost reach it, which here is the browser's affair.
func dialled(b *softBrowser, site string) func(string) error {
	if site == "localhost" {
		return b.browse
	}
	return func(address string) error { return b.browseAs(address, site) }
}

// TestPasskeySite: what cannot work here is said before anything is shown.
func TestPasskeySite(t *testing.T) {
	for site, says := range map[string]string{
		"": "no passkeys are used here", "vault.example.com": "belong to vault.example.com", "localhost.example.com": "belong to",
		".localhost": "belong to", "evil.com/.localhost": "no name", "a..localhost": "no name", "user@localhost": "no name", "LOCALHOST": "no name",
	} {
		s := newServer(t)
		s.site = site
		p := &person{browse: func(string) error { t.Errorf("%q: a browser was opened", site); return nil }}
		_, _, err := Register(t.Context(), s, "ada", identity.Passkey, Passkey(p, PasskeyConfig{}), RegisterOptions{})
		fails(t, err, ErrPasskeySite, says)
		_, err = Login(t.Context(), s, "ada", identity.Passkey, Passkey(p, PasskeyConfig{}))
		fails(t, err, ErrPasskeySite, says)
		if len(s.stored) > 0 || len(p.shown) > 0 {
			t.Errorf("%q: made %v, shown %v", site, s.stored, p.shown)
		}
	}
}

// TestPasskeyRefuses: what is not right in an answer, or what the browser fails with,
// makes nothing and opens nothing.
func TestPasskeyRefuses(t *testing.T) {
	failed := func(code string) func(*softBrowser) {
		return func(b *softBrowser) {
			b.change = func(_ *softBrowser, _ *passkeyTask, a map[string]any) {
				clear(a)
				a["error"] = code
			}
		}
	}
	set := func(name string, value any) func(*softBrowser) {
		return func(b *softBrowser) {
			b.change = func(_ *softBrowser, _ *passkeyTask, a map[string]any) { a[name] = value }
		}
	}
	s, good := newServer(t), newSoftBrowser(t)
	s.site = "localhost"
	a := register1(t, s, "ada", identity.Passkey, Passkey(&person{browse: good.browse}, PasskeyConfig{}), RegisterOptions{})
	for name, c := range map[string]struct {
		change     func(*softBrowser)
		says       string
		onlyMaking bool
	}{
		"cancelled":        {failed("NotAllowedError"), "cancelled or took too long", false},
		"stopped":          {failed("stopped"), "stopped on the page", false},
		"no PRF":           {failed("no-prf"), "no PRF extension", false},
		"no WebAuthn":      {failed("no-webauthn"), "no passkeys", false},
		"another":          {failed("another"), "another passkey", false},
		"another site":     {failed("SecurityError"), "SecurityError", false},
		"something else":   {failed("DataError"), "failed with DataError", false},
		"no output":        {set("output", nil), "no PRF extension", false},
		"half an output":   {set("output", make([]byte, 16)), "no PRF extension", false},
		"other credential": {set("credential", []byte("other")), "another passkey", false},
		"malformed":        {set("authenticator_data", []byte{1}), "malformed", false},
		"no client data":   {set("client_data", []byte("{")), "malformed", false},
		"not verified":     {func(b *softBrowser) { b.flags = 0x01 }, "not verified", false},
		"not present":      {func(b *softBrowser) { b.flags = 0x04 }, "not verified", false},
		"page elsewhere":   {func(b *softBrowser) { b.origin = "http://localhost:1" }, "another page", false},
		"page in a frame":  {func(b *softBrowser) { b.cross = true }, "inside another", false},
		"for another site": {func(b *softBrowser) { b.site = "example.com" }, "not for this page", false},
		"an old answer": {func(b *softBrowser) {
			b.change = func(b *softBrowser, t *passkeyTask, a map[string]any) {
				if old := *t; b.change != nil {
					old.UseChallenge, b.change = make([]byte, 32), nil
					again, _ := b.answer(&old)
					a["client_data"], a["authenticator_data"], a["signature"] = again["client_data"], again["authenticator_data"], again["signature"]
				}
			}
		}, "not for this page", false},
		"no attestation": {set("attestation", []byte{0xa0}), "malformed", true},
		"bad signature":  {set("signature", []byte{0x30, 0}), "signature", true},
		"other make":     {func(b *softBrowser) { b.format = "tpm" }, "did not ask for", true},
		"old making":     {set("make_client_data", []byte(`{"type":"webauthn.create","challenge":"AAAA","origin":"x"}`)), "not for this page", true},
		"long ID":        {func(b *softBrowser) { b.id = make([]byte, 1024) }, "refused", true},
	} {
		t.Run(name, func(t *testing.T) {
			bad := newSoftBrowser(t)
			c.change(bad)
			p := &person{browse: bad.browse}
			_, _, err := Register(t.Context(), s, "eve", identity.Passkey, Passkey(p, PasskeyConfig{}), RegisterOptions{})
			fails(t, err, nil, c.says, "nothing was made or changed")
			if len(s.stored) != 1 {
				t.Error("an authenticator was made")
			}
			if c.onlyMaking {
				return
			}
			bad.key, bad.prf, bad.id = good.key, good.prf, good.id
			c.change(bad)
			s.calls = nil
			_, err = Login(t.Context(), s, a.Name, identity.Passkey, Passkey(p, PasskeyConfig{}))
			fails(t, err, nil, c.says, "nothing was sent")
			if strings.Join(s.calls, " ") != "write login/challenge" {
				t.Errorf("called %v", s.calls)
			}
		})
	}
}

// TestPasskeyChanged gives an authenticator another passkey, and leaves the old one
// where that fails.
func TestPasskeyChanged(t *testing.T) {
	s, old, next := newServer(t), newSoftBrowser(t), newSoftBrowser(t)
	s.site = "localhost"
	p := &person{browse: old.browse}
	src := Passkey(p, PasskeyConfig{})
	a := register1(t, s, "ada", identity.Passkey, src, RegisterOptions{})
	session := logIn(t, s, a, src)
	p.browse = func(string) error { return errors.New("no browser") }
	ctx, cancel := withTimeout(t, 50*time.Millisecond)
	defer cancel()
	fails(t, session.Change(ctx, src, ChangeOptions{}), nil, "nothing was made or changed")
	logs := func(b *softBrowser) error {
		p.browse = b.browse
		session, err := Login(t.Context(), s, "ada", identity.Passkey, src)
		if err == nil {
			session.Wipe()
		}
		return err
	}
	if err := logs(old); err != nil {
		t.Fatal(err)
	}
	p.browse = next.browse
	if err := session.Change(t.Context(), src, ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := logs(next); err != nil {
		t.Fatal(err)
	}
	fails(t, logs(old), nil, "another passkey")
}

// TestPasskeyChallengeDiffers: a server that shows another passkey than the record has
// is noticed.
func TestPasskeyChallengeDiffers(t *testing.T) {
	c := &PasskeyChallenge{RelyingParty: "localhost", CredentialID: []byte{1}, Salt: []byte{2}}
	for want, p := range map[*identity.PasskeyParameters]bool{
		{RelyingParty: "localhost", CredentialID: []byte{1}, Salt: []byte{2}}:   true,
		{RelyingParty: "a.localhost", CredentialID: []byte{1}, Salt: []byte{2}}: false,
		{RelyingParty: "localhost", CredentialID: []byte{3}, Salt: []byte{2}}:   false,
		{RelyingParty: "localhost", CredentialID: []byte{1}, Salt: []byte{3}}:   false,
	} {
		if c.is(want) != p {
			t.Errorf("%+v", want)
		}
	}
	if (*PasskeyChallenge)(nil).is(&identity.PasskeyParameters{}) {
		t.Error("no passkey is one")
	}
	s, b := newServer(t), newSoftBrowser(t) // whose PRF does not look at the site
	s.site = "localhost"
	p := &person{browse: b.browse}
	register1(t, s, "ada", identity.Passkey, Passkey(p, PasskeyConfig{}), RegisterOptions{})
	s.tamper = func(path string, reply map[string]any) {
		if path == "login/challenge" {
			reply["passkey"].(map[string]any)["relying_party"] = "other.localhost"
		}
	}
	p.browse = dialled(b, "other.localhost")
	_, err := Login(t.Context(), s, "ada", identity.Passkey, Passkey(p, PasskeyConfig{}))
	fails(t, err, identity.ErrSignature, "another passkey than its challenge")
}

// FuzzPasskeyAnswer: whatever comes is read or refused, and wiped.
func FuzzPasskeyAnswer(f *testing.F) {
	f.Add([]byte(anAnswer))
	f.Add([]byte(`{"error":"NotAllowedError"}`))
	f.Add([]byte(`{"attestation":"oA==","client_data":"e30=","authenticator_data":"AAAA"} {}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := parsePasskeyAnswer(raw)
		if err != nil {
			return
		}
		if a.Error != "" && passkeyFailure(a.Error, "ada") == nil {
			t.Errorf("%q is no failure", a.Error)
		}
		a.wipe()
		if len(bytes.Trim(a.Output, "\x00")) > 0 {
			t.Error("the secret stays")
		}
	})
}

// FuzzPasskeyVerified: nothing is taken for a passkey but what has used it for this
// task, and login takes it then, too.
func FuzzPasskeyVerified(f *testing.F) {
	b := newSoftBrowser(f)
	task := &passkeyTask{Make: true, Name: "ada", Site: "localhost", Origin: "http://localhost:1", UseChallenge: make([]byte, 32), MakeChallenge: make([]byte, 32), Salt: make([]byte, 32), Credential: b.id}
	a, err := b.answer(task)
	if err != nil {
		f.Fatal(err)
	}
	of := func(name string) []byte { return a[name].([]byte) }
	f.Add(of("attestation"), of("make_client_data"), of("credential"), of("authenticator_data"), of("client_data"), of("signature"), of("output"))
	f.Add([]byte{0xa0}, []byte("{}"), []byte{1}, []byte{2}, []byte("{}"), []byte{0x30, 0}, []byte{})
	good := &passkeyAnswer{Attestation: of("attestation"), MakeClientData: of("make_client_data"), Credential: of("credential"), AuthenticatorData: of("authenticator_data"), ClientData: of("client_data"), Signature: of("signature"), Output: of("output")}
	if _, err := good.registered(task); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, attestation, makeClientData, credential, authenticatorData, clientData, signature, output []byte) {
		a := &passkeyAnswer{Attestation: attestation, MakeClientData: makeClientData, Credential: credential, AuthenticatorData: authenticatorData, ClientData: clientData, Signature: signature, Output: output}
		made, err := a.registered(task)
		if err == nil {
			used := *task
			used.Credential = made.CredentialID
			if len(a.Output) != passkeyOutput || a.asserted(&used, made.PublicKey) != nil {
				t.Error("it is taken once and not twice")
			}
		}
		_ = a.asserted(task, credential) // any bytes as its key
	})
}
