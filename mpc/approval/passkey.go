package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Flags of authenticator data, WebAuthn Level 3, section 6.1.
const (
	flagUserPresent  = 0x01
	flagUserVerified = 0x04
)

// clientData is CollectedClientData, WebAuthn section 5.8.1.
type clientData struct {
	Type        string `json:"type"`
	Challenge   string `json:"challenge"`
	Origin      string `json:"origin"`
	CrossOrigin bool   `json:"crossOrigin"`
	TopOrigin   string `json:"topOrigin"`
}

// verifyPasskey follows WebAuthn section 7.2, steps 10 to 21, with the challenge
// being the statement's hash and everything else pinned by the policy. The signature
// counter is not looked at: synchronised passkeys keep it at 0, and nodes keep no
// state. Extension data may follow the fixed part.
func (k *Key) verifyPasskey(public any, challenge [32]byte, s *Signature) error {
	if len(s.ClientData) > maxClientData || len(s.AuthenticatorData) > maxAuthenticator {
		return fmt.Errorf("%w: the passkey's data is too long", ErrSignature)
	}
	var c clientData
	if err := json.Unmarshal(s.ClientData, &c); err != nil {
		return fmt.Errorf("%w: the client data is not JSON", ErrSignature)
	}
	got, err := base64.RawURLEncoding.Strict().DecodeString(c.Challenge)
	rp := sha256.Sum256([]byte(k.RPID))
	switch {
	case c.Type != "webauthn.get":
		return fmt.Errorf("%w: it is of type %q", ErrSignature, clip(c.Type))
	case err != nil || !bytes.Equal(got, challenge[:]):
		return fmt.Errorf("%w: the passkey signed another challenge", ErrSignature)
	case !slices.Contains(k.Origins, c.Origin):
		return fmt.Errorf("%w: the page was %q, which the policy does not name", ErrSignature, clip(c.Origin))
	case c.CrossOrigin || c.TopOrigin != "":
		return fmt.Errorf("%w: the page was inside another one", ErrSignature)
	case len(s.AuthenticatorData) < 37:
		return fmt.Errorf("%w: the authenticator data is cut off", ErrSignature)
	case !bytes.Equal(s.AuthenticatorData[:32], rp[:]):
		return fmt.Errorf("%w: the passkey is for another site", ErrSignature)
	case s.AuthenticatorData[32]&flagUserPresent == 0:
		return fmt.Errorf("%w: nobody was present", ErrSignature)
	case s.AuthenticatorData[32]&flagUserVerified == 0:
		return fmt.Errorf("%w: the authenticator did not verify its user (face, fingerprint or PIN)", ErrSignature)
	}
	sum := sha256.Sum256(s.ClientData)
	if !verifyMessage(public, append(bytes.Clone(s.AuthenticatorData), sum[:]...), s.Signature) {
		return ErrSignature
	}
	return nil
}

// clip shortens what came from outside for an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

var errUnknownForm = errors.New("approval: not a form of the code")
