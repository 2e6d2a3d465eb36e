package frost

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// route carries messages between parties until nobody sends any more. tamper
// may change or drop a message (nil) on its way to one recipient.
func route(t testing.TB, parties map[mpc.Index]mpc.Party, tamper func(to mpc.Index, m mpc.Message) *mpc.Message) error {
	t.Helper()
	var queue []mpc.Message
	for _, i := range sorted(parties) {
		out, err := parties[i].Start()
		if err != nil {
			return fmt.Errorf("share %d: %w", i, err)
		}
		queue = append(queue, out...)
	}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		for _, to := range sorted(parties) {
			if to == m.From || (!m.Broadcast && to != m.To) {
				continue
			}
			in := &m
			if tamper != nil {
				if in = tamper(to, m); in == nil {
					continue
				}
			}
			out, err := parties[to].Step(*in)
			if err != nil {
				return fmt.Errorf("share %d: %w", to, err)
			}
			queue = append(queue, out...)
		}
	}
	return nil
}

func sorted(parties map[mpc.Index]mpc.Party) []mpc.Index {
	var out []mpc.Index
	for i := mpc.Index(1); i <= mpc.MaxShares; i++ {
		if parties[i] != nil {
			out = append(out, i)
		}
	}
	return out
}

func sessionID(t testing.TB) (id mpc.SessionID) {
	t.Helper()
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	return id
}

// account makes a key and returns its record and the private shares.
func account(t testing.TB, a mpc.Algorithm, threshold, shares int) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	keys := map[mpc.Index]*KeyParty{}
	for _, i := range allIndices(shares) {
		p, err := NewKeygen(KeyConfig{Self: i, Algorithm: a, Threshold: threshold, Shares: shares, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i], keys[i] = p, p
	}
	if err := route(t, parties, nil); err != nil {
		t.Fatal(err)
	}
	record := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: threshold, Shares: shares,
		Epoch: 1, EpochID: mpc.EpochID{1}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
	return record, collect(t, record, keys)
}

// collect reads every party's result into record and checks that they agree.
func collect(t testing.TB, record *mpc.PublicRecord, keys map[mpc.Index]*KeyParty) map[mpc.Index]*secret.Bytes {
	t.Helper()
	out := map[mpc.Index]*secret.Bytes{}
	for _, i := range allIndices(record.Shares) {
		k, err := keys[i].Result()
		if err != nil {
			t.Fatalf("share %d: %v", i, err)
		}
		if i == 1 {
			record.PublicKey, record.PublicShares = k.PublicKey, k.PublicShares
			if !keys[i].refresh {
				record.ChainCode = k.ChainCode
			}
		}
		if !bytes.Equal(k.PublicKey, record.PublicKey) ||
			!bytes.Equal(bytes.Join(k.PublicShares, nil), bytes.Join(record.PublicShares, nil)) ||
			(!keys[i].refresh && k.ChainCode != record.ChainCode) {
			t.Fatalf("share %d disagrees", i)
		}
		if err := CheckShare(record, i, k.Share); err != nil {
			t.Fatalf("share %d: %v", i, err)
		}
		out[i] = k.Share
	}
	if record.ChainCode == [32]byte{} {
		t.Fatal("no chain code")
	}
	if err := CheckRecord(record); err != nil {
		t.Fatal(err)
	}
	return out
}

func refresh(t testing.TB, old *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	keys := map[mpc.Index]*KeyParty{}
	for _, i := range allIndices(old.Shares) {
		p, err := NewRefresh(KeyConfig{Self: i, Algorithm: old.Algorithm, Threshold: old.Threshold, Shares: old.Shares, SessionID: id}, old, shares[i])
		if err != nil {
			t.Fatal(err)
		}
		parties[i], keys[i] = p, p
	}
	if err := route(t, parties, nil); err != nil {
		t.Fatal(err)
	}
	next := *old
	next.Epoch++
	next.EpochID = mpc.EpochID{byte(next.Epoch)}
	return &next, collect(t, &next, keys)
}

func sign(t testing.TB, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index, message []byte) *mpc.Signature {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	var first Signer
	for _, i := range signers {
		p, err := NewSign(SignConfig{Self: i, Signers: signers, Record: record, Share: shares[i], Message: message, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		if parties[i] = p; first == nil {
			first = p
		}
	}
	if err := route(t, parties, nil); err != nil {
		t.Fatal(err)
	}
	sig, err := first.Result()
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestSharesOfDifferentEpochsDoNotMix(t *testing.T) {
	record, shares := account(t, mpc.BIP340Secp256k1, 2, 3)
	next, _ := refresh(t, record, shares)
	_, err := NewSign(SignConfig{Self: 1, Signers: []mpc.Index{1, 2}, Record: next, Share: shares[1],
		Message: []byte("m"), SessionID: sessionID(t)})
	if !errors.Is(err, mpc.ErrShareMismatch) {
		t.Fatalf("got %v, want ErrShareMismatch", err)
	}
}

func TestCheckRecordRefuses(t *testing.T) {
	record, _ := account(t, mpc.BIP340Secp256k1, 2, 3)
	other, _ := account(t, mpc.BIP340Secp256k1, 2, 3)
	for name, change := range map[string]func(r *mpc.PublicRecord){
		"other public key": func(r *mpc.PublicRecord) { r.PublicKey = other.PublicKey },
		"swapped shares":   func(r *mpc.PublicRecord) { s := r.PublicShares; r.PublicShares = [][]byte{s[1], s[0], s[2]} },
		"foreign share":    func(r *mpc.PublicRecord) { r.PublicShares = append(r.PublicShares[:2:2], other.PublicShares[2]) },
		"off the curve": func(r *mpc.PublicRecord) {
			r.PublicShares = append(r.PublicShares[:2:2], append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...))
		},
		"other threshold": func(r *mpc.PublicRecord) { r.Threshold = 1 },
		"no epoch":        func(r *mpc.PublicRecord) { r.Epoch = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			r := *record
			r.PublicShares = append([][]byte(nil), record.PublicShares...)
			change(&r)
			if err := CheckRecord(&r); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}
