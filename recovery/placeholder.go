package recovery

import (
	"crypto/ed25519"
	"errors"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

type Recipient struct {
	Name, Kind string
	Version    uint32
	PublicKey  []byte
}
type RecipientSet struct {
	Serial     uint64
	Recipients []Recipient
}

func (s *RecipientSet) ForShare(i mpc.Index) (hsm.WrappingKey, error) {
	return hsm.WrappingKey{}, errors.New("no")
}

type SignedSet struct{}

func ParseSignedSet(b []byte) (*SignedSet, error)                      { return nil, errors.New("no") }
func (s *SignedSet) Verify(k ed25519.PublicKey) (*RecipientSet, error) { return nil, errors.New("no") }
func (s *SignedSet) Hash() [32]byte                                    { return [32]byte{} }
func (s *SignedSet) Unverified() *RecipientSet                         { return nil }

type Deal struct {
	Dealer mpc.Index
	Sealed [][]byte
}

func ParseDeal(b []byte) (*Deal, error)        { return nil, errors.New("no") }
func (d *Deal) For(i mpc.Index) (*Deal, error) { return nil, errors.New("no") }
func (d *Deal) Marshal() ([]byte, error)       { return nil, errors.New("no") }
func NewRecord(old *mpc.PublicRecord, target, recipients [32]byte, deals []*Deal) (*mpc.PublicRecord, error) {
	return nil, errors.New("no")
}
func CombineShare(record *mpc.PublicRecord, deals []*Deal, i mpc.Index, open func(*Deal) (*secret.Bytes, error)) (*secret.Bytes, error) {
	return nil, errors.New("no")
}

type Bundle struct {
	Account    string
	Record     []byte
	Shares     [][]byte
	Recipients []byte
	Created    time.Time
}

func ParseBundle(b []byte) (*Bundle, error) { return nil, errors.New("no") }
func (b *Bundle) Marshal() ([]byte, error)  { return nil, errors.New("no") }

type Target struct {
	MountID [16]byte
	Key     hsm.WrappingKey
	Made    time.Time
	Nonce   [16]byte
}

func (t *Target) Marshal() ([]byte, error) { return nil, errors.New("no") }

type SignedTarget struct{}

func ParseSignedTarget(b []byte) (*SignedTarget, error)             { return nil, errors.New("no") }
func (s *SignedTarget) Verify(k ed25519.PublicKey) (*Target, error) { return nil, errors.New("no") }
func (s *SignedTarget) Hash() [32]byte                              { return [32]byte{} }
