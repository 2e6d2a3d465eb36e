package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// recordIn reads the account's record from what the server offers: that of the account
// which the asset names.
func (t *custodyTask) recordIn(o *offered) (*mpc.PublicRecord, error) {
	record, err := mpc.ParsePublicRecord(o.Record)
	if err != nil {
		return nil, fmt.Errorf("the account's record: %w", err)
	}
	if hex.EncodeToString(record.AccountID[:]) != t.id {
		return nil, errors.New("the server shows another account's record than the one that the asset names")
	}
	return record, nil
}

// wantedSignature is what a signature with a custody key has to be: of this message,
// with the key that this home remembers for the account.
type wantedSignature struct {
	// record has the account's algorithm, the public key that is pinned, and the chain
	// code. Algorithm and chain code are the server's word, which does no harm: a
	// signature that verifies takes the private key of the pinned point, or of a child
	// of it, whatever curve or chain code it is said to have.
	record  mpc.PublicRecord
	purpose custody.Purpose // of which the message, and how it is signed, are used
	format  string          // as asked for; empty for the algorithm's usual one
}

// wantedFrom reads what a server shows of an account whose public key is pinned.
func wantedFrom(acc *account, purpose custody.Purpose, format string) (*wantedSignature, error) {
	w := &wantedSignature{purpose: purpose, format: format}
	w.record.Algorithm = mpc.Algorithm(acc.Algorithm)
	key, err := hex.DecodeString(acc.PublicKeyHex)
	if err != nil || !w.record.Algorithm.Valid() || len(key) != w.record.Algorithm.PublicKeySize() {
		return nil, errForm(fmt.Errorf("account %q is shown without a public key of its algorithm", acc.Name))
	}
	w.record.PublicKey = key
	chain, err := hex.DecodeString(acc.ChainCode)
	if err != nil || len(chain) != 0 && len(chain) != len(w.record.ChainCode) {
		return nil, errForm(fmt.Errorf("account %q is shown with a chain code that is none", acc.Name))
	}
	copy(w.record.ChainCode[:], chain)
	return w, nil
}

// errNotSigned: what the server gave out is not what the owner released the key for.
var errNotSigned = errors.New("the server's answer is not a signature of this message with the account's key, so it is not shown")

// checked is check, as the user is told of it.
func (w *wantedSignature) checked(what string, doc *signDoc) error {
	err := w.check(doc)
	if err == nil {
		return nil
	}
	return &refusal{what: "cannot " + what, cause: err,
		advice: "What you released serves this message alone, so nothing else was signed. A signature of it may have been made, which the\n" +
			"server keeps from you. Ask the engine's operators what happened before you sign again."}
}

// check demands that everything in an answer that is about the signature itself is
// that of this message: the signature in its format, and every other form of it.
func (w *wantedSignature) check(doc *signDoc) error {
	fail := func(what string) error { return fmt.Errorf("%w: %s", errNotSigned, what) }
	a, p := w.record.Algorithm, &w.purpose
	child, err := derive.Derive(&w.record, mpc.Derivation{Path: p.DerivationPath, TaprootTweak: p.TaprootTweak})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSigned, err)
	}
	signed, err := mpc.SigningInput(a, mpc.MessageType(p.MessageType), mpc.HashAlgorithm(usualHash(a, p.MessageType, p.HashAlgorithm)), p.Input)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSigned, err)
	}
	native, err := w.native(doc, child.PublicKey, signed)
	if err != nil {
		return fail(err.Error())
	}
	switch {
	case !verify.Signature(a, child.PublicKey, signed, native):
		return fail("it does not verify")
	case doc.PublicKey != hex.EncodeToString(child.PublicKey):
		return fail("it names another public key")
	case doc.Digest != "" && doc.Digest != hex.EncodeToString(signed):
		return fail("it names another digest")
	case doc.Path != p.DerivationPath || doc.TaprootTweak != p.TaprootTweak:
		return fail("it names another child key")
	}
	return nil
}

// native reads a signature in the format that was asked for and returns it as
// mpc/verify takes it. Its other forms, r, s, v and hex, have to say the same.
func (w *wantedSignature) native(doc *signDoc, public, signed []byte) ([]byte, error) {
	a, format := w.record.Algorithm, w.format
	if format == "" {
		if format = "compact"; a.IsECDSA() {
			format = "der"
		}
	}
	if doc.Format != format {
		return nil, fmt.Errorf("it is in the format %q, and %s was asked for", doc.Format, format)
	}
	encoding := base64.StdEncoding.Strict()
	if format == "jws" {
		encoding = base64.RawURLEncoding.Strict()
	}
	raw, err := encoding.DecodeString(doc.Signature)
	if err != nil || encoding.EncodeToString(raw) != doc.Signature || doc.SignatureHex != hex.EncodeToString(raw) {
		return nil, errors.New("the signature and its hex form differ, or are none")
	}
	r, err := hex.DecodeString(doc.R)
	if err != nil || len(r) != 32 {
		return nil, errors.New("r is not a number of 32 bytes")
	}
	s, err := hex.DecodeString(doc.S)
	if err != nil || len(s) != 32 {
		return nil, errors.New("s is not a number of 32 bytes")
	}
	native := append(bytes.Clone(r), s...)
	if a.IsECDSA() {
		native = verify.DER([32]byte(r), [32]byte(s))
	}
	var v int64
	if doc.V != nil {
		if v, err = doc.V.Int64(); err != nil || !verify.RecoversKey(a, public, signed, [32]byte(r), [32]byte(s), int(v)) {
			return nil, errors.New("v does not lead to the account's key")
		}
	}
	want := native
	switch format {
	case "der", "compact", "jws":
		if format != "der" {
			want = append(bytes.Clone(r), s...)
		}
	case "ethereum": // v = 27 + the parity of R.y
		if doc.V == nil || v > 1 {
			return nil, errors.New("it has no v")
		}
		want = append(append(bytes.Clone(r), s...), byte(27+v))
	default:
		return nil, fmt.Errorf("the format %q is not known here", format)
	}
	if !bytes.Equal(raw, want) {
		return nil, errors.New("the signature is not of its r, s and v")
	}
	return native, nil
}
