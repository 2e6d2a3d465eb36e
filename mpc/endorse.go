package mpc

import "crypto/ed25519"

const endorsementLabel = "vault-plugin-secrets-mpc record endorsement v1"

func endorsementMessage(r *PublicRecord) []byte {
	hash := r.Hash()
	b := append([]byte(endorsementLabel), r.AccountID[:]...)
	b = append(b, byte(len(r.PublicKey)))
	b = append(b, r.PublicKey...)
	return append(b, hash[:]...)
}

// Endorse signs (account ID, public key, record hash) with a node's identity
// key. The endorsements of all n nodes at creation are an account's birth
// certificate. The signature has 64 bytes.
func Endorse(identity ed25519.PrivateKey, r *PublicRecord) []byte {
	return ed25519.Sign(identity, endorsementMessage(r))
}

// VerifyEndorsement checks a signature made by Endorse.
func VerifyEndorsement(node NodeIdentity, r *PublicRecord, signature []byte) bool {
	return ed25519.Verify(node[:], endorsementMessage(r), signature)
}
