// Package secret holds the one type in which key shares, PINs and session keys
// travel through this program. It refuses to be printed, formatted or
// marshalled, and it can be wiped.
//
// Border: it imports only the standard library and every other package may
// import it. It does not encrypt anything and it does not promise that the Go
// runtime kept no copy (a moved stack, a grown slice); locking memory and
// forbidding core dumps is the node process's job.
package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

const redacted = "[redacted]"

// errRefused is returned by every marshaller of Bytes.
var errRefused = errors.New("secret: refusing to marshal a secret")

// Bytes is a secret byte string. The zero value and nil are empty secrets.
// Methods may be called concurrently as long as none of them is Wipe.
type Bytes struct{ b []byte }

// New takes ownership of b: the caller must not use or keep it afterwards.
func New(b []byte) *Bytes { return &Bytes{b: b} }

// Copy returns a secret that holds a copy of b; b stays the caller's to wipe.
func Copy(b []byte) *Bytes { return &Bytes{b: append([]byte(nil), b...)} }

// Expose returns the secret itself, not a copy. The result is valid until Wipe
// and must not be kept, logged or put into an error.
func (s *Bytes) Expose() []byte {
	if s == nil {
		return nil
	}
	return s.b
}

// Len returns the length in bytes.
func (s *Bytes) Len() int { return len(s.Expose()) }

// Clone returns an independent copy, to be wiped on its own.
func (s *Bytes) Clone() *Bytes { return Copy(s.Expose()) }

// Equal compares in time that depends on the lengths only.
func (s *Bytes) Equal(other *Bytes) bool {
	return subtle.ConstantTimeCompare(s.Expose(), other.Expose()) == 1
}

// Wipe overwrites the secret with zeros and empties it. Wiping nil is allowed.
func (s *Bytes) Wipe() {
	if s == nil {
		return
	}
	Wipe(s.b)
	s.b = nil
}

// Wipe overwrites b with zeros.
func Wipe(b []byte) { clear(b) }

// String and the other formatters never show the secret.
func (s *Bytes) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s *Bytes) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb (%x, %d, …) shows the bytes.
func (s *Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalJSON always fails.
func (s *Bytes) MarshalJSON() ([]byte, error) { return nil, errRefused }

// MarshalText always fails.
func (s *Bytes) MarshalText() ([]byte, error) { return nil, errRefused }

// MarshalBinary always fails; it also keeps gob and CBOR away.
func (s *Bytes) MarshalBinary() ([]byte, error) { return nil, errRefused }
