package backend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// The coordinator's certificate is how this mount shows itself to nodes on other
// hosts, which pin its public key when they are enrolled. It is made when the first
// node is, or brought by an operator who has a PKI.

// coordinatorLifetime of a certificate that the engine makes: nodes check that it is
// valid as well as that they know its key.
const coordinatorLifetime = 10 * 365 * 24 * time.Hour

// certificateFacts is what can be shown of a certificate.
type certificateFacts struct {
	pin                 string // SHA-256 of the SubjectPublicKeyInfo, hex
	subject             string
	notBefore, notAfter time.Time
}

func (r *coordinatorRecord) facts() (*certificateFacts, error) {
	pair, err := keyPair([]byte(r.Certificate), []byte(r.Key))
	if err != nil {
		return nil, &damagedError{keyCoordinator, err}
	}
	pin := sha256.Sum256(pair.RawSubjectPublicKeyInfo)
	return &certificateFacts{hex.EncodeToString(pin[:]), pair.Subject.String(), pair.NotBefore, pair.NotAfter}, nil
}

// keyPair returns the first certificate if the key is its own. Errors quote nothing
// of the key.
func keyPair(certificate, key []byte) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, errors.New("certificate and private key are not PEM, or do not belong together")
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

// coordinatorOrNew returns the stored certificate, or makes one and stores it. The
// caller has reserved keyNodes.
func (b *backend) coordinatorOrNew(ctx context.Context, mount *mountRecord) (*coordinatorRecord, error) {
	r, err := b.store.coordinator(ctx)
	if err != nil || r != nil {
		return r, err
	}
	now := b.cfg.now().UTC()
	certificate, key, err := b.cfg.Enroller.NewCertificate(coordinatorName(mount), now.Add(coordinatorLifetime))
	if err != nil {
		return nil, fmt.Errorf("making the certificate that nodes know this mount by: %w", err)
	}
	defer key.Wipe()
	r = &coordinatorRecord{Version: recordVersion, Certificate: string(certificate), Key: string(key.Expose()), Made: true, Updated: now}
	if _, err := r.facts(); err != nil {
		return nil, err
	}
	return r, b.store.put(ctx, keyCoordinator, r)
}

func coordinatorName(m *mountRecord) string { return "vault-mpc " + m.IDHex }

// checkClientCertificate says what is wrong with a certificate that an operator
// brought.
func checkClientCertificate(c *x509.Certificate, now time.Time) error {
	if now.After(c.NotAfter) || now.Before(c.NotBefore) {
		return fmt.Errorf("it is valid from %s to %s", rfc3339(c.NotBefore), rfc3339(c.NotAfter))
	}
	if len(c.ExtKeyUsage) > 0 {
		for _, u := range c.ExtKeyUsage {
			if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny {
				return nil
			}
		}
		return errors.New("it is not for TLS clients: issue one with the extended key usage clientAuth")
	}
	return nil
}

// samePublicKey reports whether a certificate has the key that another one had, so
// that nodes which pinned it take both.
func samePublicKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}
