package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// shelf stands behind a presigner that is worked by hand. Time moves only when
// a test says so.
type shelf struct {
	now      time.Time
	accounts map[string]*accountRecord
	stock    map[string]int // by name
	order    []string       // what was made
	tried    []string
	errs     map[string]error
	during   func(name string) // in the middle of making one
	forgot   []string
	p        *presigner
}

func newShelf() *shelf {
	s := &shelf{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), accounts: map[string]*accountRecord{}, stock: map[string]int{}, errs: map[string]error{}}
	s.p = newPresigner(presignConfig{Source: s, Logger: hclog.NewNullLogger(), now: func() time.Time { return s.now }})
	return s
}

// put stores an account of the name's first letter.
func (s *shelf) put(name string, depth int, epoch uint64) *accountRecord {
	id := mpc.AccountID{name[0]}
	record := mpc.PublicRecord{AccountID: id, Algorithm: mpc.ECDSASecp256k1, Threshold: 2, Shares: 2,
		PublicKey: make([]byte, 33), PublicShares: [][]byte{make([]byte, 33), make([]byte, 33)}, Epoch: epoch, EpochID: mpc.EpochID{byte(epoch)},
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
	r := &accountRecord{Version: recordVersion, ID: id.String(), Presign: depth,
		Current: epochRecord{Record: record.Marshal(), Shares: [][]byte{{1}, {2}}}}
	s.accounts[name] = r
	return r
}

func (s *shelf) name(id mpc.AccountID) string { return string(id[:1]) }

func (s *shelf) presignEngine(context.Context) (presignEngine, error) { return s, nil }

func (s *shelf) presignAccount(_ context.Context, name string) (*presignAccount, error) {
	r := s.accounts[name]
	if r == nil {
		return nil, nil
	}
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	return &presignAccount{depth: r.Presign, request: pool.PresignRequest{Account: *a}}, nil
}

func (s *shelf) Presign(_ context.Context, r pool.PresignRequest) error {
	name := s.name(r.Account.Record.AccountID)
	s.tried = append(s.tried, name)
	if s.during != nil {
		s.during(name)
	}
	if err := s.errs[name]; err != nil {
		return err
	}
	s.stock[fmt.Sprint(name, r.Account.Record.Epoch)]++
	s.order = append(s.order, name)
	return nil
}

func (s *shelf) Presignatures(id mpc.AccountID, hash [32]byte) int {
	r := s.accounts[s.name(id)]
	if r == nil {
		return 0
	}
	a, _ := r.Current.account()
	if a.Record.Hash() != hash {
		return 0
	}
	return s.stock[fmt.Sprint(s.name(id), a.Record.Epoch)]
}

func (s *shelf) ForgetPresignatures(_ context.Context, id mpc.AccountID) {
	s.forgot = append(s.forgot, s.name(id))
	for k := range s.stock {
		if k[0] == s.name(id)[0] {
			delete(s.stock, k)
		}
	}
}

func TestPresignerTakesTurns(t *testing.T) {
	s := newShelf()
	s.p.set("a", s.put("a", 3, 1))
	s.p.found("b", s.put("b", 2, 1))
	s.p.set("c", s.put("c", 1, 1))
	s.p.set("d", s.put("d", 0, 1))
	s.p.work(t.Context())
	if got := strings.Join(s.order, ""); got != "abcaba" {
		t.Errorf("made %s", got)
	}
	s.stock["b1"]--
	s.p.used(mpc.AccountID{'b'})
	s.p.used(mpc.AccountID{'d'})
	s.p.used(mpc.AccountID{'x'})
	s.p.work(t.Context())
	if got := strings.Join(s.order, ""); got != "abcabab" {
		t.Errorf("made %s", got)
	}
	// A refresh voids the stock.
	s.p.set("c", s.put("c", 1, 2))
	s.p.work(t.Context())
	// One that expired is noticed by the timer.
	s.stock["a1"]--
	s.p.work(t.Context())
	s.p.all()
	s.p.work(t.Context())
	if got := strings.Join(s.order, ""); got != "abcababca" {
		t.Errorf("made %s", got)
	}
}

func TestPresignerFailures(t *testing.T) {
	s := newShelf()
	s.errs["b"] = errors.New("no luck")
	s.errs["c"] = &pool.AuxPendingError{}
	for _, name := range []string{"a", "b", "c"} {
		s.p.set(name, s.put(name, 2, 1))
	}
	tries := func() string {
		s.tried = nil
		s.p.all()
		s.p.work(t.Context())
		return strings.Join(s.tried, "")
	}
	if got := tries(); got != "abca" {
		t.Errorf("first: %s", got)
	}
	// The failing one waits 10 s, the one that only waits for keys does not.
	s.now = s.now.Add(presignBackoffMin - time.Second)
	if got := tries(); got != "c" {
		t.Errorf("after 9 s: %s", got)
	}
	s.now = s.now.Add(time.Second)
	if got := tries(); got != "cb" { // last, since it may take long
		t.Errorf("after 10 s: %s", got)
	}
	s.now = s.now.Add(2*presignBackoffMin - time.Second)
	if got := tries(); got != "c" {
		t.Errorf("19 s after the second failure: %s", got)
	}
	for range 10 {
		s.now = s.now.Add(presignBackoffMax)
		tries()
	}
	if got := s.p.accounts["b"].notBefore.Sub(s.now); got != presignBackoffMax {
		t.Errorf("waits %v in the end", got)
	}
	s.now = s.now.Add(presignBackoffMax)
	s.errs = map[string]error{}
	if got := tries(); strings.Count(got, "b") != 2 || strings.Count(got, "c") != 2 {
		t.Errorf("in the end: %s", got)
	}
	if n := s.p.accounts["b"].failures; n != 0 {
		t.Errorf("%d failures after a success", n)
	}
}

// TestPresignerRetriesUnderLoad: an account that failed once has its turn in the
// end, however much the others need.
func TestPresignerRetriesUnderLoad(t *testing.T) {
	s := newShelf()
	s.p.set("a", s.put("a", 5, 1))
	s.p.set("b", s.put("b", 5, 1))
	s.errs["b"] = errors.New("no luck")
	s.during = func(name string) {
		if name == "b" && len(s.tried) > 2 {
			s.stock["a1"] = 9 // enough
			delete(s.errs, "b")
		}
		if name == "a" {
			s.stock["a1"] = -1 // used up at once
			s.now = s.now.Add(5 * time.Second)
			s.p.used(mpc.AccountID{'b'})
		}
		if len(s.tried) > 100 {
			t.Fatal("never tried again")
		}
	}
	s.p.work(t.Context())
	if n := len(s.tried); s.stock["b1"] != 5 || n < 14 || n > 25 {
		t.Errorf("tried %v", s.tried)
	}
}

func TestPresignerChanges(t *testing.T) {
	t.Run("destroyed while one is made", func(t *testing.T) {
		s := newShelf()
		s.p.set("a", s.put("a", 2, 1))
		s.during = func(string) { s.p.remove("a") }
		s.p.work(t.Context())
		if len(s.tried) != 1 || s.stock["a1"] != 0 || len(s.forgot) != 1 || len(s.p.accounts)+len(s.p.names) != 0 {
			t.Errorf("tried %v, stock %v, forgot %v", s.tried, s.stock, s.forgot)
		}
	})
	t.Run("gone from storage", func(t *testing.T) {
		s := newShelf()
		s.p.set("a", s.put("a", 2, 1))
		delete(s.accounts, "a")
		s.p.work(t.Context())
		if len(s.tried) != 0 || len(s.p.accounts) != 0 {
			t.Errorf("tried %v", s.tried)
		}
	})
	t.Run("the list is older than a change", func(t *testing.T) {
		s := newShelf()
		old := s.put("a", 5, 1)
		s.p.set("a", s.put("a", 0, 1))
		s.p.found("a", old)
		s.p.work(t.Context())
		if len(s.tried) != 0 || len(s.p.accounts) != 0 {
			t.Errorf("tried %v", s.tried)
		}
		s.p.listed()
	})
	t.Run("what is remembered is only a hint", func(t *testing.T) {
		s := newShelf()
		s.p.set("a", s.put("a", 5, 1))
		s.put("a", 1, 2) // behind its back
		s.p.work(t.Context())
		if len(s.tried) != 1 || s.stock["a2"] != 1 || s.p.accounts["a"].depth != 1 {
			t.Errorf("tried %v, stock %v", s.tried, s.stock)
		}
	})
	t.Run("ended", func(t *testing.T) {
		s := newShelf()
		s.p.set("a", s.put("a", 5, 1))
		ctx, cancel := context.WithCancel(t.Context())
		s.during = func(string) { cancel() }
		s.p.work(ctx)
		if len(s.tried) != 1 {
			t.Errorf("tried %v after its end", s.tried)
		}
	})
}

// eventually waits for what background work brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// TestPresignThroughVault goes through the backend with its goroutines.
func TestPresignThroughVault(t *testing.T) {
	for _, alg := range []string{"ecdsa-secp256k1", "ecdsa-p256"} {
		t.Run(alg, func(t *testing.T) {
			m := configured(t)
			m.b.startBackground()
			m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"algorithm": alg, "presign": 3, "refresh_period": "48h"})
			full := func(m *mount, n int) func() bool {
				return func() bool {
					d := m.must(logical.ReadOperation, "accounts/bob", nil)
					return d["presignatures"] == n && d["presign"] == n
				}
			}
			eventually(t, "the first stock", full(m, 3))
			m.fake.mu.Lock()
			q := m.fake.presigns[0]
			m.fake.mu.Unlock()
			if q.Lifetime != pool.MaxPresignLifetime || q.Account.NoSpares || len(q.Account.Exposures) != 3 {
				t.Errorf("request: %+v", q)
			}
			if d := m.signs("bob"); d["presigned"] != true {
				t.Errorf("signed without: %v", d)
			}
			eventually(t, "another one", full(m, 3))
			d := m.must(logical.UpdateOperation, "sign/bob", map[string]any{"input": strings.Repeat("A", 43) + "=", "message_type": "digest"})
			if d["presigned"] != false {
				t.Errorf("a digest was presigned: %v", d)
			}
			before := m.must(logical.ReadOperation, "accounts/bob", nil)["record_hash"]
			m.must(logical.UpdateOperation, "accounts/bob/refresh", nil)
			eventually(t, "a stock of the new epoch", full(m, 3))
			if m.must(logical.ReadOperation, "accounts/bob", nil)["record_hash"] == before {
				t.Error("no new epoch")
			}
			forgotten := func() int { m.fake.mu.Lock(); defer m.fake.mu.Unlock(); return len(m.fake.forgot) }
			m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 3, "metadata": "a=b"})
			if forgotten() != 0 {
				t.Error("forgotten without a reason")
			}
			m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 1})
			eventually(t, "a smaller stock", full(m, 1))
			if forgotten() != 1 {
				t.Errorf("forgotten %d times", forgotten())
			}

			// Another process finds the account by itself, and ends in the middle.
			fake := newFake(t)
			fake.keys, fake.seen = m.fake.keys, m.fake.seen
			m.b.Cleanup(t.Context())
			entered := make(chan string, 10)
			fake.presign = func(ctx context.Context, q pool.PresignRequest) error {
				entered <- q.Account.Record.AccountID.String()
				<-ctx.Done()
				return ctx.Err()
			}
			again := open(t, m.storage, fake)
			again.b.startBackground()
			select {
			case <-entered:
			case <-time.After(20 * time.Second):
				t.Fatal("the account was not found")
			}
			started := time.Now()
			again.b.Cleanup(t.Context())
			if took := time.Since(started); took > closeTimeout {
				t.Errorf("Clean took %v", took)
			}
			select {
			case <-again.b.stock.done:
			default:
				t.Error("the presigner outlives the mount")
			}

			last := open(t, m.storage, newFake(t))
			last.must(logical.ListOperation, "nodes/", nil) // nodes run
			last.must(logical.DeleteOperation, "destroy/bob", nil)
			if len(last.fake.forgot) != 1 {
				t.Errorf("forgotten %d times", len(last.fake.forgot))
			}
		})
	}
}

func TestPresignSettings(t *testing.T) {
	m := configured(t)
	for _, alg := range []mpc.Algorithm{mpc.BIP340Secp256k1, mpc.Ed25519} {
		m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": alg, "presign": 1}, 400, "presign is for ECDSA")
		m.must(logical.UpdateOperation, "accounts/"+string(alg), map[string]any{"algorithm": alg, "presign": 0})
	}
	for _, n := range []any{65, -1, "many", 1.5} {
		m.fails(logical.UpdateOperation, "accounts/bob", map[string]any{"algorithm": "ecdsa-p256", "presign": n}, 400, "presign")
	}
	m.fails(logical.ReadOperation, "accounts/bob", nil, 404, "")
	m.must(logical.UpdateOperation, "accounts/bob", map[string]any{"algorithm": "ecdsa-p256", "presign": 64})
	m.fails(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 65}, 400, "presign must be 0 to 64, not 65")
	resp, _, _ := m.do(logical.UpdateOperation, "accounts/bob", map[string]any{"refresh_period": "59s"})
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "every 59s") {
		t.Errorf("warnings %q", resp.Warnings)
	}
	if resp, _, _ = m.do(logical.UpdateOperation, "accounts/bob", map[string]any{"presign": 0}); len(resp.Warnings) != 0 || resp.Data["presign"] != 0 {
		t.Errorf("%v %q", resp.Data["presign"], resp.Warnings)
	}
}

// TestPresignerRace is for the race detector.
func TestPresignerRace(t *testing.T) {
	m := configured(t)
	m.b.startBackground()
	for i := range 3 {
		m.must(logical.UpdateOperation, fmt.Sprint("accounts/a", i), map[string]any{"algorithm": "ecdsa-secp256k1", "presign": 2})
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			name := fmt.Sprint("a", i%3)
			for n := range 20 {
				switch {
				case i < 3:
					m.do(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8="})
				case n%5 == 0:
					m.do(logical.UpdateOperation, "accounts/"+name+"/refresh", nil)
				default:
					m.do(logical.UpdateOperation, "accounts/"+name, map[string]any{"presign": n % 4})
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		name := fmt.Sprint("accounts/a", i)
		m.must(logical.UpdateOperation, name, map[string]any{"presign": 2})
		eventually(t, name, func() bool { return m.must(logical.ReadOperation, name, nil)["presignatures"].(int) >= 2 })
	}
}
