package backend

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// maxDeviceClock is how far a device's clock may be off when it opens a request.
const maxDeviceClock = 2 * time.Minute

// errCodeRefused says the same to everybody who has not shown both a present form
// and a key of the policy.
func errCodeRefused() error {
	return forbidden("the code is not valid any more, or is not for this device: scan the present one, and see that the clock of the device is right")
}

// approveAttempt is one call of an approver's device as the log names it.
type approveAttempt struct {
	step    string
	request approval.ID
	key     approval.ID // zero where none was sent
	vault   string      // Vault's ID of the request
}

// refuse counts a failure and returns what the caller is told. What is in counts is
// of is what the failure counts for.
func (b *backend) refuse(at approveAttempt, known bool, of approveCounter, cause string) error {
	d := b.desk
	locked, err := d.countsOf(known).failed(of)
	if err != nil {
		cause = causeLimited
	}
	d.refused.WithLabelValues(cause).Inc()
	if ok, missed := d.lines.line(); ok {
		args := []any{"step", at.step, "cause", cause, "request", at.request.String(), "vault_request", at.vault}
		if at.key != (approval.ID{}) {
			args = append(args, "key", at.key.String())
		}
		if locked {
			args = append(args, "locked", "for a while")
		}
		if missed > 0 {
			args = append(args, "lines_left_out", missed)
		}
		b.log.Warn("an approver's device, or somebody in its place, was refused", args...)
	}
	if err != nil {
		return err
	}
	return errCodeRefused()
}

// find reads a request, without a write; nil where there is none.
func (d *approveDesk) find(ctx context.Context, id approval.ID) (*requestRecord, error) {
	r, err := d.requests.read(ctx, id.String())
	var f *fault
	if errors.As(err, &f) && f.status == http.StatusNotFound {
		return nil, nil
	}
	return r, err
}

// prover finds the device key of a request's policy that made a signature, and its
// approver; nil and the cause where there is none.
func (d *approveDesk) prover(mount [16]byte, r *requestRecord, o *opening) (*approval.Policy, *approval.Approver, string, error) {
	cause, record := "", r
	if r == nil {
		cause, record = causeUnknown, d.decoy.record
	}
	policy, err := approval.ParsePolicy(record.Policy)
	if err != nil {
		return nil, nil, "", err
	}
	approver, key := policy.ByKey(o.key)
	if key == nil || key.Kind != approval.Device {
		if cause == "" {
			cause = causeKey
		}
		approver, key = nil, &d.decoy.key
	}
	message := approval.OpenMessage(mount, o.request, o.form, o.key, o.time)
	if !key.VerifyOpen(message, o.signature) && cause == "" {
		cause = causeSignature
	}
	if cause != "" || approver == nil {
		return nil, nil, cause, nil
	}
	return policy, approver, "", nil
}

// formPeriod returns the period that a form is of: the present one or the one
// before. Both are derived and compared whatever the first says.
func formPeriod(r *requestRecord, request approval.ID, f approval.Form, now time.Time) (uint64, bool) {
	present := approval.Period(r.Created, now, time.Duration(r.Period)*time.Millisecond)
	previous := present
	if present > 0 {
		previous--
	}
	a, b := approval.FormAt(r.Seed, request, present), approval.FormAt(r.Seed, request, previous)
	isPresent, isPrevious := subtle.ConstantTimeCompare(a[:], f[:]), subtle.ConstantTimeCompare(b[:], f[:])
	if isPresent == 1 {
		return present, true
	}
	return previous, isPrevious == 1
}

// approveOpen shows a request to a device that has scanned its code.
func (b *backend) approveOpen(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	o, err := parseOpening(data)
	if err != nil {
		return nil, err
	}
	d := b.desk
	mount, err := b.store.mount(ctx)
	if err != nil {
		return nil, err
	}
	var mountID [16]byte
	if mount != nil {
		mountID = mount.ID
	}
	r, err := d.find(ctx, o.request)
	if err != nil {
		return nil, err
	}
	now := d.now()
	policy, approver, cause, err := d.prover(mountID, r, &o)
	if err != nil {
		return nil, err
	}
	shown := r
	if shown == nil {
		shown = d.decoy.record
	}
	period, right := formPeriod(shown, o.request, o.form, now)
	at := approveAttempt{"open", o.request, o.key, req.ID}
	if cause != "" {
		return nil, b.refuse(at, r != nil, approveCounter{request: o.request.String()}, cause)
	}
	// From here on the device is one of the policy.
	device := approveCounter{o.request.String(), o.key.String()}
	if err := d.counts.check(device); err != nil {
		d.refused.WithLabelValues(causeLimited).Inc()
		return nil, err
	}
	switch off := now.Sub(time.Unix(o.time, 0)).Abs(); {
	case off > maxDeviceClock:
		cause = causeClock
	case !right, d.shownBefore(r, period):
		cause = causeForm
	case !d.used.take(usedForm{device.request, device.key, period}):
		cause = causeReplay
	}
	if cause != "" {
		return nil, b.refuse(at, true, device, cause)
	}
	d.counts.succeeded(device)
	if err := answerable(r, approver, now); err != nil {
		return nil, err
	}
	subject, _, err := d.requests.subject(ctx, r)
	if err != nil {
		return nil, d.requests.endIfOver(ctx, r.ID, err)
	}
	raw, ticket, err := d.tickets.issue(o.request, o.key, approver.ID, r.Expires)
	if err != nil {
		return nil, err
	}
	out, err := openedFacts(r, &subject, policy)
	if err != nil {
		return nil, err
	}
	out["ticket"] = encode64URL(raw)
	out["ticket_expires_time"] = rfc3339(ticket.expires)
	out["approver_id"] = approver.ID.String()
	out["approver_name"] = approver.Name
	out["login"] = loggedIn(r, approver, ticket.opened)
	out["server_time"], out["server_unix_ms"] = now.Unix(), now.UnixMilli()
	b.log.Info("an approver's device has opened a request", "request", r.ID, "approver", approver.Name, "key", o.key.String(), "vault_request", req.ID)
	return &logical.Response{Data: out}, nil
}

// shownBefore reports whether a period began before this process did.
func (d *approveDesk) shownBefore(r *requestRecord, period uint64) bool {
	began := r.Created.Add(time.Duration(period) * time.Duration(r.Period) * time.Millisecond)
	return began.Before(d.started)
}

// answerable says why an approver cannot answer a request; nil where it can.
func answerable(r *requestRecord, approver *approval.Approver, now time.Time) error {
	if r.State != requestPending {
		return errRequestOver(r, string(r.State))
	}
	if !now.Before(r.Expires) {
		return errRequestOver(r, string(requestExpired))
	}
	if slices.Contains(approver.Requesters, r.Requester) {
		return forbidden("you asked for this yourself: nobody approves or refuses a request of their own. Whoever asked may cancel it (requests/%s/cancel)", r.ID)
	}
	for _, g := range r.Given {
		if g.Approver == approver.ID.String() {
			return conflict("you have answered this request already (%s, at %s): an answer is not changed", g.Decision, rfc3339(g.Time))
		}
	}
	return nil
}

// errRequestOver is a 409 that says how the request ended.
func errRequestOver(r *requestRecord, state string) error {
	why := ""
	if r.Reason != "" {
		why = " (" + r.Reason + ")"
	}
	return conflict("the request is %s%s: there is nothing to answer any more, and nothing was recorded. A signature that is still wanted is asked for again", state, why)
}

// openedFacts is everything that a device needs to build the statement by itself
// and to show what is asked for.
func openedFacts(r *requestRecord, s *approval.Subject, policy *approval.Policy) (map[string]any, error) {
	out := map[string]any{
		"request":        r.ID,
		"state":          string(r.State),
		"action":         string(s.Action),
		"mount_id":       hex.EncodeToString(s.Mount[:]),
		"account_id":     s.Account.String(),
		"account":        r.Account,
		"public_key":     hex.EncodeToString(s.PublicKey),
		"algorithm":      string(s.Algorithm),
		"requester":      s.Requester,
		"requester_name": s.RequesterName,
		"expires":        s.Expires,
		"policy":         encode64(r.Policy),
		"epoch":          s.Epoch,
		"approvals":      r.count(approval.Approve),
		"refusals":       r.count(approval.Refuse),
		"quorum":         policy.Quorum,
		"message_type":   string(s.MessageType), "hash_algorithm": string(s.Hash),
		"derivation_path": s.DerivationPath, "taproot_tweak": s.TaprootTweak,
		"input": encode64(r.Input), "next_policy": encode64(r.NextPolicy),
	}
	if s.Action != approval.Sign {
		return out, nil
	}
	out["message_hash"] = hex.EncodeToString(s.Message[:])
	if s.Algorithm.IsECDSA() || s.MessageType == mpc.MessageDigest {
		digest, err := mpc.SigningInput(s.Algorithm, s.MessageType, s.Hash, r.Input)
		if err != nil {
			return nil, err
		}
		out["digest"] = hex.EncodeToString(digest)
	}
	return out, nil
}
