//go:build e2e

package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
)

// TestChangeAuthenticator gives authenticators other secrets and an identity other
// role keys; what opened before opens after, and the old secrets open nothing.
func TestChangeAuthenticator(t *testing.T) {
	e := shared(t)
	ada, drawer, ben := acme(t, e.Vault, "chg")
	old := ada.secrets
	newPassword := filepath.Join(ada.home, "new-password")
	if err := os.WriteFile(newPassword, []byte("a lake of clouds\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	// No Vault token does it, root's neither.
	facts := e.read(t, "authenticators/chg-ada")
	e.refuse(t, "authenticators/chg-ada/register", map[string]any{"id": facts["id"], "request": b64(opaqueRequest(t))}, 403, "no Vault token changes it")
	_, body := register(t, e, "chg-other", identity.Password, "somebody else's", nil)
	e.refuse(t, "authenticators/chg-ada", body, 400, "chg-ada")

	// A password; the first try is stopped by the person.
	ada.refused(t, []string{"the new secret is the old one"}, "authenticator", "change", "chg-ada", "--new-passphrase-file", old[1])
	out := ada.does(t, "authenticator", "change", "chg-ada", "--new-passphrase-file", newPassword)
	if !strings.Contains(out, facts["id"].(string)) && !strings.Contains(out, "was changed") {
		t.Errorf("change says %s", out)
	}
	ada.refused(t, []string{"login failed"}, "login")
	ada.secrets = []string{"--passphrase-file", newPassword}
	ada.shows(t, "chg/safe", "safe code")
	after := e.read(t, "authenticators/chg-ada")
	if after["id"] != facts["id"] || after["created_time"] != facts["created_time"] {
		t.Errorf("before %v, after %v", facts, after)
	}

	ada.operates(t, "authenticator", "unlock", "chg-ada")

	// A question besides.
	answer := filepath.Join(ada.home, "answer")
	if err := os.WriteFile(answer, []byte("Elm Street\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ada.does(t, "authenticator", "change", "chg-ada", "--keep", "--ask", "First street?", "--new-answer-file", answer)
	if r := ada.run(t, nil, nil, "login"); r.Code != 2 || !strings.Contains(r.Stderr, "--answer-file") {
		t.Errorf("without the answer: exit %d: %s", r.Code, r.Stderr)
	}
	ada.secrets = append(ada.secrets, "--answer-file", answer)
	ada.shows(t, "chg/safe", "safe code")
	ada.does(t, "authenticator", "change", "chg-ada", "--keep", "--no-question")
	ada.secrets = ada.secrets[:2]

	// A key file, with a device bound: it learns of it at its next contact.
	ben.does(t, "device", "bind", "chg", "--label", "ben's")
	if out := ben.does(t, "authenticator", "change", "chg-ben", "--key-file", filepath.Join(ben.home, "key-2")); !strings.Contains(out, "device sync") {
		t.Errorf("nothing is said of the device: %s", out)
	}
	ben.shows(t, "chg/dns", "dns token")
	ben.refused(t, []string{"does not open this device's binding"}, "secret", "show", "chg/dns", "--offline")
	ben.does(t, "device", "sync", "chg")
	ben.shows(t, "chg/dns", "dns token", "--offline")
	ben.refused(t, []string{"login failed"}, "login", "--authenticator", "chg-ben", "--kind", "key-file", "--key-file", filepath.Join(ben.home, "key"))
	ben.does(t, "login", "--authenticator", "chg-ben", "--kind", "key-file", "--key-file", filepath.Join(ben.home, "key-2"))

	// Kind, and new role keys without and with custody keys.
	var doc struct {
		identityLines
		Kind string `json:"kind"`
	}
	ada.does(t, "identity", "set-kind", "chg", "persona")
	if ada.asks(t, &doc, "identity", "show", "chg"); doc.Kind != "persona" {
		t.Errorf("the kind is %q", doc.Kind)
	}
	ada.operates(t, "account", "create", "chg-gold", "--algorithm", bip340, "--custody", "chg/gold", "--role", "treasury")
	custody := func() any { return e.read(t, "accounts/chg-gold")["custody"].(map[string]any)["public_key"] }
	first := custody()
	ben.refused(t, []string{"owner"}, "identity", "rotate", "chg")
	ada.does(t, "identity", "rotate", "chg")
	if custody() != first {
		t.Error("the custody key was replaced without --custody")
	}
	ada.does(t, "sign", "chg-gold", "--input", "one")
	drawer.does(t, "identity", "rotate", "chg", "--role", "treasury", "--custody")
	if custody() == first {
		t.Error("the custody key was not replaced")
	}
	ada.does(t, "sign", "chg-gold", "--input", "two")
	drawer.killed(t, "roles have two sets of keys", func() bool { return e.read(t, "identities/chg")["reset_pending"] == true }, "identity", "rotate", "chg")
	drawer.does(t, "identity", "rotate", "chg")
	if e.read(t, "identities/chg")["reset_pending"] != false {
		t.Error("the rotation is not finished")
	}
	ada.does(t, "sign", "chg-gold", "--input", "three")
	for _, p := range []*person{ada, drawer} {
		p.shows(t, "chg/safe", "safe code")
	}
	ben.shows(t, "chg/dns", "dns token")
	ben.refused(t, []string{"treasury"}, "secret", "show", "chg/safe")
}
