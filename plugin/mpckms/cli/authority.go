package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

func (a *app) authorityCommand() *cobra.Command {
	cmd := group("authority", "Make the authority's key offline, sign with it, pin it")
	cmd.AddCommand(a.authorityInitCommand(), a.authoritySignSetCommand(), a.authoritySignTargetCommand(), a.authorityShowCommand(), a.authorityPinCommand())
	return cmd
}

// authorityDoc is the JSON document of `authority init`.
type authorityDoc struct {
	PublicKey  string `json:"public_key"` // hex
	KeyFile    string `json:"key_file"`
	PublicFile string `json:"public_file"`
}

func (a *app) authorityInitCommand() *cobra.Command {
	var out, passphrase string
	cmd := &cobra.Command{
		Use:   "init --out FILE",
		Short: "Make an authority's key, on a machine that is offline",
		Long: `Make an authority's Ed25519 key. FILE gets the private half, encrypted by age under
a passphrase; FILE.pub the public half, which mounts pin. Nothing is sent
anywhere: run it on a machine that is never online, and keep copies of FILE.`,
		Example: `  mpckms authority init --out authority.key`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usagef(cmd, "name the file to make with --out")
			}
			doc := authorityDoc{KeyFile: out, PublicFile: out + ".pub"}
			if err := absent(doc.KeyFile, doc.PublicFile); err != nil {
				return err
			}
			pass, err := a.passphrase(cmd.Context(), passphrase, true)
			if err != nil {
				return err
			}
			defer pass.Wipe()
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			defer secret.Wipe(private)
			k := &keyFile{Kind: kindAuthority, Private: private.Seed()}
			defer k.wipe()
			sealed, err := a.sealKey(k, pass)
			if err != nil {
				return err
			}
			doc.PublicKey = hex.EncodeToString(public)
			// No line end: Vault's CLI reads the file into a field as it is.
			if err := writeKeyPair(doc.KeyFile, sealed, doc.PublicFile, []byte(doc.PublicKey)); err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				t.pairs("", "Public key", doc.PublicKey, "Private half", doc.KeyFile+" (encrypted)", "Public half", doc.PublicFile)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the private half; must not exist")
	passphraseFlag(cmd, &passphrase)
	return cmd
}

// readPublic reads an authority's public file.
func readPublic(cmd *cobra.Command, path string) (ed25519.PublicKey, error) {
	if path == "" {
		return nil, usagef(cmd, "name the authority's public file with --authority: without it anybody's signature would do")
	}
	raw, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%s is not an authority's public file: it holds %d hex digits", path, 2*ed25519.PublicKeySize)
	}
	return key, nil
}

// pinDoc is the JSON document of `authority pin`.
type pinDoc struct {
	PublicKey string `json:"public_key"`
	Pinned    string `json:"pinned_time"`
}

func (a *app) authorityPinCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pin FILE.pub",
		Short: "Pin an authority's public key on the mount",
		Long: `Pin an authority's public key: from then on the mount takes recipient sets and
recovery targets that it has signed, and no others. It cannot be replaced once the
mount has accounts or recipients: pin it before the first account.`,
		Example: `  mpckms authority pin authority.key.pub`,
		Args:    oneArg("the authority's public file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readPublic(cmd, args[0])
			if err != nil {
				return err
			}
			body := map[string]any{"public_key": hex.EncodeToString(key)}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc pinDoc
			if _, err := c.do(cmd.Context(), request{what: "pin the authority", capability: capUpdate, path: "config/authority", body: body}, &doc); err != nil {
				return err
			}
			return a.print(doc, func(t *text) { t.pairs("", "Pinned", doc.PublicKey, "Since", moment(doc.Pinned)) })
		},
	}
}

// readSet reads a signed set, whoever has signed it.
func readSet(path string) ([]byte, *recovery.SignedSet, error) {
	raw, err := readFile(path, maxInputFile)
	if err != nil {
		return nil, nil, err
	}
	signed, err := recovery.ParseSignedSet(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not a signed recipient set, as 'mpckms authority sign-set' writes it: %w", path, err)
	}
	return raw, signed, nil
}
