package hsmtest_test

import (
	"context"
	"testing"

	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/secret"
)

func TestFake(t *testing.T) {
	f := hsmtest.NewFake("fake", "1234")
	hsmtest.Run(t, hsmtest.Harness{
		Label: "fake", PIN: "1234",
		Open: func(_ context.Context, label string, pin *secret.Bytes) (hsmtest.Token, error) {
			return f.Open(label, pin)
		},
		Plant: func(t *testing.T, id []byte) {
			if err := f.Plant(id); err != nil {
				t.Fatal(err)
			}
		},
	})
}
