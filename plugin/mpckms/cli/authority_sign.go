package cli

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

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

// signedDoc is the JSON document of commands that sign.
type signedDoc struct {
	File      string `json:"file"`
	Authority string `json:"authority"` // public key, hex
}

// sign shows what is about to be signed, asks, and has it signed.
func (a *app) sign(cmd *cobra.Command, f signFlags, show func(*text), doIt func(ed25519.PrivateKey) ([]byte, error)) error {
	if f.key == "" || f.out == "" {
		return usagef(cmd, "name the authority's key file with --key and the file to make with --out")
	}
	if err := absent(f.out); err != nil {
		return err
	}
	a.show(show)
	if !f.yes {
		if err := a.confirm(cmd.Context(), "Sign this? Type yes: "); err != nil {
			return err
		}
	}
	pass, err := a.passphrase(cmd.Context(), f.passphrase, false)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	k, err := openKey(f.key, kindAuthority, pass)
	if err != nil {
		return err
	}
	defer k.wipe()
	key, err := k.authorityKey()
	if err != nil {
		return err
	}
	defer secret.Wipe(key)
	signed, err := doIt(key)
	if err != nil {
		return err
	}
	if err := writeNew(f.out, signed, 0o644); err != nil {
		return err
	}
	doc := signedDoc{File: f.out, Authority: hex.EncodeToString(key[ed25519.SeedSize:])}
	return a.print(doc, func(t *text) { t.pairs("", "Signed", doc.File, "By", doc.Authority) })
}

// show prints what a command is about to do to stderr, so that -o json has
// stdout for itself.
func (a *app) show(what func(*text)) {
	var t text
	what(&t)
	_, _ = io.WriteString(a.stderr, a.strike(t.b.String()))
}

func (a *app) authoritySignSetCommand() *cobra.Command {
	var f signFlags
	var serial uint64
	var domains []string
	cmd := &cobra.Command{
		Use:   "sign-set CUSTODIAN.pub … --serial N --key FILE --out FILE",
		Short: "Sign a list of custodians, and of wrapping domains",
		Long: `Sign a set of recovery recipients, in this order: share i of every account is
sealed to the i-th custodian. An account may have as many shares as there are
custodians, and any t of them can rebuild it. Each set needs a higher serial
number than the one before.

With --domain the set also names a wrapping domain (one token, or a cluster of
HSMs) and the nodes whose word for its keys counts: only then can shares move to
it from another one. Take the nodes' identities from their hosts ('node enrol'
prints them) and compare them with what 'vault read mpc/nodes/NAME' shows: who
has a node of his own in the set gets the shares that move to its domain. A set
that names domains may have no custodians; nobody can rebuild accounts then.`,
		Example: `  mpckms authority sign-set alice.key.pub bob.key.pub carol.key.pub --serial 1 \
      --key authority.key --out recipients.json
  mpckms authority sign-set alice.key.pub bob.key.pub carol.key.pub --serial 2 \
      --domain eu=eu-1:IDENTITY,eu-2:IDENTITY --domain us=us-1:IDENTITY \
      --key authority.key --out recipients.json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && len(domains) == 0 {
				return usagef(cmd, "name the custodians' public files, in the order of the shares")
			}
			named, err := parseDomains(domains)
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			var list []recovery.Recipient
			for _, path := range args {
				raw, err := readFile(path, maxKeyFile)
				if err != nil {
					return err
				}
				r, err := recovery.ParseRecipient(raw)
				if err != nil {
					return fmt.Errorf("%s is not a custodian's public file, as 'mpckms recovery keygen' writes it: %w", path, err)
				}
				list = append(list, *r)
			}
			set, err := newSet(serial, list, named)
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			return a.sign(cmd, f, func(t *text) { showSet(t, set) }, set.Sign)
		},
	}
	f.add(cmd)
	cmd.Flags().Uint64Var(&serial, "serial", 0, "number of the set, higher than that of every earlier one")
	cmd.Flags().StringArrayVar(&domains, "domain", nil, "wrapping domain and its nodes, `NAME=NODE:IDENTITY,…`; may be repeated")
	return cmd
}

func newSet(serial uint64, list []recovery.Recipient, domains []recovery.Domain) (*recovery.RecipientSet, error) {
	if len(domains) == 0 {
		return recovery.NewSet(serial, list)
	}
	return recovery.NewDomainSet(serial, list, domains)
}

// parseDomains reads values of --domain. What is wrong with names and identities,
// the set itself says.
func parseDomains(values []string) (out []recovery.Domain, err error) {
	for _, v := range values {
		name, nodes, ok := strings.Cut(v, "=")
		if !ok {
			return nil, fmt.Errorf("--domain %q: write NAME=NODE:IDENTITY, with more nodes after commas", v)
		}
		d := recovery.Domain{Name: name}
		for _, n := range strings.Split(nodes, ",") {
			id, identity, ok := strings.Cut(strings.TrimSpace(n), ":")
			if !ok {
				return nil, fmt.Errorf("--domain %q: write each node as NODE:IDENTITY, with the identity that 'vault read mpc/nodes/NODE' shows", v)
			}
			d.Nodes = append(d.Nodes, recovery.DomainNode{ID: id, Identity: strings.ToLower(identity)})
		}
		out = append(out, d)
	}
	return out, nil
}

func showSet(t *text, s *recovery.RecipientSet) {
	t.pairs("", "Recipient set", fmt.Sprintf("serial %d", s.Serial))
	rows := [][]string{}
	for i, r := range s.Recipients {
		rows = append(rows, []string{fmt.Sprint(i + 1), r.Name, fmt.Sprint(r.Version), fingerprint(r.PublicKey)})
	}
	if len(rows) > 0 {
		t.table("", []string{"SHARE", "CUSTODIAN", "KEY", "FINGERPRINT"}, rows)
	} else {
		t.pairs("", "Custodians", "none: nobody can rebuild accounts whose tokens are lost")
	}
	rows = nil
	for _, d := range s.Domains {
		for _, n := range d.Nodes {
			rows = append(rows, []string{d.Name, n.ID, n.Identity})
		}
	}
	if len(rows) > 0 {
		t.table("", []string{"DOMAIN", "NODE", "IDENTITY"}, rows)
	}
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
		Args:    oneArg("the target's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readFile(args[0], maxInputFile)
			if err != nil {
				return err
			}
			target, err := recovery.ParseTarget(raw)
			if err != nil {
				return fmt.Errorf("%s is not a target, as 'mpckms recovery target' writes it: %w", args[0], err)
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
		"Wrapping key", fmt.Sprintf("%s version %d, %s", target.Key.Domain, target.Key.Version, target.Key.Suite),
		"Fingerprint", fingerprint(target.Key.PublicKey),
		"Made", target.Made.UTC().Format(time.RFC3339))
}

// shownDoc is the JSON document of `authority show`: one of the two.
type shownDoc struct {
	Authority string                 `json:"authority"` // whose signature was verified
	Hash      string                 `json:"hash"`
	Set       *recovery.RecipientSet `json:"recipient_set,omitempty"`
	Target    *targetDoc             `json:"target,omitempty"`
}

type targetDoc struct {
	MountID     string `json:"mount_id"`
	Domain      string `json:"domain"`
	KeyVersion  uint32 `json:"key_version"`
	Suite       string `json:"suite"`
	Fingerprint string `json:"fingerprint"`
	Made        string `json:"made_time"`
}

func (a *app) authorityShowCommand() *cobra.Command {
	var public string
	cmd := &cobra.Command{
		Use:     "show FILE --authority authority.key.pub",
		Short:   "Check a signed set or target and show what it says",
		Example: `  mpckms authority show recipients.json --authority authority.key.pub`,
		Args:    oneArg("a signed file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readPublic(cmd, public)
			if err != nil {
				return err
			}
			raw, err := readFile(args[0], maxInputFile)
			if err != nil {
				return err
			}
			doc := shownDoc{Authority: hex.EncodeToString(key)}
			if signed, err := recovery.ParseSignedSet(raw); err == nil {
				if doc.Set, err = signed.Verify(key); err != nil {
					return distrusted(args[0], err)
				}
				hash := signed.Hash()
				doc.Hash = hex.EncodeToString(hash[:])
				return a.print(doc, func(t *text) { showSet(t, doc.Set) })
			}
			signed, err := recovery.ParseSignedTarget(raw)
			if err != nil {
				return fmt.Errorf("%s is neither a signed set nor a signed target: %w", args[0], err)
			}
			target, err := signed.Verify(key)
			if err != nil {
				return distrusted(args[0], err)
			}
			hash := signed.Hash()
			doc.Hash = hex.EncodeToString(hash[:])
			doc.Target = &targetDoc{MountID: hex.EncodeToString(target.MountID[:]), Domain: target.Key.Domain, KeyVersion: target.Key.Version,
				Suite: target.Key.Suite.String(), Fingerprint: fingerprint(target.Key.PublicKey), Made: target.Made.UTC().Format(time.RFC3339)}
			return a.print(doc, func(t *text) { showTarget(t, target) })
		},
	}
	cmd.Flags().StringVar(&public, "authority", "", "the authority's public file")
	return cmd
}

// distrusted is the answer "no" about a signed file.
func distrusted(file string, err error) error {
	return &refusal{what: file + " cannot be trusted", cause: err,
		advice: "It was changed, or another authority has signed it. Get the file again from the one who signed it,\nand the authority's public file from a source that you trust."}
}
