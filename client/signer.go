package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	stded25519 "crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// maxMessage is how much the engine takes to sign, in bytes.
const maxMessage = 512 << 10

// p256Digest is how much of a digest ECDSA on P-256 signs: its leftmost 32 bytes
// (FIPS 186-5 §6.4.1).
const p256Digest = 32

// Signer returns the account's key as a crypto.Signer, for x509, tls, JWT
// libraries and golang.org/x/crypto/ssh (NewSignerFromSigner). Only for ecdsa-p256
// and ed25519; for the secp256k1 algorithms, which the standard library does not
// know, see Sign and Signature.RSV.
//
// With ecdsa-p256, Sign takes a digest and the hash that made it (SHA-256 or
// longer), and returns ASN.1 DER; with ed25519 it takes the message and
// crypto.Hash(0). The Signer is a crypto.MessageSigner, too, which x509 and tls
// prefer: the nodes then hash messages for SHA-256 themselves, so that
// presignatures serve (CreateOptions.Presign). Without one, an ecdsa-p256 signature
// takes seconds, which a TLS server's clients notice.
//
// crypto.Signer has no context: ctx holds for every signature made through it.
// Every signature is checked against the key that Public returns before it is given
// out, so an account that was destroyed and made anew under the same name is found
// out. No request_id is sent: a repetition makes another signature, which in a
// handshake does no harm.
func (c *Client) Signer(ctx context.Context, account string, opts ...Option) (crypto.Signer, error) {
	a, err := c.Account(ctx, account)
	if err != nil {
		return nil, err
	}
	s := &signer{client: c, ctx: ctx, account: account, opts: opts}
	fail := func(err error) (crypto.Signer, error) {
		return nil, fmt.Errorf("cannot make a crypto.Signer of account %q: %w", account, err)
	}
	switch a.Algorithm {
	case ECDSAP256, Ed25519:
	default:
		return fail(fmt.Errorf("the standard library does not know %s keys; use Sign", a.Algorithm))
	}
	block, _ := pem.Decode([]byte(a.PublicKeyPEM))
	if block == nil {
		return fail(errors.New("its public key is not PEM"))
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fail(err)
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if a.Algorithm == ECDSAP256 && key.Curve == elliptic.P256() {
			s.ecdsa = key
			return s, nil
		}
	case stded25519.PublicKey:
		if a.Algorithm == Ed25519 {
			s.ed25519 = key
			return s, nil
		}
	}
	return fail(fmt.Errorf("its public key is a %T and no %s key", key, a.Algorithm))
}

// signer is a crypto.MessageSigner. One of the two keys is set.
type signer struct {
	client  *Client
	ctx     context.Context // of every signature; see Client.Signer
	account string
	opts    []Option
	ecdsa   *ecdsa.PublicKey
	ed25519 stded25519.PublicKey
}

var _ crypto.MessageSigner = (*signer)(nil)

// Public returns an *ecdsa.PublicKey or an ed25519.PublicKey.
func (s *signer) Public() crypto.PublicKey {
	if s.ecdsa != nil {
		return s.ecdsa
	}
	return s.ed25519
}

// Sign signs a digest (ECDSA) or a message (Ed25519). Nodes choose the randomness.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, err := s.hash(opts)
	if err != nil {
		return nil, err
	}
	if s.ed25519 != nil {
		return s.checked(digest, nil, SignRequest{Input: digest})
	}
	if len(digest) != hash.Size() {
		return nil, s.errorf("a digest of %d bytes is none of %v", len(digest), hash)
	}
	digest = digest[:p256Digest]
	return s.checked(nil, digest, SignRequest{Input: digest, MessageType: MessageDigest})
}

// SignMessage signs a message that nobody has hashed.
func (s *signer) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, err := s.hash(opts)
	if err != nil {
		return nil, err
	}
	if s.ed25519 != nil {
		return s.Sign(rand, message, opts)
	}
	if !hash.Available() {
		return nil, s.errorf("%v is not linked into this program", hash)
	}
	h := hash.New()
	h.Write(message)
	digest := h.Sum(nil)
	if hash != crypto.SHA256 || len(message) == 0 || len(message) > maxMessage {
		return s.Sign(rand, digest, opts)
	}
	return s.checked(nil, digest, SignRequest{Input: message, HashAlgorithm: SHA256})
}

// hash checks what the caller says of its hash.
func (s *signer) hash(opts crypto.SignerOpts) (crypto.Hash, error) {
	var hash crypto.Hash
	if opts != nil {
		hash = opts.HashFunc()
	}
	if s.ed25519 != nil {
		if hash != 0 {
			return 0, s.errorf("Ed25519 signs messages and takes no hash (Ed25519ph is another scheme); give crypto.Hash(0)")
		}
		if o, ok := opts.(*stded25519.Options); ok && o.Context != "" {
			return 0, s.errorf("Ed25519ctx, with its context, is another scheme")
		}
		return 0, nil
	}
	if hash == 0 {
		return 0, s.errorf("ECDSA signs digests: say in the options by which hash")
	}
	switch hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA512_256, crypto.SHA3_256, crypto.SHA3_384, crypto.SHA3_512:
		return hash, nil
	}
	return 0, s.errorf("%v is not a hash for P-256: use SHA-256", hash)
}

// checked signs, and verifies the signature: with Ed25519 of message, else of
// digest.
func (s *signer) checked(message, digest []byte, req SignRequest) ([]byte, error) {
	sig, err := s.client.Sign(s.ctx, s.account, req, s.opts...)
	if err != nil {
		return nil, err
	}
	if s.ed25519 != nil && stded25519.Verify(s.ed25519, message, sig.Bytes) ||
		s.ecdsa != nil && ecdsa.VerifyASN1(s.ecdsa, digest, sig.Bytes) {
		return sig.Bytes, nil
	}
	return nil, s.errorf("the signature is not valid under the key the account had when this Signer was made")
}

func (s *signer) errorf(format string, args ...any) error {
	return fmt.Errorf("cannot sign with account %q: %w", s.account, fmt.Errorf(format, args...))
}
