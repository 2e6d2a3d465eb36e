package mpc

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/crypto/sha3"

	"vault-plugin-secrets-mpc/mpc/eip712"
)

// DigestSize is the length in bytes of what ECDSA signs on either curve.
const DigestSize = 32

// ErrInput: the input does not fit the message type, hash and algorithm.
var ErrInput = errors.New("input cannot be signed")

// SigningInput returns what an algorithm signs for a request: the 32-byte
// digest for ECDSA, the message itself for BIP-340 and Ed25519, which hash it
// their own way. Nodes call it themselves, so that what is signed follows from
// what was asked for. The result may share memory with input.
func SigningInput(a Algorithm, t MessageType, h HashAlgorithm, input []byte) ([]byte, error) {
	if len(input) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrInput)
	}
	if !slices.Contains(MessageTypes(a), t) {
		return nil, fmt.Errorf("%w: %s does not sign message_type %q", ErrInput, a, t)
	}
	switch {
	case t == MessageDigest:
		return signedDigest(a, h, input)
	case t.Ethereum():
		if h != HashKeccak256 && h != "" {
			return nil, fmt.Errorf("%w: message_type %q is hashed by %s, not %q", ErrInput, t, HashKeccak256, h)
		}
		if t == MessageEIP191 {
			return eip191(input), nil
		}
		d, err := eip712.Digest(input)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInput, err)
		}
		return d[:], nil
	case !a.IsECDSA():
		if h != HashNone {
			return nil, fmt.Errorf("%w: %s hashes the message itself, hash_algorithm must be %q", ErrInput, a, HashNone)
		}
		return input, nil
	}
	return digestOf(a, h, input)
}

// digestOf hashes a raw message for ECDSA.
func digestOf(a Algorithm, h HashAlgorithm, message []byte) ([]byte, error) {
	switch h {
	case HashSHA256:
		d := sha256.Sum256(message)
		return d[:], nil
	case HashSHA384:
		d := sha512.Sum384(message)
		return d[:DigestSize], nil
	case HashSHA512:
		d := sha512.Sum512(message)
		return d[:DigestSize], nil
	case HashKeccak256:
		return keccak256(message), nil
	case HashSHA256d:
		d := sha256.Sum256(message)
		d = sha256.Sum256(d[:])
		return d[:], nil
	}
	return nil, fmt.Errorf("%w: %s does not support hash_algorithm %q", ErrInput, a, h)
}

// signedDigest reads a digest made by the caller. The hash that made it matters
// only where ECDSA signs less than the whole of it.
func signedDigest(a Algorithm, h HashAlgorithm, digest []byte) ([]byte, error) {
	want := DigestSize
	if a.IsECDSA() {
		want = h.DigestLength()
	}
	if len(digest) != want {
		return nil, fmt.Errorf("%w: a digest has %d bytes here, not %d", ErrInput, want, len(digest))
	}
	return digest[:DigestSize], nil
}

// eip191 is the digest of ERC-191, version 0x45 ("personal_sign"): the length
// is that of the message in bytes, in decimal.
func eip191(message []byte) []byte {
	return keccak256([]byte("\x19Ethereum Signed Message:\n"), strconv.AppendInt(nil, int64(len(message)), 10), message)
}

// keccak256 is the hash of Ethereum: Keccak as submitted, not FIPS 202's SHA-3,
// which pads in another way.
func keccak256(parts ...[]byte) []byte {
	k := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		k.Write(p)
	}
	return k.Sum(nil)
}
