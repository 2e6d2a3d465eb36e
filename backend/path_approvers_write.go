package backend

import (
	"context"
	"regexp"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/approval"
)

func (b *backend) approversList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.store.approverNames(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) approverRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "approver")
	if err != nil {
		return nil, err
	}
	r, err := b.needApprover(ctx, name)
	if err != nil {
		return nil, err
	}
	return b.approverAnswer(ctx, name, r)
}

// approverAnswer is what is said about an approver: no secret of its one-time code.
func (b *backend) approverAnswer(ctx context.Context, name string, r *approverRecord) (*logical.Response, error) {
	tied := ""
	if r.Identity != "" {
		var err error
		if tied, err = b.identityNamed(ctx, r.Identity); err != nil {
			return nil, err
		}
	}
	checked := []string{}
	for _, k := range r.checked() {
		checked = append(checked, string(k))
	}
	totp := map[string]any{"state": totpNone, "added_time": "", "checked_by": checkedByCoordinator}
	if r.TOTP != nil {
		totp["state"], totp["added_time"] = totpUnconfirmed, rfc3339(r.TOTP.Added)
		if r.TOTP.Confirmed {
			totp["state"] = totpConfirmed
		}
	}
	resp := &logical.Response{Data: map[string]any{
		"name": name, "id": r.ID, "identity": tied, "identity_id": r.Identity,
		"entity_ids": append([]string{}, r.Entities...), "no_entity": r.NoEntities, "requesters": r.requesters(),
		"factors": factorsAnswer(r.Keys), "checked": checked, "totp": totp, "created_time": rfc3339(r.Created),
	}}
	if r.Identity != "" && tied == "" {
		resp.AddWarning("the identity of this approver is not there any more: nobody can log in as it, so no device of this approver can be confirmed. Delete the approver and store it anew")
	}
	return resp, nil
}

// Who checks a factor: nodes verify signatures, and take nobody's word for them.
const (
	checkedByNodes       = "nodes"
	checkedByCoordinator = "coordinator"

	totpNone        = "none"
	totpUnconfirmed = "unconfirmed"
	totpConfirmed   = "confirmed"
)

func factorsAnswer(keys []approverKeyRecord) []map[string]any {
	out := make([]map[string]any, len(keys))
	for i := range keys {
		k := keys[i].key()
		out[i] = map[string]any{
			"key_id": k.ID().String(), "kind": string(k.Kind), "name": k.Name, "added_time": rfc3339(keys[i].Added),
			"checked_by": checkedByNodes, "device": keys[i].Device, "public": b64(k.Public),
		}
		if k.Kind == approval.Passkey {
			out[i]["rp_id"], out[i]["origins"] = k.RPID, append([]string{}, k.Origins...)
		}
	}
	return out
}

// identityNamed returns the name of the identity with the ID, hex; "" where there is
// none.
func (b *backend) identityNamed(ctx context.Context, id string) (string, error) {
	names, err := b.store.sorted(ctx, prefixIdentities)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		f, err := b.identityFacts(ctx, name)
		if err != nil {
			return "", err
		}
		if f != nil && f.ID.String() == id {
			return name, nil
		}
	}
	return "", nil
}

// entityID is how Vault writes the IDs of entities.
var entityID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`) // read only

func (b *backend) approverWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "approver")
	if err != nil {
		return nil, err
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.approver(ctx, name)
	if err != nil {
		return nil, err
	}
	created := r == nil
	if created {
		names, err := b.store.approverNames(ctx)
		if err != nil {
			return nil, err
		}
		if len(names) >= maxApproversStored {
			return nil, conflict("there are %d approvers, and no more are stored: delete one that is not needed", len(names))
		}
		r = &approverRecord{ID: approval.ID(newID()).String(), Created: b.cfg.now().UTC()}
	}
	was := r.requesters()
	if err := b.whoIs(ctx, data, r); err != nil {
		return nil, err
	}
	if err := b.store.putApprover(ctx, name, r); err != nil {
		return nil, err
	}
	b.people.seen(r.ID, name)
	b.log.Info("an approver was stored", "approver", name, "approver_id", r.ID, "new", created)
	resp, err := b.approverAnswer(ctx, name, r)
	if err != nil {
		return nil, err
	}
	if !created && !slices.Equal(was, r.requesters()) {
		accounts, unreadable, err := b.policiesNaming(ctx, r.ID)
		warnStillNamed(resp, "who this approver is", accounts, unreadable, err)
	}
	b.warnEntities(resp, r.Entities)
	return resp, nil
}

// whoIs sets who an approver is from what was sent; what was not sent stays.
func (b *backend) whoIs(ctx context.Context, data *framework.FieldData, r *approverRecord) error {
	if v, ok := data.GetOk("identity"); ok {
		id := ""
		if text := v.(string); text != "" {
			if identity.CheckName("identity", text) != nil {
				return invalid("%q cannot be the name of an identity: use %s", clip(text), identityNames)
			}
			_, m, err := b.needIdentity(ctx, text)
			if err != nil {
				return err
			}
			id = m.Identity.String()
		}
		// Otherwise whoever may write here could take a device's confirmation out of
		// the hands of the identity's own authenticators.
		if id != r.Identity && (len(r.Keys) > 0 || r.TOTP != nil) {
			return conflict("this approver has factors already, which belong to who it was: nothing was changed. Delete the approver and store it anew, with the other identity")
		}
		r.Identity = id
	}
	entities, sent := data.GetOk("entity_ids")
	if sent {
		r.Entities = nil
		for _, e := range entities.([]string) {
			if !entityID.MatchString(e) {
				return invalid("%q is not the ID of a Vault entity, such as 7d2e3179-f69b-450c-7179-ac8ee8bd8ca9 in lower case (vault token lookup shows a token's entity_id)", clip(e))
			}
			r.Entities = append(r.Entities, e)
		}
		slices.Sort(r.Entities)
		r.Entities = slices.Compact(r.Entities)
	}
	if v, ok := data.GetOk("no_entity"); ok {
		r.NoEntities = v.(bool)
	} else if sent && len(r.Entities) > 0 {
		r.NoEntities = false // it said so before, and now it has one
	}
	switch {
	case len(r.Entities) > maxApproverEntities:
		return invalid("%d entities, more than %d", len(r.Entities), maxApproverEntities)
	case r.NoEntities && len(r.Entities) > 0:
		return invalid("no_entity says that the approver has no Vault entity, and entity_ids names some: send one of them")
	case r.Identity == "" && len(r.Entities) == 0 && !r.NoEntities:
		return invalid("it is not said who the approver is, and nobody may approve what they have asked for themselves: send entity_ids, the IDs of this person's Vault entities, or identity, or no_entity=true for one that never asks for signatures")
	}
	return nil
}

// warnEntities says which entities Vault does not know: a mistyped ID would let a
// person approve their own requests.
func (b *backend) warnEntities(resp *logical.Response, ids []string) {
	var strange []string
	for _, id := range ids {
		if e, err := b.System().EntityInfo(id); err != nil || e == nil {
			strange = append(strange, id)
		}
	}
	if len(strange) > 0 {
		resp.AddWarning("Vault knows no such entities here, so look whether they are mistyped; under another ID the same person could approve what they asked for: " + shownNames(strange))
	}
}

// policiesNaming returns the accounts whose policies in force name an approver.
func (b *backend) policiesNaming(ctx context.Context, id string) (accounts, unreadable []string, err error) {
	parsed, err := approval.ParseID(id)
	if err != nil {
		return nil, nil, err
	}
	return b.policiesWith(ctx, func(p *approval.Policy) bool { return p.Approver(parsed) != nil })
}

// warnStillNamed says which policies go on as before although the directory has
// changed.
func warnStillNamed(resp *logical.Response, what string, accounts, unreadable []string, err error) {
	if err != nil {
		resp.AddWarning("it is done, but which accounts' policies still hold " + what + " as it was could not be read (" + err.Error() + "): policies hold copies, so look at accounts/NAME/policy of every account")
		return
	}
	if len(accounts) > 0 {
		resp.AddWarning("policies hold copies: those of these accounts still hold " + what + " as it was, and go on counting it until each policy is changed (accounts/NAME/policy), which needs approvals under the policy in force: " + shownNames(accounts))
	}
	if len(unreadable) > 0 {
		resp.AddWarning("these accounts cannot be read, so that it is not known what their policies hold: " + shownNames(unreadable))
	}
}

func (b *backend) approverDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "approver")
	if err != nil {
		return nil, err
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.needApprover(ctx, name)
	if err != nil {
		return nil, err
	}
	// First what would otherwise be left without it.
	if err := b.endEnrolmentsOf(ctx, r.ID); err != nil {
		return nil, err
	}
	if err := b.store.delete(ctx, prefixApprovers+name); err != nil {
		return nil, err
	}
	b.log.Info("an approver was deleted", "approver", name, "approver_id", r.ID)
	accounts, unreadable, err := b.policiesNaming(ctx, r.ID)
	resp := &logical.Response{Data: map[string]any{"accounts": append([]string{}, accounts...)}}
	warnStillNamed(resp, "this approver", accounts, unreadable, err)
	return resp, nil
}
