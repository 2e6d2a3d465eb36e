package cmp

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/fxamacker/cbor/v2"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/mpc/mpctest"
	"vault-plugin-secrets-mpc/secret"
)

// fixedAux makes auxiliary keys from the primes in testdata, without proofs and
// marked as checked: in no time, for tests that are about something else.
func fixedAux(t testing.TB) (secrets [2]*AuxSecret, publics [2]*AuxPublic) {
	t.Helper()
	raw, err := os.ReadFile("testdata/test-primes.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(raw), "\n")
	primes := strings.Fields(list)
	for k := range secrets {
		var p [2]*big.Int
		for j := range p {
			var ok bool
			if p[j], ok = new(big.Int).SetString(primes[2*k+j], 16); !ok || p[j].BitLen() != 8*primeSize {
				t.Fatal("testdata/test-primes.txt is damaged")
			}
		}
		s := &AuxSecret{generation: 1, p: secret.New(p[0].Bytes()), q: secret.New(p[1].Bytes())}
		public := &AuxPublic{owner: Owner{NodeID: fmt.Sprint("local-", k), Identity: mpc.NodeIdentity{byte(k + 1)}, Generation: 1}}
		key := s.paillierKey()
		copy(public.n[:], key.N().Bytes())
		pedersen, _ := key.GeneratePedersen()
		pedersen.S().FillBytes(public.s[:])
		pedersen.T().FillBytes(public.t[:])
		for _, name := range curveNames() {
			group, ok := curveByName(name)
			if !ok {
				t.Fatal(name)
			}
			y := sample.ScalarUnit(rand.Reader, group)
			scalar, _ := y.MarshalBinary()
			point, _ := y.ActOnBase().MarshalBinary()
			curve.WipeScalar(y)
			s.elGamal = append(s.elGamal, elGamalSecret{name, secret.New(scalar)})
			public.elGamal = append(public.elGamal, elGamalPublic{curve: name, point: [pointSize]byte(point)})
		}
		public.hash[0] = byte(k + 1)
		public.verified.Store(true)
		public.complete.Store(true)
		secrets[k], publics[k] = s, public
	}
	return secrets, publics
}

// finished is a protocol whose session of shares 1 and 3 has ended: the shapes
// that its messages must have, what share 1 sent, and the library's rounds at
// share 3.
type finished struct {
	check  func(mpc.Message) error
	sent   []mpc.Message
	rounds map[uint8]reflect.Value
}

// sessions are those of this test binary, made when first asked for.
var sessions struct {
	once sync.Once
	all  map[string]*finished
}

func finishedSessions(t testing.TB) map[string]*finished {
	t.Helper()
	sessions.once.Do(func() { sessions.all = runSessions(t) })
	if len(sessions.all) != 2 {
		t.Fatal("the sessions failed")
	}
	return sessions.all
}

// runSessions runs signing and presigning, some seconds.
func runSessions(t testing.TB) map[string]*finished {
	t.Helper()
	secrets, publics := fixedAux(t)
	record, shares := deal(t, 2, 3)
	indices := []mpc.Index{1, 3}
	out := map[string]*finished{}
	for name, shapes := range map[string]func(mpc.Message) shape{"sign": inSlot(signShapes()), "presign": presignShapes(indices)} {
		check, err := newMessageCheck(shapes)
		if err != nil {
			t.Fatal(err)
		}
		f := &finished{check: check, rounds: map[uint8]reflect.Value{}}
		parties := map[mpc.Index]mpc.Party{}
		var inner *handler.Party
		for k, i := range indices {
			c := SignConfig{Self: i, Signers: indices, Record: record, Share: shares[i], Secret: secrets[k],
				Aux: map[mpc.Index]*AuxPublic{1: publics[0], 3: publics[1]}, SessionID: mpc.SessionID{1}}
			if name == "sign" {
				p, err := NewSign(c)
				if err != nil {
					t.Fatal(err)
				}
				parties[i], inner = p, p.Party
			} else {
				p, err := NewPresign(*c.withoutDigest())
				if err != nil {
					t.Fatal(err)
				}
				parties[i], inner = p, p.Party
			}
		}
		if err := route(parties, func(to mpc.Index, m *mpc.Message) {
			if m.From == 1 {
				f.sent = append(f.sent, *m)
			}
		}); err != nil {
			t.Fatal(err)
		}
		field := reflect.ValueOf(library(inner)).Elem().FieldByName("rounds")
		all := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem()
		for _, number := range all.MapKeys() {
			f.rounds[uint8(number.Uint())] = all.MapIndex(number).Elem()
		}
		out[name] = f
	}
	return out
}

// content returns what the library decodes a message into.
func (f *finished) content(m mpc.Message) any {
	method := "MessageContent"
	if m.Broadcast {
		method = "BroadcastContent"
	}
	return f.rounds[m.Round].MethodByName(method).Call(nil)[0].Interface()
}

// offer gives a message that the check takes to the library's decoder and, if it
// goes to one party, to its verifier, and reports how far it came. A panic is
// the caller's to see.
func (f *finished) offer(t testing.TB, m mpc.Message) (accepted, decoded bool) {
	t.Helper()
	m.From = 1
	if f.check(m) != nil {
		return false, false
	}
	r, ok := f.rounds[m.Round]
	if !ok {
		t.Fatalf("a message of round %d, which the library does not have, passed", m.Round)
	}
	content := f.content(m)
	if cbor.Unmarshal(m.Data, content) != nil {
		return true, false
	}
	if m.Broadcast {
		return true, true // storing a broadcast would change the round for the next one
	}
	verifier := r.MethodByName("VerifyMessage")
	in := reflect.New(verifier.Type().In(0)).Elem()
	in.FieldByName("From").Set(reflect.ValueOf(party.ID("\x01")))
	in.FieldByName("To").Set(reflect.ValueOf(party.ID("\x03")))
	in.FieldByName("Content").Set(reflect.ValueOf(content))
	verifier.Call([]reflect.Value{in})
	return true, true
}

// TestLibraryTakesWhatChecksAccept: messages that pass the checks of this
// package, honest ones and those that differ in a field, neither make the
// library's decoder panic nor its verifier.
func TestLibraryTakesWhatChecksAccept(t *testing.T) {
	perMessage := 8
	if testing.Short() {
		perMessage = 3
	}
	for name, f := range finishedSessions(t) {
		t.Run(name, func(t *testing.T) {
			r := mpctest.Random(1)
			tried, accepted := 0, 0
			for _, m := range f.sent {
				if a, d := f.offer(t, m); !a || !d {
					t.Fatalf("round %d: an honest message is refused", m.Round)
				}
				faults := mpctest.FieldFaults(m)
				r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
				taken := 0
				for _, fault := range faults {
					out, ok := fault.Apply(&mpctest.Cheat{Random: r}, mpctest.Packet{To: 3, Message: m})
					if !ok {
						continue
					}
					tried++
					if a, _ := f.offer(t, out[0].Message); a {
						accepted++
						if taken++; taken > perMessage {
							break // verifying takes its time
						}
					}
				}
			}
			if tried < 100 || accepted < 10 {
				t.Errorf("%d messages tried, %d accepted: the test tests nothing", tried, accepted)
			}
			t.Logf("%d messages tried, %d accepted by the checks", tried, accepted)
		})
	}
}
