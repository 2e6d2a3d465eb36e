package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

// statusDoc is the JSON document of `status`. It is printed also where parts
// could not be asked for; their error says why.
type statusDoc struct {
	// Ready: Vault and the mount answer and at least two nodes, the fewest a
	// signature takes, work.
	Ready bool `json:"ready"`
	// Problems are what a person should look at, also while Ready.
	Problems []string    `json:"problems"`
	Vault    vaultStatus `json:"vault"`
	Mount    mountStatus `json:"mount"`
	HSM      hsmStatus   `json:"hsm"`
	Nodes    []node      `json:"nodes"`
	// People is left out where the token may see nothing of them.
	People *peopleStatus `json:"people,omitempty"`
}

type vaultStatus struct {
	Address     string `json:"address"`
	Reachable   bool   `json:"reachable"`
	Initialized bool   `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	Standby     bool   `json:"standby"`
	Version     string `json:"version"`
	ClusterName string `json:"cluster_name"`
}

type mountStatus struct {
	Path string `json:"path"`
	// Present is null where the token may not find out.
	Present       *bool  `json:"present"`
	Type          string `json:"type"`
	PluginVersion string `json:"plugin_version"`
}

type hsmStatus struct {
	// Configured is null where the token may not read config/hsm.
	Configured        *bool  `json:"configured"`
	URI               string `json:"uri"`
	Module            string `json:"module"`
	TokenLabel        string `json:"token_label"`
	TokenSerial       string `json:"token_serial"`
	TokenManufacturer string `json:"token_manufacturer"`
	TokenModel        string `json:"token_model"`
	Suite             string `json:"suite"`
	WrappingVersion   uint32 `json:"wrapping_version"`
	PINSet            bool   `json:"pin_set"`
}

// minWorking is the smallest threshold an account can have.
const minWorking = 2

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show Vault, the mount, the HSM and the nodes",
		Long: `Show whether Vault answers, where the engine is mounted, which HSM token it uses,
how its nodes are, and how many identities, authenticators, approvers and pending
requests there are, as far as the token may list them. The exit code is 0 when the engine can be used and 1 when
it cannot, or when the token may not find out. Parts the token may not read are
left out and named.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := statusDoc{Problems: []string{}, Nodes: []node{}}
			stop := doc.collect(cmd.Context(), c)
			if err := a.print(doc, doc.write); err != nil {
				return err
			}
			switch {
			case stop != nil:
				return stop
			case !doc.Ready:
				return &refusal{what: "the engine is not ready: see the problems named in its status"}
			}
			return nil
		},
	}
}

// collect fills doc. It returns the refusal that kept it from going on, if any.
func (doc *statusDoc) collect(ctx context.Context, c *client) error {
	doc.Vault.Address, doc.Mount.Path = c.address, c.mount+"/"
	for _, step := range []func(context.Context, *client) error{
		doc.askVault, doc.askMount, doc.askHSM, doc.askNodes, doc.askPeople,
	} {
		if err := step(ctx, c); err != nil {
			doc.problem(brief(err))
			return err
		}
	}
	doc.judge()
	return nil
}

func (doc *statusDoc) problem(s string) { doc.Problems = append(doc.Problems, s) }

// brief is an error without its advice.
func brief(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}
