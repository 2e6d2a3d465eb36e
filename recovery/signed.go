package recovery

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxFile bounds every file of this package, in bytes. The largest, a bundle of
// sixteen shares, has about 30 KB.
const maxFile = 256 << 10

// maxName bounds names of recipients, in bytes.
const maxName = 48

// ErrSignature: the authority that was expected has not signed this.
var ErrSignature = errors.New("recovery: not signed by this authority")

// signed is a payload and the authority's Ed25519 signature over label ‖ 0 ‖
// payload. The label is the kind of payload, so that one kind cannot pass for
// another.
type signed struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

func sign(label string, payload []byte, authority ed25519.PrivateKey) ([]byte, error) {
	if len(authority) != ed25519.PrivateKeySize {
		return nil, errors.New("recovery: not an Ed25519 private key")
	}
	return json.Marshal(signed{Payload: payload, Signature: ed25519.Sign(authority, message(label, payload))})
}

func message(label string, payload []byte) []byte {
	return append(append([]byte(label), 0), payload...)
}

func parseSigned(b []byte) (*signed, error) {
	s := &signed{}
	if err := decode(b, s); err != nil {
		return nil, err
	}
	if len(s.Payload) == 0 || len(s.Signature) != ed25519.SignatureSize {
		return nil, errors.New("recovery: not a signed file: payload or signature is missing")
	}
	return s, nil
}

func (s *signed) verify(label string, authority ed25519.PublicKey) error {
	if len(authority) != ed25519.PublicKeySize || !ed25519.Verify(authority, message(label, s.Payload), s.Signature) {
		return ErrSignature
	}
	return nil
}

// hash names a payload, whoever has signed it.
func (s *signed) hash(label string) [32]byte { return sha256.Sum256(message(label, s.Payload)) }

// decode reads one JSON value strictly: known fields only, nothing behind it.
func decode(b []byte, into any) error {
	if len(b) > maxFile {
		return fmt.Errorf("recovery: %d bytes, more than any valid file", len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("recovery: not a file of this kind: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("recovery: something follows the JSON value")
	}
	return nil
}

func checkName(s string) error {
	if s == "" || len(s) > maxName || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return fmt.Errorf("recovery: a recipient's name has 1 to %d of a-z, 0-9, dot, dash and underscore", maxName)
	}
	return nil
}
