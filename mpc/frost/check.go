package frost

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"vault-plugin-secrets-mpc/mpc"
)

// checkMessage refuses key generation messages on which the library panics or
// allocates without bound: its decoder takes a polynomial's length from the
// first four bytes unchecked, and it never checks the degree, which shows only
// when the polynomials are summed up.
func (p *KeyParty) checkMessage(m mpc.Message) error {
	if m.Round != 2 {
		return nil
	}
	var body struct {
		Polynomial []byte          `cbor:"Phi_i"`
		Proof      cbor.RawMessage `cbor:"Sigma_i"`
		Commitment []byte
	}
	if err := cbor.Unmarshal(m.Data, &body); err != nil {
		return fmt.Errorf("round 2: %w", err)
	}
	if len(body.Polynomial) < 4 {
		return errors.New("round 2: polynomial is missing")
	}
	// A polynomial of degree t−1 has t coefficients; in a refresh its constant
	// is zero and left out.
	want := p.cfg.Threshold
	if p.refresh {
		want--
	}
	if size := binary.BigEndian.Uint32(body.Polynomial); uint64(size) != uint64(want) {
		return fmt.Errorf("round 2: polynomial of %d coefficients, want %d", size, want)
	}
	var polynomial struct {
		IsConstant   bool
		Coefficients []cbor.RawMessage
	}
	if err := cbor.Unmarshal(body.Polynomial[4:], &polynomial); err != nil {
		return fmt.Errorf("round 2: polynomial: %w", err)
	}
	if len(polynomial.Coefficients) != want || polynomial.IsConstant != p.refresh {
		return fmt.Errorf("round 2: polynomial of %d coefficients, want %d", len(polynomial.Coefficients), want)
	}
	return nil
}
