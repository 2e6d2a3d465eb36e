package backend

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// writeGolden writes golden files that do not exist yet. A file that exists is
// what some release wrote: it is never written again.
var writeGolden = flag.Bool("write-golden", false, "write golden records that are missing")

const goldenDir = "../testdata/golden/storage-v1"

type record interface{ check() error }

// goldenRecords has one record of every type, fixed for ever.
func goldenRecords() map[string]record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	epoch := func(n uint64) epochRecord {
		r := mpc.PublicRecord{
			AccountID: mpc.AccountID{1, 2, 3}, Algorithm: mpc.ECDSASecp256k1, Threshold: 2, Shares: 3,
			PublicKey: append([]byte{2}, bytes.Repeat([]byte{0x11}, 32)...), ChainCode: [32]byte{0x22},
			Epoch: n, EpochID: mpc.EpochID{0xee, byte(n)}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash(),
		}
		e := epochRecord{Exposures: map[string]mpc.Index{}, WrappingVersion: uint32(n), Started: at.Add(time.Duration(n) * time.Minute)}
		for i := range 3 {
			r.PublicShares = append(r.PublicShares, append([]byte{3}, bytes.Repeat([]byte{byte(n), byte(i)}, 16)...))
			e.Shares = append(e.Shares, fmt.Appendf(nil, "envelope %d of epoch %d", i+1, n))
			e.Exposures[nodeIdentity(i+1).String()] = mpc.Index(i + 1)
			e.Certificate = append(e.Certificate, endorsementRecord{
				Node: fmt.Sprintf("local-%d", i+1), Identity: nodeIdentity(i + 1).String(), Signature: bytes.Repeat([]byte{byte(i)}, 64)})
		}
		e.Record = r.Marshal()
		return e
	}
	previous, current := epoch(6), epoch(7)
	mount := &mountRecord{Version: 1, ID: [16]byte{0xab, 1}, Created: at}
	mount.IDHex = hex.EncodeToString(mount.ID[:])
	return map[string]record{
		"mount": mount,
		"hsm": &hsmRecord{Version: 1, URI: testURI, Module: "softhsm", PIN: "1234", Suite: "hpke-p256", Updated: at,
			Token: tokenRecord{Label: "prod", Serial: testSerial, Manufacturer: "SoftHSM project", Model: "SoftHSM v2"}},
		"nodes":    &nodesRecord{Version: 1, Local: 7, SessionTimeout: 20},
		"rotation": &rotationRecord{Version: 1, RefreshPeriod: 3600},
		"wrapping-key": &wrappingRecord{Version: 1, KeyVersion: 3, TokenSerial: testSerial, Domain: "default", Suite: "hpke-p256",
			ID: []byte("0123456789abcdef"), PublicKey: append([]byte{4}, make([]byte, 64)...), Label: "mpc ab01 3", Created: at},
		"node-keys": &nodeKeysRecord{Version: 1, Identity: nodeIdentity(1).String(), IdentityEnvelope: []byte("seed"),
			Aux: &auxRecord{Generation: 2, Public: []byte("public"), Envelope: []byte("secret"), Receipts: map[string][]byte{"local-2": []byte("receipt")}}},
		"account": &accountRecord{Version: 1, ID: mpc.AccountID{1, 2, 3}.String(), Created: at, RefreshPeriod: 300,
			Metadata: map[string]string{"team": "ops"}, Current: current, Previous: &previous,
			Birth: birthRecord{RecordHash: strings.Repeat("ab", 32), Certificate: previous.Certificate}},
		"exposures": &exposuresRecord{Version: 1, EpochID: mpc.EpochID{0xee, 7}.String(), Exposures: map[string]mpc.Index{nodeIdentity(5).String(): 2}},
	}
}

// TestGoldenRecords: what version 1 wrote is read for ever, with every field,
// and today's version still writes it the same way.
func TestGoldenRecords(t *testing.T) {
	for name, want := range goldenRecords() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(goldenDir, name+".json")
			written, err := json.MarshalIndent(want, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, '\n')
			if _, err := os.Stat(file); *writeGolden && errors.Is(err, os.ErrNotExist) {
				if err := os.WriteFile(file, written, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := reflect.New(reflect.TypeOf(want).Elem()).Interface().(record)
			if err := decodeRecord(raw, got); err != nil {
				t.Fatalf("the golden record does not decode: %v", err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("decoded %+v, want %+v", got, want)
			}
			if !bytes.Equal(raw, written) {
				t.Errorf("this version writes another record under the same version number:\n%s", written)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, golden := range goldenRecords() {
		raw, err := json.Marshal(golden)
		if err != nil {
			t.Fatal(err)
		}
		fresh := func() record { return reflect.New(reflect.TypeOf(golden).Elem()).Interface().(record) }
		replace := func(old, new string) []byte {
			out := bytes.Replace(raw, []byte(old), []byte(new), 1)
			if bytes.Equal(out, raw) {
				t.Fatalf("%s: nothing to replace", name)
			}
			return out
		}
		if err := decodeRecord(replace(`"version":1`, `"version":2`), fresh()); !errors.Is(err, errNewerRecord) {
			t.Errorf("%s of version 2: %v", name, err)
		}
		for what, bad := range map[string][]byte{
			"no version":    replace(`"version":1`, `"version":0`),
			"unknown field": replace(`"version":1`, `"version":1,"colour":"red"`),
			"trailing data": append(slices.Clone(raw), []byte(`{"version":1}`)...),
			"truncated":     raw[:len(raw)-1],
			"empty":         {},
			"null":          []byte("null"),
			"only version":  []byte(`{"version":1}`),
			"too long":      append(slices.Clone(raw), bytes.Repeat([]byte(" "), maxStoredRecord)...),
		} {
			if err := decodeRecord(bad, fresh()); err == nil {
				t.Errorf("%s: %s was accepted", name, what)
			}
		}
	}
}

// TestDecodeAccountRefuses: an account's entry has to agree with itself.
func TestDecodeAccountRefuses(t *testing.T) {
	for what, spoil := range map[string]func(*accountRecord){
		"other account":      func(r *accountRecord) { r.ID = strings.Repeat("00", 16) },
		"upper-case ID":      func(r *accountRecord) { r.ID = strings.ToUpper(strings.Replace(r.ID, "00", "aa", 1)) },
		"share missing":      func(r *accountRecord) { r.Current.Shares = r.Current.Shares[1:] },
		"previous spoilt":    func(r *accountRecord) { r.Previous.Record = r.Previous.Record[1:] },
		"strange node":       func(r *accountRecord) { r.Current.Exposures["local-1"] = 1 },
		"share 0 exposed":    func(r *accountRecord) { r.Current.Exposures[nodeIdentity(1).String()] = 0 },
		"share 4 of 3":       func(r *accountRecord) { r.Current.Exposures[nodeIdentity(1).String()] = 4 },
		"no record":          func(r *accountRecord) { r.Current.Record = nil },
		"previous of others": func(r *accountRecord) { r.Previous.Record[30] ^= 0xff },
	} {
		r := goldenRecords()["account"].(*accountRecord)
		spoil(r)
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeRecord(raw, &accountRecord{}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// TestDamagedRecords: an entry that cannot be read is an error that names it
// and quotes nothing of it.
func TestDamagedRecords(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	put := func(key, value string) {
		t.Helper()
		if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	put(keyHSM, `{"version":1,"pin":"`+testPIN+`","module":7}`)
	m.b.settingsChanged()
	m.fails(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="}, 500, "stored record config/hsm does not have the fields")
	put(keyHSM, `{"version":1,"pin":"`+testPIN)
	m.fails(logical.ReadOperation, "config/hsm", nil, 500, "is not a JSON record")
	m.fails(logical.UpdateOperation, "config/hsm", map[string]any{"pin": testPIN}, 500, "is not a JSON record")
	put(prefixAccounts+"alice", `{"version":9}`)
	m.fails(logical.ReadOperation, "accounts/alice", nil, 500, "newer version of this plugin")
	m.fails(logical.DeleteOperation, "destroy/alice", nil, 500, "newer version of this plugin")
}

func TestHSMRecordHidesPIN(t *testing.T) {
	r := &hsmRecord{PIN: testPIN, Token: tokenRecord{Serial: "1"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, r); strings.Contains(s, testPIN) {
			t.Errorf("%s: %s", verb, s)
		}
	}
}

func TestKeyStore(t *testing.T) {
	s := &store{s: &logical.InmemStorage{}}
	if k, err := s.NodeKeys(t.Context(), "local-1"); err != nil || k != nil {
		t.Errorf("a new node: %v, %v", k, err)
	}
	want := &pool.NodeKeys{Identity: nodeIdentity(1), IdentityEnvelope: []byte("e")}
	for _, aux := range []*pool.AuxKeys{nil, {Generation: 4, Public: []byte("p"), Envelope: []byte("s"), Receipts: map[string][]byte{"local-2": []byte("r")}}} {
		want.Aux = aux
		if err := s.PutNodeKeys(t.Context(), "local-1", want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.NodeKeys(t.Context(), "local-1"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	for _, bad := range []string{"", "../x", "a/b", "Local", strings.Repeat("a", 65)} {
		if err := s.PutNodeKeys(t.Context(), bad, want); err == nil {
			t.Errorf("node ID %q was stored", bad)
		}
		if _, err := s.NodeKeys(t.Context(), bad); err == nil {
			t.Errorf("node ID %q was read", bad)
		}
	}
}

// TestNodesConfigCache: an invalidation must reach a value that is cached.
func TestNodesConfigCache(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	other := &store{s: m.storage}
	read := func() int {
		r, err := m.b.store.nodesConfig(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r.Local
	}
	read()
	r := defaultNodes()
	r.Local = 9
	if err := other.putNodesConfig(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	m.b.InvalidateKey(t.Context(), keyNodes)
	if read() != 9 {
		t.Error("a value was cached past its invalidation")
	}
}

func FuzzDecodeRecord(f *testing.F) {
	golden := goldenRecords()
	for _, name := range slices.Sorted(maps.Keys(golden)) {
		raw, err := json.Marshal(golden[name])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for name, golden := range goldenRecords() {
			got := reflect.New(reflect.TypeOf(golden).Elem()).Interface().(record)
			if decodeRecord(raw, got) != nil {
				continue
			}
			// What is accepted can be written and read again.
			again, err := json.Marshal(got)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			back := reflect.New(reflect.TypeOf(golden).Elem()).Interface().(record)
			if err := decodeRecord(again, back); err != nil {
				t.Fatalf("%s: written as %s and not read: %v", name, again, err)
			}
		}
	})
}

func FuzzParseTokenURI(f *testing.F) {
	f.Add(testURI)
	f.Add("pkcs11:serial=0a;token=My%20Token?module-name=m")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseTokenURI(s)
		if err == nil && (u.Label == "" && u.Serial == "" || u.Module == "" || len(u.Label) > maxTokenLabel || len(u.Serial) > maxTokenSerial) {
			t.Errorf("%q: %+v", s, u)
		}
	})
}

func FuzzParseModules(f *testing.F) {
	f.Add(testModules)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseModules(s)
		for name, path := range m {
			if err != nil || !validModuleName(name) || !filepath.IsAbs(path) {
				t.Errorf("%q: %q=%q, %v", s, name, path, err)
			}
		}
	})
}
