package frost

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"github.com/fxamacker/cbor/v2"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// keygenParties returns parties of a new key in one session.
func keygenParties(t testing.TB, a mpc.Algorithm, threshold, shares int) map[mpc.Index]mpc.Party {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range allIndices(shares) {
		p, err := NewKeygen(KeyConfig{Self: i, Algorithm: a, Threshold: threshold, Shares: shares, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = p
	}
	return parties
}

func refreshParties(t testing.TB, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes) map[mpc.Index]mpc.Party {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range allIndices(record.Shares) {
		p, err := NewRefresh(KeyConfig{Self: i, Algorithm: record.Algorithm, Threshold: record.Threshold, Shares: record.Shares, SessionID: id}, record, shares[i])
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = p
	}
	return parties
}

func signParties(t testing.TB, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index) map[mpc.Index]mpc.Party {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range signers {
		p, err := NewSign(SignConfig{Self: i, Signers: signers, Record: record, Share: shares[i], Message: []byte("message"), SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = p
	}
	return parties
}

// tampering changes one message on its way.
type tampering map[string]func(m *mpc.Message)

// anyMessage are changes that no protocol survives.
var anyMessage = tampering{
	"empty data":         func(m *mpc.Message) { m.Data = nil },
	"garbage":            func(m *mpc.Message) { m.Data = []byte("garbage") },
	"truncated":          func(m *mpc.Message) { m.Data = m.Data[:len(m.Data)/2] },
	"one byte more":      func(m *mpc.Message) { m.Data = append(bytes.Clone(m.Data), 0) },
	"round 0":            func(m *mpc.Message) { m.Round = 0 },
	"round 9":            func(m *mpc.Message) { m.Round = 9 },
	"other session":      func(m *mpc.Message) { m.Transcript[0] ^= 1 },
	"oversized":          func(m *mpc.Message) { m.Data = make([]byte, mpc.MaxMessageSize+1) },
	"short echo":         func(m *mpc.Message) { m.Echo = []byte{1} },
	"not in the session": func(m *mpc.Message) { m.From = 9 },
	"other recipient":    func(m *mpc.Message) { m.Broadcast, m.To = false, 3 },
	"broadcast to one":   func(m *mpc.Message) { m.Broadcast, m.To = true, 2 },
	"not a broadcast": func(m *mpc.Message) {
		if m.Broadcast {
			m.Broadcast, m.To = false, 2
		} else {
			m.Broadcast, m.To = true, 0
		}
	},
}

// refused runs a session in which the message of one place, from share 1 to
// share 2, is changed: it must end with share 1 named (or the index that the
// change pretends to be).
func refused(t *testing.T, parties func(testing.TB) map[mpc.Index]mpc.Party, round uint8, broadcast bool, changes tampering) {
	t.Helper()
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			hit := false
			err := route(t, parties(t), func(to mpc.Index, m mpc.Message) *mpc.Message {
				if to == 2 && m.From == 1 && m.Round == round && m.Broadcast == broadcast {
					change(&m)
					hit = true
				}
				return &m
			})
			if !hit {
				t.Fatal("no message was changed")
			}
			var abort *mpc.AbortError
			if !errors.As(err, &abort) {
				t.Fatalf("got %v, want an abort", err)
			}
			if len(abort.Culprits) != 1 || (abort.Culprits[0] != 1 && abort.Culprits[0] != 9) {
				t.Fatalf("blamed %v, want the sender: %v", abort.Culprits, err)
			}
			if errors.Is(err, mpc.ErrPanic) {
				t.Fatalf("the library panicked: %v", err)
			}
		})
	}
}

// inCBOR changes one field of a CBOR map and leaves the order of the fields as
// it was, so that nothing but the change can be what is refused. A nil value
// removes the field; a new one goes to the end.
func inCBOR(name string, value any) func(m *mpc.Message) {
	encode := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			panic(err)
		}
		return b
	}
	return func(m *mpc.Message) {
		var fields map[string]cbor.RawMessage
		if err := cbor.Unmarshal(m.Data, &fields); err != nil {
			panic(err)
		}
		if value == nil {
			delete(fields, name)
		} else {
			fields[name] = encode(value)
		}
		at := func(name string) int {
			if k := bytes.Index(m.Data, encode(name)); k >= 0 {
				return k
			}
			return len(m.Data)
		}
		names := slices.SortedFunc(maps.Keys(fields), func(a, b string) int { return at(a) - at(b) })
		data := []byte{0xa0 | byte(len(names))}
		for _, n := range names {
			data = append(append(data, encode(n)...), fields[n]...)
		}
		m.Data = data
	}
}

// TestInCBORKeepsTheRest: setting a field to what it is changes nothing.
func TestInCBORKeepsTheRest(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		out, err := keygenParties(t, a, 2, 3)[1].Start()
		if err != nil {
			t.Fatal(err)
		}
		m := out[0]
		var body keyCommit
		if err := decodeExactly(m.Data, &body); err != nil {
			t.Fatal(err)
		}
		inCBOR("Phi_i", body.Polynomial)(&m)
		if !bytes.Equal(m.Data, out[0].Data) {
			t.Fatalf("%x became %x", out[0].Data, m.Data)
		}
	}
}

var null = cbor.RawMessage{0xf6}

// TestHostileKeyMessages: crafted messages of key generation and refresh, those
// on which the library panics among them.
func TestHostileKeyMessages(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		group, err := curve.For(a)
		if err != nil {
			t.Fatal(err)
		}
		size := curve.PointSize(group)
		base, _ := group.NewBasePoint().MarshalBinary()
		offCurve := bytes.Repeat([]byte{0xff}, size)
		polynomialOf := func(length byte, constant bool, points ...[]byte) []byte {
			b, err := cbor.Marshal(polynomial{IsConstant: constant, Coefficients: points})
			if err != nil {
				t.Fatal(err)
			}
			return append([]byte{0, 0, 0, length}, b...)
		}
		commits := tampering{
			"empty map":           func(m *mpc.Message) { m.Data = []byte{0xa0} },
			"huge polynomial":     func(m *mpc.Message) { m.Data = hugePolynomial },
			"huge length":         inCBOR("Phi_i", []byte{0xff, 0xff, 0xff, 0xf0, 0xa0}),
			"null polynomial":     inCBOR("Phi_i", null),
			"no polynomial":       inCBOR("Phi_i", nil),
			"short polynomial":    inCBOR("Phi_i", []byte{0, 0}),
			"lower degree":        inCBOR("Phi_i", polynomialOf(1, false, base)),
			"higher degree":       inCBOR("Phi_i", polynomialOf(3, false, base, base, base)),
			"longer than it says": inCBOR("Phi_i", polynomialOf(2, false, base, base, base)),
			"shorter than it says": func(m *mpc.Message) {
				var body keyCommit
				if err := decodeExactly(m.Data, &body); err != nil {
					panic(err)
				}
				body.Polynomial = append([]byte{0, 0, 3, 232}, body.Polynomial[4:]...)
				inCBOR("Phi_i", body.Polynomial)(m)
			},
			"null coefficient":     inCBOR("Phi_i", polynomialOf(2, false, base, nil)),
			"short coefficient":    inCBOR("Phi_i", polynomialOf(2, false, base, base[1:])),
			"off the curve":        inCBOR("Phi_i", polynomialOf(2, false, base, offCurve)),
			"zero constant":        inCBOR("Phi_i", polynomialOf(1, true, base)),
			"null proof":           inCBOR("Sigma_i", null),
			"empty proof":          inCBOR("Sigma_i", map[string]any{}),
			"proof without point":  inCBOR("Sigma_i", schnorrProof{Z: struct{ Z []byte }{make([]byte, 32)}}),
			"proof without scalar": inCBOR("Sigma_i", schnorrProof{C: struct{ C []byte }{base}}),
			"wrong proof":          inCBOR("Sigma_i", schnorrProof{C: struct{ C []byte }{base}, Z: struct{ Z []byte }{bytes.Repeat([]byte{1}, 32)}}),
			"no commitment":        inCBOR("Commitment", nil),
			"short commitment":     inCBOR("Commitment", make([]byte, 63)),
			"field too many":       inCBOR("Extra", []byte{1}),
		}
		opens := tampering{
			"null contribution":  inCBOR("C_l", null),
			"zero contribution":  inCBOR("C_l", make([]byte, 32)),
			"other contribution": inCBOR("C_l", bytes.Repeat([]byte{7}, 32)),
			"no decommitment":    inCBOR("Decommitment", nil),
		}
		subshares := tampering{
			"empty map":     func(m *mpc.Message) { m.Data = []byte{0xa0} },
			"null subshare": inCBOR("F_li", null),
			"long subshare": inCBOR("F_li", make([]byte, 33)),
			"not reduced":   inCBOR("F_li", bytes.Repeat([]byte{0xff}, 32)),
			"other number":  inCBOR("F_li", append(make([]byte, 31), 9)),
			"zero":          inCBOR("F_li", make([]byte, 32)),
		}
		keygen := func(t testing.TB) map[mpc.Index]mpc.Party { return keygenParties(t, a, 2, 3) }
		for _, place := range []struct {
			name      string
			round     uint8
			broadcast bool
			changes   tampering
		}{{"commit", 2, true, commits}, {"open", 3, true, opens}, {"subshare", 3, false, subshares}} {
			t.Run(fmt.Sprintf("%s/keygen/%s", a, place.name), func(t *testing.T) {
				refused(t, keygen, place.round, place.broadcast, anyMessage)
				refused(t, keygen, place.round, place.broadcast, place.changes)
			})
		}
		t.Run(fmt.Sprintf("%s/refresh", a), func(t *testing.T) {
			record, shares := account(t, a, 2, 3)
			parties := func(t testing.TB) map[mpc.Index]mpc.Party { return refreshParties(t, record, shares) }
			refused(t, parties, 2, true, tampering{
				"constant that is not zero": inCBOR("Phi_i", polynomialOf(2, false, base, base)),
				"coefficient too many":      inCBOR("Phi_i", polynomialOf(2, true, base, base)),
				"proof out of place":        inCBOR("Sigma_i", schnorrProof{C: struct{ C []byte }{base}, Z: struct{ Z []byte }{make([]byte, 32)}}),
			})
			refused(t, parties, 3, false, subshares)
		})
	}
}

// hugePolynomial is {"Phi_i": ff ff ff f0 a0}: the library would allocate four
// billion points for it.
var hugePolynomial = []byte("\xa1\x65Phi_i\x45\xff\xff\xff\xf0\xa0")

// TestHostileBIP340Messages: two signers and three, since with two the peer is
// blamed for anything.
func TestHostileBIP340Messages(t *testing.T) {
	base, _ := libcurve.Secp256k1{}.NewBasePoint().MarshalBinary()
	record, shares := account(t, mpc.BIP340Secp256k1, 3, 4)
	parties := func(t testing.TB) map[mpc.Index]mpc.Party {
		return signParties(t, record, shares, []mpc.Index{1, 2, 4})
	}
	refused(t, parties, 2, true, anyMessage)
	refused(t, parties, 3, true, anyMessage)
	refused(t, parties, 2, true, tampering{
		"null hiding":      inCBOR("D_i", null),
		"no binding":       inCBOR("E_i", nil),
		"short point":      inCBOR("D_i", base[1:]),
		"other first byte": inCBOR("D_i", append([]byte{7}, base[1:]...)),
		"off the curve":    inCBOR("E_i", append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)),
		"zeros":            inCBOR("E_i", make([]byte, 33)),
		"field too many":   inCBOR("Z_i", make([]byte, 32)),
		"fields reordered": func(m *mpc.Message) {
			m.Data = append([]byte{0xa2}, slices.Concat(m.Data[1+4+35:], m.Data[1:1+4+35])...)
		},
		"lower-case fields": func(m *mpc.Message) { m.Data = bytes.Replace(m.Data, []byte("D_i"), []byte("d_i"), 1) },
	})
	refused(t, parties, 3, true, tampering{
		"null share":  inCBOR("Z_i", null),
		"empty map":   func(m *mpc.Message) { m.Data = []byte{0xa0} },
		"long share":  inCBOR("Z_i", make([]byte, 33)),
		"not reduced": inCBOR("Z_i", bytes.Repeat([]byte{0xff}, 32)),
		"wrong share": inCBOR("Z_i", bytes.Repeat([]byte{1}, 32)),
	})
}

// TestHostileEd25519Messages: every deviation names its sender.
func TestHostileEd25519Messages(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 3, 4)
	parties := func(t testing.TB) map[mpc.Index]mpc.Party {
		return signParties(t, record, shares, []mpc.Index{1, 2, 4})
	}
	refused(t, parties, roundCommit, true, anyMessage)
	refused(t, parties, roundShare, true, anyMessage)

	torsion, err := new(edwards25519.Point).SetBytes(make([]byte, 32)) // y = 0: order 4
	if err != nil {
		t.Fatal(err)
	}
	point := func(at int, f func(b []byte) []byte) func(m *mpc.Message) {
		return func(m *mpc.Message) {
			m.Data = bytes.Clone(m.Data)
			copy(m.Data[at:at+32], f(m.Data[at:at+32]))
		}
	}
	commits := tampering{
		"echo in round 1": func(m *mpc.Message) { m.Echo = make([]byte, 64) },
		"own index":       func(m *mpc.Message) { m.From = 9 },
	}
	for at, name := range map[int]string{0: "hiding", 32: "binding"} {
		commits[name+": identity"] = point(at, func([]byte) []byte { return edwards25519.NewIdentityPoint().Bytes() })
		commits[name+": small order"] = point(at, func([]byte) []byte { return torsion.Bytes() })
		commits[name+": shifted by a small order"] = point(at, func(b []byte) []byte {
			p, err := new(edwards25519.Point).SetBytes(b)
			if err != nil {
				panic(err)
			}
			return p.Add(p, torsion).Bytes()
		})
		commits[name+": not canonical"] = point(at, func([]byte) []byte {
			return append([]byte{0xee}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...)
		})
	}
	refused(t, parties, roundCommit, true, commits)
	refused(t, parties, roundShare, true, tampering{
		"no echo": func(m *mpc.Message) { m.Echo = nil },
		"wrong share": func(m *mpc.Message) {
			m.Data = new(edwards25519.Scalar).Add(littleScalar(t, m.Data), identifier(1)).Bytes()
		},
		"zero share": func(m *mpc.Message) { m.Data = make([]byte, 32) },
		"share of the other sign": func(m *mpc.Message) {
			m.Data = new(edwards25519.Scalar).Negate(littleScalar(t, m.Data)).Bytes()
		},
		"share plus the order": func(m *mpc.Message) {
			// ℓ in little-endian; the sum stays below 2²⁵⁶ and means the same.
			order := curve.Edwards25519{}.Order().Bytes()
			slices.Reverse(order)
			m.Data = bytes.Clone(m.Data)
			carry := 0
			for k := range m.Data {
				carry += int(m.Data[k]) + int(order[k])
				m.Data[k], carry = byte(carry), carry>>8
			}
		},
	})
}

// TestEquivocation: a party that broadcasts different things to different
// parties is caught by the echo in the next round, and nobody honest is blamed
// for what follows from it.
func TestEquivocation(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		t.Run(fmt.Sprintf("%s/keygen", a), func(t *testing.T) {
			id := sessionID(t)
			equivocate(t, 2, func() map[mpc.Index]mpc.Party {
				parties := map[mpc.Index]mpc.Party{}
				for _, i := range allIndices(3) {
					p, err := NewKeygen(KeyConfig{Self: i, Algorithm: a, Threshold: 2, Shares: 3, SessionID: id})
					if err != nil {
						t.Fatal(err)
					}
					parties[i] = p
				}
				return parties
			})
		})
		if a.IsECDSA() {
			continue
		}
		t.Run(fmt.Sprintf("%s/sign", a), func(t *testing.T) {
			record, shares := account(t, a, 3, 3)
			id := sessionID(t)
			first := uint8(2)
			if a == mpc.Ed25519 {
				first = roundCommit
			}
			err := equivocate(t, first, func() map[mpc.Index]mpc.Party {
				parties := map[mpc.Index]mpc.Party{}
				for _, i := range allIndices(3) {
					p, err := NewSign(SignConfig{Self: i, Signers: allIndices(3), Record: record, Share: shares[i], Message: []byte("m"), SessionID: id})
					if err != nil {
						t.Fatal(err)
					}
					parties[i] = p
				}
				return parties
			})
			if !errors.Is(err, ErrBroadcast) {
				t.Fatalf("got %v, want ErrBroadcast", err)
			}
		})
	}
}

// equivocate gives share 2 the first broadcast of a second run of share 1 in
// the same session: valid, but not what share 3 gets.
func equivocate(t *testing.T, round uint8, parties func() map[mpc.Index]mpc.Party) error {
	t.Helper()
	twin, err := parties()[1].Start()
	if err != nil {
		t.Fatal(err)
	}
	err = route(t, parties(), func(to mpc.Index, m mpc.Message) *mpc.Message {
		if to == 2 && m.From == 1 && m.Round == round {
			return &twin[0]
		}
		return &m
	})
	var abort *mpc.AbortError
	if !errors.As(err, &abort) {
		t.Fatalf("got %v, want an abort", err)
	}
	if slices.ContainsFunc(abort.Culprits, func(i mpc.Index) bool { return i != 1 }) {
		t.Fatalf("an honest party was blamed: %v", err)
	}
	return err
}
