// Package jwk writes public keys as JSON Web Keys: RFC 7517 and RFC 7518 for
// P-256, RFC 8812 for secp256k1, RFC 8037 for Ed25519, with the thumbprint of
// RFC 7638 as the key ID.
//
// Border: pure functions from public bytes to text. No account and no JSON Web
// Signature. All may be called concurrently.
package jwk

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
	"filippo.io/nistec"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
)

// ErrAlgorithm: no JSON Web Key is defined for keys of that algorithm.
var ErrAlgorithm = errors.New("algorithm without JSON Web Keys")

// Key is the members of a JSON Web Key: kty, crv, x, y (not for Ed25519), alg,
// use and kid. x and y are base64url without padding of 32 bytes each, big-endian
// (RFC 7518 §6.2.1.2: with leading zeros), for Ed25519 x is the key of RFC 8032.
type Key map[string]string

// New returns a public key, encoded as in mpc.PublicRecord, as a JSON Web Key.
// The error is ErrAlgorithm for BIP-340, which has no alg of its own: ES256K
// means ECDSA.
func New(a mpc.Algorithm, key []byte) (Key, error) {
	var k Key
	switch a {
	case mpc.ECDSAP256:
		if len(key) != a.PublicKeySize() {
			return nil, fmt.Errorf("a public key of %d bytes, not %d", len(key), a.PublicKeySize())
		}
		point, err := nistec.NewP256Point().SetBytes(key)
		if err != nil {
			return nil, err
		}
		k = onCurve("P-256", "ES256", point.Bytes())
	case mpc.ECDSASecp256k1:
		if len(key) != a.PublicKeySize() {
			return nil, fmt.Errorf("a public key of %d bytes, not %d", len(key), a.PublicKeySize())
		}
		point, err := secp256k1.ParsePubKey(key)
		if err != nil {
			return nil, err
		}
		k = onCurve("secp256k1", "ES256K", point.SerializeUncompressed())
	case mpc.Ed25519:
		point, err := new(edwards25519.Point).SetBytes(key)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(point.Bytes(), key) { // SetBytes takes y ≥ p, RFC 8032 §5.1.3 does not
			return nil, errors.New("a public key that is not in its canonical form")
		}
		k = Key{"kty": "OKP", "crv": "Ed25519", "x": encode(key), "alg": "EdDSA"}
	default:
		return nil, fmt.Errorf("%w: %s", ErrAlgorithm, a)
	}
	k["use"] = "sig"
	k["kid"] = k.Thumbprint()
	return k, nil
}

// onCurve takes a point as SEC 1 has it: 4, then x and y in 32 bytes each.
func onCurve(curve, alg string, uncompressed []byte) Key {
	return Key{"kty": "EC", "crv": curve, "x": encode(uncompressed[1:33]), "y": encode(uncompressed[33:]), "alg": alg}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// required names the members of RFC 7638 §3.2 and RFC 8037 §2 for each kty.
func required(kty string) []string {
	switch kty {
	case "EC":
		return []string{"crv", "kty", "x", "y"}
	case "OKP":
		return []string{"crv", "kty", "x"}
	case "RSA": // for the example of RFC 7638
		return []string{"e", "kty", "n"}
	}
	return nil
}

// Thumbprint returns base64url, without padding, of SHA-256 over the required
// members (RFC 7638 §3): 43 characters.
func (k Key) Thumbprint() string {
	members := Key{}
	for _, name := range required(k["kty"]) {
		members[name] = k[name]
	}
	sum := sha256.Sum256([]byte(members.JSON()))
	return encode(sum[:])
}

// JSON returns the members in the order of their names, without space between
// them: of the same key always the same text (RFC 8785). No member has a
// character that JSON would escape.
func (k Key) JSON() string {
	text, err := json.Marshal(map[string]string(k)) // sorts the names
	if err != nil {
		panic("jwk: strings are always JSON") // cannot happen
	}
	return string(text)
}
