package address

import (
	"encoding/hex"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"golang.org/x/crypto/sha3"
)

// Ethereum returns the address of a secp256k1 key, 33 bytes SEC 1 compressed:
// "0x" and the last 20 bytes of Keccak-256 over x‖y, 64 bytes, in hex with the
// capitals of EIP-55.
func Ethereum(compressed []byte) (string, error) {
	key, err := parseCompressed(compressed)
	if err != nil {
		return "", err
	}
	hash := keccak256(key.SerializeUncompressed()[1:])
	return checksummed([20]byte(hash[12:])), nil
}

// checksummed follows EIP-55: a letter is a capital where the digit at its place
// in Keccak-256 of the lower-case text is 8 or more.
func checksummed(address [20]byte) string {
	text := []byte(hex.EncodeToString(address[:]))
	hash := keccak256(text)
	for i, c := range text {
		nibble := hash[i/2] >> 4
		if i%2 == 1 {
			nibble = hash[i/2] & 15
		}
		if c >= 'a' && nibble >= 8 {
			text[i] = c - 'a' + 'A'
		}
	}
	return "0x" + string(text)
}

func keccak256(b []byte) []byte {
	h := sha3.NewLegacyKeccak256()
	h.Write(b)
	return h.Sum(nil)
}

// parseCompressed reads a point in the short form only, so that what is hashed
// as it is cannot be another encoding of the same key.
func parseCompressed(b []byte) (*secp256k1.PublicKey, error) {
	if len(b) != secp256k1.PubKeyBytesLenCompressed {
		return nil, fmt.Errorf("a public key of %d bytes, not %d", len(b), secp256k1.PubKeyBytesLenCompressed)
	}
	return secp256k1.ParsePubKey(b)
}
