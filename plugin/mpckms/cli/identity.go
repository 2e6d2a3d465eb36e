package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
)

func (a *app) identityCommand() *cobra.Command {
	cmd := group("identity", "Create, list, change, freeze and reset identities")
	role := group("role", "Add and remove roles: sets of assets that belong together")
	role.AddCommand(a.roleAddCommand(), a.roleRemoveCommand())
	level := group("level", "Set and remove access levels: which roles an authenticator opens")
	level.AddCommand(a.levelSetCommand(), a.levelRemoveCommand())
	cmd.AddCommand(a.identityListCommand(), a.identityCreateCommand(), a.identityShowCommand(), a.identitySetKindCommand(), role, level,
		a.identityGrantCommand(), a.identityRevokeCommand(), a.identityFreezeCommand(), a.identityUnfreezeCommand(),
		a.identityResetCommand(), a.identityRotateCommand(), a.identityForgetCommand(), a.identityDeleteCommand())
	return cmd
}

// identityDoc is the JSON document of an identity. Fields are only ever added.
type identityDoc struct {
	Name       string     `json:"name"`
	ID         string     `json:"id"`
	Kind       string     `json:"kind"`
	Generation uint64     `json:"generation"`
	Changed    string     `json:"changed_time"`
	State      string     `json:"state,omitempty"` // empty where the server was not asked
	Frozen     string     `json:"frozen_time,omitempty"`
	Reason     string     `json:"frozen_reason,omitempty"`
	Unfinished bool       `json:"reset_unfinished"`
	Roles      []roleDoc  `json:"roles"`
	Levels     []levelDoc `json:"levels"`
	Grants     []grantDoc `json:"grants"`
	Assets     []string   `json:"assets,omitempty"`
}

type roleDoc struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"`
	Unfinished bool   `json:"reset_unfinished"`
}

type levelDoc struct {
	Name           string   `json:"name"`
	Roles          []string `json:"roles"`
	ServerTrusting bool     `json:"server_trusting"`
}

type grantDoc struct {
	Authenticator  string   `json:"authenticator"`
	ID             string   `json:"id"`
	Kind           string   `json:"kind"`
	Level          string   `json:"level"`
	Roles          []string `json:"roles"`
	ServerTrusting bool     `json:"server_trusting"`
	Custody        bool     `json:"custody"`
	Fingerprint    string   `json:"fingerprint"`
	Granted        string   `json:"granted_time"`
	State          string   `json:"state,omitempty"` // active or lost, as the server says
}

// serverFacts are what the server says of an identity beside its signed manifest.
type serverFacts struct {
	State  string   `json:"state"`
	Frozen string   `json:"frozen_time"`
	Reason string   `json:"frozen_reason"`
	Assets []string `json:"assets"`
	Grants []struct {
		Authenticator string `json:"authenticator"`
		State         string `json:"state"`
	} `json:"grants"`
}

// describe makes the document of a manifest that has been verified, with what the
// server says beside it, where it was asked.
func describe(m *identity.Manifest, facts *serverFacts) *identityDoc {
	doc := &identityDoc{
		Name: m.Name, ID: m.Identity.String(), Kind: string(m.Kind), Generation: m.Generation,
		Changed: m.Time.UTC().Format(time.RFC3339), Unfinished: len(pendingRoles(m)) > 0,
	}
	for _, r := range m.Roles {
		doc.Roles = append(doc.Roles, roleDoc{r.Name, r.Generation, r.Past != nil})
	}
	for _, l := range m.Levels {
		doc.Levels = append(doc.Levels, levelDoc{l.Name, l.Roles, l.ServerTrusting})
	}
	for _, g := range m.Grants {
		doc.Grants = append(doc.Grants, grantDoc{
			Authenticator: g.Name, ID: g.Authenticator.String(), Kind: string(g.Kind), Level: g.Level, Roles: m.Level(g.Level).Roles,
			ServerTrusting: g.ServerTrusting, Custody: g.Custody, Fingerprint: g.Fingerprint(), Granted: g.Granted.UTC().Format(time.RFC3339),
		})
	}
	if facts == nil {
		return doc
	}
	doc.State, doc.Frozen, doc.Reason, doc.Assets = facts.State, facts.Frozen, facts.Reason, facts.Assets
	for _, g := range facts.Grants {
		for i := range doc.Grants {
			if doc.Grants[i].Authenticator == g.Authenticator {
				doc.Grants[i].State = g.State
			}
		}
	}
	return doc
}

func (doc *identityDoc) write(t *text) {
	unfinished := ""
	if doc.Unfinished {
		unfinished = "unfinished: run 'mpckms identity reset " + doc.Name + "' or 'identity rotate " + doc.Name + "' again, whichever it was"
	}
	t.pairs("",
		"Identity", doc.Name,
		"ID", doc.ID,
		"Kind", doc.Kind,
		"State", doc.State,
		"Frozen", strings.TrimSpace(moment(doc.Frozen)+" "+parenthesized(doc.Reason)),
		"Generation", count64(doc.Generation),
		"Last change", doc.Changed,
		"Reset", unfinished,
		"Assets", strings.Join(doc.Assets, ", "),
	)
	t.blank()
	var rows [][]string
	for _, l := range doc.Levels {
		rows = append(rows, []string{l.Name, strings.Join(l.Roles, ", "), yesNo(l.ServerTrusting)})
	}
	t.table("", []string{"LEVEL", "OPENS ROLES", "SERVER-TRUSTING ALLOWED"}, rows)
	t.blank()
	rows = nil
	for _, g := range doc.Grants {
		kind := g.Kind
		if g.ServerTrusting {
			kind += " (server-trusting)"
		}
		rows = append(rows, []string{g.Authenticator, kind, g.Level, g.State, g.Fingerprint})
	}
	t.table("", []string{"AUTHENTICATOR", "KIND", "LEVEL", "STATE", "FINGERPRINT"}, rows)
	if unopened := doc.unopened(); len(unopened) > 0 {
		t.blank()
		t.line("No authenticator opens: " + strings.Join(unopened, ", ") + ". What only these roles may use is lost.")
	}
}

// unopened are the roles that nobody opens.
func (doc *identityDoc) unopened() (roles []string) {
	for _, r := range doc.Roles {
		if !slices.ContainsFunc(doc.Grants, func(g grantDoc) bool { return slices.Contains(g.Roles, r.Name) }) {
			roles = append(roles, r.Name)
		}
	}
	return roles
}

// sameFingerprint compares as people write: case and separators do not count.
func sameFingerprint(a, b string) bool {
	plain := func(s string) string {
		return strings.NewReplacer("-", "", " ", "", ":", "").Replace(strings.ToLower(s))
	}
	return plain(a) == plain(b)
}

// kinds of identities, as --kind takes them.
var identityKinds = []string{"person", "persona\ta name that someone acts under", "organization"} // read only

func checkKind(cmd *cobra.Command, kind string) error {
	if !identity.Kind(kind).Valid() {
		return usagef(cmd, "--kind takes person, persona or organization, not %q", kind)
	}
	return nil
}

func (a *app) printIdentity(h *holder) error {
	doc := describe(h.opened.Manifest, nil)
	return a.print(doc, doc.write)
}
