package backend

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// maxTemplate bounds the PEM text of a template, in bytes.
const maxTemplate = 64 << 10

const (
	csrPEM    = "CERTIFICATE REQUEST"     // RFC 7468 §7
	oldCSRPEM = "NEW CERTIFICATE REQUEST" // the same, as some tools call it
)

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}                // RFC 5280 §4.2.1.2; read only
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14} // RFC 2985 §5.4.2; read only
)

// csrSigner is an account's key as crypto/x509 takes it, for one request: it has
// the context of that request in its function.
type csrSigner struct {
	public crypto.PublicKey
	sign   func(message []byte) ([]byte, error)
}

var _ crypto.MessageSigner = (*csrSigner)(nil)

// Public is an ecdsa.PublicKey on P-256 or an ed25519.PublicKey.
func (s *csrSigner) Public() crypto.PublicKey { return s.public }

// SignMessage gets what is to be signed as it is, so that nodes hash it.
func (s *csrSigner) SignMessage(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(message)
}

// Sign is not used where SignMessage is there.
func (s *csrSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("certificate requests are signed as messages, not as digests")
}

// makeCSR returns the request in PEM. It is checked before it leaves: signature
// and all, as its reader does.
func makeCSR(template *x509.CertificateRequest, signer crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, template, signer)
	if err != nil {
		return "", fmt.Errorf("making the certificate request: %w", err)
	}
	made, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = made.CheckSignature()
	}
	if err == nil {
		public, ok := made.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !public.Equal(signer.Public()) {
			err = errors.New("it has another public key")
		}
	}
	if err != nil {
		return "", fmt.Errorf("checking the certificate request that was made: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: csrPEM, Bytes: der})), nil
}

// tryCSR makes the request with a key of its own and throws it away: what cannot
// be encoded, or read again, is found before nodes sign it.
func tryCSR(template *x509.CertificateRequest) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if _, err = makeCSR(template, key); err != nil {
		return invalid("these values make no certificate request: %v", err)
	}
	return nil
}

// parseTemplate reads subject and extensions of a request that another key has
// signed. It says what it leaves out.
func parseTemplate(text string) (*x509.CertificateRequest, []string, error) {
	if len(text) > maxTemplate {
		return nil, nil, invalid("csr is longer than %d KiB", maxTemplate>>10)
	}
	text = strings.TrimSpace(text)
	block, rest := pem.Decode([]byte(text))
	if block == nil || !strings.HasPrefix(text, "-----BEGIN ") || (block.Type != csrPEM && block.Type != oldCSRPEM) {
		return nil, nil, invalid("csr is not a certificate request in PEM: it begins with -----BEGIN %s-----; in JSON line breaks are \\n", csrPEM)
	}
	if len(rest) > 0 || len(block.Headers) > 0 {
		return nil, nil, invalid("csr must be one PEM block without headers, with nothing after it")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, invalid("csr cannot be read: %v", err)
	}
	if hasControls(parsed) {
		return nil, nil, invalid("csr has control characters in its subject or alternative names: programs that read names only up to them take them for others")
	}
	dropped, err := otherAttributes(parsed.RawTBSCertificateRequest)
	if err != nil {
		return nil, nil, invalid("csr cannot be read: %v", err)
	}
	// Extensions go as they are: crypto/x509 adds none where it is given none
	// of the fields that stand for some.
	template := &x509.CertificateRequest{RawSubject: parsed.RawSubject}
	var warnings []string
	for _, e := range parsed.Extensions {
		if e.Id.Equal(oidSubjectKeyID) {
			warnings = append(warnings, "the subject key identifier in csr was left out: it names the key of the template")
			continue
		}
		template.ExtraExtensions = append(template.ExtraExtensions, e)
	}
	if len(dropped) > 0 {
		warnings = append(warnings, "attributes in csr were left out: "+strings.Join(dropped, ", "))
	}
	if len(parsed.Subject.Names) == 0 && !hasNames(parsed) {
		return nil, nil, invalid("csr names nobody: it needs a subject or an alternative name")
	}
	return template, warnings, nil
}

// hasNames reports whether a request has alternative names.
func hasNames(r *x509.CertificateRequest) bool {
	return len(r.DNSNames)+len(r.EmailAddresses)+len(r.IPAddresses)+len(r.URIs) > 0
}

// hasControls reports whether a name in a request has control characters, NUL
// among them.
func hasControls(r *x509.CertificateRequest) bool {
	names := slices.Concat(r.DNSNames, r.EmailAddresses)
	for _, n := range r.Subject.Names {
		if text, ok := n.Value.(string); ok {
			names = append(names, text)
		}
	}
	return slices.ContainsFunc(names, func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) })
}

// otherAttributes names the attributes besides the one for extensions. tbs is a
// CertificationRequestInfo (RFC 2986 §4.1).
func otherAttributes(tbs []byte) ([]string, error) {
	var info struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []struct {
			ID     asn1.ObjectIdentifier
			Values asn1.RawValue
		} `asn1:"tag:0"`
	}
	if rest, err := asn1.Unmarshal(tbs, &info); err != nil || len(rest) > 0 {
		return nil, errors.New("its attributes are malformed")
	}
	var other []string
	for _, a := range info.Attributes {
		if !a.ID.Equal(oidExtensionRequest) {
			other = append(other, a.ID.String())
		}
	}
	return other, nil
}
