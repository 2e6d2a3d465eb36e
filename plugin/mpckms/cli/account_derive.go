package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// deriveDoc is the JSON document of `account derive`.
type deriveDoc struct {
	Name         string `json:"name"`
	Path         string `json:"derivation_path"`
	TaprootTweak string `json:"taproot_tweak"`
	PublicKey    string `json:"public_key"` // PEM
	PublicKeyHex string `json:"public_key_hex"`
	ChainCode    string `json:"chain_code"`
}

// childFlags say which child of an account's key is meant.
type childFlags struct{ path, tweak string }

func (f *childFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.path, "derivation-path", "", "BIP-32 path of the child key, such as m/0/7; hardened steps are impossible")
	flags.StringVar(&f.tweak, "taproot-tweak", "", "bip86, or the Merkle root of the script tree in hex (BIP-341)")
}

func (f *childFlags) add(body map[string]any) {
	if f.path != "" {
		body["derivation_path"] = f.path
	}
	if f.tweak != "" {
		body["taproot_tweak"] = f.tweak
	}
}

func (a *app) accountDeriveCommand() *cobra.Command {
	var child childFlags
	cmd := &cobra.Command{
		Use:   "derive NAME [--derivation-path PATH] [--taproot-tweak TWEAK]",
		Short: "Show the public key of a child of an account's key",
		Long: `Show the public key of a child of a secp256k1 account's key, by BIP-32 and, for
Taproot outputs, BIP-341. 'account sign' with the same flags signs with it.`,
		Example: `  mpckms account derive hot --derivation-path m/0/7
  mpckms account derive treasury --derivation-path m/0/7 --taproot-tweak bip86`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			body := map[string]any{}
			child.add(body)
			doc := deriveDoc{Name: args[0]}
			_, err = c.do(cmd.Context(), request{
				what:       fmt.Sprintf("derive from account %q", args[0]),
				capability: capUpdate, path: "accounts/" + args[0] + "/derive", body: body, account: args[0],
			}, &doc)
			if err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	child.register(cmd)
	return cmd
}

func (doc deriveDoc) write(t *text) {
	t.pairs("",
		"Account", doc.Name,
		"Derivation path", doc.Path,
		"Taproot tweak", doc.TaprootTweak,
		"Public key", doc.PublicKeyHex,
		"Chain code", doc.ChainCode,
	)
	if doc.PublicKey != "" {
		t.blank()
		t.block(doc.PublicKey)
	}
}
