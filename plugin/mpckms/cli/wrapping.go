package cli

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) wrappingKeyCommand() *cobra.Command {
	cmd := group("wrapping-key", "The versions of the wrapping key in the HSM")
	cmd.AddCommand(a.wrappingKeyListCommand(), a.wrappingKeyShowCommand(), a.wrappingKeyRotateCommand())
	return cmd
}

// wrappingKey is one version as the engine describes it; lists leave fields out.
type wrappingKey struct {
	Version      uint64     `json:"version"`
	State        string     `json:"state"`
	Newest       bool       `json:"newest"`
	Suite        string     `json:"suite"`
	Label        string     `json:"label,omitempty"`
	KeyID        string     `json:"key_id,omitempty"`
	TokenSerial  string     `json:"token_serial,omitempty"`
	PublicKey    string     `json:"public_key,omitempty"` // hex
	Created      string     `json:"created_time"`
	Retired      string     `json:"retired_time,omitempty"`
	DestroyAfter string     `json:"destroy_after,omitempty"`
	Destroyed    string     `json:"destroyed_time,omitempty"`
	References   references `json:"references"`
	LastError    string     `json:"last_error,omitempty"`
}

// references counts what is sealed to a version; more may come while Complete is
// false.
type references struct {
	Accounts int `json:"accounts"`
	NodeKeys int `json:"node_keys"`
	// IdentityKeys is 1 where the keys for logins of identities are sealed to it.
	IdentityKeys int  `json:"identity_keys,omitempty"`
	Complete     bool `json:"complete"`
}

func (r references) cells() (accounts, nodeKeys string) {
	more := ""
	if !r.Complete {
		more = " or more"
	}
	return strconv.Itoa(r.Accounts) + more, strconv.Itoa(r.NodeKeys) + more
}

// logins says whether the keys for logins are sealed to it; empty where not.
func (r references) logins() string {
	if r.IdentityKeys == 0 {
		return ""
	}
	return strconv.Itoa(r.IdentityKeys)
}

func (k wrappingKey) state() string {
	if k.Newest {
		return k.State + ", newest"
	}
	return k.State
}

// wrappingListDoc is the JSON document of `wrapping-key list`.
type wrappingListDoc struct {
	Mount        string        `json:"mount"`
	WrappingKeys []wrappingKey `json:"wrapping_keys"`
}

func (a *app) wrappingKeyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the versions and what refers to them",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.list(cmd.Context(), "list the versions of the wrapping key", "wrapping-keys")
			if err != nil {
				return err
			}
			doc := wrappingListDoc{Mount: c.mount, WrappingKeys: []wrappingKey{}}
			for _, key := range list.Keys {
				var k wrappingKey
				if err := decodeInfo(list.KeyInfo[key], &k); err != nil {
					return &refusal{what: fmt.Sprintf("what the list says about version %q cannot be read", key), cause: err}
				}
				if k.Version, err = strconv.ParseUint(key, 10, 32); err != nil {
					return &refusal{what: fmt.Sprintf("the server lists a version %q, which is no number", key)}
				}
				doc.WrappingKeys = append(doc.WrappingKeys, k)
			}
			slices.SortFunc(doc.WrappingKeys, func(x, y wrappingKey) int { return int(x.Version) - int(y.Version) })
			return a.print(doc, doc.write)
		},
	}
}

func (d wrappingListDoc) write(t *text) {
	if len(d.WrappingKeys) == 0 {
		t.line("No wrapping key yet: it is made once an HSM is configured.")
		return
	}
	rows := [][]string{}
	for _, k := range d.WrappingKeys {
		accounts, nodes := k.References.cells()
		rows = append(rows, []string{fmt.Sprint(k.Version), k.state(), k.Suite, accounts, nodes, moment(k.Created)})
	}
	t.table("", []string{"VERSION", "STATE", "SUITE", "ACCOUNTS", "NODE KEYS", "CREATED"}, rows)
}

func (a *app) wrappingKeyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show VERSION",
		Short:   "Show one version: its key in the HSM, what refers to it, when it goes",
		Example: `  mpckms wrapping-key show 3`,
		Args:    oneArg("the number of a version"),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil || version == 0 {
				return usagef(cmd, "%q is not the number of a version", args[0])
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			k := wrappingKey{}
			found, err := c.do(cmd.Context(), request{what: fmt.Sprintf("show version %d of the wrapping key", version), capability: capRead,
				path: fmt.Sprintf("wrapping-keys/%d", version)}, &k)
			if err != nil {
				return err
			}
			if !found {
				return &refusal{what: fmt.Sprintf("there is no version %d of the wrapping key", version), advice: "'mpckms wrapping-key list' shows which there are."}
			}
			k.Version = version
			return a.print(k, k.write)
		},
	}
}

func (k wrappingKey) write(t *text) {
	accounts, nodes := k.References.cells()
	t.pairs("", "Version", fmt.Sprint(k.Version), "State", k.state(), "Suite", k.Suite,
		"Label", k.Label, "Key ID", k.KeyID, "Token", k.TokenSerial, "Public key", k.PublicKey,
		"Accounts", accounts, "Node keys", nodes, "Identity keys", k.References.logins(),
		"Created", moment(k.Created), "Retired", moment(k.Retired), "Destroyed from", moment(k.DestroyAfter), "Destroyed", moment(k.Destroyed),
		"Last error", k.LastError)
}

// rotatedDoc is the JSON document of `wrapping-key rotate`.
type rotatedDoc struct {
	Version uint64 `json:"version"`
	Suite   string `json:"suite"`
	Label   string `json:"label"`
}

func (a *app) wrappingKeyRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Make a new version now; accounts follow in the background",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc rotatedDoc
			_, err = c.do(cmd.Context(), request{what: "make a new version of the wrapping key", capability: capUpdate, path: "wrapping-keys/rotate", body: struct{}{}}, &doc)
			if err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				t.pairs("", "Version", count64(doc.Version), "Suite", doc.Suite, "Label", doc.Label)
				t.line("Accounts follow in the background: 'mpckms rotation status' shows how far they are.")
			})
		},
	}
}
