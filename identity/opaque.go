package identity

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"encoding/binary"
	"errors"

	"github.com/bytemare/ksf"
	"github.com/bytemare/opaque"

	"vault-plugin-secrets-mpc/secret"
)

// Login is OPAQUE-3DH (RFC 9807) with ristretto255-SHA512, HKDF-SHA512,
// HMAC-SHA512 and Argon2id. The login ID is credential identifier and client
// identity. What it is given as password is AuthenticationInformation.LoginSecret,
// 32 bytes, which never leaves the client; what comes out is a session key that
// both ends have and an export key that the client alone has.
//
// The library's client has the state of one run; its server is made anew for
// every call (see opaque_server.go), so that no two calls share anything that
// either could change.

// Sizes of messages in bytes.
const (
	RegistrationRequestSize  = 32
	RegistrationResponseSize = 64
	KE1Size                  = 96
	KE2Size                  = 320
	KE3Size                  = 64
	// RegistrationSize is format (1) ‖ KDF (9) ‖ RFC 9807's RegistrationRecord.
	RegistrationSize = 1 + kdfSize + recordSize
	// SessionKeySize and ExportKeySize are those of SHA-512.
	SessionKeySize = 64
	ExportKeySize  = 64

	kdfSize        = 9
	recordSize     = 32 + 64 + 96 // client public key, masking key, envelope
	loginSize      = 32           // of a login secret
	registrationV1 = 1
)

const (
	serverIdentity = "mpc identity server v1"
	labelOPAQUE    = "mpc identity opaque v1"
)

// ErrLogin: the login did not succeed. The secret is wrong, or the authenticator
// does not exist, or the server is not the one that it was registered with:
// nobody but the right server can tell which.
var ErrLogin = errors.New("identity: login failed: the secret is wrong, there is no such authenticator, or the server is another")

// encode writes the parameters: passes and KiB as 4 bytes each, big-endian,
// threads as 1.
func (k KDF) encode() []byte {
	out := binary.BigEndian.AppendUint32(nil, k.Time)
	out = binary.BigEndian.AppendUint32(out, k.Memory)
	return append(out, k.Threads)
}

func decodeKDF(b []byte) KDF {
	return KDF{Time: binary.BigEndian.Uint32(b), Memory: binary.BigEndian.Uint32(b[4:]), Threads: b[8]}
}

// opaqueSuite is the configuration of both ends. The parameters of the password
// hash are part of the context, so that two ends that differ in them do not get a
// session.
func opaqueSuite(kdf KDF) *opaque.Configuration {
	return &opaque.Configuration{
		OPRF: opaque.RistrettoSha512, AKE: opaque.RistrettoSha512, KSF: ksf.Argon2id,
		KDF: crypto.SHA512, MAC: crypto.SHA512, Hash: crypto.SHA512,
		Context: fields([]byte(labelOPAQUE), kdf.encode()),
	}
}

// opaqueHash are the options that carry the password hash's parameters: salt of
// 16 zero bytes, 64 bytes of output (RFC 9807, 7: what is hashed is the output of
// an OPRF under a key of each login ID, and needs no other salt).
func opaqueHash(kdf KDF) *opaque.ClientOptions {
	return &opaque.ClientOptions{
		KSFSalt: make([]byte, 16), KSFLength: 64,
		KSFParameters: []uint64{uint64(kdf.Time), uint64(kdf.Memory), uint64(kdf.Threads)},
	}
}

// opaqueClient makes the library's client after checking what it gets.
func opaqueClient(loginSecret *secret.Bytes, id ID, kdf KDF) (*opaque.Client, error) {
	if err := kdf.Check(); err != nil {
		return nil, err
	}
	if loginSecret.Len() != loginSize || id == (ID{}) {
		return nil, invalid("a login needs a secret of %d bytes and an ID", loginSize)
	}
	return opaqueSuite(kdf).Client()
}

// Registration is the client's side of one registration. One goroutine uses it.
type Registration struct {
	client *opaque.Client // nil when it is over
	id     ID
	kdf    KDF
}

// StartRegistration begins to register a login secret (32 bytes) under a login ID
// and returns the request for the server. ErrWeakKDF for parameters below the
// default. The caller calls Finish or Wipe.
func StartRegistration(loginSecret *secret.Bytes, id ID, kdf KDF) (*Registration, []byte, error) {
	client, err := opaqueClient(loginSecret, id, kdf)
	if err != nil {
		return nil, nil, err
	}
	request, err := client.RegistrationInit(loginSecret.Expose())
	if err != nil {
		return nil, nil, errors.New("identity: the registration cannot be started")
	}
	return &Registration{client: client, id: id, kdf: kdf}, request.Serialize(), nil
}

// Finish takes the server's response and returns what the server stores, the
// export key (64 bytes) and the server's public key (32 bytes). It takes as long
// as the password hash. The registration is over, whatever it returns.
func (r *Registration) Finish(response []byte) (registration []byte, exportKey *secret.Bytes, serverPublicKey []byte, err error) {
	if r.client == nil {
		return nil, nil, nil, errors.New("identity: this registration is over")
	}
	defer r.Wipe()
	in, err := r.client.Deserialize.RegistrationResponse(bytes.Clone(response))
	if err != nil {
		return nil, nil, nil, invalid("a registration response of %d bytes that cannot be used", len(response))
	}
	record, export, err := r.client.RegistrationFinalize(in, r.id[:], []byte(serverIdentity), opaqueHash(r.kdf))
	if err != nil {
		return nil, nil, nil, invalid("a registration response that cannot be used")
	}
	registration = append([]byte{registrationV1}, r.kdf.encode()...)
	return append(registration, record.Serialize()...), secret.New(export), in.ServerPublicKey, nil
}

// Wipe ends the registration and forgets its secrets. It may be called again.
func (r *Registration) Wipe() {
	if r != nil && r.client != nil {
		r.client.ClearState()
		r.client = nil
	}
}

// CheckRegistration says whether a client's registration has the right form and
// was made with these parameters of the password hash.
func CheckRegistration(registration []byte, kdf KDF) error {
	got, _, err := parseRegistration(registration)
	if err == nil && got != kdf {
		return invalid("the registration was made with other parameters of the password hash than the authenticator's")
	}
	return err
}

// parseRegistration splits a registration and checks its parameters.
func parseRegistration(registration []byte) (kdf KDF, record []byte, err error) {
	if len(registration) != RegistrationSize || registration[0] != registrationV1 {
		return KDF{}, nil, invalid("a registration of %d bytes or of an unknown format", len(registration))
	}
	kdf, record = decodeKDF(registration[1:]), bytes.Clone(registration[1+kdfSize:])
	if err := kdf.Check(); err != nil {
		return KDF{}, nil, err
	}
	d, err := opaqueSuite(kdf).Deserializer()
	if err != nil {
		return KDF{}, nil, err
	}
	if _, err := d.RegistrationRecord(record); err != nil {
		return KDF{}, nil, invalid("a registration that cannot be used")
	}
	return kdf, record, nil
}

// Login is the client's side of one login. One goroutine uses it.
type Login struct {
	client *opaque.Client // nil when it is over
	id     ID
	kdf    KDF
}

// StartLogin begins a login and returns KE1, 96 bytes. ErrWeakKDF for parameters
// that a server sent to make guessing cheap. The caller calls Finish or Wipe.
func StartLogin(loginSecret *secret.Bytes, id ID, kdf KDF) (*Login, []byte, error) {
	client, err := opaqueClient(loginSecret, id, kdf)
	if err != nil {
		return nil, nil, err
	}
	ke1, err := client.GenerateKE1(loginSecret.Expose())
	if err != nil {
		return nil, nil, errors.New("identity: the login cannot be started")
	}
	return &Login{client: client, id: id, kdf: kdf}, ke1.Serialize(), nil
}

// Finish takes KE2 and returns KE3 (64 bytes) for the server, the session key and
// the export key (64 bytes each). ErrLogin where the secret or the server is not
// the registered one; ErrRecord for a KE2 that is none. It takes as long as the
// password hash. The login is over, whatever it returns.
func (l *Login) Finish(ke2 []byte) (ke3 []byte, sessionKey, exportKey *secret.Bytes, err error) {
	if l.client == nil {
		return nil, nil, nil, errors.New("identity: this login is over")
	}
	defer l.Wipe()
	in, err := l.client.Deserialize.KE2(bytes.Clone(ke2))
	if err != nil {
		return nil, nil, nil, invalid("a login answer of %d bytes that cannot be used", len(ke2))
	}
	// The library's errors tell a wrong envelope from a wrong MAC, which is
	// nobody's business.
	out, session, export, err := l.client.GenerateKE3(in, l.id[:], []byte(serverIdentity), opaqueHash(l.kdf))
	if err != nil {
		return nil, nil, nil, ErrLogin
	}
	return out.Serialize(), secret.New(session), secret.New(export), nil
}

// Wipe ends the login and forgets its secrets. It may be called again.
func (l *Login) Wipe() {
	if l != nil && l.client != nil {
		l.client.ClearState()
		l.client = nil
	}
}

// VerifyKE3 reports in constant time whether ke3 is the client's proof that it has
// the session key. Before it has, nothing may be sent under that key.
func VerifyKE3(clientMAC, ke3 []byte) bool {
	return len(clientMAC) == KE3Size && len(ke3) == KE3Size && hmac.Equal(clientMAC, ke3)
}
