package backend

import (
	"encoding/base64"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

// maxInput bounds what is signed, in bytes after base64.
const maxInput = 512 << 10

// signFields are the fields of one signature, in a request of its own or in an
// item of a batch, for sign and verify alike.
func signFields() map[string]*framework.FieldSchema {
	fields := withDerivation(messageFields())
	fields["signature_format"] = &framework.FieldSchema{
		Type: framework.TypeString,
		Description: "Encoding of the signature: der (default of ECDSA), compact (r and s, 64 bytes; default of BIP-340 and Ed25519), " +
			"ethereum (ecdsa-secp256k1 only: r, s and v, 65 bytes, v 27 or 28) or jws (not for BIP-340: base64url of 64 bytes without padding).",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Signature format"},
	}
	return fields
}

// messageFields are the fields that say what is signed.
func messageFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"input": {
			Type:         framework.TypeString,
			Description:  "What is signed, in base64: what message_type says. At most 512 KiB.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Input"},
		},
		"message_type":   messageTypeField(),
		"hash_algorithm": hashAlgorithmField(),
	}
}

// message is the "what is signed, and by which key" of sign and verify.
type message struct {
	input      []byte
	kind       mpc.MessageType
	hash       mpc.HashAlgorithm
	warning    string         // of messageKind
	derivation mpc.Derivation // as it was sent
	// granted is set for an account with a policy, once the message was approved; of
	// a request that is being read it is nil.
	granted *granted
}

// signing is a request for one signature that was found good, or for its
// verification.
type signing struct {
	message
	algorithm mpc.Algorithm
	account   mpc.AccountID
	format    signatureFormat
	publicKey []byte // of the child, where one is asked for
	requestID string // empty for none
	warnings  []string
}

// parseSigning reads signFields and, where the schema has it, request_id.
func parseSigning(record *mpc.PublicRecord, data *framework.FieldData) (*signing, error) {
	q, err := parseWhat(record, data)
	if err != nil {
		return nil, err
	}
	return q, q.takeForm(data)
}

// parseWhat reads what is signed and by which key.
func parseWhat(record *mpc.PublicRecord, data *framework.FieldData) (*signing, error) {
	m, err := parseMessage(record.Algorithm, data)
	if err != nil {
		return nil, err
	}
	m.derivation = parseDerivation(data)
	q := &signing{message: *m, algorithm: record.Algorithm, account: record.AccountID, publicKey: record.PublicKey} // the same in every epoch
	if m.derivation != (mpc.Derivation{}) {
		child, err := derive.Derive(record, m.derivation)
		if err != nil {
			return nil, err
		}
		q.publicKey = child.PublicKey
	}
	if m.warning != "" {
		q.warnings = append(q.warnings, m.warning)
	}
	return q, nil
}

// takeForm reads how the signature is to be answered: its format and, where the
// schema has it, the request_id.
func (q *signing) takeForm(data *framework.FieldData) (err error) {
	if q.format, err = parseSignatureFormat(q.algorithm, data.Get("signature_format").(string)); err != nil {
		return err
	}
	if _, ok := data.Schema["request_id"]; ok {
		if q.requestID, err = parseRequestID(data); err != nil {
			return err
		}
	}
	if advice := signatureFormatAdvice(q.format, &q.message); advice != "" {
		q.warnings = append(slices.Clip(q.warnings), advice)
	}
	return nil
}

// parseMessage reads the fields for an account of the given algorithm.
func parseMessage(alg mpc.Algorithm, data *framework.FieldData) (*message, error) {
	input, err := decodeBase64(data, "input", maxInput)
	if err != nil {
		return nil, err
	}
	k, err := checkMessageKind(alg, data.Get("message_type").(string), data.Get("hash_algorithm").(string), len(input))
	if err != nil {
		return nil, err
	}
	return &message{input: input, kind: k.kind, hash: k.hash, warning: k.warning}, nil
}

func decodeBase64(data *framework.FieldData, field string, most int) ([]byte, error) {
	text := data.Get(field).(string)
	if text == "" {
		return nil, invalid("%s is missing: send it in base64", field)
	}
	if len(text) > base64.StdEncoding.EncodedLen(most) {
		return nil, invalid("%s is longer than %d bytes: send its digest with message_type=digest, which all algorithms but ed25519 take", field, most)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, invalid("%s is not base64 (standard alphabet, with padding): for example %s=$(printf hello | base64)", field, field)
	}
	if len(b) == 0 || len(b) > most {
		return nil, invalid("%s must have 1 to %d bytes", field, most)
	}
	return b, nil
}
