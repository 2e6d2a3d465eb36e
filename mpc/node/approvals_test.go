package node

import (
	"bytes"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// TestApprovedPresignatures: nobody approves a presignature when it is made, and
// nobody signs with one without approvals; what was offered is gone either way.
func TestApprovedPresignatures(t *testing.T) {
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
	p := newApprovers(t)
	a := h.strict(p)
	fresh := func() []byte { return h.presign(t, a.record, a.envelopes, aux, time.Hour) }
	// with is what the online step comes with, for all members the same.
	with := func(message string) func(uint32, *nodepb.Start) {
		like := &nodepb.Start{Input: []byte(message), MessageType: "raw", HashAlgorithm: "sha2-256"}
		p.approve(a.record, like)
		return func(_ uint32, s *nodepb.Start) { s.Policy, s.Approvals = like.Policy, like.Approvals }
	}
	approve := with("pay bob")
	id := fresh()
	h.refuses(h.online(id, a.record, aux, nil), nodepb.Failure_APPROVALS, "was not sent; nothing was opened or signed")
	h.refuses(h.online(id, a.record, aux, approve), nodepb.Failure_PRESIGNATURE_GONE, "")
	for what, c := range map[string]struct {
		change func(uint32, *nodepb.Start)
		text   string
	}{
		"no approvals":           {func(i uint32, s *nodepb.Start) { approve(i, s); s.Approvals = nil }, "missing: 0 of 2"},
		"another message's":      {with("pay eve"), "not over this request"},
		"for another hash of it": {func(i uint32, s *nodepb.Start) { approve(i, s); s.HashAlgorithm = "keccak-256" }, "not over this request"},
	} {
		h.t.Logf("%s", what)
		h.refuses(h.online(fresh(), a.record, aux, c.change), nodepb.Failure_APPROVALS, c.text)
	}
	for i, r := range h.online(fresh(), a.record, aux, approve) {
		if r.outcome == nil {
			t.Errorf("share %d with approvals: %v", i, r.failure)
		}
	}
	start := &nodepb.Start{Operation: "presign", Members: h.signers(aux), Record: a.record.Marshal(), LifetimeMs: 60_000, Policy: p.policy.Marshal()}
	h.refuses(h.session(start, handing(a.envelopes)), nodepb.Failure_REFUSED, "a presignature comes with")
}

// TestImportKeepsPolicy: an account that custodians rebuild has its policy, whatever
// the files that they dealt are made to say.
func TestImportKeepsPolicy(t *testing.T) {
	c := newCustodians(t, 3)
	p := newApprovers(t)
	lost := newWorldOf(t, 3, c.public())
	lost.patience = 30 * time.Second // as hosts have: a busy machine is no failure
	set, setHash := c.set(t, 1, 3, c.authority)
	keygen, hash := lost.keygenFor(set, setHash), p.policy.Hash()
	keygen.Policy, keygen.PolicyHash = p.policy.Marshal(), hash[:]
	record, envelopes := lost.made(lost.session(keygen, hooks{}))
	bundle := &recovery.Bundle{Account: "treasury", Record: record.Marshal(), Recipients: set, Policy: p.policy.Marshal(), Created: time.Unix(1, 0),
		Shares: [][]byte{envelopes[1], envelopes[2], envelopes[3]}}

	w := newWorldOf(t, 3, c.public())
	w.patience = lost.patience
	targetHash, deals := c.dealTo(t, w, bundle)
	// request imports share i into its node, as of a record that the coordinator
	// names; the deals' files are made to fit it.
	request := func(i int, old *mpc.PublicRecord) *nodepb.ImportShareReply {
		t.Helper()
		r := &nodepb.ImportShareRequest{OldRecord: old.Marshal(), Index: uint32(i), Target: targetHash[:], Recipients: set}
		for _, d := range deals {
			only, err := d.For(mpc.Index(i))
			if err != nil {
				t.Fatal(err)
			}
			only.Record = old.Hash()
			b, err := only.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			r.Deals = append(r.Deals, b)
		}
		reply, err := w.clients[w.ids[i-1]].ImportShare(w.ctx(), r)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	for what, change := range map[string]func(*mpc.PublicRecord){
		"no policy":           func(r *mpc.PublicRecord) { r.PolicyHash = mpc.EmptySetHash() },
		"another policy":      func(r *mpc.PublicRecord) { r.PolicyHash = newApprovers(t).policy.Hash() },
		"a later epoch":       func(r *mpc.PublicRecord) { r.Epoch += 5 },
		"another epoch's ID":  func(r *mpc.PublicRecord) { r.EpochID[0] ^= 1 },
		"another chain code":  func(r *mpc.PublicRecord) { r.ChainCode[0] ^= 1 },
		"other recipients":    func(r *mpc.PublicRecord) { r.RecipientsHash[0] ^= 1 },
		"another account's":   func(r *mpc.PublicRecord) { r.AccountID[0] ^= 1 },
		"no policy, no trace": func(r *mpc.PublicRecord) { r.PolicyHash, r.EpochID = mpc.EmptySetHash(), mpc.EpochID{1} },
	} {
		old := *record
		change(&old)
		if reply := request(1, &old); !saysSo(reply.GetFailure(), nodepb.Failure_REFUSED, "holder of share") {
			t.Errorf("imported as of a record with %s: %v", what, reply.GetFailure())
		}
	}
	fresh := map[uint32][]byte{}
	var next *mpc.PublicRecord
	var err error
	for i := 1; i <= 3; i++ {
		reply := request(i, record)
		if reply.GetFailure() != nil {
			t.Fatal(reply.GetFailure())
		}
		if next, err = mpc.ParsePublicRecord(reply.GetRecord()); err != nil {
			t.Fatal(err)
		}
		fresh[uint32(i)] = reply.GetEnvelope()
	}
	if next.PolicyHash != hash || !bytes.Equal(next.PublicKey, record.PublicKey) {
		t.Error("another policy, or another key")
	}
	for i, r := range w.sign(next, fresh, hooks{}) {
		if r.outcome != nil || !saysSo(r.failure, nodepb.Failure_APPROVALS, "was not sent") {
			t.Errorf("share %d signs without approvals: %v", i, r.failure)
		}
	}
	like := &nodepb.Start{Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "none"}
	p.approve(next, like)
	for i, r := range w.sign(next, fresh, hooks{start: func(_ uint32, s *nodepb.Start) { s.Policy, s.Approvals = like.Policy, like.Approvals }}) {
		if r.outcome == nil {
			t.Errorf("share %d with approvals: %v", i, r.failure)
		}
	}
}

// TestInputsCoverPolicies: no field of a policy can differ between members.
func TestInputsCoverPolicies(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, s := range map[string]*nodepb.Start{
		"none": {}, "policy": {Policy: []byte{1}}, "approvals": {Approvals: []byte{1}}, "next": {NextPolicy: []byte{1}}, "hash": {PolicyHash: []byte{1}},
		"other policy": {Policy: []byte{2}}, "other approvals": {Approvals: []byte{2}}, "other next": {NextPolicy: []byte{2}},
	} {
		hash := inputsHash([16]byte(mount), s)
		if twin, ok := seen[hash]; ok {
			t.Errorf("%s is as %s", name, twin)
		}
		seen[hash] = name
	}
}
