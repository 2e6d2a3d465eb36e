package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
)

// addressDoc is the JSON document of `account address`.
type addressDoc struct {
	Name         string            `json:"name"`
	Path         string            `json:"derivation_path,omitempty"`
	TaprootTweak string            `json:"taproot_tweak,omitempty"` // to sign with
	PublicKeyHex string            `json:"public_key_hex,omitempty"`
	Addresses    map[string]string `json:"addresses"`
}

func (a *app) accountAddressCommand() *cobra.Command {
	var child childFlags
	var cosmos string
	cmd := &cobra.Command{
		Use:   "address NAME [--derivation-path PATH] [--taproot-tweak TWEAK] [--cosmos-prefix PREFIX]",
		Short: "Show an account's addresses on the chains of its algorithm",
		Long: `Show an account's addresses, or those of a child of its key, on the chains of its
algorithm. A Taproot address says with which tweak its coins are spent: give the
same --taproot-tweak to 'account sign'.`,
		Example: `  mpckms account address hot --derivation-path m/0/7
  mpckms account address hot --cosmos-prefix osmo`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			body := map[string]any{}
			child.add(body)
			if cosmos != "" {
				body["cosmos_prefix"] = cosmos
			}
			doc := addressDoc{Name: args[0]}
			_, err = c.do(cmd.Context(), request{
				what:       fmt.Sprintf("show the addresses of account %q", args[0]),
				capability: capUpdate, path: "accounts/" + args[0] + "/addresses", body: body, account: args[0],
			}, &doc)
			if err != nil {
				return err
			}
			if doc.Addresses == nil {
				doc.Addresses = map[string]string{}
			}
			return a.print(doc, doc.write)
		},
	}
	child.register(cmd)
	cmd.Flags().StringVar(&cosmos, "cosmos-prefix", "", "the chain's human-readable part (default: cosmos)")
	return cmd
}

func (doc addressDoc) write(t *text) {
	t.pairs("", "Account", doc.Name, "Derivation path", doc.Path, "Taproot tweak", doc.TaprootTweak, "Public key", doc.PublicKeyHex)
	t.blank()
	rows := make([][]string, 0, len(doc.Addresses))
	for _, chain := range slices.Sorted(maps.Keys(doc.Addresses)) {
		rows = append(rows, []string{chain, doc.Addresses[chain]})
	}
	t.table("", []string{"CHAIN", "ADDRESS"}, rows)
}

// jwkDoc is the JSON document of `account jwk`.
type jwkDoc struct {
	Name string          `json:"name"`
	Path string          `json:"derivation_path,omitempty"`
	JWK  json.RawMessage `json:"jwk"`
	// Text is the key as canonical JSON; its SHA-256 is not the thumbprint,
	// which is over fewer members.
	Text string `json:"jwk_json"`
}

func (a *app) accountJWKCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "jwk NAME [--derivation-path PATH]",
		Short: "Show an account's public key as a JSON Web Key",
		Long: `Show an account's public key, or a child's, as a JSON Web Key (RFC 7517). Without
-o json the key alone is printed, on one line, for the program that takes it.`,
		Example: `  mpckms account jwk tokens
  mpckms account jwk hot --derivation-path m/0/7`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var query map[string][]string
			if path != "" {
				query = map[string][]string{"derivation_path": {path}}
			}
			doc := jwkDoc{Name: args[0]}
			_, err = c.do(cmd.Context(), request{
				what:       fmt.Sprintf("show the JWK of account %q", args[0]),
				capability: capRead, path: "accounts/" + args[0] + "/jwk", query: query, account: args[0],
			}, &doc)
			if err != nil {
				return err
			}
			if doc.Text == "" || len(doc.JWK) == 0 {
				return &refusal{what: fmt.Sprintf("the answer about account %q holds no JWK", args[0])}
			}
			return a.print(doc, func(t *text) { t.line(doc.Text) })
		},
	}
	cmd.Flags().StringVar(&path, "derivation-path", "", "BIP-32 path of the child key, such as m/0/7; hardened steps are impossible")
	return cmd
}
