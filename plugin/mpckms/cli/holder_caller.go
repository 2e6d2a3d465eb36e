package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"vault-plugin-secrets-mpc/keyholder"
)

// caller sends package keyholder's requests to the mount.
type caller struct {
	c    *client
	what string // "create authenticator \"x\"", follows "cannot"
}

var _ keyholder.Caller = caller{}

// tokenCaller sends requests with the Vault token, as all other commands do.
func (a *app) tokenCaller(what string) (caller, error) {
	c, err := a.connect()
	return caller{c, what}, err
}

// openCaller sends requests without a token: logins and sessions need none, and
// the server need not learn who else the person is.
func (a *app) openCaller(what string) (caller, error) {
	c, err := a.connect()
	if err != nil {
		return caller{}, err
	}
	c.vault.ClearToken()
	c.hasToken = false
	return caller{c, what}, nil
}

// Call implements keyholder.Caller.
func (k caller) Call(ctx context.Context, op keyholder.Op, path string, in map[string]any, out any) error {
	r := request{what: k.what, path: path}
	switch op {
	case keyholder.Read:
		r.capability = capRead
	case keyholder.List:
		r.capability = capList
	case keyholder.Write:
		r.capability, r.body = capUpdate, in
		if in == nil {
			r.body = struct{}{}
		}
	case keyholder.Delete:
		r.capability = capDelete
	default:
		return fmt.Errorf("no operation %q", op)
	}
	_, err := k.c.do(ctx, r, out)
	var mine *refusal
	if !errors.As(err, &mine) {
		return err
	}
	if op == keyholder.List && mine.status == http.StatusNotFound && len(mine.messages) == 0 {
		return nil // Vault's answer for an empty list
	}
	if !k.c.hasToken && mine.status == http.StatusForbidden && mine.denied() && openPath(path) {
		mine.advice = "Logins need no token, so Vault has no engine at " + k.c.mount + "/ that knows them: choose another mount with\n" +
			"--mount or " + envMount + ", or another namespace with VAULT_NAMESPACE; the plugin there may also be an older one."
	}
	if mine.status == 0 {
		return mine
	}
	return &keyholder.Refusal{Status: mine.status, Messages: mine.messages, Cause: mine}
}

// openPath says whether the engine takes requests to a path without a token.
func openPath(path string) bool {
	return strings.HasPrefix(path, "login/") || strings.HasPrefix(path, "session/")
}

// errNoTerminal: there is nobody to ask.
var errNoTerminal = errors.New("there is no terminal to ask on")

// failedTo makes an error of package keyholder one of this program. It exits with 1,
// except where a file of this machine or the terminal is what is missing: that is
// about how the command was called.
func failedTo(what string, err error) error {
	var mine *refusal
	if err == nil || errors.As(err, &mine) {
		return err
	}
	var file *fs.PathError
	if errors.Is(err, errNoTerminal) || errors.As(err, &file) {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return &refusal{what: "cannot " + what, cause: err}
}
