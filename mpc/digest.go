package mpc

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/sha3"
)

// DigestSize is the length in bytes of a digest that callers may pass.
const DigestSize = 32

// ErrInput: the input does not fit the message type, hash and algorithm.
var ErrInput = errors.New("input cannot be signed")

// SigningInput returns what an algorithm signs for a request: the 32-byte
// digest for ECDSA, the message itself for BIP-340 and Ed25519, which hash it
// their own way. Nodes call it themselves, so that what is signed follows from
// what was asked for.
func SigningInput(a Algorithm, t MessageType, h HashAlgorithm, input []byte) ([]byte, error) {
	if len(input) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrInput)
	}
	switch t {
	case MessageDigest:
		if a == Ed25519 {
			// Ed25519ph (RFC 8032) is another scheme; a digest that Ed25519
			// signs is just a message.
			return nil, fmt.Errorf("%w: %s takes no digest; send the bytes to sign with message_type %q", ErrInput, a, MessageRaw)
		}
		if len(input) != DigestSize {
			return nil, fmt.Errorf("%w: a digest has %d bytes, not %d", ErrInput, DigestSize, len(input))
		}
		return input, nil
	case MessageRaw:
	default:
		return nil, fmt.Errorf("%w: unknown message type %q", ErrInput, t)
	}
	if !a.IsECDSA() {
		if h != HashNone {
			return nil, fmt.Errorf("%w: %s hashes the message itself, hash_algorithm must be %q", ErrInput, a, HashNone)
		}
		return input, nil
	}
	switch h {
	case HashSHA256:
		d := sha256.Sum256(input)
		return d[:], nil
	case HashKeccak256:
		k := sha3.NewLegacyKeccak256()
		k.Write(input)
		return k.Sum(nil), nil
	}
	return nil, fmt.Errorf("%w: %s does not support hash_algorithm %q", ErrInput, a, h)
}
