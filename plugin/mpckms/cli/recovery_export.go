package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/recovery"
)

// exportDoc is the JSON document of `recovery export`.
type exportDoc struct {
	Mount   string         `json:"mount"`
	Bundles []bundleDoc    `json:"bundles"`
	Failed  []exportFailed `json:"failed"`
}

type bundleDoc struct {
	Account    string   `json:"account"`
	File       string   `json:"file"`
	State      string   `json:"state"` // bundleWritten or bundleKept
	Epoch      uint64   `json:"epoch"`
	Recipients []string `json:"recipients"`
	Threshold  int      `json:"threshold"`
}

const (
	bundleWritten = "written"
	// bundleKept: the file holds an earlier bundle of the same account, which
	// the same custodians can rebuild it from.
	bundleKept = "kept"
)

type exportFailed struct {
	Account string `json:"account"`
	Error   string `json:"error"`
}

// export is one run of `recovery export`.
type export struct {
	*client
	bar       *bar
	ctx       context.Context
	authority ed25519.PublicKey // nil: whoever signed the recipients
	doc       exportDoc
}

func (a *app) recoveryExportCommand() *cobra.Command {
	var out, dir, authority string
	var all bool
	cmd := &cobra.Command{
		Use:   "export (NAME --out FILE | --all --out-dir DIR) [--authority FILE]",
		Short: "Export accounts for their custodians",
		Long: `Write an account's bundle: its public record and its sealed shares. It works
without the HSM, holds ciphertext only, and stays good for ever: any t custodians
can rebuild the account from it. Keep bundles outside of Vault.

With --all, DIR gets NAME.bundle for every account. No file is overwritten: where
a good bundle of the account is there already it is kept, and where its custodians
are others by now, the new one is written to NAME@EPOCH.bundle beside it. Accounts
that cannot be exported do not keep the others from it.

With --authority, bundles for custodians that this authority has not signed are
refused.`,
		Example: `  mpckms recovery export treasury --out treasury.bundle
  mpckms recovery export --all --out-dir bundles --authority authority.key.pub`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			single := !all && len(args) == 1 && out != "" && dir == ""
			if !single && !(all && len(args) == 0 && dir != "" && out == "") {
				return usagef(cmd, "give an account and --out, or --all and --out-dir")
			}
			e := &export{ctx: cmd.Context(), bar: a.bar}
			var err error
			if authority != "" {
				if e.authority, err = readPublic(cmd, authority); err != nil {
					return err
				}
			}
			if single {
				if err = accountArg(cmd, args); err == nil {
					err = absent(out)
				}
			} else if info, statErr := os.Stat(dir); statErr != nil || !info.IsDir() {
				err = fmt.Errorf("%s is not a folder: make it first", dir)
			}
			if err != nil {
				return err
			}
			if e.client, err = a.connect(); err != nil {
				return err
			}
			e.doc = exportDoc{Mount: e.mount, Bundles: []bundleDoc{}, Failed: []exportFailed{}}
			if single {
				raw, doc, err := e.fetch(args[0])
				if err != nil {
					return err
				}
				if err := writeNew(out, raw, 0o600); err != nil {
					return err
				}
				doc.File, doc.State = out, bundleWritten
				e.doc.Bundles = append(e.doc.Bundles, *doc)
				return a.print(e.doc, e.doc.write)
			}
			failed := e.exportAll(dir)
			return errors.Join(a.print(e.doc, e.doc.write), failed)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&out, "out", "", "file for the bundle; must not exist")
	flags.BoolVar(&all, "all", false, "export every account")
	flags.StringVar(&dir, "out-dir", "", "folder for the bundles of all accounts")
	flags.StringVar(&authority, "authority", "", "the public file of the authority that must have signed the recipients")
	return cmd
}

// exportAll exports what it can and says at the end what it could not. It stops
// where going on makes no sense: no right, no server, no disk.
func (e *export) exportAll(dir string) error {
	list, err := e.list(e.ctx, "list the accounts", "accounts")
	if err != nil {
		return err
	}
	for i, name := range list.Keys {
		e.bar.draw("Exporting", i, len(list.Keys), fmt.Sprintf("%d of %d  %s", i, len(list.Keys), name))
		err := e.exportTo(name, dir)
		var r *refusal
		switch {
		case err == nil:
		case errors.As(err, &r) && (r.client == nil || r.status == http.StatusBadRequest || r.status == http.StatusNotFound && !r.noRoute() && !r.unsupportedPath() || r.status == http.StatusConflict):
			e.doc.Failed = append(e.doc.Failed, exportFailed{name, err.Error()})
		default:
			return err
		}
	}
	if n := len(e.doc.Failed); n > 0 {
		return &refusal{what: fmt.Sprintf("%d of %d accounts were not exported", n, len(list.Keys)),
			advice: "The output names them. The bundles that were written are good."}
	}
	return nil
}

func (e *export) exportTo(name, dir string) error {
	if !validName(name) {
		return &refusal{what: fmt.Sprintf("the server lists an account %q, which is no name: nothing was written for it", name)}
	}
	raw, doc, err := e.fetch(name)
	if err != nil {
		return err
	}
	// No account's name has an @.
	for _, file := range []string{name + ".bundle", fmt.Sprintf("%s@%d.bundle", name, doc.Epoch)} {
		doc.File = filepath.Join(dir, file)
		switch {
		case absent(doc.File) == nil:
			if err := writeNew(doc.File, raw, 0o600); err != nil {
				return err
			}
			doc.State = bundleWritten
		case sameRebuilders(doc.File, raw):
			doc.State = bundleKept
		default:
			continue
		}
		e.doc.Bundles = append(e.doc.Bundles, *doc)
		return nil
	}
	return &refusal{what: fmt.Sprintf("the bundle of account %q was not written: %s exists already and is not a good one", name, doc.File)}
}

// sameRebuilders reports whether a file holds a bundle that the same custodians
// rebuild the same account from as from the bundle raw.
func sameRebuilders(file string, raw []byte) bool {
	old, err := readFile(file, maxInputFile)
	if err != nil {
		return false
	}
	kept, err := recovery.ParseBundle(old)
	if err != nil {
		return false
	}
	fresh, err := recovery.ParseBundle(raw)
	if err != nil {
		return false
	}
	a, _, errA := kept.Open()
	b, _, errB := fresh.Open()
	return errA == nil && errB == nil && a.AccountID == b.AccountID && string(a.PublicKey) == string(b.PublicKey) && a.RecipientsHash == b.RecipientsHash
}

// fetch asks for a bundle and checks all of it that can be checked without a
// custodian: a file that nobody can use is worse than none.
func (e *export) fetch(name string) ([]byte, *bundleDoc, error) {
	var answer struct {
		Bundle string `json:"bundle"`
	}
	_, err := e.do(e.ctx, request{what: fmt.Sprintf("export account %q", name), capability: capRead,
		path: "recovery/export/" + name, account: name}, &answer)
	if err != nil {
		return nil, nil, err
	}
	useless := func(err error) (_ []byte, _ *bundleDoc, failed error) {
		return nil, nil, &refusal{what: fmt.Sprintf("the server's bundle of account %q is of no use and was not written", name), cause: err}
	}
	b, err := recovery.ParseBundle([]byte(answer.Bundle))
	if err != nil {
		return useless(err)
	}
	record, set, err := b.Open()
	if err != nil {
		return useless(err)
	}
	if e.authority != nil {
		signed, err := recovery.ParseSignedSet(b.Recipients)
		if err != nil {
			return useless(err)
		}
		if _, err := signed.Verify(e.authority); err != nil {
			return useless(fmt.Errorf("its recipients: %w", err))
		}
	}
	doc := &bundleDoc{Account: name, Epoch: record.Epoch, Threshold: record.Threshold}
	for _, r := range set.Recipients[:record.Shares] {
		doc.Recipients = append(doc.Recipients, r.Name)
	}
	return []byte(answer.Bundle), doc, nil
}

func (d exportDoc) write(t *text) {
	rows := [][]string{}
	for _, b := range d.Bundles {
		rows = append(rows, []string{b.Account, count64(b.Epoch), fmt.Sprintf("any %d of %s", b.Threshold, strings.Join(b.Recipients, ", ")), b.File, b.State})
	}
	if len(rows) == 0 {
		t.line("No account was exported.")
	} else {
		t.table("", []string{"ACCOUNT", "EPOCH", "REBUILT BY", "FILE", "STATE"}, rows)
	}
	for _, f := range d.Failed {
		t.line(fmt.Sprintf("%s: %s", f.Account, f.Error))
	}
}
