package frost

import (
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// BenchmarkSign is one 2-of-3 signature, both signers in this process, one
// after the other: the time is the CPU time of a whole session.
func BenchmarkSign(b *testing.B) {
	for _, a := range []mpc.Algorithm{mpc.BIP340Secp256k1, mpc.Ed25519} {
		b.Run(string(a), func(b *testing.B) {
			record, shares := account(b, a, 2, 3)
			for b.Loop() {
				sign(b, record, shares, []mpc.Index{1, 3}, []byte("message"))
			}
		})
	}
}

func BenchmarkKeygen(b *testing.B) {
	for _, a := range mpc.Algorithms() {
		b.Run(fmt.Sprintf("%s/3", a), func(b *testing.B) {
			for b.Loop() {
				if err := route(b, keygenParties(b, a, 2, 3), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRefresh(b *testing.B) {
	for _, a := range mpc.Algorithms() {
		b.Run(fmt.Sprintf("%s/3", a), func(b *testing.B) {
			record, shares := account(b, a, 2, 3)
			for b.Loop() {
				if err := route(b, refreshParties(b, record, shares), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
