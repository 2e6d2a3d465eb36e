package cmp

import (
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/protocol"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

func BenchmarkGenerate(b *testing.B) {
	n := nodes()[0]
	for b.Loop() {
		if _, _, err := Generate(b.Context(), n.owner, n.identity, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	n := nodes()[0]
	p := reparse(b, n.public)
	for b.Loop() {
		if err := p.Verify(n.owner); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProveFactors(b *testing.B) {
	n, v := nodes()[0], nodes()[1]
	for b.Loop() {
		if _, err := ProveFactors(n.secret, n.owner, v.public, v.owner); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyFactors(b *testing.B) {
	n, v := nodes()[0], nodes()[1]
	proof, err := ProveFactors(n.secret, n.owner, v.public, v.owner)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := VerifyFactors(proof, n.public, n.owner, v.public, v.owner); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewSign(b *testing.B) {
	record, shares := deal(b, 2, 3)
	c := signers(b, record, shares, []mpc.Index{1, 3}, [32]byte{1})[1]
	b.ReportAllocs()
	for b.Loop() {
		p, err := NewSign(c)
		if err != nil {
			b.Fatal(err)
		}
		p.Wipe()
	}
}

// signerSets are the sharings that signing is measured on. Each figure is the
// work of all signers, one after the other: wall time is CPU time.
var signerSets = []struct {
	algorithm mpc.Algorithm
	signers   []mpc.Index
}{
	{mpc.ECDSASecp256k1, []mpc.Index{1, 3}},
	{mpc.ECDSAP256, []mpc.Index{1, 3}},
	{mpc.ECDSASecp256k1, []mpc.Index{1, 3, 5}},
}

func eachSignerSet(b *testing.B, f func(b *testing.B, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index)) {
	for _, set := range signerSets {
		b.Run(fmt.Sprintf("%s/%dof%d", set.algorithm, len(set.signers), 2*len(set.signers)-1), func(b *testing.B) {
			record, shares := dealOn(b, set.algorithm, len(set.signers), 2*len(set.signers)-1)
			nodes()
			b.ReportAllocs()
			f(b, record, shares, set.signers)
		})
	}
}

// BenchmarkSign is one whole signature.
func BenchmarkSign(b *testing.B) {
	eachSignerSet(b, func(b *testing.B, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, set []mpc.Index) {
		for b.Loop() {
			parties := start(b, signers(b, record, shares, set, [32]byte{1}))
			if err := route(parties, nil); err != nil {
				b.Fatal(err)
			}
			for _, p := range parties {
				if _, err := p.Result(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkPresign is one presignature share for every signer.
func BenchmarkPresign(b *testing.B) {
	eachSignerSet(b, func(b *testing.B, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, set []mpc.Index) {
		for b.Loop() {
			parties := startPresign(b, signers(b, record, shares, set, [32]byte{}))
			if err := route(parties, nil); err != nil {
				b.Fatal(err)
			}
			results(b, parties)
		}
	})
}

// BenchmarkOnline is one whole signature with a presignature, NewOnline
// included.
func BenchmarkOnline(b *testing.B) {
	eachSignerSet(b, func(b *testing.B, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, set []mpc.Index) {
		for b.Loop() {
			b.StopTimer()
			made := dealPresignatures(b, record, shares, set)
			b.StartTimer()
			parties := map[mpc.Index]*OnlineParty{}
			for i, c := range onlineConfigs(record, made, set, [32]byte{1}) {
				p, err := NewOnline(c)
				if err != nil {
					b.Fatal(err)
				}
				parties[i] = p
			}
			if err := route(parties, nil); err != nil {
				b.Fatal(err)
			}
			for _, p := range parties {
				if _, err := p.Result(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkRawSign2of3 is the same with the library's own configuration and
// handler, to compare with.
func BenchmarkRawSign2of3(b *testing.B) {
	record, shares := deal(b, 2, 3)
	configs := signers(b, record, shares, []mpc.Index{1, 3}, [32]byte{1})
	library := map[mpc.Index]*cmp.Config{}
	for i, c := range configs {
		var err error
		if library[i], err = new(keys).library(c.withoutDigest()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		id := make([]byte, 32)
		_, _ = rand.Read(id)
		handlers := map[party.ID]*protocol.MultiHandler{}
		for i, c := range library {
			h, err := protocol.NewMultiHandler(cmp.Sign(c, handler.PartyIDs([]mpc.Index{1, 3}), make([]byte, 32), nil), id)
			if err != nil {
				b.Fatal(err)
			}
			handlers[handler.PartyID(i)] = h
		}
		for open := len(handlers); open > 0; {
			for from, h := range handlers {
				for more := true; more; {
					select {
					case m, ok := <-h.Listen():
						if more = ok; !ok {
							continue
						}
						for to, peer := range handlers {
							if to != from && m.IsFor(to) {
								peer.Accept(m)
							}
						}
					default:
						more = false
					}
				}
			}
			open = 0
			for _, h := range handlers {
				if _, err := h.Result(); err != nil {
					open++
				}
			}
		}
	}
}
