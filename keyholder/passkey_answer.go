package keyholder

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// passkeyTask is what the page asks the browser for. It travels as JSON, with byte
// strings in base64.
type passkeyTask struct {
	Make bool   `json:"make"` // a new passkey, which is then used once
	Name string `json:"name"` // of the authenticator
	// Site is the relying party's ID, Origin that of the page.
	Site   string `json:"site"`
	Origin string `json:"-"`
	// User is the new passkey's user handle: random, so that no earlier passkey
	// is replaced (WebAuthn Level 3, 5.4.3).
	User []byte `json:"user,omitempty"`
	// MakeChallenge and UseChallenge are 32 random bytes each.
	MakeChallenge []byte `json:"make_challenge,omitempty"`
	UseChallenge  []byte `json:"use_challenge"`
	Credential    []byte `json:"credential,omitempty"` // which one to use
	Salt          []byte `json:"salt"`
	Timeout       int64  `json:"timeout"` // of one prompt of the browser, in milliseconds
}

// passkeyAnswer is what the page sends back. Whoever has it wipes it.
type passkeyAnswer struct {
	Error string `json:"error"` // then there is nothing else

	Attestation    []byte `json:"attestation"` // of a new passkey: CBOR
	MakeClientData []byte `json:"make_client_data"`

	Credential        []byte `json:"credential"`
	AuthenticatorData []byte `json:"authenticator_data"`
	ClientData        []byte `json:"client_data"`
	Signature         []byte `json:"signature"`
	Output            []byte `json:"output"` // of the PRF: secret
}

// parsePasskeyAnswer decodes what the page sent. The caller wipes raw, which holds the
// secret in base64. The decoder's own buffer has it as well, for as long as the garbage
// collector leaves it.
func parsePasskeyAnswer(raw []byte) (*passkeyAnswer, error) {
	a := &passkeyAnswer{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(a)
	if err == nil && d.More() {
		err = errors.New("there is more than one answer")
	}
	if err == nil && a.Error != "" && (len(a.Error) > 64 || strings.Trim(strings.ToLower(a.Error), "abcdefghijklmnopqrstuvwxyz-") != "") {
		err = errors.New("its error is no name")
	}
	if err != nil {
		a.wipe()
		return nil, errors.New("the answer is not what the page sends") // err may quote it
	}
	return a, nil
}

func (a *passkeyAnswer) wipe() {
	if a != nil {
		secret.Wipe(a.Output)
	}
}

// output is the secret, in bytes of its own.
func (a *passkeyAnswer) output() *secret.Bytes { return secret.Copy(a.Output) }

var errPasskeyForged = errors.New("it is not for this page and this request, or its user was not verified by face, fingerprint or PIN. Try again")

// registered verifies that the passkey was made for this task (WebAuthn Level 3, 7.1),
// and that it was used for it, too. Whose make the authenticator is does not count: the
// page asks for no attestation, and a statement of kind "packed" is believed in nothing.
func (a *passkeyAnswer) registered(t *passkeyTask) (*identity.PasskeyParameters, error) {
	raw := protocol.AuthenticatorAttestationResponse{
		AuthenticatorResponse: protocol.AuthenticatorResponse{ClientDataJSON: a.MakeClientData},
		AttestationObject:     a.Attestation,
	}
	parsed, err := raw.Parse()
	if err != nil {
		return nil, errors.New("it is malformed")
	}
	if f := parsed.AttestationObject.Format; f != string(protocol.AttestationFormatNone) && f != string(protocol.AttestationFormatPacked) {
		return nil, errors.New("it has an attestation that the page did not ask for")
	}
	if err := checkClientData(&parsed.CollectedClientData, protocol.CreateCeremony, t.MakeChallenge, t.Origin); err != nil {
		return nil, err
	}
	created := protocol.ParsedCredentialCreationData{
		Response: *parsed,
		Raw:      protocol.CredentialCreationResponse{AttestationResponse: raw},
	}
	_, err = created.Verify(base64.RawURLEncoding.EncodeToString(t.MakeChallenge), true, true, t.Site, []string{t.Origin}, nil,
		protocol.TopOriginExplicitVerificationMode, nil, []protocol.CredentialParameter{
			{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgES256},
			{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgEdDSA},
			{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgRS256},
		})
	if err != nil {
		return nil, errPasskeyForged
	}
	attested := parsed.AttestationObject.AuthData.AttData
	if n := len(attested.CredentialID); n < 1 || n > maxCredentialID {
		return nil, errors.New("its credential ID is too long")
	}
	used := *t
	used.Credential = attested.CredentialID
	if err := a.asserted(&used, attested.CredentialPublicKey); err != nil {
		return nil, err
	}
	return &identity.PasskeyParameters{
		RelyingParty: t.Site, CredentialID: bytes.Clone(attested.CredentialID),
		PublicKey: bytes.Clone(attested.CredentialPublicKey), Salt: bytes.Clone(t.Salt),
	}, nil
}

// asserted verifies that the task's passkey was used for it, with its user verified
// (WebAuthn Level 3, 7.2), and that its PRF gave something. Without a public key, which
// a login has not, the signature stays unverified: that the passkey is the right one is
// then for OPAQUE to find out, which its PRF's output goes into.
func (a *passkeyAnswer) asserted(t *passkeyTask, public []byte) error {
	if !bytes.Equal(a.Credential, t.Credential) {
		return passkeyFailure("another", t.Name)
	}
	var c protocol.CollectedClientData
	if json.Unmarshal(a.ClientData, &c) != nil {
		return errors.New("it is malformed")
	}
	if err := checkClientData(&c, protocol.AssertCeremony, t.UseChallenge, t.Origin); err != nil {
		return err
	}
	var data protocol.AuthenticatorData
	if data.Unmarshal(a.AuthenticatorData) != nil {
		return errors.New("it is malformed")
	}
	site := sha256.Sum256([]byte(t.Site))
	if !bytes.Equal(data.RPIDHash, site[:]) || !data.Flags.UserPresent() || !data.Flags.UserVerified() {
		return errPasskeyForged
	}
	if len(public) > 0 {
		key, err := webauthncose.ParsePublicKey(public)
		if err != nil {
			return errors.New("its public key is malformed")
		}
		sum := sha256.Sum256(a.ClientData)
		if ok, err := webauthncose.VerifySignature(key, append(bytes.Clone(a.AuthenticatorData), sum[:]...), a.Signature); err != nil || !ok {
			return errors.New("its signature is not that of the passkey")
		}
	}
	if len(a.Output) != passkeyOutput {
		return passkeyFailure("no-prf", t.Name)
	}
	return nil
}

// checkClientData compares what the browser says of the page (WebAuthn Level 3, 5.8.1).
func checkClientData(c *protocol.CollectedClientData, of protocol.CeremonyType, challenge []byte, origin string) error {
	switch {
	case c.Type != of || c.Challenge != base64.RawURLEncoding.EncodeToString(challenge):
		return errPasskeyForged
	case c.Origin != origin:
		return fmt.Errorf("it comes from another page than %s", origin)
	case c.CrossOrigin || c.TopOrigin != "":
		return errors.New("it comes from a page inside another one")
	}
	return nil
}
