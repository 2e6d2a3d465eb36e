package backend

import (
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

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

// policy returns the epoch's approval policy, nil for none. record is that of the
// epoch.
func (e *epochRecord) policy(record *mpc.PublicRecord) (*approval.Policy, error) {
	return policyOf(record, e.Policy)
}
