package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

func (a *app) authenticatorCommand() *cobra.Command {
	cmd := group("authenticator", "What people log in with: passwords, key files, smart cards, accounts, phones, passkeys")
	cmd.AddCommand(a.authenticatorCreateCommand(), a.authenticatorListCommand(), a.authenticatorShowCommand(),
		a.authenticatorChangeCommand(), a.authenticatorLostCommand(), a.authenticatorFoundCommand(), a.authenticatorUnlockCommand(),
		a.authenticatorDeleteCommand(), a.authenticatorForgetCommand())
	return cmd
}

// authenticatorArg takes exactly one authenticator name.
func authenticatorArg(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usagef(cmd, "which authenticator? Give its name")
	case len(args) > 1:
		return usagef(cmd, "one authenticator name expected, unexpected argument %q", args[1])
	}
	if err := identity.CheckName("authenticator", args[0]); err != nil {
		return usagef(cmd, "%q is not the name of an authenticator: use 1 to 64 lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends", args[0])
	}
	return nil
}

// createFlags are what is chosen of a new authenticator.
type createFlags struct {
	methodFlags
	provider, phone, question string
	pin                       bool
}

// createdDoc is the JSON document of `authenticator create`.
type createdDoc struct {
	Name           string          `json:"name"`
	ID             identity.ID     `json:"id"`
	Kind           identity.Method `json:"kind"`
	ServerTrusting bool            `json:"server_trusting"`
	Fingerprint    string          `json:"fingerprint"`
	KeyFile        string          `json:"key_file,omitempty"`
}

func (a *app) authenticatorCreateCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create NAME --kind KIND",
		Short: "Make an authenticator of your own",
		Long: `Make an authenticator: something that you know or have, with which you log in. What is
secret about it stays on this machine; the server gets public keys, ciphertext and what OPAQUE
needs to check a login without seeing the secret. It opens nothing before an identity grants it
a level.

  password      asked for on the terminal
  key-file      32 random bytes in --key-file, which is made if it does not exist
  certificate   a private key with certificate: --certificate and --key in PEM form, or a smart
                card or HSM by --module and --token
  device        32 random bytes in the keyring of this user on this machine
  oidc          an account of a third party that the server knows as --provider
  phone         one-time codes that are sent to --phone
  passkey       a passkey of your browser, phone or security key, with the PRF extension; used on a
                page that mpckms serves on this machine

With oidc and phone the server keeps the secret part, so it could open what you open unless a
PIN belongs to it: --pin. Making one needs a Vault token that may write authenticators; using
it needs none.`,
		Example: `  mpckms authenticator create ada --kind password --ask "Name of the first pet?"
  mpckms authenticator create ada-key --kind key-file --key-file /media/usb/ada.key
  mpckms authenticator create ada-card --kind certificate --module card --token "pkcs11:token=Ada;id=%01"
  mpckms authenticator create ada-google --kind oidc --provider google --pin
  mpckms authenticator create ada-passkey --kind passkey`,
		Args: authenticatorArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.createAuthenticator(cmd, args[0], &f)
			if err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	f.add(cmd, "what it is", "; made if it does not exist")
	flags := cmd.Flags()
	flags.StringVar(&f.provider, "provider", "", "name of the third party, for kind oidc")
	flags.StringVar(&f.phone, "phone", "", "telephone number, + and digits, for kind phone")
	flags.BoolVar(&f.pin, "pin", false, "add a PIN to kind oidc or phone, so that the server alone opens nothing")
	flags.StringVar(&f.question, "ask", "", "ask this question at each login too")
	return cmd
}

func (a *app) createAuthenticator(cmd *cobra.Command, name string, f *createFlags) (*createdDoc, error) {
	k, err := f.known(cmd, name)
	if err != nil {
		return nil, err
	}
	switch {
	case k.Method == identity.OIDC && f.provider == "":
		return nil, usagef(cmd, "give --provider, the name of the third party: 'vault list %s/config/identities/oidc' lists them", a.mount)
	case k.Method == identity.Phone && f.phone == "":
		return nil, usagef(cmd, "give --phone, + and the digits of the number")
	case (k.Method == identity.OIDC) != (f.provider != ""):
		return nil, usagef(cmd, "--provider belongs to --kind oidc")
	case (k.Method == identity.Phone) != (f.phone != ""):
		return nil, usagef(cmd, "--phone belongs to --kind phone")
	case f.pin && !k.Method.HasServerPart():
		return nil, usagef(cmd, "--pin is for --kind oidc or phone")
	}
	ctx := cmd.Context()
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	if _, ok, err := home.Authenticator(name); err != nil || ok {
		return nil, errors.Join(err, fmt.Errorf("authenticator %s is known here already: choose another name, or 'mpckms authenticator forget %s'", name, name))
	}
	if k.Method == identity.Device {
		if k.FileKeyring, err = a.noSystemKeyring(home); err != nil {
			return nil, err
		}
	}
	src, err := a.source(home, k)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("create authenticator %q", name)
	c, err := a.tokenCaller(what)
	if err != nil {
		return nil, err
	}
	if !c.c.hasToken { // before a key file is made, or a password asked for
		return nil, &refusal{what: "cannot " + what, client: c.c, status: http.StatusForbidden}
	}
	made, keys, err := keyholder.Register(ctx, c, name, k.Method, src, keyholder.RegisterOptions{
		PersonalQuestion: f.question, PIN: f.pin, Phone: f.phone, Provider: f.provider,
	})
	if err != nil {
		return nil, a.passkeySite(what, err)
	}
	keys.Wipe()
	k.ID = made.ID
	if err := home.SetAuthenticator(k); err != nil {
		return nil, failedTo("remember authenticator "+name+", which was made", err)
	}
	return &createdDoc{Name: made.Name, ID: made.ID, Kind: made.Method, ServerTrusting: made.ServerTrusting(), Fingerprint: made.Fingerprint(), KeyFile: k.KeyFile}, nil
}

// noSystemKeyring reports whether the device's secret has to go into a file, and
// says so loudly.
func (a *app) noSystemKeyring(home *keyholder.Home) (bool, error) {
	err := keyholder.ProbeKeyring(a.keyring(home, false))
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, keyholder.ErrNoKeyring) {
		return false, err
	}
	a.note("Warning: %v", err)
	a.note("Warning: the device's secret goes into a file below %s instead, in clear: whoever reads the files of this user has it.", home.Dir())
	return true, nil
}

func (d *createdDoc) write(t *text) {
	t.line(fmt.Sprintf("Authenticator %s was made.", d.Name))
	t.pairs("  ", "Kind", string(d.Kind), "ID", d.ID.String(), "Fingerprint", d.Fingerprint, "Key file", d.KeyFile)
	if d.ServerTrusting {
		t.line("It is server-trusting: the server alone could open what it opens. Levels have to allow that, and --pin avoids it.")
	}
	if d.Kind == identity.Phone {
		t.line("No code was sent yet. Log in once to see that codes arrive: 'mpckms login --authenticator " + d.Name + "'.")
	}
	t.line("Read the fingerprint to whoever grants it access: it is what a server that lies cannot imitate.")
}

// authenticatorDoc is an authenticator as the engine describes it.
type authenticatorDoc struct {
	Name           string `json:"name"`
	ID             string `json:"id"`
	Kind           string `json:"kind"`
	ServerTrusting bool   `json:"server_trusting"`
	PIN            bool   `json:"pin"`
	Question       string `json:"personal_information"`
	Created        string `json:"created_time"`
	State          string `json:"state"`
	LostTime       string `json:"lost_time"`
	LostReason     string `json:"lost_reason"`
	LockedUntil    string `json:"locked_until"`
	Fingerprint    string `json:"fingerprint,omitempty"`
	Provider       string `json:"provider,omitempty"`
	// KnownHere: this home knows how to use it.
	KnownHere  bool                  `json:"known_here"`
	Identities []authenticatorOpens  `json:"identities"`
	Devices    []authenticatorDevice `json:"devices"`
	Public     identity.PublicKeys   `json:"public"`
}

type authenticatorOpens struct {
	Identity string   `json:"identity"`
	Level    string   `json:"level"`
	Roles    []string `json:"roles"`
	State    string   `json:"state"`
}

type authenticatorDevice struct {
	ID       string `json:"id"`
	Identity string `json:"identity"`
	Label    string `json:"label"`
	State    string `json:"state"`
	Bound    string `json:"bound_time"`
	Revoked  string `json:"revoked_time"`
}

func (a *app) readAuthenticator(ctx context.Context, c keyholder.Caller, home *keyholder.Home, name string) (*authenticatorDoc, error) {
	d := &authenticatorDoc{}
	if err := c.Call(ctx, keyholder.Read, "authenticators/"+name, nil, d); err != nil {
		return nil, failedTo(fmt.Sprintf("show authenticator %q", name), err)
	}
	var id identity.ID
	if id.UnmarshalText([]byte(d.ID)) == nil && d.Public.Check() == nil {
		public := identity.Authenticator{ID: id, Method: identity.Method(d.Kind), PIN: d.PIN, Keys: d.Public}
		d.Fingerprint = public.Fingerprint()
	}
	_, known, err := home.Authenticator(name)
	d.KnownHere = known
	return d, err
}

func (d *authenticatorDoc) write(t *text) {
	kind := d.Kind
	if d.PIN {
		kind += " with a PIN"
	}
	if d.ServerTrusting {
		kind += ", server-trusting"
	}
	state := d.State
	if d.LostTime != "" {
		state = strings.TrimSuffix(fmt.Sprintf("%s since %s: %s", d.State, moment(d.LostTime), d.LostReason), ": ")
	}
	t.pairs("", "Name", d.Name, "Kind", kind, "ID", d.ID, "Fingerprint", d.Fingerprint, "State", state, "Locked until", moment(d.LockedUntil),
		"Question", d.Question, "Provider", d.Provider, "Created", moment(d.Created), "Known here", yesNo(d.KnownHere))
	if len(d.Identities) > 0 {
		rows := make([][]string, len(d.Identities))
		for i, x := range d.Identities {
			rows[i] = []string{x.Identity, x.Level, strings.Join(x.Roles, ", "), x.State}
		}
		t.blank()
		t.table("", []string{"IDENTITY", "LEVEL", "ROLES", "STATE"}, rows)
	}
	if len(d.Devices) > 0 {
		rows := make([][]string, len(d.Devices))
		for i, x := range d.Devices {
			rows[i] = []string{x.ID, x.Label, x.Identity, x.State, moment(x.Bound), moment(x.Revoked)}
		}
		t.blank()
		t.table("", []string{"DEVICE", "LABEL", "IDENTITY", "STATE", "BOUND", "REVOKED"}, rows)
	}
}
