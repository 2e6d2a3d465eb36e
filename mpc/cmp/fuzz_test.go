package cmp

import (
	"bytes"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// The seeds are built from zeros and small numbers, so that fuzzing needs no
// seconds of key generation in every worker.

func syntheticPublic() *AuxPublic {
	p := &AuxPublic{owner: Owner{NodeID: "local-1", Identity: mpc.NodeIdentity{1}, Generation: 1},
		elGamal: []elGamalPublic{{curve: "secp256k1", point: [pointSize]byte{2}}}}
	p.n[0], p.n[modulusSize-1] = 0x80, 1
	p.s[5], p.t[5] = 1, 2
	for i := range p.mod {
		p.mod[i] = 1
	}
	for i := range p.prm {
		p.prm[i] = 1
	}
	return p
}

func FuzzParseAuxPublic(f *testing.F) {
	good := syntheticPublic().Marshal()
	if _, err := ParseAuxPublic(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:200])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseAuxPublic(b)
		if err == nil && !bytes.Equal(p.Marshal(), b) {
			t.Fatal("not canonical")
		}
	})
}

func FuzzParseAuxSecret(f *testing.F) {
	s := &AuxSecret{generation: 1, p: secret.New(bytes.Repeat([]byte{0xff}, primeSize)), q: secret.New(bytes.Repeat([]byte{0xfb}, primeSize)),
		elGamal: []elGamalSecret{{"secp256k1", secret.New(bytes.Repeat([]byte{1}, scalarSize))}}}
	f.Add(s.Marshal().Expose())
	f.Add([]byte{})
	public := syntheticPublic()
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseAuxSecret(secret.Copy(b), public); err == nil {
			t.Fatal("found the factors of the modulus")
		}
	})
}

func FuzzParseFactorProof(f *testing.F) {
	f.Add((&FactorProof{}).Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseFactorProof(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), b) {
			t.Fatal("not canonical")
		}
		var again FactorProof
		if err := again.set(p.library()); err != nil || again != *p {
			t.Fatalf("the library's form is another proof: %v", err)
		}
	})
}

func FuzzParseReceipt(f *testing.F) {
	r := &Receipt{nodeID: "local-1", identity: mpc.NodeIdentity{1}, peer: Owner{NodeID: "local-2", Identity: mpc.NodeIdentity{2}, Generation: 1}}
	f.Add(r.Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReceipt(b)
		if err == nil && !bytes.Equal(r.Marshal(), b) {
			t.Fatal("not canonical")
		}
	})
}

// FuzzMessageCheck: what passes decodes to byte strings of the right length.
func FuzzMessageCheck(f *testing.F) {
	sign, err := newMessageCheck(inSlot(signShapes()))
	if err != nil {
		f.Fatal(err)
	}
	presign, err := newMessageCheck(presignShapes([]mpc.Index{1, 2, 3}))
	if err != nil {
		f.Fatal(err)
	}
	good, err := cbor.Marshal(map[string][]byte{"K": make([]byte, 512), "G": make([]byte, 512)})
	if err != nil {
		f.Fatal(err)
	}
	each := map[string][]byte{"\x02": make([]byte, 512), "\x03": make([]byte, 512)}
	round3, err := cbor.Marshal(map[string]any{"DeltaCiphertext": each, "ChiCiphertext": each})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(2), true, good)
	f.Add(uint8(3), true, round3)
	f.Add(uint8(5), true, []byte("\xa1\x6aSigmaShare\x40"))
	f.Add(uint8(2), false, []byte("\xa1\x68ProofEnc\xa0"))
	f.Add(uint8(7), true, []byte("\xa1\x61S\x40"))
	f.Fuzz(func(t *testing.T, round uint8, broadcast bool, data []byte) {
		m := mpc.Message{From: 1, Round: round, Broadcast: broadcast, Data: data}
		if sign(m) == nil {
			if round < 2 || round > signRounds {
				t.Fatalf("round %d passed", round)
			}
			if round == 2 && broadcast {
				var body struct{ K, G []byte }
				if err := cbor.Unmarshal(data, &body); err != nil || len(body.K) != 512 || len(body.G) != 512 {
					t.Fatalf("passed, but the library would read %d and %d bytes: %v", len(body.K), len(body.G), err)
				}
			}
		}
		if presign(m) == nil {
			if round < 2 || round > presignRounds {
				t.Fatalf("round %d passed", round)
			}
			if round == 3 && broadcast {
				var body struct{ DeltaCiphertext, ChiCiphertext map[string][]byte }
				if err := cbor.Unmarshal(data, &body); err != nil || len(body.DeltaCiphertext["\x03"]) != 512 || len(body.ChiCiphertext) != 2 {
					t.Fatalf("passed, but the library would read something else: %v", err)
				}
			}
		}
	})
}

// FuzzOnlineMessage: no message of a peer makes a signer panic, and only the
// true share makes a signature.
func FuzzOnlineMessage(f *testing.F) {
	record, shares := deal(f, 2, 3)
	f.Add(uint8(1), uint8(0), true, uint8(onlineRound), true, make([]byte, 32), []byte{})
	f.Add(uint8(1), uint8(3), false, uint8(0), false, []byte{1}, make([]byte, 64))
	f.Fuzz(func(t *testing.T, from, to uint8, broadcast bool, round uint8, tagged bool, data, echo []byte) {
		made := dealPresignatures(t, record, shares, []mpc.Index{1, 3})
		p := startOnline(t, onlineConfigs(record, made, []mpc.Index{1, 3}, [32]byte{7}))[3]
		if _, err := p.Start(); err != nil {
			t.Fatal(err)
		}
		m := mpc.Message{From: mpc.Index(from), To: mpc.Index(to), Broadcast: broadcast, Round: round, Data: data, Echo: echo}
		if tagged {
			m.Transcript = p.tag
		}
		if _, err := p.Step(m); err == nil || p.Done() {
			t.Fatal("a share that nobody knows was accepted")
		}
	})
}
