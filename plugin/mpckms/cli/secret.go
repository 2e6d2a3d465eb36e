package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/secret"
)

// defaultKey is the key of an asset that has only one.
const defaultKey = "value"

func (a *app) secretCommand() *cobra.Command {
	cmd := group("secret", "Put, show, list and delete the secrets of an identity")
	cmd.AddCommand(a.secretPutCommand(), a.secretShowCommand(), a.secretListCommand(), a.secretForgetCommand(), a.secretDeleteCommand())
	return cmd
}

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

// assetDoc is the JSON document of an asset.
type assetDoc struct {
	Asset      string        `json:"asset"` // IDENTITY/NAME
	Kind       string        `json:"kind"`
	Generation uint64        `json:"generation"`
	Changed    string        `json:"changed_time"`
	Note       string        `json:"note,omitempty"`
	Account    string        `json:"account,omitempty"` // ID
	Keys       []assetKeyDoc `json:"keys"`
}

type assetKeyDoc struct {
	Name       string   `json:"name"`
	Generation uint64   `json:"generation"`
	Roles      []string `json:"roles"`
	Opens      bool     `json:"opens"` // for who is logged in
}

func (h *holder) describe(x *identity.Asset) assetDoc {
	doc := assetDoc{Asset: h.name + "/" + x.Name, Kind: string(x.Kind), Generation: x.Generation,
		Changed: x.Time.UTC().Format(time.RFC3339), Note: x.Note, Account: x.Account}
	for i := range x.Keys {
		k := &x.Keys[i]
		roles := k.Roles()
		opens := slices.ContainsFunc(roles, func(role string) bool { return h.opened.Roles[role] != nil })
		doc.Keys = append(doc.Keys, assetKeyDoc{k.Name, k.Generation, roles, opens})
	}
	return doc
}

func (doc assetDoc) write(t *text) {
	t.pairs("", "Asset", doc.Asset, "Kind", doc.Kind, "Account", doc.Account, "Generation", count64(doc.Generation),
		"Last change", doc.Changed, "Note", doc.Note)
	t.blank()
	var rows [][]string
	for _, k := range doc.Keys {
		rows = append(rows, []string{k.Name, count64(k.Generation), strings.Join(k.Roles, ", "), yesNo(k.Opens)})
	}
	t.table("", []string{"KEY", "GENERATION", "FOR ROLES", "OPENS FOR YOU"}, rows)
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

// secretDoc is the JSON document of `secret show`: the secret itself.
type secretDoc struct {
	Asset      string `json:"asset"`
	Key        string `json:"key"`
	Generation uint64 `json:"generation"`
	Value      string `json:"value,omitempty"` // where it is UTF-8
	Base64     string `json:"value_base64"`
	Offline    bool   `json:"offline"`
}

func (a *app) secretShowCommand() *cobra.Command {
	var (
		key, out string
		offline  bool
	)
	cmd := &cobra.Command{
		Use:   "show IDENTITY/ASSET [--key KEY] [--out FILE]",
		Short: "Decrypt a secret and print it",
		Long: `Decrypt a secret and print it, with a line feed after it where it has none; on a
terminal, characters that could do something to it are escaped. --out writes it to a new
file exactly as it is, readable for you only.

With --offline it is taken from what 'device bind' has stored here, without asking any
server; it is as old as the last 'device sync'.`,
		Example: `  mpckms secret show acme/dns
  mpckms secret show acme/router --key api-token --out token
  mpckms secret show acme/dns --offline`,
		Args:              assetArg,
		ValidArgsFunction: a.completeAssets,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, asset, err := assetName(cmd, args[0])
			if err != nil {
				return err
			}
			if out != "" {
				if err := absent(out); err != nil {
					return err
				}
			}
			open := a.openOnline
			if offline {
				open = a.openOffline
			}
			doc := secretDoc{Asset: args[0], Offline: offline}
			value, err := open(cmd, name, asset, key, &doc)
			if err != nil {
				return err
			}
			defer value.Wipe()
			return a.showSecret(value, out, doc)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&key, "key", "", "which key of the asset (default: the only one, or "+defaultKey+")")
	flags.StringVar(&out, "out", "", "write it to this new file")
	flags.BoolVar(&offline, "offline", false, "from this bound device, without the server")
	return cmd
}

func (a *app) openOnline(cmd *cobra.Command, name, asset, key string, doc *secretDoc) (*secret.Bytes, error) {
	h, err := a.enter(cmd, name)
	if err != nil {
		return nil, err
	}
	defer a.leave(h)
	x, _, err := h.asset(cmd.Context(), asset)
	if err != nil {
		return nil, err
	}
	return openKeyOf(h.opened, x, key, doc)
}

// openKeyOf decrypts one key of a verified asset.
func openKeyOf(o *identity.Opened, x *identity.Asset, key string, doc *secretDoc) (*secret.Bytes, error) {
	what := "open " + quote(doc.Asset)
	if x.Kind != identity.SecretAsset {
		return nil, &refusal{what: quote(doc.Asset) + " holds the custody key of an account, which is not shown", advice: "Use it with 'mpckms account sign'."}
	}
	if key == "" {
		key = defaultKey
		if len(x.Keys) == 1 {
			key = x.Keys[0].Name
		}
	}
	if x.Key(key) == nil {
		var names []string
		for _, k := range x.Keys {
			names = append(names, k.Name)
		}
		return nil, &refusal{what: fmt.Sprintf("%s has no key %q", quote(doc.Asset), key), advice: "It has: " + strings.Join(names, ", ") + ". Choose one with --key."}
	}
	value, err := o.AssetValue(x, key)
	if err != nil {
		return nil, refusedBy(what, err)
	}
	doc.Key, doc.Generation = key, x.Key(key).Generation
	return value, nil
}

func (a *app) showSecret(value *secret.Bytes, out string, doc secretDoc) error {
	switch {
	case out != "":
		if err := writeNew(out, value.Expose(), 0o600); err != nil {
			return err
		}
		a.note("Written to %s", filepath.Clean(out))
		return nil
	case a.output == "json":
		if utf8.Valid(value.Expose()) {
			doc.Value = string(value.Expose())
		}
		doc.Base64 = base64.StdEncoding.EncodeToString(value.Expose())
		return a.print(doc, nil)
	}
	raw := value.Expose()
	if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		raw = []byte(cleanLines(string(raw)))
	}
	if len(raw) == 0 || raw[len(raw)-1] != '\n' {
		raw = append(slices.Clone(raw), '\n')
		defer secret.Wipe(raw)
	}
	if _, err := a.stdout.Write(raw); err != nil {
		return &refusal{what: "the secret could not be written to standard output", cause: err}
	}
	return nil
}

// secretListDoc is the JSON document of `secret list`.
type secretListDoc struct {
	Identity string     `json:"identity"`
	Assets   []assetDoc `json:"assets"`
}

func (a *app) secretListCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "list IDENTITY",
		Short:             "List the assets of an identity, and which open for you",
		Example:           `  mpckms secret list acme`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.enter(cmd, args[0])
			if err != nil {
				return err
			}
			defer a.leave(h)
			names, err := h.assetNames(cmd.Context())
			if err != nil {
				return err
			}
			doc := secretListDoc{Identity: args[0], Assets: []assetDoc{}}
			for _, name := range names {
				x, _, err := h.asset(cmd.Context(), name)
				if err != nil {
					return err
				}
				doc.Assets = append(doc.Assets, h.describe(x))
			}
			return a.print(doc, doc.write)
		},
	}
}

func (doc secretListDoc) write(t *text) {
	if len(doc.Assets) == 0 {
		t.line("No assets. Store one with 'mpckms secret put " + doc.Identity + "/NAME'.")
		return
	}
	var rows [][]string
	for _, x := range doc.Assets {
		for _, k := range x.Keys {
			rows = append(rows, []string{x.Asset, x.Kind, k.Name, strings.Join(k.Roles, ", "), yesNo(k.Opens), x.Changed})
		}
	}
	t.table("", []string{"ASSET", "KIND", "KEY", "FOR ROLES", "OPENS FOR YOU", "LAST CHANGE"}, rows)
}

func (a *app) secretDeleteCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:   "delete IDENTITY/ASSET --confirm IDENTITY/ASSET",
		Short: "Delete an asset, for good",
		Long: `Delete an asset with all of its keys. It is refused for the custody key of an account
that exists.`,
		Example:           `  mpckms secret delete acme/dns --confirm acme/dns`,
		Args:              assetArg,
		ValidArgsFunction: a.completeAssets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return usagef(cmd, "give the asset's name, IDENTITY/ASSET, once more with --confirm: nothing was deleted")
			}
			name, asset, err := assetName(cmd, args[0])
			if err != nil {
				return err
			}
			h, err := a.enter(cmd, name)
			if err != nil {
				return err
			}
			defer a.leave(h)
			if err := h.Call(cmd.Context(), keyholder.Delete, h.assetPath(asset), nil, nil); err != nil {
				return refusedBy("delete "+quote(args[0]), err)
			}
			if err := h.memory.ForgetAssetPin(name, asset); err != nil {
				return refusedBy("forget "+quote(args[0]), err)
			}
			doc := deletedDoc{Name: args[0], Deleted: true}
			return a.print(doc, func(t *text) { t.line(fmt.Sprintf("%s is gone.", quote(args[0]))) })
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the asset's name once more")
	return cmd
}
