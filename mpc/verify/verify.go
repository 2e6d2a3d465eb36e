// Package verify checks signatures from public data alone, without nodes, HSM
// or protocol library. The backend answers verify requests with it, and code
// that makes signatures can use it as an independent check before one leaves.
//
// Border: pure functions over bytes. The curve arithmetic is decred's
// secp256k1, which is not the implementation that makes signatures here. All
// inputs are public, so nothing needs to run in constant time.
package verify

import (
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
)

// Message reports whether sig is the record's signature on input, which is
// read as a signing request reads it. An error means that the question is
// malformed; a signature that is malformed or wrong is just not valid.
func Message(r *mpc.PublicRecord, t mpc.MessageType, h mpc.HashAlgorithm, input, sig []byte) (bool, error) {
	signed, err := mpc.SigningInput(r.Algorithm, t, h, input)
	if err != nil {
		return false, err
	}
	switch r.Algorithm {
	case mpc.BIP340Secp256k1:
		return BIP340(r.PublicKey, signed, sig), nil
	case mpc.ECDSASecp256k1:
		return ECDSA(r.PublicKey, signed, sig), nil
	}
	return false, fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, r.Algorithm)
}

// ECDSA reports whether der is a valid ECDSA signature on the 32-byte digest
// under the SEC 1 encoded secp256k1 public key. It accepts what accounts emit
// and nothing else: strict DER with 0 < r, s < order and s in the lower half
// of the range. The twin (r, order−s) of a signature is refused on purpose:
// only somebody who altered a signature can present it, and chains refuse it.
func ECDSA(pub, digest, der []byte) bool {
	if len(digest) != mpc.DigestSize {
		return false
	}
	key, err := secp256k1.ParsePubKey(pub)
	if err != nil {
		return false
	}
	sig, err := ecdsa.ParseDERSignature(der)
	if err != nil {
		return false
	}
	s := sig.S()
	return !s.IsOverHalfOrder() && sig.Verify(digest, key)
}
