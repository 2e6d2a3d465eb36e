package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// batchServer answers batch items as the engine does: it "signs" every input but
// those that begin with "bad".
func batchServer(t *testing.T) *server {
	s := engine(t)
	s.on("PUT mpc/sign/treasury", answerBatch(t, func(input string) string {
		if strings.HasPrefix(input, "bad") {
			return `{"error":"input is bad","error_status":400}`
		}
		return ""
	}))
	return s
}

func answerBatch(t *testing.T, fail func(input string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Items   []map[string]string `json:"batch_input"`
			Partial int                 `json:"partial_failure_response_code"`
		}
		raw, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(raw, &body)
		results, failures := []string{}, 0
		for _, item := range body.Items {
			input, _ := base64.StdEncoding.DecodeString(item["input"])
			result := fail(string(input))
			if result == "" {
				result = fmt.Sprintf(`{"signature":%q,"signature_hex":"00","signature_format":"der"}`, base64.StdEncoding.EncodeToString([]byte("sig of "+string(input))))
			} else {
				failures++
			}
			results = append(results, strings.Replace(result, "{", fmt.Sprintf(`{"reference":%q,`, item["reference"]), 1))
		}
		status := 200
		switch {
		case failures == len(results):
			status = 400
		case failures > 0:
			status = body.Partial
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"request_id":"1","data":{"batch_results":[`+strings.Join(results, ",")+`]},"warnings":null}`)
	}
}

func signBatch(t *testing.T, items string, args ...string) (result, batchDoc) {
	t.Helper()
	res := runConfig(t, Config{Args: append([]string{"account", "sign-batch", "treasury", "--file", "-", "-o", "json"}, args...), Stdin: strings.NewReader(items)})
	var doc batchDoc
	if res.stdout != "" {
		if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil {
			t.Fatalf("stdout is no document: %v\n%s", err, res.stdout)
		}
	}
	return res, doc
}

func TestSignBatch(t *testing.T) {
	s := batchServer(t)
	items := `{"text":"one","reference":"first"}
{"input":"dHdv","request_id":"r2"}

{"digest":"0xabcd","hash_algorithm":"sha2-384"}`
	res, doc := signBatch(t, items, "--format", "compact", "--hash", "sha2-256", "--message-type", "raw", "--derivation-path", "m/1")
	res.want(t, 0)
	if doc.Failed != 0 || len(doc.Results) != 3 || doc.Results[0].Reference != "first" ||
		doc.Results[1].Sign.Signature != base64.StdEncoding.EncodeToString([]byte("sig of two")) || doc.Results[2].Item != 3 || doc.Results[1].Sign.Name != "treasury" {
		t.Errorf("%s", res.stdout)
	}
	calls := s.called("PUT mpc/sign/treasury")
	if len(calls) != 1 {
		t.Fatalf("%d requests", len(calls))
	}
	got, _ := json.Marshal(calls[0].body)
	want := `{"batch_input":[{"input":"b25l","reference":"first"},{"input":"dHdv","request_id":"r2"},` +
		`{"hash_algorithm":"sha2-384","input":"q80=","message_type":"digest"}],"derivation_path":"m/1","hash_algorithm":"sha2-256",` +
		`"message_type":"raw","partial_failure_response_code":200,"signature_format":"compact"}`
	if string(got) != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	// A list says the same.
	if res, doc := signBatch(t, ` [{"text":"one"},{"text":"two"}]`); res.code != 0 || len(doc.Results) != 2 {
		t.Errorf("%+v", res)
	}
}

func TestSignBatchFailures(t *testing.T) {
	s := batchServer(t)
	items := `{"text":"good"}{"text":"bad 1","reference":"x"}`
	res, doc := signBatch(t, items)
	res.want(t, 1, "1 of 2 items were not signed", "the other signatures are good")
	if doc.Failed != 1 || doc.Results[0].Sign == nil || doc.Results[1].Error != "input is bad" || doc.Results[1].Status != 400 || doc.Results[1].Sign != nil {
		t.Errorf("%s", res.stdout)
	}
	file := filepath.Join(t.TempDir(), "items.jsonl")
	if err := os.WriteFile(file, []byte(items), 0o600); err != nil {
		t.Fatal(err)
	}
	table := run(t, "account", "sign-batch", "treasury", "--file", file)
	golden(t, "account_sign_batch.table", table.stdout)
	golden(t, "account_sign_batch.json", res.stdout)

	// All of them: the status is an error, the results are there all the same.
	res, doc = signBatch(t, `{"text":"bad 1"}{"text":"bad 2"}`)
	res.want(t, 1, "2 of 2 items")
	if doc.Failed != 2 || doc.Results[1].Error != "input is bad" {
		t.Errorf("%s", res.stdout)
	}

	// A request that fails as a whole ends it, and what was signed is shown.
	var requests atomic.Int32
	signing := answerBatch(t, func(string) string { return "" })
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 2 {
			fails(503, "no node is ready")(w, r)
			return
		}
		signing(w, r)
	})
	res, doc = signBatch(t, strings.Repeat(`{"text":"x"}`, 30))
	res.want(t, 1, "cannot sign items 5 to 20", "no node is ready")
	if doc.Failed != 26 || doc.Results[3].Sign == nil || !strings.Contains(doc.Results[4].Error, "no node is ready") ||
		doc.Results[20].Error != "not signed: an earlier request failed" || requests.Load() != 2 {
		t.Errorf("%d failed, %d requests: %+v", doc.Failed, requests.Load(), doc.Results[4])
	}

	s.on("PUT mpc/sign/treasury", data(`{"batch_results":[]}`))
	res, _ = signBatch(t, items)
	res.want(t, 1, "2 items with 0 results")
	s.on("PUT mpc/sign/treasury", data(`{"batch_results":[{},{}]}`))
	res, doc = signBatch(t, items)
	res.want(t, 1, "2 of 2 items")
	if !strings.Contains(doc.Results[0].Error, "neither a signature nor an error") {
		t.Errorf("%s", res.stdout)
	}
}

// Items that wait for auxiliary keys are sent again, and only these.
func TestSignBatchWaits(t *testing.T) {
	s := batchServer(t)
	var round atomic.Int32
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		first := round.Add(1) == 1
		answerBatch(t, func(input string) string {
			if first && input == "slow" {
				return `{"error":"` + pendingMessage + `","error_status":409}`
			}
			return ""
		})(w, r)
	})
	res, doc := signBatch(t, `{"text":"fast"}{"text":"slow"}`)
	res.want(t, 0, "Waiting: "+pendingMessage)
	calls := s.called("PUT mpc/sign/treasury")
	if doc.Failed != 0 || len(calls) != 2 {
		t.Fatalf("%d requests: %s", len(calls), res.stdout)
	}
	// One signature per item: the first was not asked for again.
	if n := strings.Count(res.stdout, `"signature":`); n != 2 {
		t.Errorf("%d signatures", n)
	}

	round.Store(0)
	res, doc = signBatch(t, `{"text":"slow"}`, "--no-wait")
	res.want(t, 1, "1 of 1 items")
	if doc.Results[0].Error != pendingMessage {
		t.Errorf("%s", res.stdout)
	}
	s.on("PUT mpc/sign/treasury", answerBatch(t, func(string) string { return `{"error":"` + pendingMessage + `","error_status":409}` }))
	res, doc = signBatch(t, `{"text":"slow"}`, "--timeout", "300ms")
	res.want(t, 1, "not everything was signed within --timeout")
	if doc.Failed != 1 || doc.Results[0].Error != pendingMessage {
		t.Errorf("%s", res.stdout)
	}
}

func TestBatchItemsRefused(t *testing.T) {
	s := batchServer(t)
	for items, says := range map[string]string{
		``:                                     "there are no items",
		`[]`:                                   "there are no items",
		`[{"text":"a"}`:                        "no JSON list",
		`{"text":"a"} nonsense`:                "item 2 is no JSON",
		`"text"`:                               "item 1: it must be an object",
		`null`:                                 "item 1: it must be an object",
		`{"text":7}`:                           "values are strings",
		`{}`:                                   "exactly one of text, digest and input",
		`{"text":"a","input":"YQ=="}`:          "exactly one of",
		`{"input":"%"}`:                        "not base64",
		`{"digest":"xy"}`:                      "not hex",
		`{"digest":"ab","message_type":"raw"}`: "not of message_type raw",
		`{"text":"a","hash":"sha2-256"}`:       `"hash" is no field`,
	} {
		res, _ := signBatch(t, items)
		res.want(t, 2, says)
	}
	run(t, "account", "sign-batch", "treasury").want(t, 2, "give --file")
	run(t, "account", "sign-batch", "treasury", "--file", "/nowhere").want(t, 2, "cannot be read")
	run(t, "account", "sign-batch", "treasury", "--file", "-", "--timeout", "0s").want(t, 2, "--timeout")
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}

// Requests become as long as their items are quick.
func TestBatchPace(t *testing.T) {
	for _, test := range []struct {
		items int
		took  time.Duration
		want  int
	}{
		{4, 0, 16}, {4, time.Millisecond, 16}, {16, 500 * time.Millisecond, 64}, {64, time.Second, 128}, {128, time.Second, 128},
		{4, 4 * time.Second, 5}, {5, 10 * time.Second, 2}, {2, time.Minute, 1}, {1, time.Hour, 1}, {1, time.Second, 4},
	} {
		if got := nextSize(test.items, test.took, batchPace); got != test.want {
			t.Errorf("after %d in %v: %d, want %d", test.items, test.took, got, test.want)
		}
	}
	s := batchServer(t)
	res, doc := signBatch(t, strings.Repeat(`{"text":"x"}`, 300))
	res.want(t, 0)
	var sizes []int
	for _, c := range s.called("PUT mpc/sign/treasury") {
		sizes = append(sizes, len(c.body["batch_input"].([]any)))
	}
	if fmt.Sprint(sizes) != "[4 16 64 128 88]" || len(doc.Results) != 300 {
		t.Errorf("%d results in requests of %v", len(doc.Results), sizes)
	}
}

// Long inputs are spread over requests that the engine takes.
func TestBatchChunks(t *testing.T) {
	s := batchServer(t)
	item := `{"text":"` + strings.Repeat("x", 500<<10) + `"}`
	res, doc := signBatch(t, strings.Repeat(item, 20))
	res.want(t, 0)
	calls := s.called("PUT mpc/sign/treasury")
	if len(doc.Results) != 20 || len(calls) < 2 {
		t.Errorf("%d results in %d requests", len(doc.Results), len(calls))
	}
	for i, c := range calls {
		size := 0
		for _, item := range c.body["batch_input"].([]any) {
			size += len(item.(map[string]any)["input"].(string))
		}
		if size > base64.StdEncoding.EncodedLen(4<<20) {
			t.Errorf("request %d has inputs of %d bytes, more than the engine takes", i, size)
		}
	}
}

func FuzzParseItems(f *testing.F) {
	for _, s := range []string{`{"text":"a"}`, `[{"input":"YQ=="},{"digest":"00"}]`, `{"text":"a","reference":"b"}` + "\n" + `{"digest":"0x"}`, `[null]`, `{`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, err := parseItems(raw)
		if err != nil {
			return
		}
		for _, item := range items {
			input, ok := item.fields["input"].(string)
			if _, err := base64.StdEncoding.DecodeString(input); !ok || err != nil || item.fields["text"] != nil || item.fields["digest"] != nil {
				t.Fatalf("%+v", item)
			}
		}
	})
}
