package custody

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

const labelRelease = "vault-plugin-secrets-mpc custody release v1"

const (
	// releaseSuite is the first byte of a release: DHKEM(X25519, HKDF-SHA256),
	// HKDF-SHA256, AES-256-GCM (RFC 9180). Another number is refused.
	releaseSuite = 1

	encapsulated = 32
	// ReleaseSize is the length of a release in bytes: suite ‖ encapsulated key ‖
	// k₂ ‖ tag.
	ReleaseSize = 1 + encapsulated + hsm.CustodyPartSize + 16
)

// Errors of releases.
var (
	// ErrRelease says that a release does not open with this offer's key for this
	// purpose. Nothing was opened.
	ErrRelease = errors.New("custody: the release does not open: it is for another purpose, share, node or offer, or was changed")
	// ErrCustodyKey says that the custody key at hand is not the account's.
	ErrCustodyKey = errors.New("custody: this is not the account's custody key")
)

// Release opens the custody part of the offer's share and seals it to the offer's
// key for that purpose. It belongs in the owner's client; the private custody key
// does not leave it. record and envelope may come from anywhere: what was sealed
// under another record does not open, and nothing is released under a record that
// names another custody key.
//
// The caller has made sure that o.Node is a node it trusts, that the offer is not
// too old, and that purpose is the hash of what its user asked for and names
// record; Approval does all of that.
//
// Errors: ErrOffer, ErrCustodyKey, hsm.ErrEnvelope, hsm.ErrOpen.
func Release(o Offer, purpose [32]byte, record *mpc.PublicRecord, envelope []byte, key *ecdh.PrivateKey) ([]byte, error) {
	if err := o.checkSignature(purpose); err != nil {
		return nil, err
	}
	if err := owns(key, record); err != nil {
		return nil, err
	}
	if int(o.Index) > record.Shares {
		return nil, fmt.Errorf("%w: share %d does not exist", ErrOffer, o.Index)
	}
	k2, err := hsm.OpenCustodySeal(key, hsm.ShareContext(uint8(o.Index), record.Hash()), envelope)
	if err != nil {
		return nil, fmt.Errorf("custody: share %d: %w", o.Index, err)
	}
	defer k2.Wipe()
	point, err := ecdh.X25519().NewPublicKey(o.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: its key cannot be used", ErrOffer)
	}
	pub, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return nil, err
	}
	enc, sender, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(labelRelease))
	if err != nil {
		return nil, fmt.Errorf("%w: its key cannot be used", ErrOffer) // a point of low order
	}
	ct, err := sender.Seal(o.bound(purpose), k2.Expose())
	if err != nil {
		return nil, err
	}
	return append(append([]byte{releaseSuite}, enc...), ct...), nil
}

// bound is what a release is authenticated with: fields(purpose, release ID, index
// as 1 byte, node identity).
func (o Offer) bound(purpose [32]byte) []byte {
	return fields(purpose[:], o.ReleaseID[:], []byte{byte(o.Index)}, o.Node[:])
}

// OpenRelease opens a release with the private key of its offer, on the node that
// made it; the caller wipes k₂. Of the offer it needs release ID, index and node.
// Errors: ErrRelease.
func OpenRelease(priv *ecdh.PrivateKey, o Offer, purpose [32]byte, release []byte) (*secret.Bytes, error) {
	if len(release) != ReleaseSize || release[0] != releaseSuite {
		return nil, fmt.Errorf("%w: %d bytes or of an unknown suite", ErrRelease, len(release))
	}
	key, err := hpke.NewDHKEMPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	r, err := hpke.NewRecipient(release[1:1+encapsulated], key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(labelRelease))
	if err != nil {
		return nil, ErrRelease
	}
	k2, err := r.Open(o.bound(purpose), release[1+encapsulated:])
	if err != nil {
		return nil, ErrRelease
	}
	return secret.New(k2), nil
}

// owns demands that key is the custody key that the record names.
func owns(key *ecdh.PrivateKey, record *mpc.PublicRecord) error {
	if key == nil || key.Curve() != ecdh.P256() {
		return fmt.Errorf("%w: it is not a P-256 key", ErrCustodyKey)
	}
	want, got := record.Custody, mpc.CustodyHash(key.PublicKey().Bytes())
	if !bytes.Equal(want[:], got[:]) {
		return fmt.Errorf("%w: account %s, epoch %d, is sealed to another; a reset replaces it at the next refresh", ErrCustodyKey, record.AccountID, record.Epoch)
	}
	return nil
}
