package identity

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// MaxBinding bounds an encoded Binding, in bytes.
const MaxBinding = 4 << 20

// ErrNotBindable: the authenticator cannot log in without the server, because the
// server holds a part of what it logs in with.
var ErrNotBindable = errors.New("identity: this kind of authenticator logs in with a part that the server holds: it cannot be bound to a device")

// Binding is what a device keeps so that one authenticator opens one identity
// without the server:
//
//	authentication information ──Argon2id, salt──▶ binding KEK
//	binding KEK opens the binding key ──▶ role seeds
//
// and the manifest and assets as they were at the last contact. Whoever steals it
// can guess at the authentication information as fast as Argon2id lets him and
// nobody counts his attempts; so it is a file of mode 0600, and a stolen device is
// a lost authenticator. Its signed parts are verified whenever it is read, and the
// role seeds must be those of the manifest; but an older copy of the whole file is
// as good as the newer one.
type Binding struct {
	Format            int    `json:"format"` // 1
	Identity          ID     `json:"identity"`
	IdentityName      string `json:"identity_name"`
	Authenticator     ID     `json:"authenticator"`
	AuthenticatorName string `json:"authenticator_name"`
	Method            Method `json:"method"`
	// Parameters of the method: offline, a certificate's key or a passkey needs
	// them to give the authentication information.
	Parameters MethodParameters `json:"parameters"`
	DeviceID   ID               `json:"device"`
	KDF        KDF              `json:"kdf"`
	Salt       []byte           `json:"salt"` // 16 bytes
	// PersonalInformation is the question that is asked beside; empty for none.
	PersonalInformation string `json:"personal_information,omitempty"`
	// WrappedKey is the binding key, 32 random bytes, under the binding KEK.
	WrappedKey []byte `json:"wrapped_key"`
	// Roles are those of the authenticator's level, ascending.
	Roles    []BoundRole    `json:"roles"`
	Manifest SignedManifest `json:"manifest"`
	Assets   []SignedAsset  `json:"assets"` // ascending by name
	Synced   time.Time      `json:"synced"`
}

// BoundRole is a role seed under the binding key.
type BoundRole struct {
	Role       string `json:"role"`
	Generation uint64 `json:"generation"`
	Wrapped    []byte `json:"wrapped"`
}

// Bind makes a binding of an opened identity for the authenticator that opened it.
// a must be that authenticator's record, info what it logs in with. Assets are
// verified. Errors: ErrNotBindable, ErrNotGranted, ErrSignature, ErrRecord.
func Bind(o *Opened, a *Authenticator, info AuthenticationInformation, device ID, assets []*SignedAsset, now time.Time) (*Binding, error) {
	if a.Method.HasServerPart() {
		return nil, fmt.Errorf("authenticator %s of kind %s: %w", a.Name, a.Method, ErrNotBindable)
	}
	if g := o.Manifest.Grant(a.ID); a.ID != o.Authenticator || g == nil || !g.Keys.Equal(a.Keys) {
		return nil, fmt.Errorf("%s was not opened by authenticator %s: %w", o.Manifest.Name, a.Name, ErrNotGranted)
	}
	b := &Binding{Format: 1, Identity: o.Manifest.Identity, Authenticator: a.ID, AuthenticatorName: a.Name, Method: a.Method,
		Parameters: a.Parameters, DeviceID: device, KDF: a.KDF, Salt: newSalt(), PersonalInformation: a.PersonalInformation}
	kek, err := b.kek(info)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	key := NewSeed()
	defer key.Wipe()
	if b.WrappedKey, err = Wrap(kek, BindingContext(b.Identity, b.Authenticator, b.DeviceID), key); err != nil {
		return nil, err
	}
	if err := b.fill(o, key, assets, now); err != nil {
		return nil, err
	}
	return b, nil
}

const saltSize = 16

func newSalt() []byte {
	b := make([]byte, saltSize)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	return b
}

// Update takes over what an opened identity of the same authenticator has become:
// manifest, role keys, assets. The binding key stays; to open it the
// authentication information is needed once more. It changes nothing where it
// fails. Errors: ErrRolledBack where o is older than what the device has, ErrOpen
// for other information (also where the authenticator's was changed: see Rebind).
func (b *Binding) Update(o *Opened, info AuthenticationInformation, assets []*SignedAsset, now time.Time) error {
	if err := b.follows(o); err != nil {
		return err
	}
	key, err := b.key(info)
	if err != nil {
		return err
	}
	defer key.Wipe()
	next := *b
	if err := next.fill(o, key, assets, now); err != nil {
		return err
	}
	*b = next
	return nil
}

// Rebind replaces the binding of a device whose authenticator logs in with something
// else now: a and info are the present ones. The device's ID stays, the binding key is
// a new one. It changes nothing where it fails. Errors: those of Bind, and
// ErrRolledBack.
func (b *Binding) Rebind(o *Opened, a *Authenticator, info AuthenticationInformation, assets []*SignedAsset, now time.Time) error {
	if err := b.follows(o); err != nil {
		return err
	}
	next, err := Bind(o, a, info, b.DeviceID, assets, now)
	if err != nil {
		return err
	}
	*b = *next
	return nil
}

// follows fails unless o is the same identity, opened by the same authenticator, and
// not older than what the device has.
func (b *Binding) follows(o *Opened) error {
	m, err := b.Manifest.Verify()
	if err != nil {
		return err
	}
	pin, err := Pin{}.Check(&b.Manifest, m)
	if err != nil {
		return err
	}
	if _, err := pin.Check(o.Signed, o.Manifest); err != nil {
		return err
	}
	if o.Authenticator != b.Authenticator {
		return fmt.Errorf("%s was not opened by authenticator %s: %w", b.IdentityName, b.AuthenticatorName, ErrNotGranted)
	}
	return nil
}

// fill takes over the state of o and checks the whole.
func (b *Binding) fill(o *Opened, key *secret.Bytes, assets []*SignedAsset, now time.Time) error {
	b.IdentityName, b.Manifest, b.Synced = o.Manifest.Name, *o.Signed, stamp(now)
	b.Roles, b.Assets = nil, nil
	g := o.Manifest.Grant(b.Authenticator)
	if g == nil {
		return fmt.Errorf("%s: %w", b.IdentityName, ErrNotGranted)
	}
	for _, s := range g.Sealed {
		keys := o.Roles[s.Role]
		if keys == nil {
			return o.notHeld(s.Role)
		}
		wrapped, err := Wrap(key, BoundRoleContext(b.Identity, b.Authenticator, b.DeviceID, s.Role, s.Generation), keys.Seed())
		if err != nil {
			return err
		}
		b.Roles = append(b.Roles, BoundRole{Role: s.Role, Generation: s.Generation, Wrapped: wrapped})
	}
	names := map[string]SignedAsset{}
	for _, s := range assets {
		a, err := o.OpenAsset(s)
		if err != nil {
			return err
		}
		names[a.Name] = *s
	}
	if len(names) != len(assets) {
		return invalid("two assets of one name")
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b.Assets = append(b.Assets, names[name])
	}
	_, err := b.Marshal()
	return err
}

// Open opens the identity with the authentication information of the bound
// authenticator. Errors: ErrOpen for another information, ErrRecord, ErrSignature.
func (b *Binding) Open(info AuthenticationInformation) (*Opened, error) {
	m, err := b.check()
	if err != nil {
		return nil, err
	}
	key, err := b.key(info)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	signed := b.Manifest
	o := newOpened(&signed, m, b.Authenticator)
	for _, r := range b.Roles {
		seed, err := Unwrap(key, BoundRoleContext(b.Identity, b.Authenticator, b.DeviceID, r.Role, r.Generation), r.Wrapped)
		if err == nil {
			err = o.addRole(r.Role, seed)
			seed.Wipe()
		}
		if err != nil {
			o.Wipe()
			return nil, fmt.Errorf("opening role %s of %s on this device: %w", r.Role, b.IdentityName, err)
		}
	}
	return o, nil
}

// Asset verifies and returns an asset of the binding by name, nil if it is not
// there.
func (b *Binding) Asset(o *Opened, name string) (*Asset, error) {
	for i := range b.Assets {
		a, err := o.OpenAsset(&b.Assets[i])
		if err != nil {
			return nil, err
		}
		if a.Name == name {
			return a, nil
		}
	}
	return nil, nil
}

// kek derives the binding KEK.
func (b *Binding) kek(info AuthenticationInformation) (*secret.Bytes, error) {
	login, err := info.LoginSecret(b.Authenticator, b.Method)
	if err != nil {
		return nil, err
	}
	defer login.Wipe()
	return b.KDF.Derive(login, b.Salt)
}

// key opens the binding key.
func (b *Binding) key(info AuthenticationInformation) (*secret.Bytes, error) {
	kek, err := b.kek(info)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	key, err := Unwrap(kek, BindingContext(b.Identity, b.Authenticator, b.DeviceID), b.WrappedKey)
	if err != nil {
		return nil, fmt.Errorf("the authentication information does not open the binding of %s on this device: %w", b.IdentityName, err)
	}
	return key, nil
}
