//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"
)

// signing is the part of a module that only persons' keys use.
type signing interface {
	SignInit(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle) error
	Sign(s p11.SessionHandle, message []byte) ([]byte, error)
}

var _ signing = (*p11.Ctx)(nil)

// sha256Info stands before a SHA-256 hash in PKCS#1 v1.5 signatures: the DigestInfo of
// RFC 8017, section 9.2, note 1, which CKM_RSA_PKCS leaves to its caller.
func sha256Info() []byte {
	return []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
}

// SignSHA256 signs SHA-256 of a message, which is hashed here: not every card hashes.
// Signatures are ECDSA in DER or RSA by PKCS#1 v1.5. The key must be allowed to sign
// (CKA_SIGN).
func (k *PersonKey) SignSHA256(ctx context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	mechanism, input := uint(p11.CKM_ECDSA), sum[:]
	switch k.public.(type) {
	case *ecdsa.PublicKey:
	case *rsa.PublicKey:
		mechanism, input = p11.CKM_RSA_PKCS, append(sha256Info(), sum[:]...)
	default:
		return nil, fmt.Errorf("%w: it is neither a P-256 nor an RSA key", ErrKeyMismatch)
	}
	mod, ok := k.t.mod.(signing)
	if !ok {
		return nil, errors.New("the PKCS#11 library does not sign")
	}
	ctx, cancel := context.WithTimeout(ctx, k.t.timeout)
	defer cancel()
	raw, err := withSession(ctx, k.t, false, func(s p11.SessionHandle) ([]byte, error) {
		if err := mod.SignInit(s, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, k.private); err != nil {
			return nil, err
		}
		return mod.Sign(s, bytes.Clone(input))
	}, nil)
	if err != nil {
		return nil, outward("signing with the key", err)
	}
	if mechanism != p11.CKM_ECDSA {
		return raw, nil
	}
	// r‖s of the same length each (PKCS#11 v2.40, 2.3.1).
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, fmt.Errorf("the token signed with %d bytes, which is no r‖s", len(raw))
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}
