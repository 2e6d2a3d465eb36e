//go:build faults

package main

import (
	"os"

	"vault-plugin-secrets-mpc/backend"
)

// withFaults lets end-to-end tests kill processes between any two steps.
func withFaults(cfg backend.Config) backend.Config {
	return backend.WithFaults(cfg, os.Getenv("MPC_FAULTS"))
}
