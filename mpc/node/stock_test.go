package node

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// TestStock: the bounds, that one of many takers gets a presignature, and that
// a refresh keeps out what is being made.
func TestStock(t *testing.T) {
	s := newStock()
	defer s.close()
	id := func(i int) (out mpc.SessionID) { copy(out[:], fmt.Sprint("session ", i)); return out }
	entry := func(account byte, lifetime time.Duration) *presignature {
		return &presignature{account: mpc.AccountID{account}, expires: time.Now().Add(lifetime), members: []session.Member{{}}, secret: nil}
	}
	add := func(i int, account byte) error {
		at, err := s.reserve(mpc.AccountID{account})
		if err != nil {
			return err
		}
		defer s.leave(at)
		return s.put(at, id(i), entry(account, time.Hour))
	}
	for i := range maxAccountPresignatures - 1 {
		if err := add(i, 1); err != nil {
			t.Fatal(err)
		}
	}
	// Places that are kept count, until they are left, once.
	at, err := s.reserve(mpc.AccountID{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := add(-1, 1); failure(err).GetReason() != nodepb.Failure_BUSY {
		t.Errorf("one more of the account: %v", err)
	}
	s.leave(at)
	s.leave(at)
	s.leave(nil)
	if err := s.put(at, id(-1), entry(1, time.Hour)); err == nil {
		t.Error("put at a place that had been left")
	}
	if err := add(maxAccountPresignatures-1, 1); err != nil {
		t.Fatal(err)
	}
	if err := add(-1, 1); failure(err).GetReason() != nodepb.Failure_BUSY {
		t.Errorf("one more of the account: %v", err)
	}
	if err := add(0, 2); err == nil {
		t.Error("a second one of the same session")
	}
	for i := maxAccountPresignatures; i < maxPresignatures; i++ {
		if err := add(i, byte(2+i/maxAccountPresignatures)); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(-2, 255); failure(err).GetReason() != nodepb.Failure_BUSY {
		t.Errorf("one more of the node: %v", err)
	}
	var wg sync.WaitGroup
	var got atomic.Int32
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := s.take(id(7)); err == nil {
				got.Add(1)
			}
		}()
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Errorf("%d takers got the same presignature", got.Load())
	}
	if err := add(-1, 1); err != nil {
		t.Errorf("no room after one was taken: %v", err)
	}
	s.drop(mpc.AccountID{1}, []mpc.SessionID{id(-1)})
	if n := s.size(); n != maxPresignatures-maxAccountPresignatures+1 {
		t.Errorf("%d presignatures after all but one of an account were dropped", n)
	}
	// A drop on request leaves alone what is being made, a refresh does not.
	at, err = s.reserve(mpc.AccountID{1})
	if err != nil {
		t.Fatal(err)
	}
	s.drop(mpc.AccountID{1}, nil)
	if err := s.put(at, id(-3), entry(1, time.Hour)); err != nil {
		t.Errorf("put after a drop: %v", err)
	}
	if at, err = s.reserve(mpc.AccountID{1}); err != nil {
		t.Fatal(err)
	}
	s.supersede(mpc.AccountID{1})
	if err := s.put(at, id(-4), entry(1, time.Hour)); !errors.Is(err, errPresignatureGone) {
		t.Errorf("put after a refresh: %v", err)
	}
	s.leave(at)
	if len(s.places) != 0 || s.perID[mpc.AccountID{1}] != 0 {
		t.Errorf("%d places, %d of the account", len(s.places), s.perID[mpc.AccountID{1}])
	}
	s.close()
	if err := add(1, 1); err == nil || s.size() != 0 {
		t.Errorf("a closed stock: %v, %d held", err, s.size())
	}
}

// typedData is a document of EIP-712.
const typedData = `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"M":[{"name":"x","type":"uint8"}]},` +
	`"primaryType":"M","domain":{"name":"d"},"message":{"x":1}}`

// TestPresignatureMisuse: what a node does not use a presignature for, and that
// it is lost all the same. The presignatures here are empty: none is looked at.
func TestPresignatureMisuse(t *testing.T) {
	w := newWorld(t, 3)
	w.algorithm = mpc.ECDSASecp256k1
	record, envelopes := w.account()
	n := w.nodes["n1"]
	members := func(indices ...int) (out []session.Member) {
		for _, m := range w.members(indices...) {
			out = append(out, session.Member{Index: mpc.Index(m.GetIndex()), NodeID: m.GetNodeId(), Identity: mpc.NodeIdentity(m.GetIdentity())})
		}
		return out
	}
	other := func(change func(r *mpc.PublicRecord)) []byte { r := *record; change(&r); return r.Marshal() }
	id := mpc.SessionID{9}
	for name, c := range map[string]struct {
		change func(s *nodepb.Start)
		reason nodepb.Failure_Reason
	}{
		"a digest": {func(s *nodepb.Start) { s.MessageType, s.Input = "digest", make([]byte, 32) }, nodepb.Failure_REFUSED},
		"a digest of SHA-512": {func(s *nodepb.Start) {
			s.MessageType, s.Input, s.HashAlgorithm = "digest", make([]byte, 64), "sha2-512"
		}, nodepb.Failure_REFUSED},
		"an unknown kind":         {func(s *nodepb.Start) { s.MessageType = "prehashed" }, nodepb.Failure_REFUSED},
		"EIP-712 that is none":    {func(s *nodepb.Start) { s.MessageType, s.HashAlgorithm = "eip712", "keccak-256" }, nodepb.Failure_REFUSED},
		"EIP-191 by SHA-256":      {func(s *nodepb.Start) { s.MessageType = "eip191" }, nodepb.Failure_REFUSED},
		"EIP-191, what it is for": {func(s *nodepb.Start) { s.MessageType, s.HashAlgorithm = "eip191", "keccak-256" }, nodepb.Failure_UNKNOWN},
		"EIP-712, what it is for": {func(s *nodepb.Start) {
			s.MessageType, s.HashAlgorithm, s.Input = "eip712", "keccak-256", []byte(typedData)
		}, nodepb.Failure_UNKNOWN},
		"SHA-512, what it is for": {func(s *nodepb.Start) { s.HashAlgorithm = "sha2-512" }, nodepb.Failure_UNKNOWN},
		"no kind":                 {func(s *nodepb.Start) { s.MessageType = "" }, nodepb.Failure_REFUSED},
		"a child":                 {func(s *nodepb.Start) { s.DerivationPath = "m/1" }, nodepb.Failure_REFUSED},
		"the root":                {func(s *nodepb.Start) { s.DerivationPath = "m" }, nodepb.Failure_REFUSED},
		"a tweak":                 {func(s *nodepb.Start) { s.TaprootTweak = "bip86" }, nodepb.Failure_REFUSED},
		"a share as well":         {func(s *nodepb.Start) { s.Envelope = envelopes[1] }, nodepb.Failure_REFUSED},
		"an unknown hash":         {func(s *nodepb.Start) { s.HashAlgorithm = "md5" }, nodepb.Failure_REFUSED},
		"no hash":                 {func(s *nodepb.Start) { s.HashAlgorithm = "none" }, nodepb.Failure_REFUSED},
		"another account":         {func(s *nodepb.Start) { s.Record = other(func(r *mpc.PublicRecord) { r.AccountID[0] ^= 1 }) }, nodepb.Failure_REFUSED},
		"no account":              {func(s *nodepb.Start) { s.Record = nil }, nodepb.Failure_REFUSED},
		"another signer":          {func(s *nodepb.Start) { s.Members = w.members(1, 2) }, nodepb.Failure_REFUSED},
		"exchanged shares": {func(s *nodepb.Start) {
			m := w.members(1, 3)
			m[0].Index, m[1].Index = 3, 1
			s.Members, s.Self = []*nodepb.Member{m[1], m[0]}, 3
		}, nodepb.Failure_REFUSED},
		// Stale is not misused: the coordinator goes on without.
		"another policy": {func(s *nodepb.Start) { s.Record = other(func(r *mpc.PublicRecord) { r.PolicyHash[0] ^= 1 }) }, nodepb.Failure_PRESIGNATURE_GONE},
		"another epoch":  {func(s *nodepb.Start) { s.Record = other(func(r *mpc.PublicRecord) { r.Epoch++ }) }, nodepb.Failure_PRESIGNATURE_GONE},
		"expired":        {nil, nodepb.Failure_PRESIGNATURE_GONE},
		"what it is for": {func(*nodepb.Start) {}, nodepb.Failure_UNKNOWN},
	} {
		t.Run(name, func(t *testing.T) {
			at, err := n.stock.reserve(record.AccountID)
			if err != nil {
				t.Fatal(err)
			}
			expires := time.Now().Add(time.Hour)
			if c.change == nil {
				expires = time.Now()
			}
			// Not through put, whose sweeper would take what has expired.
			n.stock.mu.Lock()
			delete(n.stock.places, at)
			n.stock.held[id] = &presignature{account: record.AccountID, record: record.Hash(), self: 1,
				members: members(1, 3), expires: expires, secret: &cmp.Presignature{}}
			n.stock.mu.Unlock()
			start := &nodepb.Start{Operation: "sign", Members: w.members(1, 3), Self: 1, Record: record.Marshal(), Presignature: id[:],
				Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "sha2-256"}
			if c.change != nil {
				c.change(start)
			}
			task, _, err := n.prepare(t.Context(), start)
			if c.reason == nodepb.Failure_UNKNOWN {
				if err != nil {
					t.Fatal(err)
				}
				task.wipe()
			} else if err == nil || failure(err).GetReason() != c.reason {
				t.Errorf("%v", err)
			}
			if n.stock.size() != 0 || n.stock.perID[record.AccountID] != 0 {
				t.Error("an offered presignature is still held")
			}
		})
	}
}
