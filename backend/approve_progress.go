package backend

import (
	"context"
	"crypto/subtle"
	"encoding/base64"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func encode64URL(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// approveProgress tells the display of a request's code how far it is. The display
// proves that it has the seed; that gives it nothing but what stands here.
func (b *backend) approveProgress(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := approvalID(data, "request")
	if err != nil {
		return nil, err
	}
	proof, err := decodeAnyBase64("proof", textOf(data, "proof"), 32, 32)
	if err != nil {
		return nil, err
	}
	d := b.desk
	r, err := d.find(ctx, id)
	if err != nil {
		return nil, err
	}
	shown, cause := r, ""
	if r == nil {
		shown, cause = d.decoy.record, causeUnknown
	}
	want := approval.ProgressProof(shown.Seed, id)
	if subtle.ConstantTimeCompare(want[:], proof) != 1 && cause == "" {
		cause = causeProof
	}
	policy, err := approval.ParsePolicy(shown.Policy)
	if err != nil {
		return nil, err
	}
	if cause != "" {
		return nil, b.refuse(approveAttempt{step: "progress", request: id, vault: req.ID}, r != nil, approveCounter{request: id.String()}, cause)
	}
	state := r.State
	if state == requestPending && !d.now().Before(r.Expires) {
		state = requestExpired
	}
	names, answered := make([]string, len(r.Given)), make([]map[string]any, len(r.Given))
	for i, g := range r.Given {
		names[i] = g.Name
		answered[i] = map[string]any{"name": g.Name, "decision": string(g.Decision), "time": rfc3339(g.Time)}
	}
	return &logical.Response{Data: map[string]any{
		"state": string(state), "reason": r.Reason, "account": r.Account, "action": string(r.Action),
		"approvals": r.count(approval.Approve), "refusals": r.count(approval.Refuse), "quorum": policy.Quorum,
		"approvers": len(policy.Approvers), "names": names, "answered": answered,
		"expires": r.Expires.Unix(), "server_time": d.now().Unix(), "server_unix_ms": d.now().UnixMilli(),
	}}, nil
}
