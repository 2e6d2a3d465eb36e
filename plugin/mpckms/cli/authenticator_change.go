package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// changeFlags say what an authenticator is to be used with from now on.
type changeFlags struct {
	methodFlags
	question   string
	noQuestion bool
	keep       bool
	files      secretFiles
}

// changedDoc is the JSON document of `authenticator change`.
type changedDoc struct {
	Name        string          `json:"name"`
	ID          identity.ID     `json:"id"`
	Kind        identity.Method `json:"kind"`
	Fingerprint string          `json:"fingerprint"`
	Question    string          `json:"personal_information"`
	KeyFile     string          `json:"key_file,omitempty"`
	// Former is the key file that opens nothing any more.
	Former string `json:"former_key_file,omitempty"`
	// Bound are the identities that this device opens offline with the old secret.
	Bound []string `json:"bound_with_old_secret"`
}

func (a *app) authenticatorChangeCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use:   "change NAME",
		Short: "Change the password, PIN, key file, certificate, passkey or question of your authenticator",
		Long: `Change what you log in with: log in with the old secret, then give the new one twice. The
authenticator keeps its name, fingerprint and everything that it opens, and its other sessions
end. No Vault token is needed, and none can do it for you.

  password      asked for on the terminal
  key-file      another file in --key-file, which is made if it does not exist
  certificate   --certificate and --key, or --module and --token
  oidc, phone   the PIN, if it has one
  passkey       another passkey, made in the browser; delete the old one there afterwards
  device        only the question: its secret is random, and nobody sees it

--ask sets the question that is asked besides, --no-question ends it; with --keep only that is
changed. A command that is interrupted leaves the old secret in force, or the new one: try the
new one first. Devices that are bound open offline with the old secret until they run
'mpckms device sync'.

It is no remedy for a loss: with the old secret and a copy of the server's records from before,
keys still open. There, 'mpckms identity reset' replaces the keys.`,
		Example: `  mpckms authenticator change ada
  mpckms authenticator change ada --keep --ask "Name of the first pet?"
  mpckms authenticator change ada-key --key-file /media/usb/ada-2.key
  mpckms authenticator change ada-card --module card --token "pkcs11:token=Ada%202;id=%01"`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.changeAuthenticator(cmd, args[0], &f)
			if err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	f.addPlaces(cmd, "; made if it does not exist")
	flags := cmd.Flags()
	flags.StringVar(&f.question, "ask", "", "ask this question at each login from now on; its answer is asked for")
	flags.BoolVar(&f.noQuestion, "no-question", false, "ask no question besides any more")
	flags.BoolVar(&f.keep, "keep", false, "keep password, PIN, key file, certificate or passkey, and change the question only")
	flags.StringVar(&f.files.passphrase, "new-passphrase-file", "", "read the new password from the first line of this file instead of the terminal")
	flags.StringVar(&f.files.pin, "new-pin-file", "", "the same for the new PIN")
	flags.StringVar(&f.files.answer, "new-answer-file", "", "the same for the answer to the new question")
	return cmd
}

// next checks the flags against what is known of the authenticator, and says how it
// is used after the change.
func (f *changeFlags) next(cmd *cobra.Command, k keyholder.Known) (keyholder.Known, keyholder.ChangeOptions, error) {
	opts := keyholder.ChangeOptions{Keep: f.keep || k.Method == identity.Device}
	asks := cmd.Flags().Changed("ask")
	switch {
	case opts.Keep && f.given():
		return k, opts, usagef(cmd, "with --keep, and for kind device, only the question is changed")
	case asks && f.question == "":
		return k, opts, usagef(cmd, "--ask needs a question; --no-question ends the old one")
	case asks && f.noQuestion:
		return k, opts, usagef(cmd, "give --ask or --no-question, not both")
	case asks || f.noQuestion:
		opts.PersonalQuestion = &f.question
	case opts.Keep:
		return k, opts, usagef(cmd, "there is nothing to change: give --ask or --no-question")
	}
	if opts.Keep {
		return k, opts, nil
	}
	f.kind = string(k.Method)
	n, err := f.known(cmd, k.Name)
	if err != nil {
		return k, opts, err
	}
	n.ID, n.Identities, n.FileKeyring = k.ID, k.Identities, k.FileKeyring
	return n, opts, nil
}

func (a *app) changeAuthenticator(cmd *cobra.Command, name string, f *changeFlags) (*changedDoc, error) {
	if a.authenticator != "" && a.authenticator != name {
		return nil, usagef(cmd, "an authenticator is changed by itself: leave --authenticator out")
	}
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	k, ok, err := home.Authenticator(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("authenticator %q is not known here: log in with it once, saying how, with 'mpckms login --authenticator %s --kind KIND'", name, name)
	}
	next, opts, err := f.next(cmd, k)
	if err != nil {
		return nil, err
	}
	src, err := a.source(home, next)
	if err != nil {
		return nil, err
	}
	s, _, err := a.logInAs(cmd, name)
	if err != nil {
		return nil, err
	}
	defer a.endSession(s)
	a.files.fresh = &f.files
	if err := s.Change(cmd.Context(), src, opts); err != nil {
		return nil, a.passkeySite("change authenticator "+quote(name), err)
	}
	if k, _, err = home.Authenticator(name); err == nil { // as the login left it
		next.ID, next.Identities = s.Authenticator().ID, k.Identities
		err = home.SetAuthenticator(next)
	}
	if err != nil {
		return nil, failedTo("remember how authenticator "+name+" is used, whose secret was changed", err)
	}
	who := s.Authenticator()
	doc := &changedDoc{Name: name, ID: who.ID, Kind: who.Method, Fingerprint: who.Fingerprint(), Question: who.PersonalInformation, KeyFile: next.KeyFile, Bound: []string{}}
	if k.KeyFile != next.KeyFile {
		doc.Former = k.KeyFile
	}
	names, err := home.Bindings()
	if err != nil { // the change took place all the same
		a.note("Warning: what this device is bound to cannot be read: %v", err)
	}
	for _, name := range names {
		if b, err := binding(home, name); err == nil && b.Authenticator == who.ID {
			doc.Bound = append(doc.Bound, name)
		}
	}
	return doc, nil
}

func (d *changedDoc) write(t *text) {
	t.line(fmt.Sprintf("The secret of authenticator %s was changed; what it opens was not.", d.Name))
	t.pairs("  ", "Kind", string(d.Kind), "Fingerprint", d.Fingerprint, "Question", d.Question, "Key file", d.KeyFile)
	if d.Former != "" {
		t.line("It does not log in with " + d.Former + " any more.")
	}
	if len(d.Bound) > 0 {
		t.line("This device opens " + strings.Join(d.Bound, ", ") + " offline with the old secret until 'mpckms device sync'. Other devices that are bound, too.")
		return
	}
	t.line("Devices that are bound open offline with the old secret until they run 'mpckms device sync'.")
}
