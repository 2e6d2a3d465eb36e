package nodelink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// clockSlack is how far a fresh certificate reaches back, for hosts whose clocks
// differ.
const clockSlack = time.Hour

// NewCertificate makes a P-256 key and a certificate for it that it signs itself,
// for the coordinator and for nodes that are known by their pins. The name becomes
// its common name and DNS name. Both parts are PEM: the key PKCS #8, the caller's
// to wipe.
func NewCertificate(name string, notAfter time.Time) (certPEM []byte, keyPEM *secret.Bytes, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	certPEM, err = selfSign(name, key, time.Now(), notAfter)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	defer secret.Wipe(der)
	return certPEM, secret.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// RenewCertificate makes a certificate like NewCertificate's for a key that there
// is already, so that its pin stays what it was.
func RenewCertificate(name string, keyPEM *secret.Bytes, notAfter time.Time) (certPEM []byte, err error) {
	block, _ := pem.Decode(keyPEM.Expose())
	if block == nil {
		return nil, errors.New("the private key is not PEM")
	}
	defer secret.Wipe(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key is not PKCS #8") // the cause could quote it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not an ECDSA key")
	}
	return selfSign(name, key, time.Now(), notAfter)
}

func selfSign(name string, key *ecdsa.PrivateKey, now, notAfter time.Time) ([]byte, error) {
	if name == "" || !notAfter.After(now.Add(-clockSlack)) {
		return nil, fmt.Errorf("a certificate needs a name and an end after %s", now.UTC().Format(time.RFC3339))
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // RFC 5280, 4.1.2.2: positive, at most 20 bytes
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
