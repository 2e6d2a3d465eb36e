package cli

import (
	"context"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// keySession is a login with the home that remembers what it has seen.
type keySession struct {
	*keyholder.Session
	home *keyholder.Home
}

// OpenIdentity implements session.
func (s keySession) OpenIdentity(ctx context.Context, name string) (*identity.Opened, error) {
	return s.Open(ctx, name, s.home)
}

func loggedIn(s *keyholder.Session, home *keyholder.Home) keySession { return keySession{s, home} }

// enter logs in with an authenticator that opens the identity, and opens it. The
// caller leaves.
func (a *app) enter(cmd *cobra.Command, name string) (*holder, error) {
	s, home, err := a.logIn(cmd, name)
	if err != nil {
		return nil, err
	}
	h, err := hold(cmd.Context(), loggedIn(s, home), home, name)
	if err != nil {
		a.endSession(s)
		return nil, err
	}
	h.home = home
	return h, nil
}

func (a *app) leave(h *holder) {
	h.close()
	if s, ok := h.session.(keySession); ok {
		a.endSession(s.Session)
	}
}

// inSession logs in with an authenticator that opens the identity, without opening it.
func (a *app) inSession(cmd *cobra.Command, name string, do func(context.Context, *keyholder.Session) error) error {
	s, _, err := a.logIn(cmd, name)
	if err != nil {
		return err
	}
	defer a.endSession(s)
	return do(cmd.Context(), s)
}
