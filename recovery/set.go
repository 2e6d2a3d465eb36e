package recovery

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
)

const (
	labelSet  = "vault-plugin-secrets-mpc recipient set v1"
	formatSet = "mpc-recipient-set-1"
	// formatDomains is that of sets that name wrapping domains. Programs that know
	// the first format only do not read them.
	formatDomains = "mpc-recipient-set-2"
	// domainPrefix keeps the names of recipients apart from those of wrapping
	// domains in envelopes.
	domainPrefix = "recovery:"
)

// Recipient is one custodian: what he calls himself and the key that one share
// of every account is sealed to.
type Recipient struct {
	Name string `json:"name"`
	// Version counts the custodian's keys from 1.
	Version uint32 `json:"version"`
	// PublicKey is the uncompressed P-256 point 04‖X‖Y, 65 bytes.
	PublicKey []byte `json:"public_key"`
}

// RecipientSet is what an authority lets nodes seal shares to besides their own
// token: an ordered list of custodians, where share i of every account is sealed to
// the i-th, and wrapping domains that shares may move to. Sets without domains are
// of the first format, as they always were; one with domains may have no custodians.
type RecipientSet struct {
	Format string `json:"format"`
	// Serial grows with every set that an authority signs for a mount.
	Serial     uint64      `json:"serial"`
	Recipients []Recipient `json:"recipients"`
	Domains    []Domain    `json:"domains,omitempty"`
}

// Key returns the recipient's key as envelopes are sealed to it.
func (r Recipient) Key() hsm.WrappingKey {
	return hsm.WrappingKey{Domain: domainPrefix + r.Name, Version: r.Version, Suite: hsm.SuiteHPKEP256,
		ID: make([]byte, 16), PublicKey: r.PublicKey}
}

// Check verifies that the recipient can be sealed to.
func (r Recipient) Check() error {
	if err := checkName(r.Name); err != nil {
		return err
	}
	if r.Version == 0 {
		return fmt.Errorf("recovery: the keys of %s count from 1", r.Name)
	}
	return r.Key().Check()
}

// ParseRecipient reads a custodian's public file: a Recipient as JSON.
func ParseRecipient(b []byte) (*Recipient, error) {
	r := &Recipient{}
	if err := decode(b, r); err != nil {
		return nil, err
	}
	return r, r.Check()
}

// NewSet makes a set of the recipients in this order.
func NewSet(serial uint64, recipients []Recipient) (*RecipientSet, error) {
	s := &RecipientSet{Format: formatSet, Serial: serial, Recipients: recipients}
	return s, s.check()
}

// NewDomainSet makes a set that names wrapping domains as well, of which there is
// at least one. There may be no recipients: then shares are sealed to tokens only,
// and nobody can rebuild an account whose tokens are lost.
func NewDomainSet(serial uint64, recipients []Recipient, domains []Domain) (*RecipientSet, error) {
	if recipients == nil {
		recipients = []Recipient{}
	}
	s := &RecipientSet{Format: formatDomains, Serial: serial, Recipients: recipients, Domains: domains}
	return s, s.check()
}

func (s *RecipientSet) check() error {
	few := mpc.MinThreshold
	switch {
	case s.Format != formatSet && s.Format != formatDomains:
		return fmt.Errorf("recovery: format %q; this program reads %s and %s", s.Format, formatSet, formatDomains)
	case s.Serial == 0:
		return errors.New("recovery: serial numbers of sets count from 1")
	case s.Format == formatSet && s.Domains != nil:
		return fmt.Errorf("recovery: a set that names wrapping domains is of the format %s", formatDomains)
	case s.Format == formatDomains && s.Recipients == nil:
		return errors.New("recovery: the list of recipients is missing; it may be empty")
	case s.Format == formatDomains && len(s.Recipients) == 0:
		few = 0
	}
	if len(s.Recipients) < few || len(s.Recipients) > mpc.MaxShares {
		return fmt.Errorf("recovery: %d recipients, not %d to %d", len(s.Recipients), few, mpc.MaxShares)
	}
	if s.Format == formatDomains {
		if err := checkDomains(s.Domains); err != nil {
			return err
		}
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for _, r := range s.Recipients {
		if err := r.Check(); err != nil {
			return err
		}
		// Who stood in the list twice would get two shares of every account.
		if names[r.Name] || keys[string(r.PublicKey)] {
			return fmt.Errorf("recovery: %s, or the same key, is in the set twice", r.Name)
		}
		names[r.Name], keys[string(r.PublicKey)] = true, true
	}
	return nil
}

// ForShare returns the key that share i is sealed to.
func (s *RecipientSet) ForShare(i mpc.Index) (hsm.WrappingKey, error) {
	if i < 1 || int(i) > len(s.Recipients) {
		return hsm.WrappingKey{}, fmt.Errorf("recovery: no recipient for share %d: the set has %d", i, len(s.Recipients))
	}
	return s.Recipients[i-1].Key(), nil
}

// Sign returns the set's signed form.
func (s *RecipientSet) Sign(authority ed25519.PrivateKey) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return sign(labelSet, payload, authority)
}

// SignedSet is a set as it was read. Until Verify has succeeded nobody vouches
// for it.
type SignedSet struct {
	signed *signed
	set    *RecipientSet
}

// ParseSignedSet reads what Sign wrote, without judging the signature.
func ParseSignedSet(b []byte) (*SignedSet, error) {
	s, err := parseSigned(b)
	if err != nil {
		return nil, err
	}
	set := &RecipientSet{}
	if err := decode(s.Payload, set); err != nil {
		return nil, err
	}
	if err := set.check(); err != nil {
		return nil, err
	}
	return &SignedSet{s, set}, nil
}

// Verify returns the set if the authority has signed it, else ErrSignature.
func (s *SignedSet) Verify(authority ed25519.PublicKey) (*RecipientSet, error) {
	if err := s.signed.verify(labelSet, authority); err != nil {
		return nil, err
	}
	return s.set, nil
}

// Unverified returns the set without anybody's word for it.
func (s *SignedSet) Unverified() *RecipientSet { return s.set }

// Hash is what mpc.PublicRecord.RecipientsHash names the set by.
func (s *SignedSet) Hash() [32]byte { return s.signed.hash(labelSet) }
