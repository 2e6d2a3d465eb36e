// Package address writes public keys as the addresses that blockchains know
// them by: Ethereum, Bitcoin P2WPKH and P2TR, Cosmos and Solana.
//
// Border: pure functions from bytes to text. No account, no derivation, no
// tweak: callers hand over the key that the address is to stand for. All may be
// called concurrently.
package address

import (
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
)

// Keys of the map that All returns, as the API spells them.
const (
	KeyEthereum             = "ethereum"
	KeyBitcoinP2WPKH        = "bitcoin_p2wpkh"
	KeyBitcoinP2WPKHTestnet = "bitcoin_p2wpkh_testnet"
	KeyBitcoinP2TR          = "bitcoin_p2tr"
	KeyBitcoinP2TRTestnet   = "bitcoin_p2tr_testnet"
	KeyCosmos               = "cosmos"
	KeySolana               = "solana"
)

// ErrAlgorithm: no address here is made from keys of that algorithm.
var ErrAlgorithm = errors.New("algorithm without addresses")

// Any reports whether keys of the algorithm have addresses here.
func Any(a mpc.Algorithm) bool {
	return a == mpc.BIP340Secp256k1 || a == mpc.ECDSASecp256k1 || a == mpc.Ed25519
}

// All returns the addresses of a public key, encoded as in mpc.PublicRecord.
// A BIP-340 key has to be a Taproot output key: the internal key of BIP-341
// tweaked already. cosmosPrefix is used for ecdsa-secp256k1 only; see
// CheckCosmosPrefix. The error is ErrAlgorithm for an algorithm without
// addresses.
func All(a mpc.Algorithm, key []byte, cosmosPrefix string) (map[string]string, error) {
	var makers map[string]func() (string, error)
	switch a {
	case mpc.ECDSASecp256k1:
		makers = map[string]func() (string, error){
			KeyEthereum:             func() (string, error) { return Ethereum(key) },
			KeyBitcoinP2WPKH:        func() (string, error) { return BitcoinP2WPKH(Mainnet, key) },
			KeyBitcoinP2WPKHTestnet: func() (string, error) { return BitcoinP2WPKH(Testnet, key) },
			KeyCosmos:               func() (string, error) { return Cosmos(cosmosPrefix, key) },
		}
	case mpc.BIP340Secp256k1:
		makers = map[string]func() (string, error){
			KeyBitcoinP2TR:        func() (string, error) { return BitcoinP2TR(Mainnet, key) },
			KeyBitcoinP2TRTestnet: func() (string, error) { return BitcoinP2TR(Testnet, key) },
		}
	case mpc.Ed25519:
		makers = map[string]func() (string, error){
			KeySolana: func() (string, error) { return Solana(key) },
		}
	default:
		return nil, fmt.Errorf("%w: %s", ErrAlgorithm, a)
	}
	all := make(map[string]string, len(makers))
	for name, make := range makers {
		text, err := make()
		if err != nil {
			return nil, fmt.Errorf("%s address: %w", name, err)
		}
		all[name] = text
	}
	return all, nil
}
