package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/keyholder"
)

// What accounts with a policy answer: not a signature, a request for approvals.

// waitFor are the flags of commands that may end with a request.
type waitFor struct {
	wait    bool
	timeout time.Duration
}

func (w *waitFor) add(cmd *cobra.Command, until string) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "where approvals are needed: show the request's code and wait until "+until)
	cmd.Flags().DurationVar(&w.timeout, "approval-timeout", 0, "with --wait: give up waiting after this long (default: when the request ends)")
}

// pendingAnswer is a request that an answer says is to be approved; nil for any other
// answer. One with a signature in it is never taken for it.
func pendingAnswer(raw json.RawMessage) *requestDoc {
	var d struct {
		requestDoc
		Signature json.RawMessage `json:"signature"`
	}
	if json.Unmarshal(raw, &d) != nil || d.Request == "" || d.State == "" || len(d.Signature) > 0 {
		return nil
	}
	return &d.requestDoc
}

// pending prints a request that was made, or shows its code and waits for its end.
func (a *app) pending(cmd *cobra.Command, who requester, d *requestDoc, w *waitFor) error {
	if d.held() {
		return errors.Join(a.printRequest(d), requestEnd(d))
	}
	if !w.wait && d.State != "pending" {
		a.note("It is approved and goes on: 'mpckms request wait %s' waits for its result.", d.Request)
		return a.printRequest(d)
	}
	if !w.wait {
		a.note("Not done yet: %s has to be approved. 'mpckms request qr %s' shows its code, 'mpckms request wait %s' its result.", "request "+d.Request, d.Request, d.Request)
		return a.printRequest(d)
	}
	end, err := a.untilApproved(cmd.Context(), who, d, w)
	if err != nil {
		return err
	}
	if err := a.printRequest(end); err != nil {
		return err
	}
	return requestEnd(end)
}

// untilApproved shows the code where there is a terminal, and waits until the request
// has ended or is its owner's to finish.
func (a *app) untilApproved(ctx context.Context, who requester, d *requestDoc, w *waitFor) (*requestDoc, error) {
	timeout := w.timeout
	if timeout <= 0 {
		timeout = maxApprovalWait
	}
	if d.State != "pending" { // it has no code any more
		return a.awaitRequest(ctx, who, d.Request, timeout, func(*requestDoc) {})
	}
	out, width := a.codeTerminal()
	if out == nil {
		a.note("Request %s has to be approved. There is no terminal for its code: 'mpckms request qr %s' shows it on one.", d.Request, d.Request)
		return a.awaitRequest(ctx, who, d.Request, timeout, func(*requestDoc) {})
	}
	m, err := fetchCode(ctx, who, d.Request)
	if err != nil {
		return nil, err
	}
	defer m.seed.Wipe()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return a.showCode(ctx, who, m, out, width)
}

// maxApprovalWait is longer than any request is open.
const maxApprovalWait = 8 * 24 * time.Hour

// tokenRequester is the Vault token as who asks.
func tokenRequester(c *client, what string) requester { return caller{c, what} }

var (
	_ requester = caller{}
	_ requester = (*keyholder.Session)(nil)
)

// signatureOf is the result of a signed request.
func (d *requestDoc) signatureOf(doc *signDoc) error {
	if err := json.Unmarshal(d.Result, doc); err != nil {
		return &refusal{what: fmt.Sprintf("request %s is signed, and its result cannot be read", d.Request), cause: errForm(err)}
	}
	return nil
}
