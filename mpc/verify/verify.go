// Package verify checks signatures from public data alone, without nodes, HSM
// or protocol library. The backend answers verify requests with it, and code
// that makes signatures can use it as an independent check before one leaves.
//
// Border: pure functions over bytes. Signatures on secp256k1 are verified with
// decred's arithmetic and the formulas written here, the others with the
// standard library: none of it is the implementation that makes signatures. All
// inputs are public, so nothing needs to run in constant time.
package verify

import (
	"crypto/ed25519"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

// Message reports whether sig is the record's signature on input, which is
// read as a signing request reads it. An error means that the question is
// malformed; a signature that is malformed or wrong is just not valid.
func Message(r *mpc.PublicRecord, t mpc.MessageType, h mpc.HashAlgorithm, input, sig []byte) (bool, error) {
	return message(r.Algorithm, r.PublicKey, t, h, input, sig)
}

// MessageFor is Message for a signature under the child of the record's key that
// d asks for. A derivation that does not exist is an error of mpc/derive.
func MessageFor(r *mpc.PublicRecord, d mpc.Derivation, t mpc.MessageType, h mpc.HashAlgorithm, input, sig []byte) (bool, error) {
	child, err := derive.Derive(r, d)
	if err != nil {
		return false, err
	}
	return message(r.Algorithm, child.PublicKey, t, h, input, sig)
}

func message(a mpc.Algorithm, pub []byte, t mpc.MessageType, h mpc.HashAlgorithm, input, sig []byte) (bool, error) {
	if !a.Valid() {
		return false, fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, a)
	}
	signed, err := mpc.SigningInput(a, t, h, input)
	if err != nil {
		return false, err
	}
	return Signature(a, pub, signed, sig), nil
}

// Signature reports whether sig is the algorithm's signature under the public
// key, encoded as in mpc.PublicRecord, on signed: the 32-byte digest for ECDSA,
// the message for the others. It accepts only what accounts emit. An unknown
// algorithm has no valid signatures.
func Signature(a mpc.Algorithm, publicKey, signed, sig []byte) bool {
	if len(publicKey) != a.PublicKeySize() {
		return false
	}
	switch a {
	case mpc.BIP340Secp256k1:
		return BIP340(publicKey, signed, sig)
	case mpc.ECDSASecp256k1:
		return ECDSA(publicKey, signed, sig)
	case mpc.ECDSAP256:
		return ECDSAP256(publicKey, signed, sig)
	case mpc.Ed25519:
		return Ed25519(publicKey, signed, sig)
	}
	return false
}

// Ed25519 reports whether sig, R‖S in 64 bytes, is a valid Ed25519 signature
// (RFC 8032, pure) on the message under the 32-byte public key. The check is the
// standard library's: S below the order, no cofactor. A key of small order would
// have signatures on everything; the keys of accounts are not (mpc/frost).
func Ed25519(pub, message, sig []byte) bool {
	return len(pub) == ed25519.PublicKeySize && len(sig) == ed25519.SignatureSize && ed25519.Verify(pub, message, sig)
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
