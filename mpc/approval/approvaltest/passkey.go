package approvaltest

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"testing"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Flags of authenticator data (WebAuthn, section 6.1).
const (
	UserPresent      = 0x01
	UserVerified     = 0x04
	BackupEligible   = 0x08
	BackupState      = 0x10
	AttestedData     = 0x40
	ExtensionData    = 0x80
	DefaultFlags     = UserPresent | UserVerified
	defaultSignCount = 7
)

// Assertion says what a passkey is made to sign, so that tests can have it wrong.
// Zero fields take what is right for the key.
type Assertion struct {
	Challenge   []byte
	Type        string // webauthn.get
	Origin      string // the key's first
	CrossOrigin bool
	TopOrigin   string
	RPID        string // the key's
	Flags       byte   // DefaultFlags
	// Tail follows the 37 bytes of authenticator data.
	Tail []byte
	// ClientData replaces the client data JSON altogether.
	ClientData []byte
}

// Assert signs as an authenticator does, with one of the approver's passkeys.
func (a *Approver) Assert(t testing.TB, k *approval.Key, as Assertion) approval.Signature {
	t.Helper()
	clientData, authenticatorData := as.Encode(t, k)
	sum := sha256.Sum256(clientData)
	return approval.Signature{Key: k.ID(), AuthenticatorData: authenticatorData, ClientData: clientData,
		Signature: SignDER(t, a.Private(t, k.ID()), append(append([]byte{}, authenticatorData...), sum[:]...))}
}

// Encode returns the two byte strings that an assertion has beside its signature.
func (as Assertion) Encode(t testing.TB, k *approval.Key) (clientData, authenticatorData []byte) {
	t.Helper()
	or := func(s, or string) string {
		if s == "" {
			return or
		}
		return s
	}
	clientData = as.ClientData
	if clientData == nil {
		// Browsers write the four in this order (WebAuthn, section 5.8.1.1).
		c := struct {
			Type        string `json:"type"`
			Challenge   string `json:"challenge"`
			Origin      string `json:"origin"`
			CrossOrigin bool   `json:"crossOrigin"`
			TopOrigin   string `json:"topOrigin,omitempty"`
		}{or(as.Type, "webauthn.get"), base64.RawURLEncoding.EncodeToString(as.Challenge), or(as.Origin, k.Origins[0]), as.CrossOrigin, as.TopOrigin}
		var err error
		if clientData, err = json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	}
	flags := as.Flags
	if flags == 0 {
		flags = DefaultFlags
	}
	rp := sha256.Sum256([]byte(or(as.RPID, k.RPID)))
	authenticatorData = append(rp[:], flags)
	authenticatorData = binary.BigEndian.AppendUint32(authenticatorData, defaultSignCount)
	return clientData, append(authenticatorData, as.Tail...)
}

// rawOf turns a DER signature on P-256 into r‖s.
func rawOf(der []byte) ([]byte, error) {
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, err
	}
	raw := make([]byte, 64)
	rs.R.FillBytes(raw[:32])
	rs.S.FillBytes(raw[32:])
	return raw, nil
}
