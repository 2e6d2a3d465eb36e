package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc/approval"
)

func (a *app) requestCommand() *cobra.Command {
	cmd := group("request", "Signatures and changes that wait for approvals")
	cmd.AddCommand(a.requestListCommand(), a.requestShowCommand(), a.requestQRCommand(), a.requestWaitCommand(), a.requestCancelCommand())
	return cmd
}

// requestDoc is a request as the engine describes it.
type requestDoc struct {
	Request       string     `json:"request"`
	Account       string     `json:"account"`
	Action        string     `json:"action"`
	State         string     `json:"state"`
	Reason        string     `json:"reason,omitempty"`
	Trouble       string     `json:"trouble,omitempty"`
	Requester     string     `json:"requester"`
	RequesterName string     `json:"requester_name,omitempty"`
	Created       string     `json:"created_time,omitempty"`
	Expires       string     `json:"expires_time"`
	Ended         string     `json:"ended_time,omitempty"`
	Approvals     int        `json:"approvals"`
	Quorum        int        `json:"quorum"`
	Approvers     []string   `json:"approvers,omitempty"`
	Refusals      int        `json:"refusals,omitempty"`
	Answers       []givenDoc `json:"answers,omitempty"`
	// Digest is SHA-256 of the input, SigningDigest what ECDSA signs.
	Digest        string `json:"digest,omitempty"`
	SigningDigest string `json:"signing_digest,omitempty"`
	MessageType   string `json:"message_type,omitempty"`
	Path          string `json:"derivation_path,omitempty"`
	TaprootTweak  string `json:"taproot_tweak,omitempty"`
	NextPolicy    string `json:"next_policy_hash,omitempty"`
	PolicyHash    string `json:"policy_hash,omitempty"`
	RequestID     string `json:"request_id,omitempty"`
	// Owner: the account has custody, so that its owner does what was approved.
	Owner bool `json:"by_owner,omitempty"`
	// Result is the engine's answer once it is signed.
	Result json.RawMessage `json:"result,omitempty"`
}

// givenDoc is one approver's answer.
type givenDoc struct {
	Approver  string            `json:"approver"`
	ID        string            `json:"approver_id"`
	Decision  string            `json:"decision"`
	Kinds     []string          `json:"kinds"`
	CheckedBy map[string]string `json:"checked_by"` // by kind
	Time      string            `json:"time"`
}

// byOwner reports that it is the owner's turn.
func (d *requestDoc) byOwner() bool { return d.State == "approved" && d.Owner }

// held reports that it does not go on by itself, for Reason, until whoever asked asks
// again.
func (d *requestDoc) held() bool { return d.State == "approved" && d.Reason != "" }

func (d *requestDoc) ended() bool { return d.State != "pending" && d.State != "approved" }

// hasResult reports whether there is a signature, or a policy in force.
func (d *requestDoc) hasResult() bool {
	return len(d.Result) > 0 && string(d.Result) != "null" && string(d.Result) != "{}"
}

func (d requestDoc) write(t *text) {
	t.pairs("",
		"Request", d.Request,
		"Account", d.Account,
		"Action", d.Action,
		"State", d.State,
		"Reason", d.Reason,
		"Trouble", d.Trouble,
		"Asked for by", named(d.RequesterName, d.Requester),
		"Created", moment(d.Created),
		"Expires", moment(d.Expires),
		"Ended", moment(d.Ended),
		"Approvals", fmt.Sprintf("%d of %d", d.Approvals, d.Quorum),
		"Approvers", strings.Join(d.Approvers, ", "),
		"Message SHA-256", d.Digest,
		"Digest", d.SigningDigest,
		"Message type", d.MessageType,
		"Derivation path", d.Path,
		"Taproot tweak", d.TaprootTweak,
		"Policy hash", d.PolicyHash,
		"New policy hash", d.NextPolicy,
		"Request ID", d.RequestID,
	)
	if len(d.Answers) == 0 {
		return
	}
	rows := make([][]string, len(d.Answers))
	for i, g := range d.Answers {
		used := make([]string, len(g.Kinds))
		for n, k := range g.Kinds {
			used[n] = k + " (checked by " + g.CheckedBy[k] + ")"
		}
		rows[i] = []string{g.Approver, g.Decision, strings.Join(used, ", "), moment(g.Time)}
	}
	t.blank()
	t.table("", []string{"APPROVER", "DECISION", "FACTORS", "TIME"}, rows)
}

// requestArg takes the ID of a request.
func requestArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(cmd, "give the ID of the request, and nothing else")
	}
	if _, err := approval.ParseID(args[0]); err != nil {
		return usagef(cmd, "%q is not the ID of a request: it has 32 lower-case hex digits", args[0])
	}
	return nil
}

// requester is who asks for and looks at requests: whoever has a Vault token, or a
// session of an identity.
type requester interface {
	Call(ctx context.Context, op keyholder.Op, path string, in map[string]any, out any) error
}

// asRequester returns who calls, and what ends it. With an authenticator named, or
// without a token where this home knows one, that is a session of its identity.
func (a *app) asRequester(cmd *cobra.Command, what string) (requester, func(), error) {
	k, err := a.tokenCaller(what)
	if err != nil {
		return nil, nil, err
	}
	if a.authenticator == "" && !a.asHolder(k.c) {
		return k, func() {}, nil
	}
	s, _, err := a.logIn(cmd, "")
	if err != nil {
		return nil, nil, err
	}
	return s, func() { a.endSession(s) }, nil
}

// asked makes an error of a requester's call one of this program.
func asked(what string, err error) error {
	if r, ok := errors.AsType[*keyholder.Refusal](err); ok {
		var mine *refusal
		if errors.As(r.Cause, &mine) {
			return mine
		}
	}
	return refusedBy(what, err)
}

func (a *app) requestListCommand() *cobra.Command {
	var account, state string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List requests",
		Example: `  mpckms request list
  mpckms request list --account gold --state pending`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			query := map[string][]string{}
			for k, v := range map[string]string{"account": account, "state": state} {
				if v != "" {
					query[k] = []string{v}
				}
			}
			doc := struct {
				Mount    string       `json:"mount"`
				Requests []requestDoc `json:"requests"`
			}{a.mount, []requestDoc{}}
			for {
				l, err := c.page(cmd.Context(), "list requests", "requests", query)
				if err != nil {
					return err
				}
				for _, id := range l.Keys {
					d := requestDoc{}
					if err := decodeInfo(l.KeyInfo[id], &d); err != nil {
						return &refusal{what: "cannot list requests", cause: errForm(err)}
					}
					d.Request = id
					doc.Requests = append(doc.Requests, d)
				}
				if l.NextAfter == "" || len(l.Keys) == 0 {
					break
				}
				query["after"] = []string{l.NextAfter}
			}
			return a.print(doc, func(t *text) {
				if len(doc.Requests) == 0 {
					t.line("No requests.")
					return
				}
				rows := make([][]string, len(doc.Requests))
				for i, d := range doc.Requests {
					rows[i] = []string{d.Request, d.Account, d.Action, d.State, fmt.Sprintf("%d/%d", d.Approvals, d.Quorum), named(d.RequesterName, d.Requester), moment(d.Expires)}
				}
				t.table("", []string{"REQUEST", "ACCOUNT", "ACTION", "STATE", "APPROVALS", "ASKED FOR BY", "EXPIRES"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "only those of this account")
	cmd.Flags().StringVar(&state, "state", "", "only those in this state: pending, approved, signed, refused, expired, cancelled or failed")
	completeBy(cmd, "account", a.accountNames)
	complete(cmd, "state", "pending", "approved", "signed", "refused", "expired", "cancelled", "failed")
	return cmd
}

func readRequest(ctx context.Context, who requester, what, id string) (*requestDoc, error) {
	d := &requestDoc{}
	if err := who.Call(ctx, keyholder.Read, "requests/"+id, nil, d); err != nil {
		return nil, asked(what, err)
	}
	d.Request = id
	return d, nil
}

func (a *app) requestShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show REQUEST",
		Short: "Show a request, who has approved it and with what",
		Example: `  mpckms request show 5f0e…9a
  mpckms request show 5f0e…9a -o json`,
		Args:              requestArg,
		ValidArgsFunction: a.completeNames(a.requestIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, end, err := a.asRequester(cmd, "show the request")
			if err != nil {
				return err
			}
			defer end()
			d, err := readRequest(cmd.Context(), who, "show the request", args[0])
			if err != nil {
				return err
			}
			return a.printRequest(d)
		},
	}
}

// printRequest prints a request and, in a table, the signature below it.
func (a *app) printRequest(d *requestDoc) error {
	if d.byOwner() && d.Action == string(approval.ChangePolicy) {
		a.note("Approved, and not in force yet: the owner of account %s has to agree: 'mpckms account refresh %s --request %s'.", d.Account, d.Account, d.Request)
	}
	return a.print(d, func(t *text) {
		d.write(t)
		if !d.hasResult() {
			return
		}
		var sig signDoc
		if json.Unmarshal(d.Result, &sig) == nil && sig.Signature != "" {
			sig.Name = ""
			t.blank()
			sig.write(t)
		}
	})
}

func (a *app) requestCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel REQUEST",
		Short:             "End a request that nobody has to answer any more",
		Example:           `  mpckms request cancel 5f0e…9a`,
		Args:              requestArg,
		ValidArgsFunction: a.completeNames(a.requestIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "cancel the request"
			who, end, err := a.asRequester(cmd, what)
			if err != nil {
				return err
			}
			defer end()
			d := &requestDoc{}
			if err := who.Call(cmd.Context(), keyholder.Write, "requests/"+args[0]+"/cancel", nil, d); err != nil {
				return asked(what, err)
			}
			if d.State == "" {
				if d, err = readRequest(cmd.Context(), who, what, args[0]); err != nil {
					return err
				}
			}
			d.Request = args[0]
			return a.printRequest(d)
		},
	}
}
