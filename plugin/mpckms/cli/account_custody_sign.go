package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc/custody"
)

// custodySign signs with an account that has custody. body is that of sign/:name.
func (a *app) custodySign(cmd *cobra.Command, name string, body map[string]any, timeout time.Duration, noWait bool, w *waitFor, doc *signDoc) (asked bool, err error) {
	h, shown, asset, err := a.custodial(cmd, name)
	if err != nil {
		return false, err
	}
	defer a.leave(h)
	purpose, finish, err := signPurpose(body)
	if err != nil {
		return false, err
	}
	t, err := h.task(fmt.Sprintf("sign with account %q", name), shown, asset, purpose)
	if err != nil {
		return false, err
	}
	t.finish, t.mayRefresh = finish, !identity.Pending(asset)
	format, _ := body["signature_format"].(string)
	want, err := wantedFrom(shown, purpose, format)
	if err != nil {
		return false, refusedBy(t.what, err)
	}
	if _, before := body["request"]; before && shown.PolicyHash == "" {
		return false, &refusal{what: "cannot " + t.what, cause: errors.New("nobody has to approve for the account, so that there is no request: leave --request out")}
	}
	if shown.PolicyHash != "" {
		r, err := a.custodyApproval(cmd, h, name, body, w)
		switch {
		case err != nil:
			return false, err
		case r == nil:
			return true, nil
		case r.hasResult():
			return false, r.custodySignature(t.what, want, doc)
		}
		t.request = r.Request
		delete(t.finish, "request_id") // it is the request's, which has been asked for
	}
	c, err := a.custodian(cmd.Context(), h)
	if err != nil {
		return false, err
	}
	deadline := time.Now().Add(timeout)
	for told := false; ; {
		err := c.sign(cmd.Context(), t, want, doc)
		var r *refusal
		if !errors.As(err, &r) || !auxiliaryKeysPending(r) {
			return false, err
		}
		r.advice = waitAdvice
		if noWait || time.Now().After(deadline) {
			return false, r
		}
		if !told {
			a.note("Waiting up to %s: %s", timeout, strings.Join(r.messages, "; "))
			told = true
		}
		select {
		case <-cmd.Context().Done():
			r.cause = cmd.Context().Err()
			return false, r
		case <-time.After(a.retryPause):
		}
	}
}

// custodySignature is signatureOf for an account with custody: a result that was
// stored is checked like a new signature.
func (d *requestDoc) custodySignature(what string, want *wantedSignature, doc *signDoc) error {
	var answer signDoc
	if err := d.signatureOf(&answer); err != nil {
		return err
	}
	if err := want.checked(what, &answer); err != nil {
		return err
	}
	answer.Name = doc.Name
	*doc = answer
	return nil
}

// custodyApproval asks for approvals as the account's owner, or finds what was asked
// for before under the same request ID, and returns a request that is approved or
// signed. It returns nil where that is not so yet, or never will be, after printing it.
func (a *app) custodyApproval(cmd *cobra.Command, h *holder, name string, body map[string]any, w *waitFor) (*requestDoc, error) {
	what := fmt.Sprintf("sign with account %q", name)
	var raw json.RawMessage
	if err := h.Call(cmd.Context(), keyholder.Write, "sign/"+name, body, &raw); err != nil {
		return nil, asked(what, err)
	}
	d := pendingAnswer(raw)
	switch {
	case d == nil:
		return nil, &refusal{what: "cannot " + what, cause: errors.New("the answer is not a request for approvals, which the account demands; nothing was signed")}
	case d.State == "approved" || d.State == "signed":
		return d, nil
	case d.ended(): // asked for before under the same request ID
		return nil, errors.Join(a.printRequest(d), requestEnd(d))
	case !w.wait:
		return nil, a.pending(cmd, h, d, w)
	}
	end, err := a.untilApproved(cmd.Context(), h, d, w)
	if err != nil {
		return nil, err
	}
	if err := requestEnd(end); err != nil {
		return nil, errors.Join(a.printRequest(end), err)
	}
	return end, nil
}

// signPurpose takes the purpose out of a request to sign; what is left goes with
// the second half, and does not change what is signed.
func signPurpose(body map[string]any) (custody.Purpose, map[string]any, error) {
	p := custody.Purpose{Operation: custody.OpSign}
	finish := map[string]any{}
	for k, v := range body {
		text, _ := v.(string)
		switch k {
		case "input":
			input, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return p, nil, err
			}
			p.Input = input
		case "message_type":
			p.MessageType = text
		case "hash_algorithm":
			p.HashAlgorithm = text
		case "derivation_path":
			p.DerivationPath = text
		case "taproot_tweak":
			p.TaprootTweak = text
		case "request": // goes with the first half, where it was found to be approved
		default:
			finish[k] = v
		}
	}
	return p, finish, nil
}
