package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// envHome sets the default of --home.
const envHome = "MPCKMS_HOME"

// holderFlags are the flags of everybody who logs in with an authenticator.
func (a *app) holderFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.homeDir, "home", os.Getenv(envHome), "folder of what this user's mpckms remembers: authenticators, the newest state of identities, devices (env "+envHome+"; default: mpckms in your configuration folder)")
	flags.StringVar(&a.authenticator, "authenticator", "", "authenticator to log in with (default: the known one, or you are asked)")
	a.completeFlag(root, "authenticator", a.authenticatorNames)
	flags.StringVar(&a.files.passphrase, "passphrase-file", "", "read the password from the first line of this file instead of the terminal")
	flags.StringVar(&a.files.pin, "pin-file", "", "read the PIN of a third-party account or phone from the first line of this file")
	flags.StringVar(&a.files.answer, "answer-file", "", "read the answer to an authenticator's question from the first line of this file")
	flags.StringVar(&a.files.tokenPIN, "token-pin-file", "", "read the PIN of a PKCS#11 token from the first line of this file")
	flags.StringVar(&a.files.code, "code-file", "", "read the code that was sent to a phone from the first line of this file")
}

// home opens the folder of this user.
func (a *app) home() (*keyholder.Home, error) {
	home, err := keyholder.OpenHome(a.homeDir)
	var file *fs.PathError
	if errors.As(err, &file) {
		return nil, fmt.Errorf("the folder of what mpckms remembers cannot be used: %w. Nothing was sent; choose another with --home or %s", err, envHome)
	}
	return home, err
}

// logIn logs in with the authenticator that --authenticator names, or with one
// that opened the identity before, or that is known here at all. The caller ends
// and wipes the session. An empty name stands for any identity.
func (a *app) logIn(cmd *cobra.Command, identityName string) (*keyholder.Session, *keyholder.Home, error) {
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	name := a.authenticator
	if name == "" {
		if name, err = a.choose(cmd.Context(), home, identityName); err != nil {
			return nil, nil, err
		}
	}
	return a.logInAs(cmd, name)
}

// logInAs logs in with an authenticator that is known here.
func (a *app) logInAs(cmd *cobra.Command, authenticator string) (*keyholder.Session, *keyholder.Home, error) {
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	k, ok, err := home.Authenticator(authenticator)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, fmt.Errorf("authenticator %q is not known here: log in with it once, saying how, with 'mpckms login --authenticator %s --kind KIND'", authenticator, authenticator)
	}
	s, err := a.logInKnown(cmd.Context(), home, k)
	return s, home, err
}

// logInKnown logs in and remembers what the login showed.
func (a *app) logInKnown(ctx context.Context, home *keyholder.Home, k keyholder.Known) (*keyholder.Session, error) {
	what := fmt.Sprintf("log in with authenticator %q", k.Name)
	src, err := a.source(home, k)
	if err != nil {
		return nil, err
	}
	c, err := a.openCaller(what)
	if err != nil {
		return nil, err
	}
	s, err := keyholder.Login(ctx, c, k.Name, k.Method, src)
	if err != nil {
		if errors.Is(err, keyholder.ErrLogin) {
			return nil, &refusal{what: "cannot " + what, cause: err,
				advice: "Nothing secret was sent. After five wrong tries the server locks an authenticator for a while.\n" +
					"Nobody can tell you a forgotten secret: log in with another authenticator that opens the same identities, and grant them a new one."}
		}
		return nil, lostFile(a.passkeySite(what, err), k, err)
	}
	s.Warn = c.c.warn
	if err := a.remember(home, k, s); err != nil {
		a.endSession(s)
		return nil, failedTo(what, err)
	}
	return s, nil
}

// lostFile adds what to do where the key file is not where it was.
func lostFile(err error, k keyholder.Known, cause error) error {
	if k.Method != identity.KeyFile || !errors.Is(cause, fs.ErrNotExist) {
		return err
	}
	advice := fmt.Sprintf("Say where it or its copy is: 'mpckms login --authenticator %s --kind key-file --key-file FILE'. If all are\n"+
		"gone: 'mpckms authenticator lost %s', then another authenticator's owner takes it out with 'mpckms identity reset'.", k.Name, k.Name)
	return fmt.Errorf("%w\n\n%s", err, advice)
}

// remember keeps what a login showed, after comparing it with what was known.
func (a *app) remember(home *keyholder.Home, k keyholder.Known, s *keyholder.Session) error {
	id := s.Authenticator().ID
	if k.ID != (identity.ID{}) && k.ID != id {
		return fmt.Errorf("the server has another authenticator under the name %s than the one known here (%s, and %s was known): if it was deleted and made again on purpose, 'mpckms authenticator forget %s' and log in again", k.Name, id, k.ID, k.Name)
	}
	k.ID, k.Identities = id, nil
	for _, i := range s.Identities() {
		k.Identities = append(k.Identities, i.Name)
	}
	return home.SetAuthenticator(k)
}

// endTimeout bounds telling the server that a session is over, which it ends by
// itself in any case.
const endTimeout = 2 * time.Second

// endSession ends a session and forgets its keys.
func (a *app) endSession(s *keyholder.Session) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	_ = s.End(ctx) // it ends by itself
	s.Wipe()
}

// knownSource returns what gets the information of an authenticator, which is of
// this kind, without a server.
func (a *app) knownSource(_ *cobra.Command, home *keyholder.Home, authenticator string, m identity.Method) (keyholder.Source, error) {
	k, ok, err := home.Authenticator(authenticator)
	if err != nil {
		return nil, err
	}
	if !ok {
		k = keyholder.Known{Name: authenticator}
	}
	k.Method = m
	return a.source(home, k)
}

// choose finds the authenticator to log in with.
func (a *app) choose(ctx context.Context, home *keyholder.Home, identityName string) (string, error) {
	all, err := home.Authenticators()
	if err != nil {
		return "", err
	}
	fit := slices.DeleteFunc(slices.Clone(all), func(k keyholder.Known) bool {
		return identityName != "" && !slices.Contains(k.Identities, identityName)
	})
	if len(fit) == 0 {
		fit = all // granted since, perhaps
	}
	switch {
	case len(fit) == 0:
		return "", fmt.Errorf("no authenticator is known in %s: make one with 'mpckms authenticator create', or log in with one from elsewhere: 'mpckms login --authenticator NAME --kind KIND'", home.Dir())
	case len(fit) == 1:
		return fit[0].Name, nil
	case !a.interactive():
		names := make([]string, len(fit))
		for i, k := range fit {
			names[i] = k.Name
		}
		return "", fmt.Errorf("several authenticators are known (%s): choose one with --authenticator", strings.Join(names, ", "))
	}
	var t text
	rows := make([][]string, len(fit))
	for i, k := range fit {
		rows[i] = []string{strconv.Itoa(i + 1), k.Name, string(k.Method), strings.Join(k.Identities, ", ")}
	}
	t.table("", []string{"", "AUTHENTICATOR", "KIND", "OPENED BEFORE"}, rows)
	prompter{a}.Show(t.b.String())
	answer, err := prompter{a}.Ask(ctx, "Number or name of the one to log in with")
	if err != nil {
		return "", err
	}
	for i, k := range fit {
		if answer == k.Name || answer == strconv.Itoa(i+1) {
			return k.Name, nil
		}
	}
	return "", fmt.Errorf("%q is none of them: nothing was sent", answer)
}
