package frost

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2/schnorr"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// route carries messages between parties until nobody sends any more. tamper
// may change or drop a message (nil) on its way to one recipient.
func route(t *testing.T, parties map[mpc.Index]mpc.Party, tamper func(to mpc.Index, m mpc.Message) *mpc.Message) error {
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
func account(t *testing.T, a mpc.Algorithm, threshold, shares int) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
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
func collect(t *testing.T, record *mpc.PublicRecord, keys map[mpc.Index]*KeyParty) map[mpc.Index]*secret.Bytes {
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

func refresh(t *testing.T, old *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
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

func sign(t *testing.T, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index, message []byte) *mpc.Signature {
	t.Helper()
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	var first *SignParty
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

func TestKeygenSignRefresh(t *testing.T) {
	for _, c := range []struct {
		threshold, shares int
		signers           [][]mpc.Index
	}{
		{2, 3, [][]mpc.Index{{1, 2}, {1, 3}, {2, 3}}},
		{3, 5, [][]mpc.Index{{1, 3, 5}, {2, 3, 4}}},
		{2, 2, [][]mpc.Index{{1, 2}}},
		{4, 6, [][]mpc.Index{{1, 2, 5, 6}}},
	} {
		t.Run(fmt.Sprintf("%d of %d", c.threshold, c.shares), func(t *testing.T) {
			record, shares := account(t, mpc.BIP340Secp256k1, c.threshold, c.shares)
			key, err := schnorr.ParsePubKey(record.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			message := bytes.Repeat([]byte{7}, 32)
			for round := 0; round < 3; round++ {
				for _, signers := range c.signers {
					raw := sign(t, record, shares, signers, message)
					sig, err := schnorr.ParseSignature(raw.Bytes)
					if err != nil {
						t.Fatal(err)
					}
					if !sig.Verify(message, key) {
						t.Fatalf("epoch %d: signature of %v does not verify", record.Epoch, signers)
					}
				}
				previous, previousShare := record, shares[1].Clone()
				record, shares = refresh(t, record, shares)
				if !bytes.Equal(previous.PublicKey, record.PublicKey) {
					t.Fatal("the public key changed")
				}
				if shares[1].Equal(previousShare) {
					t.Fatal("the share did not change")
				}
				if err := CheckShare(record, 1, previousShare); !errors.Is(err, mpc.ErrShareMismatch) {
					t.Fatalf("an old share in the new epoch: %v", err)
				}
			}
		})
	}
}

func TestECDSAKeygenAndRefresh(t *testing.T) {
	record, shares := account(t, mpc.ECDSASecp256k1, 2, 3)
	next, _ := refresh(t, record, shares)
	if !bytes.Equal(record.PublicKey, next.PublicKey) {
		t.Fatal("the public key changed")
	}
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

// TestHostileMessages: the messages that make the library panic or hang end the
// session with an error instead.
func TestHostileMessages(t *testing.T) {
	for name, change := range map[string]func(m *mpc.Message){
		"empty data":         func(m *mpc.Message) { m.Data = nil },
		"garbage":            func(m *mpc.Message) { m.Data = []byte("garbage") },
		"truncated":          func(m *mpc.Message) { m.Data = m.Data[:len(m.Data)/2] },
		"round 0":            func(m *mpc.Message) { m.Round = 0 },
		"round 9":            func(m *mpc.Message) { m.Round = 9 },
		"no recipient":       func(m *mpc.Message) { m.Broadcast = false },
		"other session":      func(m *mpc.Message) { m.Transcript[0] ^= 1 },
		"oversized":          func(m *mpc.Message) { m.Data = make([]byte, mpc.MaxMessageSize+1) },
		"short echo":         func(m *mpc.Message) { m.Echo = []byte{1} },
		"empty map":          func(m *mpc.Message) { m.Data = []byte{0xa0} },
		"huge polynomial":    func(m *mpc.Message) { m.Data = hugePolynomial },
		"not in the session": func(m *mpc.Message) { m.From = 9 },
	} {
		t.Run(name, func(t *testing.T) {
			id := sessionID(t)
			parties := map[mpc.Index]mpc.Party{}
			for _, i := range allIndices(3) {
				p, err := NewKeygen(KeyConfig{Self: i, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 3, SessionID: id})
				if err != nil {
					t.Fatal(err)
				}
				parties[i] = p
			}
			err := route(t, parties, func(to mpc.Index, m mpc.Message) *mpc.Message {
				if to == 2 && m.From == 1 && m.Round == 2 {
					change(&m)
				}
				return &m
			})
			var abort *mpc.AbortError
			if !errors.As(err, &abort) {
				t.Fatalf("got %v, want an abort", err)
			}
			if len(abort.Culprits) != 1 || (abort.Culprits[0] != 1 && abort.Culprits[0] != 9) {
				t.Fatalf("blamed %v, want the sender: %v", abort.Culprits, err)
			}
		})
	}
}

// hugePolynomial is {"Phi_i": ff ff ff f0 a0}: the library would allocate four
// billion points for it.
var hugePolynomial = []byte("\xa1\x65Phi_i\x45\xff\xff\xff\xf0\xa0")

// TestEquivocation: a party that broadcasts different things to different
// parties is caught by the echo in the next round.
func TestEquivocation(t *testing.T) {
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range allIndices(3) {
		p, err := NewKeygen(KeyConfig{Self: i, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 3, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = p
	}
	// A second run of share 1 in the same session: valid, but different.
	twin, err := NewKeygen(KeyConfig{Self: 1, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 3, SessionID: id})
	if err != nil {
		t.Fatal(err)
	}
	out, err := twin.Start()
	if err != nil {
		t.Fatal(err)
	}
	err = route(t, parties, func(to mpc.Index, m mpc.Message) *mpc.Message {
		if to == 2 && m.From == 1 && m.Round == 2 {
			return &out[0]
		}
		return &m
	})
	if err == nil {
		t.Fatal("equivocation passed")
	}
}
