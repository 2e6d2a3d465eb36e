package backend

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/rotation"
)

func TestAccountLife(t *testing.T) {
	for _, alg := range mpc.Algorithms() {
		t.Run(string(alg), func(t *testing.T) {
			m := configured(t)
			made := m.must(logical.UpdateOperation, "accounts/alice", map[string]any{
				"algorithm": alg, "threshold": 2, "shares": 3, "refresh_period": "1h", "metadata": "team=ops",
			})
			read := m.must(logical.ReadOperation, "accounts/alice", nil)
			if made["session_id"] == nil || read["session_id"] != nil {
				t.Error("session_id belongs to the answer of creation only")
			}
			if code, has := read["chain_code"]; has != alg.Derives() || (has && len(code.(string)) != 64) {
				t.Errorf("chain code %v", code)
			}
			for k, want := range map[string]any{
				"presign": 0, "presignatures": 0, "spares_allowed": true,
				"name": "alice", "algorithm": string(alg), "threshold": 2, "shares": 3, "share_epoch": uint64(1),
				"wrapping_version": 1, "state": "active", "refresh_period": int64(3600), "last_refresh_error": "",
			} {
				if read[k] != want {
					t.Errorf("%s = %v, want %v", k, read[k], want)
				}
			}
			if n := len(read["birth_certificate"].([]map[string]any)); n != 3 {
				t.Errorf("%d signatures in the birth certificate", n)
			}
			birth := read["birth_record_hash"]
			if birth != read["record_hash"] {
				t.Error("the birth certificate is not about the first epoch")
			}

			signed := m.signs("alice")
			if _, hasV := signed["v"]; hasV != alg.IsECDSA() {
				t.Error("v belongs to ECDSA only")
			}
			if _, has := signed["digest"]; has != alg.IsECDSA() {
				t.Error("a raw message has a digest under ECDSA only")
			}
			after := m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
			if after["public_key"] != read["public_key"] || after["share_epoch"] != uint64(2) || after["birth_record_hash"] != birth || after["record_hash"] == birth {
				t.Errorf("after a refresh: %v", after)
			}
			if r, _ := m.b.store.account(t.Context(), "alice"); r.Previous != nil {
				t.Error("the previous epoch outlived its successor's check")
			}
			m.signs("alice")

			list := m.must(logical.ListOperation, "accounts/", nil)
			if fmt.Sprint(list["keys"]) != "[alice]" {
				t.Errorf("list: %v", list)
			}
			m.must(logical.DeleteOperation, "destroy/alice", nil)
			m.fails(logical.ReadOperation, "accounts/alice", nil, http.StatusNotFound, "no account")
			if _, ok := m.b.runner.Status("alice"); ok {
				t.Error("a destroyed account is still scheduled")
			}
		})
	}
}

func TestSettings(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	d := m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"refresh_period": "5m", "metadata": map[string]any{"a": "b"}})
	if d["refresh_period"] != int64(300) || fmt.Sprint(d["metadata"]) != "map[a:b]" {
		t.Errorf("after an update: %v", d)
	}
	d = m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"refresh_period": 0, "algorithm": "bip340-secp256k1", "shares": 3})
	if d["refresh_period"] != int64(600) || fmt.Sprint(d["metadata"]) != "map[a:b]" {
		t.Errorf("period back to the mount's: %v", d)
	}
	many := map[string]any{}
	for i := range 33 {
		many[fmt.Sprint(i)] = "x"
	}
	for _, c := range []struct {
		field string
		value any
		text  string
	}{
		{"algorithm", "ecdsa-secp256k1", "cannot be changed"},
		{"threshold", 3, "cannot be changed"},
		{"shares", 5, "cannot be changed"},
		{"refresh_period", "500ms", "refresh_period must be"},
		{"metadata", many, "at most 32"},
		{"metadata", map[string]any{"k": strings.Repeat("v", 513)}, "up to 512"},
		{"metadata", map[string]any{"k\n": "v"}, "printable"},
		{"presign", 3, "presign is for ECDSA"},
	} {
		m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{c.field: c.value}, 400, c.text)
	}
	// The table of the existence check, as the ACL system sees it.
	for path, want := range map[string][2]bool{
		"accounts/alice": {true, true}, "accounts/bob": {true, false}, "accounts/.bad": {true, false},
		"config/hsm": {true, true}, "config/nodes": {true, false}, "config/rotation": {true, false},
		"sign/alice": {false, false}, "verify/alice": {false, false}, "accounts/alice/refresh": {false, false}, "destroy/alice": {false, false},
	} {
		checked, exists, err := m.b.HandleExistenceCheck(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Storage: m.storage})
		if err != nil || checked != want[0] || exists != want[1] {
			t.Errorf("%s: checked %v exists %v (%v), want %v", path, checked, exists, err, want)
		}
	}
}

func TestCreateBadInput(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	good := map[string]any{"algorithm": "bip340-secp256k1"}
	m.fails(logical.UpdateOperation, "accounts/alice", good, 400, "no HSM is configured")
	configure(m)
	with := func(k string, v any) map[string]any {
		return map[string]any{"algorithm": "bip340-secp256k1", k: v}
	}
	for _, c := range []struct {
		name string
		data map[string]any
		text string
	}{
		{"alice", nil, "algorithm"},
		{"alice", map[string]any{"algorithm": "rsa"}, `algorithm "rsa" is not one of`},
		{"alice", with("threshold", 1), "at least 2"},
		{"alice", with("threshold", -1), "at least 2"},
		{"alice", with("threshold", 4), "more than the 3 shares"},
		{"alice", with("threshold", "two"), "threshold"},
		{"alice", with("shares", 17), "at most 16"},
		{"alice", with("shares", 6), "local=6"},
		{"alice", with("policy", "x"), "unknown field policy: the fields are algorithm, approvers, custody_asset, custody_identity, domains, factors, metadata, presign, quorum, refresh_period, request_expiry, shares, signature_factors, threshold"},
		{".alice", good, "not an account name"},
		{"al ice", good, "not an account name"},
		{"alice-", good, "not an account name"},
		{strings.Repeat("a", 129), good, "not an account name"},
	} {
		m.fails(logical.UpdateOperation, "accounts/"+c.name, c.data, 400, c.text)
	}
	if len(m.fake.keys) != 0 || strings.Contains(fmt.Sprint(keys(t, m.storage)), prefixAccounts) {
		t.Errorf("something half-made stayed: %v", keys(t, m.storage))
	}
	m.fails(logical.ReadOperation, "accounts/nobody", nil, 404, `no account "nobody"`)
	m.fails(logical.UpdateOperation, "accounts/nobody/refresh", nil, 404, "no account")
	m.fails(logical.DeleteOperation, "destroy/nobody", nil, 404, "no account")
	m.fails(logical.UpdateOperation, "destroy/nobody", nil, 404, "no account")
	m.fails(logical.UpdateOperation, "accounts/nobody/refresh", map[string]any{"force": true}, 400, "takes no fields")
}

func TestSignBadInput(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.create("bob", "ecdsa-secp256k1")
	m.create("carol", "ed25519")
	m.create("dave", "ecdsa-p256")
	text := base64.StdEncoding.EncodeToString([]byte("hello"))
	for _, c := range []struct {
		name   string
		data   map[string]any
		status int
		want   string
	}{
		{"alice", nil, 400, "input is missing"},
		{"alice", map[string]any{"input": ""}, 400, "input is missing"},
		{"alice", map[string]any{"input": "!!"}, 400, "not base64"},
		{"alice", map[string]any{"input": "aGVsbG8"}, 400, "not base64"},
		{"alice", map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, maxInput+1))}, 400, "524288 bytes"},
		{"alice", map[string]any{"input": strings.Repeat("A", 4*maxInput)}, 400, "524288 bytes"},
		{"alice", map[string]any{"input": text, "message_type": "digest"}, 400, "must have 32 bytes, not 5"},
		{"alice", map[string]any{"input": text, "message_type": "prehashed"}, 400, "not raw or digest"},
		{"alice", map[string]any{"input": text, "hash_algorithm": "sha2-256"}, 400, "hashes by itself"},
		{"bob", map[string]any{"input": text, "hash_algorithm": "none"}, 400, "signs a digest"},
		{"bob", map[string]any{"input": text, "hash_algorithm": "md5"}, 400, "not sha2-256, sha2-384, sha2-512, keccak-256 or sha-256d"},
		{"bob", map[string]any{"input": text, "derivation_path": "m/0'"}, 400, "step 1 is hardened"},
		{"bob", map[string]any{"input": text, "derivation_path": "m/"}, 400, "derivation path"},
		{"bob", map[string]any{"input": text, "taproot_tweak": "bip86"}, 400, "is for bip340-secp256k1"},
		{"alice", map[string]any{"input": text, "taproot_tweak": "00"}, 400, "64 hex digits"},
		{"carol", map[string]any{"input": text, "derivation_path": "m/1"}, 400, "ed25519 keys have no child keys"},
		{"carol", map[string]any{"input": text, "message_type": "digest"}, 400, "ed25519 signs messages and takes no digest"},
		{"carol", map[string]any{"input": text, "hash_algorithm": "sha2-256"}, 400, "ed25519 hashes by itself"},
		{"dave", map[string]any{"input": text, "derivation_path": "m/1"}, 400, "ecdsa-p256 keys have no child keys"},
		{"dave", map[string]any{"input": text, "hash_algorithm": "none"}, 400, "signs a digest"},
		{"nobody", map[string]any{"input": text}, 404, "no account"},
	} {
		m.fails(logical.UpdateOperation, "sign/"+c.name, c.data, c.status, c.want)
		verifyData := map[string]any{"signature": "AAAA"}
		for k, v := range c.data {
			verifyData[k] = v
		}
		m.fails(logical.UpdateOperation, "verify/"+c.name, verifyData, c.status, c.want)
	}
	m.fails(logical.UpdateOperation, "verify/alice", map[string]any{"input": text}, 400, "signature is missing")
	m.fails(logical.UpdateOperation, "verify/alice", map[string]any{"input": text, "signature": "?"}, 400, "signature is not base64")
	if d := m.must(logical.UpdateOperation, "verify/alice", map[string]any{"input": text, "signature": "AAAA"}); d["valid"] != false {
		t.Error("three zero bytes are a valid signature")
	}
	m.must(logical.UpdateOperation, "sign/alice", map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, maxInput))})
}

// TestSignVariants checks the answers against mpc/verify, whose own tests use
// published vectors.
func TestSignVariants(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.create("bob", "ecdsa-secp256k1")
	m.create("carol", "ed25519")
	m.create("dave", "ecdsa-p256")
	msg := []byte("hello")
	digest, _ := mpc.SigningInput(mpc.ECDSASecp256k1, mpc.MessageRaw, mpc.HashKeccak256, msg)
	raw, hashed := base64.StdEncoding.EncodeToString(msg), base64.StdEncoding.EncodeToString(digest)
	for _, c := range []struct {
		name   string
		data   map[string]any
		signed []byte
		digest bool
	}{
		{"bob", map[string]any{"input": raw, "hash_algorithm": "keccak-256"}, digest, true},
		{"bob", map[string]any{"input": hashed, "message_type": "digest"}, digest, true},
		{"bob", map[string]any{"input": hashed, "message_type": "digest", "hash_algorithm": "keccak-256"}, digest, true},
		{"bob", map[string]any{"input": hashed, "message_type": "digest", "hash_algorithm": "none"}, digest, true},
		{"dave", map[string]any{"input": raw, "hash_algorithm": "keccak-256"}, digest, true},
		{"dave", map[string]any{"input": hashed, "message_type": "digest"}, digest, true},
		{"carol", map[string]any{"input": raw}, msg, false},
		{"carol", map[string]any{"input": raw, "hash_algorithm": "none"}, msg, false},
		{"alice", map[string]any{"input": raw, "hash_algorithm": "none"}, msg, false},
		{"alice", map[string]any{"input": hashed, "message_type": "digest"}, digest, true},
	} {
		d := m.must(logical.UpdateOperation, "sign/"+c.name, c.data)
		sig, _ := base64.StdEncoding.DecodeString(d["signature"].(string))
		pub, _ := hex.DecodeString(d["public_key"].(string))
		ok := verify.Signature(map[string]mpc.Algorithm{"alice": mpc.BIP340Secp256k1, "bob": mpc.ECDSASecp256k1,
			"carol": mpc.Ed25519, "dave": mpc.ECDSAP256}[c.name], pub, c.signed, sig)
		if !ok || d["signature_hex"] != hex.EncodeToString(sig) {
			t.Errorf("%s %v: not the signature of %x", c.name, c.data, c.signed)
		}
		if got, has := d["digest"]; has != c.digest || (has && got != hex.EncodeToString(c.signed)) {
			t.Errorf("%s %v: digest %v", c.name, c.data, got)
		}
		if n := len(d["signers"].([]map[string]any)); n != 2 {
			t.Errorf("%d signers", n)
		}
	}
}

func TestEngineErrors(t *testing.T) {
	m := configured(t)
	m.create("bob", "ecdsa-secp256k1")
	in := map[string]any{"input": "aGVsbG8="}
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{&pool.AuxPendingError{Nodes: []pool.AuxProgress{{NodeID: "local-2", Progress: 40}}}, 409, "local-2 40 %"},
		{&pool.TooFewNodesError{Ready: 1, Needed: 2, Configured: 5}, 503, "1 of 5 nodes"},
		{&pool.NoEligibleNodeError{Index: 2, WaitsFor: []string{"local-2"}}, 503, "share 2 can only be served by local-2"},
		{&pool.NoEligibleNodeError{Index: 2, WaitsFor: []string{"local-2"}, NoSpares: true}, 503, "storage was restored, or may have been"},
		{&pool.BusyError{Waiting: 128, PerAccount: true}, 429, "repeat the request after a pause"},
		{pool.ErrHSMUnavailable, 503, "repeat the request once the HSM answers"},
		{pool.ErrPINIncorrect, 503, "write config/hsm with the right PIN"},
		{pool.ErrPINLocked, 503, "unlock"},
		{pool.ErrClosed, 503, "shutting down"},
		{context.DeadlineExceeded, 503, "did not finish in time"},
		{&pool.SessionError{Operation: "sign", Attempts: 2, Culprits: []string{"local-3"}, Err: errors.New("bad proof")}, 500, "local-3"},
		{&pool.SessionError{Operation: "sign", Attempts: 2, Err: context.DeadlineExceeded}, 503, "did not finish in time"},
		{pool.ErrWrappingKey, 500, "restore the key"},
		{fmt.Errorf("share 1: %w", pool.ErrShareUnusable), 500, "from a backup"},
		{logical.ErrReadOnly, 500, logical.ErrReadOnly.Error()}, // Vault looks for exactly this text
	} {
		m.fake.signErr = fmt.Errorf("signing: %w", c.err)
		m.fails(logical.UpdateOperation, "sign/bob", in, c.status, c.text)
	}
	m.fake.signErr = nil
	m.signs("bob")
	m.fake.createErr = &pool.TooFewNodesError{Ready: 1, Needed: 3, Configured: 5}
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"algorithm": "bip340-secp256k1"}, 503, "see nodes/")
	m.fails(logical.ReadOperation, "accounts/carol", nil, 404, "no account")
	m.fake.refreshErr = errors.New("no luck")
	m.fails(logical.UpdateOperation, "accounts/bob/refresh", nil, 500, "no luck")
	if d := m.must(logical.ReadOperation, "accounts/bob", nil); d["last_refresh_error"] != "no luck" || d["share_epoch"] != uint64(1) {
		t.Errorf("after a failed refresh: %v %v", d["last_refresh_error"], d["share_epoch"])
	}
}

// TestUnfitResults: what comes back from nodes is checked before it replaces
// anything.
func TestUnfitResults(t *testing.T) {
	other := mpc.AccountID{9}
	for name, spoil := range map[string]func(*pool.KeyResult){
		"other account":      func(r *pool.KeyResult) { r.Account.Record.AccountID = other },
		"other key":          func(r *pool.KeyResult) { r.Account.Record.PublicKey = make([]byte, 32); r.Account.Record.Epoch += 7 },
		"other threshold":    func(r *pool.KeyResult) { r.Account.Record.Threshold = 3 },
		"other policy":       func(r *pool.KeyResult) { r.Account.Record.PolicyHash[0]++ },
		"epoch skipped":      func(r *pool.KeyResult) { r.Account.Record.Epoch++ },
		"no epoch ID":        func(r *pool.KeyResult) { r.Account.Record.EpochID = mpc.EpochID{} },
		"share missing":      func(r *pool.KeyResult) { r.Account.Shares = r.Account.Shares[1:] },
		"share empty":        func(r *pool.KeyResult) { r.Account.Shares[1].Envelope = nil },
		"share huge":         func(r *pool.KeyResult) { r.Account.Shares[1].Envelope = make([]byte, maxShareEnvelope+1) },
		"shares in disorder": func(r *pool.KeyResult) { r.Account.Shares[0].Index = 2 },
		"signature missing":  func(r *pool.KeyResult) { r.Certificate = r.Certificate[1:] },
		"holder missing":     func(r *pool.KeyResult) { delete(r.Account.Exposures, nodeIdentity(2)) },
		"wild exposure":      func(r *pool.KeyResult) { r.Account.Exposures[nodeIdentity(9)] = 4 },
		"no version":         func(r *pool.KeyResult) { r.WrappingVersion = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			m := configured(t)
			m.fake.mismatch = spoil
			m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"}, 500, "no account was created")
			m.fails(logical.ReadOperation, "accounts/alice", nil, 404, "")
			m.fake.mismatch = nil
			m.create("alice", "bip340-secp256k1")
			m.fake.mismatch = spoil
			m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, 500, "keeps its shares")
			m.fake.mismatch = nil
			alive(t, m)
		})
	}
}

// TestExposeRules calls the callback itself.
func TestExposeRules(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	r, _ := m.b.store.account(t.Context(), "alice")
	a, _ := r.Current.account()
	expose := m.b.expose("alice", &a.Record)
	before := len(keys(t, m.storage))
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(1): 1}); err != nil {
		t.Errorf("the same share again: %v", err)
	}
	if len(keys(t, m.storage)) != before {
		t.Error("an exposure that adds nothing was written")
	}
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(1): 2}); err == nil {
		t.Error("a node may have two shares of one epoch")
	}
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(5): 2}); err != nil {
		t.Errorf("a spare: %v", err)
	}
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(5): 3}); err == nil {
		t.Error("a spare may have two shares of one epoch")
	}
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(6): 4}); err == nil {
		t.Error("a share that does not exist")
	}
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(5): 2}); !errors.Is(err, errEpochChanged) {
		t.Errorf("in a past epoch: %v", err)
	}
	r, _ = m.b.store.account(t.Context(), "alice")
	if a, _ := m.b.store.usable(t.Context(), r); len(a.Exposures) != 3 {
		t.Errorf("exposures of a past epoch count in the new one: %v", a.Exposures)
	}
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	if err := expose(t.Context(), mpc.Exposures{nodeIdentity(5): 2}); !errors.Is(err, errEpochChanged) {
		t.Errorf("of a destroyed account: %v", err)
	}
}

func TestSignAfterEpochChanged(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	r, _ := m.b.store.account(t.Context(), "alice")
	a, _ := m.b.store.usable(t.Context(), r)
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	m.fake.spare = true // needs Expose, which refuses the old epoch
	res, used, err := m.b.signAccount(t.Context(), m.fake, "alice", r.Previous != nil, a, &message{input: []byte("x"), kind: mpc.MessageRaw, hash: mpc.HashNone})
	if err != nil || used.Record.Epoch != 2 || res == nil {
		t.Errorf("not signed in the new epoch: %v", err)
	}
}

func TestConcurrentCreate(t *testing.T) {
	m := configured(t)
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	first := make(chan int)
	go func() {
		_, status, _ := m.do(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"})
		first <- status
	}()
	<-m.fake.entered
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"}, http.StatusConflict, "is being created")
	m.fails(logical.DeleteOperation, "destroy/alice", nil, 404, "no account")
	close(m.fake.block)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first creation: %d", status)
	}
	// A request that was taken for a creation before the account existed.
	_, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: "accounts/alice",
		Data: map[string]any{"algorithm": "bip340-secp256k1"}, Storage: m.storage})
	if status, msg := answer(nil, err); status != http.StatusConflict || !strings.Contains(msg, "exists already") {
		t.Errorf("%d %s", status, msg)
	}
}

func TestConcurrentRefresh(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	first := make(chan int)
	go func() {
		_, status, _ := m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
		first <- status
	}()
	<-m.fake.entered
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusConflict, "is being refreshed")
	m.signs("alice")
	m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"metadata": map[string]any{"during": "refresh"}})
	close(m.fake.block)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first refresh: %d", status)
	}
	d := m.must(logical.ReadOperation, "accounts/alice", nil)
	if fmt.Sprint(d["metadata"]) != "map[during:refresh]" || d["share_epoch"] != uint64(2) {
		t.Errorf("a change during the refresh was lost: %v %v", d["metadata"], d["share_epoch"])
	}
}

func TestDestroyDuringRefresh(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	first := make(chan int)
	go func() {
		_, status, _ := m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
		first <- status
	}()
	<-m.fake.entered
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	close(m.fake.block)
	if status := <-first; status != http.StatusConflict {
		t.Errorf("the refresh: %d", status)
	}
	m.fails(logical.ReadOperation, "accounts/alice", nil, 404, "no account")
}

// TestManyAtOnce is for the race detector: everything at once on one account.
func TestManyAtOnce(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				switch i % 4 {
				case 0:
					m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
				case 1:
					m.do(logical.UpdateOperation, "accounts/alice", map[string]any{"refresh_period": "1m"})
				case 2:
					m.do(logical.ReadOperation, "accounts/alice", nil)
				case 3:
					if _, status, msg := m.do(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="}); status != 200 && status != 409 {
						t.Errorf("sign: %d %s", status, msg)
					}
				}
			}
		})
	}
	wg.Wait()
	alive(t, m)
}

func TestRunnerUsesBackend(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.create("bob", "ecdsa-secp256k1")
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: prefixAccounts + "damaged", Value: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	records, err := m.b.Schedule(t.Context())
	if err != nil || len(records) != 2 || records[0].Key != "alice" || records[0].LastRefresh.IsZero() {
		t.Fatalf("schedule: %v, %v", records, err)
	}
	rec, err := m.b.RefreshAccount(t.Context(), "alice")
	if err != nil || !rec.LastRefresh.After(records[0].LastRefresh) {
		t.Errorf("refresh: %v, %v", rec, err)
	}
	if _, err := m.b.RefreshAccount(t.Context(), "nobody"); !errors.Is(err, rotation.ErrGone) {
		t.Errorf("an account that is gone: %v", err)
	}
}

func TestPublicKeyPEM(t *testing.T) {
	m := configured(t)
	for _, alg := range mpc.Algorithms() {
		d := m.create(string(alg), string(alg))
		text := d["public_key"].(string)
		if !strings.HasPrefix(text, "-----BEGIN PUBLIC KEY-----\n") {
			t.Fatalf("%s: %q", alg, text)
		}
		openssl, err := exec.LookPath("openssl")
		if err != nil {
			t.Skip("no openssl here to check the encoding with")
		}
		// OpenSSL verifies a signature of ours under the key it read.
		dir := t.TempDir()
		keyFile := filepath.Join(dir, "key.pem")
		if err := os.WriteFile(keyFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(openssl, "pkey", "-pubin", "-in", keyFile, "-noout", "-text").CombinedOutput()
		kind := map[mpc.Algorithm]string{mpc.Ed25519: "ED25519", mpc.ECDSAP256: "prime256v1"}[alg]
		if kind == "" {
			kind = "secp256k1"
		}
		if err != nil || !strings.Contains(string(out), kind) {
			t.Errorf("%s: openssl reads %s (%v)", alg, out, err)
		}
		if alg == mpc.BIP340Secp256k1 { // OpenSSL does not know the scheme
			continue
		}
		s := m.must(logical.UpdateOperation, "sign/"+string(alg), map[string]any{"input": "aGVsbG8="})
		sig, _ := base64.StdEncoding.DecodeString(s["signature"].(string))
		sigFile, msgFile := filepath.Join(dir, "sig"), filepath.Join(dir, "msg")
		for f, b := range map[string][]byte{sigFile: sig, msgFile: []byte("hello")} {
			if err := os.WriteFile(f, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := []string{"dgst", "-sha256", "-verify", keyFile, "-signature", sigFile, msgFile}
		if alg == mpc.Ed25519 {
			args = []string{"pkeyutl", "-verify", "-pubin", "-inkey", keyFile, "-rawin", "-in", msgFile, "-sigfile", sigFile}
		}
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Errorf("openssl does not verify: %s", out)
		}
	}
}
