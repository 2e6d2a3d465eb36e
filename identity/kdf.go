package identity

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"vault-plugin-secrets-mpc/secret"
)

// KDF holds the parameters of Argon2id (RFC 9106).
type KDF struct {
	Time    uint32 `json:"time"`       // passes
	Memory  uint32 `json:"memory_kib"` // KiB
	Threads uint8  `json:"threads"`
}

// DefaultKDF is the second recommended choice of RFC 9106, section 4: 3 passes,
// 64 MiB, 4 threads.
func DefaultKDF() KDF { return KDF{Time: 3, Memory: 64 << 10, Threads: 4} }

// ErrWeakKDF: parameters below what this program accepts. A server that sends such
// wants guessing to be cheap.
var ErrWeakKDF = errors.New("identity: the parameters of the password hash are weaker than allowed")

// Check refuses parameters below the default's cost and above what a client can do
// (16 passes, 1 GiB, 16 threads).
func (k KDF) Check() error {
	d := DefaultKDF()
	if k.Time < d.Time || k.Memory < d.Memory || k.Threads < 1 {
		return fmt.Errorf("%w: %d passes over %d KiB, and at least %d over %d KiB are needed", ErrWeakKDF, k.Time, k.Memory, d.Time, d.Memory)
	}
	if k.Time > 16 || k.Memory > 1<<20 || k.Threads > 16 {
		return invalid("parameters of the password hash that are out of bounds: %d passes over %d KiB", k.Time, k.Memory)
	}
	return nil
}

// Derive stretches a secret with a salt (16 bytes or more) to 32 bytes.
func (k KDF) Derive(from *secret.Bytes, salt []byte) (*secret.Bytes, error) {
	if err := k.Check(); err != nil {
		return nil, err
	}
	if len(salt) < 16 || from.Len() == 0 {
		return nil, invalid("nothing to stretch, or a salt of %d bytes", len(salt))
	}
	return secret.New(argon2.IDKey(from.Expose(), salt, k.Time, k.Memory, k.Threads, keySize)), nil
}
