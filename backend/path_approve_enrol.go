package backend

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// relyingPartyName is what browsers show beside a passkey.
const relyingPartyName = "Vault approvals"

func linkFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"enrolment": {Type: framework.TypeString, Description: "ID of the enrolment from the link: 32 hex digits.", DisplayAttrs: &framework.DisplayAttributes{Name: "Enrolment"}},
		"secret":    {Type: framework.TypeString, Description: "The link's secret: 32 bytes in base64url.", DisplayAttrs: &framework.DisplayAttributes{Name: "Secret", Sensitive: true}},
	}
}

// pathApproveEnrol is what a device calls that is being enrolled. It has no Vault
// token: the link's secret is what it shows.
func (b *backend) pathApproveEnrol() []*framework.Path {
	finish := linkFields()
	finish["device"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "The device's key: name, public (SubjectPublicKeyInfo of P-256, base64), signature (r‖s, 64 bytes, over the enrolment message, base64).", DisplayAttrs: &framework.DisplayAttributes{Name: "Device"}}
	finish["passkey"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "A passkey that was registered for the challenge, or none: name, attestation_object, client_data_json (base64), transports (list).", DisplayAttrs: &framework.DisplayAttributes{Name: "Passkey"}}
	finish["certificate"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "The key of a certificate, or none: name, public (SubjectPublicKeyInfo, base64), signature (DER of ECDSA, or PKCS#1 v1.5 of RSA, with SHA-256, over the enrolment message, base64).", DisplayAttrs: &framework.DisplayAttributes{Name: "Certificate"}}
	return []*framework.Path{{
		Pattern: "approve/enrol$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "begin", OperationSuffix: "approver-enrolment",
		},
		Fields: linkFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Begin as a device that is being enrolled.", true, b.handle("approve/enrol", 0, b.deviceBegins), map[string]*framework.FieldSchema{
				"approver":     field(framework.TypeString, "Name of the approver."),
				"approver_id":  field(framework.TypeString, "Its ID, in hex."),
				"mount_id":     field(framework.TypeString, "ID of the mount, in hex: part of what the device signs."),
				"rp_id":        field(framework.TypeString, "Relying party's ID for a passkey; empty where none can be enrolled."),
				"rp_name":      field(framework.TypeString, "Its name, for people."),
				"user_id":      field(framework.TypeString, "User handle for a passkey: the approver's ID and the enrolment's, base64url."),
				"user_name":    field(framework.TypeString, "User name for a passkey."),
				"challenge":    field(framework.TypeString, "Challenge for the registration of a passkey: 32 bytes, base64url."),
				"expires_time": field(framework.TypeString, "When the enrolment ends."),
			}),
		},
		HelpSynopsis: "A device begins its enrolment.",
		HelpDescription: `
What an approver's device asks first, with what stands behind # in the link. It needs
no Vault token; mpckms and the page do it:

  $ mpckms device enrol "$LINK"

An enrolment that there is not and a wrong secret get the same answer, and wrong
secrets are counted.
`,
	}, {
		Pattern: "approve/enrol/finish$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "finish", OperationSuffix: "approver-enrolment",
		},
		Fields: finish,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Offer the keys of a device that is being enrolled.", true, b.handle("approve/enrol/finish", scanTimeout, b.deviceFinishes), map[string]*framework.FieldSchema{
				"code": field(framework.TypeString, "The code as the server computes it. A device shows the one that it has computed itself."),
			}),
		},
		HelpSynopsis: "A device offers its keys.",
		HelpDescription: `
The device sends the public halves of its keys, each with a proof that it has the
private one; mpckms and the page do it:

  $ mpckms device enrol "$LINK"

They are the approver's once the code that the device shows was confirmed
(approvers/NAME/confirm). A link does this once: whoever comes second with other keys
ends the enrolment, since then two have the link.
`,
	}, {
		Pattern: "approve/enrol/state$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "follow", OperationSuffix: "approver-enrolment",
		},
		Fields: linkFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Ask how an enrolment stands.", true, b.handle("approve/enrol/state", 0, b.deviceAsks), map[string]*framework.FieldSchema{
				"state":  field(framework.TypeString, "open, offered, confirmed or ended."),
				"reason": field(framework.TypeString, "Why it ended; empty where it has not."),
			}),
		},
		HelpSynopsis: "How an enrolment stands.",
		HelpDescription: `
What a device asks while it waits for being confirmed; mpckms and the page do it:

  $ mpckms device enrol "$LINK"
`,
	}}
}

// fromLink reads the enrolment that a request shows the secret of.
func (b *backend) fromLink(ctx context.Context, data *framework.FieldData) (*enrolmentRecord, error) {
	return b.linkedEnrolment(ctx, data.Get("enrolment").(string), data.Get("secret").(string))
}

func (b *backend) deviceAsks(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.fromLink(ctx, data)
	if err != nil {
		return nil, err
	}
	now := b.cfg.now()
	return &logical.Response{Data: map[string]any{"state": r.state(now), "reason": r.reason(now)}}, nil
}

// usedTwice is what a device is told that comes second.
const usedTwice = "WARNING: another device has used this link before: somebody else may have it. Tell whoever gave it to you at once, and do not let them confirm a code. Nothing of this device was enrolled; ask for a new link"

// open is a 409 where an enrolment takes no keys any more.
func (r *enrolmentRecord) stillOpen(state string) error {
	switch {
	case state == enrolStateOpen:
		return nil
	case state == enrolStateOffered || r.End == enrolmentTwice:
		return conflict(usedTwice)
	case state == enrolStateConfirmed:
		return conflict("this link was used, and the device that used it was confirmed. If that was not yours, tell whoever gave it to you at once. Nothing was changed; ask for a new link")
	}
	return conflict("this enrolment has ended: nothing was changed; ask whoever enrols you for a new link")
}

func (b *backend) deviceBegins(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if _, err := b.fromLink(ctx, data); err != nil { // before anybody else waits for it
		return nil, err
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.fromLink(ctx, data) // as it is now
	if err != nil {
		return nil, err
	}
	if err := r.stillOpen(r.state(b.cfg.now())); err != nil {
		return nil, err
	}
	mount, err := b.mountID(ctx)
	if err != nil {
		return nil, err
	}
	u, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	enrolment, approver, err := r.ids()
	if err != nil {
		return nil, err
	}
	if r.Challenge == "" { // a page that is loaded again goes on with it
		r.Challenge = base64.RawURLEncoding.EncodeToString(randomBytes(enrolmentSecretSize))
		if err := b.store.putEnrolment(ctx, r); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: map[string]any{
		"approver": r.Approver, "approver_id": r.ApproverID, "mount_id": hex.EncodeToString(mount[:]),
		"rp_id": u.RPID, "rp_name": relyingPartyName, "user_id": userHandle(approver, enrolment), "user_name": r.Approver,
		"challenge": r.Challenge, "expires_time": rfc3339(r.Expires),
	}}, nil
}

// userHandle names the account of a passkey to its authenticator: 32 bytes, base64url.
// It is another one for each enrolment: an authenticator, or what it is synchronised
// with, replaces a passkey of the same site and handle (WebAuthn Level 3, section
// 6.3.2, step 7), and policies may pin the key of the one that would be gone.
func userHandle(approver, enrolment approval.ID) string {
	return base64.RawURLEncoding.EncodeToString(slices.Concat(approver[:], enrolment[:]))
}

func (b *backend) deviceFinishes(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if _, err := b.fromLink(ctx, data); err != nil { // before anybody else waits for it
		return nil, err
	}
	offer, err := readOffer(data)
	if err != nil {
		return nil, err
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.fromLink(ctx, data) // as it is now
	if err != nil {
		return nil, err
	}
	if state := r.state(b.cfg.now()); state == enrolStateOffered {
		return nil, b.secondOffer(ctx, r, offer)
	} else if err := r.stillOpen(state); err != nil {
		return nil, err
	}
	mount, err := b.mountID(ctx)
	if err != nil {
		return nil, err
	}
	u, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := offer.verify(mount, u, r)
	if err != nil {
		return nil, err
	}
	_, a, err := b.approverByID(ctx, r.ApproverID)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, errNoEnrolment() // deleted
	}
	fresh, err := b.againstOthers(ctx, r.ApproverID, keys)
	if err != nil {
		return nil, err
	}
	if len(fresh) == 0 {
		return nil, conflict("all these keys are this approver's already: nothing was changed")
	}
	if len(a.Keys)+len(fresh) > approval.MaxKeys {
		return nil, conflict("the approver would have %d keys, and may have %d: delete one that is not used first. Nothing was changed", len(a.Keys)+len(fresh), approval.MaxKeys)
	}
	enrolment, approver, err := r.ids()
	if err != nil {
		return nil, err
	}
	for i := range keys {
		keys[i].Added = b.cfg.now().UTC() // offered, until it is confirmed
	}
	r.Keys, r.Code = keys, approval.EnrolCode(mount, enrolment, approver, approvalKeys(keys))
	if err := b.store.putEnrolment(ctx, r); err != nil {
		return nil, err
	}
	b.log.Info("a device has offered its keys and waits for being confirmed", "approver", r.Approver, "enrolment", r.ID, "keys", len(keys))
	return &logical.Response{Data: map[string]any{"code": r.Code}}, nil
}

// secondOffer refuses whoever comes after a device that has offered its keys. With
// the same keys it is most likely that device once more, whose answer was lost; with
// others two have the link, and the enrolment ends.
func (b *backend) secondOffer(ctx context.Context, r *enrolmentRecord, offer *offer) error {
	if offer.device.key().ID().String() == r.Keys[0].Device {
		return conflict("this device has offered its keys already, and waits for being confirmed. If this is not the device's own repetition, somebody else has the link: tell whoever gave it to you. Nothing was changed; approve/enrol/state says how it stands")
	}
	r.finishWith(enrolmentTwice)
	if err := b.store.putEnrolment(ctx, r); err != nil {
		return err
	}
	b.log.Warn("an enrolment was ended: a second device has used its link", "approver", r.Approver, "enrolment", r.ID)
	return conflict(usedTwice)
}
