package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// ecdsaWorld is three nodes of which the first and the third have auxiliary
// keys and have checked each other's. Making them takes seconds of CPU.
func ecdsaWorld(t *testing.T) (*world, map[string][]byte) {
	t.Helper()
	w := newWorld(t, 3)
	w.algorithm, w.patience = mpc.ECDSASecp256k1, time.Minute
	aux := map[string][]byte{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, id := range []string{"n1", "n3"} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			reply, err := w.clients[id].MakeAuxiliary(context.Background(), &nodepb.MakeAuxiliaryRequest{Generation: 1})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			aux[id] = reply.GetPublic()
		}()
	}
	if wg.Wait(); t.Failed() {
		t.FailNow()
	}
	w.accept(t, "n1", "n3", aux)
	w.accept(t, "n3", "n1", aux)
	return w, aux
}

// accept has a node check a peer's auxiliary keys.
func (w *world) accept(t *testing.T, id, peer string, aux map[string][]byte) {
	t.Helper()
	proof, err := w.clients[peer].ProveFactors(w.ctx(), &nodepb.ProveFactorsRequest{PeerId: id, PeerPublic: aux[id]})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.clients[id].AcceptPeer(w.ctx(), &nodepb.AcceptPeerRequest{PeerId: peer, PeerPublic: aux[peer], Proof: proof.GetProof()})
	if err != nil {
		t.Fatal(err)
	}
}

// signers are shares 1 and 3 with the auxiliary keys that a session names.
func (w *world) signers(aux map[string][]byte) []*nodepb.Member {
	members := w.members(1, 3)
	for _, m := range members {
		hash := sha256.Sum256(aux[m.GetNodeId()])
		m.AuxHash = hash[:]
	}
	return members
}

// presign makes a presignature and returns the ID of its session.
func (w *world) presign(t *testing.T, record *mpc.PublicRecord, envelopes map[uint32][]byte, aux map[string][]byte, lifetime time.Duration) []byte {
	t.Helper()
	var id []byte
	results := w.session(&nodepb.Start{Operation: "presign", Members: w.signers(aux), Record: record.Marshal(), LifetimeMs: uint64(lifetime.Milliseconds())},
		hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }})
	for i, r := range results {
		if r.outcome == nil || id != nil && !bytes.Equal(id, r.outcome.GetSessionId()) {
			t.Fatalf("share %d: %v", i, r.failure)
		}
		id = r.outcome.GetSessionId()
	}
	if len(results) != 2 {
		t.Fatalf("%d of 2 nodes made their part", len(results))
	}
	return id
}

func (w *world) online(id []byte, record *mpc.PublicRecord, aux map[string][]byte, change func(self uint32, s *nodepb.Start)) map[uint32]outcome {
	return w.session(&nodepb.Start{Operation: "sign", Members: w.signers(aux), Record: record.Marshal(), Presignature: id,
		Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "sha2-256"}, hooks{start: change})
}

func (w *world) held(id string) int {
	s, err := w.clients[id].Status(w.ctx(), &nodepb.StatusRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return int(s.GetPresignatures())
}

func TestPresignatures(t *testing.T) {
	if testing.Short() {
		t.Skip("presignatures take seconds of CPU each")
	}
	w, aux := ecdsaWorld(t)
	record, envelopes := w.account()
	fresh := func() []byte { return w.presign(t, record, envelopes, aux, time.Hour) }
	refused := func(t *testing.T, results map[uint32]outcome, reason nodepb.Failure_Reason) {
		t.Helper()
		noticed := false
		for i, r := range results {
			if r.outcome != nil {
				t.Errorf("share %d released a signature", i)
			}
			noticed = noticed || r.failure.GetReason() == reason
		}
		if !noticed {
			t.Errorf("nobody says %v: %v", reason, results)
		}
	}
	// What is refused must not wait for the peer that did not answer.
	w.patience = 2 * time.Second
	patient := func(f func()) { w.patience = time.Minute; f(); w.patience = 2 * time.Second }

	t.Run("serves one message once", func(t *testing.T) {
		var id []byte
		patient(func() { id = fresh() })
		if w.held("n1") != 1 || w.held("n3") != 1 || w.held("n2") != 0 {
			t.Errorf("held: %d, %d, %d", w.held("n1"), w.held("n2"), w.held("n3"))
		}
		for i, r := range w.online(id, record, aux, nil) {
			digest, _ := mpc.SigningInput(record.Algorithm, mpc.MessageRaw, mpc.HashSHA256, []byte("pay bob"))
			if r.outcome == nil || !verify.Signature(record.Algorithm, record.PublicKey, digest, r.outcome.GetSignature()) {
				t.Fatalf("share %d: %v", i, r.failure)
			}
		}
		if w.held("n1") != 0 || w.held("n3") != 0 {
			t.Error("a used presignature is still held")
		}
		refused(t, w.online(id, record, aux, nil), nodepb.Failure_PRESIGNATURE_GONE)
	})
	t.Run("two messages for one", func(t *testing.T) {
		var id []byte
		patient(func() { id = fresh() })
		refused(t, w.online(id, record, aux, func(self uint32, s *nodepb.Start) {
			if self == 3 {
				s.Input = []byte("pay eve")
			}
		}), nodepb.Failure_PROTOCOL)
		if w.held("n1") != 0 || w.held("n3") != 0 {
			t.Error("an offered presignature is still held")
		}
	})
	t.Run("two kinds for one", func(t *testing.T) { // the same bytes, hashed in two ways
		var id []byte
		patient(func() { id = fresh() })
		refused(t, w.online(id, record, aux, func(self uint32, s *nodepb.Start) {
			s.HashAlgorithm = "keccak-256"
			if self == 3 {
				s.MessageType = "eip191"
			}
		}), nodepb.Failure_PROTOCOL)
	})
	t.Run("typed data", func(t *testing.T) {
		var id []byte
		patient(func() { id = fresh() })
		for i, r := range w.online(id, record, aux, func(_ uint32, s *nodepb.Start) {
			s.MessageType, s.HashAlgorithm, s.Input = "eip712", "keccak-256", []byte(typedData)
		}) {
			valid, err := verify.Message(record, mpc.MessageEIP712, mpc.HashKeccak256, []byte(typedData), r.outcome.GetSignature())
			if err != nil || !valid {
				t.Errorf("share %d: %v, %v", i, r.failure, err)
			}
		}
	})
	t.Run("not for a digest", func(t *testing.T) { // the others: TestPresignatureMisuse
		var id []byte
		patient(func() { id = fresh() })
		refused(t, w.online(id, record, aux, func(_ uint32, s *nodepb.Start) {
			s.MessageType, s.Input = "digest", make([]byte, 32)
		}), nodepb.Failure_REFUSED)
		if w.held("n1") != 0 || w.held("n3") != 0 {
			t.Error("an offered presignature is still held")
		}
	})
	t.Run("sixteen at once", func(t *testing.T) {
		var id []byte
		patient(func() { id = fresh() })
		w.sixteen(t, id, record, aux)
	})
	t.Run("expires", func(t *testing.T) {
		var id []byte
		patient(func() { id = w.presign(t, record, envelopes, aux, 300*time.Millisecond) })
		for end := time.Now().Add(5 * time.Second); w.held("n1")+w.held("n3") > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("expired presignatures are still held")
			}
		}
		refused(t, w.online(id, record, aux, nil), nodepb.Failure_PRESIGNATURE_GONE)
	})
	t.Run("dropped", func(t *testing.T) {
		var keep, drop []byte
		patient(func() { keep, drop = fresh(), fresh() })
		for _, id := range []string{"n1", "n3"} {
			if _, err := w.clients[id].DropPresignatures(w.ctx(), &nodepb.DropPresignaturesRequest{AccountId: record.AccountID[:], Keep: [][]byte{keep}}); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, w.online(drop, record, aux, nil), nodepb.Failure_PRESIGNATURE_GONE)
		for i, r := range w.online(keep, record, aux, nil) {
			if r.outcome == nil {
				t.Errorf("share %d: %v", i, r.failure)
			}
		}
	})
	t.Run("bad lifetimes and accounts", func(t *testing.T) {
		for _, lifetime := range []uint64{0, uint64(25 * time.Hour / time.Millisecond)} {
			refused(t, w.session(&nodepb.Start{Operation: "presign", Members: w.signers(aux), Record: record.Marshal(), LifetimeMs: lifetime},
				hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }}), nodepb.Failure_REFUSED)
		}
		other := newWorld(t, 3)
		schnorr, shares := other.account()
		refused(t, other.session(&nodepb.Start{Operation: "presign", Members: other.members(1, 3), Record: schnorr.Marshal(), LifetimeMs: 1000},
			hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = shares[self] }}), nodepb.Failure_REFUSED)
	})
	t.Run("a refresh ends those that are being made", func(t *testing.T) {
		w.patience = time.Minute
		w.overtaken(t, record, envelopes, aux)
		w.patience = 2 * time.Second
	})
	t.Run("a refresh ends them", func(t *testing.T) {
		var id []byte
		patient(func() { id = fresh() })
		for i, r := range w.session(&nodepb.Start{Operation: "refresh", Members: w.members(1, 2, 3), Record: record.Marshal()},
			hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }}) {
			if r.outcome == nil {
				t.Fatalf("share %d: %v", i, r.failure)
			}
		}
		if w.held("n1") != 0 || w.held("n3") != 0 {
			t.Error("presignatures of the old epoch are still held")
		}
		refused(t, w.online(id, record, aux, nil), nodepb.Failure_PRESIGNATURE_GONE)
	})
	t.Run("P-256", func(t *testing.T) {
		w.patience = time.Minute
		w.onP256(t, aux)
	})
	t.Run("renewed auxiliary keys", func(t *testing.T) {
		w.patience = time.Minute
		w.renewed(t, record, envelopes, aux)
	})
}

// renewed replaces the auxiliary keys of n1 while sessions go on with the old.
func (w *world) renewed(t *testing.T, record *mpc.PublicRecord, envelopes map[uint32][]byte, aux map[string][]byte) {
	for _, generation := range []uint64{0, 1} {
		if _, err := w.clients["n1"].MakeAuxiliary(w.ctx(), &nodepb.MakeAuxiliaryRequest{Generation: generation}); err == nil {
			t.Errorf("generation %d was made although the node has generation 1", generation)
		}
	}
	reply, err := w.clients["n1"].MakeAuxiliary(context.Background(), &nodepb.MakeAuxiliaryRequest{Generation: 2})
	if err != nil {
		t.Fatal(err)
	}
	next := map[string][]byte{"n1": reply.GetPublic(), "n3": aux["n3"]}
	sign := func(aux map[string][]byte) map[uint32]outcome {
		return w.session(&nodepb.Start{Operation: "sign", Members: w.signers(aux), Record: record.Marshal(),
			Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "sha2-256"},
			hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }})
	}
	works := func(what string, results map[uint32]outcome) {
		t.Helper()
		for i, r := range results {
			if r.outcome == nil {
				t.Errorf("%s: share %d: %v", what, i, r.failure)
			}
		}
	}
	pending := func(what string, results map[uint32]outcome) {
		t.Helper()
		found := false
		for _, r := range results {
			found = found || r.failure.GetReason() == nodepb.Failure_AUX_PENDING
			if r.outcome != nil {
				t.Errorf("%s: a signature was made", what)
			}
		}
		if !found {
			t.Errorf("%s: %v", what, results)
		}
	}
	works("old keys while the new ones are unknown", sign(aux))
	w.patience = 2 * time.Second
	pending("new keys that n3 has not checked", sign(next))
	w.patience = time.Minute
	// n1 has checked n3's keys and needs nothing; n3 checks n1's new ones.
	w.accept(t, "n3", "n1", next)
	works("new keys", sign(next))
	works("old keys beside them", sign(aux))
	n1 := w.nodes["n1"]
	old := n1.aux.own[0]
	session := &nodepb.Start{Members: w.signers(aux)}
	held, err := n1.auxInputs(session, mpc.ECDSASecp256k1)
	if err != nil || held.secret != old.secret {
		t.Fatal(err)
	}
	if in, err := n1.auxInputs(session, mpc.Ed25519); !errors.Is(err, errAuxPending) || in.free != nil {
		t.Errorf("keys for a curve that they do not serve: %v", err)
	}
	for _, id := range []string{"n1", "n3"} {
		if _, err := w.clients[id].RetireAuxiliary(w.ctx(), &nodepb.RetireAuxiliaryRequest{Oldest: []*nodepb.AuxiliaryGeneration{{NodeId: "n1", Generation: 2}}}); err != nil {
			t.Fatal(err)
		}
	}
	whole := func() bool { _, err := cmp.ParseAuxSecret(old.secret.Marshal(), old.public); return err == nil }
	if !whole() {
		t.Error("retired keys were wiped although a session uses them")
	}
	held.release()
	held.release()
	if whole() {
		t.Error("retired keys were not wiped when the last session had ended")
	}
	w.patience = 2 * time.Second
	pending("retired keys", sign(aux))
	w.patience = time.Minute
	works("new keys alone", sign(next))
	if _, err := w.clients["n3"].AcceptPeer(w.ctx(), &nodepb.AcceptPeerRequest{PeerId: "n1", PeerPublic: aux["n1"], Proof: []byte{1}}); err == nil {
		t.Error("an old generation came back")
	}
	// The newest keys stay, whatever is asked for.
	if _, err := w.clients["n1"].RetireAuxiliary(w.ctx(), &nodepb.RetireAuxiliaryRequest{Oldest: []*nodepb.AuxiliaryGeneration{{NodeId: "n1", Generation: 99}}}); err != nil {
		t.Fatal(err)
	}
	works("keys after too much was retired", sign(next))
	if own := n1.aux.own; len(own) != 1 || own[0].uses != 0 {
		t.Errorf("%d generations are held, the first in use %d times", len(own), own[0].uses)
	}
	if _, err := w.clients["n2"].MakeAuxiliary(w.ctx(), &nodepb.MakeAuxiliaryRequest{Generation: 0}); err == nil {
		t.Error("a generation 0 was made")
	}
}
