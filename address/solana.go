package address

import (
	"bytes"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
	"github.com/btcsuite/btcd/btcutil/base58"
)

// Solana returns the address of an Ed25519 key, 32 bytes as in RFC 8032: the key
// in base58. Solana gives other meanings to texts that are no points (program
// addresses), so a key has to be one.
func Solana(key []byte) (string, error) {
	if len(key) != 32 {
		return "", fmt.Errorf("a public key of %d bytes, not 32", len(key))
	}
	point, err := new(edwards25519.Point).SetBytes(key)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(point.Bytes(), key) { // SetBytes takes y ≥ p, RFC 8032 §5.1.3 does not
		return "", errors.New("a public key that is not in its canonical form")
	}
	return base58.Encode(key), nil
}
