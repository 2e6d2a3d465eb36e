package pool

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// lies are the ways in which a fake node spoils a session; the slow ones cost a
// part of the job's time each.
var lies = []struct {
	act  string
	slow bool
}{
	{"refuses", false}, {"blames all", false}, {"blames one", false}, {"blames nobody", false}, {"no HSM", false},
	{"busy", false}, {"unpinned", false}, {"aux pending", false}, {"share unusable", false},
	{"below floor", false}, {"switched off", false}, {"draining", false}, {"unapproved", false},
	{"breaks off", false}, {"forges", false}, {"bad outcome", false}, {"cheats", false},
	{"varies", false}, {"floods", true}, {"mute", true}, {"silent", true},
}

// TestOneLiar: whatever one node says or does, jobs succeed without it, and
// each failed attempt costs one spare at most.
func TestOneLiar(t *testing.T) {
	for _, size := range []struct{ threshold, shares, nodes int }{{2, 3, 5}, {2, 2, 4}, {3, 3, 5}, {3, 5, 9}, {5, 9, 17}, {16, 16, 31}} {
		for _, lie := range lies {
			if lie.slow && size.shares != 3 && size.shares != 16 {
				continue
			}
			t.Run(fmt.Sprintf("%d of %d, %s", size.threshold, size.shares, lie.act), func(t *testing.T) {
				t.Parallel()
				p, h, _ := fakePool(t, size.nodes)
				h.set("local-2", lie.act)
				runs, within := 20, time.Minute // nothing waits for the end of it
				if lie.slow {
					within = 3 * time.Second
				}
				worst := 0
				for run := 0; run < runs && !(lie.slow && worst > 1); run++ {
					ctx, cancel := context.WithTimeout(context.Background(), within)
					j := newFakeJob(p, size.threshold, size.shares)
					chosen, _, err := j.run(ctx)
					cancel()
					if err != nil {
						t.Fatalf("after %d attempts: %v; sessions %v", j.attempts, err, h.sessions())
					}
					if slices.ContainsFunc(chosen, func(a assignment) bool { return a.node.id == "local-2" }) && lie.act != "bad outcome" && lie.act != "varies" {
						t.Fatal("the job succeeded with the liar: the test tests nothing")
					}
					for _, n := range j.spares {
						if n > 1 {
							t.Fatalf("an attempt cost %d spares: %v", n, j.spares)
						}
					}
					if len(j.spares) > j.sessions-1 {
						t.Fatalf("%d sessions cost %d spares", j.sessions, len(j.spares))
					}
					worst = max(worst, j.sessions)
				}
				if worst < 2 {
					t.Error("the liar was never chosen")
				}
				t.Logf("%d sessions at most", worst)
			})
		}
	}
}

// TestRefusals: two nodes are believed, or one where there is nobody else.
func TestRefusals(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	t.Run("two of five", func(t *testing.T) {
		p, h, _ := fakePool(t, 5)
		for i := range 5 {
			h.set(LocalNodeID(i+1), "refuses")
		}
		j := newFakeJob(p, 2, 3)
		_, _, err := j.run(ctx)
		if err == nil || !strings.Contains(err.Error(), "refused") || j.attempts != 2 {
			t.Fatalf("after %d attempts: %v", j.attempts, err)
		}
	})
	t.Run("nobody else to ask", func(t *testing.T) {
		p, h, _ := fakePool(t, 2)
		h.set("local-1", "refuses")
		j := newFakeJob(p, 2, 2)
		started := time.Now()
		_, _, err := j.run(ctx)
		if err == nil || !strings.Contains(err.Error(), "refused") || j.attempts != 1 || time.Since(started) > time.Second {
			t.Fatalf("after %d attempts: %v", j.attempts, err)
		}
	})
	t.Run("shares that nobody opens", func(t *testing.T) {
		p, h, _ := fakePool(t, 5)
		for i := range 5 {
			h.set(LocalNodeID(i+1), "share unusable")
		}
		j := newFakeJob(p, 2, 3)
		started := time.Now()
		if _, _, err := j.run(ctx); !errors.Is(err, ErrShareUnusable) || time.Since(started) > 2*time.Second {
			t.Fatalf("after %d attempts: %v", j.attempts, err)
		}
	})
	t.Run("blame names nodes", func(t *testing.T) {
		p, h, _ := fakePool(t, 2)
		h.set("local-1", "blames one")
		j := newFakeJob(p, 2, 2)
		_, _, err := j.run(ctx)
		var failed *SessionError
		if !errors.As(err, &failed) || !slices.Equal(failed.Culprits, []string{"local-2 (share 2)"}) || failed.Attempts != maxAttempts {
			t.Fatalf("got %#v", err)
		}
	})
}

// TestNoSpares: an account whose exposures may be incomplete is served by known
// nodes only, and the error says so.
func TestNoSpares(t *testing.T) {
	p, h, _ := fakePool(t, 5)
	h.set("local-1", "breaks off")
	for range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		j := newFakeJob(p, 2, 3)
		j.noSpares = true
		if _, _, err := j.run(ctx); err != nil || len(j.spares) > 0 {
			t.Fatalf("%v, spares %v", err, j.spares)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	j := newFakeJob(p, 3, 3)
	j.noSpares = true
	gone, _ := p.node("local-3").candidate()
	delete(j.seen, gone.identity)
	_, _, err := j.run(ctx)
	var none *NoEligibleNodeError
	if !errors.As(err, &none) || none.Index != 3 || !none.NoSpares || !strings.Contains(err.Error(), "until the account's next refresh") {
		t.Fatalf("got %v", err)
	}
}

// TestAgreed: the nodes whose results differ from the majority's are suspected.
func TestAgreed(t *testing.T) {
	for _, c := range []struct {
		name   string
		shares int
		tamper func(map[mpc.Index]*nodepb.Outcome)
		odd    []mpc.Index
	}{
		{"all agree", 3, func(map[mpc.Index]*nodepb.Outcome) {}, nil},
		{"another session", 3, func(o map[mpc.Index]*nodepb.Outcome) { o[1].SessionId = make([]byte, 32) }, []mpc.Index{1}},
		{"another wrapping version", 3, func(o map[mpc.Index]*nodepb.Outcome) { o[3].WrappingVersion++ }, []mpc.Index{3}},
		{"another record", 3, func(o map[mpc.Index]*nodepb.Outcome) { o[2].Record = o[1].Record[:20] }, []mpc.Index{2}},
		{"no endorsement", 3, func(o map[mpc.Index]*nodepb.Outcome) { o[2].Endorsement = make([]byte, 64) }, []mpc.Index{2}},
		{"no majority", 2, func(o map[mpc.Index]*nodepb.Outcome) { o[2].WrappingVersion++ }, []mpc.Index{1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen, outcomes := endorsed(c.shares)
			c.tamper(outcomes)
			var result *KeyResult
			odd, err := agreed(&result)(chosen, outcomes)
			if (err != nil) != (len(c.odd) > 0) || !slices.Equal(odd, c.odd) || (result == nil) != (err != nil) {
				t.Fatalf("suspects %v, %v", odd, err)
			}
		})
	}
}

// endorsed makes outcomes of a refresh on which all nodes agree.
func endorsed(shares int) (chosen []assignment, outcomes map[mpc.Index]*nodepb.Outcome) {
	record := mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: shares,
		PublicKey: make([]byte, mpc.BIP340Secp256k1.PublicKeySize()), Epoch: 2, EpochID: mpc.EpochID{1},
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
	for range shares {
		record.PublicShares = append(record.PublicShares, make([]byte, mpc.BIP340Secp256k1.PublicShareSize()))
	}
	outcomes = map[mpc.Index]*nodepb.Outcome{}
	for i := mpc.Index(1); int(i) <= shares; i++ {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i)}, 32))
		c := candidate{id: LocalNodeID(int(i)), identity: mpc.NodeIdentity(key.Public().(ed25519.PublicKey))}
		chosen = append(chosen, assignment{index: i, node: c})
		outcomes[i] = &nodepb.Outcome{SessionId: bytes.Repeat([]byte{7}, 32), Record: record.Marshal(), Envelope: []byte{1},
			Endorsement: mpc.Endorse(key, &record), WrappingVersion: 1}
	}
	return chosen, outcomes
}
