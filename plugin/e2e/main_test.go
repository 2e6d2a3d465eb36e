//go:build e2e

package e2e_test

import (
	"os"
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// harness is set once, before any test runs.
var harness *e2e.Harness

func TestMain(m *testing.M) {
	os.Exit(e2e.Main(m, func(h *e2e.Harness) { harness = h }))
}
