package backend

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// An account may have an approval policy: then it signs nothing that its approvers
// have not approved. The policy's hash is in the account's public record, and so in
// what every share is sealed with; its bytes are in the entry beside the shares of the
// epoch (epochRecord.Policy), and change with an epoch only, by the same Put. So there
// is never an account with one policy and the shares of another.
//
//	none ──first policy──> P ──approved under P──> P′ ──approved under P′──> …
//
// Each arrow is a refresh whose new record names the new policy: shares that were sealed
// with the old record are of another epoch, and of no use with the new one. There is no
// way back to none.
//
// What an account with a policy does on each path:
//
//	sign/:name                  a request, which signs once it is approved; no batch
//	accounts/:name/csr          refused: what is signed would be made up by Vault, and no
//	                            approver would have seen it
//	custody/:name/begin         a signature: of a request that is approved only; the owner's
//	                            release is asked for besides. A refresh: as without, or,
//	                            of a request that is approved, with another policy
//	accounts/:name/policy       the first: at once, or, with user custody, by its owner.
//	                            Another: a request
//	accounts/:name (write)      settings that no signature depends on. presign: nodes make
//	                            presignatures without approvals and use none without
//	accounts/:name/refresh,     new shares under the same policy; none of them leaves the
//	  move, rewrap              nodes
//	accounts/:name/rename       statements name the account's ID, so that a new name changes
//	                            nothing
//	accounts/:name/freeze, …    signs less, or again what the policy allows; a restored
//	  unfreeze, delete, restore account has the policy that it had
//	destroy/:name               ends the key; no signature comes of it
//	accounts/:name/derive,      public facts. Children sign under the parent's policy
//	  addresses, jwk, verify
//	recovery/export             ciphertext for custodians. t of them can rebuild the key
//	                            elsewhere, with or without a policy: that is what they are
//	                            for, and whoever demands approvals chooses them accordingly
//	recovery/import             keeps the policy, whose bytes are in the bundle; custodians'
//	                            deals open for that record only
//	recovery/restored           allows nothing by itself
//
// Nodes check the same where a share is opened, whatever this program does.

// demandsApprovals reports whether a public record names a policy.
func demandsApprovals(r *mpc.PublicRecord) bool { return r.PolicyHash != mpc.EmptySetHash() }

// policyOf reads the policy that a public record names: nil for a record that names
// none. Bytes that are missing, or of another policy, are an error: an account that
// demands approvals is never taken for one that demands none, nor the reverse.
func policyOf(record *mpc.PublicRecord, marshalled []byte) (*approval.Policy, error) {
	switch {
	case !demandsApprovals(record):
		if len(marshalled) > 0 {
			return nil, errors.New("holds an approval policy that its public record does not name")
		}
		return nil, nil
	case len(marshalled) == 0:
		return nil, errors.New("lacks the approval policy that its public record names")
	}
	p, err := approval.ParsePolicy(marshalled)
	if err != nil {
		return nil, fmt.Errorf("holds an approval policy that is not readable: %w", err)
	}
	// Parsing is strict, so the hash is over the bytes that were read.
	if p.Hash() != record.PolicyHash {
		return nil, errors.New("holds another approval policy than the one that its public record names")
	}
	return p, nil
}

// policyHash is what a public record names a marshalled policy by; empty stands for
// none.
func policyHash(marshalled []byte) [32]byte {
	if len(marshalled) == 0 {
		return mpc.EmptySetHash()
	}
	return sha256.Sum256(marshalled)
}

// policy returns the epoch's approval policy, nil for none. record is that of the
// epoch.
func (e *epochRecord) policy(record *mpc.PublicRecord) (*approval.Policy, error) {
	return policyOf(record, e.Policy)
}

// policyFieldsAnswer describes policyAnswer.
func policyFieldsAnswer() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"approvers":         optional(framework.TypeSlice, "Who may approve, as the policy pins them: name, id, requesters (identifiers of which this approver approves no request), keys (key_id, kind, name, public_key; of a passkey rp_id and origins) and checked (kinds of factors that the coordinator checks)."),
		"quorum":            optional(framework.TypeInt, "How many of them have to approve."),
		"factors":           optional(framework.TypeInt, "How many different kinds of factors each of them uses."),
		"signature_factors": optional(framework.TypeInt, "How many of those are signatures, which the nodes verify."),
		"request_expiry":    optional(framework.TypeInt64, "How long a request waits, and approvals count, in seconds."),
		"since_epoch":       optional(framework.TypeInt64, "Share epoch in which this policy was asked for; 0 for one that the account was made with."),
		"policy_hash":       optional(framework.TypeString, "SHA-256 of policy_bytes in hex, which the account's public record names."),
		"policy_bytes":      optional(framework.TypeString, "The policy as it is hashed, in base64."),
	}
}

// policyAnswer is all of a policy: it is public.
func policyAnswer(p *approval.Policy) map[string]any {
	approvers := make([]map[string]any, len(p.Approvers))
	for i := range p.Approvers {
		a := &p.Approvers[i]
		keys := make([]map[string]any, len(a.Keys))
		for n := range a.Keys {
			k := &a.Keys[n]
			keys[n] = map[string]any{"key_id": k.ID().String(), "kind": string(k.Kind), "name": k.Name, "public_key": base64.StdEncoding.EncodeToString(k.Public)}
			if k.Kind == approval.Passkey {
				keys[n]["rp_id"], keys[n]["origins"] = k.RPID, k.Origins
			}
		}
		checked := make([]string, len(a.Checked))
		for n, k := range a.Checked {
			checked[n] = string(k)
		}
		approvers[i] = map[string]any{"name": a.Name, "id": a.ID.String(), "requesters": a.Requesters, "keys": keys, "checked": checked}
	}
	bytes := p.Marshal()
	hash := sha256.Sum256(bytes)
	return map[string]any{
		"approvers": approvers, "quorum": p.Quorum, "factors": p.Factors, "signature_factors": p.SignatureFactors,
		"request_expiry": int64(p.Expiry / time.Second), "since_epoch": p.Since,
		"policy_hash": hex.EncodeToString(hash[:]), "policy_bytes": base64.StdEncoding.EncodeToString(bytes),
	}
}

// policySummary is a policy in a line.
func policySummary(p *approval.Policy) string {
	names := make([]string, len(p.Approvers))
	for i := range p.Approvers {
		names[i] = p.Approvers[i].Name
	}
	return fmt.Sprintf("%d of %s, each with %d kinds of factors, %d of which nodes verify; within %s",
		p.Quorum, strings.Join(names, ", "), p.Factors, p.SignatureFactors, shortDuration(p.Expiry))
}

// shortDuration is a duration without the zeros that Go puts behind it: 10m, not
// 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
