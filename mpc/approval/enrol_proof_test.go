package approval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"testing"
)

// TestVerifyEnrol: each kind takes its own form of signature, over this message only;
// a passkey never proves itself so.
func TestVerifyEnrol(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	card, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	info := func(public any) []byte {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	device := Key{Kind: Device, Name: "phone", Public: info(&ec.PublicKey)}
	message := EnrolMessage([16]byte{1}, ID{2}, ID{3}, []Key{device})
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, ec, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	sign := func(k crypto.Signer) []byte {
		out, err := k.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	other := EnrolMessage([16]byte{1}, ID{2}, ID{4}, []Key{device})
	for _, c := range []struct {
		name      string
		kind      Kind
		public    any
		message   []byte
		signature []byte
		want      bool
	}{
		{"device", Device, &ec.PublicKey, message, raw, true},
		{"device, for another approver", Device, &ec.PublicKey, other, raw, false},
		{"device, DER", Device, &ec.PublicKey, message, sign(ec), false},
		{"device, nothing", Device, &ec.PublicKey, message, nil, false},
		{"device of RSA", Device, &card.PublicKey, message, sign(card), false},
		{"certificate", Certificate, &ec.PublicKey, message, sign(ec), true},
		{"certificate, r and s", Certificate, &ec.PublicKey, message, raw, false},
		{"certificate of RSA", Certificate, &card.PublicKey, message, sign(card), true},
		{"certificate, for another approver", Certificate, &card.PublicKey, other, sign(card), false},
		{"passkey", Passkey, &ec.PublicKey, message, sign(ec), false},
		{"one-time code", TOTP, &ec.PublicKey, message, raw, false},
	} {
		k := Key{Kind: c.kind, Name: "x", Public: info(c.public)}
		if got := k.VerifyEnrol(c.message, c.signature); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if device.Check() != nil || (&Key{Kind: Device, Name: "x", Public: info(&card.PublicKey)}).Check() == nil {
		t.Error("Check does not tell a device's key from another")
	}
}
