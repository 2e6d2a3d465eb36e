package cli

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/recovery"
)

// madeTargetDoc is the JSON document of `recovery target`.
type madeTargetDoc struct {
	File        string `json:"file"`
	MountID     string `json:"mount_id"`
	KeyVersion  uint32 `json:"key_version"`
	Fingerprint string `json:"fingerprint"`
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
			if err := absent(out); err != nil {
				return err
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
				return &refusal{what: "the server's target cannot be used and was not written", cause: err}
			}
			if err := writeNew(out, []byte(answer.Target), 0o644); err != nil {
				return err
			}
			doc := madeTargetDoc{File: out, MountID: hex.EncodeToString(target.MountID[:]), KeyVersion: target.Key.Version, Fingerprint: fingerprint(target.Key.PublicKey)}
			return a.print(doc, func(t *text) {
				showTarget(t, target)
				t.line("Written to " + out + ": compare the fingerprint with what the authority is shown.")
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the target; must not exist")
	return cmd
}

// dealFlags are the files of `recovery deal`.
type dealFlags struct {
	key, bundle, target, authority, out, passphrase string
}

// dealDoc is the JSON document of `recovery deal`.
type dealDoc struct {
	File      string `json:"file"`
	Account   string `json:"account"`
	PublicKey string `json:"public_key_hex"`
	Custodian string `json:"custodian"`
	Share     int    `json:"share"`
}

func (a *app) recoveryDealCommand() *cobra.Command {
	var f dealFlags
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
			for _, file := range []string{f.key, f.bundle, f.target, f.authority, f.out} {
				if file == "" {
					return usagef(cmd, "--key, --bundle, --target, --authority and --out are all needed")
				}
			}
			if err := absent(f.out); err != nil {
				return err
			}
			doc, raw, err := a.makeDeal(cmd, f)
			if err != nil {
				return err
			}
			if err := writeNew(f.out, raw, 0o600); err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				t.pairs("", "Dealt", fmt.Sprintf("share %d of %s, by %s", doc.Share, doc.Account, doc.Custodian), "Public key", doc.PublicKey, "File", doc.File)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "your key file")
	flags.StringVar(&f.bundle, "bundle", "", "the account's bundle")
	flags.StringVar(&f.target, "target", "", "the signed target")
	flags.StringVar(&f.authority, "authority", "", "the authority's public file")
	flags.StringVar(&f.out, "out", "", "file for the deal; must not exist")
	passphraseFlag(cmd, &f.passphrase)
	return cmd
}

// makeDeal checks everything before it asks for the passphrase.
func (a *app) makeDeal(cmd *cobra.Command, f dealFlags) (*dealDoc, []byte, error) {
	authority, err := readPublic(cmd, f.authority)
	if err != nil {
		return nil, nil, err
	}
	raw, err := readFile(f.target, maxInputFile)
	if err != nil {
		return nil, nil, err
	}
	signed, err := recovery.ParseSignedTarget(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not a signed target, as 'mpckms authority sign-target' writes it: %w", f.target, err)
	}
	target, err := signed.Verify(authority)
	if err != nil {
		return nil, nil, distrusted(f.target, fmt.Errorf("%w; nothing was dealt", err))
	}
	if raw, err = readFile(f.bundle, maxInputFile); err != nil {
		return nil, nil, err
	}
	b, err := recovery.ParseBundle(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not a whole bundle, as 'mpckms recovery export' writes it: %w", f.bundle, err)
	}
	record, _, err := b.Open()
	if err != nil {
		return nil, nil, err
	}
	a.show(func(t *text) {
		t.pairs("", "Account", b.Account, "Public key", hex.EncodeToString(record.PublicKey))
		showTarget(t, target)
	})
	pass, err := a.passphrase(cmd.Context(), f.passphrase, false)
	if err != nil {
		return nil, nil, err
	}
	defer pass.Wipe()
	k, err := openKey(f.key, kindCustodian, pass)
	if err != nil {
		return nil, nil, err
	}
	defer k.wipe()
	private, err := k.custodianKey()
	if err != nil {
		return nil, nil, err
	}
	deal, err := recovery.MakeDeal(cmd.Context(), b, k.Name, private, authority, signed)
	if errors.Is(err, recovery.ErrSignature) {
		return nil, nil, distrusted(f.target, err)
	}
	if err != nil {
		return nil, nil, &refusal{what: "nothing was dealt", cause: err}
	}
	if raw, err = deal.Marshal(); err != nil {
		return nil, nil, err
	}
	return &dealDoc{File: f.out, Account: b.Account, PublicKey: hex.EncodeToString(record.PublicKey), Custodian: k.Name, Share: int(deal.Dealer)}, raw, nil
}

func (a *app) recoveryImportCommand() *cobra.Command {
	var bundle, target string
	cmd := &cobra.Command{
		Use:   "import NAME --bundle FILE --target FILE DEAL …",
		Short: "Rebuild an account from what its custodians dealt",
		Long: `Give a mount the account's bundle, the target that the authority has signed for it,
and what t custodians dealt, or more. The account gets the name NAME there, and
keeps its public key.`,
		Example: `  mpckms recovery import treasury --mount new --bundle treasury.bundle \
      --target target.signed.json alice.deal carol.deal`,
		Args: func(cmd *cobra.Command, args []string) error { return accountArg(cmd, args[:min(len(args), 1)]) },
		RunE: func(cmd *cobra.Command, args []string) error {
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
				if _, err := recovery.ParseDeal(raw); err != nil {
					return fmt.Errorf("%s is not a deal, as 'mpckms recovery deal' writes it: %w", path, err)
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
				path: "recovery/import/" + args[0], body: body}, acc)
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
