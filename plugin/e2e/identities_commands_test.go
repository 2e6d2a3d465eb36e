//go:build e2e

package e2e_test

import (
	"strings"
	"testing"
)

type grantLine struct {
	Authenticator string   `json:"authenticator"`
	Level         string   `json:"level"`
	Roles         []string `json:"roles"`
	State         string   `json:"state"`
	Fingerprint   string   `json:"fingerprint"`
}

type identityLines struct {
	ID         string      `json:"id"`
	Generation int         `json:"generation"`
	Assets     []string    `json:"assets"`
	Grants     []grantLine `json:"grants"`
}

func (d identityLines) grant(authenticator string) grantLine {
	for _, g := range d.Grants {
		if g.Authenticator == authenticator {
			return g
		}
	}
	return grantLine{}
}

// TestIdentityCommands: each command that changes an identity, and what it refuses.
func TestIdentityCommands(t *testing.T) {
	e := shared(t)
	ada, drawer, ben := acme(t, e.Vault, "cmd")
	var doc identityLines
	show := func() identityLines {
		t.Helper()
		doc = identityLines{}
		ada.asks(t, &doc, "identity", "show", "cmd")
		return doc
	}
	if g := show().grant("cmd-ben"); g.Level != "staff" || strings.Join(g.Roles, " ") != "web" || g.State != "active" || g.Fingerprint == "" {
		t.Errorf("ben: %+v", g)
	}
	if strings.Join(doc.Assets, " ") != "dns safe" {
		t.Errorf("assets: %v", doc.Assets)
	}

	// Roles and levels.
	ada.does(t, "identity", "role", "add", "cmd", "mail")
	ada.does(t, "identity", "level", "set", "cmd", "staff", "--role", "web", "--role", "mail")
	ada.put(t, "cmd/imap", "imap password", "mail")
	ben.shows(t, "cmd/imap", "imap password")
	ada.does(t, "identity", "level", "set", "cmd", "visitors", "--role", "web", "--server-trusting")
	ada.refused(t, []string{"cmd-ben", "staff"}, "identity", "level", "remove", "cmd", "staff")
	ada.does(t, "identity", "level", "remove", "cmd", "visitors")
	ada.refused(t, []string{"asset", "imap"}, "identity", "role", "remove", "cmd", "mail")
	ada.does(t, "secret", "delete", "cmd/imap", "--confirm", "cmd/imap")
	ada.does(t, "identity", "role", "remove", "cmd", "mail")
	ada.refused(t, []string{"owner"}, "identity", "role", "remove", "cmd", "owner")

	// Only the owner role changes the identity.
	ben.refused(t, []string{"owner"}, "identity", "role", "add", "cmd", "mine")
	ben.refused(t, []string{"owner"}, "identity", "grant", "cmd", "cmd-ben", "--level", "full")
	ben.refused(t, []string{"cannot"}, "identity", "freeze", "cmd")

	// Another level, and back.
	ada.does(t, "identity", "grant", "cmd", "cmd-ben", "--level", "full")
	ben.shows(t, "cmd/safe", "safe code")
	ada.does(t, "identity", "grant", "cmd", "cmd-ben", "--level", "staff")
	ben.refused(t, []string{"treasury"}, "secret", "show", "cmd/safe")

	// Secrets of several keys; who may not use one does not write it.
	ada.must(t, nil, []byte("admin"), "secret", "put", "cmd/router", "--key", "user", "--role", "web", "--file", "-")
	ada.must(t, nil, []byte("pass"), "secret", "put", "cmd/router", "--key", "password", "--role", "treasury", "--file", "-")
	ben.shows(t, "cmd/router", "admin", "--key", "user")
	ben.refused(t, []string{"treasury"}, "secret", "show", "cmd/router", "--key", "password")
	ben.refused(t, []string{"no key", "password, user"}, "secret", "show", "cmd/router", "--key", "nothing")
	if r := ben.run(t, nil, []byte("x"), "secret", "put", "cmd/router", "--key", "password", "--role", "web", "--file", "-"); r.Code != 1 {
		t.Errorf("ben replaces a key that he cannot open: %s", r.Stdout)
	}
	ben.must(t, nil, []byte("root"), "secret", "put", "cmd/router", "--key", "user", "--file", "-")
	ada.shows(t, "cmd/router", "root", "--key", "user")
	ada.shows(t, "cmd/router", "pass", "--key", "password")

	// The last who opens a role stays unless one says so.
	drawer.does(t, "identity", "revoke", "cmd", "cmd-ada")
	ada.refused(t, []string{"cmd"}, "secret", "show", "cmd/dns")
	drawer.refused(t, []string{"owner"}, "identity", "revoke", "cmd", "cmd-key")

	// Names that are no names, and things that are not there.
	for _, args := range []string{"identity show Cmd", "secret show cmd", "secret put cmd/x/y", "identity reset cmd", "identity create x --kind robot"} {
		if r := drawer.run(t, nil, nil, strings.Fields(args)...); r.Code != 2 {
			t.Errorf("mpckms %s: exit %d, want 2: %s%s", args, r.Code, r.Stdout, r.Stderr)
		}
	}
	drawer.refused(t, []string{"no such asset"}, "secret", "show", "cmd/nothing")
	drawer.refused(t, []string{"cannot"}, "secret", "show", "nobody/nothing")

	// Gone, with all that it had.
	e.write(t, "identities/cmd/freeze", nil)
	e.write(t, "identities/cmd/unfreeze", nil)
	drawer.operates(t, "identity", "delete", "cmd", "--confirm", "cmd")
	drawer.refused(t, []string{"cannot"}, "secret", "show", "cmd/dns")
}
