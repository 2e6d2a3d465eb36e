package approver

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// clockSkew is how far the clocks of device, coordinator and nodes may differ.
const clockSkew = time.Minute

// facts is what a server says of a request.
type facts struct {
	Ticket        string `json:"ticket"`
	ApproverID    string `json:"approver_id"`
	MountID       string `json:"mount_id"`
	AccountID     string `json:"account_id"`
	Account       string `json:"account"`
	PublicKey     string `json:"public_key"` // hex
	Algorithm     string `json:"algorithm"`
	Action        string `json:"action"`
	MessageType   string `json:"message_type"`
	HashAlgorithm string `json:"hash_algorithm"`
	Input         []byte `json:"input"`
	Path          string `json:"derivation_path"`
	TaprootTweak  string `json:"taproot_tweak"`
	Requester     string `json:"requester"`
	RequesterName string `json:"requester_name"`
	Expires       int64  `json:"expires"` // Unix time in seconds
	Policy        []byte `json:"policy"`
	NextPolicy    []byte `json:"next_policy"`
	Epoch         uint64 `json:"epoch"`
	Digest        string `json:"digest"`
	Approvals     int    `json:"approvals"`
}

// Request is one that was opened and fits what is pinned. Everything in it is either
// checked or marked as the server's word.
type Request struct {
	device *Device
	ticket string
	// Subject is what a signature is for. It was put together here.
	Subject approval.Subject
	// Account is what the server calls the account; Known what this device knew of
	// it: false means that it was never seen here.
	Account string
	Known   bool
	// Input is the message as it was asked to be signed, Digest what the account's
	// algorithm signs of it (of a change of policy both are empty).
	Input, Digest []byte
	// Policy is the one in force by the server's word; nodes hold it against the
	// account's record. Next is the one to come.
	Policy, Next *approval.Policy
	// PolicyChanged: the policy is another one than when this device last saw the
	// account.
	PolicyChanged bool
	// Me is this approver in the policy.
	Me *approval.Approver
	// Approvals is how many approvers have approved, the server's word.
	Approvals int
}

// Opening is what Open needs beside the server.
type Opening struct {
	// Link is the code's link, or what stands behind its "#".
	Link string
	// AcceptAccount takes an account under a new name, or a name for a new account.
	AcceptAccount bool
}

// Open shows the form that was scanned, gets the request, and refuses everything that
// does not fit. The account is remembered in the device, which the caller stores.
func (d *Device) Open(ctx context.Context, s Server, ring Keyring, o Opening, now time.Time) (*Request, error) {
	p, err := d.pinned()
	if err != nil {
		return nil, err
	}
	id, form, err := approval.ParseLink(o.Link)
	if err != nil {
		return nil, err
	}
	key := p.keys[0].ID()
	signature, err := d.sign(ring, approval.OpenMessage(p.mount, id, form, key, now.Unix()))
	if err != nil {
		return nil, err
	}
	var f facts
	err = s.Post(ctx, "approve/open", map[string]any{
		"request": id.String(), "form": base64.RawURLEncoding.EncodeToString(form[:]), "key": key.String(),
		"time": now.Unix(), "signature": b64(signature),
	}, &f)
	if err != nil {
		return nil, err
	}
	r, err := d.check(&f, p, id, now)
	if err != nil {
		return nil, err
	}
	account := r.Subject.Account.String()
	pin := Pin{Name: f.Account, PublicKey: hex.EncodeToString(r.Subject.PublicKey), Algorithm: string(r.Subject.Algorithm), Policy: hex.EncodeToString(r.Subject.Policy[:])}
	first, err := d.see(account, pin, o.AcceptAccount)
	if err != nil {
		return nil, err
	}
	r.Known = !first
	r.PolicyChanged = !first && d.Accounts[account].Policy != pin.Policy
	d.pin(account, pin)
	return r, nil
}

func lie(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrHostile)
}

// check puts the subject together from what will be shown and what is pinned.
func (d *Device) check(f *facts, p pins, id approval.ID, now time.Time) (*Request, error) {
	r := &Request{device: d, ticket: f.Ticket, Account: f.Account, Approvals: f.Approvals, Input: f.Input}
	var err error
	switch {
	case f.Ticket == "":
		return nil, lie("the answer has no ticket to answer with")
	case f.MountID != d.Mount:
		return nil, lie("the request is of another mount (%.40q) than this device was enrolled at (%s)", f.MountID, d.Mount)
	case f.ApproverID != d.Approver:
		return nil, lie("the request is for another approver (%.40q) than this device is of (%s)", f.ApproverID, d.Approver)
	}
	if r.Policy, err = approval.ParsePolicy(f.Policy); err != nil {
		return nil, lie("the policy cannot be read (%v)", err)
	}
	if r.Me = r.Policy.Approver(p.approver); r.Me == nil {
		return nil, lie("the policy does not name this approver")
	}
	if k := r.Me.Key(p.keys[0].ID()); k == nil || k.Kind != approval.Device {
		return nil, lie("the policy does not have this device's key: its approvals would not count")
	}
	if err := r.checkTime(f.Expires, now); err != nil {
		return nil, err
	}
	u := &r.Subject
	*u = approval.Subject{Action: approval.Action(f.Action), Mount: p.mount, Request: id, Requester: f.Requester, RequesterName: f.RequesterName,
		Algorithm: mpc.Algorithm(f.Algorithm), Policy: r.Policy.Hash(), Expires: f.Expires}
	account, err := approval.ParseID(f.AccountID)
	if err != nil {
		return nil, lie("the account's ID is none")
	}
	u.Account = mpc.AccountID(account)
	if u.PublicKey, err = hex.DecodeString(f.PublicKey); err != nil || !u.Algorithm.Valid() || len(u.PublicKey) != u.Algorithm.PublicKeySize() {
		return nil, lie("the account's public key or algorithm is none")
	}
	if slices.Contains(r.Me.Requesters, f.Requester) {
		return nil, fmt.Errorf("%w: it was asked for as %q, which is this approver", approval.ErrRequester, f.Requester)
	}
	switch u.Action {
	case approval.Sign:
		err = r.checkMessage(f)
	case approval.ChangePolicy:
		err = r.checkPolicies(f)
	}
	if err != nil {
		return nil, err
	}
	if err := u.Check(); err != nil {
		return nil, lie("the request is incomplete (%v)", err)
	}
	return r, nil
}

func (r *Request) checkTime(expires int64, now time.Time) error {
	end := time.Unix(expires, 0)
	switch {
	case !now.Before(end):
		return fmt.Errorf("the request ended at %s by this device's clock: ask for a new one", end.UTC().Format(time.RFC3339))
	case end.After(now.Add(r.Policy.Expiry + clockSkew)):
		return lie("the request would be open until %s, longer than the %s that the policy allows; is this device's clock right", end.UTC().Format(time.RFC3339), r.Policy.Expiry)
	}
	return nil
}

// checkMessage works out what is signed, as every node does.
func (r *Request) checkMessage(f *facts) error {
	u := &r.Subject
	if len(f.NextPolicy) > 0 || f.Epoch != 0 {
		return lie("a request for a signature comes with a new policy")
	}
	u.MessageType, u.Hash = mpc.MessageType(f.MessageType), mpc.HashAlgorithm(f.HashAlgorithm)
	u.DerivationPath, u.TaprootTweak = f.Path, f.TaprootTweak
	record := mpc.PublicRecord{AccountID: u.Account, Algorithm: u.Algorithm, PublicKey: u.PublicKey, PolicyHash: u.Policy}
	filled := approval.SignSubject(u.Mount, &record, f.Input, u.MessageType, u.Hash, mpc.Derivation{Path: f.Path, TaprootTweak: f.TaprootTweak})
	u.Message = filled.Message
	digest, err := mpc.SigningInput(u.Algorithm, u.MessageType, u.Hash, f.Input)
	if err != nil {
		return lie("the message cannot be signed by this account (%v)", err)
	}
	if len(digest) == mpc.DigestSize && u.Algorithm.IsECDSA() {
		r.Digest = digest
		if f.Digest != "" && f.Digest != hex.EncodeToString(digest) {
			return lie("the server names the digest %.80q, and the message that it shows has %x", f.Digest, digest)
		}
	}
	return nil
}

func (r *Request) checkPolicies(f *facts) error {
	if len(f.Input) > 0 || f.MessageType != "" || f.HashAlgorithm != "" || f.Path != "" || f.TaprootTweak != "" {
		return lie("a change of policy comes with a message")
	}
	next, err := approval.ParsePolicy(f.NextPolicy)
	if err != nil {
		return lie("the new policy cannot be read (%v)", err)
	}
	// PolicySubject names the epoch by the policy itself; refreshes since do not matter.
	if f.Epoch != next.Since {
		return lie("the new policy is of share epoch %d, and the request names %d", next.Since, f.Epoch)
	}
	if err := next.Follows(r.Policy, f.Epoch); err != nil {
		return lie("the new policy is not one that may follow (%v)", err)
	}
	u := &r.Subject
	record := mpc.PublicRecord{AccountID: u.Account, Algorithm: u.Algorithm, PublicKey: u.PublicKey, PolicyHash: u.Policy}
	filled := approval.PolicySubject(u.Mount, &record, next)
	r.Next, u.NextPolicy, u.Epoch = next, filled.NextPolicy, filled.Epoch
	return nil
}
