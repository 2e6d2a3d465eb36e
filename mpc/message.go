package mpc

import "slices"

// MessageType says what the input of a signing request is. Types are ways to
// arrive at a digest, not separate domains: a raw message hashed by Keccak-256
// can have the digest of any EIP-191 or EIP-712 message, or be a transaction.
type MessageType string

// Message types, as the API spells them.
const (
	// MessageRaw is the message itself; nodes hash it where the scheme asks.
	MessageRaw MessageType = "raw"
	// MessageDigest is a digest made by the caller: 32 bytes, or 48 and 64
	// where SHA-384 and SHA-512 are named.
	MessageDigest MessageType = "digest"
	// MessageEIP191 is a message that nodes hash as Ethereum wallets do for
	// personal_sign (ERC-191, version 0x45).
	MessageEIP191 MessageType = "eip191"
	// MessageEIP712 is typed data in the JSON of eth_signTypedData_v4; see
	// mpc/eip712.
	MessageEIP712 MessageType = "eip712"
)

// MessageTypes lists what accounts of an algorithm sign, in the order shown to
// users, the default first.
func MessageTypes(a Algorithm) []MessageType {
	switch a {
	case ECDSASecp256k1:
		return []MessageType{MessageRaw, MessageDigest, MessageEIP191, MessageEIP712}
	case ECDSAP256, BIP340Secp256k1:
		return []MessageType{MessageRaw, MessageDigest}
	case Ed25519:
		// Ed25519ph (RFC 8032) is another scheme; a digest that Ed25519 signs
		// is just a message.
		return []MessageType{MessageRaw}
	}
	return nil
}

// HashedByNodes reports whether nodes compute the digest from the input by
// themselves, whatever the caller says. Only such messages may be signed with a
// presignature: with a known nonce point, a digest of the caller's choice could
// be used to get a signature on a message that was never asked for.
func (t MessageType) HashedByNodes() bool {
	return t == MessageRaw || t.Ethereum()
}

// Ethereum reports whether t is one of Ethereum's own, which fix the hash.
func (t MessageType) Ethereum() bool { return t == MessageEIP191 || t == MessageEIP712 }

// HashAlgorithm names the hash applied to a raw message before ECDSA.
type HashAlgorithm string

// Hash algorithms, as the API spells them.
const (
	HashSHA256 HashAlgorithm = "sha2-256"
	// HashSHA384 and HashSHA512 give more than the 32 bytes that ECDSA on our
	// curves signs: it takes the leftmost 32 (FIPS 186-5, section 6.4.1).
	HashSHA384    HashAlgorithm = "sha2-384"
	HashSHA512    HashAlgorithm = "sha2-512"
	HashKeccak256 HashAlgorithm = "keccak-256"
	// HashSHA256d is SHA-256 of SHA-256, Bitcoin's.
	HashSHA256d HashAlgorithm = "sha-256d"
	// HashNone is for schemes that hash the message themselves.
	HashNone HashAlgorithm = "none"
)

// Hashes lists the hashes that an algorithm takes for raw messages, in the
// order shown to users, the default first; none for those that hash themselves.
func Hashes(a Algorithm) []HashAlgorithm {
	if !a.IsECDSA() {
		return nil
	}
	return []HashAlgorithm{HashSHA256, HashSHA384, HashSHA512, HashKeccak256, HashSHA256d}
}

// Takes reports whether h may be named for a raw message of a.
func (a Algorithm) Takes(h HashAlgorithm) bool { return slices.Contains(Hashes(a), h) }

// DigestLength is the length in bytes that message_type=digest asks of an input
// when h is named beside it: that of h's result where ECDSA shortens it, else
// DigestSize.
func (h HashAlgorithm) DigestLength() int {
	switch h {
	case HashSHA384:
		return 48
	case HashSHA512:
		return 64
	}
	return DigestSize
}
