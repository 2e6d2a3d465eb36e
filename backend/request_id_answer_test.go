package backend

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestStoredAnswerIsChecked: what storage says is the answer is given out only
// if it is one, in each of its forms.
func TestStoredAnswerIsChecked(t *testing.T) {
	m := hooked(t, &logical.InmemStorage{}, pass)
	digest := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, c := range []struct {
		account string
		data    map[string]any
	}{
		{"alice", map[string]any{"input": "aGVsbG8="}},
		{"alice", map[string]any{"input": digest, "message_type": "digest", "derivation_path": "m/1", "taproot_tweak": "bip86"}},
		{"bob", map[string]any{"input": "aGVsbG8="}},
		{"bob", map[string]any{"input": "aGVsbG8=", "message_type": "eip191", "signature_format": "ethereum", "derivation_path": "m/0/7"}},
		{"bob", map[string]any{"input": digest, "message_type": "digest", "signature_format": "compact"}},
		{"carol", map[string]any{"input": "aGVsbG8=", "signature_format": "jws"}},
		{"dave", map[string]any{"input": "aGVsbG8=", "hash_algorithm": "sha2-512", "signature_format": "jws"}},
	} {
		c.data["request_id"] = "order-4711"
		path := "sign/" + c.account
		for _, key := range m.storedAnswers() {
			if err := m.b.store.delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		first := m.must(logical.UpdateOperation, path, c.data)
		if again := m.must(logical.UpdateOperation, path, c.data); again["replayed"] != true || again["signature"] != first["signature"] {
			t.Fatalf("%s %v: %v, then %v", c.account, c.data, first, again)
		}
		// Another signature of the same key.
		other := map[string]any{}
		for k, v := range c.data {
			if k != "request_id" {
				other[k] = v
			}
		}
		other["input"] = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("z", 32)))
		foreign := m.must(logical.UpdateOperation, path, other)

		key := m.storedAnswers()[0]
		var stored signedRequestRecord
		if ok, err := m.b.store.get(t.Context(), key, &stored); err != nil || !ok {
			t.Fatal(ok, err)
		}
		good := stored.Answer
		plant := func(change func(answer map[string]any)) {
			t.Helper()
			answer, err := decodeAnswer(good)
			if err != nil {
				t.Fatal(err)
			}
			change(answer)
			if stored.Answer, err = json.Marshal(answer); err != nil {
				t.Fatal(err)
			}
			if err := m.b.store.put(t.Context(), key, &stored); err != nil {
				t.Fatal(err)
			}
			m.fails(logical.UpdateOperation, path, c.data, 500, "not given out")
		}
		plant(func(a map[string]any) { // a signature of another message, whole
			for k, v := range foreign {
				a[k] = v
			}
		})
		for field := range first {
			switch field {
			case "signature", "signature_hex", "r", "s", "public_key", "digest", "signature_format":
				plant(func(a map[string]any) { a[field] = foreign[field]; broken(a, field) })
			case "v":
				plant(func(a map[string]any) { n, _ := a["v"].(json.Number).Int64(); a["v"] = n ^ 1 })
			}
		}
		plant(func(a map[string]any) { clear(a) })
	}
}

// broken makes sure that a field is another one: some are the same for both.
func broken(answer map[string]any, field string) {
	if field == "public_key" || field == "signature_format" {
		answer[field] = "00"
	}
}
