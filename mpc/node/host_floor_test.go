package node

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// opensAt asks a node to open a share without using it.
func (h *hosts) opensAt(id string, a *held, index uint32) *nodepb.Failure {
	h.t.Helper()
	reply, err := h.clients[id].OpenShare(h.ctx(), &nodepb.OpenShareRequest{Record: a.record.Marshal(), Index: index, Envelope: a.envelopes[index]})
	if err != nil {
		h.t.Fatal(err)
	}
	return reply.GetFailure()
}

// TestFloor: what a node has used it does not go back behind, also after a
// restart; what it has only looked at binds nobody.
func TestFloor(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	first := h.make(h.keygen(), nil)
	h.signs(first)
	second, rival := h.make(h.refresh(first), first), h.make(h.refresh(first), first)

	// The coordinator opens the new shares and cannot store them: the account stays
	// where it was.
	for k, id := range h.ids {
		if f := h.opensAt(id, second, uint32(k+1)); f != nil {
			t.Fatal(f)
		}
		rewrap, err := h.clients[id].RewrapShare(h.ctx(), &nodepb.RewrapShareRequest{Record: second.record.Marshal(), Index: uint32(k + 1), Envelope: second.envelopes[uint32(k+1)], WrappingVersion: 1})
		if err != nil || rewrap.GetFailure() != nil {
			t.Fatal(err, rewrap.GetFailure())
		}
	}
	h.signs(first)

	// Anyone can seal something to the nodes' public wrapping keys. What is not the
	// record's share moves no floor.
	forged := &held{record: &mpc.PublicRecord{}, envelopes: map[uint32][]byte{}}
	*forged.record = *first.record
	forged.record.Epoch = 1 << 40
	for _, i := range []uint32{1, 3} {
		key := wrappingKeyFromWire(h.domains[h.of[h.ids[i-1]].Domain].keys[0])
		envelope, err := hsm.Seal(shareContext(i, forged.record), secret.New(bytes.Repeat([]byte{1}, 32)), []hsm.WrappingKey{key})
		if err != nil {
			t.Fatal(err)
		}
		forged.envelopes[i] = envelope
	}
	h.refuses(h.session(h.signing(forged), handing(forged.envelopes)), nodepb.Failure_SHARE_UNUSABLE, "")
	h.signs(first)

	h.signs(second) // now it is in force
	below := func(what string) {
		t.Helper()
		h.refuses(h.session(h.signing(first), handing(first.envelopes)), nodepb.Failure_BELOW_FLOOR, fmt.Sprintf("node floor lower %s --epoch %d ", first.record.AccountID, first.record.Epoch))
		h.refuses(h.session(h.refresh(first), handing(first.envelopes)), nodepb.Failure_BELOW_FLOOR, "epoch 2 has been used")
		h.refuses(h.session(h.signing(rival), handing(rival.envelopes)), nodepb.Failure_BELOW_FLOOR, "another record of the same epoch")
		if f := h.opensAt("n1", first, 1); !saysSo(f, nodepb.Failure_BELOW_FLOOR, "share epoch 1") {
			t.Errorf("%s: opening an older share: %v", what, f)
		}
		rewrap, err := h.clients["n1"].RewrapShare(h.ctx(), &nodepb.RewrapShareRequest{Record: first.record.Marshal(), Index: 1, Envelope: first.envelopes[1], WrappingVersion: 1})
		if err != nil || !saysSo(rewrap.GetFailure(), nodepb.Failure_BELOW_FLOOR, "") {
			t.Errorf("%s: rewrapping an older share: %v, %v", what, err, rewrap.GetFailure())
		}
		h.signs(second)
	}
	below("while it runs")
	for _, id := range h.ids {
		h.attach(id)
	}
	below("after a restart")
	if h.counts.of(nodepb.Failure_BELOW_FLOOR) < 8 {
		t.Errorf("%d refusals were counted", h.counts.of(nodepb.Failure_BELOW_FLOOR))
	}

	// A key of another account's making with its ID does not take its place.
	again := h.keygen()
	again.AccountId = first.record.AccountID[:]
	h.refuses(h.session(again, hooks{}), nodepb.Failure_BELOW_FLOOR, "")

	// A refresh raises the floor to the epoch that it uses.
	third := h.make(h.refresh(second), second)
	if at := h.floors["n2"].epoch(first.record.AccountID); at != 2 {
		t.Errorf("n2, which has only refreshed, is at epoch %d", at)
	}
	h.signs(third)
	// And the host's operator can let it go.
	for _, f := range h.floors {
		f.forget(first.record.AccountID)
	}
	h.signs(second)
}

// TestFloorOfPolicies: an account that had a policy is not served without it, and
// neither is an older policy.
func TestFloorOfPolicies(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	strict := h.strict(newApprovers(t))
	h.signs(strict)
	second := h.make(h.refresh(strict), strict)
	if second.record.PolicyHash != strict.record.PolicyHash {
		t.Fatal("a refresh changed the policy")
	}
	h.signs(second)
	for _, policy := range [][32]byte{mpc.EmptySetHash(), {7}} {
		for epoch, text := range map[uint64]string{1: "epoch 2 has been used", 2: "another record"} {
			h.refuses(h.session(h.resigned(second, func(r *mpc.PublicRecord) { r.PolicyHash, r.Epoch = policy, epoch }), handing(second.envelopes)),
				nodepb.Failure_BELOW_FLOOR, text)
		}
		// A later epoch passes the floor, but there it needs that policy's approvals.
		results := h.session(h.resigned(second, func(r *mpc.PublicRecord) { r.PolicyHash, r.Epoch = policy, 3 }), handing(second.envelopes))
		reason, text := nodepb.Failure_APPROVALS, "is not the one with hash" // and with that policy: TestHostileApprovals
		if policy == mpc.EmptySetHash() {
			reason, text = nodepb.Failure_BELOW_FLOOR, "had a policy"
		}
		h.refuses(results, reason, text)
		h.signs(second)
	}
}

// TestHostPresignatures: a presignature serves once, no digest, and not behind the
// floor.
func TestHostPresignatures(t *testing.T) {
	if testing.Short() {
		t.Skip("auxiliary keys take seconds of CPU")
	}
	h := newHosts(t, "a", "b", "c")
	h.algorithm, h.patience = mpc.ECDSASecp256k1, 2*time.Minute
	aux := map[string][]byte{}
	for _, id := range []string{"n1", "n3"} {
		reply, err := h.clients[id].MakeAuxiliary(h.ctx(), &nodepb.MakeAuxiliaryRequest{Generation: 1})
		if err != nil {
			t.Fatal(err)
		}
		aux[id] = reply.GetPublic()
	}
	h.accept(t, "n1", "n3", aux)
	h.accept(t, "n3", "n1", aux)
	a := h.make(h.keygen(), nil)
	fresh := func() []byte { return h.presign(t, a.record, a.envelopes, aux, time.Hour) }

	id := fresh()
	for i, r := range h.online(id, a.record, aux, nil) {
		if r.outcome == nil {
			t.Fatalf("share %d: %v", i, r.failure)
		}
	}
	h.refuses(h.online(id, a.record, aux, nil), nodepb.Failure_PRESIGNATURE_GONE, "not here any more")
	h.refuses(h.online(fresh(), a.record, aux, func(_ uint32, s *nodepb.Start) {
		s.MessageType, s.HashAlgorithm, s.Input = "digest", "none", make([]byte, 32)
	}), nodepb.Failure_REFUSED, "not digests")

	// n1 signs for the next epoch with a peer that has no presignature, and does not
	// finish the older epoch's afterwards.
	old := fresh()
	next := *a.record
	next.Epoch++
	if err := h.floors["n1"].Raise(t.Context(), &next); err != nil {
		t.Fatal(err)
	}
	h.refuses(h.online(old, a.record, aux, nil), nodepb.Failure_BELOW_FLOOR, "epoch 2 has been used")
	h.floors["n1"].forget(a.record.AccountID)
	for i, r := range h.online(fresh(), a.record, aux, nil) {
		if r.outcome == nil {
			t.Errorf("share %d afterwards: %v", i, r.failure)
		}
	}
}
