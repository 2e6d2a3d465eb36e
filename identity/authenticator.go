package identity

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"

	"vault-plugin-secrets-mpc/secret"
)

// Method is the kind of an authenticator: what people authenticate with.
type Method string

// Methods.
const (
	Password    Method = "password"
	KeyFile     Method = "key-file"
	Certificate Method = "certificate" // a private key with certificate: file or PKCS#11 token
	Device      Method = "device"      // a secret in the operating system's keyring
	OIDC        Method = "oidc"        // a third party's account
	Phone       Method = "phone"       // a one-time code
	Passkey     Method = "passkey"     // WebAuthn with the PRF extension
)

// Methods lists them in the order in which they are shown.
func Methods() []Method {
	return []Method{Password, KeyFile, Certificate, Device, OIDC, Phone, Passkey}
}

// Valid reports whether m is one of the methods.
func (m Method) Valid() bool {
	for _, known := range Methods() {
		if m == known {
			return true
		}
	}
	return false
}

// Guessable says that people choose the secret, or that it is short: a password, a
// PIN, a code. The others are at least 32 random bytes.
func (m Method) Guessable() bool { return m == Password || m.HasServerPart() }

// HasServerPart says that the server keeps a part of the authentication
// information and releases it after a check of its own.
func (m Method) HasServerPart() bool { return m == OIDC || m == Phone }

// Authenticator is what the server keeps of one, without what only the server
// needs. The authenticator signs it itself, so that no server changes it.
type Authenticator struct {
	Format  int        `json:"format"` // 1
	ID      ID         `json:"id"`     // random: the login ID
	Name    string     `json:"name"`
	Method  Method     `json:"method"`
	Keys    PublicKeys `json:"keys"`
	KDF     KDF        `json:"kdf"`
	Created time.Time  `json:"created"`
	// PersonalInformation: it is asked for at each login, with this question;
	// empty for none.
	PersonalInformation string `json:"personal_information,omitempty"`
	// PIN: a PIN is part of the authentication information. Only methods with a
	// server part have one.
	PIN bool `json:"pin,omitempty"`
	// Wrapped is the seed under the authenticator KEK.
	Wrapped []byte `json:"wrapped"`
	// Parameters are the method's own; see MethodParameters.
	Parameters MethodParameters `json:"parameters"`
}

// MethodParameters holds public parameters of methods; each method has the fields
// named after it and no others.
type MethodParameters struct {
	Certificate *CertificateParameters `json:"certificate,omitempty"`
	OIDC        *OIDCParameters        `json:"oidc,omitempty"`
	Passkey     *PasskeyParameters     `json:"passkey,omitempty"`
}

// CertificateParameters: the authentication information is 32 random bytes, which
// only the private key of the certificate opens.
type CertificateParameters struct {
	Certificate []byte `json:"certificate"` // DER
	// Algorithm is "ecdh-p256" (HPKE to the key) or "rsa-oaep-sha256".
	Algorithm string `json:"algorithm"`
	Sealed    []byte `json:"sealed"`
}

// OIDCParameters name the account at the third party.
type OIDCParameters struct {
	Provider string `json:"provider"` // name in config/oidc
	Issuer   string `json:"issuer"`
	Subject  string `json:"subject"`
}

// PasskeyParameters: the authentication information is the PRF's output.
type PasskeyParameters struct {
	RelyingParty string `json:"relying_party"`
	CredentialID []byte `json:"credential_id"`
	PublicKey    []byte `json:"public_key"` // COSE key
	Salt         []byte `json:"salt"`       // of the PRF, 32 bytes
}

// ServerTrusting says that the server alone could open what this authenticator
// opens: it holds the only part that is secret.
func (a *Authenticator) ServerTrusting() bool { return a.Method.HasServerPart() && !a.PIN }

// Fingerprint is what two people compare over another channel before one of them
// grants the other's authenticator something: 128 bits of SHA-256 over fields
// (label, ID, method, 1 if server-trusting, keys), as 8 groups of 4 hex digits. A
// server can show a record that it made itself; it cannot make one with this
// fingerprint.
func (a *Authenticator) Fingerprint() string {
	return fingerprint(a.ID, a.Method, a.ServerTrusting(), a.Keys)
}

// Fingerprint is that of the authenticator which has the grant.
func (g *Grant) Fingerprint() string {
	return fingerprint(g.Authenticator, g.Kind, g.ServerTrusting, g.Keys)
}

func fingerprint(id ID, m Method, serverTrusting bool, keys PublicKeys) string {
	trust := []byte{0}
	if serverTrusting {
		trust[0] = 1
	}
	sum := sha256.Sum256(fields([]byte(labelFingerprint), id[:], []byte(m), trust, keys.encode()))
	groups := make([]string, 8)
	for i := range groups {
		groups[i] = hex.EncodeToString(sum[2*i : 2*i+2])
	}
	return strings.Join(groups, " ")
}

// SignedAuthenticator is an authenticator as it is stored and sent.
type SignedAuthenticator struct {
	Authenticator []byte `json:"authenticator"`
	Signature     []byte `json:"signature"` // by its own keys
}

// SignAuthenticator checks a and signs it with its own keys.
func SignAuthenticator(a *Authenticator, keys *Keys) (*SignedAuthenticator, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	if !a.Keys.Equal(keys.Public()) {
		return nil, invalid("the keys are not those of authenticator %s", a.Name)
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxAuthenticator {
		return nil, invalid("the authenticator would have %d bytes, more than %d", len(raw), MaxAuthenticator)
	}
	return &SignedAuthenticator{Authenticator: raw, Signature: keys.Sign(AuthenticatorContext(a.ID), raw)}, nil
}

// Verify parses the record and checks that it is signed by the keys in it. Whose
// keys these are is for the caller to know: from the wrapped seed, or a grant.
func (s *SignedAuthenticator) Verify() (*Authenticator, error) {
	a := &Authenticator{}
	if err := decodeStrict("authenticator", s.Authenticator, MaxAuthenticator, a); err != nil {
		return nil, err
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	if !a.Keys.Verify(AuthenticatorContext(a.ID), s.Authenticator, s.Signature) {
		return nil, fmt.Errorf("authenticator %s: %w", a.Name, ErrSignature)
	}
	return a, nil
}

func (a *Authenticator) check() error {
	if a.Format != 1 {
		return invalid("an authenticator of format %d; this program reads format 1", a.Format)
	}
	if err := CheckName("authenticator", a.Name); err != nil {
		return err
	}
	switch {
	case a.ID == ID{}:
		return invalid("authenticator %s has no ID", a.Name)
	case !a.Method.Valid():
		return invalid("authenticator %s is of a kind that is not known", a.Name)
	case len(a.Wrapped) != WrappedOverhead+SeedSize:
		return invalid("authenticator %s has no wrapped seed", a.Name)
	case a.PIN && !a.Method.HasServerPart():
		return invalid("authenticators of kind %s have no PIN beside them", a.Method)
	}
	if err := checkText("question of authenticator "+a.Name, a.PersonalInformation); err != nil {
		return err
	}
	if err := a.Keys.Check(); err != nil {
		return err
	}
	if err := a.KDF.Check(); err != nil {
		return err
	}
	return a.Parameters.check(a.Method)
}

func (p MethodParameters) check(m Method) error {
	if (p.Certificate != nil) != (m == Certificate) || (p.OIDC != nil) != (m == OIDC) || (p.Passkey != nil) != (m == Passkey) {
		return invalid("the parameters are not those of kind %s", m)
	}
	switch {
	case p.Certificate != nil && (p.Certificate.Algorithm != "ecdh-p256" && p.Certificate.Algorithm != "rsa-oaep-sha256" ||
		len(p.Certificate.Certificate) > 16<<10 || len(p.Certificate.Sealed) == 0 || len(p.Certificate.Sealed) > 1024):
		return invalid("certificate, algorithm or sealed information is missing or too long")
	case p.OIDC != nil && (p.OIDC.Provider == "" || p.OIDC.Issuer == "" || p.OIDC.Subject == "" || len(p.OIDC.Provider)+len(p.OIDC.Issuer)+len(p.OIDC.Subject) > 2048):
		return invalid("provider, issuer or subject is missing or too long")
	case p.Passkey != nil && (p.Passkey.RelyingParty == "" || len(p.Passkey.RelyingParty) > 253 || len(p.Passkey.CredentialID) == 0 ||
		len(p.Passkey.CredentialID) > 1023 || len(p.Passkey.PublicKey) == 0 || len(p.Passkey.PublicKey) > 2048 || len(p.Passkey.Salt) != 32):
		return invalid("relying party, credential, public key or salt is missing or too long")
	}
	return nil
}

const (
	labelLoginSecret = "mpc identity login secret v1"
	labelKEK         = "mpc identity authenticator kek v1"
)

// AuthenticationInformation is what a user proves to be who he is with. The
// caller wipes the parts.
type AuthenticationInformation struct {
	// Information is the password, the key file's 32 bytes, what the certificate's
	// key opened, the device's secret, the PRF's output, or the PIN.
	Information *secret.Bytes
	// ServerPart is what the server released; only methods that have one.
	ServerPart *secret.Bytes
	// Personal is the answer to the question of PersonalInformation.
	Personal *secret.Bytes
}

// LoginSecret is what OPAQUE takes as password, 32 bytes: SHA-256 of fields(label,
// authenticator, method, information, server part, personal information). Personal
// information is folded to lower case and Unicode's composed form (NFC) without
// surrounding white space, since people do not remember how they wrote it and
// keyboards do not agree on it. OPAQUE stretches it.
func (i AuthenticationInformation) LoginSecret(authenticator ID, m Method) (*secret.Bytes, error) {
	if i.Information.Len() == 0 && i.ServerPart.Len() == 0 {
		return nil, invalid("there is nothing to authenticate with")
	}
	lower := bytes.ToLower(bytes.TrimSpace(i.Personal.Expose())) // a copy
	defer secret.Wipe(lower)
	personal := norm.NFC.Bytes(lower) // a copy, or lower itself
	defer secret.Wipe(personal)
	all := fields([]byte(labelLoginSecret), authenticator[:], []byte(m), i.Information.Expose(), i.ServerPart.Expose(), personal)
	defer secret.Wipe(all)
	sum := sha256.Sum256(all)
	return secret.New(sum[:]), nil
}

// AuthenticatorKEK derives the key that wraps an authenticator's seed from OPAQUE's
// export key: HKDF-SHA256, no salt, info fields(label, authenticator), 32 bytes.
func AuthenticatorKEK(exportKey *secret.Bytes, authenticator ID) (*secret.Bytes, error) {
	if exportKey.Len() < keySize {
		return nil, invalid("an export key of %d bytes", exportKey.Len())
	}
	k, err := hkdf.Key(sha256.New, exportKey.Expose(), nil, string(fields([]byte(labelKEK), authenticator[:])), keySize)
	if err != nil {
		return nil, err
	}
	return secret.New(k), nil
}
