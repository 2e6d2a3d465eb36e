package hsm

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
)

const labelEndorseKey = "vault-plugin-secrets-mpc wrapping key endorsement v1"

// EndorseKey returns a node's word that the private half of a wrapping key is in
// its token and cannot leave it: 64 bytes, Ed25519 over SHA-256 of the mount's ID
// and everything in k but its label. Nodes of other wrapping domains seal to k on
// that word, if the recipient set that the authority signed names the node for
// k's domain.
func EndorseKey(identity ed25519.PrivateKey, mountID [16]byte, k WrappingKey) []byte {
	return ed25519.Sign(identity, endorsedKey(mountID, k))
}

// VerifyKeyEndorsement reports whether signature is EndorseKey's by that identity.
func VerifyKeyEndorsement(identity ed25519.PublicKey, mountID [16]byte, k WrappingKey, signature []byte) bool {
	return len(identity) == ed25519.PublicKeySize && len(signature) == ed25519.SignatureSize &&
		ed25519.Verify(identity, endorsedKey(mountID, k), signature)
}

func endorsedKey(mountID [16]byte, k WrappingKey) []byte {
	h := sha256.New()
	for _, part := range [][]byte{
		[]byte(labelEndorseKey), mountID[:], []byte(k.Domain), binary.BigEndian.AppendUint32(nil, k.Version),
		{byte(k.Suite)}, k.ID, k.PublicKey,
	} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}
