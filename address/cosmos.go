package address

import (
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcutil/bech32"
)

// CosmosPrefix is that of the Cosmos Hub.
const CosmosPrefix = "cosmos"

// MaxCosmosPrefix keeps an address within the 90 characters for which BIP-173
// promises that mistakes are found: 1 separator, 32 for the hash, 6 of checksum.
const MaxCosmosPrefix = 51

// ErrPrefix: the text cannot begin an address.
var ErrPrefix = errors.New("address prefix")

// CheckCosmosPrefix returns ErrPrefix for what is no prefix of a chain: lower-case
// letters and digits, beginning with a letter. BIP-173 would allow more, up to
// 83 characters; chains do not use it.
func CheckCosmosPrefix(prefix string) error {
	if prefix == "" || len(prefix) > MaxCosmosPrefix {
		return fmt.Errorf("%w: it has 1 to %d characters", ErrPrefix, MaxCosmosPrefix)
	}
	for i, c := range []byte(prefix) {
		letter, digit := c >= 'a' && c <= 'z', c >= '0' && c <= '9'
		if !letter && (!digit || i == 0) {
			return fmt.Errorf("%w: it has lower-case letters and digits and begins with a letter, as in cosmos or osmo", ErrPrefix)
		}
	}
	return nil
}

// Cosmos returns the address of an account on chains built with the Cosmos SDK
// and its secp256k1 keys: Bech32 of hash160 of the key in 33 bytes, SEC 1
// compressed. Chains with Ethereum's keys (Evmos, Injective) hash otherwise.
func Cosmos(prefix string, compressed []byte) (string, error) {
	if err := CheckCosmosPrefix(prefix); err != nil {
		return "", err
	}
	if _, err := parseCompressed(compressed); err != nil {
		return "", err
	}
	return bech32.EncodeFromBase256(prefix, hash160(compressed))
}
