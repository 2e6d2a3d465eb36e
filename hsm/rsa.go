package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/secret"
)

const (
	rsaBits     = 3072
	rsaExponent = 65537
	// maxRSAPublicKey bounds what is given to the DER parser; a right key has
	// 422 bytes.
	maxRSAPublicKey = 512
	// rsaPlaintext is kᵢ ‖ SHA-256; OAEP with SHA-256 has room for 318 bytes.
	rsaPlaintext = keySize + sha256.Size
)

// ParseRSAPublicKey reads the public key of an RSA suite: a DER
// SubjectPublicKeyInfo (RFC 5280, 4.1) in its one canonical encoding, with an
// odd modulus of exactly 3072 bits and the exponent 65537.
func ParseRSAPublicKey(der []byte) (*rsa.PublicKey, error) {
	if len(der) == 0 || len(der) > maxRSAPublicKey {
		return nil, fmt.Errorf("%d bytes are not the SubjectPublicKeyInfo of an RSA key of %d bits", len(der), rsaBits)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("not a SubjectPublicKeyInfo: %w", err)
	}
	pub, ok := k.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, errors.New("not an RSA key")
	case pub.N.BitLen() != rsaBits || pub.N.Bit(0) == 0:
		return nil, fmt.Errorf("a modulus of %d bits; it must be odd and have %d", pub.N.BitLen(), rsaBits)
	case pub.E != rsaExponent:
		return nil, fmt.Errorf("the exponent %d, not %d", pub.E, rsaExponent)
	}
	// The bytes are compared when keys are pinned, so one key has one encoding.
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, der) {
		return nil, errors.New("not the canonical encoding")
	}
	return pub, nil
}

// sealRSA seals k to an RSA key. OAEP's own label stays empty, because tokens
// differ in what they do with one; what HPKE has as info and additional data is
// sealed along with the key:
//
//	RSAES-OAEP(k ‖ SHA-256(fields(sealInfo(key), context)))      384 bytes
//
// Whoever knows k could seal it anew under another context, here as with HPKE:
// sealing takes public keys only.
func sealRSA(k *secret.Bytes, key WrappingKey, c Context) ([]byte, error) {
	pub, err := ParseRSAPublicKey(key.PublicKey)
	if err != nil {
		return nil, err
	}
	hash, _ := key.Suite.OAEPHash()
	plaintext := make([]byte, 0, rsaPlaintext)
	defer func() { secret.Wipe(plaintext[:cap(plaintext)]) }()
	plaintext = append(plaintext, k.Expose()...)
	binding := rsaBinding(key, c)
	plaintext = append(plaintext, binding[:]...)
	return rsa.EncryptOAEP(hash.New(), rand.Reader, pub, plaintext, nil)
}

// openRSA undoes sealRSA. A key sealed for another name or context is ErrOpen,
// like one that does not decrypt.
func openRSA(ctx context.Context, x PrivateKeys, key WrappingKey, c Context, sealed []byte) (*secret.Bytes, error) {
	plaintext, err := x.DecryptOAEP(ctx, key, sealed)
	if errors.Is(err, ErrOpen) {
		return nil, ErrOpen
	}
	if err != nil {
		return nil, fmt.Errorf("hsm: opening with %s: %w", key.name(), err)
	}
	defer plaintext.Wipe()
	if plaintext.Len() != rsaPlaintext {
		return nil, ErrOpen
	}
	want := rsaBinding(key, c)
	if subtle.ConstantTimeCompare(plaintext.Expose()[keySize:], want[:]) != 1 {
		return nil, ErrOpen
	}
	return secret.Copy(plaintext.Expose()[:keySize]), nil
}

func rsaBinding(key WrappingKey, c Context) [sha256.Size]byte {
	return sha256.Sum256(fields(sealInfo(key), c))
}
