package cli

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// homeWith makes MPCKMS_HOME with these authenticators in it.
func homeWith(t *testing.T, known ...keyholder.Known) *keyholder.Home {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "home")
	t.Setenv(envHome, dir)
	h, err := keyholder.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range known {
		if err := h.SetAuthenticator(k); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// A new password is asked for twice, on a terminal that does not show it, and
// nothing is sent where the two differ or it is too short.
func TestNewPasswordAtTerminal(t *testing.T) {
	s := newServer(t)
	homeWith(t)
	p := newTerminal(t)
	create := []string{"authenticator", "create", "ada", "--kind", "password"}
	code, said := atTerminal(t, t.Context(), p, create, "a river of stars\n", "a river of staRs\n")
	if code == 0 || !strings.Contains(said, "the two differ") || strings.Count(said, ": ") < 2 || strings.Contains(said, "river") {
		t.Errorf("exit %d: %s", code, said)
	}
	code, said = atTerminal(t, t.Context(), p, create, "short\n", "short\n")
	if code == 0 || !strings.Contains(said, "take 10 to 1024") {
		t.Errorf("exit %d: %s", code, said)
	}
	if len(s.calls) > 0 {
		t.Fatalf("sent %v", s.calls)
	}
	s.on("PUT mpc/authenticators/ada/register", fails(400, "enough"))
	code, said = atTerminal(t, t.Context(), p, create, "a river of stars\n", "a river of stars\n")
	calls := s.called("PUT mpc/authenticators/ada/register")
	if code != 1 || !strings.Contains(said, "enough") || len(calls) != 1 || calls[0].token != testToken {
		t.Fatalf("exit %d: %s, sent %v", code, said, calls)
	}
	// What is sent is a blinded group element and no more.
	if request, err := base64.StdEncoding.DecodeString(calls[0].body["request"].(string)); err != nil || len(request) != identity.RegistrationRequestSize || len(calls[0].body) != 3 {
		t.Errorf("sent %v", calls[0].body)
	}
}

// Who has several authenticators is asked which one to use, and those that opened
// the identity before come to mind first.
func TestChooseAuthenticator(t *testing.T) {
	s := newServer(t)
	homeWith(t, keyholder.Known{Name: "ada", Method: identity.Password, Identities: []string{"acme"}},
		keyholder.Known{Name: "ben", Method: identity.Password, Identities: []string{"acme", "home"}},
		keyholder.Known{Name: "card", Method: identity.Certificate, TokenURI: "pkcs11:token=x;object=y", Module: "m"})
	p := newTerminal(t)
	asked := func(args []string, answers ...string) (name string, said string) {
		t.Helper()
		s.forget()
		s.on("PUT mpc/login/challenge", fails(403, "not today"))
		_, said = atTerminal(t, t.Context(), p, args, answers...)
		calls := s.called("PUT mpc/login/challenge")
		if len(calls) == 0 {
			return "", said
		}
		if len(calls) > 1 || calls[0].token != "" {
			t.Errorf("sent %v", calls)
		}
		return calls[0].body["authenticator"].(string), said
	}
	for _, c := range []struct {
		args    []string
		answers []string
		want    string
	}{
		{[]string{"login"}, []string{"2\n"}, "ben"},
		{[]string{"login", "acme"}, []string{"ada\n"}, "ada"},
		{[]string{"login", "home"}, nil, "ben"},
		{[]string{"login", "--authenticator", "ada"}, nil, "ada"},
		{[]string{"login"}, []string{"7\n"}, ""},
		{[]string{"login"}, []string{"\n"}, ""},
	} {
		name, said := asked(c.args, c.answers...)
		if name != c.want {
			t.Errorf("%v: asked for %q, want %q: %s", c.args, name, c.want, said)
		}
		if shown := strings.Contains(said, "card"); shown != (len(c.args) == 1 && c.answers != nil) {
			t.Errorf("%v: %s", c.args, said)
		}
	}
	if _, said := asked([]string{"login", "--authenticator", "card"}); !strings.Contains(said, "built with cgo") {
		t.Errorf("a build without tokens says %s", said)
	}
}

// Without a terminal nothing waits for one.
func TestLoginWithoutTerminal(t *testing.T) {
	s := newServer(t)
	homeWith(t)
	run(t, "login").want(t, exitUsage, "no authenticator is known", "--authenticator NAME --kind KIND")
	run(t, "login", "--authenticator", "ada").want(t, exitUsage, `"ada" is not known here`)
	run(t, "login", "--kind", "password").want(t, exitUsage, "give --authenticator")
	run(t, "login", "a", "b").want(t, exitUsage, "one identity")
	for _, args := range [][]string{
		{"--kind", "passkey", "--key-file", "x"}, {"--kind", "nonsense"}, {"--kind", "key-file"}, {"--kind", "certificate"}, {"--kind", "password", "--key-file", "x"},
		{"--kind", "certificate", "--certificate", "x"}, {"--kind", "certificate", "--token", "x"},
		{"--kind", "certificate", "--certificate", "x", "--key", "y", "--token", "z", "--module", "m"},
	} {
		run(t, append([]string{"login", "--authenticator", "ada"}, args...)...).want(t, exitUsage, "--help")
	}
	if len(s.calls) > 0 {
		t.Errorf("sent %v", s.calls)
	}
	// A mount that has no logins is said to have none, not that a token lacks.
	s.on("PUT mpc/login/challenge", fails(403, "permission denied"))
	run(t, "login", "--authenticator", "ada", "--kind", "password").want(t, exitRefused, "permission denied", "choose another mount")
	// The parameters of the password hash are looked at before anything is asked.
	s.on("PUT mpc/login/challenge", data(`{"challenge":"c","login_id":"01000000000000000000000000000000","kdf":{"time":1,"memory_kib":8,"threads":1}}`))
	run(t, "login", "--authenticator", "ada", "--kind", "password").want(t, exitRefused, "weaker than allowed", "nothing was asked")
	// Passkeys need a site whose page mpckms can serve.
	s.on("PUT mpc/login/challenge", fails(400, "no passkeys are used here: config/identities has no passkey_relying_party"))
	advice := "'vault write mpc/config/identities passkey_relying_party=localhost'"
	run(t, "login", "--authenticator", "ada", "--kind", "passkey").want(t, exitRefused, "no passkeys are used here", "Nothing was made or changed", advice)
	s.on("PUT mpc/login/challenge", data(`{"challenge":"c","login_id":"01000000000000000000000000000000","kdf":{"time":3,"memory_kib":65536,"threads":4},
		"passkey":{"relying_party":"vault.example.com","credential_id":"AAECAwQFBgcICQoLDA0ODw==","salt":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}`))
	run(t, "login", "--authenticator", "ada", "--kind", "passkey").want(t, exitRefused, "vault.example.com", advice)
	if known := filepath.Join(os.Getenv(envHome), "authenticators", "ada.json"); exists(known) {
		t.Error("what never logged in is known")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestAuthenticatorCommands(t *testing.T) {
	s := newServer(t)
	h := homeWith(t, keyholder.Known{Name: "ada", Method: identity.KeyFile, KeyFile: "/media/ada.key", Identities: []string{"acme"}},
		keyholder.Known{Name: "desk", Method: identity.Device, FileKeyring: true})
	s.on("LIST mpc/authenticators", data(`{"keys":["ada","ben"]}`))
	s.on("GET mpc/authenticators/ada", data(`{"name":"ada","id":"01000000000000000000000000000000","kind":"key-file","state":"lost","lost_time":"2026-01-02T03:04:05Z","lost_reason":"a train","created_time":"2026-01-01T00:00:00Z",
		"identities":[{"identity":"acme","level":"staff","roles":["web"],"state":"active"}],"devices":[{"id":"02000000000000000000000000000000","identity":"acme","label":"a laptop","state":"revoked","bound_time":"2026-01-01T00:00:00Z"}]}`))
	s.on("PUT mpc/authenticators/ada/lost", data(`{}`))
	mask := func(s string) string { return strings.ReplaceAll(s, h.Dir(), "HOME") }
	for name, args := range map[string][]string{
		"authenticator_list": {"authenticator", "list", "--all"}, "authenticator_show": {"authenticator", "show", "ada"},
		"authenticator_lost": {"authenticator", "lost", "ada", "--reason", "a train"},
	} {
		r := run(t, args...)
		r.want(t, 0)
		golden(t, name+".table", mask(r.stdout))
		r = run(t, append(slices.Clone(args), "-o", "json")...)
		r.want(t, 0)
		golden(t, name+".json", mask(r.stdout))
	}
	if calls := s.called("PUT mpc/authenticators/ada/lost"); len(calls) == 0 || calls[0].body["reason"] != "a train" {
		t.Errorf("sent %v", calls)
	}
	run(t, "authenticator", "create", "ada", "--kind", "password").want(t, exitUsage, "known here already")
	run(t, "authenticator", "forget", "nobody").want(t, exitRefused, "not known")
	s.on("DELETE mpc/authenticators/desk", fails(409, "identity acme grants it a level"))
	run(t, "authenticator", "delete", "desk").want(t, exitRefused, "acme")
	if _, known, err := h.Authenticator("desk"); !known || err != nil {
		t.Error("what the server kept was forgotten", err)
	}
	run(t, "authenticator", "forget", "desk").want(t, 0)
	if _, known, err := h.Authenticator("desk"); known || err != nil {
		t.Error("it is still known", err)
	}
}

func TestTokenURI(t *testing.T) {
	k, err := parseTokenURI("pkcs11:token=NSS%20Certificate%20DB;id=%01%ff;object=a%3bb;type=private")
	if err != nil || k.TokenLabel != "NSS Certificate DB" || string(k.ID) != "\x01\xff" || k.Label != "a;b" {
		t.Errorf("%+v, %v", k, err)
	}
	for _, bad := range []string{
		"", "token=x;object=y", "pkcs11:", "pkcs11:token=x", "pkcs11:object=y", "pkcs11:token=x;object=y?pin-value=1234", "pkcs11:token=x;object=y;pin-value=1234",
		"pkcs11:token=x;token=x;object=y", "pkcs11:token=;object=y", "pkcs11:token=x;object=%zz", "pkcs11:token=x;object=y;type=cert", "pkcs11:token=x;object=y;slot-id=1", "pkcs11:token=x;;object=y",
	} {
		if k, err := parseTokenURI(bad); err == nil {
			t.Errorf("%q was taken as %+v", bad, k)
		} else if strings.Contains(err.Error(), "1234") {
			t.Errorf("a PIN is shown: %v", err)
		}
	}
}
