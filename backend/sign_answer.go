package backend

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// errNotTheAnswer: no signature leaves this program that does not verify, nor
// does one that was stored.
var errNotTheAnswer = errors.New("the answer stored for this request_id is no signature of this request, so it is not given out and nothing was signed: the entry was damaged, or changed by somebody who writes Vault's storage; find out why, then use a new request_id")

// signAnswer returns the fields of the answer to one signing request. With a
// request_id they are stored: they hold nothing that is not public.
func signAnswer(q *signing, res *pool.SignResult, record *mpc.PublicRecord) (map[string]any, error) {
	sig := &res.Signature
	encoded, err := q.format.encode(sig)
	if err != nil {
		return nil, err
	}
	signers := make([]map[string]any, len(res.Signers))
	for i, s := range res.Signers {
		signers[i] = map[string]any{"index": int(s.Index), "node": s.NodeID}
	}
	out := map[string]any{
		"signature":        q.format.text(encoded),
		"signature_hex":    hex.EncodeToString(encoded),
		"signature_format": string(q.format),
		"r":                hex.EncodeToString(sig.R[:]),
		"s":                hex.EncodeToString(sig.S[:]),
		"public_key":       hex.EncodeToString(q.publicKey),
		"share_epoch":      record.Epoch,
		"signers":          signers,
		"session_id":       res.SessionID.String(),
		"attempts":         res.Attempts,
	}
	if sig.RecoveryID >= 0 {
		out["v"] = sig.RecoveryID
	}
	if record.Algorithm.IsECDSA() {
		out["presigned"] = res.Presigned
	}
	if record.Algorithm.IsECDSA() || q.kind == mpc.MessageDigest {
		out["digest"] = hex.EncodeToString(sig.Digest)
	}
	if q.derivation.Path != "" {
		out["derivation_path"] = q.derivation.Path
	}
	if q.derivation.TaprootTweak != "" {
		out["taproot_tweak"] = q.derivation.TaprootTweak
	}
	return out, nil
}

// answeredBy checks a stored answer like a fresh one: the signature against what
// is asked for now, and every other form of it in the answer against the
// signature.
func (q *signing) answeredBy(answer map[string]any) bool {
	text := func(field string) string { s, _ := answer[field].(string); return s }
	encoded, err := q.format.parseText(text("signature"))
	if err != nil {
		return false
	}
	sig, _ := q.format.parse(q.algorithm, encoded)
	signed, err := mpc.SigningInput(q.algorithm, q.kind, q.hash, q.input)
	if sig == nil || err != nil || !verify.Signature(q.algorithm, q.publicKey, signed, sig.native) {
		return false
	}
	digest, shown := answer["digest"]
	if text("signature_hex") != hex.EncodeToString(encoded) || text("signature_format") != string(q.format) ||
		text("public_key") != hex.EncodeToString(q.publicKey) || shown && digest != hex.EncodeToString(signed) {
		return false
	}
	var r, s [32]byte
	if decodeHex(text("r"), r[:], "r") != nil || decodeHex(text("s"), s[:], "s") != nil {
		return false
	}
	if !q.algorithm.IsECDSA() {
		return bytes.Equal(sig.native, append(r[:], s[:]...))
	}
	number, _ := answer["v"].(json.Number)
	v, err := number.Int64()
	return err == nil && bytes.Equal(sig.native, verify.DER(r, s)) &&
		(sig.recoveryID < 0 || sig.recoveryID == int(v)) && verify.RecoversKey(q.algorithm, q.publicKey, signed, r, s, int(v))
}
