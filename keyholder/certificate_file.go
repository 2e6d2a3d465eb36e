package keyholder

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/secret"
)

// fileKey is a private key from a file.
type fileKey struct {
	certificate []byte
	ec          *ecdsa.PrivateKey
	rsa         *rsa.PrivateKey
}

// CertificateFile opens a certificate and its private key, PEM files each:
// PKCS #8, SEC 1 or PKCS #1, not encrypted.
func CertificateFile(certificate, key string) func(context.Context) (CertificateKey, error) {
	return func(context.Context) (CertificateKey, error) { return openCertificateFile(certificate, key) }
}

func openCertificateFile(certificate, key string) (CertificateKey, error) {
	raw, err := readSmall(certificate, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s does not begin with a certificate in PEM form", certificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate in %s cannot be read: %w", certificate, err)
	}
	private, err := readPrivateKey(key)
	if err != nil {
		return nil, err
	}
	k := &fileKey{certificate: cert.Raw}
	switch p := private.(type) {
	case *ecdsa.PrivateKey:
		k.ec = p
	case *rsa.PrivateKey:
		k.rsa = p
	default:
		return nil, fmt.Errorf("the key in %s is neither a P-256 nor an RSA key", key)
	}
	if !equalPublic(cert.PublicKey, k.Public()) {
		return nil, fmt.Errorf("the key in %s is not the one of the certificate in %s", key, certificate)
	}
	return k, nil
}

// equalPublic compares by encoding; both have been parsed.
func equalPublic(a, b any) bool {
	x, errX := x509.MarshalPKIXPublicKey(a)
	y, errY := x509.MarshalPKIXPublicKey(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func readPrivateKey(path string) (any, error) {
	raw, err := readSmall(path, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("the private key cannot be read: %w", err)
	}
	defer secret.Wipe(raw)
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("%s holds no private key in PEM form", path)
		}
		defer secret.Wipe(block.Bytes)
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, fmt.Errorf("the private key in %s is encrypted, which this program does not read: keep the key in a token instead, or decrypt the file with 'openssl pkey' into one that only you can read", path)
		case block.Type == "PRIVATE KEY":
			return parsed(path)(x509.ParsePKCS8PrivateKey(block.Bytes))
		case block.Type == "EC PRIVATE KEY":
			k, err := x509.ParseECPrivateKey(block.Bytes)
			return parsed(path)(k, err)
		case block.Type == "RSA PRIVATE KEY":
			k, err := x509.ParsePKCS1PrivateKey(block.Bytes)
			return parsed(path)(k, err)
		}
	}
}

// parsed leaves the parser's error out, which might quote the key.
func parsed(path string) func(any, error) (any, error) {
	return func(k any, err error) (any, error) {
		if err != nil {
			return nil, fmt.Errorf("the private key in %s cannot be read", path)
		}
		return k, nil
	}
}

func (k *fileKey) Certificate() []byte { return k.certificate }

func (k *fileKey) Public() any {
	if k.ec != nil {
		return &k.ec.PublicKey
	}
	return &k.rsa.PublicKey
}

func (k *fileKey) ECDH(_ context.Context, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	if k.ec == nil {
		return nil, errors.New("the key does no ECDH")
	}
	private, err := k.ec.ECDH()
	if err != nil {
		return nil, err
	}
	z, err := private.ECDH(peer)
	if err != nil {
		return nil, err
	}
	return secret.New(z), nil
}

func (k *fileKey) DecryptOAEP(_ context.Context, ciphertext []byte) (*secret.Bytes, error) {
	if k.rsa == nil {
		return nil, errors.New("the key decrypts nothing")
	}
	plain, err := rsa.DecryptOAEP(sha256.New(), nil, k.rsa, ciphertext, nil)
	if err != nil {
		return nil, err
	}
	return secret.New(plain), nil
}

// Close forgets the key; Go offers no way to overwrite it.
func (k *fileKey) Close() error {
	k.ec, k.rsa = nil, nil
	return nil
}
