package cli

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

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
