package backend

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"filippo.io/nistec"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
)

// spkiPrefix is a DER SubjectPublicKeyInfo (RFC 5280, RFC 5480) for secp256k1
// up to the point: SEQUENCE (86 bytes) of SEQUENCE of id-ecPublicKey
// 1.2.840.10045.2.1 and secp256k1 1.3.132.0.10, then BIT STRING of 65 bytes
// with no unused bits. Go's x509 does not know the curve.
var spkiPrefix = []byte{ // read only
	0x30, 0x56,
	0x30, 0x10,
	0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
	0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a,
	0x03, 0x42, 0x00,
}

// publicKeyPEM returns a public key, encoded as in mpc.PublicRecord, as a PEM
// SubjectPublicKeyInfo. Points of the ECDSA curves are uncompressed. A BIP-340
// key stands for the point with even y; Ed25519 is as in RFC 8410.
func publicKeyPEM(alg mpc.Algorithm, key []byte) (string, error) {
	der, err := publicKeyDER(alg, key)
	if err != nil {
		return "", fmt.Errorf("the account's public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

func publicKeyDER(alg mpc.Algorithm, key []byte) ([]byte, error) {
	if len(key) != alg.PublicKeySize() {
		return nil, fmt.Errorf("has %d bytes", len(key))
	}
	switch alg {
	case mpc.Ed25519, mpc.ECDSAP256:
		pub, err := publicKey(alg, key)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKIXPublicKey(pub)
	case mpc.BIP340Secp256k1:
		key = append([]byte{secp256k1.PubKeyFormatCompressedEven}, key...)
	case mpc.ECDSASecp256k1:
	default:
		return nil, mpc.ErrUnknownAlgorithm
	}
	point, err := secp256k1.ParsePubKey(key)
	if err != nil {
		return nil, err
	}
	return append(append([]byte(nil), spkiPrefix...), point.SerializeUncompressed()...), nil
}

// publicKey returns a key of ecdsa-p256 or ed25519 as crypto/x509 takes it.
func publicKey(alg mpc.Algorithm, key []byte) (crypto.PublicKey, error) {
	if len(key) != alg.PublicKeySize() {
		return nil, fmt.Errorf("has %d bytes", len(key))
	}
	switch alg {
	case mpc.Ed25519:
		return ed25519.PublicKey(key), nil
	case mpc.ECDSAP256:
		point, err := nistec.NewP256Point().SetBytes(key)
		if err != nil {
			return nil, err
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point.Bytes())
	}
	return nil, mpc.ErrUnknownAlgorithm
}
