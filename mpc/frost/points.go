package frost

import (
	"bytes"
	"fmt"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

func allIndices(n int) []mpc.Index {
	out := make([]mpc.Index, n)
	for i := range out {
		out[i] = mpc.Index(i + 1)
	}
	return out
}

// publicKey decodes a record's public key. vouched is the answer of vouchedFor.
func publicKey(record *mpc.PublicRecord, vouched bool) (libcurve.Point, error) {
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return nil, err
	}
	parse := curve.ParsePoint
	if vouched {
		parse = curve.ParseVouchedPoint
	}
	p, err := parse(group, encodedKey(record))
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return p, nil
}

// publicShares decodes the public shares of some indices into fresh points.
// vouched is the answer of vouchedFor.
func publicShares(record *mpc.PublicRecord, indices []mpc.Index, vouched bool) (map[party.ID]libcurve.Point, error) {
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return nil, err
	}
	parse := curve.ParsePoint
	if vouched {
		parse = curve.ParseVouchedPoint
	}
	out := make(map[party.ID]libcurve.Point, len(indices))
	for _, i := range indices {
		p, err := parse(group, record.PublicShare(i))
		if err != nil {
			return nil, fmt.Errorf("public share %d: %w", i, err)
		}
		out[handler.PartyID(i)] = p
	}
	return out, nil
}

// vouchedFor reports whether record is the one under which the caller's share
// was opened, so that its points need no check of their order; openedUnder is
// zero for a share that came without an envelope.
//
// What is behind it: a node seals a share only under the hash of a record that
// it has made itself and that passed CheckRecord, and the envelope does not open
// under another. That is not to say that a record under which an envelope opens
// has passed CheckRecord: shares are sealed to public keys, so anybody can seal
// one. But a share that this node must keep secret was sealed by a node that
// knew it, and opens under the record that this node had checked; who seals a
// share of his own choosing, under a record of his own choosing, gets nothing
// out of this node but computations on a share that he knows. New records are
// checked in full in any case.
func vouchedFor(record *mpc.PublicRecord, openedUnder [32]byte) bool {
	return openedUnder != [32]byte{} && record.Hash() == openedUnder
}

// parseShare decodes a private share into a fresh scalar and checks xᵢ·G = Xᵢ.
// The caller clears it with curve.WipeScalar.
//
// Xᵢ is compared as it is encoded: equal to a multiple of the base point other
// than the identity, it is a canonical point of prime order.
func parseShare(record *mpc.PublicRecord, i mpc.Index, share *secret.Bytes) (libcurve.Scalar, error) {
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return nil, err
	}
	x, err := curve.ParseScalar(group, share)
	if err != nil {
		return nil, mpc.ErrShareMismatch
	}
	if own, err := x.ActOnBase().MarshalBinary(); err != nil || !bytes.Equal(own, record.PublicShare(i)) {
		curve.WipeScalar(x)
		return nil, mpc.ErrShareMismatch
	}
	return x, nil
}

// CheckShare reports whether share is share i of record.
func CheckShare(record *mpc.PublicRecord, i mpc.Index, share *secret.Bytes) error {
	x, err := parseShare(record, i, share)
	if err != nil {
		return err
	}
	curve.WipeScalar(x)
	return nil
}
