package node

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// TestCustodyECDSA: over gRPC, with auxiliary keys: an ECDSA signature with user
// custody, and no presignatures, neither made nor used.
func TestCustodyECDSA(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes auxiliary keys, which takes seconds of CPU")
	}
	w, aux := ecdsaWorld(t)
	owner := newOwner(t)
	start := w.keygen()
	start.CustodyKey = owner.PublicKey().Bytes()
	record, envelopes := w.made(w.session(start, hooks{}))
	if len(envelopes) != 3 || !record.HasCustody() {
		t.Fatalf("%d envelopes, record %+v", len(envelopes), record)
	}
	sign := &nodepb.Start{Operation: opSign, Members: w.signers(aux), Record: record.Marshal(), Input: []byte("pay bob"),
		MessageType: string(mpc.MessageRaw), HashAlgorithm: string(mpc.HashSHA256), DerivationPath: "m/0/7"}
	p := agreedTo(&account{record, envelopes}, sign)
	approval := custody.Approval{Purpose: p, Record: record, Envelopes: map[mpc.Index][]byte{}, Now: time.Now(),
		Pinned: func(id mpc.NodeIdentity) bool {
			return bytes.Equal(id[:], w.setups["n1"].GetIdentity()) || bytes.Equal(id[:], w.setups["n3"].GetIdentity())
		}}
	for _, s := range p.Signers {
		approval.Offers = append(approval.Offers, offer(t, w.nodes[w.ids[s.Index-1]], record, s, p.Hash()))
		approval.Envelopes[s.Index] = envelopes[uint32(s.Index)]
	}
	releases, err := approval.Release(owner)
	if err != nil {
		t.Fatal(err)
	}
	give := func(self uint32, s *nodepb.Start) {
		s.Envelope = envelopes[self]
		for _, o := range approval.Offers {
			if uint32(o.Index) == self {
				s.ReleaseId, s.Release = o.ReleaseID[:], releases[o.Index]
			}
		}
	}
	for i, r := range w.session(sign, hooks{start: give}) {
		if r.outcome == nil {
			t.Fatalf("share %d: %v", i, r.failure)
		}
		if ok, err := verify.MessageFor(record, mpc.Derivation{Path: "m/0/7"}, mpc.MessageRaw, mpc.HashSHA256, []byte("pay bob"), r.outcome.GetSignature()); !ok {
			t.Fatalf("share %d: the signature does not verify: %v", i, err)
		}
	}
	none := func(what, says string, results map[uint32]outcome) {
		t.Helper()
		for i, r := range results {
			if r.outcome != nil || r.failure.GetReason() != nodepb.Failure_REFUSED || !strings.Contains(r.failure.GetText(), says) {
				t.Errorf("%s: share %d: outcome %t, %v", what, i, r.outcome != nil, r.failure)
			}
		}
	}
	none("once more", "no longer has", w.session(sign, hooks{start: give}))
	none("without the owner", "released nothing", w.session(sign, hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }}))
	none("a presignature", "no presignature can be made", w.session(&nodepb.Start{Operation: opPresign, Members: w.signers(aux), Record: record.Marshal(), LifetimeMs: 60_000},
		hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }}))

	// Were there a presignature all the same, it would not be used: it is refused
	// before its content is looked at, so one without any will do.
	id := mpc.SessionID{1}
	for _, node := range []string{"n1", "n3"} {
		s := w.nodes[node].stock
		at, err := s.reserve(record.AccountID)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.put(at, id, &presignature{account: record.AccountID, record: record.Hash(), expires: time.Now().Add(time.Hour), secret: &cmp.Presignature{}}); err != nil {
			t.Fatal(err)
		}
	}
	none("a presignature that is there", "no presignature can be used", w.online(id[:], record, aux, nil))
}
