package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// loginDoc is the JSON document of `login`.
type loginDoc struct {
	Authenticator  string          `json:"authenticator"`
	Kind           identity.Method `json:"kind"`
	ID             identity.ID     `json:"id"`
	ServerTrusting bool            `json:"server_trusting"`
	Fingerprint    string          `json:"fingerprint"`
	Identities     []loginIdentity `json:"identities"`
}

// loginIdentity is what an authenticator really opens, not what the server says.
type loginIdentity struct {
	Name       string        `json:"name"`
	ID         identity.ID   `json:"id"`
	Kind       identity.Kind `json:"kind,omitempty"`
	State      string        `json:"state"`
	Generation uint64        `json:"generation,omitempty"`
	Level      string        `json:"level"`
	Roles      []string      `json:"roles"`
	Assets     []loginAsset  `json:"assets"`
	// Problem says why the identity was not opened, or its assets not listed.
	Problem string `json:"problem,omitempty"`
}

type loginAsset struct {
	Name  string   `json:"name"`
	Kind  string   `json:"kind"`
	Roles []string `json:"roles"`
	Opens bool     `json:"opens"` // with this authenticator
}

func (a *app) loginCommand() *cobra.Command {
	var f methodFlags
	cmd := &cobra.Command{
		Use:   "login [IDENTITY]",
		Short: "Log in with an authenticator and see what it opens",
		Long: `Log in with an authenticator and see what it opens: identities, their roles, and the
assets whose keys this authenticator can decrypt. With the name of an identity only that one.

No Vault token is needed. The login ends with the command: others log in by themselves. An
authenticator that was made elsewhere is made known here by saying how it is used, once:
--authenticator, --kind, and what the kind needs.`,
		Example: `  mpckms login
  mpckms login acme --authenticator ada
  mpckms login --authenticator ada-card --kind certificate --module card --token "pkcs11:token=Ada;id=%01"`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			only := ""
			switch {
			case len(args) > 1:
				return usagef(cmd, "one identity expected, unexpected argument %q", args[1])
			case len(args) == 1:
				if only = args[0]; identity.CheckName("identity", only) != nil {
					return usagef(cmd, "%q is not the name of an identity", only)
				}
			}
			s, home, err := a.logInWith(cmd, &f, only)
			if err != nil {
				return err
			}
			defer a.endSession(s)
			doc, err := a.whatOpens(cmd.Context(), s, home, only)
			if err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	f.add(cmd, "kind of an authenticator that is not known here yet", "")
	return cmd
}

// logInWith logs in with a known authenticator, or with one that the flags
// describe, which is known from then on.
func (a *app) logInWith(cmd *cobra.Command, f *methodFlags, identityName string) (*keyholder.Session, *keyholder.Home, error) {
	if !f.given() {
		return a.logIn(cmd, identityName)
	}
	if a.authenticator == "" {
		return nil, nil, usagef(cmd, "give --authenticator with --kind")
	}
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	k, err := f.known(cmd, a.authenticator)
	if err != nil {
		return nil, nil, err
	}
	before, ok, err := home.Authenticator(k.Name)
	if err != nil {
		return nil, nil, err
	}
	if ok {
		k.ID, k.FileKeyring = before.ID, before.FileKeyring
	}
	s, err := a.logInKnown(cmd.Context(), home, k)
	return s, home, err
}

// whatOpens opens identities and says which assets open.
func (a *app) whatOpens(ctx context.Context, s *keyholder.Session, home *keyholder.Home, only string) (*loginDoc, error) {
	who := s.Authenticator()
	doc := &loginDoc{Authenticator: who.Name, Kind: who.Method, ID: who.ID, ServerTrusting: who.ServerTrusting(), Fingerprint: who.Fingerprint(), Identities: []loginIdentity{}}
	for _, i := range s.Identities() {
		if only != "" && i.Name != only {
			continue
		}
		doc.Identities = append(doc.Identities, openOne(ctx, s, home, i))
	}
	if only == "" {
		return doc, nil
	}
	if len(doc.Identities) == 0 {
		return nil, &refusal{what: fmt.Sprintf("authenticator %q opens no identity %q", who.Name, only),
			advice: "Whoever holds the owner role of it grants access with 'mpckms identity grant'."}
	}
	if i := doc.Identities[0]; i.Problem != "" {
		return nil, &refusal{what: fmt.Sprintf("cannot open identity %q: %s", only, i.Problem)}
	}
	return doc, nil
}

// openOne opens an identity that the server says is granted. What is wrong with it
// stands in the answer, so that the others are shown.
func openOne(ctx context.Context, s *keyholder.Session, home *keyholder.Home, i keyholder.IdentityInfo) loginIdentity {
	out := loginIdentity{Name: i.Name, ID: i.ID, State: i.State, Level: i.Level, Roles: []string{}, Assets: []loginAsset{}}
	if i.State == "frozen" {
		out.Roles, out.Problem = i.Roles, "it is frozen; 'mpckms identity unfreeze' ends that"
		return out
	}
	o, err := s.Open(ctx, i.Name, home)
	if err != nil {
		out.Problem = inWords(err)
		return out
	}
	defer o.Wipe()
	m := o.Manifest
	out.ID, out.Kind, out.Generation, out.Level = m.Identity, m.Kind, m.Generation, m.Grant(o.Authenticator).Level
	for role := range o.Roles {
		out.Roles = append(out.Roles, role)
	}
	slices.Sort(out.Roles)
	var list struct {
		Keys    []string `json:"keys"`
		KeyInfo map[string]struct {
			Kind  string   `json:"kind"`
			Roles []string `json:"roles"`
		} `json:"key_info"`
	}
	if err := s.Call(ctx, keyholder.List, "identities/"+i.Name+"/assets", nil, &list); err != nil && !keyholder.Refused(err, http.StatusNotFound) {
		out.Problem = "its assets cannot be listed: " + err.Error()
		return out
	}
	for _, name := range list.Keys {
		info := list.KeyInfo[name]
		opens := slices.ContainsFunc(info.Roles, func(r string) bool { return o.Roles[r] != nil })
		out.Assets = append(out.Assets, loginAsset{Name: name, Kind: info.Kind, Roles: info.Roles, Opens: opens})
	}
	return out
}

func (d *loginDoc) write(t *text) {
	kind := string(d.Kind)
	if d.ServerTrusting {
		kind += ", server-trusting: the server alone could open what it opens"
	}
	t.line(fmt.Sprintf("Logged in with authenticator %s (%s).", d.Authenticator, kind))
	t.line("Fingerprint: " + d.Fingerprint)
	if len(d.Identities) == 0 {
		t.line("It opens no identity yet: make one with 'mpckms identity create', or have it granted access.")
	}
	for _, i := range d.Identities {
		t.blank()
		if i.Problem != "" {
			t.line(fmt.Sprintf("Identity %s was not opened: %s", i.Name, i.Problem))
			continue
		}
		t.line(fmt.Sprintf("Identity %s (%s), level %s, opens the roles %s.", i.Name, i.Kind, i.Level, strings.Join(i.Roles, ", ")))
		if len(i.Assets) == 0 {
			t.line("It has no assets.")
			continue
		}
		rows := make([][]string, len(i.Assets))
		for n, x := range i.Assets {
			rows[n] = []string{x.Name, x.Kind, strings.Join(x.Roles, ", "), yesNo(x.Opens)}
		}
		t.table("  ", []string{"ASSET", "KIND", "ROLES", "OPENS"}, rows)
	}
}
