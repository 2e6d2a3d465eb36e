//go:build !linux

package keyholder

import "net/netip"

// peerCheck: this system does not say simply whose a connection is.
func peerCheck() func(remote, local netip.AddrPort) error { return nil }
