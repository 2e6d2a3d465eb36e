package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// unapproved is what nodes say who miss approvals.
var unapproved = &nodepb.Failure{Reason: nodepb.Failure_APPROVALS, Text: "approvals are missing: 1 of 2"}

// came demands that so many Starts with policy fields came since the last call, and
// that all have these.
func (w *stubWorld) came(t *testing.T, count int, operation, policy, approvals, next string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.asked {
		if s.GetOperation() != operation || string(s.GetPolicy()) != policy || string(s.GetApprovals()) != approvals || string(s.GetNextPolicy()) != next {
			t.Errorf("%s with policy %q, approvals %q, next policy %q", s.GetOperation(), s.GetPolicy(), s.GetApprovals(), s.GetNextPolicy())
		}
	}
	if len(w.asked) != count {
		t.Errorf("%d nodes were sent policies or approvals, want %d", len(w.asked), count)
	}
	w.asked = nil
}

func (w *stubWorld) lack(nodes ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unapproved = map[string]bool{}
	for _, n := range nodes {
		w.unapproved[n] = true
	}
}

// missing demands that a job failed for want of approvals, in so many attempts at the
// most, with the node's own words.
func missing(t *testing.T, err error, attempts int) {
	t.Helper()
	var failed *SessionError
	if !errors.Is(err, ErrApprovals) || !errors.As(err, &failed) || failed.Attempts > attempts || len(failed.Culprits) > 0 ||
		!strings.Contains(err.Error(), "approvals are missing: 1 of 2") {
		t.Errorf("%v", err)
	}
}

// TestApprovalsGoWithRequests: every session that needs policy and approvals has
// them, and no other.
func TestApprovalsGoWithRequests(t *testing.T) {
	f := startStubs(t, 4, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	a.Record.PolicyHash = sha256.Sum256([]byte("policy"))
	request := signRequest(a, "message")
	request.Policy, request.Approvals = []byte("policy"), []byte("approvals")
	f.mustSign(t, request)
	f.world.came(t, 2, "sign", "policy", "approvals", "")
	f.presign(t, a, 1, time.Minute)
	f.world.came(t, 0, "", "", "", "")
	if s := f.mustSign(t, request); s != nil && !s.Presigned {
		t.Error("the presignature was not used")
	}
	f.world.came(t, 2, "sign", "policy", "approvals", "")

	ctx := within(t, 20*time.Second)
	kept, err := f.Refresh(ctx, RefreshRequest{Account: a})
	if err != nil || kept.Account.Record.PolicyHash != a.Record.PolicyHash {
		t.Fatalf("%v", err)
	}
	f.world.came(t, 0, "", "", "", "")
	change := RefreshRequest{Account: a, Policy: []byte("policy"), Approvals: []byte("approvals"), NextPolicy: []byte("next")}
	changed, err := f.Refresh(ctx, change)
	if err != nil || changed.Account.Record.PolicyHash != sha256.Sum256([]byte("next")) {
		t.Fatalf("%v", err)
	}
	f.world.came(t, 3, "refresh", "policy", "approvals", "next")
	// Nodes that agree on another policy than was asked for have not done it.
	f.world.mu.Lock()
	f.world.keepsPolicy = true
	f.world.mu.Unlock()
	if _, err := f.Refresh(ctx, change); err == nil || !strings.Contains(err.Error(), "policy that was asked for") {
		t.Errorf("a refresh that kept the policy: %v", err)
	}
	f.world.came(t, 3, "refresh", "policy", "approvals", "next")

	f.world.lack("local-1", "local-2", "local-3", "local-4")
	_, err = f.Create(ctx, CreateRequest{AccountID: mpc.AccountID{5}, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 2,
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: a.Record.PolicyHash, Policy: []byte("policy")})
	missing(t, err, 2)
	f.world.mu.Lock()
	for _, s := range f.world.asked {
		if s.GetOperation() != "keygen" || string(s.GetPolicy()) != "policy" || string(s.GetPolicyHash()) != string(a.Record.PolicyHash[:]) {
			t.Errorf("a new account: %s", s.GetOperation())
		}
	}
	if len(f.world.asked) < 2 {
		t.Error("nodes did not hear of a new account's policy")
	}
	f.world.mu.Unlock()
}

// TestApprovalsCostNoTrust: nobody is suspected for want of approvals.
func TestApprovalsCostNoTrust(t *testing.T) {
	p, h, _ := fakePool(t, 5)
	for _, n := range p.Nodes() {
		h.set(n.ID, "unapproved")
	}
	j := newFakeJob(p, 2, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, _, err := j.run(ctx); !errors.Is(err, ErrApprovals) || j.attempts != 2 {
		t.Errorf("%v after %d attempts", err, j.attempts)
	}
	if len(j.last.suspects) > 0 || j.last.likely != 0 || len(j.doubts.suspects) > 0 {
		t.Errorf("suspected: shares %v, nodes %v", j.last.suspects, j.doubts.suspects)
	}
}

// TestApprovalsOfOneNode: where one node alone refuses and nobody can take its place,
// the error says so; where two do, it does not.
func TestApprovalsOfOneNode(t *testing.T) {
	for count, one := range map[int]bool{1: true, 2: false} {
		p, h, _ := fakePool(t, 3)
		for _, n := range p.Nodes()[:count] {
			h.set(n.ID, "unapproved")
		}
		j := newFakeJob(p, 3, 3) // needs all of them
		if count == 2 {
			j = newFakeJob(p, 2, 3)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, _, err := j.run(ctx)
		cancel()
		if !errors.Is(err, ErrApprovals) || errors.Is(err, ErrOneNode) != one {
			t.Errorf("%d nodes refuse: %v", count, err)
		}
	}
}

// TestApprovalsMissing: a node that misses approvals is no bad node; where two say
// so the request is over, and what was made ahead stays for others.
func TestApprovalsMissing(t *testing.T) {
	f := startStubs(t, 5, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 5)
	a.Record.PolicyHash = sha256.Sum256([]byte("policy"))
	request := signRequest(a, "message")
	request.Policy, request.Approvals = []byte("policy"), []byte("approvals")
	sign := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := f.Sign(ctx, request)
		return err
	}
	everybody := []string{"local-1", "local-2", "local-3", "local-4", "local-5"}
	t.Run("in full", func(t *testing.T) {
		f.world.lack(everybody...)
		missing(t, sign(), 2)
		// One node alone is passed over: its clock may be wrong.
		f.world.lack("local-1")
		for range 5 {
			if err := sign(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("presigned", func(t *testing.T) {
		f.world.lack()
		f.presign(t, a, 20, time.Minute)
		f.world.lack(everybody...)
		before := f.count(a)
		missing(t, sign(), 4)
		if left := f.count(a); left < before-2 {
			t.Errorf("%d presignatures were spent in vain", before-left)
		}
		f.world.lack()
		f.presign(t, a, before-f.count(a), time.Minute)
		bare, left := request, f.count(a)
		bare.Approvals = nil
		f.world.lack(everybody...)
		ctx := within(t, 20*time.Second)
		if _, err := f.Sign(ctx, bare); !errors.Is(err, ErrApprovals) {
			t.Errorf("%v", err)
		}
		if f.count(a) != left {
			t.Error("a presignature was spent on a request without approvals")
		}
		f.world.lack()
		if s := f.mustSign(t, request); s != nil && !s.Presigned {
			t.Error("the stock was not used afterwards")
		}
	})
	t.Run("refresh", func(t *testing.T) {
		f.world.lack(everybody...)
		_, err := f.Refresh(within(t, 20*time.Second), RefreshRequest{Account: a, Expose: (&stubLedger{by: mpc.Exposures{}}).expose,
			Policy: []byte("policy"), Approvals: []byte("approvals"), NextPolicy: []byte("next")})
		missing(t, err, 2)
	})
	for _, n := range f.Nodes() {
		if n.State != NodeReady || n.Restarts > 0 {
			t.Errorf("%s is %s after refusing", n.ID, n.State)
		}
	}
}

// TestApprovalsWithRelease: they go with an owner's release, and may come after the
// nodes were chosen.
func TestApprovalsWithRelease(t *testing.T) {
	r := newCustodyRig(t, 4)
	o := r.prepare(t)
	o.Request.Policy, o.Request.Approvals = []byte("policy"), []byte("approvals")
	if _, err := r.run(t, o); err != nil {
		t.Fatal(err)
	}
	r.world.came(t, 2, custody.OpSign, "policy", "approvals", "")
	r.world.lack("local-1", "local-2", "local-3", "local-4")
	_, err := r.run(t, r.prepare(t))
	missing(t, err, 1)
	var lost *CustodyLostError
	if !errors.As(err, &lost) {
		t.Errorf("the owner is not told to begin again: %v", err)
	}
	if err := fromFailure(unapproved); !errors.Is(err, ErrApprovals) {
		t.Error(err)
	}
}

// TestPolicyWithRelease: what the owner releases for a refresh is for the policy that
// it brings, so that neither is exchanged afterwards.
func TestPolicyWithRelease(t *testing.T) {
	r := newCustodyRig(t, 4)
	r.request.Account.Record.PolicyHash = sha256.Sum256([]byte("policy"))
	r.toRefresh()
	plain := r.prepare(t)
	r.request.Policy, r.request.Approvals, r.request.NextPolicy = []byte("policy"), []byte("approvals"), []byte("next")
	o := r.prepare(t)
	u := custody.Purpose{Operation: custody.OpRefresh, Record: r.request.Account.Record.Hash(), NextCustody: r.request.NextCustody}
	for _, m := range o.Members {
		u.Signers = append(u.Signers, custody.Signer{Index: m.Index, Node: m.Node})
	}
	hash := sha256.Sum256([]byte("next"))
	u.NextPolicy = hash[:]
	if o.Purpose != u.Hash() {
		t.Error("the purpose does not name the policy to come")
	}
	for what, bad := range map[string]struct {
		of     *CustodyOffer
		policy string
	}{"a plain refresh": {plain, "next"}, "another policy": {o, "evil"}, "no policy": {o, ""}} {
		changed := *bad.of
		changed.Request.NextPolicy = []byte(bad.policy)
		if _, err := r.run(t, &changed); err == nil || !strings.Contains(err.Error(), "another than the one that was prepared") {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.world.came(t, 0, "", "", "", "")
	result, err := r.run(t, o)
	if err != nil || result.Key.Account.Record.PolicyHash != hash {
		t.Fatalf("%v", err)
	}
	r.world.came(t, 3, custody.OpRefresh, "policy", "approvals", "next")
	// Nodes that kept the policy have not done it.
	r.world.mu.Lock()
	r.world.keepsPolicy = true
	r.world.mu.Unlock()
	if _, err := r.run(t, r.prepare(t)); err == nil || !strings.Contains(err.Error(), "policy that was asked for") {
		t.Errorf("a refresh that kept the policy: %v", err)
	}
	sign := r.request
	sign.Operation = custody.OpSign
	if _, err := r.PrepareCustody(t.Context(), sign); err == nil || !strings.Contains(err.Error(), "only a refresh") {
		t.Errorf("a signature with a policy: %v", err)
	}
}
