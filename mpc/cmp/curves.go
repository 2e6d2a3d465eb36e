package cmp

import (
	"fmt"
	"slices"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
)

// groupOf returns the curve of an ECDSA algorithm.
func groupOf(a mpc.Algorithm) (libcurve.Curve, error) {
	if !a.IsECDSA() {
		return nil, fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, a)
	}
	return curve.For(a)
}

// curveNames lists the curves that ElGamal keys can be on in ascending order,
// which is their order everywhere.
func curveNames() []string { return []string{curve.P256{}.Name(), libcurve.Secp256k1{}.Name()} }

// curveByName returns one of them.
func curveByName(name string) (libcurve.Curve, bool) {
	if !slices.Contains(curveNames(), name) {
		return nil, false
	}
	return curve.ByName(name)
}
