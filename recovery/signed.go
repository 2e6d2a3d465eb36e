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
	"time"
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

// decode reads one JSON value strictly: known fields only, each once and spelt as
// Marshal spells it, nothing behind it. Without the rule on names a file could
// show one key to whoever reads it and another to the program, which takes the
// last of two.
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
	return plainNames(json.NewDecoder(bytes.NewReader(b)))
}

// plainNames reads one value and refuses names that occur twice in an object or
// that encoding/json takes for a field only because it ignores case. decode has
// bounded the depth before: no field takes objects deeper than ours.
func plainNames(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("recovery: not JSON: %w", err)
	}
	if t != json.Delim('{') && t != json.Delim('[') {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if t == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				return fmt.Errorf("recovery: not JSON: %w", err)
			}
			n, _ := name.(string)
			if seen[n] || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz_") != "" {
				return fmt.Errorf("recovery: the field %q is there twice or misspelt", n)
			}
			seen[n] = true
		}
		if err := plainNames(d); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

// checkTime refuses what JSON cannot hold once it is in UTC.
func checkTime(t time.Time) error {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("recovery: a time in the year %d", y)
	}
	return nil
}

func checkName(s string) error {
	if !plainName(s) {
		return fmt.Errorf("recovery: a recipient's name has 1 to %d of a-z, 0-9, dot, dash and underscore", maxName)
	}
	return nil
}
