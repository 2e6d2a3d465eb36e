package frost

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/mpctest"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// nameless are errors of parties that were told different things: nobody among
// three can know by whom.
func nameless(err error) bool {
	return errors.Is(err, ErrBroadcast) || strings.Contains(err.Error(), "broadcast verification failed")
}

// keySuite is key generation, or refresh if old is not nil.
func keySuite(a mpc.Algorithm, threshold, shares int, old *mpc.PublicRecord, oldShares map[mpc.Index]*secret.Bytes) mpctest.Suite {
	return mpctest.Suite{Nameless: nameless, Session: func(t testing.TB) mpctest.Session {
		id := sessionID(t)
		parties := map[mpc.Index]*KeyParty{}
		party := func(i mpc.Index) *KeyParty {
			cfg := KeyConfig{Self: i, Algorithm: a, Threshold: threshold, Shares: shares, SessionID: id}
			p, err := NewKeygen(cfg)
			if old != nil {
				p, err = NewRefresh(cfg, old, oldShares[i])
			}
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		s := mpctest.Session{Parties: map[mpc.Index]mpc.Party{}, Twin: func(i mpc.Index) mpc.Party { return party(i) }}
		for _, i := range allIndices(shares) {
			parties[i] = party(i)
			s.Parties[i] = parties[i]
		}
		s.Verify = func(done []mpc.Index) error { return sameKey(a, threshold, shares, parties, done, old, oldShares) }
		return s
	}}
}

// sameKey checks what the parties that finished arrived at: every record is good
// and the same, every share belongs to it, and a refresh leaves the public key
// and not one share as it was.
func sameKey(a mpc.Algorithm, threshold, shares int, parties map[mpc.Index]*KeyParty, done []mpc.Index, old *mpc.PublicRecord, oldShares map[mpc.Index]*secret.Bytes) error {
	var first *mpc.PublicRecord
	for _, i := range done {
		k, err := parties[i].Result()
		if err != nil {
			return fmt.Errorf("share %d is done, but: %w", i, err)
		}
		defer k.Share.Wipe()
		record := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: threshold, Shares: shares,
			PublicKey: k.PublicKey, PublicShares: k.PublicShares, ChainCode: k.ChainCode,
			Epoch: 1, EpochID: mpc.EpochID{1}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
		if err := errors.Join(CheckRecord(record), CheckShare(record, i, k.Share)); err != nil {
			return fmt.Errorf("share %d: %w", i, err)
		}
		if first == nil {
			first = record
		}
		if first.Hash() != record.Hash() {
			return fmt.Errorf("shares %d and %d arrived at different records", done[0], i)
		}
		if old == nil {
			continue
		}
		if !bytes.Equal(old.PublicKey, record.PublicKey) {
			return fmt.Errorf("share %d: the refresh changed the public key", i)
		}
		if k.Share.Equal(oldShares[i]) {
			return fmt.Errorf("share %d: the refresh changed nothing", i)
		}
	}
	// What a refresh starts from must be as it was, however it ends.
	for i, share := range oldShares {
		if err := CheckShare(old, i, share); err != nil {
			return fmt.Errorf("old share %d: %w", i, err)
		}
	}
	return nil
}

func signSuite(record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index) mpctest.Suite {
	message := []byte("message")
	return mpctest.Suite{Nameless: nameless, Session: func(t testing.TB) mpctest.Session {
		id := sessionID(t)
		party := func(i mpc.Index) Signer {
			p, err := NewSign(SignConfig{Self: i, Signers: signers, Record: record, Share: shares[i], Message: message, SessionID: id})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		s := mpctest.Session{Parties: map[mpc.Index]mpc.Party{}, Twin: func(i mpc.Index) mpc.Party { return party(i) }}
		parties := map[mpc.Index]Signer{}
		for _, i := range signers {
			parties[i] = party(i)
			s.Parties[i] = parties[i]
		}
		s.Verify = func(done []mpc.Index) error {
			var first *mpc.Signature
			for _, i := range done {
				sig, err := parties[i].Result()
				if err != nil {
					return fmt.Errorf("share %d is done, but: %w", i, err)
				}
				if !verify.Signature(record.Algorithm, record.PublicKey, message, sig.Bytes) {
					return fmt.Errorf("share %d has a signature that does not verify", i)
				}
				if first == nil {
					first = sig
				}
				if !bytes.Equal(first.Bytes, sig.Bytes) {
					return fmt.Errorf("shares %d and %d have different signatures", done[0], i)
				}
			}
			return nil
		}
		return s
	}}
}

// suites are the protocols of this package, each with a number of parties at
// which blame is not trivial.
func suites(t testing.TB) map[string]mpctest.Suite {
	out := map[string]mpctest.Suite{}
	for _, a := range mpc.Algorithms() {
		out[string(a)+" keygen"] = keySuite(a, 2, 3, nil, nil)
		record, shares := account(t, a, 2, 3)
		out[string(a)+" refresh"] = keySuite(a, 2, 3, record, shares)
		if !a.IsECDSA() {
			record, shares := account(t, a, 3, 4)
			out[string(a)+" sign"] = signSuite(record, shares, []mpc.Index{1, 2, 4})
			record, shares = account(t, a, 2, 3)
			out[string(a)+" sign with two"] = signSuite(record, shares, []mpc.Index{2, 3})
		}
	}
	return out
}

// TestEveryFault treats every kind of message of every protocol with every
// fault of mpctest.
func TestEveryFault(t *testing.T) {
	for name, s := range suites(t) {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && !strings.Contains(name, "sign") {
				t.Skip("takes seconds; TestCampaign has a sample")
			}
			s.Honest(t, 5)
			count := s.Table(t)
			t.Log(count)
			if count.Places < 2 || count.Faults < 50 {
				t.Fatalf("only %v", count)
			}
		})
	}
}

// TestCampaign combines faults at random. MPC_HOSTILE_SEEDS changes how often.
func TestCampaign(t *testing.T) {
	seeds := 200
	if testing.Short() {
		seeds = 20
	}
	for name, s := range suites(t) {
		t.Run(name, func(t *testing.T) { t.Log(s.Campaign(t, seeds)) })
	}
}
