//go:build cgo

package pkcs11_test

import (
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/secret"
)

// BenchmarkOpen opens a share of 32 bytes, as a node does for every signature.
func BenchmarkOpen(b *testing.B) {
	b.Run("SoftHSM", func(b *testing.B) {
		soft := hsmtest.SoftHSM(b)
		benchmarkOpen(b, pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), AllowSHA1: true, Timeout: patience},
			hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA1)
	})
	b.Run("NSS", func(b *testing.B) {
		nss := hsmtest.NSS(b)
		benchmarkOpen(b, pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nss.PIN(), Timeout: patience},
			hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256)
	})
}

func benchmarkOpen(b *testing.B, cfg pkcs11.Config, suites ...hsm.Suite) {
	tok, err := pkcs11.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer tok.Close()
	for _, suite := range suites {
		b.Run(suite.String(), func(b *testing.B) {
			r := request(1, "")
			r.Suites = []hsm.Suite{suite}
			key, err := tok.GenerateWrappingKey(b.Context(), r)
			if err != nil {
				b.Fatal(err)
			}
			c := hsm.ShareContext(1, [32]byte{})
			e, err := hsm.Seal(c, secret.New(make([]byte, 32)), []hsm.WrappingKey{key})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, _, err := hsm.Open(b.Context(), tok, []hsm.WrappingKey{key}, c, e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
