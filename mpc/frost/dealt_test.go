package frost

import (
	"crypto/rand"
	"testing"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	libpoly "github.com/taurusgroup/multi-party-sig/pkg/math/polynomial"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// dealt returns a record that a dealer made, for tests of many shares, which a
// key generation would take long for. It passes CheckRecord.
func dealt(t testing.TB, a mpc.Algorithm, threshold, shares int) *mpc.PublicRecord {
	t.Helper()
	group, err := curve.For(a)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(p libcurve.Point) []byte {
		b, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for {
		f := libpoly.NewPolynomial(group, threshold-1, sample.ScalarUnit(rand.Reader, group))
		record := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: threshold, Shares: shares,
			PublicKey: encode(f.Constant().ActOnBase()), Epoch: 1, EpochID: mpc.EpochID{1},
			RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
		for _, i := range allIndices(shares) {
			record.PublicShares = append(record.PublicShares, encode(f.Evaluate(handler.PartyID(i).Scalar(group)).ActOnBase()))
		}
		if a == mpc.BIP340Secp256k1 {
			if record.PublicKey[0] == 3 {
				continue // its public shares would belong to the other y
			}
			record.PublicKey = record.PublicKey[1:]
		}
		return record
	}
}
