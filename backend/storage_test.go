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

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// writeGolden writes golden files that do not exist yet. A file that exists is
// what some release wrote: it is never written again.
var writeGolden = flag.Bool("write-golden", false, "write golden records that are missing")

const goldenDir = "../testdata/golden/storage-v" // and the version

// goldenRecords has one record of every type, fixed for ever.
func goldenRecords() map[string]storedRecord {
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
		if n > 6 {
			e.Lineage = strings.Repeat("5a", 16)
		}
		return e
	}
	previous, current := epoch(6), epoch(7)
	current.Rewrapped = at.Add(time.Hour)
	current.Homes = []mpc.Home{{Domain: "default", Region: "us"}, {Domain: "eu", Region: "eu"}, {Domain: "ap"}}
	mount := &mountRecord{Version: recordVersion, ID: [16]byte{0xab, 1}, Created: at}
	mount.IDHex = hex.EncodeToString(mount.ID[:])
	out := map[string]storedRecord{
		"mount": mount,
		"hsm": &hsmRecord{Version: recordVersion, URI: testURI, Module: "softhsm", PIN: "1234", PINSource: pinFromVault, Suite: "hpke-p256", Updated: at,
			Token: tokenRecord{Label: "prod", Serial: testSerial, Manufacturer: "SoftHSM project", Model: "SoftHSM v2"}},
		"nodes": &nodesRecord{Version: recordVersion, Local: 7, SessionTimeout: 20, SessionsPerNode: 24},
		"rotation": &rotationRecord{Version: recordVersion, RefreshPeriod: 3600, IdleRefreshPeriod: 86400, AuxPeriod: 7200,
			RewrapPeriod: 43200, RetireAfter: 259200, Concurrency: 4, Rate: 100},
		"wrapping-key": &wrappingRecord{Version: recordVersion, KeyVersion: 3, TokenSerial: testSerial, Domain: "default", Suite: "hpke-p256",
			ID: []byte("0123456789abcdef"), PublicKey: append([]byte{4}, make([]byte, 64)...), Label: "mpc ab01 3", Created: at,
			State: stateRetired, Retired: at.Add(24 * time.Hour)},
		"wrapping-key-destroyed": &wrappingRecord{Version: recordVersion, KeyVersion: 2, TokenSerial: testSerial, Domain: "default", Suite: "hpke-p256",
			ID: []byte("fedcba9876543210"), PublicKey: append([]byte{4}, make([]byte, 64)...), Label: "mpc ab01 2", Created: at,
			State: stateDestroyed, Retired: at.Add(24 * time.Hour), Destroyed: at.Add(200 * time.Hour)},
		"wrapping-key-domains": &wrappingRecord{Version: recordVersion, KeyVersion: 4, TokenSerial: testSerial, Domain: "default", Suite: "hpke-p256",
			ID: []byte("0123456789abcdee"), PublicKey: append([]byte{4}, make([]byte, 64)...), Label: "mpc ab01 4", Created: at,
			State: stateDestroying, Retired: at.Add(24 * time.Hour), KeyDestroyed: at.Add(200 * time.Hour), LeftBehind: at.Add(201 * time.Hour),
			Endorsement: &keyEndorsementRecord{Identity: nodeIdentity(1).String(), Signature: bytes.Repeat([]byte{1}, 64)},
			Domains: []domainKeyRecord{
				{Domain: "ap", TokenLabel: "ap-hsm", TokenSerial: "ap01", Suite: "rsa3072-oaep-sha256", ID: []byte("0123456789abcded"), PublicKey: []byte("DER"),
					Label: "mpc ab01 4", Created: at.Add(time.Hour), LeftBehind: at.Add(200 * time.Hour)},
				{Domain: "eu", Suite: "hpke-p256", ID: []byte("0123456789abcdec"), PublicKey: append([]byte{4}, make([]byte, 64)...), Label: "mpc ab01 4", Created: at,
					Endorsement: &keyEndorsementRecord{Identity: nodeIdentity(9).String(), Signature: bytes.Repeat([]byte{9}, 64)}, Destroyed: at.Add(200 * time.Hour)}}},
		"wrapping-key-remote": &wrappingRecord{Version: recordVersion, KeyVersion: 5, Created: at, State: stateLive,
			Domains: []domainKeyRecord{{Domain: "eu", Suite: "hpke-p256", ID: []byte("0123456789abcdec"), PublicKey: append([]byte{4}, make([]byte, 64)...), Label: "mpc ab01 5", Created: at}}},
		"nodes-remote": &nodesRecord{Version: recordVersion, Local: 0, SessionTimeout: 20, SessionsPerNode: 24, Region: "eu"},
		"remote-node": &remoteNodeRecord{Version: recordVersion, ID: "eu-1", Address: "eu-1.example.com:8300", Region: "eu", Zone: "eu-a", Domain: "eu",
			Identity: nodeIdentity(9).String(), Pin: strings.Repeat("9f", 32), Enrolled: at},
		"remote-node-ca": &remoteNodeRecord{Version: recordVersion, ID: "us-1", Address: "10.1.0.7:8300", Domain: "default",
			Identity: nodeIdentity(8).String(), Pin: strings.Repeat("8f", 32), CA: "pem", ServerName: "us-1.example.com", Enrolled: at},
		"coordinator": &coordinatorRecord{Version: recordVersion, Certificate: "pem", Key: "pem", Made: true, Updated: at},
		"node-keys": &nodeKeysRecord{Version: recordVersion, Identity: nodeIdentity(1).String(), IdentityEnvelope: []byte("seed"),
			Aux: &auxRecord{Generation: 2, Made: at, Public: []byte("public"), Envelope: []byte("secret"), Receipts: map[string][]byte{"local-2#7": []byte("receipt")}}},
		"account": &accountRecord{Version: recordVersion, ID: mpc.AccountID{1, 2, 3}.String(), Created: at, RefreshPeriod: 300, Presign: 5,
			Metadata: map[string]string{"team": "ops"}, Current: current,
			Frozen: &frozenRecord{Time: at, Reason: "audit"}, Deleted: &deletedRecord{Time: at, Destroy: at.Add(168 * time.Hour)}, RenamingTo: "bob", Previous: &previous,
			Custody: &custodyRecord{Identity: strings.Repeat("1d", 16), Asset: strings.Repeat("a5", 16), PublicKey: append([]byte{4}, make([]byte, 64)...)},
			Birth:   birthRecord{RecordHash: strings.Repeat("ab", 32), Certificate: previous.Certificate}},
		"exposures":       &exposuresRecord{Version: recordVersion, EpochID: mpc.EpochID{0xee, 7}.String(), Exposures: map[string]mpc.Index{nodeIdentity(5).String(): 2}},
		"accounts-config": &accountsConfigRecord{Version: recordVersion, DeletionWait: 86400},
		"signed-request":  &signedRequestRecord{Version: recordVersion, Time: at, Payload: strings.Repeat("ab", 32), Answer: []byte(`{"signature":"AA=="}`)},
		"heartbeat":       &heartbeatRecord{Version: recordVersion, Time: at},
		"spares":          &sparesRecord{Version: recordVersion, Marker: strings.Repeat("5a", 16), Time: at, Reason: "declared by recovery/restored"},
		"pin-refusal": &pinRefusalRecord{Version: recordVersion, Configuration: at, Time: time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC),
			Reason: "the token refused the PIN"},
		"recovery": &recoveryRecord{Version: recordVersion, Authority: strings.Repeat("ab", 32), Pinned: at,
			SetHash: strings.Repeat("cd", 32), Serial: 7},
		"recipient-set": &recipientSetRecord{Version: recordVersion, Set: []byte(`{"x":1}`)},
		"identity": &identityRecord{Version: recordVersion, ID: strings.Repeat("1d", 16), Created: at, Frozen: &frozenRecord{Time: at, Reason: "audit"},
			Signed: identity.SignedManifest{Manifest: []byte(`{"format":1}`), Signature: make([]byte, 64)}},
		"asset": &assetRecord{Version: recordVersion, Signed: identity.SignedAsset{Asset: []byte(`{"format":1}`), Signature: make([]byte, 64)}},
		"authenticator": &authenticatorRecord{Version: recordVersion, ID: strings.Repeat("ad", 16),
			Signed:       identity.SignedAuthenticator{Authenticator: []byte(`{"format":1}`), Signature: make([]byte, 64)},
			Registration: []byte("registration"), ServerPart: []byte("wrapped"), Phone: "+4930123456", Lost: &frozenRecord{Time: at, Reason: "left in a taxi"},
			Devices: []deviceRecord{{ID: strings.Repeat("de", 16), Identity: strings.Repeat("1d", 16), Label: "laptop", Bound: at, Revoked: at.Add(time.Hour)}}},
		"authenticator-lock": &authenticatorLockRecord{Version: recordVersion, Failures: 10, Until: at.Add(time.Minute), Time: at},
		"identity-keys":      &identityKeysRecord{Version: recordVersion, Envelope: []byte("keys"), PublicKey: make([]byte, 32), EnumerationKey: make([]byte, 32), Created: at},
		"identities-config": &identitiesConfigRecord{Version: recordVersion, SessionTTL: 600, PhoneWebhook: "https://sms.example.com/send", PhoneWebhookHeader: "Bearer x",
			OIDC: map[string]oidcProviderRecord{"corp": {Issuer: "https://id.example.com", ClientID: "mpc", ClientSecret: "s", CAPEM: "pem", Scopes: []string{"email"}}}},
	}
	maps.Copy(out, goldenApprovals(at))
	return out
}

// newInV5 names the records that no version before 5 has.
var newInV5 = []string{"identity", "asset", "authenticator", "authenticator-lock", "identity-keys", "identities-config"}

// newInV6 names the records that no version before 6 has: of types that it has not,
// or with fields that it has not.
var newInV6 = []string{"wrapping-key-domains", "wrapping-key-remote", "nodes-remote", "remote-node", "remote-node-ca", "coordinator"}

// goldenV6 has what the records that version 6 wrote are read as.
func goldenV6() map[string]storedRecord {
	out := goldenRecords()
	for _, name := range newInV7 {
		delete(out, name)
	}
	return out
}

// goldenV5 has what the records that version 5 wrote are read as.
func goldenV5() map[string]storedRecord {
	out := goldenV6()
	for _, name := range newInV6 {
		delete(out, name)
	}
	out["account"].(*accountRecord).Current.Homes = nil
	return out
}

// goldenV4 has what the records that version 4 wrote are read as.
func goldenV4() map[string]storedRecord {
	out := goldenV5()
	for _, name := range newInV5 {
		delete(out, name)
	}
	out["account"].(*accountRecord).Custody = nil
	return out
}

// goldenV3 has what the records that version 3 wrote are read as.
func goldenV3() map[string]storedRecord {
	out := goldenV4()
	delete(out, "accounts-config")
	delete(out, "signed-request")
	account := out["account"].(*accountRecord)
	account.Frozen, account.Deleted, account.RenamingTo = nil, nil, ""
	return out
}

// goldenV2 has what the records that version 2 wrote are read as.
func goldenV2() map[string]storedRecord {
	out := goldenV3()
	for _, name := range []string{"wrapping-key-destroyed", "pin-refusal", "recovery", "recipient-set"} {
		delete(out, name)
	}
	rotation := defaultRotation()
	rotation.RefreshPeriod, rotation.AuxPeriod = 3600, 7200
	out["rotation"] = &rotation
	key := out["wrapping-key"].(*wrappingRecord)
	key.State, key.Retired = stateLive, time.Time{}
	out["account"].(*accountRecord).Current.Rewrapped = time.Time{}
	return out
}

// goldenV1 has what the records that version 1 wrote are read as.
func goldenV1() map[string]storedRecord {
	out := goldenV2()
	delete(out, "heartbeat")
	delete(out, "spares")
	out["nodes"].(*nodesRecord).SessionsPerNode = 16
	out["rotation"].(*rotationRecord).AuxPeriod = 3600
	aux := out["node-keys"].(*nodeKeysRecord).Aux
	aux.Made, aux.Receipts = time.Time{}, map[string][]byte{"local-2": []byte("receipt")}
	account := out["account"].(*accountRecord)
	account.Presign, account.Current.Lineage = 0, ""
	return out
}

func empty(of storedRecord) storedRecord {
	return reflect.New(reflect.TypeOf(of).Elem()).Interface().(storedRecord)
}

// TestGoldenOlder: what older versions wrote is read for ever.
func TestGoldenOlder(t *testing.T) {
	for version, records := range map[string]map[string]storedRecord{"1": goldenV1(), "2": goldenV2(), "3": goldenV3(), "4": goldenV4(), "5": goldenV5(), "6": goldenV6()} {
		for name, want := range records {
			raw, err := os.ReadFile(filepath.Join(goldenDir+version, name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			got := empty(want)
			if err := decodeRecord(raw, got); err != nil {
				t.Errorf("%s of version %s does not decode: %v", name, version, err)
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s of version %s: decoded %+v, want %+v", name, version, got, want)
			}
		}
	}
	// Fields of a later version in an older record were written by nobody.
	changed := map[string][]string{
		"1": {"nodes", "rotation", "node-keys", "account", "heartbeat", "spares", "wrapping-key", "wrapping-key-destroyed", "hsm", "pin-refusal", "recovery", "recipient-set", "accounts-config", "signed-request"},
		"2": {"hsm", "pin-refusal", "recovery", "recipient-set", "rotation", "account", "wrapping-key", "wrapping-key-destroyed", "accounts-config", "signed-request"},
		"3": {"account", "accounts-config", "signed-request"},
		"4": {"account"},
		"5": {"account"},
		"6": nil,
	}
	for version := range changed {
		changed[version] = append(changed[version], newInV7...)
		if version <= "5" {
			changed[version] = append(changed[version], newInV6...)
		}
		if version <= "4" {
			changed[version] = append(changed[version], newInV5...)
		}
	}
	for version, names := range changed {
		for name, record := range goldenRecords() {
			raw, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			old := bytes.Replace(raw, []byte(today), []byte(`"version":`+version), 1)
			if bytes.Equal(old, raw) {
				t.Fatalf("%s has no version", name)
			}
			if err := decodeRecord(old, empty(record)); (err != nil) != slices.Contains(names, name) {
				t.Errorf("%s of today under version %s: %v", name, version, err)
			}
		}
	}
}

// today is how the records of today begin.
var today = fmt.Sprintf(`"version":%d`, recordVersion)

// TestGoldenRecords: what today's version writes is read for ever, with every
// field, and it still writes it the same way.
func TestGoldenRecords(t *testing.T) {
	for name, want := range goldenRecords() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(goldenDir+fmt.Sprint(recordVersion), name+".json")
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
			got := empty(want)
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
		fresh := func() storedRecord { return empty(golden) }
		replace := func(old, new string) []byte {
			out := bytes.Replace(raw, []byte(old), []byte(new), 1)
			if bytes.Equal(out, raw) {
				t.Fatalf("%s: nothing to replace", name)
			}
			return out
		}
		if err := decodeRecord(replace(today, fmt.Sprintf(`"version":%d`, recordVersion+1)), fresh()); !errors.Is(err, errNewerRecord) {
			t.Errorf("%s of the next version: %v", name, err)
		}
		for what, bad := range map[string][]byte{
			"no version":     replace(today, `"version":0`),
			"unknown field":  replace(today, today+`,"colour":"red"`),
			"trailing data":  append(slices.Clone(raw), []byte("{"+today+"}")...),
			"truncated":      raw[:len(raw)-1],
			"empty":          {},
			"null":           []byte("null"),
			"only version":   []byte("{" + today + "}"),
			"only version 6": []byte(`{"version":6}`),
			"only version 5": []byte(`{"version":5}`),
			"only version 4": []byte(`{"version":4}`),
			"only version 3": []byte(`{"version":3}`),
			"only version 2": []byte(`{"version":2}`),
			"only version 1": []byte(`{"version":1}`),
			"too long":       append(slices.Clone(raw), bytes.Repeat([]byte(" "), maxStoredRecord)...),
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
		"65 presignatures":   func(r *accountRecord) { r.Presign = 65 },
		"less than none":     func(r *accountRecord) { r.Presign = -1 },
		"frozen at no time":  func(r *accountRecord) { r.Frozen.Time = time.Time{} },
		"destroyed before":   func(r *accountRecord) { r.Deleted.Destroy = r.Deleted.Time.Add(-time.Second) },
		"impossible name":    func(r *accountRecord) { r.RenamingTo = "a/b" },
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
	s := bareStore(&logical.InmemStorage{})
	if k, err := s.NodeKeys(t.Context(), "local-1"); err != nil || k != nil {
		t.Errorf("a new node: %v, %v", k, err)
	}
	want := &pool.NodeKeys{Identity: nodeIdentity(1), IdentityEnvelope: []byte("e")}
	for _, aux := range []*pool.AuxKeys{nil, {Generation: 4, Made: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Public: []byte("p"), Envelope: []byte("s"), Receipts: map[string][]byte{"local-2": []byte("r")}}} {
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
	other := bareStore(m.storage)
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
			got := empty(golden)
			if decodeRecord(raw, got) != nil {
				continue
			}
			// What is accepted can be written and read again.
			again, err := json.Marshal(got)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			back := empty(golden)
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
