package backend

import (
	"crypto/elliptic"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// signatureFormat names an encoding of a signature, as the API spells it. The
// functions of this file are pure. Reading is as strict as writing: what is
// read is exactly what is written for some signature, or it is refused.
type signatureFormat string

const (
	// formatDER is SEQUENCE{INTEGER r, INTEGER s} (RFC 3279, section 2.2.3), at
	// most 72 bytes.
	formatDER signatureFormat = "der"
	// formatCompact is r‖s, 32 bytes big-endian each; with BIP-340 and Ed25519
	// the 64 bytes that these schemes define.
	formatCompact signatureFormat = "compact"
	// formatEthereum is r‖s‖v in 65 bytes, v = 27 + the parity of R.y (Ethereum
	// Yellow Paper, appendix F). Signatures for transactions after EIP-155 or
	// EIP-1559 carry another v, which follows from the answer's v, 0 or 1.
	formatEthereum signatureFormat = "ethereum"
	// formatJWS is the 64 bytes of formatCompact (RFC 7518, section 3.4; RFC
	// 8812, section 3.2; RFC 8037, section 3.1) in base64url without padding.
	formatJWS signatureFormat = "jws"
)

const (
	compactSize  = 64
	ethereumSize = 65
	ethereumV    = 27 // of recovery ID 0
)

// signatureFormats lists those that an algorithm has, the default first.
func signatureFormats(a mpc.Algorithm) []signatureFormat {
	switch a {
	case mpc.ECDSASecp256k1:
		return []signatureFormat{formatDER, formatCompact, formatEthereum, formatJWS}
	case mpc.ECDSAP256:
		return []signatureFormat{formatDER, formatCompact, formatJWS}
	case mpc.Ed25519:
		return []signatureFormat{formatCompact, formatJWS}
	}
	return []signatureFormat{formatCompact}
}

// parseSignatureFormat reads the field; empty is the algorithm's default.
func parseSignatureFormat(a mpc.Algorithm, text string) (signatureFormat, error) {
	all := signatureFormats(a)
	if text == "" {
		return all[0], nil
	}
	if f := signatureFormat(text); slices.Contains(all, f) {
		return f, nil
	}
	return "", invalid("%s has no signature_format %q: use %s", a, clip(text), alternatives(all))
}

// encode returns the bytes of a signature in the format. It fails only for
// formatEthereum, which cannot say that R.x was not below the order.
func (f signatureFormat) encode(sig *mpc.Signature) ([]byte, error) {
	if f == formatDER {
		return sig.Bytes, nil
	}
	out := append(append(make([]byte, 0, ethereumSize), sig.R[:]...), sig.S[:]...)
	if f != formatEthereum {
		return out, nil
	}
	if sig.RecoveryID != 0 && sig.RecoveryID != 1 {
		return nil, fmt.Errorf("the signature has the recovery ID %d, which signature_format=ethereum cannot carry (its chance is about 2^-127): repeat the request", sig.RecoveryID)
	}
	return append(out, byte(ethereumV+sig.RecoveryID)), nil
}

// text is how an answer's signature field shows those bytes.
func (f signatureFormat) text(b []byte) string {
	if f == formatJWS {
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// parseText reverses text for a request's signature field. What is not so
// encoded is the caller's mistake.
func (f signatureFormat) parseText(text string) ([]byte, error) {
	if text == "" {
		return nil, invalid("signature is missing: send what sign returned")
	}
	if len(text) > base64.StdEncoding.EncodedLen(maxSignature) {
		return nil, invalid("signature is longer than %d bytes", maxSignature)
	}
	encoding, what := base64.StdEncoding.Strict(), "signature is not base64 (standard alphabet, with padding); base64url belongs to signature_format=jws"
	if f == formatJWS {
		encoding, what = base64.RawURLEncoding.Strict(), "signature is not base64url without padding (RFC 7515), which signature_format=jws has: send what sign returned, or the part of the JWS after the last dot"
		if strings.ContainsAny(text, "\r\n") { // the decoder would skip them
			return nil, invalid("%s", what)
		}
	}
	b, err := encoding.DecodeString(text)
	if err != nil {
		return nil, invalid("%s", what)
	}
	if len(b) > maxSignature {
		return nil, invalid("signature is longer than %d bytes", maxSignature)
	}
	return b, nil
}

// givenSignature is a signature that a caller wants to know about.
type givenSignature struct {
	native []byte // as mpc/verify takes it
	// r, s and recoveryID are set for formatEthereum only, recoveryID to -1
	// elsewhere.
	r, s       [32]byte
	recoveryID int
}

// parse reads a signature's bytes. Where they are not of the format, so that
// the signature cannot be valid, it says why in words and returns nil.
func (f signatureFormat) parse(a mpc.Algorithm, b []byte) (sig *givenSignature, flaw string) {
	sig = &givenSignature{native: b, recoveryID: -1}
	if f == formatDER {
		return sig, "" // mpc/verify is strict about it
	}
	size := compactSize
	if f == formatEthereum {
		size = ethereumSize
	}
	if len(b) != size {
		return nil, fmt.Sprintf("the signature has %d bytes, but %d with signature_format=%s: name the format that it has", len(b), size, f)
	}
	if f == formatEthereum {
		v := b[compactSize]
		if v != ethereumV && v != ethereumV+1 {
			return nil, fmt.Sprintf("the last byte of the signature, v, is %d, and only 27 and 28 are taken: of 0 and 1, and of EIP-155's chain numbers, make these first", v)
		}
		sig.recoveryID = int(v - ethereumV)
	}
	copy(sig.r[:], b[:32])
	copy(sig.s[:], b[32:compactSize])
	if !a.IsECDSA() {
		return sig, ""
	}
	if isHigh(a, sig.s) {
		return nil, "s is in the upper half of its range, where accounts never put it: whoever changed the signature can take the order minus s instead"
	}
	sig.native = verify.DER(sig.r, sig.s)
	return sig, ""
}

// isHigh says whether an ECDSA signature's s is above half the order.
func isHigh(a mpc.Algorithm, s [32]byte) bool {
	order := secp256k1.Params().N
	if a == mpc.ECDSAP256 {
		order = elliptic.P256().Params().N
	}
	return new(big.Int).SetBytes(s[:]).Cmp(new(big.Int).Rsh(order, 1)) > 0
}

// signatureFormatAdvice says that a format and a hash do not go together where
// the format is used; empty where they do.
func signatureFormatAdvice(f signatureFormat, m *message) string {
	if m.kind != mpc.MessageRaw {
		return ""
	}
	switch {
	case f == formatEthereum && m.hash != mpc.HashKeccak256:
		return fmt.Sprintf("the message was hashed with %s, and Ethereum hashes with keccak-256: see hash_algorithm", m.hash)
	case f == formatJWS && m.hash != mpc.HashSHA256 && m.hash != mpc.HashNone:
		return fmt.Sprintf("the message was hashed with %s, and ES256 and ES256K of JWS hash with sha2-256: see hash_algorithm", m.hash)
	}
	return ""
}
