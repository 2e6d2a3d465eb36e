package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/keyholder"
)

func (a *app) accountPolicyCommand() *cobra.Command {
	cmd := group("policy", "Who has to approve the signatures of an account")
	cmd.AddCommand(a.policyShowCommand(), a.policySetCommand())
	return cmd
}

// policyFlags say what a policy demands.
type policyFlags struct {
	approvers                  []string
	quorum, factors, signature int
	expiry                     time.Duration
}

func (f *policyFlags) add(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.approvers, "approver", nil, "somebody who may approve signatures; may be repeated")
	flags.IntVar(&f.quorum, "quorum", 0, "approvers that are needed for a signature (default: all)")
	flags.IntVar(&f.factors, "factors", 0, "different kinds of factors that each approver uses, 2 or more (default 2)")
	flags.IntVar(&f.signature, "signature-factors", 0, "how many of these nodes verify themselves (default 1; 2 with nodes on other hosts)")
	flags.DurationVar(&f.expiry, "request-expiry", 0, "how long a request waits for approvals (default 10m)")
	a.completeFlag(cmd, "approver", a.approvers)
}

// put adds what was given to a request.
func (f *policyFlags) put(cmd *cobra.Command, body map[string]any) error {
	changed := cmd.Flags().Changed
	if len(f.approvers) > 0 {
		body["approvers"] = f.approvers
	}
	for flag, of := range map[string]struct {
		field string
		n     int
	}{"quorum": {"quorum", f.quorum}, "factors": {"factors", f.factors}, "signature-factors": {"signature_factors", f.signature}} {
		if changed(flag) {
			body[of.field] = of.n
		}
	}
	if changed("request-expiry") {
		body["request_expiry"] = f.expiry.String()
	}
	if len(f.approvers) == 0 && (changed("quorum") || changed("factors") || changed("signature-factors") || changed("request-expiry")) {
		return usagef(cmd, "--quorum, --factors, --signature-factors and --request-expiry go with --approver")
	}
	return nil
}

// policyDoc is a policy as the engine describes it.
type policyDoc struct {
	Account          string         `json:"account"`
	Quorum           int            `json:"quorum"`
	Factors          int            `json:"factors"`
	SignatureFactors int            `json:"signature_factors"`
	Expiry           seconds        `json:"request_expiry"`
	PolicyHash       string         `json:"policy_hash"`
	SinceEpoch       uint64         `json:"since_epoch"`
	Approvers        []policyPerson `json:"approvers"`
}

type policyPerson struct {
	Name       string           `json:"name"`
	ID         string           `json:"id"`
	Requesters []string         `json:"requesters"`
	Keys       []approverFactor `json:"keys"`
	Checked    []string         `json:"checked"`
}

func (d *policyDoc) write(t *text) {
	if d.PolicyHash == "" || len(d.Approvers) == 0 {
		t.line(fmt.Sprintf("Account %s has no policy: nobody has to approve its signatures.", d.Account))
		return
	}
	t.pairs("",
		"Account", d.Account,
		"Policy hash", d.PolicyHash,
		"Approvals", fmt.Sprintf("%d of %d", d.Quorum, len(d.Approvers)),
		"Factors", fmt.Sprintf("%d kinds each, %d verified by nodes", d.Factors, d.SignatureFactors),
		"Requests end after", d.Expiry.String(),
		"Since share epoch", count64(d.SinceEpoch),
	)
	var rows [][]string
	for _, p := range d.Approvers {
		for _, k := range p.Keys {
			rows = append(rows, []string{p.Name, k.Kind, k.Name, k.KeyID, "nodes"})
		}
		for _, kind := range p.Checked {
			rows = append(rows, []string{p.Name, kind, "", "", "coordinator"})
		}
	}
	t.blank()
	t.table("", []string{"APPROVER", "KIND", "NAME", "KEY ID", "CHECKED BY"}, rows)
}

func (a *app) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show who has to approve the signatures of an account",
		Long: `Show an account's policy with the IDs of all keys in it. An approver who compares the ID of
the own device's key ('mpckms device factors') need not believe the server.`,
		Example:           `  mpckms account policy show gold`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			d := &policyDoc{Account: args[0]}
			_, err = c.do(cmd.Context(), request{what: fmt.Sprintf("show the policy of account %q", args[0]), capability: capRead, path: "accounts/" + args[0] + "/policy", account: args[0]}, d)
			if err != nil {
				return err
			}
			d.Account = args[0]
			if d.Approvers == nil {
				d.Approvers = []policyPerson{}
			}
			return a.print(d, d.write)
		},
	}
}

func (a *app) policySetCommand() *cobra.Command {
	var f policyFlags
	var wait waitFor
	var yes bool
	cmd := &cobra.Command{
		Use:   "set NAME --approver NAME [--approver NAME …]",
		Short: "Set who has to approve the signatures of an account",
		Long: `Set an account's policy: who approves, how many of them, with how many factors. It names
approvers and takes copies of their keys, as they are now. The shares are refreshed with it.

An account without a policy has it at once. The policy of an account that has one is changed
only by those whom it names: the command prints a request that they approve as they approve
signatures; --wait shows its code and waits. A policy cannot be taken off an account.

An account with custody gets a policy from its owner only: its first one at once, when whoever
runs this opens the custody key and agrees to the policy as it is shown; another one after those
whom the present one names have approved: 'mpckms account refresh NAME --request REQUEST'.`,
		Example: `  mpckms account policy set gold --approver alice --approver ben --approver carol --quorum 2
  mpckms account policy set gold --approver alice --approver dora --wait`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(f.approvers) == 0 {
				return usagef(cmd, "give --approver: a policy names who approves, and cannot be taken off an account")
			}
			body := map[string]any{}
			if err := f.put(cmd, body); err != nil {
				return err
			}
			what := fmt.Sprintf("set the policy of account %q", args[0])
			c, err := a.connect()
			if err != nil {
				return err
			}
			if a.authenticator != "" || a.asHolder(c) { // sessions ask about no other accounts
				return a.ownerPolicy(cmd, args[0], body, yes)
			}
			who, end, err := a.asRequester(cmd, what)
			if err != nil {
				return err
			}
			defer end()
			var raw json.RawMessage
			if err := who.Call(cmd.Context(), keyholder.Write, "accounts/"+args[0]+"/policy", body, &raw); err != nil {
				if err = asked(what, err); needsCustody(err) {
					a.note("Account %s has custody and no policy yet: its owner brings it.", args[0])
					return a.ownerPolicy(cmd, args[0], body, yes)
				}
				return err
			}
			if d := pendingAnswer(raw); d != nil {
				return a.pending(cmd, who, d, &wait)
			}
			d := &policyDoc{}
			if err = json.Unmarshal(raw, d); err != nil {
				err = errForm(err)
			} else if d.PolicyHash == "" {
				err = errors.New("the answer holds neither a policy nor a request")
			}
			if err != nil {
				return &refusal{what: "cannot " + what, cause: err}
			}
			d.Account = args[0]
			return a.print(d, d.write)
		},
	}
	f.add(a, cmd)
	a.acceptFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "of an account with custody: agree to its first policy without being asked")
	wait.add(cmd, "the policy is in force, or is its owner's to agree to")
	return cmd
}
