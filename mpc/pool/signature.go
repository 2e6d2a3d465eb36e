package pool

import (
	"errors"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// errBadSignature: a node returned a signature that does not verify. It never
// leaves this process.
var errBadSignature = errors.New("a signature that does not verify")

// checkSignature reads a node's outcome, verifies the signature with other code
// than the one that made it, and checks that its parts say the same.
func checkSignature(record *mpc.PublicRecord, message []byte, o *nodepb.Outcome) (*mpc.Signature, error) {
	s := &mpc.Signature{Bytes: o.GetSignature(), RecoveryID: int(o.GetRecoveryId()), Digest: message}
	if len(o.GetR()) != len(s.R) || len(o.GetS()) != len(s.S) {
		return nil, errBadSignature
	}
	copy(s.R[:], o.GetR())
	copy(s.S[:], o.GetS())
	ok := false
	switch record.Algorithm {
	case mpc.BIP340Secp256k1:
		ok = verify.BIP340(record.PublicKey, message, s.Bytes) &&
			string(s.Bytes) == string(s.R[:])+string(s.S[:]) && s.RecoveryID == -1
	case mpc.ECDSASecp256k1:
		ok = verify.ECDSA(record.PublicKey, message, s.Bytes) &&
			verify.Recovers(record.PublicKey, message, s.R, s.S, s.RecoveryID)
	}
	if !ok {
		return nil, errBadSignature
	}
	return s, nil
}
