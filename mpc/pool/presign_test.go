package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func signRequest(a mpc.Account, input string) SignRequest {
	return SignRequest{Account: a, Input: []byte(input), MessageType: mpc.MessageRaw, Hash: mpc.HashSHA256}
}

// mustSign signs and checks the result; it reports errors and returns nil.
func (f *stubPool) mustSign(t *testing.T, r SignRequest) *SignResult {
	t.Helper()
	s, err := f.Sign(within(t, 20*time.Second), r)
	if err != nil {
		t.Errorf("signing %q: %v", r.Input, err)
		return nil
	}
	if ok, err := verify.Message(&r.Account.Record, r.MessageType, r.Hash, r.Input, s.Signature.Bytes); !ok || err != nil {
		t.Errorf("the signature on %q does not verify: %v", r.Input, err)
	}
	if len(s.Signers) != r.Account.Record.Threshold || s.Attempts < 1 {
		t.Errorf("signers %v, %d attempts", s.Signers, s.Attempts)
	}
	return s
}

func (f *stubPool) presign(t *testing.T, a mpc.Account, count int, lifetime time.Duration) {
	t.Helper()
	for range count {
		if err := f.Presign(within(t, 20*time.Second), PresignRequest{Account: a, Lifetime: lifetime}); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *stubPool) count(a mpc.Account) int {
	return f.Presignatures(a.Record.AccountID, a.Record.Hash())
}

// held is how many presignatures a node's process has, 0 where it has ended.
func (w *stubWorld) held(id string) int {
	w.mu.Lock()
	n := w.live[id]
	w.mu.Unlock()
	if n.Exited() {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.presignatures)
}

func TestPresignatures(t *testing.T) {
	var used atomic.Int32
	f := startStubs(t, 4, func(c *Config) {
		c.OnPresignatureUsed = func(id mpc.AccountID) {
			if id == (mpc.AccountID{9}) {
				used.Add(1)
			}
		}
	})
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	f.presign(t, a, 3, time.Minute)
	if n := f.count(a); n != 3 {
		t.Fatalf("%d presignatures, want 3", n)
	}
	if s := f.mustSign(t, signRequest(a, "first")); s != nil && (!s.Presigned || s.Attempts != 1) {
		t.Errorf("presigned %v, %d attempts", s.Presigned, s.Attempts)
	}
	if n := f.count(a); n != 2 || used.Load() != 1 {
		t.Errorf("%d presignatures after one signature, want 2; %d reported as used", n, used.Load())
	}

	t.Run("for whatever nodes hash", func(t *testing.T) {
		f.presign(t, a, 2, time.Minute)
		before := f.count(a)
		for _, kind := range []mpc.MessageType{mpc.MessageEIP712, mpc.MessageEIP191} {
			request := signRequest(a, `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"M":[{"name":"x","type":"uint8"}]},`+
				`"primaryType":"M","domain":{"name":"d"},"message":{"x":1}}`)
			request.MessageType, request.Hash = kind, mpc.HashKeccak256
			if a.Record.Algorithm == mpc.ECDSAP256 { // which has no messages of Ethereum
				request.MessageType, request.Hash = mpc.MessageRaw, mpc.HashSHA512
			}
			broken := request
			broken.MessageType, broken.Input = mpc.MessageEIP712, []byte("{}")
			if _, err := f.Sign(within(t, 20*time.Second), broken); !errors.Is(err, mpc.ErrInput) {
				t.Errorf("a document that is none: %v", err)
			}
			if s := f.mustSign(t, request); s != nil && !s.Presigned {
				t.Errorf("%s was signed without a presignature", request.MessageType)
			}
		}
		if n := f.count(a); n != before-2 {
			t.Errorf("%d presignatures are left, want %d", n, before-2)
		}
	})
	t.Run("never for digests, other hashes of the record, children", func(t *testing.T) {
		digest := signRequest(a, "")
		digest.MessageType, digest.Input = mpc.MessageDigest, bytes.Repeat([]byte{7}, 32)
		if s := f.mustSign(t, digest); s != nil && s.Presigned {
			t.Error("a digest was signed with a presignature")
		}
		next := a
		next.Record.Epoch++
		if n := f.count(next); n != 0 {
			t.Errorf("%d presignatures for the next epoch", n)
		}
		if s := f.mustSign(t, signRequest(next, "next epoch")); s != nil && s.Presigned {
			t.Error("the next epoch was signed for with a presignature of this one")
		}
		tightened := a
		tightened.Record.PolicyHash = [32]byte{1}
		if s := f.mustSign(t, signRequest(tightened, "other policy")); s != nil && s.Presigned {
			t.Error("another policy was signed for with a presignature")
		}
		if n := f.count(a); n != 2 {
			t.Errorf("%d presignatures are left, want 2", n)
		}
	})

	t.Run("only as the exposures show", func(t *testing.T) {
		stale := a // read before a node was exposed: not to be used, and not lost
		stale.Exposures = mpc.Exposures{}
		if l, err := f.takePresignature(context.Background(), &stale, nil); l != nil || err != nil {
			t.Errorf("taken without exposures: %v, %v", l, err)
		}
		if n := f.count(a); n != 2 {
			t.Errorf("%d presignatures are left, want 2", n)
		}
		crossed := a // the nodes have seen other shares than they presigned with
		crossed.Exposures = mpc.Exposures{}
		for id, i := range a.Exposures {
			crossed.Exposures[id] = i%3 + 1
		}
		if s := f.mustSign(t, signRequest(crossed, "crossed")); s != nil && s.Presigned {
			t.Error("used against the exposures")
		}
		if n := f.count(a); n != 0 {
			t.Errorf("%d presignatures against the exposures are left", n)
		}
	})

	t.Run("expired", func(t *testing.T) {
		f.presign(t, a, 1, 2*time.Second)
		if f.count(a) != 1 {
			t.Fatal("no presignature")
		}
		f.await(t, "expiry", func() bool { return f.count(a) == 0 })
		if s := f.mustSign(t, signRequest(a, "late")); s != nil && s.Presigned {
			t.Error("an expired presignature was used")
		}
	})

	t.Run("gone on a node", func(t *testing.T) {
		f.presign(t, a, 2, time.Minute)
		for _, n := range f.all() { // nodes forget them, the coordinator does not know
			if _, err := n.client().DropPresignatures(context.Background(), &nodepb.DropPresignaturesRequest{AccountId: a.Record.AccountID[:]}); err != nil {
				t.Fatal(err)
			}
		}
		if s := f.mustSign(t, signRequest(a, "in full")); s != nil && (s.Presigned || s.Attempts != 3) {
			t.Errorf("presigned %v, %d attempts, want two that failed and one in full", s.Presigned, s.Attempts)
		}
	})

	t.Run("node restarted", func(t *testing.T) {
		f.presign(t, a, 3, time.Minute)
		old := f.alive()
		for i := range 3 {
			f.world.kill(LocalNodeID(i + 1))
		}
		f.await(t, "new processes", func() bool {
			now := f.alive()
			return f.settled() && len(now) == 4 && now["local-1"] != old["local-1"] &&
				now["local-2"] != old["local-2"] && now["local-3"] != old["local-3"]
		})
		if n := f.count(a); n != 0 {
			t.Errorf("%d presignatures outlived all their processes", n)
		}
	})

	t.Run("forgotten", func(t *testing.T) {
		f.presign(t, a, 2, time.Minute)
		f.ForgetPresignatures(within(t, time.Second), a.Record.AccountID)
		for i := range 4 {
			if n := f.world.held(LocalNodeID(i + 1)); n != 0 {
				t.Errorf("node %d still has %d presignatures", i+1, n)
			}
		}
		if s := f.mustSign(t, signRequest(a, "forgotten")); s != nil && s.Presigned {
			t.Error("a forgotten presignature was used")
		}
	})

	t.Run("superseded by a refresh", func(t *testing.T) {
		f.presign(t, a, 2, time.Minute)
		r, err := f.Refresh(within(t, 10*time.Second), RefreshRequest{Account: a})
		if err != nil {
			t.Fatal(err)
		}
		if f.count(a) != 0 || f.count(r.Account) != 0 {
			t.Error("presignatures outlive a refresh")
		}
		f.await(t, "nodes told", func() bool {
			return f.world.held("local-1")+f.world.held("local-2")+f.world.held("local-3") == 0
		})
	})

	t.Run("refused", func(t *testing.T) {
		schnorr := a
		schnorr.Record.Algorithm = mpc.Ed25519
		for name, r := range map[string]PresignRequest{
			"schnorr":       {Account: schnorr, Lifetime: time.Minute},
			"no lifetime":   {Account: a},
			"long lifetime": {Account: a, Lifetime: MaxPresignLifetime + 1},
		} {
			if err := f.Presign(within(t, time.Second), r); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
}

// TestDerivation: a child's signature is checked against the child's key, and
// never made with a presignature.
func TestDerivation(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.onSecp256k1(f.account(t, 2, 3))
	f.presign(t, a, 2, time.Minute)
	for _, path := range []string{"m/0/7", "3", "m"} {
		r := signRequest(a, "child "+path)
		r.Derivation.Path = path
		s, err := f.Sign(within(t, 5*time.Second), r)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if ok, err := verify.MessageFor(&a.Record, r.Derivation, r.MessageType, r.Hash, r.Input, s.Signature.Bytes); !ok || err != nil || s.Presigned {
			t.Errorf("%s: valid %v, %v, presigned %v", path, ok, err, s.Presigned)
		}
	}
	if n := f.count(a); n != 2 {
		t.Errorf("%d presignatures are left, want 2", n)
	}
	if s := f.mustSign(t, signRequest(a, "own key")); s != nil && !s.Presigned {
		t.Error("no presignature was used for the account's own key")
	}

	f.world.ignores = true
	r := signRequest(a, "the wrong key")
	r.Derivation.Path = "m/1"
	var failed *SessionError
	if s, err := f.Sign(within(t, 5*time.Second), r); !errors.As(err, &failed) || s != nil {
		t.Errorf("a signature with the account's key for its child: %v, %v", s, err)
	}
	r.Derivation.Path = "m/0'"
	if _, err := f.Sign(within(t, time.Second), r); !errors.Is(err, derive.ErrPath) {
		t.Errorf("a hardened path: %v", err)
	}
	r.Derivation = mpc.Derivation{TaprootTweak: derive.BIP86}
	if _, err := f.Sign(within(t, time.Second), r); !errors.Is(err, derive.ErrAlgorithm) {
		t.Errorf("a tweak for ECDSA: %v", err)
	}
}

// TestPresignedFailures: whatever nodes do with a presignature, the request goes
// on without it.
func TestPresignedFailures(t *testing.T) {
	for how, sessions := range map[string]int{
		"refuse": maxPresigned,
		// Their nodes are avoided afterwards; with two signers of three shares
		// any other presignature shares a node.
		"lie":  2,
		"hang": 1,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f := startStubs(t, 3, nil)
			f.await(t, "auxiliary keys", f.settled)
			a := f.account(t, 2, 3)
			f.presign(t, a, 12, time.Minute)
			f.world.presigned = how
			s := f.mustSign(t, signRequest(a, "in full in the end"))
			if s == nil {
				return
			}
			used := 12 - f.count(a)
			if s.Presigned || s.Attempts != used+1 || used < 1 || used > sessions {
				t.Errorf("presigned %v, %d attempts, %d presignatures used; want at most %d", s.Presigned, s.Attempts, used, sessions)
			}
		})
	}
}

// TestPresignMisnamed: a presignature whose nodes do not agree on its name is
// not used, and made again by others.
func TestPresignMisnamed(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	f.world.misnames = "local-1"
	f.presign(t, a, 6, time.Minute)
	for _, s := range f.stock.by[a.Record.AccountID] {
		for _, m := range s.members {
			if m.node.id == "local-1" {
				t.Error("a misnamed presignature is in the stock")
			}
		}
	}
	if n := f.count(a); n != 6 {
		t.Errorf("%d presignatures, want 6", n)
	}
}

// TestPresignForgottenMeanwhile: what was being made when an account's
// presignatures were dropped never comes into the stock.
func TestPresignForgottenMeanwhile(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	f.world.slow = 200 * time.Millisecond
	done := make(chan error)
	go func() {
		done <- f.Presign(context.Background(), PresignRequest{Account: a, Lifetime: time.Minute})
	}()
	time.Sleep(100 * time.Millisecond)
	f.ForgetPresignatures(context.Background(), a.Record.AccountID)
	if err := <-done; err == nil || f.count(a) != 0 {
		t.Errorf("error %v, %d presignatures", err, f.count(a))
	}
	for i := range 3 { // they got their parts after they had been told
		if n := f.world.held(LocalNodeID(i + 1)); n != 0 {
			t.Errorf("%s still holds %d presignatures", LocalNodeID(i+1), n)
		}
	}
}

// TestStockPutBack: a taken presignature comes back once, and not after the
// account's presignatures were forgotten.
func TestStockPutBack(t *testing.T) {
	id, hash := mpc.AccountID{1}, [32]byte{2}
	now := time.Now()
	nodes := alive{"local-1": {mpc.NodeIdentity{1}, 5}}
	yes := func(*presignature) verdict { return use }
	s := newStock()
	c := s.begin(id, [32]byte{})
	p := &presignature{account: id, recordHash: hash, expires: now.Add(time.Minute),
		members: []presignMember{{1, candidate{id: "local-1", identity: mpc.NodeIdentity{1}}, 5}}}
	if !s.add(c, p) {
		t.Fatal("not added")
	}
	s.end(c)
	taken, c, _ := s.take(id, hash, now, nodes, yes)
	if again, _, _ := s.take(id, hash, now, nodes, yes); taken != p || again != nil {
		t.Fatal("taken twice")
	}
	s.putBack(c, taken)
	s.end(c)
	if s.count(id, hash, now, nodes) != 1 || s.count(id, [32]byte{3}, now, nodes) != 0 {
		t.Error("not put back")
	}
	if s.count(id, hash, now, alive{}) != 0 {
		t.Error("counted although its node is not ready")
	}
	if s.count(id, hash, now, nodes) != 1 {
		t.Error("lost although its node may be ready again")
	}
	taken, c, _ = s.take(id, hash, now, nodes, yes)
	s.forget(id, nil, now)
	s.putBack(c, taken)
	s.end(c)
	if s.count(id, hash, now, nodes) != 0 || len(s.claims) != 0 {
		t.Error("put back after it was forgotten")
	}
	c = s.begin(id, [32]byte{})
	s.add(c, p)
	s.end(c)
	if s.count(id, hash, now, alive{"local-1": {mpc.NodeIdentity{1}, 6}}) != 0 || s.count(id, hash, now, nodes) != 0 {
		t.Error("kept although its node's process has ended")
	}
	// A refresh while one is made: it is for a record that is over.
	c = s.begin(id, hash)
	s.forget(id, &[32]byte{9}, now)
	if s.add(c, p) {
		t.Error("added although its record was replaced meanwhile")
	}
	s.end(c)
	c = s.begin(id, hash)
	s.forget(id, &hash, now)
	if !s.add(c, p) {
		t.Error("not added although its record stayed")
	}
	s.end(c)
	if s.count(id, hash, now.Add(time.Minute), nodes) != 0 || len(s.by) != 0 {
		t.Error("kept although it has expired")
	}
}

// TestPresignatureRace: many signers take from one small stock while it is
// replenished, nodes vanish, and the account is refreshed. The world's book
// shows at the end that no presignature was offered twice, to nobody for two
// messages, and none for another record or after its time.
func TestPresignatureRace(t *testing.T) {
	var used atomic.Int32
	f := startStubs(t, 5, func(c *Config) { c.OnPresignatureUsed = func(mpc.AccountID) { used.Add(1) } })
	f.await(t, "auxiliary keys", f.settled)
	account := f.account(t, 2, 3)
	ledger := &stubLedger{by: maps.Clone(account.Exposures)}
	var mu sync.RWMutex // account and ledger
	current := func() (mpc.Account, *stubLedger) {
		mu.RLock()
		defer mu.RUnlock()
		a := account
		a.Exposures = ledger.copy()
		return a, ledger
	}
	stop := make(chan struct{})
	var helpers, signers sync.WaitGroup
	help := func(every time.Duration, do func()) {
		helpers.Add(1)
		go func() {
			defer helpers.Done()
			for {
				select {
				case <-time.After(every):
					do()
				case <-stop:
					return
				}
			}
		}()
	}
	for range 3 {
		help(time.Millisecond, func() {
			a, l := current()
			if f.count(a) < 6 {
				// It may fail while nodes vanish.
				_ = f.Presign(within(t, 2*time.Second), PresignRequest{Account: a, Lifetime: 400 * time.Millisecond, Expose: l.expose})
			}
		})
	}
	help(40*time.Millisecond, func() { f.world.kill(LocalNodeID(rand.IntN(5) + 1)) })
	help(150*time.Millisecond, func() {
		a, l := current()
		r, err := f.Refresh(within(t, 2*time.Second), RefreshRequest{Account: a, Expose: l.expose})
		if err != nil {
			return // a node was away; the old shares stay in force
		}
		mu.Lock()
		defer mu.Unlock()
		account, ledger = r.Account, &stubLedger{by: maps.Clone(r.Account.Exposures)}
	})

	var presigned, full atomic.Int32
	started := time.Now()
	for g := range 12 {
		signers.Add(1)
		go func() {
			defer signers.Done()
			for i := 0; time.Since(started) < 3*time.Second; i++ {
				a, l := current()
				r := signRequest(a, fmt.Sprintf("%d %d", g, i))
				r.Expose = l.expose
				s, err := f.Sign(within(t, 20*time.Second), r)
				if err != nil {
					// Another epoch's nodes may all be exposed by now.
					var none *NoEligibleNodeError
					var exposed *ExposedError
					if !errors.As(err, &none) && !errors.As(err, &exposed) {
						t.Errorf("signing: %v", err)
					}
					continue
				}
				if s.Presigned {
					presigned.Add(1)
				} else {
					full.Add(1)
				}
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond) // presigning waits behind signers
			}
		}()
	}
	signers.Wait()
	close(stop)
	helpers.Wait()
	t.Logf("%d signatures with a presignature, %d in full, %d used up", presigned.Load(), full.Load(), used.Load())
	if presigned.Load() < 20 || full.Load() == 0 {
		t.Error("the race was no race")
	}
}
