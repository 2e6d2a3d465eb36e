package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/recovery"
)

func (a *app) authorityCommand() *cobra.Command {
	cmd := group("authority", "Make the authority's key offline, sign with it, pin it")
	cmd.AddCommand(a.authorityInitCommand(), a.authoritySignSetCommand(), a.authoritySignTargetCommand(), a.authorityShowCommand(), a.authorityPinCommand())
	return cmd
}

// keyDoc is the JSON document of commands that make a key.
type keyDoc struct {
	PublicKey string `json:"public_key"`
	KeyFile   string `json:"key_file"`
	Public    string `json:"public_file"`
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
			pass, err := a.passphrase(passphrase, true)
			if err != nil {
				return err
			}
			defer pass.Wipe()
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			sealed, err := sealKey(keyFile{Kind: kindAuthority, Private: base64.StdEncoding.EncodeToString(private.Seed())}, pass)
			if err != nil {
				return err
			}
			doc := keyDoc{PublicKey: hex.EncodeToString(public), KeyFile: out, Public: out + ".pub"}
			if err := writeNew(doc.KeyFile, sealed, 0o600); err != nil {
				return err
			}
			if err := writeNew(doc.Public, []byte(doc.PublicKey), 0o644); err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				t.pairs("", "Public key", doc.PublicKey, "Private half", doc.KeyFile+" (encrypted)", "Public half", doc.Public)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the private half; must not exist")
	passphraseFlag(cmd, &passphrase)
	return cmd
}

// signFlags are those of commands that sign.
type signFlags struct {
	key, out, passphrase string
	yes                  bool
}

func (f *signFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "the authority's key file")
	flags.StringVar(&f.out, "out", "", "file for what was signed; must not exist")
	flags.BoolVar(&f.yes, "yes", false, "sign without asking")
	passphraseFlag(cmd, &f.passphrase)
}

// sign shows what is about to be signed, asks, and has it signed.
func (a *app) sign(cmd *cobra.Command, f signFlags, show func(*text), doIt func(ed25519.PrivateKey) ([]byte, error)) error {
	if f.key == "" || f.out == "" {
		return usagef(cmd, "name the authority's key file with --key and the file to make with --out")
	}
	var t text
	show(&t)
	fmt.Fprint(a.stderr, a.strike(t.b.String()))
	if !f.yes {
		if err := a.confirm("Sign this? Type yes: "); err != nil {
			return err
		}
	}
	pass, err := a.passphrase(f.passphrase, false)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	k, err := openKey(f.key, kindAuthority, pass)
	if err != nil {
		return err
	}
	key, err := k.authorityKey()
	if err != nil {
		return err
	}
	defer clear(key)
	signed, err := doIt(key)
	if err != nil {
		return err
	}
	if err := writeNew(f.out, signed, 0o644); err != nil {
		return err
	}
	doc := map[string]string{"file": f.out, "authority": hex.EncodeToString(key.Public().(ed25519.PublicKey))}
	return a.print(doc, func(t *text) { t.pairs("", "Signed", doc["file"], "By", doc["authority"]) })
}

// confirm reads one line and goes on with "yes" only.
func (a *app) confirm(prompt string) error {
	fmt.Fprint(a.stderr, prompt)
	var answer [8]byte
	n, _ := a.stdin.Read(answer[:])
	if strings.TrimSpace(string(answer[:n])) != "yes" {
		return errors.New("not confirmed: nothing was signed")
	}
	return nil
}

func (a *app) authoritySignSetCommand() *cobra.Command {
	var f signFlags
	var serial uint64
	cmd := &cobra.Command{
		Use:   "sign-set CUSTODIAN.pub … --serial N --key FILE --out FILE",
		Short: "Sign a list of custodians",
		Long: `Sign a set of recovery recipients, in this order: share i of every account is
sealed to the i-th custodian. An account may have as many shares as there are
custodians, and any t of them can rebuild it. Each set needs a higher serial
number than the one before.`,
		Example: `  mpckms authority sign-set alice.pub bob.pub carol.pub --serial 1 --key authority.key --out recipients.json`,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "name the custodians' public files")
			}
			var list []recovery.Recipient
			for _, path := range args {
				raw, err := readFile(path, maxKeyFile)
				if err != nil {
					return err
				}
				var r recovery.Recipient
				if err := json.Unmarshal(raw, &r); err != nil {
					return fmt.Errorf("%s is not a custodian's public file: it is made by 'mpckms recovery keygen'", path)
				}
				list = append(list, r)
			}
			set, err := recovery.NewSet(serial, list)
			if err != nil {
				return err
			}
			return a.sign(cmd, f, func(t *text) { showSet(t, set) }, set.Sign)
		},
	}
	f.add(cmd)
	cmd.Flags().Uint64Var(&serial, "serial", 0, "number of the set, higher than that of every earlier one")
	return cmd
}

func showSet(t *text, s *recovery.RecipientSet) {
	t.pairs("", "Recipient set", fmt.Sprintf("serial %d", s.Serial))
	rows := [][]string{}
	for i, r := range s.Recipients {
		rows = append(rows, []string{fmt.Sprint(i + 1), r.Name, fmt.Sprint(r.Version), fingerprint(r.PublicKey)})
	}
	t.table("", []string{"SHARE", "CUSTODIAN", "KEY", "FINGERPRINT"}, rows)
}

func (a *app) authoritySignTargetCommand() *cobra.Command {
	var f signFlags
	cmd := &cobra.Command{
		Use:   "sign-target TARGET.json --key FILE --out FILE",
		Short: "Vouch for a mount that accounts are rebuilt on",
		Long: `Sign a recovery target, so that custodians deal to it. Make sure that it comes
from the mount that is meant: whoever has a signed target of his own collects
the shares.`,
		Example: `  mpckms authority sign-target target.json --key authority.key --out target.signed.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readFile(args[0], maxInputFile)
			if err != nil {
				return err
			}
			target, err := recovery.ParseTarget(raw)
			if err != nil {
				return err
			}
			return a.sign(cmd, f, func(t *text) { showTarget(t, target) }, func(key ed25519.PrivateKey) ([]byte, error) {
				return recovery.SignTarget(raw, key)
			})
		},
	}
	f.add(cmd)
	return cmd
}

func showTarget(t *text, target *recovery.Target) {
	t.pairs("", "Recovery target", "mount "+hex.EncodeToString(target.MountID[:]),
		"Wrapping key", fmt.Sprintf("version %d, %s", target.Key.Version, target.Key.Suite),
		"Fingerprint", fingerprint(target.Key.PublicKey),
		"Made", target.Made.Format("2006-01-02 15:04:05 MST"))
}

func (a *app) authorityShowCommand() *cobra.Command {
	var public string
	cmd := &cobra.Command{
		Use:     "show FILE --authority authority.key.pub",
		Short:   "Check a signed file and show what it says",
		Example: `  mpckms authority show recipients.json --authority authority.key.pub`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readPublic(cmd, public)
			if err != nil {
				return err
			}
			raw, err := readFile(args[0], maxInputFile)
			if err != nil {
				return err
			}
			if signed, err := recovery.ParseSignedSet(raw); err == nil {
				set, err := signed.Verify(key)
				if err != nil {
					return err
				}
				return a.print(set, func(t *text) { showSet(t, set) })
			}
			signed, err := recovery.ParseSignedTarget(raw)
			if err != nil {
				return fmt.Errorf("%s is neither a signed set nor a signed target: %w", args[0], err)
			}
			target, err := signed.Verify(key)
			if err != nil {
				return err
			}
			doc := map[string]any{"mount_id": hex.EncodeToString(target.MountID[:]), "key_version": target.Key.Version,
				"fingerprint": fingerprint(target.Key.PublicKey), "made_time": target.Made}
			return a.print(doc, func(t *text) { showTarget(t, target) })
		},
	}
	cmd.Flags().StringVar(&public, "authority", "", "the authority's public file")
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

func (a *app) authorityPinCommand() *cobra.Command {
	var set string
	cmd := &cobra.Command{
		Use:     "pin FILE.pub",
		Short:   "Pin an authority's public key on the mount",
		Example: `  mpckms authority pin authority.key.pub`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readPublic(cmd, args[0])
			if err != nil {
				return err
			}
			body := map[string]any{"public_key": hex.EncodeToString(key)}
			if set != "" {
				raw, err := readFile(set, maxInputFile)
				if err != nil {
					return err
				}
				body["set"] = string(raw)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc struct {
				PublicKey string `json:"public_key"`
				Pinned    string `json:"pinned_time"`
			}
			if _, err := c.do(cmd.Context(), request{what: "pin the authority", capability: capUpdate, path: "config/authority", body: body}, &doc); err != nil {
				return err
			}
			return a.print(doc, func(t *text) { t.pairs("", "Pinned", doc.PublicKey, "Since", doc.Pinned) })
		},
	}
	cmd.Flags().StringVar(&set, "set", "", "a set signed by this authority, where it replaces another")
	return cmd
}
