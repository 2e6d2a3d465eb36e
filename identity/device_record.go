package identity

import (
	"encoding/json"
	"slices"
)

// Marshal encodes the binding: JSON, at most MaxBinding bytes.
func (b *Binding) Marshal() ([]byte, error) {
	if _, err := b.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxBinding {
		return nil, invalid("the binding would have %d bytes, more than %d: bind fewer assets", len(raw), MaxBinding)
	}
	return raw, nil
}

// ParseBinding reads what Marshal wrote, and verifies all in it that is signed.
func ParseBinding(raw []byte) (*Binding, error) {
	b := &Binding{}
	if err := decodeStrict("binding", raw, MaxBinding, b); err != nil {
		return nil, err
	}
	if _, err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// check verifies all that needs no secret and returns the manifest.
func (b *Binding) check() (*Manifest, error) {
	switch {
	case b.Format != 1:
		return nil, invalid("a binding of format %d; this program reads format 1", b.Format)
	case b.DeviceID == ID{}:
		return nil, invalid("a binding to no device")
	case b.Method.HasServerPart():
		return nil, ErrNotBindable
	case len(b.Salt) != saltSize || len(b.WrappedKey) != WrappedOverhead+SeedSize:
		return nil, invalid("salt or wrapped key of a binding has the wrong length")
	}
	if err := checkText("question of authenticator "+b.AuthenticatorName, b.PersonalInformation); err != nil {
		return nil, err
	}
	if err := b.KDF.Check(); err != nil {
		return nil, err
	}
	if err := b.Parameters.check(b.Method); err != nil {
		return nil, err
	}
	m, err := b.Manifest.Verify()
	if err != nil {
		return nil, err
	}
	g := m.Grant(b.Authenticator)
	if g == nil || g.Name != b.AuthenticatorName || g.Kind != b.Method || m.Identity != b.Identity || m.Name != b.IdentityName {
		return nil, invalid("the manifest of a binding is not that of its identity and authenticator")
	}
	same := func(r BoundRole, s SealedRole) bool {
		return r.Role == s.Role && r.Generation == s.Generation && len(r.Wrapped) == WrappedOverhead+SeedSize
	}
	if !slices.EqualFunc(b.Roles, g.Sealed, same) {
		return nil, invalid("the roles of a binding are not those of its authenticator")
	}
	last := ""
	for i := range b.Assets {
		a, err := b.Assets[i].Verify(m)
		if err != nil {
			return nil, err
		}
		if a.Name <= last {
			return nil, invalid("two assets of one name, or out of order")
		}
		last = a.Name
	}
	return m, nil
}
