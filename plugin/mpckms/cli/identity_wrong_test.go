package cli

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/secret"
)

// TestNotValidIsNotHostile: who names a role or level that does not exist is told
// so, and not that the server's records were tampered with.
func TestNotValidIsNotHostile(t *testing.T) {
	r := newRecords()
	ada, _, ben := company(t, r)
	h := ada.hold(t, "acme")
	for what, do := range map[string]func() error{
		"there is no level boss": func() error {
			return h.change(t.Context(), "grant", false, identity.SetGrant{Authenticator: ben.record.ID, Level: "boss"})
		},
		`no role "nope"`: func() error {
			_, err := h.put(t.Context(), "dns", defaultKey, secret.New([]byte("x")), []string{"nope"}, "", false)
			return err
		},
		"no authenticator would open a role": func() error {
			return h.change(t.Context(), "set level", false, identity.SetLevel{Level: identity.Level{Name: fullLevel, Roles: []string{"web"}}})
		},
		"level staff is that of ben: it is in use": func() error {
			return h.change(t.Context(), "remove level", false, identity.RemoveLevel{Name: "staff"})
		},
		"1 to 32768 bytes": func() error {
			_, err := h.put(t.Context(), "dns", defaultKey, secret.New(nil), []string{"web"}, "", false)
			return err
		},
	} {
		err := do()
		var refused *refusal
		if !errors.As(err, &refused) {
			t.Errorf("%s: got %v", what, err)
			continue
		}
		said := err.Error()
		if !strings.Contains(said, what) || !strings.Contains(said, "Nothing was changed") || strings.Contains(said, "malformed") || strings.Contains(said, "identity: ") || strings.Contains(said, "Tell who runs Vault") {
			t.Errorf("%s: got %q", what, said)
		}
	}
}

// TestFingerprintOfGrant: a fingerprint is compared also with a grant that exists.
func TestFingerprintOfGrant(t *testing.T) {
	r := newRecords()
	ada, _, ben := company(t, r)
	g := grantOf(ada.hold(t, "acme").opened.Manifest, "ben")
	if _, err := changeGrant(g, "full", false, ada.record.Fingerprint()); err == nil || !strings.Contains(err.Error(), "Nothing was granted") {
		t.Errorf("another fingerprint: got %v", err)
	}
	for _, given := range []string{"", ben.record.Fingerprint(), strings.ReplaceAll(strings.ToUpper(ben.record.Fingerprint()), " ", "-")} {
		changes, err := changeGrant(g, "full", false, given)
		if err != nil || len(changes) != 1 {
			t.Errorf("%q: got %v", given, err)
		}
	}
}

// TestRevokeOneself: who takes the own grant away is told that it was done.
func TestRevokeOneself(t *testing.T) {
	r := newRecords()
	ada, drawer, _ := company(t, r)
	h := ada.hold(t, "acme")
	if err := h.change(t.Context(), "revoke", false, identity.RemoveGrant{Authenticator: ada.record.ID}); err != nil {
		t.Fatal(err)
	}
	if !h.left || h.opened.Manifest.Grant(ada.record.ID) != nil || h.opened.Manifest.Grant(drawer.record.ID) == nil {
		t.Error("the identity is not shown as it is now")
	}
	if _, err := ada.tryHold(t, "acme"); err == nil {
		t.Error("it opens still")
	}
	if drawer.hold(t, "acme").left {
		t.Error("the other owner is out too")
	}
}

// TestLocalFailure: what is wrong on this machine is no refusal of the server, and
// a lost key file comes with what to do.
func TestLocalFailure(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "ada.key", Err: fs.ErrNotExist}
	var refused *refusal
	for _, err := range []error{missing, errNoTerminal} {
		if got := failedTo("log in", err); errors.As(got, &refused) || !errors.Is(got, err) {
			t.Errorf("%v: got %v", err, got)
		}
	}
	if got := failedTo("log in", identity.ErrLogin); !errors.As(got, &refused) {
		t.Errorf("a failed login: got %v", got)
	}
	k := keyholder.Known{Name: "ada", Method: identity.KeyFile}
	if got := lostFile(failedTo("log in", missing), k, missing); !strings.Contains(got.Error(), "--key-file FILE") || !errors.Is(got, fs.ErrNotExist) {
		t.Errorf("got %v", got)
	}
	k.Method = identity.Password
	if got := lostFile(missing, k, missing); got != error(missing) {
		t.Errorf("a password: got %v", got)
	}
}

// TestHomeThatIsNone: a home that cannot be a folder is named with the flag.
func TestHomeThatIsNone(t *testing.T) {
	s := engine(t)
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "login", "--home", file).want(t, exitUsage, file, "--home")
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}

// TestCreateWithoutToken: nothing is made or asked for where the server would
// refuse it anyway.
func TestCreateWithoutToken(t *testing.T) {
	s := engine(t)
	dir := t.TempDir()
	t.Setenv("MPCKMS_HOME", dir)
	t.Setenv("VAULT_TOKEN", "")
	run(t, "authenticator", "create", "ada", "--kind", "key-file", "--key-file", dir+"/ada.key").want(t, exitRefused, "No token was sent")
	if _, err := os.Stat(dir + "/ada.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key file was made: %v", err)
	}
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}
