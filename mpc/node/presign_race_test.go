package node

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// sixteen offers one presignature to a node for sixteen messages at once. One of
// them gets it, whatever the others ask for.
func (w *world) sixteen(t *testing.T, id []byte, record *mpc.PublicRecord, aux map[string][]byte) {
	got := make(chan task, 16)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for k := range 16 {
		start := &nodepb.Start{Operation: "sign", Members: w.signers(aux), Self: 1, Record: record.Marshal(), Presignature: id,
			Input: fmt.Appendf(nil, "pay %d", k), MessageType: "raw", HashAlgorithm: "sha2-256"}
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-begin
			task, _, err := w.nodes["n1"].prepare(t.Context(), start)
			if err == nil {
				got <- task
			} else if !errors.Is(err, errPresignatureGone) {
				t.Errorf("message %d: %v", k, err)
			}
		}()
	}
	close(begin)
	wg.Wait()
	close(got)
	n := 0
	for task := range got {
		n++
		// Whoever has it has it once.
		if _, err := task.party(t.Context(), mpc.SessionID{1}); err != nil {
			t.Error(err)
		}
		if _, err := task.party(t.Context(), mpc.SessionID{2}); failure(err).GetReason() != nodepb.Failure_PRESIGNATURE_GONE {
			t.Errorf("a second party of one task: %v", err)
		}
		task.wipe()
	}
	if n != 1 || w.held("n1") != 0 {
		t.Errorf("%d sessions got the presignature, %d are still held", n, w.held("n1"))
	}
	w.nodes["n3"].stock.drop(record.AccountID, nil) // its part is of no use any more
}

// overtaken refreshes an account while a presignature of it is made: the
// presignature belongs to shares that may be replaced by the time it is there,
// and never comes into a node's stock.
func (w *world) overtaken(t *testing.T, record *mpc.PublicRecord, envelopes map[uint32][]byte, aux map[string][]byte) {
	own := func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }
	refreshed := false
	results := w.session(&nodepb.Start{Operation: "presign", Members: w.signers(aux), Record: record.Marshal(), LifetimeMs: 60_000},
		hooks{start: own, message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			if !refreshed {
				refreshed = true
				for i, r := range w.session(&nodepb.Start{Operation: "refresh", Members: w.members(1, 2, 3), Record: record.Marshal()}, hooks{start: own}) {
					if r.outcome == nil {
						t.Errorf("refresh: share %d: %v", i, r.failure)
					}
				}
			}
			return []*nodepb.Sealed{m}
		}})
	if !refreshed || len(results) != 2 {
		t.Fatalf("refreshed: %v, %d results", refreshed, len(results))
	}
	for i, r := range results {
		if r.failure.GetReason() != nodepb.Failure_PRESIGNATURE_GONE {
			t.Errorf("share %d: %v, %v", i, r.outcome, r.failure)
		}
	}
	for _, id := range []string{"n1", "n3"} {
		if held, places := w.held(id), len(w.nodes[id].stock.places); held+places > 0 {
			t.Errorf("%s holds %d presignatures and %d places", id, held, places)
		}
	}
}

// onP256: the same auxiliary keys serve the other curve, in full and with a
// presignature.
func (w *world) onP256(t *testing.T, aux map[string][]byte) {
	w.algorithm = mpc.ECDSAP256
	record, envelopes := w.account()
	digest, err := mpc.SigningInput(record.Algorithm, mpc.MessageRaw, mpc.HashSHA256, []byte("pay bob"))
	if err != nil {
		t.Fatal(err)
	}
	id := w.presign(t, record, envelopes, aux, maxPresignatureLifetime)
	for name, results := range map[string]map[uint32]outcome{
		"presigned": w.online(id, record, aux, nil),
		"in full": w.session(&nodepb.Start{Operation: "sign", Members: w.signers(aux), Record: record.Marshal(),
			Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "sha2-256"},
			hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }}),
	} {
		if len(results) != 2 {
			t.Errorf("%s: %d results", name, len(results))
		}
		for i, r := range results {
			if r.outcome == nil || !verify.Signature(record.Algorithm, record.PublicKey, digest, r.outcome.GetSignature()) {
				t.Errorf("%s: share %d: %v", name, i, r.failure)
			}
		}
	}
}
