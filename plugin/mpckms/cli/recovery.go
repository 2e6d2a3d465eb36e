package cli

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/recovery"
)

func (a *app) recoveryCommand() *cobra.Command {
	cmd := group("recovery", "Rebuild accounts when an HSM or a Vault is lost")
	cmd.AddCommand(a.recoveryKeygenCommand(), a.recoverySetCommand(), a.recoveryExportCommand(),
		a.recoveryTargetCommand(), a.recoveryDealCommand(), a.recoveryImportCommand())
	return cmd
}

// fingerprint names a key for people to compare: 16 bytes of its SHA-256.
func fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	text := hex.EncodeToString(sum[:16])
	var parts []string
	for ; text != ""; text = text[4:] {
		parts = append(parts, text[:4])
	}
	return strings.Join(parts, " ")
}

func (a *app) recoveryKeygenCommand() *cobra.Command {
	var name, out, passphrase string
	var version uint32
	cmd := &cobra.Command{
		Use:   "keygen --name NAME --out FILE",
		Short: "Make a custodian's key",
		Long: `Make the key of one recovery custodian. FILE gets the private half, encrypted by
age under a passphrase; FILE.pub the public half, for the authority. Every
custodian runs this alone: t of these keys together can rebuild accounts.`,
		Example: `  mpckms recovery keygen --name alice --out alice.key`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" || out == "" {
				return usagef(cmd, "give --name and --out")
			}
			key, err := ecdh.P256().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			public := recovery.Recipient{Name: name, Version: version, PublicKey: key.PublicKey().Bytes()}
			if err := public.Check(); err != nil {
				return usagef(cmd, "%v", err)
			}
			pass, err := a.passphrase(passphrase, true)
			if err != nil {
				return err
			}
			defer pass.Wipe()
			sealed, err := sealKey(keyFile{Kind: kindCustodian, Name: name, Version: version, Private: base64.StdEncoding.EncodeToString(key.Bytes())}, pass)
			if err != nil {
				return err
			}
			raw, err := json.MarshalIndent(public, "", "  ")
			if err != nil {
				return err
			}
			if err := writeNew(out, sealed, 0o600); err != nil {
				return err
			}
			if err := writeNew(out+".pub", append(raw, '\n'), 0o644); err != nil {
				return err
			}
			doc := map[string]any{"name": name, "version": version, "fingerprint": fingerprint(public.PublicKey), "key_file": out, "public_file": out + ".pub"}
			return a.print(doc, func(t *text) {
				t.pairs("", "Custodian", name, "Fingerprint", fingerprint(public.PublicKey), "Private half", out+" (encrypted)", "Public half", out+".pub")
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "the custodian's name: a-z, 0-9, dot, dash and underscore")
	flags.Uint32Var(&version, "version", 1, "counts the custodian's keys from 1")
	flags.StringVar(&out, "out", "", "file for the private half; must not exist")
	passphraseFlag(cmd, &passphrase)
	return cmd
}

func (a *app) recoverySetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "set FILE",
		Short:   "Give the mount a signed set of custodians",
		Example: `  mpckms recovery set recipients.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readFile(args[0], maxInputFile)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc struct {
				Serial     uint64   `json:"serial"`
				Hash       string   `json:"hash"`
				Recipients []string `json:"recipients"`
			}
			_, err = c.do(cmd.Context(), request{what: "set the recovery recipients", capability: capUpdate, path: "config/recovery",
				body: map[string]any{"set": string(raw)}}, &doc)
			if err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				t.pairs("", "Recipients", strings.Join(doc.Recipients, ", "), "Serial", fmt.Sprint(doc.Serial))
			})
		},
	}
}

// exportDoc is the JSON document of `recovery export`, one for each account.
type exportDoc struct {
	Account    string   `json:"account"`
	File       string   `json:"file"`
	Epoch      int64    `json:"epoch"`
	Recipients []string `json:"recipients"`
	Threshold  int      `json:"threshold"`
}

func (a *app) recoveryExportCommand() *cobra.Command {
	var out, dir string
	var all bool
	cmd := &cobra.Command{
		Use:   "export (NAME --out FILE | --all --out-dir DIR)",
		Short: "Export accounts for their custodians",
		Long: `Write an account's bundle: its public record and its sealed shares. It works
without the HSM, holds ciphertext only, and stays good for ever: any t custodians
can rebuild the account from it. Keep bundles outside of Vault.`,
		Example: `  mpckms recovery export treasury --out treasury.bundle
  mpckms recovery export --all --out-dir bundles`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var docs []exportDoc
			export := func(name, file string) error {
				doc, err := a.exportAccount(cmd, c, name, file)
				if err == nil {
					docs = append(docs, *doc)
				}
				return err
			}
			switch {
			case all && dir != "" && len(args) == 0:
				list, err := c.list(cmd.Context(), "list the accounts", "accounts")
				if err != nil {
					return err
				}
				for _, name := range list.Keys {
					if !validName(name) {
						return fmt.Errorf("the server lists an account %q, which is no name: nothing was written for it", name)
					}
					if err := export(name, filepath.Join(dir, name+".bundle")); err != nil {
						return err
					}
				}
			case !all && len(args) == 1 && out != "" && validName(args[0]):
				if err := export(args[0], out); err != nil {
					return err
				}
			default:
				return usagef(cmd, "give an account and --out, or --all and --out-dir")
			}
			return a.print(docs, func(t *text) {
				rows := [][]string{}
				for _, d := range docs {
					rows = append(rows, []string{d.Account, fmt.Sprint(d.Epoch), fmt.Sprintf("any %d of %s", d.Threshold, strings.Join(d.Recipients, ", ")), d.File})
				}
				t.table("", []string{"ACCOUNT", "EPOCH", "REBUILT BY", "FILE"}, rows)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&out, "out", "", "file for the bundle; must not exist")
	flags.BoolVar(&all, "all", false, "export every account")
	flags.StringVar(&dir, "out-dir", "", "folder for the bundles of all accounts")
	return cmd
}

func (a *app) exportAccount(cmd *cobra.Command, c *client, name, file string) (*exportDoc, error) {
	var answer struct {
		Bundle     string   `json:"bundle"`
		Epoch      int64    `json:"epoch"`
		Recipients []string `json:"recipients"`
		Threshold  int      `json:"threshold"`
	}
	_, err := c.do(cmd.Context(), request{what: fmt.Sprintf("export account %q", name), capability: capRead, path: "recovery/export/" + name, account: name}, &answer)
	if err != nil {
		return nil, err
	}
	if _, err := recovery.ParseBundle([]byte(answer.Bundle)); err != nil {
		return nil, fmt.Errorf("the server's bundle of %q is not written, since nobody could use it: %w", name, err)
	}
	if err := writeNew(file, []byte(answer.Bundle), 0o600); err != nil {
		return nil, err
	}
	return &exportDoc{Account: name, File: file, Epoch: answer.Epoch, Recipients: answer.Recipients, Threshold: answer.Threshold}, nil
}

func (a *app) recoveryTargetCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "target --out FILE",
		Short:   "Ask the mount that accounts are rebuilt on for its key",
		Example: `  mpckms recovery target --mount new --out target.json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usagef(cmd, "name the file to make with --out")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var answer struct {
				Target string `json:"target"`
			}
			if _, err := c.do(cmd.Context(), request{what: "ask for the recovery target", capability: capUpdate, path: "recovery/target", body: struct{}{}}, &answer); err != nil {
				return err
			}
			target, err := recovery.ParseTarget([]byte(answer.Target))
			if err != nil {
				return err
			}
			if err := writeNew(out, []byte(answer.Target), 0o644); err != nil {
				return err
			}
			doc := map[string]string{"file": out, "mount_id": hex.EncodeToString(target.MountID[:]), "fingerprint": fingerprint(target.Key.PublicKey)}
			return a.print(doc, func(t *text) {
				showTarget(t, target)
				t.line("Written to " + out + ": compare the fingerprint with what the authority is shown.")
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the target; must not exist")
	return cmd
}

func (a *app) recoveryDealCommand() *cobra.Command {
	var key, bundle, target, authority, out, passphrase string
	cmd := &cobra.Command{
		Use:   "deal --key FILE --bundle FILE --target FILE --authority FILE --out FILE",
		Short: "As a custodian, deal your share to a mount",
		Long: `Open the share of a bundle that is sealed to you and deal it anew: every node of
the target gets a part of it, sealed to the target's HSM. Needs no connection.
The target must be signed by the authority whose public file you give: take that
file from a source you trust, not with the target.`,
		Example: `  mpckms recovery deal --key alice.key --bundle treasury.bundle --target target.signed.json \
    --authority authority.key.pub --out alice.deal`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []string{key, bundle, target, out} {
				if f == "" {
					return usagef(cmd, "--key, --bundle, --target, --authority and --out are all needed")
				}
			}
			public, err := readPublic(cmd, authority)
			if err != nil {
				return err
			}
			raw, err := readFile(target, maxInputFile)
			if err != nil {
				return err
			}
			signed, err := recovery.ParseSignedTarget(raw)
			if err != nil {
				return err
			}
			if _, err := signed.Verify(public); err != nil {
				return fmt.Errorf("%s: %w: nothing was dealt", target, err)
			}
			if raw, err = readFile(bundle, maxInputFile); err != nil {
				return err
			}
			b, err := recovery.ParseBundle(raw)
			if err != nil {
				return err
			}
			pass, err := a.passphrase(passphrase, false)
			if err != nil {
				return err
			}
			defer pass.Wipe()
			k, err := openKey(key, kindCustodian, pass)
			if err != nil {
				return err
			}
			private, err := k.custodianKey()
			if err != nil {
				return err
			}
			deal, err := recovery.MakeDeal(cmd.Context(), b, k.Name, private, public, signed)
			if err != nil {
				return err
			}
			if raw, err = deal.Marshal(); err != nil {
				return err
			}
			if err := writeNew(out, raw, 0o600); err != nil {
				return err
			}
			doc := map[string]any{"file": out, "account": b.Account, "custodian": k.Name, "share": deal.Dealer}
			return a.print(doc, func(t *text) {
				t.pairs("", "Dealt", fmt.Sprintf("share %d of %s, by %s", deal.Dealer, b.Account, k.Name), "File", out)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&key, "key", "", "your key file")
	flags.StringVar(&bundle, "bundle", "", "the account's bundle")
	flags.StringVar(&target, "target", "", "the signed target")
	flags.StringVar(&authority, "authority", "", "the authority's public file")
	flags.StringVar(&out, "out", "", "file for the deal; must not exist")
	passphraseFlag(cmd, &passphrase)
	return cmd
}

func (a *app) recoveryImportCommand() *cobra.Command {
	var bundle, target string
	cmd := &cobra.Command{
		Use:     "import NAME --bundle FILE --target FILE DEAL …",
		Short:   "Rebuild an account from what its custodians dealt",
		Example: `  mpckms recovery import treasury --mount new --bundle treasury.bundle --target target.signed.json alice.deal carol.deal`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := accountArg(cmd, args[:1]); err != nil {
				return err
			}
			if bundle == "" || target == "" || len(args) < 2 {
				return usagef(cmd, "give --bundle, --target and the custodians' deals")
			}
			body := map[string]any{}
			for field, path := range map[string]string{"bundle": bundle, "target": target} {
				raw, err := readFile(path, maxInputFile)
				if err != nil {
					return err
				}
				body[field] = string(raw)
			}
			var deals []string
			for _, path := range args[1:] {
				raw, err := readFile(path, maxInputFile)
				if err != nil {
					return err
				}
				deals = append(deals, string(raw))
			}
			body["deals"] = deals
			c, err := a.connect()
			if err != nil {
				return err
			}
			acc := &account{Name: args[0]}
			_, err = c.do(cmd.Context(), request{what: fmt.Sprintf("rebuild account %q", args[0]), capability: capUpdate,
				path: "recovery/import/" + args[0], body: body, account: args[0]}, acc)
			if err != nil {
				return err
			}
			return a.print(acc, acc.write)
		},
	}
	cmd.Flags().StringVar(&bundle, "bundle", "", "the account's bundle")
	cmd.Flags().StringVar(&target, "target", "", "the signed target")
	return cmd
}
