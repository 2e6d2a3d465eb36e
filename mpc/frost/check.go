package frost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
)

// The library decodes messages into pre-made objects and trusts their shape: a
// missing field is a nil pointer, a polynomial's length is taken from four
// bytes unchecked, its degree never. So every message is decoded here first
// and encoded again: one that is not, byte for byte, what an honest party's
// library would write for the same values is refused in its sender's name.
//
// The structs below mirror the library's. Points and scalars are byte strings;
// whether they are on the curve and in range is what the library checks well.

// keyCommit is the broadcast of round 2 of key generation and refresh.
type keyCommit struct {
	Polynomial []byte        `cbor:"Phi_i"` // 4 bytes: length; then polynomial
	Proof      *schnorrProof `cbor:"Sigma_i"`
	Commitment []byte
}

type schnorrProof struct {
	C struct{ C []byte }
	Z struct{ Z []byte }
}

type polynomial struct {
	IsConstant   bool
	Coefficients [][]byte
}

// keyOpen is the broadcast of round 3, keyShare the message to each party.
type keyOpen struct {
	Contribution []byte `cbor:"C_l"`
	Decommitment []byte
}

type keyShare struct {
	Share []byte `cbor:"F_li"`
}

// signCommit and signShare are the broadcasts of rounds 2 and 3 of signing.
type signCommit struct {
	Hiding  []byte `cbor:"D_i"`
	Binding []byte `cbor:"E_i"`
}

type signShare struct {
	Share []byte `cbor:"Z_i"`
}

// Lengths in bytes of the library's hash commitments, and of what they open to.
const (
	commitmentSize = 64
	openingSize    = 32
)

var errNoSuchMessage = errors.New("the protocol has no such message")

// decodeExactly fills body from data, which must be its only encoding.
func decodeExactly(data []byte, body any) error {
	if err := cbor.Unmarshal(data, body); err != nil {
		return errors.New("not the expected CBOR map")
	}
	again, err := cbor.Marshal(body)
	if err != nil || !bytes.Equal(again, data) {
		return errors.New("not encoded as the protocol does")
	}
	return nil
}

// sized checks a byte string's length.
func sized(name string, b []byte, want int) error {
	if len(b) != want {
		return fmt.Errorf("%s of %d bytes instead of %d", name, len(b), want)
	}
	return nil
}

// pointShaped checks a point's length and, for SEC 1, the first byte, which the
// library does not look at on secp256k1.
func pointShaped(group libcurve.Curve, name string, b []byte) error {
	if err := sized(name, b, curve.PointSize(group)); err != nil {
		return err
	}
	if len(b) == 33 && b[0] != 2 && b[0] != 3 {
		return fmt.Errorf("%s is not a compressed point", name)
	}
	return nil
}

// checkMessage checks the shape of a message of key generation or refresh.
func (p *KeyParty) checkMessage(m mpc.Message) error {
	group, err := curve.For(p.cfg.Algorithm)
	if err != nil {
		return err
	}
	switch {
	case m.Round == 2 && m.Broadcast:
		err = p.checkCommit(group, m.Data)
	case m.Round == 3 && m.Broadcast:
		var body keyOpen
		err = errors.Join(decodeExactly(m.Data, &body),
			sized("chain code contribution", body.Contribution, openingSize),
			sized("decommitment", body.Decommitment, openingSize))
	case m.Round == 3:
		var body keyShare
		err = errors.Join(decodeExactly(m.Data, &body), sized("subshare", body.Share, curve.ScalarSize))
		clear(body.Share)
	default:
		err = errNoSuchMessage
	}
	if err != nil {
		return fmt.Errorf("round %d: %w", m.Round, err)
	}
	return nil
}

func (p *KeyParty) checkCommit(group libcurve.Curve, data []byte) error {
	var body keyCommit
	if err := decodeExactly(data, &body); err != nil {
		return err
	}
	if err := sized("commitment", body.Commitment, commitmentSize); err != nil {
		return err
	}
	// A refresh proves nothing: its polynomials have no constant.
	if (body.Proof == nil) != p.refresh {
		return errors.New("proof of knowledge missing or out of place")
	}
	if body.Proof != nil {
		if err := errors.Join(pointShaped(group, "proof", body.Proof.C.C), sized("proof", body.Proof.Z.Z, curve.ScalarSize)); err != nil {
			return err
		}
	}
	if len(body.Polynomial) < 4 {
		return errors.New("polynomial is missing")
	}
	// A polynomial of degree t−1 has t coefficients; in a refresh its constant
	// is zero and left out.
	want := p.cfg.Threshold
	if p.refresh {
		want--
	}
	if size := binary.BigEndian.Uint32(body.Polynomial); uint64(size) != uint64(want) {
		return fmt.Errorf("polynomial of %d coefficients, want %d", size, want)
	}
	var phi polynomial
	if err := decodeExactly(body.Polynomial[4:], &phi); err != nil {
		return fmt.Errorf("polynomial: %w", err)
	}
	if len(phi.Coefficients) != want || phi.IsConstant != p.refresh {
		return fmt.Errorf("polynomial of %d coefficients, want %d", len(phi.Coefficients), want)
	}
	for _, c := range phi.Coefficients {
		if err := pointShaped(group, "coefficient", c); err != nil {
			return err
		}
	}
	return nil
}

// checkBIP340 checks the shape of a message of BIP-340 signing.
func checkBIP340(m mpc.Message) error {
	group := libcurve.Secp256k1{}
	var err error
	switch {
	case m.Round == 2 && m.Broadcast:
		var body signCommit
		err = errors.Join(decodeExactly(m.Data, &body),
			pointShaped(group, "hiding commitment", body.Hiding),
			pointShaped(group, "binding commitment", body.Binding))
	case m.Round == 3 && m.Broadcast:
		var body signShare
		err = errors.Join(decodeExactly(m.Data, &body), sized("signature share", body.Share, curve.ScalarSize))
	default:
		err = errNoSuchMessage
	}
	if err != nil {
		return fmt.Errorf("round %d: %w", m.Round, err)
	}
	return nil
}
