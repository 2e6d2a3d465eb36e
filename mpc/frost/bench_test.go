package frost

import (
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// The benchmarks do what the nodes of a session do, all in this process and one
// after the other: a figure is the CPU time of a whole session. Envelopes,
// tokens and connections are not in it.

func signsHere() []mpc.Algorithm { return []mpc.Algorithm{mpc.BIP340Secp256k1, mpc.Ed25519} }

// BenchmarkSign is one signature, by a node that opened its share under the
// record.
func BenchmarkSign(b *testing.B) {
	for _, a := range signsHere() {
		for _, size := range [][2]int{{2, 3}, {2, 16}, {9, 16}} {
			b.Run(fmt.Sprintf("%s/%dof%d", a, size[0], size[1]), func(b *testing.B) {
				record, shares := account(b, a, size[0], size[1])
				signers := allIndices(size[1])[size[1]-size[0]:]
				for b.Loop() {
					parties := map[mpc.Index]mpc.Party{}
					id := sessionID(b)
					for _, i := range signers {
						p, err := NewSign(SignConfig{Self: i, Signers: signers, Record: record, Share: shares[i], Message: []byte("message"), SessionID: id, OpenedUnder: record.Hash()})
						if err != nil {
							b.Fatal(err)
						}
						parties[i] = p
					}
					if err := route(b, parties, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// finish is what a node does with the outcome of a session.
func finish(b *testing.B, record mpc.PublicRecord, parties map[mpc.Index]mpc.Party) {
	for _, i := range allIndices(record.Shares) {
		k, err := parties[i].(*KeyParty).Result()
		if err != nil {
			b.Fatal(err)
		}
		record.PublicKey, record.PublicShares = k.PublicKey, k.PublicShares
		if err := CheckRecord(&record); err != nil {
			b.Fatal(err)
		}
		if err := CheckShare(&record, i, k.Share); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKeygen is the creation of one account.
func BenchmarkKeygen(b *testing.B) {
	for _, a := range mpc.Algorithms() {
		b.Run(fmt.Sprintf("%s/2of3", a), func(b *testing.B) {
			record, _ := account(b, a, 2, 3)
			for b.Loop() {
				parties := keygenParties(b, a, 2, 3)
				if err := route(b, parties, nil); err != nil {
					b.Fatal(err)
				}
				finish(b, *record, parties)
			}
		})
	}
}

// BenchmarkRefresh is the refresh of one account.
func BenchmarkRefresh(b *testing.B) {
	for _, a := range mpc.Algorithms() {
		for _, size := range [][2]int{{2, 3}, {3, 5}} {
			b.Run(fmt.Sprintf("%s/%dof%d", a, size[0], size[1]), func(b *testing.B) {
				record, shares := account(b, a, size[0], size[1])
				for b.Loop() {
					parties := openedParties(b, record, shares)
					if err := route(b, parties, nil); err != nil {
						b.Fatal(err)
					}
					finish(b, *record, parties)
				}
			})
		}
	}
}

// openedParties are parties of a refresh whose shares were opened under record.
func openedParties(b *testing.B, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes) map[mpc.Index]mpc.Party {
	id := sessionID(b)
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range allIndices(record.Shares) {
		p, err := NewRefresh(KeyConfig{Self: i, Algorithm: record.Algorithm, Threshold: record.Threshold, Shares: record.Shares, SessionID: id, OpenedUnder: record.Hash()}, record, shares[i])
		if err != nil {
			b.Fatal(err)
		}
		parties[i] = p
	}
	return parties
}

// BenchmarkCheckRecord is the check of one new record.
func BenchmarkCheckRecord(b *testing.B) {
	for _, a := range mpc.Algorithms() {
		for _, size := range [][2]int{{2, 3}, {2, 16}, {9, 16}, {16, 16}} {
			b.Run(fmt.Sprintf("%s/%dof%d", a, size[0], size[1]), func(b *testing.B) {
				record := dealt(b, a, size[0], size[1])
				for b.Loop() {
					if err := CheckRecord(record); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
