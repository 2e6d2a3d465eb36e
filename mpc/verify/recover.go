package verify

import (
	"bytes"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
)

// RecoversKey reports whether (r, s, recovery id 0…3) on the digest recovers the
// SEC 1 compressed public key of an ECDSA algorithm. The recovery id is bit 0:
// R.y is odd, bit 1: R.x was reduced by the order (SEC 1 §4.1.6).
func RecoversKey(a mpc.Algorithm, pub, digest []byte, r, s [32]byte, recoveryID int) bool {
	if recoveryID < 0 || recoveryID > 3 || len(digest) != mpc.DigestSize {
		return false
	}
	switch a {
	case mpc.ECDSASecp256k1:
		return Recovers(pub, digest, r, s, recoveryID)
	case mpc.ECDSAP256:
		return recoversP256(pub, digest, r, s, recoveryID)
	}
	return false
}

// Recovers is RecoversKey for secp256k1.
func Recovers(pub, digest []byte, r, s [32]byte, recoveryID int) bool {
	if recoveryID < 0 || recoveryID > 3 || len(digest) != mpc.DigestSize {
		return false
	}
	// decred's compact form: 27 + recovery id + 4 for a compressed key, r, s.
	compact := append([]byte{byte(27 + recoveryID + 4)}, r[:]...)
	compact = append(compact, s[:]...)
	key, _, err := ecdsa.RecoverCompact(compact, digest)
	if err != nil {
		return false
	}
	want, err := secp256k1.ParsePubKey(pub)
	return err == nil && bytes.Equal(key.SerializeCompressed(), want.SerializeCompressed())
}
