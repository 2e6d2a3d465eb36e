package frost

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// tampered are records of an Ed25519 account with one bad point, of share 2 or
// the key; share 1 still fits all of them.
func tampered(t *testing.T, record *mpc.PublicRecord) map[string]struct {
	record *mpc.PublicRecord
	order  bool // nothing but a point's order is wrong
} {
	out := map[string]struct {
		record *mpc.PublicRecord
		order  bool
	}{}
	add := func(name string, order bool, change func(b []byte) []byte) {
		share, key := copied(record), copied(record)
		share.PublicShares[1] = change(share.PublicShares[1])
		key.PublicKey = change(key.PublicKey)
		out["share: "+name] = struct {
			record *mpc.PublicRecord
			order  bool
		}{share, order}
		out["key: "+name] = struct {
			record *mpc.PublicRecord
			order  bool
		}{key, order}
	}
	for k, torsion := range torsions(t) {
		name := string(rune('1' + k))
		add("shifted by torsion "+name, true, func(b []byte) []byte { return shifted(t, b, torsion, 1) })
		// 4·T₈ is the point of order 2, whose x is 0: no decoder takes it.
		add("torsion "+name, k != 3, func([]byte) []byte { return torsion.Bytes() })
	}
	add("identity", false, func(b []byte) []byte { return append([]byte{1}, make([]byte, 31)...) })
	add("identity with a sign", false, func(b []byte) []byte { return append(append([]byte{1}, make([]byte, 30)...), 0x80) })
	add("y = p", false, func([]byte) []byte { return append(append([]byte{0xed}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f) })
	add("y = p + 1", false, func([]byte) []byte { return append(append([]byte{0xee}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f) })
	add("ones", false, func([]byte) []byte { return bytes.Repeat([]byte{0xff}, 32) })
	return out
}

// TestUncheckedPointsNeedTheirRecord: without the hash of exactly this record,
// from an envelope that opened under it, every point is checked in full; with
// it, all but the order is. That is the whole of what OpenedUnder does.
func TestUncheckedPointsNeedTheirRecord(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	for name, c := range tampered(t, record) {
		near := c.record.Hash()
		near[31] ^= 1
		for _, under := range []struct {
			name    string
			hash    [32]byte
			vouched bool
		}{{"nothing", [32]byte{}, false}, {"the honest record", record.Hash(), false}, {"nearly this record", near, false}, {"this record", c.record.Hash(), true}} {
			_, sign := NewSign(SignConfig{Self: 1, Signers: []mpc.Index{1, 2}, Record: c.record, Share: shares[1],
				Message: []byte("m"), SessionID: sessionID(t), OpenedUnder: under.hash})
			_, refresh := NewRefresh(KeyConfig{Self: 1, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3,
				SessionID: sessionID(t), OpenedUnder: under.hash}, c.record, shares[1])
			for what, err := range map[string]error{"sign": sign, "refresh": refresh} {
				if taken := under.vouched && c.order; (err == nil) != taken {
					t.Errorf("%s, opened under %s, %s: %v", name, under.name, what, err)
				}
				if err != nil && !errors.Is(err, curve.ErrPoint) {
					t.Errorf("%s, opened under %s, %s: refused for something else: %v", name, under.name, what, err)
				}
			}
		}
		if CheckRecord(c.record) == nil {
			t.Errorf("%s: CheckRecord accepted", name)
		}
	}
}

// TestVouchedForNothing: nothing is the hash of no record.
func TestVouchedForNothing(t *testing.T) {
	record := dealt(t, mpc.Ed25519, 2, 3)
	other := copied(record)
	other.EpochID[0] ^= 1
	if vouchedFor(record, [32]byte{}) || vouchedFor(record, other.Hash()) || !vouchedFor(record, record.Hash()) {
		t.Error("vouched for by the wrong hash")
	}
}

// TestOwnPublicShareIsCompared: a share's own public half is never taken from
// the record unchecked, whoever vouches: only the canonical encoding of xᵢ·B
// passes.
func TestOwnPublicShareIsCompared(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	encodings := map[string][]byte{
		"another's": record.PublicShares[1], "the key": record.PublicKey, "nothing": make([]byte, 32),
		"other sign": bytes.Clone(record.PublicShares[0]), "identity": append([]byte{1}, make([]byte, 31)...),
	}
	encodings["other sign"][31] ^= 0x80
	for k, torsion := range torsions(t) {
		encodings["shifted by torsion "+string(rune('1'+k))] = shifted(t, record.PublicShares[0], torsion, 1)
	}
	for name, b := range encodings {
		r := copied(record)
		r.PublicShares[0] = b
		_, sign := NewSign(SignConfig{Self: 1, Signers: []mpc.Index{1, 2}, Record: r, Share: shares[1],
			Message: []byte("m"), SessionID: sessionID(t), OpenedUnder: r.Hash()})
		_, refresh := NewRefresh(KeyConfig{Self: 1, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3,
			SessionID: sessionID(t), OpenedUnder: r.Hash()}, r, shares[1])
		for what, err := range map[string]error{"sign": sign, "refresh": refresh, "check": CheckShare(r, 1, shares[1])} {
			if !errors.Is(err, mpc.ErrShareMismatch) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	zero := copied(record)
	zero.PublicShares[0] = encodings["identity"]
	if err := CheckShare(zero, 1, secret.New(make([]byte, 32))); !errors.Is(err, mpc.ErrShareMismatch) {
		t.Errorf("share 0 of the identity: %v", err)
	}
}

// TestForgedRecordDoesNotSurviveARefresh: somebody seals shares of his own under
// a record of his own with a bad key, and has them refreshed. The outcome is a
// new record, and new records are checked in full.
func TestForgedRecordDoesNotSurviveARefresh(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	for name, c := range tampered(t, record) {
		if !strings.HasPrefix(name, "key: ") || !c.order {
			continue
		}
		parties := map[mpc.Index]mpc.Party{}
		id := sessionID(t)
		for _, i := range allIndices(3) {
			p, err := NewRefresh(KeyConfig{Self: i, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3,
				SessionID: id, OpenedUnder: c.record.Hash()}, c.record, shares[i])
			if err != nil {
				t.Fatal(err)
			}
			parties[i] = p
		}
		if err := route(t, parties, nil); err != nil {
			t.Fatal(err)
		}
		k, err := parties[1].(*KeyParty).Result()
		if err != nil {
			t.Fatal(err)
		}
		next := *c.record
		next.PublicKey, next.PublicShares = k.PublicKey, k.PublicShares
		if CheckRecord(&next) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestOpenedSharesSignAndRefresh: what nodes do, with the hash of the record.
func TestOpenedSharesSignAndRefresh(t *testing.T) {
	for _, a := range signsHere() {
		record, shares := account(t, a, 2, 3)
		id := sessionID(t)
		parties, keys := map[mpc.Index]mpc.Party{}, map[mpc.Index]*KeyParty{}
		for _, i := range allIndices(3) {
			p, err := NewRefresh(KeyConfig{Self: i, Algorithm: a, Threshold: 2, Shares: 3, SessionID: id, OpenedUnder: record.Hash()}, record, shares[i])
			if err != nil {
				t.Fatal(err)
			}
			parties[i], keys[i] = p, p
		}
		if err := route(t, parties, nil); err != nil {
			t.Fatal(err)
		}
		next := copied(record)
		next.Epoch++
		fresh := collect(t, next, keys)
		if !bytes.Equal(next.PublicKey, record.PublicKey) || bytes.Equal(next.PublicShares[0], record.PublicShares[0]) {
			t.Fatalf("%s: not a refresh", a)
		}
		signing := map[mpc.Index]mpc.Party{}
		for _, i := range []mpc.Index{1, 3} {
			p, err := NewSign(SignConfig{Self: i, Signers: []mpc.Index{1, 3}, Record: next, Share: fresh[i],
				Message: []byte("message"), SessionID: id, OpenedUnder: next.Hash()})
			if err != nil {
				t.Fatal(err)
			}
			signing[i] = p
		}
		if err := route(t, signing, nil); err != nil {
			t.Fatal(err)
		}
		sig, err := signing[1].(Signer).Result()
		if err != nil {
			t.Fatal(err)
		}
		if a == mpc.Ed25519 && !ed25519.Verify(record.PublicKey, []byte("message"), sig.Bytes) {
			t.Error("the signature does not verify")
		}
	}
}
