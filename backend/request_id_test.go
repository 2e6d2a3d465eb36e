package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// signedOnce is a request that may be repeated.
var signedOnce = map[string]any{"input": "aGVsbG8=", "request_id": "order-4711"} // read only

// storedAnswers lists the keys of answers.
func (m *mount) storedAnswers() []string {
	m.t.Helper()
	var out []string
	for _, k := range keys(m.t, m.storage) {
		if strings.HasPrefix(k, prefixSigned) {
			out = append(out, k)
		}
	}
	return out
}

// answers is a storage that counts what is done below prefixSigned, and fails
// it when told to.
type answers struct {
	logical.Storage
	gets, lists, puts, deletes       atomic.Int64
	failGets, failPuts, failPutsLate atomic.Bool
	failLists, failDeletes           atomic.Bool
}

var errAnswers = errors.New("storage does not answer")

func (a *answers) on(key string, count *atomic.Int64, fail *atomic.Bool) error {
	if !strings.HasPrefix(key, prefixSigned) {
		return nil
	}
	count.Add(1)
	if fail.Load() {
		return errAnswers
	}
	return nil
}

func (a *answers) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := a.on(key, &a.gets, &a.failGets); err != nil {
		return nil, err
	}
	return a.Storage.Get(ctx, key)
}

func (a *answers) List(ctx context.Context, prefix string) ([]string, error) {
	if err := a.on(prefix, &a.lists, &a.failLists); err != nil {
		return nil, err
	}
	return a.Storage.List(ctx, prefix)
}

func (a *answers) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := a.on(e.Key, &a.puts, &a.failPuts); err != nil {
		if a.failPutsLate.Load() {
			_ = a.Storage.Put(ctx, e)
		}
		return err
	}
	return a.Storage.Put(ctx, e)
}

func (a *answers) Delete(ctx context.Context, key string) error {
	if err := a.on(key, &a.deletes, &a.failDeletes); err != nil {
		return err
	}
	return a.Storage.Delete(ctx, key)
}

// ask is do for goroutines that are not the test's.
func (m *mount) ask(path string, data map[string]any) (map[string]any, int, string) {
	body := map[string]any{}
	for k, v := range data {
		body[k] = v
	}
	resp, err := m.b.HandleRequest(context.Background(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: body, Storage: m.storage})
	status, msg := answer(resp, err)
	if status != 200 || resp == nil {
		return nil, status, msg
	}
	return resp.Data, status, ""
}

// signCounter counts signatures.
func signCounter(n *atomic.Int64) func(context.Context, pool.SignRequest) error {
	return func(context.Context, pool.SignRequest) error { n.Add(1); return nil }
}

func TestRequestID(t *testing.T) {
	var signed atomic.Int64
	storage, clk := &answers{Storage: &logical.InmemStorage{}}, newClock()
	m := hooked(t, storage, signCounter(&signed), func(c *Config) { c.now = clk.now })
	sign := func(name string, data map[string]any) map[string]any {
		t.Helper()
		return m.must(logical.UpdateOperation, "sign/"+name, data)
	}
	// ECDSA of the fake on P-256 is another one each time.
	first := sign("dave", signedOnce)
	if first["replayed"] != false || first["request_id"] != "order-4711" || signed.Load() != 1 || len(m.storedAnswers()) != 1 {
		t.Errorf("%v after %d signatures, stored %v", first, signed.Load(), m.storedAnswers())
	}
	again := sign("dave", signedOnce)
	for k, v := range first {
		if k == "replayed" {
			v = true
		}
		// Numbers come back as JSON has them.
		was, _ := json.Marshal(v)
		is, _ := json.Marshal(again[k])
		if string(was) != string(is) {
			t.Errorf("%s was %s and is %s", k, was, is)
		}
	}
	if len(again) != len(first) || signed.Load() != 1 {
		t.Errorf("%v after %d signatures", again, signed.Load())
	}
	// Defaults that are named are the same request.
	if sign("dave", map[string]any{"input": "aGVsbG8=", "request_id": "order-4711", "message_type": "raw", "hash_algorithm": "sha2-256", "signature_format": "der"})["replayed"] != true {
		t.Error("a default that is named makes another request")
	}
	for _, other := range []map[string]any{
		{"input": "aGVsbG9v"}, {"hash_algorithm": "keccak-256"}, {"signature_format": "jws"},
		{"message_type": "digest", "input": base64.StdEncoding.EncodeToString(make([]byte, 32))},
	} {
		data := map[string]any{"input": "aGVsbG8=", "request_id": "order-4711"}
		for k, v := range other {
			data[k] = v
		}
		m.fails(logical.UpdateOperation, "sign/dave", data, 409, "with another payload")
	}
	if sign("bob", map[string]any{"input": "aGVsbG8=", "request_id": "order-4711", "derivation_path": "m/1"})["replayed"] != false {
		t.Error("request_ids of two accounts are mixed up")
	}
	m.fails(logical.UpdateOperation, "sign/bob", signedOnce, 409, "with another payload")
	for _, id := range []string{"", " ", "a b", "a\n", "ä", "\x7f", strings.Repeat("x", 129)} {
		m.fails(logical.UpdateOperation, "sign/dave", map[string]any{"input": "aGVsbG8=", "request_id": id}, 400, "request_id must be 1 to 128 printable ASCII")
	}
	sign("dave", map[string]any{"input": "aGVsbG8=", "request_id": strings.Repeat("~", 128)})
	m.fails(logical.UpdateOperation, "verify/dave", map[string]any{"input": "aGVsbG8=", "signature": "AAAA", "request_id": "x"}, 400, "unknown field request_id")

	// A replay needs no nodes, and another process finds it.
	m.fake.signErr = &pool.TooFewNodesError{}
	before := signed.Load()
	if got := sign("dave", signedOnce); got["signature"] != first["signature"] {
		t.Errorf("without nodes: %v", got)
	}
	m.b.Cleanup(t.Context())
	m = openWith(t, storage, m.fake, func(c *Config) { c.now = clk.now })
	if got := sign("dave", signedOnce); got["replayed"] != true || got["signature"] != first["signature"] || signed.Load() != before {
		t.Errorf("after a restart: %v", got)
	}
	// But an account.
	m.must(logical.DeleteOperation, "destroy/dave", nil)
	m.fails(logical.UpdateOperation, "sign/dave", signedOnce, 404, "no account")
	m.create("dave", "ecdsa-p256")
	m.fake.signErr = nil
	if got := sign("dave", signedOnce); got["replayed"] != false {
		t.Errorf("the next account of the same name: %v", got)
	}
}

// TestReplayAsksTheAccount: a stored answer is given out where the account may
// sign, and only there; it follows the account to another name.
func TestReplayAsksTheAccount(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, pass)
	first := m.must(logical.UpdateOperation, "sign/dave", signedOnce)
	m.must(logical.UpdateOperation, "accounts/dave/freeze", map[string]any{"reason": "inquiry"})
	m.fails(logical.UpdateOperation, "sign/dave", signedOnce, 409, "frozen")
	m.must(logical.UpdateOperation, "accounts/dave/unfreeze", nil)
	m.must(logical.UpdateOperation, "accounts/dave/rename", map[string]any{"new_name": "david"})
	if got := m.must(logical.UpdateOperation, "sign/david", signedOnce); got["replayed"] != true || got["signature"] != first["signature"] {
		t.Errorf("under the new name: %v", got)
	}
	m.must(logical.DeleteOperation, "accounts/david", nil)
	m.fails(logical.UpdateOperation, "sign/david", signedOnce, 409, "deleted")
}

// TestStoredAnswer: what is stored, and where.
func TestStoredAnswer(t *testing.T) {
	clk := newClock()
	m := hooked(t, &logical.InmemStorage{}, pass, func(c *Config) { c.now = clk.now })
	answer := m.must(logical.UpdateOperation, "sign/alice", signedOnce)
	var id mpc.AccountID
	if err := decodeHex(m.must(logical.ReadOperation, "accounts/alice", nil)["id"].(string), id[:], "id"); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("signed-requests/%d/%x", clk.now().Unix()/3600, sha256.Sum256(append(id[:], "order-4711"...)))
	if got := m.storedAnswers(); len(got) != 1 || got[0] != want {
		t.Fatalf("stored %v, want %s", got, want)
	}
	var r signedRequestRecord
	ok, err := m.b.store.get(t.Context(), want, &r)
	if err != nil || !ok || !strings.Contains(string(r.Answer), answer["signature_hex"].(string)) || strings.Contains(string(r.Answer), "replayed") {
		t.Errorf("%+v %v", r, err)
	}
	raw, err := m.storage.Get(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("an answer is stored in %d bytes", len(raw.Value))
	// Another version's field, or a broken answer, is not taken for "never used".
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: want, Value: []byte(`{"version":4}`)}); err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, "sign/alice", signedOnce, 500, "nothing was signed")
	r.Answer = []byte("{")
	if err := m.b.store.put(t.Context(), want, &r); err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, "sign/alice", signedOnce, 500, "cannot be read")
}

// TestSignedIDCoversEverything: each part counts, and no two can be shifted into
// each other.
func TestSignedIDCoversEverything(t *testing.T) {
	base := signing{
		message: message{input: []byte("input"), kind: mpc.MessageRaw, hash: mpc.HashSHA256, derivation: mpc.Derivation{Path: "m/1", TaprootTweak: "t"}},
		account: mpc.AccountID{1}, format: formatDER, requestID: "id",
	}
	seen := map[[32]byte]string{base.signedID().payload: "base"}
	for name, change := range map[string]func(q *signing){
		"account": func(q *signing) { q.account[15] = 9 },
		"kind":    func(q *signing) { q.kind = mpc.MessageDigest },
		"hash":    func(q *signing) { q.hash = mpc.HashKeccak256 },
		"format":  func(q *signing) { q.format = formatJWS },
		"path":    func(q *signing) { q.derivation.Path = "m/2" },
		"tweak":   func(q *signing) { q.derivation.TaprootTweak = "u" },
		"input":   func(q *signing) { q.input = []byte("inpus") },
		"shifted": func(q *signing) { q.derivation = mpc.Derivation{Path: "m/", TaprootTweak: "1t"} },
		"longer":  func(q *signing) { q.derivation.TaprootTweak, q.input = "ti", []byte("nput") },
	} {
		q := base
		change(&q)
		id := q.signedID()
		if other, ok := seen[id.payload]; ok {
			t.Errorf("%s has the payload hash of %s", name, other)
		}
		seen[id.payload] = name
		if (id.key == base.signedID().key) != (name != "account") {
			t.Errorf("%s: key %x", name, id.key)
		}
	}
	other := base
	other.requestID = "id2"
	if a, b := base.signedID(), other.signedID(); a.key == b.key || a.payload != b.payload {
		t.Error("the request_id belongs to the key alone")
	}
}

// TestTwins: of many at once one signs and the others get its answer; another
// payload is refused at once.
func TestTwins(t *testing.T) {
	var signed atomic.Int64
	entered, let := make(chan struct{}, 64), make(chan struct{})
	a := &answers{Storage: &logical.InmemStorage{}}
	m := hooked(t, a, func(ctx context.Context, q pool.SignRequest) error {
		signed.Add(1)
		entered <- struct{}{}
		select {
		case <-let:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	type outcome struct {
		data   map[string]any
		status int
		msg    string
	}
	results := make(chan outcome, 32)
	var running sync.WaitGroup
	for range 32 {
		running.Go(func() {
			var o outcome
			o.data, o.status, o.msg = m.ask("sign/dave", signedOnce)
			results <- o
		})
	}
	<-entered
	m.fails(logical.UpdateOperation, "sign/dave", map[string]any{"input": "aGVsbG9v", "request_id": "order-4711"}, 409, "is being signed")
	// A twin whose client goes away does not wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "sign/dave", Data: signedOnce, Storage: m.storage}); err == nil {
		t.Error("a cancelled twin got an answer")
	}
	close(let)
	running.Wait()
	close(results)
	replayed, signature := 0, any(nil)
	for o := range results {
		if o.status != 200 {
			t.Fatalf("%d %s", o.status, o.msg)
		}
		if signature == nil {
			signature = o.data["signature"]
		}
		if o.data["signature"] != signature {
			t.Error("twins have different signatures")
		}
		if o.data["replayed"] == true {
			replayed++
		}
	}
	// Who came when the answer was stored already has read it, once each.
	if a.puts.Load() != 1 || a.gets.Load() > 31 {
		t.Errorf("%d writes, %d reads", a.puts.Load(), a.gets.Load())
	}
	if replayed != 31 || signed.Load() != 1 || len(m.b.signed.running) != 0 {
		t.Errorf("%d replayed, %d signed, %d still running", replayed, signed.Load(), len(m.b.signed.running))
	}
}

// TestFailedTwin: what fails is not stored, and the twin that waited tries
// itself, with any payload.
func TestFailedTwin(t *testing.T) {
	var signed atomic.Int64
	entered, let := make(chan struct{}, 2), make(chan struct{})
	m := hooked(t, &logical.InmemStorage{}, func(ctx context.Context, q pool.SignRequest) error {
		if signed.Add(1) > 1 {
			return nil
		}
		entered <- struct{}{}
		<-let
		return &pool.NoEligibleNodeError{Index: 1}
	})
	var running sync.WaitGroup
	var failed, went atomic.Int64
	for range 8 {
		running.Go(func() {
			if _, status, _ := m.ask("sign/alice", signedOnce); status == 503 {
				failed.Add(1)
			} else if status == 200 {
				went.Add(1)
			}
		})
	}
	<-entered
	if n := len(m.storedAnswers()); n != 0 {
		t.Errorf("%d answers before there is one", n)
	}
	close(let)
	running.Wait()
	if failed.Load() != 1 || went.Load() != 7 || signed.Load() != 2 || len(m.storedAnswers()) != 1 {
		t.Errorf("%d failed, %d went through, %d signed", failed.Load(), went.Load(), signed.Load())
	}
}

// TestAnswerNotStored: a signature whose answer is not stored is not given out,
// and the repetition finds what storage holds.
func TestAnswerNotStored(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			var signed atomic.Int64
			a := &answers{Storage: &logical.InmemStorage{}}
			m := hooked(t, a, signCounter(&signed))
			a.failPuts.Store(true)
			a.failPutsLate.Store(late)
			m.fails(logical.UpdateOperation, "sign/alice", signedOnce, 503, "repeat the request with the same request_id")
			a.failPuts.Store(false)
			got := m.must(logical.UpdateOperation, "sign/alice", signedOnce)
			if got["replayed"] != late || (signed.Load() == 1) != late {
				t.Errorf("%v after %d signatures", got, signed.Load())
			}
		})
	}
	// What cannot be looked up is not signed.
	var signed atomic.Int64
	a := &answers{Storage: &logical.InmemStorage{}}
	m := hooked(t, a, signCounter(&signed))
	a.failLists.Store(true)
	m.b.signed.invalidate()
	m.fails(logical.UpdateOperation, "sign/alice", signedOnce, 500, "nothing was signed")
	a.failLists.Store(false)
	m.must(logical.UpdateOperation, "sign/alice", signedOnce)
	a.failGets.Store(true)
	n := signed.Load()
	m.fails(logical.UpdateOperation, "sign/alice", signedOnce, 500, "nothing was signed")
	if signed.Load() != n || n != 1 {
		t.Errorf("%d signatures", signed.Load())
	}
}

// TestClientLeaves: the answer of a client that is gone when nodes have signed
// is stored all the same.
func TestClientLeaves(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	m := hooked(t, &logical.InmemStorage{}, pass, func(c *Config) {
		c.step = func(_ context.Context, name string) error {
			if name == stepSignMade {
				leave()
			}
			return nil
		}
	})
	m.storage = &strict{m.storage} // as over gRPC
	m.b.store.s = m.storage
	if _, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "sign/alice", Data: signedOnce, Storage: m.storage}); err != nil {
		t.Fatal(err)
	}
	if got := m.must(logical.UpdateOperation, "sign/alice", signedOnce); got["replayed"] != true {
		t.Errorf("%v", got)
	}
}

// strict is a storage that heeds contexts.
type strict struct{ logical.Storage }

func (s *strict) Put(ctx context.Context, e *logical.StorageEntry) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.Storage.Put(ctx, e)
}

// TestAnswersExpire: after a day a request_id is free, and whole hours are
// deleted, in passes that may fail.
func TestAnswersExpire(t *testing.T) {
	clk, a := newClock(), &answers{Storage: &logical.InmemStorage{}}
	m := hooked(t, a, pass, func(c *Config) { c.now = clk.now })
	clk.add(time.Hour - time.Duration(clk.now().Unix()%3600)*time.Second + 10*time.Minute) // ten past
	id := func(n int) map[string]any {
		return map[string]any{"input": "aGVsbG8=", "request_id": fmt.Sprint("id-", n)}
	}
	replayed := func(n int) any { return m.must(logical.UpdateOperation, "sign/alice", id(n))["replayed"] }
	expire := func() (int, error) { return m.b.signed.expire(t.Context()) }
	for n := range 4 {
		replayed(n)
	}
	clk.add(24*time.Hour - time.Minute)
	if replayed(0) != true {
		t.Error("after 23:59 the answer is gone")
	}
	if n, err := expire(); n != 0 || err != nil {
		t.Errorf("after 23:59 %d were deleted: %v", n, err)
	}
	clk.add(2 * time.Minute)
	if replayed(0) != false || replayed(0) != true { // in another hour now
		t.Error("after 24:01 the request_id is not free, or not taken again")
	}
	if n, err := expire(); n != 0 || err != nil || len(m.storedAnswers()) != 5 {
		t.Errorf("within the hour %d were deleted: %v", n, err)
	}
	clk.add(time.Hour)
	a.failDeletes.Store(true)
	if n, err := expire(); n != 0 || err == nil {
		t.Errorf("%d were deleted by a storage that does not answer: %v", n, err)
	}
	a.failDeletes.Store(false)
	if n, err := expire(); n != 4 || err != nil || len(m.storedAnswers()) != 1 {
		t.Errorf("%d were deleted, %v left: %v", n, m.storedAnswers(), err)
	}
	if replayed(0) != true || replayed(1) != false {
		t.Error("the later answer is gone, or an expired one is not")
	}
	clk.add(26 * time.Hour)
	// The periodic function does it by itself.
	if err := m.b.periodic(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if len(m.storedAnswers()) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if left := m.storedAnswers(); len(left) != 0 {
		t.Errorf("%v left", left)
	}
	m.b.signed.index.mu.Lock()
	defer m.b.signed.index.mu.Unlock()
	if x := m.b.signed.index; x.count != 0 || len(x.hours) != 0 {
		t.Errorf("%d keys in %d hours are remembered", x.count, len(x.hours))
	}
}

// TestExpirePassIsBounded: a pass ends after so many, and the next goes on.
func TestExpirePassIsBounded(t *testing.T) {
	clk, a := newClock(), &answers{Storage: &logical.InmemStorage{}}
	m := openWith(t, a, newFake(t), func(c *Config) { c.now = clk.now })
	for n := range maxExpired + 5 {
		key := fmt.Sprintf("%s%d/%064x", prefixSigned, 100+n%3, n)
		if err := a.Storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{maxExpired, 5, 0} {
		if n, err := m.b.signed.expire(t.Context()); n != want || err != nil {
			t.Errorf("a pass deleted %d, want %d: %v", n, want, err)
		}
	}
	a.failLists.Store(true)
	if _, err := m.b.signed.expire(t.Context()); err == nil {
		t.Error("no error without a list")
	}
}

// TestSignedIndex: a new request_id costs no read, and what another server wrote
// is found once it is known.
func TestSignedIndex(t *testing.T) {
	a := &answers{Storage: &logical.InmemStorage{}}
	m := hooked(t, a, pass)
	sign := func(id string) any {
		return m.must(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8=", "request_id": id})["replayed"]
	}
	sign("first")
	gets, lists, puts := a.gets.Load(), a.lists.Load(), a.puts.Load()
	for n := range 50 {
		if sign(fmt.Sprint(n)) != false {
			t.Errorf("%d was there", n)
		}
	}
	if a.gets.Load() != gets || a.lists.Load() != lists || a.puts.Load() != puts+50 {
		t.Errorf("50 new request_ids cost %d reads, %d lists and %d writes", a.gets.Load()-gets, a.lists.Load()-lists, a.puts.Load()-puts)
	}
	if sign("7") != true || a.gets.Load() != gets+1 {
		t.Errorf("an old one cost %d reads", a.gets.Load()-gets)
	}
	// Another server's answer.
	other := openWith(t, a, m.fake, func(*Config) {})
	if other.must(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8=", "request_id": "elsewhere"})["replayed"] != false {
		t.Error("elsewhere was there")
	}
	for _, k := range m.storedAnswers() {
		m.b.InvalidateKey(t.Context(), k)
	}
	if sign("elsewhere") != true {
		t.Error("another server's answer is not found")
	}
}

// TestSignedIndexIsBounded: where there are too many to remember, storage is
// asked.
func TestSignedIndexIsBounded(t *testing.T) {
	s := &logical.InmemStorage{}
	x := newSignedIndex(bareStore(s))
	x.limit = 10
	key := func(hour, n int) (k [32]byte) { return sha256.Sum256(fmt.Appendf(nil, "%d/%d", hour, n)) }
	for n := range 8 {
		k := key(5, n)
		if err := s.Put(t.Context(), &logical.StorageEntry{Key: fmt.Sprintf("%s5/%s", prefixSigned, hex.EncodeToString(k[:])), Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(k [32]byte, oldest int64, want string) {
		t.Helper()
		if got, err := x.hoursWith(t.Context(), k, oldest); err != nil || fmt.Sprint(got) != want {
			t.Errorf("hours %v, want %s: %v", got, want, err)
		}
	}
	ask(key(5, 3), 0, "[5]")
	ask(key(5, 99), 0, "[]")
	ask(key(5, 3), 6, "[]")
	x.add(5, key(5, 3)) // again
	for n := range 5 {
		x.add(7, key(7, n))
	}
	ask(key(7, 1), 0, "[7]")
	ask(key(7, 99), 0, "[7]") // any key may be there
	ask(key(5, 3), 0, "[7 5]")
	if x.count > x.limit {
		t.Errorf("%d keys are remembered, the bound is %d", x.count, x.limit)
	}
	x.forget(8)
	if x.count != 0 || len(x.hours) != 0 {
		t.Errorf("%d keys of %d hours after all were forgotten", x.count, len(x.hours))
	}
}

// BenchmarkRequestID is a BIP-340 request without nodes and without a round trip
// to Vault: what a request_id costs the backend itself.
func BenchmarkRequestID(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("request_id=%v", with), func(b *testing.B) {
			storage := &logical.InmemStorage{}
			lb, err := Factory(Config{
				NewEngine: func(EngineConfig) Engine { return instantEngine{newFake(nil)} },
				Modules:   testModules,
			})(b.Context(), &logical.BackendConfig{StorageView: storage, System: logical.TestSystemView()})
			if err != nil {
				b.Fatal(err)
			}
			defer lb.Cleanup(context.Background())
			request := func(op logical.Operation, path string, data map[string]any) {
				if _, err := lb.HandleRequest(b.Context(), &logical.Request{Operation: op, Path: path, Data: data, Storage: storage}); err != nil {
					b.Fatal(err)
				}
			}
			request(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
			request(logical.CreateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"})
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				data := map[string]any{"input": "aGVsbG8="}
				if with {
					n++
					data["request_id"] = fmt.Sprint(n)
				}
				request(logical.UpdateOperation, "sign/alice", data)
			}
		})
	}
}
