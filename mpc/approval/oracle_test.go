package approval_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// made is how the test made one signature, which the verifier does not see.
type made struct {
	signer   int // whose key
	kind     approval.Kind
	in       int // in whose name
	decision approval.Decision
	other    bool // over another message
}

// TestVerifyAgainstOracle makes policies and bundles at random and compares Verify
// with a judge who looks at no bytes, but knows how each signature was made.
func TestVerifyAgainstOracle(t *testing.T) {
	const seed = 8
	random := rand.New(rand.NewPCG(seed, seed))
	names := []string{"a", "b", "c", "d", "e"}
	people := make([]*approvaltest.Approver, len(names))
	for i, name := range names {
		people[i] = approvaltest.New(t, name)
	}
	kinds := []approval.Kind{approval.Device, approval.Passkey, approval.Certificate}
	often := func(percent int) bool { return random.IntN(100) < percent }
	accepted := 0
	const rounds = 1500
	for round := range rounds {
		r := &rig{mount: approvaltest.RandomID(), now: time.Unix(1_900_000_000, 0), input: []byte{byte(round), byte(round >> 8)}}
		// The policy: some of the people, in any order.
		order := random.Perm(len(people))[:1+random.IntN(len(people))]
		signatureFactors := 1 + random.IntN(3)
		r.policy = &approval.Policy{Quorum: 1 + random.IntN(len(order)), SignatureFactors: signatureFactors,
			Factors: max(2, signatureFactors), Expiry: time.Duration(1+random.IntN(20)) * time.Minute, Since: uint64(random.IntN(3))}
		for _, i := range order {
			r.policy.Approvers = append(r.policy.Approvers, people[i].Approver)
		}
		r.record = &mpc.PublicRecord{AccountID: mpc.AccountID(approvaltest.RandomID()), Algorithm: mpc.BIP340Secp256k1, PublicKey: make([]byte, 32), PolicyHash: r.policy.Hash(), Epoch: 9}
		r.ask()
		requester := -1
		if often(20) {
			requester = random.IntN(len(people))
			r.asked.Requester = "entity:" + names[requester]
		}
		lifetime := time.Duration(random.IntN(1500)-60) * time.Second
		r.asked.Expires = r.now.Add(lifetime).Unix()
		other := r.asked
		other.Message[0]++

		// What is given: mostly by approvers, mostly right.
		r.bundle = approvaltest.Bundle(&r.asked)
		type answer struct {
			by   int
			made []made
		}
		var answers []answer
		givers := random.Perm(len(people))[:random.IntN(len(people)+1)]
		if often(5) && len(givers) > 0 {
			givers = append(givers, givers[0])
		}
		for _, by := range givers {
			if !slices.Contains(order, by) && often(85) {
				continue
			}
			an := answer{by: by}
			g := approval.Given{Approver: people[by].ID}
			use := random.Perm(len(kinds))[:min(len(kinds), max(0, signatureFactors+random.IntN(2)-random.IntN(20)/19))]
			if often(3) && len(use) > 0 {
				use = append(use, use[0])
			}
			for _, k := range use {
				m := made{by, kinds[k], by, approval.Approve, false}
				if often(2) {
					m.signer = random.IntN(len(people))
				}
				if often(2) {
					m.in = random.IntN(len(people))
				}
				if often(2) {
					m.decision = approval.Refuse
				}
				m.other = often(2)
				st := &approval.Statement{Subject: r.asked, Decision: m.decision, Approver: people[m.in].ID}
				if m.other {
					st.Subject = other
				}
				s := people[m.signer].Sign(t, m.kind, st)
				s.Key = people[by].Of(t, m.kind).ID()
				g.Signatures = append(g.Signatures, s)
				an.made = append(an.made, m)
			}
			answers = append(answers, an)
			r.bundle.Given = append(r.bundle.Given, g)
		}

		// The judge.
		want := lifetime > 0 && lifetime <= r.policy.Expiry+time.Minute && len(answers) >= r.policy.Quorum
		seen := map[int]bool{}
		for _, an := range answers {
			used := map[approval.Kind]bool{}
			for _, m := range an.made {
				want = want && m == (made{an.by, m.kind, an.by, approval.Approve, false}) && !used[m.kind]
				used[m.kind] = true
			}
			want = want && !seen[an.by] && slices.Contains(order, an.by) && an.by != requester && len(used) >= signatureFactors
			seen[an.by] = true
		}

		bundle, err := approval.ParseBundle(r.bundle.Marshal())
		if len(r.bundle.Given) <= approval.MaxApprovers && err != nil && !slices.ContainsFunc(answers, func(a answer) bool { return len(a.made) > 3 }) {
			t.Fatal(err)
		}
		if err == nil {
			r.bundle = bundle
		}
		if r.policy, err = approval.ParsePolicy(r.policy.Marshal()); err != nil {
			t.Fatal(err)
		}
		approvers, err := r.verify()
		if (err == nil) != want {
			t.Fatalf("round %d: %v, %v; the judge says %v\npolicy %d of %v, %d kinds, answers %+v, lifetime %s", round, approvers, err, want, r.policy.Quorum, order, signatureFactors, answers, lifetime)
		}
		if want {
			accepted++
		}
	}
	if accepted < rounds/20 || accepted > rounds/2 {
		t.Errorf("%d of %d bundles were accepted: the test does not look at both sides", accepted, rounds)
	}
	t.Logf("%d of %d bundles accepted", accepted, rounds)
}
