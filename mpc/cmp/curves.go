package cmp

import (
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
)

// groupOf returns the curve of an ECDSA algorithm.
func groupOf(a mpc.Algorithm) (curve.Curve, error) {
	switch a {
	case mpc.ECDSASecp256k1:
		return curve.Secp256k1{}, nil
	}
	return nil, fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, a)
}

// curveByName returns a curve that ElGamal keys can be on.
func curveByName(name string) (curve.Curve, bool) {
	if name == (curve.Secp256k1{}).Name() {
		return curve.Secp256k1{}, true
	}
	return nil, false
}

// curveNames lists them in ascending order, which is their order everywhere.
func curveNames() []string { return []string{curve.Secp256k1{}.Name()} }
