//go:build cgo

package pkcs11_test

import (
	"context"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/secret"
)

// TestNSS runs the suite on a second, independent implementation, which takes
// arguments when it starts, does OAEP with SHA-256 and replaces a key pair when
// another one gets its ID. It keeps us from believing that every module is
// SoftHSM.
func TestNSS(t *testing.T) {
	nss := hsmtest.NSS(t)
	hsmtest.Run(t, hsmtest.Harness{
		Label: nss.Label, PIN: string(nss.PIN().Expose()),
		Suites:  []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256},
		Refused: []hsm.Suite{hsm.SuiteRSA3072OAEPSHA1}, // without AllowSHA1
		Open: func(ctx context.Context, label string, pin *secret.Bytes) (hsmtest.Token, error) {
			tok, err := pkcs11.Open(ctx, pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: label, PIN: pin, Timeout: patience})
			if err != nil {
				return nil, err
			}
			if !tok.Info().PINChecked {
				t.Errorf("info %+v", tok.Info())
			}
			return tok, nil
		},
		Plant: func(t *testing.T, id []byte, label string, suite hsm.Suite) {
			c, _, s := nssSession(t, nss)
			hsmtest.PlantRaw(t, c, s, id, label, suite)
		},
	})
}

// nssSession works on the database past the package under test. Somebody in
// this process must be logged in.
func nssSession(t testing.TB, nss hsmtest.NSSToken) (*p11.Ctx, uint, p11.SessionHandle) {
	t.Helper()
	return session(t, nss.Module, nss.Label)
}
