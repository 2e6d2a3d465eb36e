//go:build !faults

package main

import "vault-plugin-secrets-mpc/backend"

// withFaults changes nothing: this binary has no fault points.
func withFaults(cfg backend.Config) backend.Config { return cfg }
