package keyholder

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// pemFiles writes a self-signed certificate and its key, as PKCS #8 or in the
// key's own form.
func pemFiles(t *testing.T, key crypto.Signer, old bool) (cert, private string) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "PRIVATE KEY"}
	block.Bytes, err = x509.MarshalPKCS8PrivateKey(key)
	if old && err == nil {
		switch k := key.(type) {
		case *ecdsa.PrivateKey:
			block.Type = "EC PRIVATE KEY"
			block.Bytes, err = x509.MarshalECPrivateKey(k)
		case *rsa.PrivateKey:
			block.Type, block.Bytes = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, private = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := writeNew(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(private, pem.EncodeToMemory(block)); err != nil {
		t.Fatal(err)
	}
	return cert, private
}

func newEC(t *testing.T, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRSA(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCertificate(t *testing.T) {
	p := &person{}
	for name, key := range map[string]crypto.Signer{"ec": newEC(t, elliptic.P256()), "rsa": newRSA(t)} {
		s := newServer(t)
		cert, private := pemFiles(t, key, name == "rsa")
		a := register1(t, s, name, identity.Certificate, Certificate(p, CertificateFile(cert, private)), RegisterOptions{})
		if c := a.Parameters.Certificate; len(c.Certificate) == 0 || name == "ec" && len(c.Sealed) != 65+32+16 || name == "rsa" && len(c.Sealed) != 256 {
			t.Errorf("%s: %d bytes are sealed", name, len(c.Sealed))
		}
		logIn(t, s, a, Certificate(p, CertificateFile(cert, private)))

		// Another key, of the same kind or the other one, opens nothing.
		for _, other := range []crypto.Signer{newEC(t, elliptic.P256()), newRSA(t)} {
			cert, private := pemFiles(t, other, true)
			_, err := Login(t.Context(), s, name, identity.Certificate, Certificate(p, CertificateFile(cert, private)))
			fails(t, err, nil, "does not open authenticator "+name)
		}
		// What is sealed belongs to the one authenticator: a server cannot have
		// it opened for another.
		src := Certificate(p, CertificateFile(cert, private))
		c := a.Parameters.Certificate
		_, err := src.Get(t.Context(), &Challenge{Name: name, LoginID: identity.ID{9}, Certificate: &CertificateChallenge{c.Algorithm, c.Sealed}})
		fails(t, err, errNotSealedToKey)
		for _, bad := range []*CertificateChallenge{
			nil, {"none", c.Sealed}, {c.Algorithm, nil}, {c.Algorithm, c.Sealed[1:]}, {c.Algorithm, append([]byte{4}, c.Sealed...)},
			{algorithmECDH, make([]byte, 113)}, {algorithmRSA, make([]byte, 256)},
		} {
			if answer, err := src.Get(t.Context(), &Challenge{Name: name, LoginID: a.ID, Certificate: bad}); err == nil {
				t.Errorf("%s opened %+v to %v", name, bad, answer)
			}
		}
	}
}

func TestCertificateFiles(t *testing.T) {
	cert, private := pemFiles(t, newEC(t, elliptic.P256()), false)
	_, other := pemFiles(t, newEC(t, elliptic.P256()), false)
	encrypted := filepath.Join(t.TempDir(), "encrypted.pem")
	if err := os.WriteFile(encrypted, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.pem")
	if err := os.WriteFile(broken, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("do not quote me")}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ cert, key, says string }{
		{cert, other, "is not the one of the certificate"},
		{cert, encrypted, "is encrypted"},
		{cert, broken, "cannot be read"},
		{cert, cert, "holds no private key"},
		{private, private, "does not begin with a certificate"},
		{"/nonexistent", private, "cannot be read"},
	} {
		_, err := CertificateFile(c.cert, c.key)(t.Context())
		fails(t, err, nil, c.says)
	}
	p384cert, p384 := pemFiles(t, newEC(t, elliptic.P384()), false)
	s := newServer(t)
	_, _, err := Register(t.Context(), s, "a", identity.Certificate, Certificate(&person{}, CertificateFile(p384cert, p384)), RegisterOptions{})
	fails(t, err, nil, "not P-256", "nothing was made")
	if len(s.calls) > 0 {
		t.Errorf("sent %v", s.calls)
	}
}

// faultyKey seals like a key and then fails, as a card does that may only sign.
type faultyKey struct {
	CertificateKey
	closed *int
}

var errCard = errors.New("the card may only sign")

func (faultyKey) ECDH(context.Context, *ecdh.PublicKey) (*secret.Bytes, error) { return nil, errCard }
func (k faultyKey) Close() error                                               { *k.closed++; return nil }

func TestCardThatCannotOpen(t *testing.T) {
	cert, private := pemFiles(t, newEC(t, elliptic.P256()), false)
	closed := 0
	open := func(ctx context.Context) (CertificateKey, error) {
		k, err := CertificateFile(cert, private)(ctx)
		return faultyKey{k, &closed}, err
	}
	s := newServer(t)
	_, _, err := Register(t.Context(), s, "a", identity.Certificate, Certificate(&person{}, open), RegisterOptions{})
	fails(t, err, errCard, "nothing was made")
	if len(s.calls) > 0 || closed != 1 {
		t.Errorf("sent %v, closed %d times", s.calls, closed)
	}
}
