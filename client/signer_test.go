package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	stded25519 "crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// keyed serves an account that signs with a key as the engine's nodes would.
func keyed(t *testing.T, algorithm Algorithm, key crypto.Signer) func(request) reply {
	der := must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
	account := alice(map[string]any{"algorithm": algorithm, "public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))})
	return func(r request) reply {
		if r.method == "GET" {
			return reply{data: account}
		}
		message, err := base64.StdEncoding.DecodeString(r.body["input"].(string))
		if err != nil || len(message) == 0 {
			return reply{status: 400, errors: []string{"input"}}
		}
		var hash crypto.Hash
		if algorithm == ECDSAP256 {
			hash = crypto.SHA256
			switch {
			case r.body["message_type"] != "digest":
				sum := sha256.Sum256(message)
				message = sum[:]
			case len(message) != 32:
				return reply{status: 400, errors: []string{"with message_type=digest the input must have 32 bytes"}}
			}
		}
		sig, err := key.Sign(rand.Reader, message, hash)
		if err != nil {
			return reply{status: 500, errors: []string{err.Error()}}
		}
		return reply{data: signed(map[string]any{"signature_hex": hex.EncodeToString(sig)})}
	}
}

func keys(t *testing.T) map[Algorithm]crypto.Signer {
	_, ed, err := stded25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[Algorithm]crypto.Signer{ECDSAP256: must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), Ed25519: ed}
}

func TestSignerServesTheStandardLibrary(t *testing.T) {
	for algorithm, key := range keys(t) {
		t.Run(string(algorithm), func(t *testing.T) {
			c, f := start(t, keyed(t, algorithm, key))
			s := must[crypto.Signer](t)(c.Signer(context.Background(), "alice"))

			template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
			der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, s.Public(), s))
			cert := must[*x509.Certificate](t)(x509.ParseCertificate(der))
			if err := cert.CheckSignatureFrom(cert); err != nil {
				t.Error(err)
			}
			// x509 gives the message, so that presignatures may serve.
			if last := f.requests()[1]; last.body["message_type"] != nil {
				t.Errorf("a digest was sent: %v", last.body)
			}
			must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: template.Subject}, s))

			sshSigner := must[ssh.Signer](t)(ssh.NewSignerFromSigner(s))
			sig := must[*ssh.Signature](t)(sshSigner.Sign(rand.Reader, []byte("session")))
			if err := sshSigner.PublicKey().Verify([]byte("session"), sig); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSignerTakesHashesAsTheStandardLibrary(t *testing.T) {
	all := keys(t)
	c, _ := start(t, keyed(t, ECDSAP256, all[ECDSAP256]))
	s := must[crypto.Signer](t)(c.Signer(context.Background(), "alice")).(crypto.MessageSigner)
	key := s.Public().(*ecdsa.PublicKey)
	message := []byte("message")
	d256, d512 := sha256.Sum256(message), sha512.Sum512(message)
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA512_256} {
		sig := must[[]byte](t)(s.SignMessage(rand.Reader, message, hash))
		h := hash.New()
		h.Write(message)
		if !ecdsa.VerifyASN1(key, h.Sum(nil), sig) {
			t.Errorf("%v: not valid", hash)
		}
	}
	if sig := must[[]byte](t)(s.Sign(rand.Reader, d512[:], crypto.SHA512)); !ecdsa.VerifyASN1(key, d512[:], sig) {
		t.Error("a SHA-512 digest: not valid")
	}
	// Longer than the engine takes, and empty, which it does not take.
	for _, message := range [][]byte{make([]byte, maxMessage+1), {}} {
		digest := sha256.Sum256(message)
		if sig := must[[]byte](t)(s.SignMessage(rand.Reader, message, crypto.SHA256)); !ecdsa.VerifyASN1(key, digest[:], sig) {
			t.Errorf("%d bytes: not valid", len(message))
		}
	}
	for name, try := range map[string]func() ([]byte, error){
		"no options":     func() ([]byte, error) { return s.Sign(rand.Reader, d256[:], nil) },
		"no hash":        func() ([]byte, error) { return s.Sign(rand.Reader, d256[:], crypto.Hash(0)) },
		"another length": func() ([]byte, error) { return s.Sign(rand.Reader, d256[:31], crypto.SHA256) },
		"another hash":   func() ([]byte, error) { return s.Sign(rand.Reader, d256[:], crypto.SHA512) },
		"SHA-1":          func() ([]byte, error) { return s.Sign(rand.Reader, d256[:20], crypto.SHA1) },
		"MD5+SHA-1":      func() ([]byte, error) { return s.Sign(rand.Reader, d512[:36], crypto.MD5SHA1) },
		"unknown":        func() ([]byte, error) { return s.Sign(rand.Reader, d256[:], crypto.Hash(99)) },
		"a message, SHA-1": func() ([]byte, error) {
			return s.SignMessage(rand.Reader, message, crypto.SHA1)
		},
	} {
		if sig, err := try(); err == nil || sig != nil || !strings.Contains(err.Error(), `account "alice"`) {
			t.Errorf("%s: %x, %v", name, sig, err)
		}
	}

	c, _ = start(t, keyed(t, Ed25519, all[Ed25519]))
	s = must[crypto.Signer](t)(c.Signer(context.Background(), "alice")).(crypto.MessageSigner)
	if sig := must[[]byte](t)(s.SignMessage(rand.Reader, message, crypto.Hash(0))); !stded25519.Verify(s.Public().(stded25519.PublicKey), message, sig) {
		t.Error("Ed25519: not valid")
	}
	for name, opts := range map[string]crypto.SignerOpts{"a hash": crypto.SHA512, "Ed25519ph": &stded25519.Options{Hash: crypto.SHA512}, "Ed25519ctx": &stded25519.Options{Context: "x"}} {
		if _, err := s.Sign(rand.Reader, d512[:], opts); err == nil {
			t.Errorf("Ed25519 with %s is signed", name)
		}
	}
}

// TestSignerFindsAnotherKey: the name was taken anew.
func TestSignerFindsAnotherKey(t *testing.T) {
	for algorithm, key := range keys(t) {
		handler := keyed(t, algorithm, key)
		c, _ := start(t, func(r request) reply { return handler(r) })
		s := must[crypto.Signer](t)(c.Signer(context.Background(), "alice"))
		handler = keyed(t, algorithm, keys(t)[algorithm])
		digest := sha256.Sum256(nil)
		var opts crypto.SignerOpts = crypto.SHA256
		if algorithm == Ed25519 {
			opts = crypto.Hash(0)
		}
		if sig, err := s.Sign(rand.Reader, digest[:], opts); err == nil {
			t.Errorf("%s: another key's signature is given out: %x", algorithm, sig)
		}
	}
}

func TestSignerIsForTheStandardLibrarysCurves(t *testing.T) {
	all := keys(t)
	for name, handler := range map[string]func(request) reply{
		"secp256k1":       answering(alice(nil)),
		"no PEM":          answering(alice(map[string]any{"algorithm": "ecdsa-p256", "public_key": "x"})),
		"another's key":   keyed(t, ECDSAP256, all[Ed25519]),
		"another's key 2": keyed(t, Ed25519, all[ECDSAP256]),
	} {
		c, _ := start(t, handler)
		if s, err := c.Signer(context.Background(), "alice"); err == nil {
			t.Errorf("%s: %v", name, s)
		}
	}
}
