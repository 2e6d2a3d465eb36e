package recovery

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/hsm"
)

const (
	labelTarget  = "vault-plugin-secrets-mpc recovery target v1"
	formatTarget = "mpc-recovery-target-1"
)

// Target is a mount that accounts are to be rebuilt on: the wrapping key of its
// HSM that custodians seal to. They take it from its authority only: whoever
// could pass off a key of his own would collect the shares.
type Target struct {
	MountID [16]byte
	// Key has domain, version, suite and public key; a custodian needs no more.
	Key   hsm.WrappingKey
	Made  time.Time
	Nonce [16]byte // drawn for each target, so that no two are the same
}

type targetFile struct {
	Format    string    `json:"format"`
	MountID   []byte    `json:"mount_id"`
	Domain    string    `json:"domain"`
	Version   uint32    `json:"key_version"`
	Suite     string    `json:"suite"`
	PublicKey []byte    `json:"public_key"`
	Made      time.Time `json:"made_time"`
	Nonce     []byte    `json:"nonce"`
}

// Marshal returns the target as JSON, for the authority to sign.
func (t *Target) Marshal() ([]byte, error) {
	return json.MarshalIndent(targetFile{Format: formatTarget, MountID: t.MountID[:], Domain: t.Key.Domain, Version: t.Key.Version,
		Suite: t.Key.Suite.String(), PublicKey: t.Key.PublicKey, Made: t.Made.UTC(), Nonce: t.Nonce[:]}, "", "  ")
}

// ParseTarget reads what Marshal wrote.
func ParseTarget(b []byte) (*Target, error) {
	var f targetFile
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	t := &Target{Made: f.Made}
	if f.Format != formatTarget {
		return nil, fmt.Errorf("recovery: format %q; this program reads %s", f.Format, formatTarget)
	}
	if len(f.MountID) != len(t.MountID) || len(f.Nonce) != len(t.Nonce) || f.Made.IsZero() {
		return nil, errors.New("recovery: the target lacks mount, nonce or time")
	}
	if err := checkTime(f.Made); err != nil {
		return nil, err
	}
	copy(t.MountID[:], f.MountID)
	copy(t.Nonce[:], f.Nonce)
	suite, err := hsm.ParseSuite(f.Suite)
	if err != nil {
		return nil, fmt.Errorf("recovery: %w", err)
	}
	t.Key = hsm.WrappingKey{Domain: f.Domain, Version: f.Version, Suite: suite, ID: make([]byte, 16), PublicKey: f.PublicKey}
	if err := t.Key.Check(); err != nil {
		return nil, err
	}
	return t, nil
}

// SignTarget signs the bytes of a target, which it reads first.
func SignTarget(target []byte, authority ed25519.PrivateKey) ([]byte, error) {
	if _, err := ParseTarget(target); err != nil {
		return nil, err
	}
	return sign(labelTarget, target, authority)
}

// SignedTarget is a target as it was read. Until Verify has succeeded nobody
// vouches for it.
type SignedTarget struct {
	signed *signed
	target *Target
}

// ParseSignedTarget reads what SignTarget wrote, without judging the signature.
func ParseSignedTarget(b []byte) (*SignedTarget, error) {
	s, err := parseSigned(b)
	if err != nil {
		return nil, err
	}
	t, err := ParseTarget(s.Payload)
	if err != nil {
		return nil, err
	}
	return &SignedTarget{s, t}, nil
}

// Verify returns the target if the authority has signed it, else ErrSignature.
func (s *SignedTarget) Verify(authority ed25519.PublicKey) (*Target, error) {
	if err := s.signed.verify(labelTarget, authority); err != nil {
		return nil, err
	}
	return s.target, nil
}

// Unverified returns the target without anybody's word for it.
func (s *SignedTarget) Unverified() *Target { return s.target }

// Hash names the target in deals.
func (s *SignedTarget) Hash() [32]byte { return s.signed.hash(labelTarget) }
