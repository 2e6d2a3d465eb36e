package client

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// MessageType says what SignRequest.Input is.
type MessageType string

// Message types; empty stands for MessageRaw.
const (
	MessageRaw MessageType = "raw" // the message itself; the nodes hash it
	// MessageDigest is a digest the caller made: 32 bytes (48 or 64 with
	// SHA-384 and SHA-512). Not for Ed25519.
	MessageDigest MessageType = "digest"
	MessageEIP191 MessageType = "eip191" // a message as of personal_sign; ecdsa-secp256k1
	MessageEIP712 MessageType = "eip712" // the JSON of eth_signTypedData_v4; ecdsa-secp256k1
)

// HashAlgorithm is how nodes hash a raw message before ECDSA.
type HashAlgorithm string

// Hash algorithms; empty stands for SHA256 with ECDSA. The other algorithms hash
// by themselves and take none.
const (
	SHA256    HashAlgorithm = "sha2-256"
	SHA384    HashAlgorithm = "sha2-384" // its leftmost 32 bytes are signed
	SHA512    HashAlgorithm = "sha2-512" // likewise
	Keccak256 HashAlgorithm = "keccak-256"
	SHA256d   HashAlgorithm = "sha-256d" // SHA-256 twice
)

// SignatureFormat is the encoding of a signature.
type SignatureFormat string

// Signature formats; empty stands for the algorithm's own: FormatDER with ECDSA,
// FormatCompact with BIP-340 and Ed25519.
const (
	FormatDER      SignatureFormat = "der"      // ASN.1, s in the lower half; ECDSA
	FormatCompact  SignatureFormat = "compact"  // r‖s, 64 bytes
	FormatEthereum SignatureFormat = "ethereum" // r‖s‖v, 65 bytes, v is 27 or 28; ecdsa-secp256k1
	FormatJWS      SignatureFormat = "jws"      // the 64 bytes of RFC 7515; not BIP-340
)

// SignRequest says what to sign. Input is required.
type SignRequest struct {
	Input         []byte // 1 byte to 512 KiB
	MessageType   MessageType
	HashAlgorithm HashAlgorithm
	Format        SignatureFormat
	// DerivationPath is the BIP-32 path of a child key, such as "m/0/7", without
	// hardened steps. secp256k1 only.
	DerivationPath string
	// TaprootTweak is "bip86" or a Merkle root in hex. bip340-secp256k1 only.
	TaprootTweak string
	// RequestID, 1 to 128 printable ASCII characters without spaces, makes the
	// request safe to repeat for 24 hours; see the package comment.
	RequestID string
	// Request is the ID of a request of one's own for exactly this, that was approved
	// and held (Request.Held): it goes on. Without RequestID.
	Request string
}

// NewRequestID returns a random RequestID of 26 letters and digits.
func NewRequestID() string { return rand.Text() }

// messageBody is what sign, verify and items of batches have in common.
type messageBody struct {
	Input          string          `json:"input"`
	MessageType    MessageType     `json:"message_type,omitempty"`
	HashAlgorithm  HashAlgorithm   `json:"hash_algorithm,omitempty"`
	Format         SignatureFormat `json:"signature_format,omitempty"`
	DerivationPath string          `json:"derivation_path,omitempty"`
	TaprootTweak   string          `json:"taproot_tweak,omitempty"`
	RequestID      string          `json:"request_id,omitempty"`
	Request        string          `json:"request,omitempty"`
	Reference      string          `json:"reference,omitempty"`
	Signature      string          `json:"signature,omitempty"`
}

func (r *SignRequest) body() *messageBody {
	return &messageBody{
		Input: base64.StdEncoding.EncodeToString(r.Input), MessageType: r.MessageType, HashAlgorithm: r.HashAlgorithm, Format: r.Format,
		DerivationPath: r.DerivationPath, TaprootTweak: r.TaprootTweak, RequestID: r.RequestID, Request: r.Request,
	}
}

// Signature is a signature and how it came about.
type Signature struct {
	Bytes  []byte // in Format
	Format SignatureFormat
	R, S   []byte // 32 bytes each; big-endian numbers except with Ed25519 (RFC 8032)
	// RecoveryID, 0 to 3, tells which of the keys that fit an ECDSA signature is
	// meant; -1 with other algorithms.
	RecoveryID int
	Digest     []byte // the 32 bytes that were signed: with ECDSA and MessageDigest; else nil
	PublicKey  []byte // it is valid under: the child's where one was asked for
	RequestID  string
	// Replayed says that this is the stored answer to an earlier request with
	// the same RequestID.
	Replayed   bool
	ShareEpoch uint64
	Signers    []Signer
	SessionID  string // of the protocol session, in hex
	Attempts   int    // sessions that were needed
	Presigned  bool   // whether a presignature was used
	Warnings   []string
}

// Signer is one of the nodes that signed.
type Signer struct {
	Index int    `json:"index"` // of its share, from 1
	Node  string `json:"node"`
}

// RSV returns an ECDSA signature as numbers: what Ethereum and Bitcoin libraries
// take. v is the recovery ID, which is Ethereum's yParity (0 or 1; 2 and 3 are
// possible with a probability of 2⁻¹²⁷); add 27 for a message (EIP-191, EIP-712),
// or 35 + 2·chainID for a legacy transaction (EIP-155). The standard library has no
// crypto.Signer for secp256k1, so Client.Signer does not serve these keys.
func (s *Signature) RSV() (r, sNumber *big.Int, v byte, err error) {
	if s.RecoveryID < 0 || s.RecoveryID > 3 {
		return nil, nil, 0, errors.New("only ECDSA signatures have a recovery ID")
	}
	return new(big.Int).SetBytes(s.R), new(big.Int).SetBytes(s.S), byte(s.RecoveryID), nil
}

// signatureData is a signature as it is sent.
type signatureData struct {
	SignatureHex hexText         `json:"signature_hex"`
	Format       SignatureFormat `json:"signature_format"`
	R            hexText         `json:"r"`
	S            hexText         `json:"s"`
	V            *int            `json:"v"`
	Digest       hexText         `json:"digest"`
	PublicKey    hexText         `json:"public_key"`
	RequestID    string          `json:"request_id"`
	Replayed     bool            `json:"replayed"`
	ShareEpoch   uint64          `json:"share_epoch"`
	Signers      []Signer        `json:"signers"`
	SessionID    string          `json:"session_id"`
	Attempts     int             `json:"attempts"`
	Presigned    bool            `json:"presigned"`
}

// signature checks that the engine did what was asked: Vault passes fields that an
// older engine does not know without a word.
func (d *signatureData) signature(op string, asked *SignRequest, warnings []string) (*Signature, error) {
	fail := func(what string) (*Signature, error) {
		return nil, fmt.Errorf("cannot %s: a signature was made, but %s; the engine is older than this package", op, what)
	}
	switch {
	case len(d.SignatureHex) == 0 || len(d.R) != 32 || len(d.S) != 32:
		return nil, fmt.Errorf("cannot %s: the answer holds no signature", op)
	case asked.Format != "" && d.Format != asked.Format:
		return fail(fmt.Sprintf("not in the format %q", asked.Format))
	case asked.RequestID != "" && d.RequestID != asked.RequestID:
		return fail("the engine does not know request_id: a repetition makes another signature")
	}
	s := &Signature{
		Bytes: d.SignatureHex, Format: d.Format, R: d.R, S: d.S, RecoveryID: -1, Digest: d.Digest, PublicKey: d.PublicKey,
		RequestID: d.RequestID, Replayed: d.Replayed, ShareEpoch: d.ShareEpoch, Signers: d.Signers, SessionID: d.SessionID,
		Attempts: d.Attempts, Presigned: d.Presigned, Warnings: warnings,
	}
	if d.V != nil {
		s.RecoveryID = *d.V
	}
	return s, nil
}

// Option changes how Sign, SignBatch and Signer go about their requests.
type Option func(*options)

type options struct {
	waitAux time.Duration
	pause   time.Duration // between two requests of a wait
}

// WaitForAuxiliaryKeys repeats a request that is refused with
// ErrAuxiliaryKeysPending until it is answered otherwise or maximum has passed,
// when the last refusal is returned. The engine itself waits up to its
// session_timeout each time; a request that has begun is not cut short.
func WaitForAuxiliaryKeys(maximum time.Duration) Option {
	return func(o *options) { o.waitAux = maximum }
}

func optionsOf(opts []Option) options {
	o := options{pause: time.Second}
	for _, set := range opts {
		set(&o)
	}
	return o
}

// waiting runs try until it ends with anything but ErrAuxiliaryKeysPending, as
// long as the options say.
func (o *options) waiting(ctx context.Context, try func() error) error {
	for end := time.Now().Add(o.waitAux); ; {
		err := try()
		if !errors.Is(err, ErrAuxiliaryKeysPending) || !time.Now().Add(o.pause).Before(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(o.pause):
		}
	}
}

// Sign lets the account's nodes sign. With ECDSA and without a presignature it
// takes seconds. Of an account whose signatures people approve it returns a
// *PendingError (errors.Is: ErrPending) with the request that was made.
func (c *Client) Sign(ctx context.Context, account string, req SignRequest, opts ...Option) (*Signature, error) {
	r, err := onAccount(http.MethodPut, "sign/", account, "", "sign with", req.body())
	if err != nil {
		return nil, err
	}
	o := optionsOf(opts)
	var sig *Signature
	err = o.waiting(ctx, func() error {
		var d answerOfSign
		warnings, err := c.do(ctx, r, &d)
		if err == nil {
			sig, err = d.result(r.op, &req, warnings)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}
