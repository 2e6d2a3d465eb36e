package cmp

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"testing"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/polynomial"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// testNode is a node with auxiliary keys that all other test nodes have checked.
type testNode struct {
	identity ed25519.PrivateKey
	owner    Owner
	secret   *AuxSecret
	public   *AuxPublic
}

const testNodes = 3

// nodes makes the auxiliary keys of this test binary: some seconds, once.
var nodes = sync.OnceValue(func() (out [testNodes]*testNode) {
	for i := range out {
		n := &testNode{}
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		n.identity = private
		n.owner = Owner{MountID: [16]byte{1}, NodeID: fmt.Sprintf("local-%d", i+1), Identity: mpc.NodeIdentity(public), Generation: 7}
		if n.secret, n.public, err = Generate(context.Background(), n.owner, n.identity, nil); err != nil {
			panic(err)
		}
		out[i] = n
	}
	for _, n := range out {
		if err := n.public.Verify(n.owner); err != nil {
			panic(err)
		}
	}
	for i, n := range out { // one verifier stands for all: keys are shared here
		verifier := out[(i+1)%testNodes]
		proof, err := ProveFactors(n.secret, n.owner, verifier.public, verifier.owner)
		if err != nil {
			panic(err)
		}
		if err := VerifyFactors(proof, n.public, n.owner, verifier.public, verifier.owner); err != nil {
			panic(err)
		}
	}
	return out
})

// deal makes an account by Shamir's secret sharing with a dealer, which only
// tests may do.
func deal(t testing.TB, threshold, shares int) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
	t.Helper()
	return dealOn(t, mpc.ECDSASecp256k1, threshold, shares)
}

func dealOn(t testing.TB, a mpc.Algorithm, threshold, shares int) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
	t.Helper()
	group, err := groupOf(a)
	if err != nil {
		t.Fatal(err)
	}
	key := sample.Scalar(rand.Reader, group)
	f := polynomial.NewPolynomial(group, threshold-1, key)
	compress := func(x libcurve.Scalar) []byte {
		b, err := x.ActOnBase().MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	record := &mpc.PublicRecord{
		Algorithm: a, Threshold: threshold, Shares: shares,
		PublicKey: compress(key), Epoch: 1,
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash(),
	}
	_, _ = rand.Read(record.AccountID[:])
	_, _ = rand.Read(record.EpochID[:])
	private := map[mpc.Index]*secret.Bytes{}
	for i := mpc.Index(1); int(i) <= shares; i++ {
		x := f.Evaluate(handler.PartyID(i).Scalar(group))
		b, err := x.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		private[i] = secret.New(b)
		record.PublicShares = append(record.PublicShares, compress(x))
	}
	if err := record.Check(); err != nil {
		t.Fatal(err)
	}
	return record, private
}

// signers returns the configuration of every signer, signer k on node k.
func signers(t testing.TB, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, indices []mpc.Index, digest [32]byte) map[mpc.Index]SignConfig {
	t.Helper()
	var id mpc.SessionID
	_, _ = rand.Read(id[:])
	aux := map[mpc.Index]*AuxPublic{}
	for k, i := range indices {
		aux[i] = nodes()[k].public
	}
	out := map[mpc.Index]SignConfig{}
	for k, i := range indices {
		out[i] = SignConfig{Self: i, Signers: indices, Record: record, Share: shares[i], Aux: aux,
			Secret: nodes()[k].secret, Digest: digest, SessionID: id}
	}
	return out
}

// start makes the parties of a session.
func start(t testing.TB, configs map[mpc.Index]SignConfig) map[mpc.Index]*SignParty {
	t.Helper()
	out := map[mpc.Index]*SignParty{}
	for i, c := range configs {
		p, err := NewSign(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Wipe)
		out[i] = p
	}
	return out
}

// route carries messages in random order until nothing is under way, and returns
// the first error a party reports. tamper may change what one receiver gets.
func route[P mpc.Party](parties map[mpc.Index]P, tamper func(to mpc.Index, m *mpc.Message)) error {
	var first error
	carry(parties, mrand.IntN, tamper, func(_ mpc.Index, err error) bool {
		first = err
		return false
	})
	if first != nil {
		return first
	}
	for i, p := range parties {
		if !p.Done() {
			return fmt.Errorf("share %d waits for ever", i)
		}
	}
	return nil
}

// routeAll carries them in the order of sending, goes on after errors and
// returns them all.
func routeAll[P mpc.Party](parties map[mpc.Index]P, tamper func(to mpc.Index, m *mpc.Message)) map[mpc.Index]error {
	errs := map[mpc.Index]error{}
	oldest := func(int) int { return 0 }
	carry(parties, oldest, tamper, func(i mpc.Index, err error) bool {
		if errs[i] == nil {
			errs[i] = err
		}
		return true
	})
	return errs
}

func carry[P mpc.Party](parties map[mpc.Index]P, pick func(n int) int, tamper func(to mpc.Index, m *mpc.Message),
	report func(mpc.Index, error) (more bool)) {
	type packet struct {
		to mpc.Index
		m  mpc.Message
	}
	var queue []packet
	post := func(out []mpc.Message) {
		for _, m := range out {
			for to := range parties {
				if to != m.From && (m.To == 0 || m.To == to) {
					queue = append(queue, packet{to, m})
				}
			}
		}
	}
	for i, p := range parties {
		out, err := p.Start()
		if err != nil && !report(i, err) {
			return
		}
		post(out)
	}
	for len(queue) > 0 {
		k := pick(len(queue))
		next := queue[k]
		queue = slices.Delete(queue, k, k+1)
		if tamper != nil {
			tamper(next.to, &next.m)
		}
		out, err := parties[next.to].Step(next.m)
		if err != nil && !report(next.to, err) {
			return
		}
		post(out)
	}
}
