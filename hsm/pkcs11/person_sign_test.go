//go:build cgo

package pkcs11_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
)

// TestPersonKeySigns: keys that may sign do, on both modules, and their signatures
// verify.
func TestPersonKeySigns(t *testing.T) {
	t.Run("SoftHSM", func(t *testing.T) {
		soft := hsmtest.SoftHSM(t)
		personSigns(t, openPerson(t, pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN()}), soft.Module, soft.Label)
	})
	t.Run("NSS", func(t *testing.T) {
		nss := hsmtest.NSS(t)
		personSigns(t, openPerson(t, pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nss.PIN()}), nss.Module, nss.Label)
	})
}

func personSigns(t *testing.T, tok *pkcs11.Token, module, label string) {
	c, _, s := session(t, module, label)
	sign := p11.NewAttribute(p11.CKA_SIGN, true)
	hsmtest.PlantRaw(t, c, s, []byte{1}, "ada", hsm.SuiteHPKEP256, sign)
	hsmtest.PlantRaw(t, c, s, []byte{2}, "ada rsa", hsm.SuiteRSA3072OAEPSHA256, sign)
	message := []byte("what an approver signs")
	sum := sha256.Sum256(message)
	for _, id := range []byte{1, 2} {
		k, err := tok.PersonKey(t.Context(), "", []byte{id})
		if err != nil {
			t.Fatal(err)
		}
		for range 8 { // r and s have leading zeros now and then
			signature, err := k.SignSHA256(t.Context(), message)
			if err != nil {
				t.Fatal(err)
			}
			switch public := k.Public().(type) {
			case *ecdsa.PublicKey:
				if !ecdsa.VerifyASN1(public, sum[:], signature) {
					t.Error("an ECDSA signature does not verify")
				}
			case *rsa.PublicKey:
				if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
