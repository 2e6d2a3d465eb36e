package approver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/secret"
)

// Server carries one request of the approval flow: JSON to a path below the mount
// ("approve/open") and the data of its answer into out, which is never nil. No Vault
// token goes along.
type Server interface {
	Post(ctx context.Context, path string, in map[string]any, out any) error
}

// Keyring keeps a device key's private half: 32 bytes, the scalar, big-endian. Nothing
// else of this package ever gets it.
type Keyring interface {
	Set(name string, s *secret.Bytes) error
	Get(name string) (*secret.Bytes, error)
	Delete(name string) error
}

// Device is what a device remembers, all of it public. It is JSON, and integrity is
// its caller's: who can write it can pin something else.
type Device struct {
	Version int `json:"version"`
	// Name is how it is called here and in the policy, and the key's name in the
	// Keyring.
	Name string `json:"name"`
	// Mount and Approver are pinned at enrolment, 32 hex digits each.
	Mount        string `json:"mount"`
	Approver     string `json:"approver"`
	ApproverName string `json:"approver_name"` // the server's word
	Enrolment    string `json:"enrolment"`
	// Code is the short code that was computed here.
	Code string `json:"code"`
	// Keys are the factors that this device was enrolled with; the first is the
	// device key.
	Keys []KeyRecord `json:"keys"`
	// FileKeyring: the key is in a file, because there was no better keyring.
	FileKeyring bool      `json:"file_keyring,omitempty"`
	Created     time.Time `json:"created_time"`
	// Accounts are those that were seen, by account ID in hex.
	Accounts map[string]Pin `json:"accounts,omitempty"`
}

const deviceVersion = 1

// KeyRecord is one key of the device.
type KeyRecord struct {
	Kind   approval.Kind `json:"kind"`
	Name   string        `json:"name"`
	ID     string        `json:"id"`
	Public []byte        `json:"public"` // SubjectPublicKeyInfo, DER
}

func (k *KeyRecord) key() approval.Key {
	return approval.Key{Kind: k.Kind, Name: k.Name, Public: k.Public}
}

// Pin is what an account looked like when it was first seen.
type Pin struct {
	Name      string `json:"name"`
	PublicKey string `json:"public_key"` // hex
	Algorithm string `json:"algorithm"`
	Policy    string `json:"policy"` // hash of the last policy that was seen, hex
}

// Check verifies that a record that was read back is whole.
func (d *Device) Check() error {
	if d.Version != deviceVersion {
		return fmt.Errorf("the device's record has version %d, and this program knows %d", d.Version, deviceVersion)
	}
	_, err := d.pinned()
	if err == nil && len(d.Keys) == 0 || err == nil && d.Keys[0].Kind != approval.Device {
		err = errors.New("it has no device key")
	}
	if err != nil {
		return fmt.Errorf("the device's record is damaged: %w", err)
	}
	return nil
}

// pins are the identifiers of Device, parsed.
type pins struct {
	mount    [16]byte
	approver approval.ID
	keys     []approval.Key
}

func (d *Device) pinned() (pins, error) {
	var p pins
	mount, err := approval.ParseID(d.Mount)
	if err != nil {
		return p, fmt.Errorf("mount: %w", err)
	}
	if p.approver, err = approval.ParseID(d.Approver); err != nil {
		return p, fmt.Errorf("approver: %w", err)
	}
	p.mount = mount
	for i := range d.Keys {
		p.keys = append(p.keys, d.Keys[i].key())
	}
	return p, nil
}

// newKey draws a key on P-256. The private half is the scalar, 32 bytes.
func newKey() (private *secret.Bytes, public []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	raw, err := k.Bytes()
	if err != nil {
		return nil, nil, err
	}
	if public, err = x509.MarshalPKIXPublicKey(&k.PublicKey); err != nil {
		secret.Wipe(raw)
		return nil, nil, err
	}
	return secret.New(raw), public, nil
}

// signRaw signs SHA-256 of a message: r‖s, 32 bytes each.
func signRaw(private *secret.Bytes, message []byte) ([]byte, error) {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), private.Expose())
	if err != nil {
		return nil, errors.New("the device's key is damaged") // never what it holds
	}
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

// sign signs with the device's key from the keyring, and makes sure that it is the
// enrolled one.
func (d *Device) sign(ring Keyring, message []byte) ([]byte, error) {
	private, err := ring.Get(d.Name)
	if err != nil {
		return nil, fmt.Errorf("the key of device %q cannot be used: %w", d.Name, err)
	}
	defer private.Wipe()
	signature, err := signRaw(private, message)
	if err != nil {
		return nil, err
	}
	k := d.Keys[0].key()
	if !k.VerifyOpen(message, signature) {
		return nil, fmt.Errorf("the key that is kept for device %q is not the one that was enrolled: enrol it anew", d.Name)
	}
	return signature, nil
}

// see compares an account with its pin. Names that stand for another account, and
// accounts under another name, are refused unless accept; another public key always.
// first is whether the account was never seen.
func (d *Device) see(id string, now Pin, accept bool) (first bool, err error) {
	for other, p := range d.Accounts {
		if p.Name == now.Name && other != id && !accept {
			return false, fmt.Errorf("%w: the name %q stood for another account before, with the ID %s", ErrAccount, now.Name, other)
		}
	}
	before, ok := d.Accounts[id]
	switch {
	case !ok:
		return true, nil
	case before.PublicKey != now.PublicKey || before.Algorithm != now.Algorithm:
		return false, fmt.Errorf("%w: account %s had the public key %s, and its key never changes: %w", ErrAccount, id, before.PublicKey, ErrHostile)
	case before.Name != now.Name && !accept:
		return false, fmt.Errorf("%w: this account was called %q before", ErrAccount, before.Name)
	}
	return false, nil
}

// pin remembers an account.
func (d *Device) pin(id string, now Pin) {
	if d.Accounts == nil {
		d.Accounts = map[string]Pin{}
	}
	// A name stands for one account only.
	for other, p := range d.Accounts {
		if other != id && p.Name == now.Name {
			p.Name = ""
			d.Accounts[other] = p
		}
	}
	d.Accounts[id] = now
}

// KeyID is the ID of the device key, hex.
func (d *Device) KeyID() string {
	k := d.Keys[0].key()
	return k.ID().String()
}

// Errors that callers branch on.
var (
	// ErrAccount: the account is not the one that was seen under this name or ID.
	ErrAccount = errors.New("the account is another one than this device knows")
	// ErrHostile: what the server sent cannot come from an honest one.
	ErrHostile = errors.New("nothing was signed; an honest server does not send this")
	// ErrFactors: the policy asks for more kinds of factors.
	ErrFactors = errors.New("the policy asks for more kinds of factors")
)
