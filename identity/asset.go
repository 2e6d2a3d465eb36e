package identity

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// AssetKind is what an asset's keys are for.
type AssetKind string

// Kinds of assets.
const (
	// SecretAsset: the keys are secrets themselves: passwords, API keys.
	SecretAsset AssetKind = "secret"
	// AccountAsset: the key "custody" is the custody key of a threshold account.
	AccountAsset AssetKind = "account"
)

// Names of the keys of an AccountAsset. Their values are P-256 private keys, 32
// bytes, their public halves uncompressed points.
const (
	// CustodyKey is the key that the account's shares are sealed to.
	CustodyKey = "custody"
	// NextCustodyKey is there while that key is being replaced: the account's next
	// refresh seals its shares to this one. The other stays until that has
	// happened, because without it the shares that there are could not be opened.
	NextCustodyKey = "custody-next"
)

// Asset is something that roles manage. It is immutable once signed; a change
// makes the next generation.
type Asset struct {
	Format     int       `json:"format"` // 1
	Identity   ID        `json:"identity"`
	ID         ID        `json:"id"`
	Name       string    `json:"name"`
	Kind       AssetKind `json:"kind"`
	Account    string    `json:"account,omitempty"` // account ID, 32 hex digits, of an AccountAsset; empty before there is one
	Generation uint64    `json:"generation"`        // from 1
	Time       time.Time `json:"time"`
	// Note is text for people, in clear; up to 512 bytes.
	Note string     `json:"note,omitempty"`
	Keys []AssetKey `json:"keys"` // ascending by name, at least one
	// Writer is the role whose keys sign this generation: one that may use one of
	// the keys, or the owner role.
	Writer           string `json:"writer"`
	WriterGeneration uint64 `json:"writer_generation"`
}

// AssetKey is one secret of an asset, for one or more roles.
type AssetKey struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"` // of the value, from 1
	// Public is the public half where the value is a private key: 65 bytes.
	Public []byte `json:"public,omitempty"`
	// Value is the secret, encrypted with a random key of its own (Wrap), and
	// Sealed that key, sealed to each role that may use it, ascending by role.
	Value  []byte       `json:"value"`
	Sealed []SealedRole `json:"sealed"`
}

// SignedAsset is an asset as it is stored and sent.
type SignedAsset struct {
	Asset     []byte `json:"asset"`
	Signature []byte `json:"signature"` // Ed25519, 64 bytes, by the writer's keys
}

// Key returns the key of that name, or nil.
func (a *Asset) Key(name string) *AssetKey {
	i := slices.IndexFunc(a.Keys, func(k AssetKey) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return &a.Keys[i]
}

// Roles returns the roles that may use the key, ascending.
func (k *AssetKey) Roles() []string {
	out := make([]string, 0, len(k.Sealed))
	for _, s := range k.Sealed {
		out = append(out, s.Role)
	}
	return out
}

// Roles returns the roles that may use at least one key, ascending.
func (a *Asset) Roles() []string {
	var out []string
	for i := range a.Keys {
		out = append(out, a.Keys[i].Roles()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// SealAssetKey makes the key `name` of asset a: it encrypts value (1 to MaxSecret
// bytes) and seals to the present keys of the named roles, which m must have. What
// the key replaces is a.Key(name): the generation follows on. It does not change a.
func SealAssetKey(m *Manifest, a *Asset, name string, public []byte, value *secret.Bytes, roles []string) (*AssetKey, error) {
	if err := CheckName("key", name); err != nil {
		return nil, err
	}
	if n := value.Len(); n == 0 || n > MaxSecret {
		return nil, invalid("a secret has 1 to %d bytes, not %d", MaxSecret, n)
	}
	if len(roles) == 0 {
		return nil, invalid("a key that no role may use")
	}
	k := &AssetKey{Name: name, Generation: 1, Public: public}
	if old := a.Key(name); old != nil {
		k.Generation = old.Generation + 1
	}
	if a.Kind == AccountAsset && !custodyPair(public, value) {
		return nil, invalid("the key %s of asset %s is not a P-256 key with its public half", name, a.Name)
	}
	dek := NewSeed()
	defer dek.Wipe()
	var err error
	if k.Value, err = Wrap(dek, AssetValueContext(m.Identity, a.ID, name, k.Generation), value); err != nil {
		return nil, err
	}
	roles = slices.Clone(roles)
	slices.Sort(roles)
	for _, role := range slices.Compact(roles) {
		r := m.Role(role)
		if r == nil {
			return nil, invalid("the identity has no role %q", role)
		}
		sealed, err := Seal(r.Keys, AssetKeyContext(m.Identity, a.ID, name, k.Generation, role, r.Generation), dek)
		if err != nil {
			return nil, err
		}
		k.Sealed = append(k.Sealed, SealedRole{Role: role, Generation: r.Generation, Sealed: sealed})
	}
	return k, nil
}

// OpenAssetKey opens a key with the seed of a role at the generation that the key
// is sealed to. Errors: ErrOpen, ErrRecord; an error that names the roles where the
// key is not for this one. A custody key that does not belong to the public key
// beside it is ErrOpen too: nothing may be released with it.
func OpenAssetKey(a *Asset, name, role string, generation uint64, keys *Keys) (*secret.Bytes, error) {
	k := a.Key(name)
	if k == nil {
		return nil, invalid("asset %s has no key %q", a.Name, name)
	}
	for _, s := range k.Sealed {
		if s.Role != role || s.Generation != generation {
			continue
		}
		dek, err := keys.Open(AssetKeyContext(a.Identity, a.ID, name, k.Generation, role, generation), s.Sealed)
		if err != nil {
			return nil, err
		}
		defer dek.Wipe()
		value, err := Unwrap(dek, AssetValueContext(a.Identity, a.ID, name, k.Generation), k.Value)
		if err != nil {
			return nil, err
		}
		if a.Kind == AccountAsset && !custodyPair(k.Public, value) {
			value.Wipe()
			return nil, fmt.Errorf("%w: key %s of asset %s is not the private half of the public key beside it", ErrOpen, name, a.Name)
		}
		return value, nil
	}
	return nil, fmt.Errorf("%w: key %s of asset %s is not sealed to role %s of generation %d", ErrOpen, name, a.Name, role, generation)
}

// SignAsset checks a and signs it with the keys of its writer role.
func SignAsset(a *Asset, writer *Keys) (*SignedAsset, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxAsset {
		return nil, invalid("the asset would have %d bytes, more than %d", len(raw), MaxAsset)
	}
	return &SignedAsset{Asset: raw, Signature: writer.Sign(AssetContext(a.Identity, a.ID), raw)}, nil
}

// Verify parses the asset and checks that a role of the manifest signed it that
// may: with its present keys, or with its past ones while assets are being moved.
func (s *SignedAsset) Verify(m *Manifest) (*Asset, error) {
	a := &Asset{}
	if err := decodeStrict("asset", s.Asset, MaxAsset, a); err != nil {
		return nil, err
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.Identity != m.Identity {
		return nil, fmt.Errorf("asset %s is of another identity: %w", a.Name, ErrSignature)
	}
	r := m.Role(a.Writer)
	if r == nil || a.Writer != OwnerRole && !slices.Contains(a.Roles(), a.Writer) {
		return nil, fmt.Errorf("asset %s was written by role %q, which may not: %w", a.Name, a.Writer, ErrSignature)
	}
	keys := r.Keys
	switch {
	case a.WriterGeneration == r.Generation:
	case r.Past != nil && a.WriterGeneration == r.Past.Generation:
		keys = r.Past.Keys
	default:
		return nil, fmt.Errorf("asset %s was written by generation %d of role %s, which is at %d: %w", a.Name, a.WriterGeneration, r.Name, r.Generation, ErrSignature)
	}
	if !keys.Verify(AssetContext(a.Identity, a.ID), s.Asset, s.Signature) {
		return nil, fmt.Errorf("asset %s: %w", a.Name, ErrSignature)
	}
	return a, nil
}

func (a *Asset) check() error {
	if a.Format != 1 {
		return invalid("an asset of format %d; this program reads format 1", a.Format)
	}
	if err := CheckName("asset", a.Name); err != nil {
		return err
	}
	switch {
	case a.Identity == ID{} || a.ID == ID{}:
		return invalid("an asset without its ID or its identity's")
	case a.Generation == 0 || a.WriterGeneration == 0:
		return invalid("asset %s has no generation", a.Name)
	case len(a.Keys) == 0 || len(a.Keys) > MaxKeys:
		return invalid("asset %s has %d keys; 1 to %d", a.Name, len(a.Keys), MaxKeys)
	}
	if err := checkText("note of asset "+a.Name, a.Note); err != nil {
		return err
	}
	if err := a.checkKind(); err != nil {
		return err
	}
	if err := CheckName("role", a.Writer); err != nil {
		return err
	}
	if err := ascending("key", a.Keys, func(k AssetKey) string { return k.Name }); err != nil {
		return err
	}
	for _, k := range a.Keys {
		if k.Generation == 0 || len(k.Value) <= WrappedOverhead || len(k.Value) > WrappedOverhead+MaxSecret {
			return invalid("key %s of asset %s has no generation or no value", k.Name, a.Name)
		}
		if len(k.Sealed) == 0 || len(k.Sealed) > MaxRoles {
			return invalid("key %s of asset %s is for %d roles", k.Name, a.Name, len(k.Sealed))
		}
		if err := ascending("role", k.Sealed, func(s SealedRole) string { return s.Role }); err != nil {
			return err
		}
		for _, s := range k.Sealed {
			if s.Generation == 0 || len(s.Sealed) != SealedOverhead+SeedSize {
				return invalid("key %s of asset %s is sealed in a form that is not known", k.Name, a.Name)
			}
		}
	}
	return nil
}
