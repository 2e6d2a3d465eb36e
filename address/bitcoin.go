package address

import (
	"crypto/sha256"
	"fmt"

	"github.com/btcsuite/btcd/btcutil/bech32"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	//lint:ignore SA1019 the address formats prescribe it
	"golang.org/x/crypto/ripemd160"
)

// Network is the human-readable part of a Bitcoin address.
type Network string

// Bitcoin's networks, BIP-173 "Segwit address format".
const (
	Mainnet Network = "bc"
	Testnet Network = "tb" // every public test network
)

// BitcoinP2WPKH returns the address that pays to a key's hash, witness version 0
// (BIP-141, BIP-173) of a key in 33 bytes, SEC 1 compressed.
func BitcoinP2WPKH(n Network, compressed []byte) (string, error) {
	if _, err := parseCompressed(compressed); err != nil {
		return "", err
	}
	return segwit(n, 0, hash160(compressed))
}

// BitcoinP2TR returns the address of a Taproot output, witness version 1
// (BIP-341, BIP-350). outputKey is the tweaked key, 32 bytes x-only: money sent
// to an untweaked one is open to who can show a script that others did not know
// of (BIP-341, "Constructing and spending Taproot outputs").
func BitcoinP2TR(n Network, outputKey []byte) (string, error) {
	if len(outputKey) != 32 {
		return "", fmt.Errorf("an output key of %d bytes, not 32", len(outputKey))
	}
	if _, err := secp256k1.ParsePubKey(append([]byte{secp256k1.PubKeyFormatCompressedEven}, outputKey...)); err != nil {
		return "", err
	}
	return segwit(n, 1, outputKey)
}

// segwit encodes a witness program: Bech32 for version 0, Bech32m for the others
// (BIP-350).
func segwit(n Network, version byte, program []byte) (string, error) {
	groups, err := bech32.ConvertBits(program, 8, 5, true)
	if err != nil {
		return "", err
	}
	data := append([]byte{version}, groups...)
	if version == 0 {
		return bech32.Encode(string(n), data)
	}
	return bech32.EncodeM(string(n), data)
}

// hash160 is RIPEMD-160 of SHA-256, 20 bytes.
func hash160(b []byte) []byte {
	inner := sha256.Sum256(b)
	h := ripemd160.New()
	h.Write(inner[:])
	return h.Sum(nil)
}
