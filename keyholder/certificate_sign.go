package keyholder

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
)

// SigningKey is what a CertificateKey can be besides: one that signs, as an approver's
// factor. Not every key in a token may sign.
type SigningKey interface {
	// SignSHA256 signs SHA-256 of a message: ECDSA in DER, or RSA by PKCS#1 v1.5.
	SignSHA256(ctx context.Context, message []byte) ([]byte, error)
}

var _ SigningKey = (*fileKey)(nil)

// SignSHA256 implements SigningKey.
func (k *fileKey) SignSHA256(_ context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	switch {
	case k.ec != nil:
		return ecdsa.SignASN1(rand.Reader, k.ec, sum[:])
	case k.rsa != nil:
		return rsa.SignPKCS1v15(rand.Reader, k.rsa, crypto.SHA256, sum[:])
	}
	return nil, errors.New("the key was closed")
}
