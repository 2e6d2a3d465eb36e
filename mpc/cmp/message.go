package cmp

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"vault-plugin-secrets-mpc/mpc"
)

// kind says what one field of a message must be.
type kind struct {
	size   int  // exact length of a byte string, 0 for a map
	point  bool // first byte 2 or 3: SEC 1 compressed
	signed bool // first byte 0 or 1: the sign of an integer
	within shape
}

// shape lists the fields of a CBOR map; all must be there and no other.
type shape map[string]kind

func bytesOf(n int) kind { return kind{size: n} }
func intOf(n int) kind   { return kind{size: 1 + n, signed: true} }
func mapOf(s shape) kind { return kind{within: s} }
func pointOf() kind      { return kind{size: pointSize, point: true} }
func ciphertextOf() kind { return bytesOf(2 * modulusSize) }
func residueOf() kind    { return bytesOf(modulusSize) }
func scalarOf() kind     { return bytesOf(scalarSize) }
func slot(m mpc.Message) int {
	if m.Broadcast {
		return 2*int(m.Round) + 1
	}
	return 2 * int(m.Round)
}

// Magnitudes of the signed numbers in proofs, in bytes: z₁ ∈ ±2^(ℓ+ε), z₂ of an
// affine proof ∈ ±2^(ℓ'+ε), the others ∈ ±2^(ℓ+ε)·N̂, each with one bit for a sum.
const (
	sizeZ1 = 97
	sizeZY = 225
	sizeZN = 353
)

// logShape proves that a Paillier ciphertext and a point hide one number (log*).
func logShape() kind {
	return mapOf(shape{"S": residueOf(), "A": ciphertextOf(), "Y": pointOf(), "D": residueOf(),
		"Z1": intOf(sizeZ1), "Z2": residueOf(), "Z3": intOf(sizeZN)})
}

// affineShape proves an affine operation whose factor is behind a point (affg).
func affineShape() kind {
	return mapOf(shape{"A": ciphertextOf(), "Bx": pointOf(), "By": ciphertextOf(),
		"E": residueOf(), "S": residueOf(), "F": residueOf(), "T": residueOf(),
		"Z1": intOf(sizeZ1), "Z2": intOf(sizeZY), "Z3": intOf(sizeZN), "Z4": intOf(sizeZN),
		"W": residueOf(), "Wy": residueOf()})
}

// signShapes are the messages of cmp.Sign by slot. The library encodes every
// number in its announced length, which follows from the parameters alone, so
// that lengths are exact.
func signShapes() map[int]shape {
	return map[int]shape{
		slot(mpc.Message{Round: 2, Broadcast: true}): {"K": ciphertextOf(), "G": ciphertextOf()},
		slot(mpc.Message{Round: 2}): {"ProofEnc": mapOf(shape{"S": residueOf(), "A": ciphertextOf(),
			"C": residueOf(), "Z1": intOf(sizeZ1), "Z2": residueOf(), "Z3": intOf(sizeZN)})},
		slot(mpc.Message{Round: 3, Broadcast: true}): {"BigGammaShare": pointOf()},
		slot(mpc.Message{Round: 3}): {"DeltaD": ciphertextOf(), "DeltaF": ciphertextOf(), "DeltaProof": affineShape(),
			"ChiD": ciphertextOf(), "ChiF": ciphertextOf(), "ChiProof": affineShape(), "ProofLog": logShape()},
		slot(mpc.Message{Round: 4, Broadcast: true}): {"DeltaShare": scalarOf(), "BigDeltaShare": pointOf()},
		slot(mpc.Message{Round: 4}):                  {"ProofLog": logShape()},
		slot(mpc.Message{Round: 5, Broadcast: true}): {"SigmaShare": scalarOf()},
	}
}

// inSlot finds a message's shape where the sender does not matter.
func inSlot(shapes map[int]shape) func(mpc.Message) shape {
	return func(m mpc.Message) shape { return shapes[slot(m)] }
}

// newMessageCheck returns a check that runs before the library sees a message:
// the library panics on missing fields and works as long as a number is long.
// shapeOf returns nil for a message that the protocol does not have.
func newMessageCheck(shapeOf func(mpc.Message) shape) (func(mpc.Message) error, error) {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: 16,
		MaxMapPairs:      16,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	return func(m mpc.Message) error {
		s := shapeOf(m)
		if s == nil {
			return fmt.Errorf("round %d has no such message", m.Round)
		}
		if err := s.check(mode, m.Data); err != nil {
			return fmt.Errorf("round %d: %w", m.Round, err)
		}
		return nil
	}, nil
}

func (s shape) check(mode cbor.DecMode, data []byte) error {
	var got map[string]cbor.RawMessage
	if err := mode.Unmarshal(data, &got); err != nil {
		return errors.New("not the expected CBOR map")
	}
	if len(got) != len(s) {
		return fmt.Errorf("%d fields instead of %d", len(got), len(s))
	}
	for name, want := range s {
		raw, ok := got[name]
		if !ok {
			return fmt.Errorf("%s is missing", name)
		}
		if err := want.check(mode, raw); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (k kind) check(mode cbor.DecMode, raw cbor.RawMessage) error {
	if k.within != nil {
		return k.within.check(mode, raw)
	}
	const byteString = 2 // CBOR major type, RFC 8949 section 3.1
	if len(raw) == 0 || raw[0]>>5 != byteString {
		return errors.New("not a byte string")
	}
	var b []byte
	if err := mode.Unmarshal(raw, &b); err != nil {
		return errors.New("not a byte string")
	}
	switch {
	case len(b) != k.size:
		return fmt.Errorf("%d bytes instead of %d", len(b), k.size)
	case k.point && b[0] != 2 && b[0] != 3:
		return errors.New("not a compressed point")
	case k.signed && b[0] > 1:
		return errors.New("not a signed number")
	}
	return nil
}
