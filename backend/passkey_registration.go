package backend

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// maxCredentialID is that of WebAuthn Level 3, section 4, in bytes.
const maxCredentialID = 1023

// register verifies the registration of a passkey (WebAuthn Level 3, section 7.1) and
// returns its key: challenge, origin, relying party, the user present and verified,
// and an algorithm that nodes verify (ES256 on P-256, or RS256). Whose make the
// authenticator is does not count: attestation "none" is what the page asks for, and
// a statement of kind "packed" is verified for what it says and believed in nothing.
func (p *offeredPasskey) register(u *uiRecord, challenge string) (*approval.Key, error) {
	if u.PublicURL == "" {
		return nil, invalid("passkeys cannot be enrolled: config/ui names no public_url, so there is no site that they could belong to. Nothing was changed; enrol the device without one, or write config/ui first")
	}
	if challenge == "" {
		return nil, conflict("no challenge was given out for this enrolment: begin with approve/enrol. Nothing was changed")
	}
	raw := protocol.AuthenticatorAttestationResponse{
		AuthenticatorResponse: protocol.AuthenticatorResponse{ClientDataJSON: p.clientData},
		AttestationObject:     p.attestation,
		Transports:            p.transports,
	}
	parsed, err := raw.Parse()
	if err != nil {
		return nil, refusedPasskey("it is malformed", err)
	}
	if f := parsed.AttestationObject.Format; f != string(protocol.AttestationFormatNone) && f != string(protocol.AttestationFormatPacked) {
		return nil, refusedPasskey("it has an attestation of another kind than none and packed; register it with attestation \"none\"", nil)
	}
	c := parsed.CollectedClientData
	if c.CrossOrigin || c.TopOrigin != "" {
		return nil, refusedPasskey("it was made on a page inside another one", nil)
	}
	if !slices.Contains(u.Origins, c.Origin) { // as nodes compare
		return nil, refusedPasskey("it was made on another page than those that config/ui names as origins", nil)
	}
	created := protocol.ParsedCredentialCreationData{
		Response: *parsed,
		Raw:      protocol.CredentialCreationResponse{AttestationResponse: raw},
	}
	_, err = created.Verify(challenge, true, true, u.RPID, u.Origins, nil, protocol.TopOriginExplicitVerificationMode, nil, []protocol.CredentialParameter{
		{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgES256},
		{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgRS256},
	})
	if err != nil {
		return nil, refusedPasskey("it is not for this site and enrolment, or its user was not verified by face, fingerprint or PIN", err)
	}
	attested := parsed.AttestationObject.AuthData.AttData
	if n := len(attested.CredentialID); n < 1 || n > maxCredentialID {
		return nil, refusedPasskey("its credential ID is too long", nil)
	}
	public, err := subjectPublicKey(attested.CredentialPublicKey)
	if err != nil {
		return nil, refusedPasskey(err.Error(), nil)
	}
	return &approval.Key{
		Kind: approval.Passkey, Name: p.name, Public: public, RPID: u.RPID, Origins: slices.Clone(u.Origins), Credential: bytes.Clone(attested.CredentialID),
	}, nil
}

// refusedPasskey is a 403. What the library says is kept for the log.
func refusedPasskey(why string, err error) error {
	e := forbidden("the passkey was not enrolled: %s. Nothing was changed; make it anew on the page that the link leads to", why).(*fault)
	e.err = err
	return e
}

// subjectPublicKey turns a COSE key (RFC 9052, section 7) into a SubjectPublicKeyInfo.
func subjectPublicKey(cose []byte) ([]byte, error) {
	parsed, err := webauthncose.ParsePublicKey(cose)
	if err != nil {
		return nil, errors.New("its public key is malformed")
	}
	switch k := parsed.(type) {
	case webauthncose.EC2PublicKeyData:
		if k.Algorithm != int64(webauthncose.AlgES256) || k.Curve != int64(webauthncose.P256) || len(k.XCoord) != 32 || len(k.YCoord) != 32 {
			break
		}
		der, err := x509.MarshalPKIXPublicKey(&ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(k.XCoord), Y: new(big.Int).SetBytes(k.YCoord)})
		if err != nil {
			return nil, errors.New("its public key is no point of the curve")
		}
		return der, nil
	case webauthncose.RSAPublicKeyData:
		n := new(big.Int).SetBytes(k.Modulus)
		if k.Algorithm != int64(webauthncose.AlgRS256) || len(k.Exponent) == 0 || len(k.Exponent) > 4 || n.BitLen() < 2048 || n.BitLen() > 4096 {
			break
		}
		e := 0
		for _, c := range k.Exponent {
			e = e<<8 | int(c)
		}
		if e < 3 || e > 1<<31-1 || e%2 == 0 {
			break
		}
		return x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
	}
	return nil, errors.New("its algorithm is not one that nodes verify: ES256 or RS256 with 2048 to 4096 bits")
}
