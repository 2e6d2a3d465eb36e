package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

func (a *app) secretPutCommand() *cobra.Command {
	var (
		key, file, note string
		roles           []string
	)
	cmd := &cobra.Command{
		Use:   "put IDENTITY/ASSET [--role ROLE]... [--file FILE]",
		Short: "Encrypt a secret for roles of an identity, and store it",
		Long: `Encrypt a secret here, for one or more roles, and store it. It is read from the file
as it is, 1 to 32768 bytes, or asked for at the terminal. A line feed at the end belongs to
it: printf '%s' writes none where echo does.

An asset may have several keys (user, password); --key names the one that is meant. One
that exists is replaced, and stays for the roles that it was for unless --role says
otherwise.`,
		Example: `  mpckms secret put acme/dns --role web
  mpckms secret put acme/router --key admin-password --role web --role ops --file - < password
  mpckms secret put acme/router --key api-token --role web --file token`,
		Args:              assetArg,
		ValidArgsFunction: a.completeAssets,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, asset, err := assetName(cmd, args[0])
			if err != nil {
				return err
			}
			if err := checkName("key", key); err != nil {
				return usagef(cmd, "%v", err)
			}
			if err := checkRoles(roles); err != nil {
				return usagef(cmd, "%v", err)
			}
			value, err := a.secretValue(cmd.Context(), file)
			if err != nil {
				return err
			}
			defer value.Wipe()
			h, err := a.enter(cmd, name)
			if err != nil {
				return err
			}
			defer a.leave(h)
			doc, err := h.put(cmd.Context(), asset, key, value, roles, note, cmd.Flags().Changed("note"))
			if err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&key, "key", defaultKey, "which key of the asset")
	flags.StringArrayVar(&roles, "role", nil, "a role that may use it; may be repeated")
	flags.StringVar(&file, "file", "", "read the secret from this file; - is standard input")
	flags.StringVar(&note, "note", "", "a note in clear, which the server can read")
	return cmd
}

// secretValue reads a secret, which its caller wipes.
func (a *app) secretValue(ctx context.Context, file string) (*secret.Bytes, error) {
	var raw []byte
	var err error
	switch file {
	case "":
		f, ok := a.stdin.(*os.File)
		if !ok || !term.IsTerminal(int(f.Fd())) {
			return nil, errors.New("there is no terminal to ask for the secret: use --file, or --file - for standard input")
		}
		value, err := a.askHidden(ctx, f, "Secret: ")
		if err == nil && value.Len() == 0 {
			err = errors.New("no secret was typed: nothing was stored")
		}
		return value, err
	case "-":
		raw, err = io.ReadAll(io.LimitReader(a.stdin, identity.MaxSecret+1))
	default:
		raw, err = readFile(file, identity.MaxSecret)
	}
	if err != nil {
		secret.Wipe(raw)
		return nil, fmt.Errorf("the secret cannot be read: %w", err)
	}
	if len(raw) == 0 || len(raw) > identity.MaxSecret {
		secret.Wipe(raw)
		return nil, fmt.Errorf("a secret has 1 to %d bytes: nothing was stored", identity.MaxSecret)
	}
	return secret.New(raw), nil
}

// put stores one key of a secret asset, which is made if need be.
func (h *holder) put(ctx context.Context, asset, key string, value *secret.Bytes, roles []string, note string, setNote bool) (assetDoc, error) {
	what := "put secret " + quote(h.name+"/"+asset)
	x, _, err := h.asset(ctx, asset)
	switch {
	case errors.Is(err, errNoAsset):
		x = h.opened.NewAsset(asset, identity.SecretAsset)
	case err != nil:
		return assetDoc{}, err
	case x.Kind != identity.SecretAsset:
		return assetDoc{}, &refusal{what: fmt.Sprintf("%s holds the custody key of an account; nothing was changed", quote(h.name+"/"+asset))}
	}
	if len(roles) == 0 {
		if old := x.Key(key); old != nil {
			roles = old.Roles()
		} else if len(roles) == 0 {
			return assetDoc{}, &refusal{what: "for which roles? The key is a new one; nothing was stored", advice: "Name them with --role; 'mpckms identity show " + h.name + "' lists them."}
		}
	}
	err = h.write(ctx, x, func(next *identity.Asset) error {
		k, err := identity.SealAssetKey(h.opened.Manifest, next, key, nil, value, roles)
		if err != nil {
			return err
		}
		next.Put(*k)
		if setNote {
			next.Note = note
		}
		return nil
	})
	if err != nil {
		return assetDoc{}, refusedBy(what, err)
	}
	if x, _, err = h.asset(ctx, asset); err != nil {
		return assetDoc{}, err
	}
	return h.describe(x), nil
}
