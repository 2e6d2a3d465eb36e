package recovery

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
)

const formatBundle = "mpc-recovery-bundle-1"

// Bundle is an account as a mount stores it: public facts and ciphertext. Any t
// of its recipients can rebuild the account from it, however old it is; nobody
// else can do anything with it.
type Bundle struct {
	// Account is the account's name at the time, for people.
	Account string
	// Record is mpc.PublicRecord.Marshal, Shares are the hsm envelopes in index
	// order, Recipients is the SignedSet that the record names.
	Record     []byte
	Shares     [][]byte
	Recipients []byte
	// Policy is the approval policy that the record names (approval.Policy,
	// marshalled), empty where it names none: a rebuilt account asks the same people.
	Policy  []byte
	Created time.Time
}

type bundleFile struct {
	Format     string    `json:"format"`
	Account    string    `json:"account"`
	Record     []byte    `json:"record"`
	Shares     [][]byte  `json:"shares"`
	Recipients []byte    `json:"recipients"`
	Policy     []byte    `json:"policy,omitempty"`
	Created    time.Time `json:"created_time"`
}

// Marshal checks the bundle and returns it as JSON.
func (b *Bundle) Marshal() ([]byte, error) {
	if _, _, err := b.Open(); err != nil {
		return nil, err
	}
	return json.MarshalIndent(bundleFile{Format: formatBundle, Account: b.Account, Record: b.Record, Shares: b.Shares,
		Recipients: b.Recipients, Policy: b.Policy, Created: b.Created.UTC()}, "", "  ")
}

// ParseBundle reads what Marshal wrote and checks that its parts belong
// together.
func ParseBundle(raw []byte) (*Bundle, error) {
	var f bundleFile
	if err := decode(raw, &f); err != nil {
		return nil, err
	}
	if f.Format != formatBundle {
		return nil, fmt.Errorf("recovery: format %q; this program reads %s", f.Format, formatBundle)
	}
	b := &Bundle{Account: f.Account, Record: f.Record, Shares: f.Shares, Recipients: f.Recipients, Policy: f.Policy, Created: f.Created}
	if _, _, err := b.Open(); err != nil {
		return nil, err
	}
	return b, nil
}

// Open returns the public record and the recipients. The set's signature is not
// judged: that the shares are sealed to these recipients is what counts.
func (b *Bundle) Open() (*mpc.PublicRecord, *RecipientSet, error) {
	if len(b.Account) > 128 {
		return nil, nil, errors.New("recovery: the account's name is too long")
	}
	if err := checkTime(b.Created); err != nil {
		return nil, nil, err
	}
	record, err := mpc.ParsePublicRecord(b.Record)
	if err != nil {
		return nil, nil, err
	}
	signed, err := ParseSignedSet(b.Recipients)
	if err != nil {
		return nil, nil, fmt.Errorf("the bundle's recipient set: %w", err)
	}
	set := signed.Unverified()
	switch {
	case signed.Hash() != record.RecipientsHash:
		return nil, nil, errors.New("recovery: the recipient set is not the one that the account names")
	case len(set.Recipients) == 0:
		return nil, nil, ErrNoRecipients
	case policyHash(b.Policy) != record.PolicyHash:
		return nil, nil, errors.New("recovery: the approval policy is not the one that the account names")
	case len(b.Shares) != record.Shares || record.Shares > len(set.Recipients):
		return nil, nil, fmt.Errorf("recovery: %d shares and %d recipients for an account of %d shares", len(b.Shares), len(set.Recipients), record.Shares)
	}
	for k, envelope := range b.Shares {
		key, err := set.ForShare(mpc.Index(k + 1))
		if err != nil {
			return nil, nil, err
		}
		seals, err := hsm.Seals(envelope)
		if err != nil {
			return nil, nil, fmt.Errorf("share %d: %w", k+1, err)
		}
		if !slices.ContainsFunc(seals, func(s hsm.SealedKey) bool { return s.Domain == key.Domain && s.Version == key.Version }) {
			return nil, nil, fmt.Errorf("recovery: share %d is not sealed to %s", k+1, set.Recipients[k].Name)
		}
	}
	return record, set, nil
}

// policyHash is what a record names a marshalled policy by; empty stands for none.
func policyHash(policy []byte) [32]byte {
	if len(policy) == 0 {
		return mpc.EmptySetHash()
	}
	return sha256.Sum256(policy)
}
