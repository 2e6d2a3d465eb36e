package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

// FuzzRecordCanonical: a stored record that is read and written again has one
// form, whatever form it was read in, and never grows out of its bound.
func FuzzRecordCanonical(f *testing.F) {
	golden := goldenRecords()
	for _, name := range slices.Sorted(maps.Keys(golden)) {
		raw, err := json.Marshal(golden[name])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(bytes.ReplaceAll(raw, []byte(`,`), []byte(" ,\n")))
		f.Add(bytes.Replace(raw, []byte(today), []byte(`"version":1`), 1))
	}
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":99999999999999999999}`))
	f.Add([]byte(`[[[[[[[[`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for name, golden := range goldenRecords() {
			got := empty(golden)
			if decodeRecord(raw, got) != nil {
				continue
			}
			first, err := json.Marshal(got)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			back := empty(golden)
			if err := decodeRecord(first, back); err != nil {
				t.Fatalf("%s: what was written is not read: %v", name, err)
			}
			second, err := json.Marshal(back)
			if err != nil || !bytes.Equal(first, second) {
				t.Fatalf("%s: written as %s, then as %s: %v", name, first, second, err)
			}
		}
	})
}

// FuzzSignFields: what sign and verify read of a request is either refused as
// the caller's mistake or something that the account's algorithm can sign.
func FuzzSignFields(f *testing.F) {
	f.Add(uint8(0), "aGVsbG8=", "raw", "", "", "")
	f.Add(uint8(2), "aGVsbG8=", "raw", "keccak-256", "m/0/7", "")
	f.Add(uint8(3), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "digest", "", "", "")
	f.Add(uint8(0), "aGVsbG8=", "raw", "none", "", "bip86")
	f.Add(uint8(2), "aGVsbG8=", "eip191", "", "m/1", "")
	f.Add(uint8(2), "e30=", "eip712", "keccak-256", "", "")
	f.Add(uint8(3), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "digest", "sha2-384", "", "")
	f.Add(uint8(1), "====", "digest", "md5", "m/0'", "00")
	fields := derivationFields()
	for _, name := range []string{"input", "message_type", "hash_algorithm"} {
		fields[name] = &framework.FieldSchema{Type: framework.TypeString}
	}
	f.Fuzz(func(t *testing.T, a uint8, input, kind, hash, path, tweak string) {
		algorithm := mpc.Algorithms()[int(a)%len(mpc.Algorithms())]
		data := &framework.FieldData{Schema: fields, Raw: map[string]any{"input": input, "message_type": kind,
			"hash_algorithm": hash, "derivation_path": path, "taproot_tweak": tweak}}
		m, err := parseMessage(algorithm, data)
		if err != nil {
			return
		}
		signed, err := mpc.SigningInput(algorithm, m.kind, m.hash, m.input)
		if m.kind == mpc.MessageEIP712 && errors.Is(err, mpc.ErrInput) {
			return // what is in a document is looked at where it is hashed
		}
		if err != nil || len(signed) == 0 || (algorithm.IsECDSA() && len(signed) != mpc.DigestSize) {
			t.Fatalf("%s takes %q, %q, and signs %d bytes: %v", algorithm, kind, hash, len(signed), err)
		}
		d := parseDerivation(data)
		if _, err := derive.ParsePath(d.Path); err != nil && !errors.Is(err, derive.ErrPath) {
			t.Fatal(err)
		}
	})
}
