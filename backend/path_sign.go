package backend

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// maxInput bounds what is signed, in bytes after base64.
const maxInput = 512 << 10

// messageFields are the fields that say what is signed.
func messageFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": nameField(),
		"input": {
			Type:         framework.TypeString,
			Description:  "What is signed, in base64: the message, or a 32-byte digest with message_type=digest. At most 512 KiB.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Input"},
		},
		"message_type": {
			Type:         framework.TypeString,
			Description:  "raw: input is the message (default). digest: input is a 32-byte digest made by the caller; not for ed25519.",
			Default:      string(mpc.MessageRaw),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Message type"},
		},
		"hash_algorithm": {
			Type:         framework.TypeString,
			Description:  "Hash of a raw message before ECDSA on either curve: sha2-256 (default) or keccak-256. BIP-340 and Ed25519 hash by themselves and take none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Hash algorithm"},
		},
	}
}

func (b *backend) pathSign() []*framework.Path {
	return []*framework.Path{{
		Pattern: "sign/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "sign",
		},
		Fields: withDerivation(messageFields()),
		Operations: map[logical.Operation]framework.OperationHandler{
			// The deadline depends on the account's algorithm: b.sign sets a
			// shorter one where it can.
			logical.UpdateOperation: b.operation("Sign.", true, b.handle("sign", maxSessionTimeout, b.sign), map[string]*framework.FieldSchema{
				"signature":       field(framework.TypeString, "The signature in base64: DER with low s (ECDSA), 64 bytes (BIP-340, Ed25519)."),
				"signature_hex":   field(framework.TypeString, "The signature in hex."),
				"r":               field(framework.TypeString, "First half, 32 bytes in hex."),
				"s":               field(framework.TypeString, "Second half, 32 bytes in hex."),
				"v":               optional(framework.TypeInt, "Recovery ID 0 to 3, ECDSA only."),
				"digest":          optional(framework.TypeString, "The 32 bytes that were signed, in hex: with ECDSA, and with message_type=digest."),
				"public_key":      field(framework.TypeString, "Public key that the signature is valid under, in hex: the child's where one was asked for."),
				"derivation_path": optional(framework.TypeString, "The path that was asked for, if one was."),
				"taproot_tweak":   optional(framework.TypeString, "The tweak that was asked for, if one was."),
				"share_epoch":     field(framework.TypeInt64, "Share epoch that signed."),
				"signers":         field(framework.TypeSlice, "Share index and node of each signer."),
				"session_id":      field(framework.TypeString, "ID of the protocol session, in hex."),
				"attempts":        field(framework.TypeInt, "Sessions that were needed."),
				"presigned":       optional(framework.TypeBool, "Whether a presignature was used, ECDSA only."),
			}),
		},
		HelpSynopsis: "Sign with an account's threshold key.",
		HelpDescription: `
Lets t nodes sign together:

  $ vault write mpc/sign/alice input=$(printf hello | base64)
  $ vault write mpc/sign/bob input=$(printf hello | base64) hash_algorithm=keccak-256
  $ vault write mpc/sign/bob message_type=digest input=$(openssl dgst -sha256 -binary file | base64)
  $ vault write mpc/sign/bob input=$(printf hello | base64) derivation_path=m/0/7

With derivation_path or taproot_tweak the child's key signs; see
mpc/accounts/:name/derive.

When a node fails, others take its place within the request's time limit (5 s;
session_timeout of config/nodes for ECDSA).
`,
	}}
}

// message is the "what is signed, and by which key" of sign and verify.
type message struct {
	input      []byte
	kind       mpc.MessageType
	hash       mpc.HashAlgorithm
	derivation mpc.Derivation // as it was sent
}

// parseMessage reads the fields for an account of the given algorithm.
func parseMessage(alg mpc.Algorithm, data *framework.FieldData) (*message, error) {
	input, err := decodeBase64(data, "input", maxInput)
	if err != nil {
		return nil, err
	}
	m := &message{
		input: input,
		kind:  mpc.MessageType(data.Get("message_type").(string)),
		hash:  mpc.HashAlgorithm(data.Get("hash_algorithm").(string)),
	}
	switch m.kind {
	case mpc.MessageRaw:
	case mpc.MessageDigest:
		if alg == mpc.Ed25519 {
			return nil, invalid("%s signs messages and takes no digest (Ed25519ph is another scheme): send the bytes to sign as the input with message_type=raw", alg)
		}
		if len(input) != mpc.DigestSize {
			return nil, invalid("with message_type=digest the input must have %d bytes, not %d: send the digest itself in base64, not its hex text", mpc.DigestSize, len(input))
		}
	default:
		return nil, invalid("message_type %q is not raw or digest", clip(string(m.kind)))
	}
	if !alg.IsECDSA() {
		if m.hash != "" && m.hash != mpc.HashNone {
			return nil, invalid("%s hashes by itself: leave hash_algorithm out", alg)
		}
		m.hash = mpc.HashNone
		return m, nil
	}
	switch m.hash {
	case "":
		m.hash = mpc.HashSHA256
	case mpc.HashSHA256, mpc.HashKeccak256:
	case mpc.HashNone:
		if m.kind == mpc.MessageDigest {
			break
		}
		return nil, invalid("%s signs a digest: use hash_algorithm=sha2-256 or keccak-256, or message_type=digest", alg)
	default:
		return nil, invalid("hash_algorithm %q is not sha2-256 or keccak-256", clip(string(m.hash)))
	}
	if m.kind == mpc.MessageDigest {
		m.hash = mpc.HashNone // it says how the digest was made; nothing is hashed here
	}
	return m, nil
}

func decodeBase64(data *framework.FieldData, field string, most int) ([]byte, error) {
	text := data.Get(field).(string)
	if text == "" {
		return nil, invalid("%s is missing: send it in base64", field)
	}
	if len(text) > base64.StdEncoding.EncodedLen(most) {
		return nil, invalid("%s is longer than %d bytes: send a digest with message_type=digest", field, most)
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

func (b *backend) sign(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	v, a, timeout, err := b.readForSigning(ctx, name)
	if err != nil {
		return nil, err
	}
	m, err := parseMessage(a.Record.Algorithm, data)
	if err != nil {
		return nil, err
	}
	m.derivation = parseDerivation(data)
	publicKey := a.Record.PublicKey // the same in every epoch
	if m.derivation != (mpc.Derivation{}) {
		child, err := derive.Derive(&a.Record, m.derivation)
		if err != nil {
			return nil, err
		}
		publicKey = child.PublicKey
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	res, used, err := b.signAccount(ctx, eng, name, v.unsettled, a, m)
	if err != nil {
		return nil, err
	}
	return signAnswer(m, res, &used.Record, publicKey), nil
}

// needSignable reads what signing needs of an account that the caller says
// exists. Whether it may sign is for readForSigning: verifying and deriving are
// allowed in every state.
func (b *backend) needSignable(ctx context.Context, name string) (*signable, error) {
	v, err := b.store.signable(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case v == nil:
		return nil, noAccount(name)
	case v.renamingTo != "" && v.renamingTo != name:
		return nil, &movingError{name, v.renamingTo}
	}
	return v, nil
}

// readForSigning reads what a signature needs, and how long it may take.
func (b *backend) readForSigning(ctx context.Context, name string) (*signable, *mpc.Account, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	v, err := b.needSignable(ctx, name)
	if err == nil {
		err = v.usable(name) // not if it is frozen or deleted
	}
	if err != nil {
		return nil, nil, 0, err
	}
	a, err := b.store.forUse(ctx, v)
	if err != nil {
		return nil, nil, 0, err
	}
	if !a.Record.Algorithm.NeedsAuxiliaryKeys() {
		return v, a, requestTimeout, nil
	}
	nodes, err := b.store.nodesConfig(ctx)
	return v, a, nodes.sessionTimeout(), err
}

// signAccount signs, and once more after the account's epoch changed under it
// or an epoch that was never settled has been. It returns the account as it
// was when it signed. unsettled says that its epoch is.
func (b *backend) signAccount(ctx context.Context, eng Engine, name string, unsettled bool, a *mpc.Account, m *message) (*pool.SignResult, *mpc.Account, error) {
	try := func() (*pool.SignResult, error) {
		b.runner.Opened(name)
		return eng.Sign(ctx, pool.SignRequest{
			Account: *a, Input: m.input, MessageType: m.kind, Hash: m.hash, Derivation: m.derivation,
			Expose: b.expose(name, &a.Record),
		})
	}
	res, err := try()
	if err == nil {
		return res, a, nil
	}
	switch {
	case errors.Is(err, errEpochChanged):
	case errors.Is(err, pool.ErrShareUnusable) && unsettled:
		if settleErr := b.settleForSigning(ctx, eng, name, a.Record.EpochID, err); settleErr != nil {
			return nil, nil, errors.Join(err, settleErr)
		}
	default:
		return nil, nil, err
	}
	id := a.Record.AccountID
	r, err := b.needSigning(ctx, name) // as it is in storage
	if err != nil {
		return nil, nil, err
	}
	if a, err = b.store.usable(ctx, r); err != nil {
		return nil, nil, err
	}
	if a.Record.AccountID != id { // destroyed, and the name was taken anew
		return nil, nil, errEpochChanged
	}
	res, err = try()
	return res, a, err
}

// settleForSigning settles the account unless it has left the epoch already.
// cause is why a share did not open.
func (b *backend) settleForSigning(ctx context.Context, eng Engine, name string, id mpc.EpochID, cause error) error {
	// Another signature may be at it, or a refresh, which settles as well.
	release, err := b.busy.reserveSoon(ctx, prefixAccounts+name, "is being settled")
	if err != nil {
		return err
	}
	defer release()
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return err
	}
	current, err := r.Current.account()
	if err != nil || r.Previous == nil || current.Record.EpochID != id {
		return err
	}
	var back *accountRecord
	if r.sameEpoch() { // other shares need not be looked at, and their nodes may be away
		back, err = b.goBack(ctx, name, id, cause)
	} else {
		back, err = b.settle(ctx, eng, name, r)
	}
	if errors.Is(err, errRolledBack) {
		b.accountChanged(name, back)
		b.runner.Failed(name, err)
		return nil
	}
	return err
}

func signAnswer(m *message, res *pool.SignResult, record *mpc.PublicRecord, publicKey []byte) *logical.Response {
	sig := res.Signature
	signers := make([]map[string]any, len(res.Signers))
	for i, s := range res.Signers {
		signers[i] = map[string]any{"index": int(s.Index), "node": s.NodeID}
	}
	out := map[string]any{
		"signature":     base64.StdEncoding.EncodeToString(sig.Bytes),
		"signature_hex": hex.EncodeToString(sig.Bytes),
		"r":             hex.EncodeToString(sig.R[:]),
		"s":             hex.EncodeToString(sig.S[:]),
		"public_key":    hex.EncodeToString(publicKey),
		"share_epoch":   record.Epoch,
		"signers":       signers,
		"session_id":    res.SessionID.String(),
		"attempts":      res.Attempts,
	}
	if sig.RecoveryID >= 0 {
		out["v"] = sig.RecoveryID
	}
	if record.Algorithm.IsECDSA() {
		out["presigned"] = res.Presigned
	}
	if record.Algorithm.IsECDSA() || m.kind == mpc.MessageDigest {
		out["digest"] = hex.EncodeToString(sig.Digest)
	}
	if m.derivation.Path != "" {
		out["derivation_path"] = m.derivation.Path
	}
	if m.derivation.TaprootTweak != "" {
		out["taproot_tweak"] = m.derivation.TaprootTweak
	}
	return &logical.Response{Data: out}
}
