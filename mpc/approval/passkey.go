package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// Flags of authenticator data, WebAuthn Level 3, section 6.1.
const (
	flagUserPresent    = 0x01
	flagUserVerified   = 0x04
	flagBackupEligible = 0x08
	flagBackupState    = 0x10
	flagAttestedData   = 0x40
	flagExtensions     = 0x80
)

// fixedAuthenticatorData is the length in bytes of what is always there: 32 of the
// relying party's hash, 1 of flags, 4 of a counter.
const fixedAuthenticatorData = 37

// verifyPasskey follows WebAuthn Level 3, section 7.2, steps 10 to 21, with the
// challenge being the statement's hash and everything else pinned by the policy.
//
// The signature counter is not looked at: synchronised passkeys keep it at 0, and
// nodes keep no state. Nor are extensions: none is asked for. Which credential
// signed follows from the key.
func (k *Key) verifyPasskey(public any, challenge [32]byte, s *Signature) error {
	if len(s.ClientData) > maxClientData || len(s.AuthenticatorData) > maxAuthenticator {
		return fmt.Errorf("%w: the passkey's data is too long", ErrSignature)
	}
	c, err := parseClientData(s.ClientData)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	switch {
	case c.Type != "webauthn.get":
		return fmt.Errorf("%w: it is of type %q", ErrSignature, clip(c.Type))
	case c.Challenge != base64.RawURLEncoding.EncodeToString(challenge[:]):
		return fmt.Errorf("%w: the passkey signed another challenge", ErrSignature)
	case !slices.Contains(k.Origins, c.Origin):
		return fmt.Errorf("%w: the page was %q, which the policy does not name", ErrSignature, clip(c.Origin))
	case c.CrossOrigin || c.TopOrigin != "":
		return fmt.Errorf("%w: the page was inside another one", ErrSignature)
	}
	if err := k.checkAuthenticatorData(s.AuthenticatorData); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	sum := sha256.Sum256(s.ClientData)
	if !verifyMessage(public, append(bytes.Clone(s.AuthenticatorData), sum[:]...), s.Signature) {
		return ErrSignature
	}
	return nil
}

// checkAuthenticatorData is steps 14 to 18, and that the data ends where its flags
// say (section 6.1).
func (k *Key) checkAuthenticatorData(data []byte) error {
	if len(data) < fixedAuthenticatorData {
		return errors.New("the authenticator data is cut off")
	}
	rp := sha256.Sum256([]byte(k.RPID))
	flags, tail := data[32], data[fixedAuthenticatorData:]
	switch {
	case !bytes.Equal(data[:32], rp[:]):
		return errors.New("the passkey is for another site")
	case flags&flagUserPresent == 0:
		return errors.New("nobody was present")
	case flags&flagUserVerified == 0:
		return errors.New("the authenticator did not verify its user (face, fingerprint or PIN)")
	case flags&flagBackupState != 0 && flags&flagBackupEligible == 0:
		return errors.New("the passkey says that it is backed up and cannot be")
	case flags&flagAttestedData != 0:
		return errors.New("the authenticator data is that of a registration")
	case flags&flagExtensions == 0 && len(tail) > 0, flags&flagExtensions != 0 && (len(tail) == 0 || tail[0]>>5 != 5): // a CBOR map
		return errors.New("the authenticator data does not end where its flags say")
	}
	return nil
}

// clientData is what counts of CollectedClientData, WebAuthn section 5.8.1.
type clientData struct {
	Type, Challenge, Origin, TopOrigin string
	CrossOrigin                        bool
}

// parseClientData reads client data more strictly than encoding/json would: that
// takes "Challenge" for "challenge", the last of two members of one name, null for
// anything, and repairs broken UTF-8. Here names are exact, none is there twice,
// types fit, and nothing follows. Members of other names are skipped: browsers add
// some on purpose (section 5.8.1).
func parseClientData(in []byte) (*clientData, error) {
	fault := errors.New("the client data is not a JSON object with type, challenge and origin, each once")
	if !utf8.Valid(in) {
		return nil, fault
	}
	d := json.NewDecoder(bytes.NewReader(in))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, fault
	}
	c := &clientData{}
	texts := map[string]*string{"type": &c.Type, "challenge": &c.Challenge, "origin": &c.Origin, "topOrigin": &c.TopOrigin}
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		key, ok := name.(string)
		if err != nil || !ok || seen[key] {
			return nil, fault
		}
		seen[key] = true
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, fault
		}
		if text := texts[key]; text != nil {
			*text, ok = value.(string)
		} else if key == "crossOrigin" {
			c.CrossOrigin, ok = value.(bool)
		}
		if !ok {
			return nil, fault
		}
	}
	if end, err := d.Token(); err != nil || end != json.Delim('}') {
		return nil, fault
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || !seen["type"] || !seen["challenge"] || !seen["origin"] {
		return nil, fault
	}
	return c, nil
}
