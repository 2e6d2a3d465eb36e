package backend

import (
	"errors"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

// Records of identities; their keys are in storage.go. They hold ciphertext,
// public keys, salts and verifiers only. What clients signed is kept byte for
// byte (package identity), and checked again whenever it is read.

// identityRecord is an identity but its assets. It is replaced as a whole by one
// Put.
type identityRecord struct {
	sinceV5
	Version int       `json:"version"`
	ID      string    `json:"id"` // hex, 16 bytes
	Created time.Time `json:"created_time"`
	// Signed is the newest manifest.
	Signed identity.SignedManifest `json:"signed"`
	// Frozen, where it is not nil, keeps everybody from opening it and its
	// accounts from signing.
	Frozen *frozenRecord `json:"frozen,omitempty"`
}

// assetRecord is an asset of an identity.
type assetRecord struct {
	sinceV5
	Version int                  `json:"version"`
	Signed  identity.SignedAsset `json:"signed"`
}

// authenticatorRecord is an authenticator with what only the server needs.
type authenticatorRecord struct {
	sinceV5
	Version int    `json:"version"`
	ID      string `json:"id"` // hex, 16 bytes; the login ID
	// Signed is what the authenticator says about itself.
	Signed identity.SignedAuthenticator `json:"signed"`
	// Registration is OPAQUE's registration record (RFC 9807, 5.1).
	Registration []byte `json:"registration"`
	// ServerPart is wrapped inside a node under the mount's identity keys; only
	// methods that have one.
	ServerPart []byte `json:"server_part,omitempty"`
	// Phone is the number that codes go to; only for phones. Not public.
	Phone string `json:"phone,omitempty"`
	// Lost, where it is not nil, says that nobody logs in with it any more.
	Lost *frozenRecord `json:"lost,omitempty"`
	// Devices are those that were bound and that the server knows of.
	Devices []deviceRecord `json:"devices,omitempty"`
}

// deviceRecord is a device that holds role keys locally.
type deviceRecord struct {
	ID       string    `json:"id"`       // hex, 16 bytes
	Identity string    `json:"identity"` // hex, 16 bytes
	Label    string    `json:"label"`
	Bound    time.Time `json:"bound_time"`
	Revoked  time.Time `json:"revoked_time,omitzero"`
}

// authenticatorLockRecord says until when an authenticator takes no attempts.
type authenticatorLockRecord struct {
	sinceV5
	Version  int       `json:"version"`
	Failures int       `json:"failures"` // since the last success
	Until    time.Time `json:"until"`
	Time     time.Time `json:"time"`
}

// identityKeysRecord holds the mount's keys for identities: OPAQUE's seed and key
// pair, and the key that wraps server parts, opened inside a node only.
type identityKeysRecord struct {
	sinceV5
	Version int `json:"version"`
	// Envelope wraps them (hsm.Seal).
	Envelope []byte `json:"envelope"`
	// PublicKey is OPAQUE's server public key, 32 bytes.
	PublicKey []byte `json:"public_key"`
	// EnumerationKey, 32 bytes: what is shown for authenticators that do not exist
	// is derived from it, so that it stays the same. It guards nothing else.
	EnumerationKey []byte    `json:"enumeration_key"`
	Created        time.Time `json:"created_time"`
}

// identitiesConfigRecord is config/identities.
type identitiesConfigRecord struct {
	sinceV5
	Version    int   `json:"version"`
	SessionTTL int64 `json:"session_ttl_seconds"`
	// PhoneWebhook takes one-time codes: an https URL (http on loopback), and the
	// value of its Authorization header, which is secret; empty for none.
	PhoneWebhook       string `json:"phone_webhook,omitempty"`
	PhoneWebhookHeader string `json:"phone_webhook_header,omitempty"`
	// PasskeyRelyingParty is the domain that passkeys are for; empty for none.
	PasskeyRelyingParty string `json:"passkey_relying_party,omitempty"`
	// OIDC has the providers by name.
	OIDC map[string]oidcProviderRecord `json:"oidc,omitempty"`
}

// oidcProviderRecord is a third party that authenticates people.
type oidcProviderRecord struct {
	Issuer       string   `json:"issuer"`
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret,omitempty"` // of a native application: not confidential (RFC 8252, 8.5)
	CAPEM        string   `json:"ca_pem,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`
}

// String and GoString keep the webhook's and the providers' secrets out of every
// formatted output.
func (r *identitiesConfigRecord) String() string   { return "configuration of identities" }
func (r *identitiesConfigRecord) GoString() string { return r.String() }

// custodyRecord ties an account to the asset that holds its custody key: its
// shares open with that key and the HSM's together only.
type custodyRecord struct {
	Identity string `json:"identity"` // ID, hex
	Asset    string `json:"asset"`    // ID, hex
	// PublicKey is the custody key's public half, an uncompressed P-256 point; its
	// hash is in the account's public record.
	PublicKey []byte `json:"public_key"`
}

func (r *identityRecord) check() error {
	if len(r.Signed.Manifest) == 0 || len(r.Signed.Signature) == 0 {
		return errors.New("lacks the signed manifest")
	}
	if r.Frozen != nil && r.Frozen.Time.IsZero() {
		return errors.New("is frozen at no time")
	}
	_, err := identity.ParseID(r.ID)
	return err
}

func (r *assetRecord) check() error {
	if len(r.Signed.Asset) == 0 || len(r.Signed.Signature) == 0 {
		return errors.New("lacks the signed asset")
	}
	return nil
}

func (r *authenticatorRecord) check() error {
	if len(r.Signed.Authenticator) == 0 || len(r.Signed.Signature) == 0 || len(r.Registration) == 0 {
		return errors.New("lacks the signed authenticator or its registration")
	}
	if r.Lost != nil && r.Lost.Time.IsZero() {
		return errors.New("was lost at no time")
	}
	for _, d := range r.Devices {
		if _, err := identity.ParseID(d.ID); err != nil {
			return err
		}
		if _, err := identity.ParseID(d.Identity); err != nil {
			return err
		}
	}
	_, err := identity.ParseID(r.ID)
	return err
}

func (r *authenticatorLockRecord) check() error {
	if r.Failures < 1 || r.Time.IsZero() {
		return errors.New("counts no failures")
	}
	return nil
}

func (r *identityKeysRecord) check() error {
	if len(r.Envelope) == 0 || len(r.PublicKey) != 32 || len(r.EnumerationKey) != enumerationKeySize {
		return errors.New("lacks envelope, public key or enumeration key")
	}
	return nil
}

func (r *identitiesConfigRecord) check() error {
	if r.SessionTTL < 1 {
		return errors.New("is out of bounds")
	}
	return nil
}

func (r *custodyRecord) check() error {
	if _, err := identity.ParseID(r.Identity); err != nil {
		return err
	}
	if _, err := identity.ParseID(r.Asset); err != nil {
		return err
	}
	if len(r.PublicKey) != 65 {
		return errors.New("has a custody key of the wrong length")
	}
	return nil
}

// refers: the mount's identity keys are sealed to a version of the wrapping key.
func (r *identityKeysRecord) refers() refs { return envelopeRefs([][]byte{r.Envelope}) }
