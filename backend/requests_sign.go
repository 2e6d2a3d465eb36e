package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// granted is what a signature of an account with a policy needs: the policy, and
// what its approvers have signed, both marshalled. It is made by grant alone.
type granted struct{ policy, approvals []byte }

// covers fails where an account's record demands approvals and these are none under
// its policy. Every signature asks, each time it is tried.
func (g *granted) covers(name string, record *mpc.PublicRecord) error {
	switch demands := demandsApprovals(record); {
	case demands && g == nil:
		return needsApprovals(name)
	case !demands && g != nil, demands && hashOf(g.policy) != record.PolicyHash:
		return errPolicyChanged()
	case demands && len(g.approvals) == 0:
		return needsApprovals(name)
	}
	return nil
}

// policyAndApprovals are the fields for nodes; nil for an account without a policy.
func (g *granted) policyAndApprovals() (policy, approvals []byte) {
	if g == nil {
		return nil, nil
	}
	return g.policy, g.approvals
}

func needsApprovals(name string) error {
	return conflict("account %q has an approval policy, so it signs nothing that was not approved: ask with <mount>/sign/%s, which answers with a request, and have that approved. Nothing was signed", name, name)
}

// Reasons why a request cannot be done any more.
func errPolicyChanged() error {
	return over("the account's policy was changed after this was asked: ask again")
}
func errAccountGone() error { return over("the account is not there any more") }

// requestAccount finds the account of a request, which may have another name by now.
func (b *backend) requestAccount(ctx context.Context, r *requestRecord) (string, *signable, error) {
	fits := func(name string) (*signable, error) {
		v, err := b.needSignable(ctx, name)
		var f *fault
		if errors.As(err, &f) { // none of that name
			return nil, nil
		}
		if err != nil || v.account.Record.AccountID.String() != r.AccountID {
			return nil, err
		}
		return v, nil
	}
	if v, err := fits(r.Account); v != nil || err != nil {
		return r.Account, v, err
	}
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return "", nil, err
	}
	for _, name := range names {
		v, err := fits(name)
		var damaged *damagedError
		if errors.As(err, &damaged) {
			continue
		}
		if v != nil || err != nil {
			return name, v, err
		}
	}
	return "", nil, errAccountGone()
}

// requestSubject implements requestsConfig.Subject.
func (b *backend) requestSubject(ctx context.Context, r *requestRecord) (approval.Subject, *approval.Policy, error) {
	fail := func(err error) (approval.Subject, *approval.Policy, error) { return approval.Subject{}, nil, err }
	_, v, err := b.requestAccount(ctx, r)
	if err != nil {
		return fail(err)
	}
	return b.subjectFor(ctx, r, &v.account.Record)
}

func (b *backend) subjectFor(ctx context.Context, r *requestRecord, record *mpc.PublicRecord) (approval.Subject, *approval.Policy, error) {
	fail := func(err error) (approval.Subject, *approval.Policy, error) { return approval.Subject{}, nil, err }
	mount, err := b.mountID(ctx)
	if err != nil {
		return fail(err)
	}
	if hashOf(r.Policy) != record.PolicyHash {
		return fail(errPolicyChanged())
	}
	policy, err := policyOf(record, r.Policy)
	if err != nil {
		return fail(err)
	}
	var s approval.Subject
	if r.Action == approval.Sign {
		s = approval.SignSubject(mount, record, r.Input, mpc.MessageType(r.MessageType), mpc.HashAlgorithm(r.HashAlgorithm), r.derivation())
	} else {
		next, err := approval.ParsePolicy(r.NextPolicy)
		if err != nil {
			return fail(err)
		}
		s = approval.PolicySubject(mount, record, next)
	}
	if s.Request, err = approval.ParseID(r.ID); err != nil {
		return fail(err)
	}
	s.Requester, s.RequesterName, s.Expires = r.Requester, r.RequesterName, r.Expires.Unix()
	return s, policy, s.Check()
}

func (r *requestRecord) derivation() mpc.Derivation {
	return mpc.Derivation{Path: r.DerivationPath, TaprootTweak: r.TaprootTweak}
}

// grant checks the approvals of a request, against the account as it is now, as nodes
// do: they check again. It is the only maker of granted.
func (b *backend) grant(ctx context.Context, r *requestRecord, record *mpc.PublicRecord) (*granted, *approval.Bundle, error) {
	subject, policy, err := b.subjectFor(ctx, r, record)
	if err != nil {
		return nil, nil, err
	}
	bundle := r.bundle()
	approvers, err := approval.Verify(policy, subject, bundle, b.cfg.now())
	switch {
	case errors.Is(err, approval.ErrExpired):
		return nil, nil, err // the clock ends the request
	case err != nil:
		return nil, nil, over("its approvals do not hold: %v", err)
	}
	// What the coordinator alone can check: enough kinds of factors from each.
	for _, id := range approvers {
		a := policy.Approver(id)
		if !slices.ContainsFunc(r.Given, func(g givenRecord) bool {
			return g.Approver == id.String() && g.Decision == approval.Approve && g.factors(a) >= policy.Factors
		}) {
			return nil, nil, over("its approvals do not hold: approver %q used too few kinds of factors", a.Name)
		}
	}
	return &granted{policy: r.Policy, approvals: bundle.Marshal()}, bundle, nil
}

// factors counts the kinds that an answer used: those of its signatures, and those
// that the coordinator has checked for this approver.
func (g *givenRecord) factors(a *approval.Approver) int {
	kinds := map[approval.Kind]bool{}
	for _, s := range g.Signatures {
		if id, err := approval.ParseID(s.Key); err == nil {
			if k := a.Key(id); k != nil {
				kinds[k.Kind] = true
			}
		}
	}
	for _, k := range g.Kinds {
		if slices.Contains(a.Checked, k) {
			kinds[k] = true
		}
	}
	return len(kinds)
}

// signingOf is what a request asks for.
func (r *requestRecord) signing(record *mpc.PublicRecord) (*signing, error) {
	q := &signing{
		message:   message{input: r.Input, kind: mpc.MessageType(r.MessageType), hash: mpc.HashAlgorithm(r.HashAlgorithm), derivation: r.derivation()},
		algorithm: record.Algorithm, account: record.AccountID, publicKey: record.PublicKey,
	}
	var err error
	if q.format, err = parseSignatureFormat(q.algorithm, r.SignatureFormat); err != nil {
		return nil, err
	}
	if q.derivation != (mpc.Derivation{}) {
		child, err := derive.Derive(record, q.derivation)
		if err != nil {
			return nil, err
		}
		q.publicKey = child.PublicKey
	}
	return q, nil
}

// completeRequest implements requestsConfig.Complete.
func (b *backend) completeRequest(ctx context.Context, r *requestRecord) (map[string]any, error) {
	name, v, err := b.requestAccount(ctx, r)
	if err != nil {
		return nil, err
	}
	// Whoever freezes or deletes an account stops what was approved, too: it does not
	// go on by itself afterwards. A freeze may end: then whoever asked decides.
	if err := v.usable(name); err != nil && r.Action == approval.Sign {
		if v.deleted == nil {
			return nil, &requestHeldError{fmt.Sprintf("%v. It is approved and held: after that, and before it expires, whoever asked sends the same to <mount>/sign/%s again, with request=%s", err, name, r.ID)}
		}
		return nil, over("%v", err)
	}
	if r.Action == approval.ChangePolicy {
		return b.completePolicy(ctx, name, v, r)
	}
	record := &v.account.Record
	q, err := r.signing(record)
	if err != nil {
		return nil, over("%v", err)
	}
	if q.granted, _, err = b.grant(ctx, r, record); err != nil {
		return nil, err
	}
	timeout := requestTimeout
	if record.Algorithm.NeedsAuxiliaryKeys() {
		nodes, err := b.store.nodesConfig(ctx)
		if err != nil {
			return nil, err
		}
		timeout = nodes.sessionTimeout()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := b.signNow(ctx, name, q)
	return answer, lasting(err)
}

// lasting marks errors of nodes that no repetition mends. Of anything else, such as an
// account that was frozen meanwhile, the next attempt knows before it begins. What one
// node alone says of approvals may be its clock's fault: the coordinator has found them
// good, and another node may come back before they expire.
func lasting(err error) error {
	switch {
	case err == nil, overReason(err) != "":
		return err
	case errors.Is(err, mpc.ErrInput), errors.Is(err, derive.ErrPath), errors.Is(err, derive.ErrTweak), errors.Is(err, derive.ErrAlgorithm),
		errors.Is(err, pool.ErrApprovals) && !errors.Is(err, pool.ErrOneNode):
		return over("%v", err)
	}
	return err
}

// openSign answers sign/:name of an account with a policy.
func (b *backend) openSign(ctx context.Context, req *logical.Request, data *framework.FieldData, name string, v *signable) (*logical.Response, error) {
	if isBatch(data) {
		return nil, invalid("account %q has an approval policy, so each signature is approved by itself: send one request for each item, without batch_input. Nothing was asked for", name)
	}
	record := &v.account.Record
	q, err := parseSigning(record, data)
	if err != nil {
		return nil, err
	}
	if len(q.input) > maxRequestInput {
		return nil, invalid("input has %d bytes, and a message that waits for approvals may have %d: have its digest signed with message_type=digest, which all algorithms but ed25519 take", len(q.input), maxRequestInput)
	}
	// What nodes would refuse is refused before people are asked.
	if _, err := mpc.SigningInput(q.algorithm, q.kind, q.hash, q.input); err != nil {
		return nil, err
	}
	if id := data.Get("request").(string); id != "" {
		return b.askAgain(ctx, req, id, q)
	}
	r, err := b.newRequest(ctx, req, name, v)
	if err != nil {
		return nil, err
	}
	r.Action, r.RequestID = approval.Sign, q.requestID
	payload := q.signedID().payload
	r.Payload = fmt.Sprintf("%x", payload)
	r.Input, r.MessageType, r.HashAlgorithm = q.input, string(q.kind), string(q.hash)
	r.DerivationPath, r.TaprootTweak, r.SignatureFormat = q.derivation.Path, q.derivation.TaprootTweak, string(q.format)
	r.Algorithm, r.ByOwner = string(q.algorithm), v.custody != nil
	stored, _, err := b.requests.open(ctx, r)
	if err != nil {
		return nil, err
	}
	answer, err := b.fullRequestAnswer(stored, true)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: answer, Warnings: append(q.warnings, batchFieldsIgnored(data)...)}, nil
}

// askAgain answers sign/:name with a request that was made before and has not ended
// otherwise than by being signed. One that is held goes on: the caller has seen that
// the account signs.
func (b *backend) askAgain(ctx context.Context, req *logical.Request, id string, q *signing) (*logical.Response, error) {
	if q.requestID != "" {
		return nil, invalid("request names a request that was made before, and request_id makes a new one safe to repeat: leave one of them out")
	}
	r, err := b.ownRequest(ctx, req, id, forbidden("request %s was made by somebody else: whoever asked may ask again; nothing was signed", id))
	switch {
	case err != nil:
		return nil, err
	case !r.asksFor(q) || r.SignatureFormat != string(q.format):
		return nil, conflict("request %s is not for this message, with this type, hash, derivation and signature format, and this account: nothing was signed", r.ID)
	}
	if r, err = b.requests.again(ctx, r.ID); err != nil {
		return nil, err
	}
	if r.State.ended() && r.State != requestSigned {
		return nil, notApproved(r)
	}
	answer, err := b.fullRequestAnswer(r, true)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: answer, Warnings: q.warnings}, nil
}

// newRequest is a request of whoever sends req about an account.
func (b *backend) newRequest(ctx context.Context, req *logical.Request, name string, v *signable) (*requestRecord, error) {
	requester, called, err := b.requesterFor(ctx, req, v.custody)
	if err != nil {
		return nil, err
	}
	if err := b.noOtherSelf(ctx, requester, v.policy); err != nil {
		return nil, err
	}
	ui, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := b.mountID(ctx); err != nil { // else nobody could approve it
		return nil, err
	}
	return &requestRecord{
		Account: name, AccountID: v.account.Record.AccountID.String(), Policy: v.policy,
		Requester: requester, RequesterName: called, Period: ui.QRPeriod,
	}, nil
}

func encodeAnswer(answer map[string]any) ([]byte, error) {
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return raw, nil
}
