package backend

import (
	"context"
	"crypto/subtle"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// pathApproverEnrol is the operator's side of enrolling a device.
func (b *backend) pathApproverEnrol() []*framework.Path {
	name := pathField("Approver", "approver")
	return []*framework.Path{{
		Pattern: "approvers/" + namePattern + "/enrol$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "enrol", OperationSuffix: "approver-device",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":  name,
			"label": {Type: framework.TypeString, Description: "What the device is called where it does not say it itself, up to 128 bytes; not secret.", DisplayAttrs: &framework.DisplayAttributes{Name: "Label"}},
			"ttl":   {Type: framework.TypeDurationSecond, Description: "How long the link is good, 1m to 15m; default 10m.", DisplayAttrs: &framework.DisplayAttributes{Name: "TTL", Value: "10m"}},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Open the enrolment of a device.", true, b.handle("approvers/enrol", scanTimeout, b.approverEnrol), map[string]*framework.FieldSchema{
				"enrolment":    field(framework.TypeString, "ID of the enrolment, in hex."),
				"secret":       field(framework.TypeString, "The link's secret, base64url: whoever has it can offer a device. It is shown once and not stored."),
				"link":         field(framework.TypeString, "Link for the device, which holds both; without a public_url in config/ui it is for mpckms only."),
				"expires_time": field(framework.TypeString, "When the enrolment ends."),
			}),
		},
		HelpSynopsis: "Opens the enrolment of a device that an approver approves with.",
		HelpDescription: `
Makes a link for one device, which is good for ten minutes, or as long as ttl says:

  $ vault write mpc/approvers/alice/enrol label=phone

Give the link to the approver and to nobody else. The device makes its keys, offers
their public halves, and shows a short code. Once you have been told that code by the
approver, on the telephone for example, confirm it:

  $ vault write mpc/approvers/alice/confirm code=1234-5678

Until then the device counts for nothing. If its owner says that the link was used
already, somebody else has it: do not confirm, and open another enrolment.
`,
	}, {
		Pattern: "approvers/" + namePattern + "/enrolments/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "approver-enrolments", ItemType: "Enrolment",
		},
		Fields: map[string]*framework.FieldSchema{"name": name},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the enrolments of an approver's devices.", false, b.handle("approvers/enrolments", scanTimeout, b.approverEnrolments), map[string]*framework.FieldSchema{
				"keys":     optional(framework.TypeStringSlice, "IDs of the enrolments, oldest first."),
				"key_info": optional(framework.TypeMap, "By ID: state (open, offered, confirmed or ended), reason, label, factors, tries_left, created_time and expires_time."),
			}),
		},
		HelpSynopsis: "Devices that are being enrolled.",
		HelpDescription: `
Lists the enrolments of an approver's devices whose time is not over:

  $ vault list -detailed mpc/approvers/alice/enrolments

One is offered when its device has sent its keys, and waits for being confirmed then.
The code to confirm it with is not shown here: the device shows it.
`,
	}, {
		Pattern: "approvers/" + namePattern + "/confirm$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "confirm", OperationSuffix: "approver-device",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":      name,
			"code":      {Type: framework.TypeString, Description: "The code that the device shows: eight digits, such as 1234-5678.", DisplayAttrs: &framework.DisplayAttributes{Name: "Code", Sensitive: true}},
			"enrolment": {Type: framework.TypeString, Description: "ID of the enrolment; may be left out where only one is offered.", DisplayAttrs: &framework.DisplayAttributes{Name: "Enrolment"}},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Confirm a device by the code that it shows.", true, b.handle("approvers/confirm", scanTimeout, b.approverConfirm), approverAnswerFields()),
		},
		HelpSynopsis: "Confirms a device by the code that it shows.",
		HelpDescription: `
Makes the keys that a device has offered the approver's, given the code that the
device itself shows:

  $ vault write mpc/approvers/alice/confirm code=1234-5678

The code depends on the keys. If it is not right, other keys have arrived than the
device has sent, or it was mistyped; the third wrong one ends the enrolment. Do not
take the code from anywhere but the device.

Where the approver is an identity (identity=alice), somebody who is logged in as the
identity's owner confirms, with an authenticator it has already, and a Vault token
does not:

  $ mpckms approver confirm alice --code 1234-5678

A new factor counts for an account once the account's policy has been changed.
`,
	}}
}

// labelField reads a text that people give something: up to 128 bytes, printable.
func checkLabelText(what, text string) error {
	if len(text) > approval.MaxName || !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return invalid("%s must be up to %d bytes of printable text", what, approval.MaxName)
	}
	return nil
}

func (b *backend) approverEnrol(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "approver")
	if err != nil {
		return nil, err
	}
	label := strings.TrimSpace(data.Get("label").(string))
	if err := checkLabelText("label", label); err != nil {
		return nil, err
	}
	ttl := defaultEnrolmentTTL
	if v, ok := data.GetOk("ttl"); ok {
		if !within(int64(v.(int)), minEnrolmentTTL, maxEnrolmentTTL) {
			return nil, invalid("ttl must be 1m to 15m, not %s", shortSeconds(int64(v.(int))))
		}
		ttl = time.Duration(v.(int)) * time.Second
	}
	if _, err := b.mountID(ctx); err != nil {
		return nil, err // it could not be finished
	}
	u, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	a, err := b.needApprover(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(a.Keys) >= approval.MaxKeys {
		return nil, conflict("this approver has %d keys, and may have %d: delete one that is not used (approvers/%s/factors/KEY_ID). Nothing was changed", len(a.Keys), approval.MaxKeys, name)
	}
	r, secret, err := b.newEnrolment(ctx, name, a, label, ttl)
	if err != nil {
		return nil, err
	}
	b.log.Info("the enrolment of a device was opened", "approver", name, "enrolment", r.ID)
	resp := &logical.Response{Data: map[string]any{
		"enrolment": r.ID, "secret": secret, "expires_time": rfc3339(r.Expires),
		"link": u.page(req.MountPoint, "phone") + "#e=" + r.ID + "&s=" + secret,
	}}
	if u.PublicURL == "" {
		resp.AddWarning("config/ui names no public_url, so the link is for mpckms only, and passkeys cannot be enrolled")
	}
	return resp, nil
}

func (b *backend) approverEnrolments(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "approver")
	if err != nil {
		return nil, err
	}
	a, err := b.needApprover(ctx, name)
	if err != nil {
		return nil, err
	}
	all, err := b.enrolments(ctx)
	if err != nil {
		return nil, err
	}
	keys, info, now := []string{}, map[string]any{}, b.cfg.now()
	for _, r := range all {
		if r.ApproverID != a.ID || !now.Before(r.Expires) {
			continue
		}
		keys = append(keys, r.ID)
		info[r.ID] = map[string]any{
			"state": r.state(now), "reason": r.reason(now), "label": r.Label, "factors": factorsAnswer(r.Keys),
			"tries_left": maxEnrolmentTries - r.Tries, "created_time": rfc3339(r.Created), "expires_time": rfc3339(r.Expires),
		}
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

// codeDigits takes the eight digits of a code as people write them.
func codeDigits(text string) (string, bool) {
	digits := strings.Map(func(c rune) rune {
		if c == '-' || c == ' ' {
			return -1
		}
		return c
	}, text)
	if len(digits) != 8 || strings.ContainsFunc(digits, func(c rune) bool { return c < '0' || c > '9' }) {
		return "", false
	}
	return digits[:4] + "-" + digits[4:], true
}

func (b *backend) approverConfirm(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "approver")
	if err != nil {
		return nil, err
	}
	code, ok := codeDigits(data.Get("code").(string))
	if !ok {
		return nil, invalid("code must be the eight digits that the device shows, such as 1234-5678. It was not counted")
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	a, err := b.needApprover(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := b.mayConfirm(ctx, name, a); err != nil {
		return nil, err
	}
	r, err := b.offeredTo(ctx, a, data.Get("enrolment").(string))
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(code), []byte(r.Code)) != 1 {
		return nil, b.wrongCode(ctx, name, r)
	}
	fresh, err := b.againstOthers(ctx, a.ID, r.Keys)
	if err != nil {
		return nil, err
	}
	if len(a.Keys)+len(fresh) > approval.MaxKeys {
		return nil, conflict("the approver would have %d keys, and may have %d: delete one that is not used (approvers/%s/factors/KEY_ID), then confirm again. Nothing was changed", len(a.Keys)+len(fresh), approval.MaxKeys, name)
	}
	for i := range fresh {
		fresh[i].Added = b.cfg.now().UTC()
	}
	a.Keys = append(a.Keys, fresh...)
	// The keys first: whoever is interrupted here confirms once more, which adds
	// nothing twice.
	if err := b.store.putApprover(ctx, name, a); err != nil {
		return nil, err
	}
	r.finishWith(enrolmentConfirmed)
	if err := b.store.putEnrolment(ctx, r); err != nil {
		return nil, err
	}
	b.log.Info("a device was enrolled", "approver", name, "approver_id", a.ID, "enrolment", r.ID, "keys", len(fresh))
	return b.approverAnswer(ctx, name, a)
}

// offeredTo returns the enrolment that a code is for: the one that was named, or the
// only one that is offered.
func (b *backend) offeredTo(ctx context.Context, a *approverRecord, named string) (*enrolmentRecord, error) {
	all, err := b.enrolments(ctx)
	if err != nil {
		return nil, err
	}
	now := b.cfg.now()
	var offered []*enrolmentRecord
	var twice *enrolmentRecord
	for _, r := range all {
		if r.ApproverID != a.ID || named != "" && r.ID != named {
			continue
		}
		switch state := r.state(now); {
		case state == enrolStateOffered:
			offered = append(offered, r)
		case r.End == enrolmentTwice:
			twice = r
		case named == "":
		case state == enrolStateOpen:
			return nil, conflict("no device has used the link of this enrolment yet: nothing was changed")
		case state == enrolStateConfirmed:
			return nil, conflict("this enrolment was confirmed before: see approvers/%s for the factors", r.Approver)
		default:
			return nil, conflict("this enrolment has ended: %s. Open another one (approvers/%s/enrol)", r.reason(now), r.Approver)
		}
	}
	switch {
	case len(offered) == 1:
		return offered[0], nil
	case len(offered) > 1:
		return nil, invalid("%d enrolments of this approver wait for being confirmed: name the one by enrolment=ID, see approvers/NAME/enrolments. No code was counted", len(offered))
	case twice != nil:
		return nil, conflict("WARNING: enrolment %s was ended, since a second device has used its link: somebody else has it, and which of the two is the approver's is not known. Nothing was confirmed. Find out who has the link, then open another enrolment and give its link to the approver alone", twice.ID)
	case named != "":
		return nil, unknown("there is no enrolment %q of this approver: see approvers/NAME/enrolments", clip(named))
	}
	return nil, conflict("no device of this approver waits for being confirmed: open an enrolment (approvers/NAME/enrol), and have the device use its link")
}

// wrongCode counts it before saying so; the third ends the enrolment.
func (b *backend) wrongCode(ctx context.Context, name string, r *enrolmentRecord) error {
	r.Tries++
	left := maxEnrolmentTries - r.Tries
	if left <= 0 {
		r.finishWith(enrolmentGuessed)
	}
	if err := b.store.putEnrolment(ctx, r); err != nil {
		return err
	}
	b.log.Warn("a wrong code was given for a device that is being enrolled", "approver", name, "enrolment", r.ID, "tries_left", left)
	if left <= 0 {
		return forbidden("the code is not right, and that was the third: the enrolment has ended and nothing was confirmed. If the device shows another code than was typed, other keys have arrived than it has sent: somebody may have the link. Open another enrolment")
	}
	return forbidden("the code is not right: nothing was confirmed, and %d more are taken. Compare with what the device shows: if that is what was typed, other keys have arrived than the device has sent, so do not go on", left)
}

// mayConfirm: where an approver is an identity with authenticators, one of them
// confirms, through a session, whose right to this path session_rules.go has looked
// at. Otherwise Vault's policy on the path decides.
func (b *backend) mayConfirm(ctx context.Context, name string, a *approverRecord) error {
	if a.Identity == "" || sessionOf(ctx) != nil {
		return nil
	}
	tied, err := b.identityNamed(ctx, a.Identity)
	if err != nil {
		return err
	}
	if tied == "" {
		return conflict("the identity of this approver is not there any more, so nobody can confirm: nothing was changed. Delete the approver and store it anew")
	}
	r, m, err := b.needIdentity(ctx, tied)
	if err != nil {
		return err
	}
	if err := checkIdentityActive(tied, r); err != nil {
		return err
	}
	for _, g := range m.Grants {
		f, err := b.authenticatorFacts(ctx, g.Name)
		if err != nil {
			return err
		}
		if f != nil && f.ID == g.Authenticator && !f.Lost {
			return forbidden("approver %q is the identity %q, which has authenticators: its owner confirms after logging in with one of them (mpckms approver confirm %s), and a Vault token does not. Nothing was changed", name, tied, name)
		}
	}
	return nil
}
