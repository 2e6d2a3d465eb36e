package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

func (a *app) deviceBindCommand() *cobra.Command {
	var label string
	cmd := &cobra.Command{
		Use:   "bind IDENTITY [--label TEXT]",
		Short: "Keep an identity on this device, to open it without the server",
		Long: `Keep an identity's assets and the role keys of your level on this device, under a key
that only your authenticator opens. 'secret show --offline' then needs no server.

Who steals the device's storage can try passwords on it as fast as Argon2id lets him.
Authenticators whose secret the server keeps a part of (a third party's account, a phone)
cannot be bound.`,
		Example:           `  mpckms device bind acme --label "Ada's laptop"`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, home, err := a.logIn(cmd, args[0])
			if err != nil {
				return err
			}
			defer a.endSession(s)
			if label == "" {
				label, _ = os.Hostname() // an empty one is the server's to refuse
			}
			b, err := a.bind(cmd.Context(), s, home, args[0], label)
			if err != nil {
				return err
			}
			doc := deviceDocOf(b)
			return a.print(doc, doc.write)
		},
	}
	cmd.Flags().StringVar(&label, "label", "", "what people call this device (default: its host name)")
	return cmd
}

func (a *app) bind(ctx context.Context, s *keyholder.Session, home *keyholder.Home, name, label string) (*identity.Binding, error) {
	what := "bind this device to identity " + quote(name)
	if _, err := home.Binding(name); err == nil {
		return nil, &refusal{what: fmt.Sprintf("this device is bound to identity %q already", name),
			advice: "'mpckms device sync " + name + "' fetches what has changed; 'mpckms device unbind " + name + "' ends it."}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	h, err := hold(ctx, loggedIn(s, home), home, name)
	if err != nil {
		return nil, err
	}
	defer h.close()
	assets, err := h.mine(ctx)
	if err != nil {
		return nil, err
	}
	b, err := identity.Bind(h.opened, s.Authenticator(), s.Info(), identity.NewID(), assets, time.Now())
	if err != nil {
		return nil, refusedBy(what, err)
	}
	raw, err := b.Marshal()
	if err != nil {
		return nil, refusedBy(what, err)
	}
	// The server first: a device that it does not know of could not be revoked.
	path := devicesPath(s.Authenticator().Name)
	if err := s.Call(ctx, keyholder.Write, path, map[string]any{"identity": name, "label": label, "device": b.DeviceID.String()}, nil); err != nil {
		return nil, refusedBy(what, err)
	}
	if err := home.SetBinding(name, raw); err != nil {
		return nil, errors.Join(err, s.Call(ctx, keyholder.Delete, path+"/"+b.DeviceID.String(), nil, nil))
	}
	return b, nil
}

// mine returns the assets of which this authenticator opens at least one key.
func (h *holder) mine(ctx context.Context) ([]*identity.SignedAsset, error) {
	names, err := h.assetNames(ctx)
	if err != nil {
		return nil, err
	}
	var out []*identity.SignedAsset
	for _, name := range names {
		x, signed, err := h.asset(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, role := range x.Roles() {
			if h.opened.Roles[role] != nil {
				out = append(out, signed)
				break
			}
		}
	}
	return out, nil
}
