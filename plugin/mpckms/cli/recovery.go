package cli

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
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

// fingerprint names a key for people to compare: 16 bytes of its SHA-256, in
// groups of four hex digits.
func fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	text := hex.EncodeToString(sum[:16])
	var parts []string
	for ; text != ""; text = text[4:] {
		parts = append(parts, text[:4])
	}
	return strings.Join(parts, " ")
}

// custodianDoc is the JSON document of `recovery keygen`.
type custodianDoc struct {
	Name        string `json:"name"`
	Version     uint32 `json:"version"`
	Fingerprint string `json:"fingerprint"`
	KeyFile     string `json:"key_file"`
	PublicFile  string `json:"public_file"`
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
			doc := custodianDoc{Name: name, Version: version, KeyFile: out, PublicFile: out + ".pub"}
			if err := absent(doc.KeyFile, doc.PublicFile); err != nil {
				return err
			}
			key, err := ecdh.P256().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			public := recovery.Recipient{Name: name, Version: version, PublicKey: key.PublicKey().Bytes()}
			if err := public.Check(); err != nil {
				return usagef(cmd, "%v", err)
			}
			pass, err := a.passphrase(cmd.Context(), passphrase, true)
			if err != nil {
				return err
			}
			defer pass.Wipe()
			k := &keyFile{Kind: kindCustodian, Name: name, Version: version, Private: key.Bytes()}
			defer k.wipe()
			sealed, err := a.sealKey(k, pass)
			if err != nil {
				return err
			}
			raw, err := json.MarshalIndent(public, "", "  ")
			if err != nil {
				return err
			}
			if err := writeKeyPair(doc.KeyFile, sealed, doc.PublicFile, append(raw, '\n')); err != nil {
				return err
			}
			doc.Fingerprint = fingerprint(public.PublicKey)
			return a.print(doc, func(t *text) {
				t.pairs("", "Custodian", doc.Name, "Fingerprint", doc.Fingerprint,
					"Private half", doc.KeyFile+" (encrypted)", "Public half", doc.PublicFile)
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

// setDoc is the JSON document of `recovery set`.
type setDoc struct {
	Serial     uint64   `json:"serial"`
	Hash       string   `json:"hash"`
	Recipients []string `json:"recipients"`
	// Domains are the names of nodes by wrapping domain, empty for a set without.
	Domains map[string][]string `json:"domains,omitempty"`
}

func (a *app) recoverySetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "set FILE",
		Short:   "Give the mount a signed set of custodians",
		Example: `  mpckms recovery set recipients.json`,
		Args:    oneArg("the signed set's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, _, err := readSet(args[0])
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc setDoc
			_, err = c.do(cmd.Context(), request{what: "set the recovery recipients", capability: capUpdate, path: "config/recovery",
				body: map[string]any{"set": string(raw)}}, &doc)
			if err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				recipients := strings.Join(doc.Recipients, ", ")
				if recipients == "" {
					recipients = "none: nobody can rebuild accounts whose tokens are lost"
				}
				t.pairs("", "Recipients", recipients, "Serial", count64(doc.Serial))
				for _, name := range slices.Sorted(maps.Keys(doc.Domains)) {
					t.pairs("", "Domain "+name, strings.Join(doc.Domains[name], ", "))
				}
			})
		},
	}
}
