package pool

import (
	"errors"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// errBadSignature: nodes returned a signature that another implementation does
// not accept. It never leaves this process.
var errBadSignature = errors.New("the nodes returned a signature that does not verify; nothing was released")

// checkSignature verifies a signature with other code than the one that made
// it, and that its parts say the same.
func checkSignature(record *mpc.PublicRecord, message []byte, s *mpc.Signature) error {
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
		return errBadSignature
	}
	return nil
}
