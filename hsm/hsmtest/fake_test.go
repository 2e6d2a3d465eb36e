package hsmtest_test

import (
	"context"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/secret"
)

func TestFake(t *testing.T) {
	f := hsmtest.NewFake("fake", "1234")
	hsmtest.Run(t, hsmtest.Harness{
		Label: "fake", PIN: "1234",
		Suites: []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256, hsm.SuiteRSA3072OAEPSHA1},
		Open: func(_ context.Context, label string, pin *secret.Bytes) (hsmtest.Token, error) {
			return f.Open(label, pin)
		},
		Plant: func(t *testing.T, id []byte, label string, suite hsm.Suite) {
			if err := f.Plant(id, label, suite); err != nil {
				t.Fatal(err)
			}
		},
	})
}
