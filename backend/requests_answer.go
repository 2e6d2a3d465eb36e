package backend

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// requestAnswerFields describes requestAnswer.
func requestAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"request":          field(framework.TypeString, "ID of the request, 16 bytes in hex."),
		"action":           field(framework.TypeString, "sign, or policy for a change of the account's policy."),
		"account":          field(framework.TypeString, "Name that the account had when it was asked."),
		"account_id":       field(framework.TypeString, "ID of the account."),
		"state":            field(framework.TypeString, "pending, approved (it is being done, or waits for the account's owner, or is held, as reason says), signed (or, of a policy, in force), refused, expired, cancelled, or failed (approved, and it could not be done)."),
		"reason":           optional(framework.TypeString, "Why it was cancelled or has failed, where that was said. Of an approved request: why it is held. Then it is not done before whoever asked sends the same to sign/:name again with request, or with the request_id it had."),
		"trouble":          optional(framework.TypeString, "Of an approved request: why the last attempt did not work. It is tried again until the request expires."),
		"created_time":     field(framework.TypeString, "When it was asked."),
		"expires_time":     field(framework.TypeString, "When approvals cease to count."),
		"approved_time":    optional(framework.TypeString, "When it had its quorum."),
		"ended_time":       optional(framework.TypeString, "When it ended; it is deleted seven days later."),
		"requester":        field(framework.TypeString, "Who asked: entity: and the ID of a Vault entity, or identity: and that of an identity."),
		"requester_name":   optional(framework.TypeString, "What Vault, or the mount, calls them."),
		"request_id":       optional(framework.TypeString, "The request_id, if one was given."),
		"policy_hash":      field(framework.TypeString, "SHA-256 of the policy in force when it was asked, in hex."),
		"quorum":           field(framework.TypeInt, "How many approvals it needs."),
		"approvals":        field(framework.TypeInt, "How many it has."),
		"refusals":         field(framework.TypeInt, "How many have refused."),
		"approvers":        field(framework.TypeStringSlice, "Who may answer; the requester is not among them."),
		"answers":          field(framework.TypeSlice, "Who has answered: approver, approver_id, decision, kinds, time, and checked_by, which says for each kind whether nodes verify it or the coordinator alone has."),
		"digest":           optional(framework.TypeString, "Of a signature: SHA-256 of the input, in hex, which is what approvers sign; their devices compute it from what they show."),
		"signing_digest":   optional(framework.TypeString, "With ECDSA and with message_type=digest: the 32 bytes that will be signed, in hex."),
		"input_length":     optional(framework.TypeInt, "Of a signature: bytes of the input."),
		"message_type":     optional(framework.TypeString, "Of a signature: as sent, or the default."),
		"hash_algorithm":   optional(framework.TypeString, "Of a signature: as sent, or the default."),
		"signature_format": optional(framework.TypeString, "Of a signature: its encoding."),
		"derivation_path":  optional(framework.TypeString, "The path that was asked for, if one was."),
		"taproot_tweak":    optional(framework.TypeString, "The tweak that was asked for, if one was."),
		"by_owner":         optional(framework.TypeBool, "Whether the account has user custody: then its owner does what was approved, with custody/:name/begin and request: signs, or refreshes to bring a policy into force."),
		"next_policy_hash": optional(framework.TypeString, "Of a change of policy: SHA-256 of the policy to come, in hex."),
		"epoch":            optional(framework.TypeInt64, "Of a change of policy: the share epoch in which it was asked."),
		"result":           optional(framework.TypeMap, "To the requester, once it is signed: what sign answers for an account without a policy; of a policy, its hash."),
	}
}

// requestAnswer is what everybody who may see the request is told: never the seed, and
// not the result.
func requestAnswer(r *requestRecord) map[string]any {
	out := map[string]any{
		"request": r.ID, "action": string(r.Action), "account": r.Account, "account_id": r.AccountID, "state": string(r.State),
		"created_time": rfc3339(r.Created), "expires_time": rfc3339(r.Expires),
		"requester": r.Requester, "policy_hash": r.policyHash(),
		"approvals": r.count(approval.Approve), "refusals": r.count(approval.Refuse),
		"quorum": 0, "approvers": []string{}, "answers": r.answers(),
	}
	if p, err := approval.ParsePolicy(r.Policy); err == nil {
		out["quorum"], out["approvers"] = p.Quorum, r.eligibleNames(p)
	}
	texts := map[string]string{
		"reason": r.Reason, "approved_time": rfc3339(r.Approved), "ended_time": rfc3339(r.Ended), "requester_name": r.RequesterName,
		"request_id": r.RequestID, "derivation_path": r.DerivationPath, "taproot_tweak": r.TaprootTweak,
	}
	for k, v := range texts {
		if v != "" {
			out[k] = v
		}
	}
	if r.Action == approval.ChangePolicy {
		h := hashOf(r.NextPolicy)
		out["next_policy_hash"], out["epoch"], out["by_owner"] = hex.EncodeToString(h[:]), r.Epoch, r.ByOwner
		return out
	}
	h := hashOf(r.Input)
	out["digest"], out["input_length"], out["by_owner"] = hex.EncodeToString(h[:]), len(r.Input), r.ByOwner
	out["message_type"], out["hash_algorithm"], out["signature_format"] = r.MessageType, r.HashAlgorithm, r.SignatureFormat
	return out
}

func (r *requestRecord) answers() []map[string]any {
	out := make([]map[string]any, len(r.Given))
	for i, g := range r.Given {
		by := map[string]any{}
		kinds := make([]string, len(g.Kinds))
		for k, kind := range g.Kinds {
			kinds[k] = string(kind)
			by[string(kind)] = "coordinator"
			if kind.Signature() {
				by[string(kind)] = "nodes"
			}
		}
		out[i] = map[string]any{"approver": g.Name, "approver_id": g.Approver, "decision": string(g.Decision), "kinds": kinds, "checked_by": by, "time": rfc3339(g.Time)}
	}
	return out
}

func (r *requestRecord) eligibleNames(p *approval.Policy) []string {
	names := []string{}
	for i := range p.Approvers {
		if r.mayAnswer(&p.Approvers[i]) {
			names = append(names, p.Approvers[i].Name)
		}
	}
	return names
}

// fullRequestAnswer adds what this server knows of it, and for the requester the
// result.
func (b *backend) fullRequestAnswer(r *requestRecord, requester bool) (map[string]any, error) {
	out := requestAnswer(r)
	if why := b.requests.queue.trouble(r.ID); why != "" && r.State == requestApproved {
		out["trouble"] = why
	}
	if r.Action == approval.Sign {
		r.signingDigest(out)
	}
	if requester && len(r.Result) > 0 {
		result, err := decodeAnswer(r.Result)
		if err != nil {
			return nil, fmt.Errorf("request %s: %w", r.ID, err)
		}
		out["result"] = result
	}
	return out, nil
}

// signingDigest adds the digest where there is one of 32 bytes that is signed as it is.
func (r *requestRecord) signingDigest(out map[string]any) {
	alg := mpc.Algorithm(r.Algorithm)
	if !alg.IsECDSA() && r.MessageType != string(mpc.MessageDigest) {
		return
	}
	if d, err := mpc.SigningInput(alg, mpc.MessageType(r.MessageType), mpc.HashAlgorithm(r.HashAlgorithm), r.Input); err == nil && len(d) == 32 {
		out["signing_digest"] = hex.EncodeToString(d)
	}
}

// displayURL is the page that shows the moving code; what is secret stands behind "#".
func (r *requestRecord) displayURL(page string) string {
	return fmt.Sprintf("%s#r=%s&s=%s&c=%d&p=%d", page, r.ID, base64.RawURLEncoding.EncodeToString(r.Seed), r.Created.UnixMilli(), r.Period)
}
