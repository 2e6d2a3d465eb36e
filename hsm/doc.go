// Package hsm seals secrets to wrapping keys that live in a PKCS#11 token, and
// opens them again with the token's help.
//
// Sealing needs public keys only and is done in software (Seal); opening needs
// one ECDH or decryption per envelope from whoever holds the private key (Open,
// through PrivateKeys). The result is a versioned binary envelope (Envelope) that is
// bound to a Context: what the secret is, and whose.
//
// Border: pure Go, no cgo, no PKCS#11 and no storage. It does not know what a
// share is; callers check what they opened (for a share, that x·G is the public
// share). The token itself is in hsm/pkcs11, test doubles are in hsm/hsmtest.
package hsm
