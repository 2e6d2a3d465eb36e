package pool

import (
	"bytes"
	"errors"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// errBadSignature: a node returned a signature that does not verify. It never
// leaves this process.
var errBadSignature = errors.New("a signature that does not verify")

// noRecoveryID is what schemes without a recovery ID report.
const noRecoveryID = -1

// checkSignature reads a node's outcome, verifies the signature with other code
// than the one that made it, and checks that its parts say the same. publicKey
// is the account's or, for a derivation, its child's; signed is what the
// algorithm signs (mpc.SigningInput).
func checkSignature(a mpc.Algorithm, publicKey, signed []byte, o *nodepb.Outcome) (*mpc.Signature, error) {
	s := &mpc.Signature{Bytes: o.GetSignature(), RecoveryID: int(o.GetRecoveryId()), Digest: signed}
	if len(o.GetR()) != len(s.R) || len(o.GetS()) != len(s.S) {
		return nil, errBadSignature
	}
	copy(s.R[:], o.GetR())
	copy(s.S[:], o.GetS())
	if !verify.Signature(a, publicKey, signed, s.Bytes) || !consistent(a, publicKey, signed, s) {
		return nil, errBadSignature
	}
	return s, nil
}

// consistent reports whether R, S and RecoveryID are those of the signature
// itself, and not of another one.
func consistent(a mpc.Algorithm, publicKey, signed []byte, s *mpc.Signature) bool {
	if a.IsECDSA() {
		return bytes.Equal(s.Bytes, verify.DER(s.R, s.S)) && verify.RecoversKey(a, publicKey, signed, s.R, s.S, s.RecoveryID)
	}
	return bytes.Equal(s.Bytes, append(s.R[:len(s.R):len(s.R)], s.S[:]...)) && s.RecoveryID == noRecoveryID
}
