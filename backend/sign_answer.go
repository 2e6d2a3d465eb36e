package backend

import (
	"encoding/hex"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

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
