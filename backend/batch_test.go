package backend

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// hookedEngine calls a function before it signs.
type hookedEngine struct {
	*fakeEngine
	before func(ctx context.Context, q pool.SignRequest) error
}

func (h *hookedEngine) Sign(ctx context.Context, q pool.SignRequest) (*pool.SignResult, error) {
	if err := h.before(ctx, q); err != nil {
		return nil, err
	}
	return h.fakeEngine.Sign(ctx, q)
}

// hooked returns a mount with the accounts alice (BIP-340), bob (secp256k1),
// carol (Ed25519) and dave (P-256) whose signatures pass the hook first.
func hooked(t *testing.T, storage logical.Storage, before func(ctx context.Context, q pool.SignRequest) error, change ...func(*Config)) *mount {
	t.Helper()
	m := openWith(t, storage, newFake(t), func(c *Config) {
		inner := c.NewEngine
		c.NewEngine = func(ec EngineConfig) Engine { return &hookedEngine{inner(ec).(*fakeEngine), before} }
		for _, f := range change {
			f(c)
		}
	})
	configure(m)
	for name, algorithm := range map[string]string{"alice": "bip340-secp256k1", "bob": "ecdsa-secp256k1", "carol": "ed25519", "dave": "ecdsa-p256"} {
		m.create(name, algorithm)
	}
	return m
}

func pass(context.Context, pool.SignRequest) error { return nil }

// b64s is an input.
func b64s(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// batchOf sends a batch and returns its status, results, warnings and the error
// text that clients show.
func (m *mount) batchOf(path string, data map[string]any) (status int, results []map[string]any, warnings []string, text string) {
	m.t.Helper()
	var body map[string]any
	raw, err := json.Marshal(data)
	if err == nil {
		err = json.Unmarshal(raw, &body)
	}
	if err != nil {
		m.t.Error(err)
		return
	}
	resp, err := m.b.HandleRequest(context.Background(), &logical.Request{ID: "the-request", Operation: logical.UpdateOperation, Path: path, Data: body, Storage: m.storage})
	status, text = answer(resp, err)
	if status != http.StatusOK {
		return status, nil, nil, text
	}
	if resp.Data[logical.HTTPStatusCode] == nil {
		results, _ = resp.Data["batch_results"].([]map[string]any)
		if len(resp.Data) != 1 {
			m.t.Errorf("beside batch_results: %v", resp.Data)
		}
		return status, results, resp.Warnings, ""
	}
	var out struct {
		RequestID string `json:"request_id"`
		Data      struct {
			Results []map[string]any `json:"batch_results"`
		}
		Warnings, Errors []string
	}
	if err := json.Unmarshal([]byte(resp.Data[logical.HTTPRawBody].(string)), &out); err != nil || out.RequestID != "the-request" || resp.Data[logical.HTTPContentType] != "application/json" {
		m.t.Errorf("%v: %v", resp.Data, err)
	}
	return resp.Data[logical.HTTPStatusCode].(int), out.Data.Results, out.Warnings, strings.Join(out.Errors, "\n")
}

func items(of ...map[string]any) map[string]any { return map[string]any{"batch_input": of} }

// TestBatchResults: results in order, defaults, references, warnings.
func TestBatchResults(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, pass)
	request := items(
		map[string]any{"input": b64s("a"), "reference": "first"},
		map[string]any{"input": b64s("b"), "hash_algorithm": "sha2-256", "signature_format": "jws"},
		map[string]any{"input": "?", "reference": "third"},
		map[string]any{"input": b64s("d"), "derivation_path": "m/0'"},
		map[string]any{"input": b64s("e"), "derivation_path": "m/1", "reference": "fifth"},
		map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, 32)), "message_type": "digest"},
	)
	request["hash_algorithm"], request["signature_format"] = "keccak-256", "ethereum"
	status, results, warnings, text := m.batchOf("sign/bob", request)
	if status != 400 || len(results) != 6 || !strings.Contains(text, "2 of 6 items failed") || !strings.Contains(text, "batch_input[2]: input is not base64") {
		t.Fatalf("%d %v %q", status, results, text)
	}
	for i, want := range []map[string]any{
		{"signature_format": "ethereum", "reference": "first"},
		{"signature_format": "jws"},
		{"error_status": float64(400), "reference": "third"},
		{"error_status": float64(400)},
		{"derivation_path": "m/1", "reference": "fifth"},
		{"digest": strings.Repeat("00", 32)},
	} {
		for k, v := range want {
			if results[i][k] != v {
				t.Errorf("item %d: %s is %v, want %v", i, k, results[i][k], v)
			}
		}
		if (results[i]["error"] == nil) == (results[i]["signature"] == nil) || want["reference"] == nil && results[i]["reference"] != nil {
			t.Errorf("item %d: %v", i, results[i])
		}
	}
	if fmt.Sprint(warnings) != "[batch_input[5]: hash_algorithm=keccak-256 was ignored: with message_type=digest the input is signed as it is]" {
		t.Errorf("warnings %q", warnings)
	}
	verifying := items(
		map[string]any{"input": b64s("a"), "signature": results[0]["signature"], "reference": "x"},
		map[string]any{"input": b64s("e"), "signature": results[4]["signature"], "derivation_path": "m/1"},
		map[string]any{"input": b64s("b"), "signature": results[1]["signature"], "hash_algorithm": "sha2-256", "signature_format": "jws"},
		map[string]any{"input": b64s("b"), "signature": results[0]["signature"]},
	)
	verifying["hash_algorithm"], verifying["signature_format"] = "keccak-256", "ethereum"
	status, valid, _, _ := m.batchOf("verify/bob", verifying)
	if fmt.Sprint(status, valid) != "200 [map[reference:x valid:true] map[valid:true] map[valid:true] map[valid:false]]" {
		t.Errorf("%d %v", status, valid)
	}
	unused := items(map[string]any{"input": b64s("a"), "hash_algorithm": "sha2-256"})
	unused["hash_algorithm"], unused["derivation_path"] = "keccak-256", "m/1"
	if status, _, warnings, _ := m.batchOf("sign/bob", unused); status != 200 || fmt.Sprint(warnings) != "[hash_algorithm was ignored: every item of batch_input has its own]" {
		t.Errorf("%d %q", status, warnings)
	}
	asText := `[{"input":"aGVsbG8=","reference":"r"}]`
	if status, results, _, _ := m.batchOf("sign/alice", map[string]any{"batch_input": asText}); status != 200 || results[0]["reference"] != "r" {
		t.Errorf("a list as text: %d %v", status, results)
	}
}

// TestBatchRefused: what is wrong with a batch as a whole.
func TestBatchRefused(t *testing.T) {
	signed := 0
	m := hooked(t, &logical.InmemStorage{}, func(context.Context, pool.SignRequest) error { signed++; return nil })
	item := map[string]any{"input": b64s("a")}
	many := make([]map[string]any, maxBatchItems+1)
	big := make([]map[string]any, maxBatchItems)
	for i := range many {
		many[i] = item
	}
	for i := range big {
		big[i] = map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, maxBatchInput/maxBatchItems+1))}
	}
	with := func(more ...any) map[string]any {
		out := items(item)
		for i := 0; i < len(more); i += 2 {
			out[more[i].(string)] = more[i+1]
		}
		return out
	}
	for _, c := range []struct {
		data map[string]any
		text string
	}{
		{map[string]any{"batch_input": []any{}}, "1 to 128 items, not 0"},
		{items(many...), "1 to 128 items, not 129"},
		{items(big...), "more than 4194304 bytes together"},
		{map[string]any{"batch_input": []any{"aGVsbG8="}}, "batch_input[0] is not an object"},
		{map[string]any{"batch_input": "aGVsbG8="}, "not a JSON list"},
		{map[string]any{"batch_input": `{"input":"aGVsbG8="}`}, "not a JSON list"},
		{map[string]any{"batch_input": `null`}, "not a JSON list"},
		{map[string]any{"batch_input": `[{"input":"aGVsbG8="}] x`}, "after the end"},
		{map[string]any{"batch_input": 7}, "batch_input"},
		{map[string]any{"batch_input": `[{"input":"aGVsbG8="},7]`}, "batch_input[1] is not an object"},
		{map[string]any{"batch_input": `[null]`}, "batch_input[0] is not an object"},
		{map[string]any{"batch_input": `[{"input":7}]`}, "must be a text"},
		{map[string]any{"batch_input": `[{"input":null}]`}, "must be a text"},
		{map[string]any{"batch_input": `[{"input":"aGVsbG8="}`}, "not a JSON list"},
		{map[string]any{"batch_input": `[{"input":"aGVsbG8="},]`}, "not a JSON list"},
		{map[string]any{"batch_input": "[" + strings.Repeat("{},", maxBatchItems) + "{}]"}, "1 to 128 items"},
		{map[string]any{"batch_input": "[]"}, "1 to 128 items, not 0"},
		{map[string]any{"batch_input": strings.Repeat(" ", maxBatchText) + "[]"}, "more than 8388608 bytes"},
		{with("input", b64s("a")), "input beside batch_input"},
		{with("request_id", "x"), "request_id beside batch_input"},
		{with("partial_failure_response_code", 199), "200 to 599"},
		{with("partial_failure_response_code", 600), "200 to 599"},
		{with("partial_failure_response_code", 0), "200 to 599"},
		{with("partial_failure_response_code", 204), "204, 205 or 3xx"},
		{with("partial_failure_response_code", 302), "204, 205 or 3xx"},
		{with("partial_failure_response_code", 207.5), "whole number"},
		{with("reference", "x"), "unknown field reference"},
	} {
		if status, _, _, text := m.batchOf("sign/alice", c.data); status != 400 || !strings.Contains(text, c.text) {
			t.Errorf("%.60v: %d %q, want %q", c.data, status, text, c.text)
		}
	}
	if status, _, _, text := m.batchOf("verify/alice", with("signature", "AAAA")); status != 400 || !strings.Contains(text, "signature beside batch_input") {
		t.Errorf("%d %q", status, text)
	}
	if status, _, _, _ := m.batchOf("sign/nobody", with()); status != 404 {
		t.Errorf("an unknown account: %d", status)
	}
	if signed != 0 {
		t.Errorf("%d signatures were made", signed)
	}
	for want, it := range map[string]map[string]any{
		"unknown field inputs":        {"inputs": b64s("a")},
		"input of an item must be":    {"input": 7},
		"input is missing":            {"reference": "x"},
		"at most 256 bytes":           {"input": b64s("a"), "reference": strings.Repeat("x", 257)},
		"unknown field signature in":  {"input": b64s("a"), "signature": "AAAA"},
		"request_id must be 1 to 128": {"input": b64s("a"), "request_id": "a b"},
	} {
		status, results, _, text := m.batchOf("sign/alice", items(item, it))
		if status != 400 || results[0]["error"] != nil || !strings.Contains(fmt.Sprint(results[1]["error"]), want) || !strings.Contains(text, want) {
			t.Errorf("%v: %d %v %q", it, status, results, text)
		}
	}
	resp, _, _ := m.do(logical.UpdateOperation, "sign/alice", map[string]any{"input": b64s("a"), "partial_failure_response_code": 207})
	if resp == nil || fmt.Sprint(resp.Warnings) != "[partial_failure_response_code was ignored: it is for batch_input]" {
		t.Errorf("%+v", resp)
	}
}

// TestBatchTextMemory: a list as text is not read further than a batch may go.
func TestBatchTextMemory(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, pass)
	for name, text := range map[string]string{
		"numbers":         "[" + strings.Repeat("0,", 500_000) + "0]",
		"lists":           "[" + strings.Repeat("[],", 330_000) + "[]]",
		"objects":         "[" + strings.Repeat(`{"a":0},`, 120_000) + "0]",
		"one of all that": `[{"input":[` + strings.Repeat("{},", 330_000) + "0]}]",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m.ask("verify/dave", map[string]any{"batch_input": text})
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
			t.Errorf("%s: %d bytes for a text of %d", name, got, len(text))
		}
	}
}

// TestBatchStatus: the status that follows from what failed.
func TestBatchStatus(t *testing.T) {
	for _, c := range []struct {
		failures       []int
		items, partial int
		want           int
	}{
		{nil, 3, 0, 200},
		{nil, 3, 207, 200},
		{[]int{400}, 3, 0, 400},
		{[]int{409, 503}, 3, 0, 400},
		{[]int{503, 400, 500}, 3, 0, 400},
		{[]int{500, 503}, 3, 0, 503},
		{[]int{429, 500}, 3, 0, 500},
		{[]int{429}, 3, 0, 429},
		{[]int{503}, 3, 207, 207},
		{[]int{400, 503}, 3, 200, 200},
		{[]int{400, 503, 500}, 3, 207, 400},
		{[]int{503, 503, 503}, 3, 207, 503},
	} {
		if got := batchStatus(c.failures, c.items, c.partial); got != c.want {
			t.Errorf("%v of %d, partial %d: %d, want %d", c.failures, c.items, c.partial, got, c.want)
		}
	}
	m := hooked(t, &logical.InmemStorage{}, func(_ context.Context, q pool.SignRequest) error {
		switch string(q.Input) {
		case "busy":
			return &pool.BusyError{Waiting: 1}
		case "none":
			return &pool.NoEligibleNodeError{Index: 1}
		}
		return nil
	})
	one := func(s string) map[string]any { return map[string]any{"input": b64s(s)} }
	status, results, _, _ := m.batchOf("sign/alice", items(one("busy"), one("ok"), one("none")))
	if status != 503 || results[0]["error_status"] != float64(429) || results[1]["signature"] == nil || results[2]["error_status"] != float64(503) {
		t.Errorf("%d %v", status, results)
	}
	partly := items(one("busy"), one("ok"))
	partly["partial_failure_response_code"] = 200
	if status, results, _, _ = m.batchOf("sign/alice", partly); status != 200 || results[0]["error_status"] != 429 {
		t.Errorf("%d %v", status, results)
	}
}

// TestBatchBound: items go side by side, but no more than the bound, and ECDSA
// by the number of processors.
func TestBatchBound(t *testing.T) {
	var now, most atomic.Int64
	m := hooked(t, &logical.InmemStorage{}, func(context.Context, pool.SignRequest) error {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(2 * time.Millisecond)
		return nil
	})
	var all []map[string]any
	for i := range maxBatchItems {
		all = append(all, map[string]any{"input": b64s(fmt.Sprint(i))})
	}
	for name, bound := range map[string]int{"alice": batchWidth, "bob": runtime.GOMAXPROCS(0)} {
		most.Store(0)
		before := runtime.NumGoroutine()
		if status, results, _, text := m.batchOf("sign/"+name, items(all...)); status != 200 || len(results) != maxBatchItems {
			t.Fatalf("%d %s", status, text)
		}
		if got := int(most.Load()); got > min(bound, batchWidth) || name == "alice" && got < 2 {
			t.Errorf("%s: up to %d items at once, the bound is %d", name, got, bound)
		}
		if after := runtime.NumGoroutine(); after > before+2 {
			t.Errorf("%d goroutines before, %d after", before, after)
		}
	}
}

// TestBatchTimeout: items that are not done in time are 503, and those that are
// have their signatures.
func TestBatchTimeout(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, func(ctx context.Context, q pool.SignRequest) error {
		if string(q.Input) == "slow" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	m.must(logical.UpdateOperation, "config/nodes", map[string]any{"session_timeout": "1s"})
	one := func(s string) map[string]any { return map[string]any{"input": b64s(s)} }
	status, results, _, text := m.batchOf("sign/bob", items(one("ok"), one("slow"), one("slow"), one("slow"), one("slow"), one("ok")))
	if status != 503 || results[0]["signature"] == nil || results[1]["error_status"] != float64(503) || !strings.Contains(text, "in time") {
		t.Errorf("%d %v %q", status, results, text)
	}
}

// TestBatchPanic: one item's panic is that item's error.
func TestBatchPanic(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, func(_ context.Context, q pool.SignRequest) error {
		if string(q.Input) == "bad" {
			panic("a value that nobody may see")
		}
		return nil
	})
	one := func(s, id string) map[string]any {
		return map[string]any{"input": b64s(s), "request_id": id}
	}
	status, results, _, text := m.batchOf("sign/alice", items(one("a", "1"), one("bad", "2"), one("b", "3"), one("bad", "2")))
	if status != 500 || results[0]["signature"] == nil || results[2]["signature"] == nil || results[1]["error_status"] != float64(500) || results[3]["error_status"] != float64(500) {
		t.Errorf("%d %v", status, results)
	}
	said := text + fmt.Sprint(results) + m.logs.String()
	if strings.Contains(said, "nobody may see") || !strings.Contains(m.logs.String(), "batch_test.go") && !strings.Contains(m.logs.String(), "TestBatchPanic") {
		t.Errorf("the panic's value, or not its place, is in %s", said)
	}
	if len(m.b.signed.running) != 0 {
		t.Error("a request_id stays taken")
	}
}

// TestBatchRequestIDs: an item that repeats the request_id of another gets its
// answer, or is refused for another payload, whatever became of the first.
func TestBatchRequestIDs(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, func(_ context.Context, q pool.SignRequest) error {
		if string(q.Input) == "fails" {
			return &pool.NoEligibleNodeError{Index: 1}
		}
		return nil
	})
	one := func(s, id string) map[string]any { return map[string]any{"input": b64s(s), "request_id": id} }
	for range 20 {
		m.b.signed.index.invalidate()
		status, results, _, _ := m.batchOf("sign/dave", items(one("fails", "x"), one("other", "x"), one("a", "y"), one("a", "y"), one("b", "y")))
		if status != 400 || results[0]["error_status"] != float64(503) || results[1]["error_status"] != float64(409) ||
			results[2]["signature"] == nil || results[3]["replayed"] != true || results[3]["signature"] != results[2]["signature"] || results[4]["error_status"] != float64(409) {
			t.Fatalf("%d %v", status, results)
		}
	}
}

// TestBatchOfDestroyedAccount: a batch never goes on with the key of another
// account that has taken the name.
func TestBatchOfDestroyedAccount(t *testing.T) {
	var m *mount
	var once sync.Once
	m = hooked(t, &logical.InmemStorage{}, func(_ context.Context, q pool.SignRequest) error {
		once.Do(func() {
			if _, status, msg := m.ask("destroy/carol", nil); status != 200 {
				t.Errorf("destroy: %d %s", status, msg)
			}
			if _, err := m.b.HandleRequest(context.Background(), &logical.Request{Operation: logical.CreateOperation, Path: "accounts/carol",
				Data: map[string]any{"algorithm": "ed25519"}, Storage: m.storage}); err != nil {
				t.Error(err)
			}
		})
		return nil
	})
	key := m.must(logical.ReadOperation, "accounts/carol", nil)["public_key_hex"]
	var all []map[string]any
	for i := range 100 {
		all = append(all, map[string]any{"input": b64s(fmt.Sprint(i))})
	}
	status, results, _, _ := m.batchOf("sign/carol", items(all...))
	refused := 0
	for i, r := range results {
		if r["error_status"] == float64(409) || r["error_status"] == float64(404) { // 404 before the name is taken again
			refused++
		} else if r["public_key"] != key {
			t.Errorf("item %d: %v", i, r)
		}
	}
	if now := m.must(logical.ReadOperation, "accounts/carol", nil)["public_key_hex"]; status != 400 || refused < 50 || now == key {
		t.Errorf("%d, %d refused, the key was %v and is %v", status, refused, key, now)
	}
}

// TestBatchEndsWithMount: Clean ends a batch under way, with all its goroutines.
func TestBatchEndsWithMount(t *testing.T) {
	entered := make(chan struct{}, maxBatchItems)
	var inside sync.WaitGroup
	inside.Add(1)
	m := hooked(t, &logical.InmemStorage{}, func(ctx context.Context, q pool.SignRequest) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	var all []map[string]any
	for i := range 40 {
		all = append(all, map[string]any{"input": b64s(fmt.Sprint(i / 2)), "request_id": fmt.Sprint(i / 2)})
	}
	ended := make(chan []map[string]any, 1)
	go func() {
		defer inside.Done()
		_, results, _, _ := m.batchOf("sign/alice", items(all...))
		ended <- results
	}()
	<-entered
	m.b.Cleanup(context.Background())
	results := <-ended
	inside.Wait()
	if len(results) != 40 {
		t.Fatalf("%d results", len(results))
	}
	for i, r := range results {
		if r["error_status"] != float64(503) {
			t.Errorf("item %d: %v", i, r)
		}
	}
}

// FuzzBatchInput: whatever a batch_input is, it is refused, or has one result
// for each item.
func FuzzBatchInput(f *testing.F) {
	f.Add(`[{"input":"aGVsbG8="}]`, "")
	f.Add(`[{"input":"aGVsbG8=","signature":"","reference":7},{}]`, "m/0")
	f.Add(`[[]]`, "")
	f.Add(`[{"input":null}]`, "x")
	f.Fuzz(func(t *testing.T, list, path string) {
		data := verifyFields(t, map[string]any{"batch_input": list, "derivation_path": path})
		for k, v := range batchFields() {
			data.Schema[k] = v
		}
		batch, err := parseBatch(data, batchItemFields("request_id", requestIDField()))
		if err != nil {
			return
		}
		if n := len(batch.items); n < 1 || n > maxBatchItems {
			t.Fatalf("%d items", n)
		}
		for i, it := range batch.items {
			if it.at != i || it.err == nil && it.data.Validate() != nil || len(it.reference) > maxReference {
				t.Fatalf("item %d: %+v", i, it)
			}
		}
	})
}
