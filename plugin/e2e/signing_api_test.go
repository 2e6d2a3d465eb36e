//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// derOf encodes r‖s for OpenSSL.
func derOf(t testing.TB, compact []byte) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(compact[:32]))
		b.AddASN1BigInt(new(big.Int).SetBytes(compact[32:]))
	})
	return b.BytesOrPanic()
}

// TestSignatureFormats: every format of every algorithm holds a signature that
// independent software takes, and verify/ takes it back in this format only.
func TestSignatureFormats(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	message := []byte("in every format")
	formats := map[string][]string{
		bip340: {"compact"}, ed25519: {"compact", "jws"}, ecdsaP256: {"der", "compact", "jws"}, ecdsaCurve: {"der", "compact", "ethereum", "jws"},
	}
	for algorithm, own := range formats {
		t.Run(algorithm, func(t *testing.T) {
			name := "format-" + algorithm
			account := e.create(t, name, algorithm, 2, 3)
			for _, format := range own {
				answer := e.write(t, "sign/"+name, map[string]any{"input": b64(message), "signature_format": format})
				if answer["signature_format"] != format {
					t.Errorf("%s: the answer says %v", format, answer["signature_format"])
				}
				encoding := base64.StdEncoding
				if format == "jws" {
					encoding = base64.RawURLEncoding
				}
				sig, err := encoding.DecodeString(text(answer, "signature"))
				if err != nil || hex.EncodeToString(sig) != answer["signature_hex"] {
					t.Fatalf("%s: %v: %v", format, answer, err)
				}
				native := sig
				switch {
				case format == "ethereum":
					if len(sig) != 65 {
						t.Fatalf("ethereum: %x", sig)
					}
					digest := sha256.Sum256(message)
					key, _, err := ecdsa.RecoverCompact(append([]byte{sig[64]}, sig[:64]...), digest[:])
					if err != nil || hex.EncodeToString(key.SerializeCompressed()) != account["public_key_hex"] {
						t.Errorf("ethereum: %x does not recover the account's key: %v", sig, err)
					}
					native = derOf(t, sig[:64])
				case format != "der" && (algorithm == ecdsaCurve || algorithm == ecdsaP256):
					if len(sig) != 64 {
						t.Fatalf("%s: %x", format, sig)
					}
					native = derOf(t, sig)
				}
				if err := verifySignature(algorithm, text(account, "public_key_hex"), text(account, "public_key"), message, native); err != nil {
					t.Errorf("%s: %v", format, err)
				}
				for _, other := range own {
					s, err := e.Client.Logical().Write(e.path+"/verify/"+name, map[string]any{"input": b64(message), "signature": answer["signature"], "signature_format": other})
					valid := err == nil && s.Data["valid"] == true
					same := other == format
					if other != format && len(sig) == 64 && (other == "compact" || other == "jws") && !strings.ContainsAny(text(answer, "signature"), "-_+/=") {
						continue // one text stands for the same bytes in both
					}
					if valid != same {
						t.Errorf("a signature in %s asked about as %s: %v %v", format, other, s, err)
					}
				}
			}
			for _, wrong := range []string{"der", "compact", "ethereum", "jws", "DER", "raw"} {
				if !strings.Contains(strings.Join(own, " "), wrong) {
					e.refuse(t, "sign/"+name, map[string]any{"input": b64(message), "signature_format": wrong}, badRequest, "signature_format", own[0])
				}
			}
		})
	}
}

// post makes a request as curl does, and returns the status and the whole body.
func (e *engine) post(t testing.TB, path string, body any, headers ...string) (int, map[string]any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.Addr+"/v1/"+e.path+"/"+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", e.RootToken)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&answer); err != nil {
		t.Fatalf("%d %s: %v", resp.StatusCode, text, err)
	}
	return resp.StatusCode, answer
}

// results returns batch_results of the data of an answer.
func results(t testing.TB, data map[string]any) []map[string]any {
	t.Helper()
	list, _ := data["batch_results"].([]any)
	out := make([]map[string]any, len(list))
	for i := range list {
		out[i], _ = list[i].(map[string]any)
	}
	if len(out) == 0 {
		t.Fatalf("no batch_results in %v", data)
	}
	return out
}

// TestBatch: what a batch with failures looks like to the Go client, to plain
// HTTP and to the CLI.
func TestBatch(t *testing.T) {
	e := shared(t)
	account := e.create(t, "batch-api", bip340, 2, 3)
	good, bad := map[string]any{"input": b64([]byte("one")), "reference": "r1"}, map[string]any{"input": "%%%", "reference": "r2"}
	one := func(t *testing.T, r map[string]any, message, reference string) {
		t.Helper()
		sig, _ := base64.StdEncoding.DecodeString(text(r, "signature"))
		if err := verifySignature(bip340, text(account, "public_key_hex"), "", []byte(message), sig); err != nil || text(r, "reference") != reference {
			t.Errorf("%v: %v", r, err)
		}
	}
	t.Run("all well", func(t *testing.T) {
		answer := e.write(t, "sign/batch-api", map[string]any{"batch_input": []any{good, map[string]any{"input": b64([]byte("two"))}}})
		r := results(t, answer)
		one(t, r[0], "one", "r1")
		one(t, r[1], "two", "")
		if len(answer) != 1 || len(r) != 2 {
			t.Errorf("%v", answer)
		}
	})
	partly := map[string]any{"batch_input": []any{good, bad}}
	with := func(code int) map[string]any {
		return map[string]any{"batch_input": []any{good, bad}, "partial_failure_response_code": code}
	}
	t.Run("plain HTTP", func(t *testing.T) {
		for _, c := range []struct {
			body       map[string]any
			want, good int
		}{
			{partly, 400, 1}, {with(200), 200, 1}, {with(207), 207, 1}, {with(422), 422, 1}, {with(503), 503, 1},
			{map[string]any{"batch_input": []any{bad, bad}, "partial_failure_response_code": 200}, 400, 0},
		} {
			status, answer := e.post(t, "sign/batch-api", c.body)
			data, _ := answer["data"].(map[string]any)
			r := results(t, data)
			if status != c.want || len(r) != 2 || text(r[1], "error") == "" || integer(r[1], "error_status") != 400 || text(r[1], "reference") != "r2" {
				t.Errorf("%v: %d %v", c.body, status, answer)
			}
			if c.good > 0 {
				one(t, r[0], "one", "r1")
			}
			if errors, _ := answer["errors"].([]any); (len(errors) == 1) != (c.want >= 400) || answer["request_id"] == "" {
				t.Errorf("%d: %v", status, answer)
			}
		}
	})
	t.Run("Go client", func(t *testing.T) {
		e.refuse(t, "sign/batch-api", partly, 400, "1 of 2 items failed", "batch_input[1]", "not base64")
		for _, code := range []int{200, 207} {
			r := results(t, e.write(t, "sign/batch-api", with(code)))
			one(t, r[0], "one", "r1")
		}
	})
	t.Run("CLI", func(t *testing.T) {
		list := `[{"input":"b25l","reference":"r1"},{"input":"%"}]`
		got := e.CLI(t, "write", "mpc/sign/batch-api", "batch_input="+list)
		if got.Code != 2 || !strings.Contains(got.Stderr, "Code: 400") || !strings.Contains(got.Stderr, "1 of 2 items failed") {
			t.Errorf("%+v", got)
		}
		got = e.CLI(t, "write", "-format=json", "mpc/sign/batch-api", "partial_failure_response_code=207", "batch_input="+list)
		var answer struct{ Data map[string]any }
		if err := json.Unmarshal([]byte(got.Stdout), &answer); err != nil || got.Code != 0 {
			t.Fatalf("%+v: %v", got, err)
		}
		one(t, results(t, answer.Data)[0], "one", "r1")
	})
	t.Run("curl", func(t *testing.T) {
		curl, err := exec.LookPath("curl")
		if err != nil {
			t.Skip("curl is not installed")
		}
		cmd := exec.CommandContext(t.Context(), curl, "-sS", "-H", "@-", "-w", "\n%{http_code}", "-d", `{"batch_input":[{"input":"b25l","reference":"r1"},{"input":"%"}]}`, e.Addr+"/v1/mpc/sign/batch-api")
		cmd.Stdin = strings.NewReader("X-Vault-Token: " + e.RootToken + "\n")
		out, err := cmd.Output()
		body, status, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if i := strings.LastIndexByte(strings.TrimSpace(string(out)), '\n'); i > 0 {
			body, status = string(out)[:i], strings.TrimSpace(string(out)[i:])
		}
		var answer struct{ Data map[string]any }
		if err != nil || status != "400" || json.Unmarshal([]byte(body), &answer) != nil {
			t.Fatalf("%s: %v", out, err)
		}
		one(t, results(t, answer.Data)[0], "one", "r1")
	})
	t.Run("wrapped", func(t *testing.T) {
		status, answer := e.post(t, "sign/batch-api", map[string]any{"batch_input": []any{good}}, "X-Vault-Wrap-TTL", "60s")
		if wrap, _ := answer["wrap_info"].(map[string]any); status != 200 || text(wrap, "token") == "" {
			t.Errorf("%d %v", status, answer)
		}
		// The status of a batch with failures is wrapped as well.
		status, answer = e.post(t, "sign/batch-api", with(207), "X-Vault-Wrap-TTL", "60s")
		wrap, _ := answer["wrap_info"].(map[string]any)
		if status != 200 || answer["data"] != nil {
			t.Errorf("%d %v", status, answer)
		}
		status, answer = (&engine{e.Vault, "sys/wrapping"}).post(t, "unwrap", map[string]any{"token": wrap["token"]})
		if data, _ := answer["data"].(map[string]any); status != 207 || len(results(t, data)) != 2 {
			t.Errorf("%d %v", status, answer)
		}
	})
	t.Run("verify", func(t *testing.T) {
		r := results(t, e.write(t, "sign/batch-api", map[string]any{"batch_input": []any{good}}))
		status, answer := e.post(t, "verify/batch-api", map[string]any{"batch_input": []any{
			map[string]any{"input": good["input"], "signature": r[0]["signature"], "reference": "right"},
			map[string]any{"input": b64([]byte("other")), "signature": r[0]["signature"]},
			map[string]any{"input": b64([]byte("other"))},
		}})
		data, _ := answer["data"].(map[string]any)
		v := results(t, data)
		if status != 400 || v[0]["valid"] != true || v[0]["reference"] != "right" || v[1]["valid"] != false || integer(v[2], "error_status") != 400 {
			t.Errorf("%d %v", status, answer)
		}
	})
	t.Run("128", func(t *testing.T) {
		var items []any
		for i := range 128 {
			items = append(items, map[string]any{"input": b64(fmt.Appendf(nil, "message %d", i))})
		}
		began := time.Now()
		r := results(t, e.write(t, "sign/batch-api", map[string]any{"batch_input": items}))
		took := time.Since(began)
		began = time.Now()
		for i := range 128 {
			if _, err := e.trySign("batch-api", fmt.Appendf(nil, "message %d", i)); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("128 BIP-340 signatures in one batch took %v, one request after another %v", took, time.Since(began))
		for i := range 128 {
			one(t, r[i], fmt.Sprintf("message %d", i), "")
		}
	})
	t.Run("ECDSA", func(t *testing.T) {
		e.waitAuxiliary(t)
		account := e.create(t, "batch-ecdsa", ecdsaCurve, 2, 3)
		var items []any
		for i := range 3 {
			items = append(items, map[string]any{"input": b64(fmt.Appendf(nil, "message %d", i))})
		}
		r := results(t, e.write(t, "sign/batch-ecdsa", map[string]any{"batch_input": items, "signature_format": "der"}))
		for i := range r {
			sig, _ := base64.StdEncoding.DecodeString(text(r[i], "signature"))
			if err := verifySignature(ecdsaCurve, "", text(account, "public_key"), fmt.Appendf(nil, "message %d", i), sig); err != nil {
				t.Errorf("item %d: %v: %v", i, r[i], err)
			}
		}
	})
}

// TestRequestID: repeated requests on storage that lasts.
func TestRequestID(t *testing.T) {
	e := sharedRaft(t)
	e.create(t, "repeated", bip340, 2, 3)
	e.create(t, "repeated-2", bip340, 2, 3)
	request := func(message, id string) map[string]any {
		return map[string]any{"input": b64([]byte(message)), "request_id": id}
	}
	first := e.write(t, "sign/repeated", request("pay", "id-1"))
	e.check(t, "repeated", []byte("pay"), first)
	if first["replayed"] != false || first["request_id"] != "id-1" {
		t.Errorf("the first answer: %v", first)
	}
	same := func(t *testing.T, answer map[string]any) {
		t.Helper()
		if answer["replayed"] != true || answer["session_id"] != first["session_id"] || answer["signature"] != first["signature"] {
			t.Errorf("repeated: %v, first: %v", answer, first)
		}
	}
	same(t, e.write(t, "sign/repeated", request("pay", "id-1")))
	e.refuse(t, "sign/repeated", request("pay more", "id-1"), 409, "request_id", "another payload")
	if other := e.write(t, "sign/repeated-2", request("pay", "id-1")); other["replayed"] != false {
		t.Errorf("the same request_id of another account: %v", other)
	}
	for _, id := range []string{"", "a b", "ä", strings.Repeat("x", 129)} {
		e.refuse(t, "sign/repeated", request("pay", id), 400, "request_id must be 1 to 128 printable ASCII")
	}

	t.Run("twins", func(t *testing.T) {
		var wg sync.WaitGroup
		answers, errs := make([]map[string]any, 16), make([]error, 16)
		c := newClient(t, e.Vault, e.path)
		for i := range answers {
			wg.Go(func() { answers[i], errs[i] = c.write(t.Context(), "sign/repeated", request("twins", "id-twins")) })
		}
		wg.Wait()
		signed := 0
		for i, a := range answers {
			if errs[i] != nil || a["session_id"] != answers[0]["session_id"] {
				t.Errorf("%v %v", a, errs[i])
			}
			if a["replayed"] == false {
				signed++
			}
		}
		if signed != 1 {
			t.Errorf("%d of 16 twins signed", signed)
		}
	})
	t.Run("in a batch", func(t *testing.T) {
		status, answer := e.post(t, "sign/repeated", map[string]any{"batch_input": []any{
			request("pay", "id-1"), request("new", "id-2"), request("new", "id-2"), request("newer", "id-2"),
		}})
		data, _ := answer["data"].(map[string]any)
		r := results(t, data)
		same(t, r[0])
		if status != 400 || r[1]["replayed"] != false || r[2]["replayed"] != true || r[2]["signature"] != r[1]["signature"] || integer(r[3], "error_status") != 409 {
			t.Errorf("%d %v", status, answer)
		}
	})
	t.Run("after a reload", func(t *testing.T) {
		e.write(t, "../sys/plugins/reload/backend", map[string]any{"mounts": e.path})
		e.await(t, 30*time.Second, "answer after the reload", func() bool {
			answer, err := newClient(t, e.Vault, e.path).write(t.Context(), "sign/repeated", request("pay", "id-1"))
			if err == nil {
				same(t, answer)
			}
			return err == nil
		})
		e.waitNodes(t, 3)
	})
	t.Run("cost", func(t *testing.T) {
		cost := func(id bool) time.Duration {
			began := time.Now()
			for i := range 100 {
				r := map[string]any{"input": b64(fmt.Appendf(nil, "%d", i))}
				if id {
					r["request_id"] = fmt.Sprintf("cost-%d", i)
				}
				e.write(t, "sign/repeated", r)
			}
			return time.Since(began) / 100
		}
		cost(false)
		without, with := cost(false), cost(true)
		t.Logf("a signature on Raft takes %v, with a request_id %v", without, with)
	})
}

// TestRequestIDFailover: a request that the killed active server answered is
// answered alike by the next one.
func TestRequestIDFailover(t *testing.T) {
	c := harness.StartCluster(t, 3)
	c.Enable(t, "mpc")
	e := &engine{c.Leader(t), "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	e.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	request := map[string]any{"input": b64([]byte("once")), "request_id": "order-4711"}
	first := e.write(t, "sign/alice", request)
	old, _ := c.KillLeader(t)
	leader := c.AwaitElection(t, old).Leader
	next := newClient(t, leader, "mpc")
	var answer map[string]any
	awaitTrue(t, signsWithin, "answer from the new active server", func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := next.write(ctx, "sign/alice", request)
		answer = got
		return err == nil
	})
	if answer["replayed"] != true || answer["signature"] != first["signature"] || answer["session_id"] != first["session_id"] {
		t.Errorf("the new active server answers %v, the old one %v", answer, first)
	}
	(&engine{leader, "mpc"}).refuse(t, "sign/alice", map[string]any{"input": b64([]byte("twice")), "request_id": "order-4711"}, 409, "another payload")
	c.Rejoin(t, old)
}

// TestRequestIDKilled: the plugin dies between signing and storing, and after
// storing; the repeated request is answered either way, and signed anew only in
// the first case.
func TestRequestIDKilled(t *testing.T) {
	dir := os.Getenv("MPC_FAULTS_PLUGIN_DIR")
	if dir == "" {
		t.Fatal("MPC_FAULTS_PLUGIN_DIR is not set; run the suite with make e2e")
	}
	orders := t.TempDir()
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft, PluginDir: dir, PluginEnv: []string{"MPC_FAULTS=" + orders}})
	k := &killer{engine: enable(t, v, "mpc", 3), orders: orders, victim: "kill-plugin", keys: map[string]any{}}
	k.keys["alice"] = k.create(t, "alice", bip340, 2, 3)["public_key_hex"]
	for step, replayed := range map[string]bool{
		"sign: nodes have signed a request that has a request_id": false,
		"sign: the answer is stored":                              true,
	} {
		request := map[string]any{"input": b64([]byte(step)), "request_id": fmt.Sprint("stored=", replayed)}
		asked := 0
		k.at(t, step, func() {
			asked++
			_ = k.do(t, v.Client, "PUT", "mpc/sign/alice", request)
		})
		answer := k.write(t, "sign/alice", request)
		k.engine.check(t, "alice", []byte(step), answer)
		if answer["replayed"] != replayed || asked != 1 {
			t.Errorf("after a kill at %q and %d requests: %v", step, asked, answer)
		}
		if again := k.write(t, "sign/alice", request); again["replayed"] != true || again["signature"] != answer["signature"] {
			t.Errorf("once more: %v, before %v", again, answer)
		}
	}
}
