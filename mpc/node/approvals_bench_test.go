package node

import (
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// spent is the CPU time of this process, which a busy machine changes less than the
// time on the wall.
func spent(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkApprovals measures what one node spends on the check of two approvers of
// three with device key and passkey each, reading policy and approvals included.
func BenchmarkApprovals(b *testing.B) {
	p := newApprovers(b)
	n := New(Config{})
	n.mountID = [16]byte(mount)
	record := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: mpc.Ed25519, PublicKey: make([]byte, 32), PolicyHash: p.policy.Hash()}
	start := &nodepb.Start{Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "none"}
	p.approve(record, start)
	began := spent(b)
	for b.Loop() {
		if err := n.approvedSign(start, record); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((spent(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(len(start.Policy)), "B/policy")
	b.ReportMetric(float64(len(start.Approvals)), "B/approvals")
}

// BenchmarkApprovedSignature makes Ed25519 signatures of two of three nodes in this
// process, turn by turn of an account that demands approvals and of one that does not,
// and reports the CPU time of each, of both nodes and the test's router together.
func BenchmarkApprovedSignature(b *testing.B) {
	w := newWorld(b, 3)
	w.algorithm, w.patience = mpc.Ed25519, 30*time.Second
	p := newApprovers(b)
	keygen, hash := w.keygen(), p.policy.Hash()
	keygen.AccountId[0], keygen.Policy, keygen.PolicyHash = 2, p.policy.Marshal(), hash[:]
	strict, sealed := w.made(w.session(keygen, hooks{}))
	plain, envelopes := w.account()
	like := &nodepb.Start{Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "none"}
	p.approve(strict, like)
	approved := hooks{start: func(_ uint32, s *nodepb.Start) { s.Policy, s.Approvals = like.Policy, like.Approvals }}
	var with, without time.Duration
	sign := func(r *mpc.PublicRecord, e map[uint32][]byte, h hooks) time.Duration {
		began := spent(b)
		for i, out := range w.sign(r, e, h) {
			if out.outcome == nil {
				b.Fatalf("share %d: %v", i, out.failure)
			}
		}
		return spent(b) - began
	}
	for b.Loop() {
		with += sign(strict, sealed, approved)
		without += sign(plain, envelopes, hooks{})
	}
	b.ReportMetric(float64(with.Microseconds())/float64(b.N), "cpu-µs/approved")
	b.ReportMetric(float64(without.Microseconds())/float64(b.N), "cpu-µs/plain")
	b.ReportMetric(float64(with)/float64(without), "ratio")
}
