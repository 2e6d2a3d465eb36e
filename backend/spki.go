package backend

import (
	"encoding/pem"
	"fmt"

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

// publicKeyPEM returns the account's key as a PEM SubjectPublicKeyInfo with
// the uncompressed point. A BIP-340 key stands for the point with even y.
func publicKeyPEM(r *mpc.PublicRecord) (string, error) {
	compressed := r.PublicKey
	if r.Algorithm == mpc.BIP340Secp256k1 {
		compressed = append([]byte{secp256k1.PubKeyFormatCompressedEven}, r.PublicKey...)
	}
	key, err := secp256k1.ParsePubKey(compressed)
	if err != nil {
		return "", fmt.Errorf("the account's public key: %w", err)
	}
	der := append(append([]byte(nil), spkiPrefix...), key.SerializeUncompressed()...)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}
