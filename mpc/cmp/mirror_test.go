package cmp

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/taurusgroup/multi-party-sig/pkg/hash"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/paillier"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	zkaffg "github.com/taurusgroup/multi-party-sig/pkg/zk/affg"
	zkaffp "github.com/taurusgroup/multi-party-sig/pkg/zk/affp"
	zkelog "github.com/taurusgroup/multi-party-sig/pkg/zk/elog"
	zkenc "github.com/taurusgroup/multi-party-sig/pkg/zk/enc"
	zkencelg "github.com/taurusgroup/multi-party-sig/pkg/zk/encelg"
	zklogstar "github.com/taurusgroup/multi-party-sig/pkg/zk/logstar"

	"vault-plugin-secrets-mpc/mpc"
)

// TestMirror: the bodies that FuzzLibraryMessages decodes into have the fields of
// the library's.
func TestMirror(t *testing.T) {
	for name, f := range finishedSessions(t) {
		seen := 0
		for _, m := range f.sent {
			theirs, ours := reflect.TypeOf(f.content(m)).Elem(), reflect.TypeOf(mirror(name == "presign", m))
			if ours == nil {
				t.Fatalf("%s round %d, broadcast %v has no mirror", name, m.Round, m.Broadcast)
			}
			seen++
			for k := range theirs.NumField() {
				field := theirs.Field(k)
				if _, ok := ours.Elem().FieldByName(field.Name); !ok && !field.Anonymous {
					t.Errorf("%s round %d, broadcast %v: %s has no mirror", name, m.Round, m.Broadcast, field.Name)
				}
			}
		}
		if seen < 7 {
			t.Errorf("%s: only %d messages", name, seen)
		}
	}
}

// mirror returns what the library decodes a message into, made of its own public
// types, nil if there is no such message. The library's bodies cannot be had
// without running a session, for which a fuzzing process has no time.
func mirror(presign bool, m mpc.Message) any {
	g := libcurve.Secp256k1{}
	type elGamal struct{ L, M libcurve.Point }
	newElGamal := func() *elGamal { return &elGamal{g.NewPoint(), g.NewPoint()} }
	type ciphertext = *paillier.Ciphertext
	at := slot(m)
	if at == slot(mpc.Message{Round: 2, Broadcast: true}) && !presign {
		return &struct{ K, G ciphertext }{}
	}
	if !presign {
		switch at {
		case slot(mpc.Message{Round: 2}):
			return &struct{ ProofEnc *zkenc.Proof }{}
		case slot(mpc.Message{Round: 3, Broadcast: true}):
			return &struct{ BigGammaShare libcurve.Point }{g.NewPoint()}
		case slot(mpc.Message{Round: 3}):
			return &struct {
				DeltaD, DeltaF, ChiD, ChiF ciphertext
				DeltaProof, ChiProof       *zkaffg.Proof
				ProofLog                   *zklogstar.Proof
			}{DeltaProof: zkaffg.Empty(g), ChiProof: zkaffg.Empty(g), ProofLog: zklogstar.Empty(g)}
		case slot(mpc.Message{Round: 4, Broadcast: true}):
			return &struct {
				DeltaShare    libcurve.Scalar
				BigDeltaShare libcurve.Point
			}{g.NewScalar(), g.NewPoint()}
		case slot(mpc.Message{Round: 4}):
			return &struct{ ProofLog *zklogstar.Proof }{zklogstar.Empty(g)}
		case slot(mpc.Message{Round: 5, Broadcast: true}):
			return &struct{ SigmaShare libcurve.Scalar }{g.NewScalar()}
		}
		return nil
	}
	switch at {
	case slot(mpc.Message{Round: 2, Broadcast: true}):
		return &struct {
			K, G         ciphertext
			Z            *elGamal
			CommitmentID hash.Commitment
		}{Z: newElGamal()}
	case slot(mpc.Message{Round: 2}):
		return &struct{ Proof *zkencelg.Proof }{zkencelg.Empty(g)}
	case slot(mpc.Message{Round: 3, Broadcast: true}):
		return &struct{ DeltaCiphertext, ChiCiphertext map[party.ID]ciphertext }{}
	case slot(mpc.Message{Round: 3}):
		return &struct {
			DeltaF, ChiF ciphertext
			DeltaProof   *zkaffp.Proof
			ChiProof     *zkaffg.Proof
		}{ChiProof: zkaffg.Empty(g)}
	case slot(mpc.Message{Round: 4, Broadcast: true}):
		return &struct {
			DeltaShare libcurve.Scalar
			ElGamalChi *elGamal
		}{g.NewScalar(), newElGamal()}
	case slot(mpc.Message{Round: 5, Broadcast: true}):
		return &struct{ BigGammaShare libcurve.Point }{g.NewPoint()}
	case slot(mpc.Message{Round: 5}):
		return &struct{ ProofLog *zklogstar.Proof }{zklogstar.Empty(g)}
	case slot(mpc.Message{Round: 6, Broadcast: true}):
		return &struct {
			BigDeltaShare libcurve.Point
			Proof         *zkelog.Proof
		}{g.NewPoint(), zkelog.Empty(g)}
	case slot(mpc.Message{Round: 7, Broadcast: true}):
		return &struct {
			S              libcurve.Point
			Proof          *zkelog.Proof
			DecommitmentID hash.Decommitment
			PresignatureID []byte
		}{S: g.NewPoint(), Proof: zkelog.Empty(g)}
	}
	return nil
}

// FuzzLibraryMessages: whatever the checks take, the library's decoder neither
// panics on nor leaves a field of it empty.
func FuzzLibraryMessages(f *testing.F) {
	var build func(s shape) map[string]any
	build = func(s shape) map[string]any {
		out := map[string]any{}
		for name, k := range s {
			if k.within != nil {
				out[name] = build(k.within)
				continue
			}
			b := bytes.Repeat([]byte{1}, k.size)
			if k.point {
				b[0] = 2
			}
			out[name] = b
		}
		return out
	}
	shapes := []func(mpc.Message) shape{inSlot(signShapes()), presignShapes([]mpc.Index{1, 3})}
	var checks []func(mpc.Message) error
	for k, shapeOf := range shapes {
		check, err := newMessageCheck(shapeOf)
		if err != nil {
			f.Fatal(err)
		}
		checks = append(checks, check)
		for round := range uint8(presignRounds + 1) {
			for _, broadcast := range []bool{false, true} {
				m := mpc.Message{From: 1, Round: round, Broadcast: broadcast}
				s := shapeOf(m)
				if s == nil {
					continue
				}
				if m.Data, err = cbor.Marshal(build(s)); err != nil {
					f.Fatal(err)
				}
				if check(m) != nil {
					f.Fatalf("the seed of round %d is refused", round)
				}
				f.Add(k == 1, round, broadcast, m.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, presign bool, round uint8, broadcast bool, data []byte) {
		m := mpc.Message{From: 1, Round: round, Broadcast: broadcast, Data: slices.Clone(data)}
		check := checks[0]
		if presign {
			check = checks[1]
		}
		if check(m) != nil {
			return
		}
		body := mirror(presign, m)
		if body == nil {
			t.Fatalf("a message of round %d, which the library does not have, passed", round)
		}
		if cbor.Unmarshal(m.Data, body) != nil {
			return
		}
		v := reflect.ValueOf(body).Elem()
		for k := range v.NumField() {
			if v.Field(k).IsZero() {
				t.Fatalf("round %d: %s is empty", round, v.Type().Field(k).Name)
			}
		}
	})
}
