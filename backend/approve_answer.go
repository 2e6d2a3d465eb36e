package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// maxLoginAge is how old a login may be, when the request is opened, to count as a
// factor.
const maxLoginAge = 5 * time.Minute

// loggedIn reports whether an approver may count a login as a factor: the policy
// says that the coordinator checks it, and it was fresh when the code was scanned.
func loggedIn(r *requestRecord, a *approval.Approver, opened time.Time) bool {
	at, ok := r.Logins[a.ID.String()]
	return ok && slices.Contains(a.Checked, approval.Login) && !at.Before(opened.Add(-maxLoginAge))
}

// wrongFactor is a factor that was given and is not right. Its text is for the
// device that opened the request.
type wrongFactor struct {
	cause string
	err   error
}

func (e *wrongFactor) Error() string { return e.err.Error() }
func (e *wrongFactor) Unwrap() error { return e.err }

// approveAnswer takes an approver's decision. Either all of it is right and it is
// recorded, or nothing is.
func (b *backend) approveAnswer(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	a, err := parseAnswering(data)
	if err != nil {
		return nil, err
	}
	d := b.desk
	ticket, err := d.tickets.enter(a.ticket)
	if err != nil {
		return nil, err
	}
	r, err := b.decide(ctx, ticket, &a)
	var wrong *wrongFactor
	switch {
	case err == nil:
		d.tickets.end(ticket, true)
	case errors.As(err, &wrong):
		left := d.tickets.failed(ticket)
		d.refused.WithLabelValues(wrong.cause).Inc()
		b.log.Warn("an answer of an approver was refused", "request", ticket.request.String(), "approver_id", ticket.approver.String(),
			"key", ticket.key.String(), "cause", wrong.cause, "error", wrong.err, "tries_left", left, "vault_request", req.ID)
		if left == 0 {
			return nil, forbidden("%v. Nothing was recorded, and this was the last try: authenticate again, scan the code anew", wrong.err)
		}
		return nil, forbidden("%v. Nothing was recorded; %s", wrong.err, tries(left))
	case isOver(err):
		d.tickets.end(ticket, false)
		return nil, err
	default:
		d.tickets.leave(ticket)
		return nil, err
	}
	b.log.Info("an approver has answered a request", "request", r.ID, "approver_id", ticket.approver.String(), "decision", string(a.decision), "state", string(r.State), "vault_request", req.ID)
	policy, err := approval.ParsePolicy(r.Policy)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"request": r.ID, "state": string(r.State), "decision": string(a.decision),
		"approvals": r.count(approval.Approve), "refusals": r.count(approval.Refuse), "quorum": policy.Quorum,
	}}, nil
}

func tries(left int) string {
	if left == 1 {
		return "one more try, then the code has to be scanned anew"
	}
	return fmt.Sprintf("%d more tries, then the code has to be scanned anew", left)
}

// isOver reports whether an error says that this approver cannot answer the request
// any more.
func isOver(err error) bool {
	var f *fault
	return errors.As(err, &f) && (f.status == http.StatusConflict || f.status == http.StatusNotFound)
}

// decide checks an answer and has it recorded.
func (b *backend) decide(ctx context.Context, k approveTicket, a *answering) (*requestRecord, error) {
	d := b.desk
	r, err := d.find(ctx, k.request)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errTicket()
	}
	subject, policy, err := d.requests.subject(ctx, r)
	if err != nil {
		return nil, d.requests.endIfOver(ctx, r.ID, err)
	}
	approver := policy.Approver(k.approver)
	if approver == nil { // the policy that the request was made under does not change
		return nil, errTicket()
	}
	if err := answerable(r, approver, d.now()); err != nil {
		return nil, err
	}
	if most := (approval.MaxBundle - 2048) / len(policy.Approvers); a.size() > most {
		return nil, invalid("the signatures have %d bytes in all, and with %d approvers in the policy one may send %d: send fewer", a.size(), len(policy.Approvers), most)
	}
	kinds, err := a.verify(&subject, approver, k.key)
	if err != nil {
		return nil, err
	}
	if a.decision == approval.Approve {
		if kinds, err = b.checkFactors(ctx, r, policy, approver, k, a.totp, kinds); err != nil {
			return nil, err
		}
	}
	return d.requests.give(ctx, r.ID, givenRecord{
		Approver: approver.ID.String(), Name: approver.Name, Decision: a.decision, Kinds: kinds,
		Signatures: a.factors(), Time: d.now().UTC(),
	})
}

// verify checks every signature over the statement that the approver is to have
// signed, with keys of the approver only, and returns their kinds, each once. The
// key that opened the request has to be among them.
func (a *answering) verify(s *approval.Subject, approver *approval.Approver, device approval.ID) ([]approval.Kind, error) {
	st := approval.Statement{Subject: *s, Decision: a.decision, Approver: approver.ID}
	var kinds []approval.Kind
	opened := false
	for i := range a.signatures {
		key := approver.Key(a.signatures[i].Key)
		if key == nil {
			return nil, &wrongFactor{causeFactor, fmt.Errorf("%s is no key that the policy has of approver %q", a.signatures[i].Key, approver.Name)}
		}
		if err := key.Verify(&st, &a.signatures[i]); err != nil {
			return nil, &wrongFactor{causeFactor, fmt.Errorf("%s %q: %w", key.Kind, key.Name, err)}
		}
		opened = opened || key.Kind == approval.Device && a.signatures[i].Key == device
		// Nodes refuse all approvals of a request for it (approval.Verify), so that one
		// approver could otherwise undo what the others have approved.
		if slices.Contains(kinds, key.Kind) {
			return nil, invalid("two signatures are of kind %s, and each kind counts once: send one of them. Nothing was recorded", key.Kind)
		}
		kinds = append(kinds, key.Kind)
	}
	if !opened {
		return nil, &wrongFactor{causeFactor, errors.New("the device that opened the request has not signed the answer")}
	}
	return kinds, nil
}

// checkFactors adds the kinds that the coordinator checks, and compares with what
// the policy asks for. The one-time code comes last: it is used up by being right,
// and nobody learns whether one is right without the signatures.
func (b *backend) checkFactors(ctx context.Context, r *requestRecord, p *approval.Policy, approver *approval.Approver, k approveTicket, totp string, kinds []approval.Kind) ([]approval.Kind, error) {
	signed := len(kinds)
	if loggedIn(r, approver, k.opened) {
		kinds = append(kinds, approval.Login)
	}
	if totp != "" {
		if !slices.Contains(approver.Checked, approval.TOTP) {
			return nil, invalid("the policy names no one-time codes of approver %q, so one does not count: leave it out. Nothing was recorded", approver.Name)
		}
		kinds = append(kinds, approval.TOTP)
	}
	if signed < p.SignatureFactors || len(kinds) < p.Factors {
		return nil, invalid("the policy asks for %d different kinds of factors, %d of which are signatures, and these are %d and %d (%s): nothing was recorded; answer again with %s",
			p.Factors, p.SignatureFactors, len(kinds), signed, joinKinds(kinds), joinKinds(missingKinds(approver, kinds, signed < p.SignatureFactors)))
	}
	if totp == "" {
		return kinds, nil
	}
	err := b.desk.approvers.checkTOTP(ctx, approver.ID.String(), totp)
	var f *fault
	if errors.As(err, &f) && f.status == http.StatusForbidden {
		return nil, &wrongFactor{causeCode, f}
	}
	return kinds, err
}

// missingKinds are those that the approver has and did not use.
func missingKinds(a *approval.Approver, used []approval.Kind, signature bool) []approval.Kind {
	all := map[approval.Kind]bool{}
	for _, key := range a.Keys {
		all[key.Kind] = true
	}
	if !signature {
		for _, kind := range a.Checked {
			all[kind] = true
		}
	}
	for _, kind := range used {
		delete(all, kind)
	}
	return slices.Sorted(maps.Keys(all))
}

func joinKinds(kinds []approval.Kind) string {
	text := make([]string, len(kinds))
	for i, k := range kinds {
		text[i] = string(k)
	}
	return strings.Join(text, ", ")
}
