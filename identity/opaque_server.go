package identity

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"errors"

	"github.com/bytemare/ecc"
	"github.com/bytemare/opaque"
	"github.com/bytemare/opaque/message"

	"vault-plugin-secrets-mpc/secret"
)

// ServerKeys are the secrets of the server's side of logins: OPAQUE's OPRF seed
// and key pair, and a root from which the key that wraps server parts and the fakes
// for authenticators that do not exist are derived. They are opened inside a node
// only. All methods may be called concurrently until Wipe.
type ServerKeys struct {
	seed    *secret.Bytes // 64 bytes
	private *secret.Bytes // 32 bytes, a canonical scalar that is not zero
	root    *secret.Bytes // 32 bytes
	public  []byte        // 32 bytes
}

const (
	serverKeysV1   = 1
	oprfSeedSize   = 64
	scalarSize     = 32
	serverKeysSize = 1 + oprfSeedSize + scalarSize + keySize
	// ServerPartSize is the length of what the server keeps for an authenticator.
	ServerPartSize = 32

	labelFakeRecord = "mpc identity fake registration v1"
	labelFakePart   = "mpc identity fake server part v1"
	labelPartKey    = "mpc identity server part key v1"

	opaqueGroup = ecc.Ristretto255Sha512
)

// NewServerKeys draws them.
func NewServerKeys() *ServerKeys {
	seed, root := make([]byte, oprfSeedSize), make([]byte, keySize)
	_, _ = rand.Read(seed) // never fails: it ends the program instead
	_, _ = rand.Read(root)
	private := opaqueGroup.NewScalar().Random() // never zero
	defer private.Zero()
	return &ServerKeys{
		seed: secret.New(seed), private: secret.New(private.Encode()), root: secret.New(root),
		public: opaqueGroup.Base().Multiply(private).Encode(),
	}
}

// Marshal encodes them, 129 bytes: format (1) ‖ OPRF seed (64) ‖ private key as a
// little-endian scalar (32) ‖ root (32).
func (k *ServerKeys) Marshal() *secret.Bytes {
	out := make([]byte, 0, serverKeysSize) // it does not grow, so no copy is left behind
	out = append(out, serverKeysV1)
	out = append(out, k.seed.Expose()...)
	out = append(out, k.private.Expose()...)
	return secret.New(append(out, k.root.Expose()...))
}

// ParseServerKeys reads Marshal's form and keeps copies. ErrRecord for anything
// else, among it a private key that is zero or not reduced.
func ParseServerKeys(b *secret.Bytes) (*ServerKeys, error) {
	raw := b.Expose()
	if len(raw) != serverKeysSize || raw[0] != serverKeysV1 {
		return nil, invalid("server keys of %d bytes or of an unknown format", len(raw))
	}
	seed, private, root := raw[1:1+oprfSeedSize], raw[1+oprfSeedSize:1+oprfSeedSize+scalarSize], raw[1+oprfSeedSize+scalarSize:]
	scalar := opaqueGroup.NewScalar()
	defer scalar.Zero()
	// Decode refuses what is not reduced.
	if err := scalar.Decode(private); err != nil || scalar.IsZero() {
		return nil, invalid("server keys with a private key that cannot be used")
	}
	if allZero(seed) || allZero(root) {
		return nil, invalid("server keys that are empty")
	}
	return &ServerKeys{
		seed: secret.Copy(seed), private: secret.Copy(private), root: secret.Copy(root),
		public: opaqueGroup.Base().Multiply(scalar).Encode(),
	}, nil
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// PublicKey returns OPAQUE's server public key, 32 bytes.
func (k *ServerKeys) PublicKey() []byte { return bytes.Clone(k.public) }

// Wipe forgets the secrets.
func (k *ServerKeys) Wipe() {
	if k != nil {
		k.seed.Wipe()
		k.private.Wipe()
		k.root.Wipe()
	}
}

// server returns a library server with copies of the keys, and what wipes them.
func (k *ServerKeys) server(conf *opaque.Configuration, identity []byte) (*opaque.Server, func(), error) {
	s, err := conf.Server()
	if err != nil {
		return nil, nil, errors.New("identity: the login server cannot be set up")
	}
	private, err := s.Deserialize.DecodePrivateKey(k.private.Expose())
	if err != nil {
		return nil, nil, errors.New("identity: the server keys were wiped")
	}
	material := &opaque.ServerKeyMaterial{
		PrivateKey: private, PublicKeyBytes: bytes.Clone(k.public),
		OPRFGlobalSeed: bytes.Clone(k.seed.Expose()), Identity: identity,
	}
	if err := s.SetKeyMaterial(material); err != nil {
		material.Flush()
		return nil, nil, errors.New("identity: the server keys cannot be used")
	}
	return s, material.Flush, nil
}

// Register answers a registration request (32 bytes) for a login ID with 64 bytes.
// It stores nothing and answers for every ID: whether one may be registered is for
// the caller to know.
func (k *ServerKeys) Register(id ID, request []byte) ([]byte, error) {
	if id == (ID{}) {
		return nil, invalid("a registration without an ID")
	}
	// The password hash is the client's alone; the response does not depend on it.
	s, wipe, err := k.server(opaqueSuite(DefaultKDF()), []byte(serverIdentity))
	if err != nil {
		return nil, err
	}
	defer wipe()
	return register(s, id[:], request)
}

func register(s *opaque.Server, id, request []byte) ([]byte, error) {
	in, err := s.Deserialize.RegistrationRequest(bytes.Clone(request))
	if err != nil {
		return nil, invalid("a registration request of %d bytes that cannot be used", len(request))
	}
	out, err := s.RegistrationResponse(in, id, nil)
	if err != nil {
		return nil, invalid("a registration request that cannot be used")
	}
	return out.Serialize(), nil
}

// Login answers KE1 (96 bytes) for the registration of a login ID. It returns KE2
// (320 bytes), what KE3 has to be, and the session key, which nobody may use before
// VerifyKE3. For an empty registration it answers as for one that exists (RFC 9807,
// 6.3.2.2): its record is derived from the ID, so it is the same each time, and no
// secret fits it. ErrRecord for messages that are none.
func (k *ServerKeys) Login(id ID, registration, ke1 []byte) (ke2, clientMAC []byte, sessionKey *secret.Bytes, err error) {
	if id == (ID{}) {
		return nil, nil, nil, invalid("a login without an ID")
	}
	// Both ways do the same work, so that time says little about which it was.
	kdf := DefaultKDF()
	record, err := k.fakeRecord(id)
	if err != nil {
		return nil, nil, nil, err
	}
	real := registration
	if len(real) == 0 {
		real = append(append([]byte{registrationV1}, kdf.encode()...), record...)
	}
	if kdf, record, err = parseRegistration(real); err != nil {
		return nil, nil, nil, err
	}
	s, wipe, err := k.server(opaqueSuite(kdf), []byte(serverIdentity))
	if err != nil {
		return nil, nil, nil, err
	}
	defer wipe()
	return login(s, id[:], id[:], record, ke1)
}

func login(s *opaque.Server, id, client, record, ke1 []byte, options ...*opaque.ServerOptions) (ke2, clientMAC []byte, sessionKey *secret.Bytes, err error) {
	in, err := s.Deserialize.KE1(bytes.Clone(ke1))
	if err != nil {
		return nil, nil, nil, invalid("a login message of %d bytes that cannot be used", len(ke1))
	}
	var stored *message.RegistrationRecord
	if stored, err = s.Deserialize.RegistrationRecord(record); err != nil {
		return nil, nil, nil, invalid("a registration that cannot be used")
	}
	out, result, err := s.GenerateKE2(in, &opaque.ClientRecord{RegistrationRecord: stored, CredentialIdentifier: id, ClientIdentity: client}, options...)
	if err != nil {
		return nil, nil, nil, invalid("a login message that cannot be used")
	}
	return out.Serialize(), result.ClientMAC, secret.New(result.SessionSecret), nil
}

// fakeRecord is the registration record of an ID that has none: a public key whose
// private key is thrown away, a masking key, and an envelope of zeros, which
// masking hides.
func (k *ServerKeys) fakeRecord(id ID) ([]byte, error) {
	out, err := k.derive(labelFakeRecord, id, 64+64)
	if err != nil {
		return nil, err
	}
	defer out.Wipe()
	private := opaqueGroup.HashToScalar(out.Expose()[:64], []byte(labelFakeRecord))
	defer private.Zero()
	record := make([]byte, 0, recordSize)
	record = append(record, opaqueGroup.Base().Multiply(private).Encode()...)
	record = append(record, out.Expose()[64:]...)
	return record[:recordSize], nil
}

// derive is HKDF-SHA512 of the root with no salt and info fields(label, ID).
func (k *ServerKeys) derive(label string, id ID, length int) (*secret.Bytes, error) {
	if k.root.Len() != keySize {
		return nil, errors.New("identity: the server keys were wiped")
	}
	out, err := hkdf.Key(sha512.New, k.root.Expose(), nil, string(fields([]byte(label), id[:])), length)
	if err != nil {
		return nil, err
	}
	return secret.New(out), nil
}

// MakePart draws the part of an authenticator that the server keeps, 32 bytes, and
// returns it wrapped under these keys, for storage, and sealed to the client's
// public key (X25519, 32 bytes), both in ServerPartContext.
func (k *ServerKeys) MakePart(id ID, clientPublic []byte) (wrapped, sealed []byte, err error) {
	b := make([]byte, ServerPartSize)
	_, _ = rand.Read(b)
	part := secret.New(b)
	defer part.Wipe()
	if sealed, err = sealPart(id, part, clientPublic); err != nil {
		return nil, nil, err
	}
	key, err := k.derive(labelPartKey, id, keySize)
	if err != nil {
		return nil, nil, err
	}
	defer key.Wipe()
	wrapped, err = Wrap(key, ServerPartContext(id), part)
	return wrapped, sealed, err
}

// ReleasePart seals a stored part to the client's public key. That the client may
// have it is for the caller to know. For an empty one it seals another 32 bytes that
// are always the same for an ID. ErrOpen for a part that is not this ID's.
func (k *ServerKeys) ReleasePart(id ID, wrapped, clientPublic []byte) ([]byte, error) {
	part, err := k.derive(labelFakePart, id, ServerPartSize)
	if err != nil {
		return nil, err
	}
	defer func() { part.Wipe() }()
	if len(wrapped) > 0 {
		key, err := k.derive(labelPartKey, id, keySize)
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		stored, err := Unwrap(key, ServerPartContext(id), wrapped)
		if err != nil {
			return nil, err
		}
		part.Wipe()
		part = stored
	}
	if part.Len() != ServerPartSize {
		return nil, invalid("a server part of %d bytes", part.Len())
	}
	return sealPart(id, part, clientPublic)
}

func sealPart(id ID, part *secret.Bytes, clientPublic []byte) ([]byte, error) {
	if id == (ID{}) {
		return nil, invalid("a server part without an ID")
	}
	return Seal(PublicKeys{Seal: clientPublic}, ServerPartContext(id), part)
}
