package backend

import (
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc"
)

// messageKind says how an input becomes what is signed.
type messageKind struct {
	kind mpc.MessageType
	// hash is what mpc.SigningInput takes beside kind; equal requests have
	// equal kinds, whether they name defaults or leave them out.
	hash mpc.HashAlgorithm
	// warning is for the caller, empty where there is none.
	warning string
}

func messageTypeField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString,
		Description: "raw: input is the message (default). digest: input is a digest made by the caller; not for ed25519. " +
			"eip191: input is a message for Ethereum's personal_sign. eip712: input is the JSON of eth_signTypedData_v4. The last two only for ecdsa-secp256k1.",
		Default:      string(mpc.MessageRaw),
		DisplayAttrs: &framework.DisplayAttributes{Name: "Message type"},
	}
}

func hashAlgorithmField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString,
		Description: "Hash of a raw message before ECDSA on either curve: " + alternatives(mpc.Hashes(mpc.ECDSASecp256k1)) + "; default sha2-256. " +
			"With message_type=digest, sha2-384 and sha2-512 say that the input has 48 or 64 bytes. BIP-340 and Ed25519 hash by themselves and take none.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Hash algorithm"},
	}
}

// checkMessageKind reads message_type and hash_algorithm, empty where they are
// left out, for an account of the given algorithm and an input of inputLen
// bytes. What is wrong inside an input is found by mpc.SigningInput, whose
// errors are the caller's mistakes as well.
func checkMessageKind(alg mpc.Algorithm, messageType, hashAlgorithm string, inputLen int) (messageKind, error) {
	k := messageKind{kind: mpc.MessageType(messageType), hash: mpc.HashAlgorithm(hashAlgorithm)}
	switch k.kind {
	case "":
		k.kind = mpc.MessageRaw
	case mpc.MessageRaw:
	case mpc.MessageDigest:
		if alg == mpc.Ed25519 {
			return k, invalid("%s signs messages and takes no digest (Ed25519ph is another scheme): send the bytes to sign as the input with message_type=raw", alg)
		}
	case mpc.MessageEIP191, mpc.MessageEIP712:
		if alg != mpc.ECDSASecp256k1 {
			return k, invalid("message_type %s is Ethereum's and only for %s accounts, not for %s", k.kind, mpc.ECDSASecp256k1, alg)
		}
		if k.hash != "" && k.hash != mpc.HashKeccak256 {
			return k, invalid("message_type %s is always hashed by %s: leave hash_algorithm out", k.kind, mpc.HashKeccak256)
		}
		k.hash = mpc.HashKeccak256
		return k, nil
	default:
		return k, invalid("message_type %q is not %s", clip(messageType), alternatives(mpc.MessageTypes(alg)))
	}
	if err := k.checkHash(alg); err != nil {
		return k, err
	}
	if k.kind == mpc.MessageDigest {
		return k, k.checkDigest(alg, inputLen)
	}
	return k, nil
}

// checkHash checks and completes the hash beside a raw message or a digest.
func (k *messageKind) checkHash(alg mpc.Algorithm) error {
	if !alg.IsECDSA() {
		if k.hash != "" && k.hash != mpc.HashNone {
			return invalid("%s hashes by itself: leave hash_algorithm out", alg)
		}
		k.hash = mpc.HashNone
		return nil
	}
	hashes := mpc.Hashes(alg)
	switch {
	case k.hash == "" && k.kind == mpc.MessageDigest:
		k.hash = mpc.HashNone
	case k.hash == "":
		k.hash = hashes[0]
	case k.hash == mpc.HashNone && k.kind == mpc.MessageDigest, alg.Takes(k.hash):
	case k.hash == mpc.HashNone:
		return invalid("%s signs a digest: use hash_algorithm=%s, or message_type=digest", alg, alternatives(hashes))
	default:
		return invalid("hash_algorithm %q is not %s", clip(string(k.hash)), alternatives(hashes))
	}
	return nil
}

// checkDigest checks the length of a digest. Its hash is kept only where it
// says that the digest is longer than what is signed.
func (k *messageKind) checkDigest(alg mpc.Algorithm, inputLen int) error {
	named, want := "", k.hash.DigestLength()
	if want != mpc.DigestSize {
		named = fmt.Sprintf(" and hash_algorithm=%s", k.hash)
	}
	if inputLen != want {
		advice := "send the digest itself in base64, not its hex text"
		for _, h := range mpc.Hashes(alg) {
			if n := h.DigestLength(); n == inputLen && n != mpc.DigestSize {
				advice += fmt.Sprintf("; for a digest of %s name it in hash_algorithm, ECDSA signs its leftmost %d bytes", h, mpc.DigestSize)
			}
		}
		return invalid("with message_type=digest%s the input must have %d bytes, not %d: %s", named, want, inputLen, advice)
	}
	if want == mpc.DigestSize && k.hash != mpc.HashNone {
		k.warning = fmt.Sprintf("hash_algorithm=%s was ignored: with message_type=digest the input is signed as it is", k.hash)
		k.hash = mpc.HashNone
	}
	return nil
}

// alternatives writes "a, b or c".
func alternatives[T ~string](all []T) string {
	var b strings.Builder
	for i, one := range all {
		switch {
		case i > 0 && i == len(all)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(one))
	}
	return b.String()
}
