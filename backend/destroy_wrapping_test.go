package backend

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/pool"
)

const endPath = "destroy/wrapping-keys"

func TestEndOfMount(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.rotate()
	m.fails(logical.UpdateOperation, endPath, nil, http.StatusConflict, "2 accounts need the wrapping keys (alice, bob)")
	m.signs("alice")
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	m.must(logical.DeleteOperation, "destroy/bob", nil)

	// Not while an account is being made, and none is made meanwhile.
	release, err := m.b.busy.reserve(prefixAccounts+"carol", "is being created")
	if err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, endPath, nil, http.StatusConflict, "accounts/carol is being created")
	release()
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 9)
	ended := make(chan *logical.Response)
	go func() {
		resp, status, msg := m.do(logical.UpdateOperation, endPath, nil)
		if status != 200 {
			t.Errorf("%d %s", status, msg)
		}
		ended <- resp
	}()
	<-m.fake.entered
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"algorithm": "ed25519"}, http.StatusConflict, "wrapping keys are being destroyed")
	m.fails(logical.UpdateOperation, endPath, nil, http.StatusConflict, "is being made or destroyed")
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, http.StatusConflict, "is being made or destroyed")
	if err := m.b.store.PutNodeKeys(t.Context(), "local-1", nodeKeys(2)); err == nil {
		t.Error("a node stored keys that nothing will open")
	}
	// A key of ours that no version knows, and one of somebody else.
	m.fake.mu.Lock()
	settings := m.fake.settings()
	stray := m.fake.makeKey(settings.MountID, hsm.DefaultDomain, 3)
	other := m.fake.makeKey([16]byte{9}, hsm.DefaultDomain, 1)
	m.fake.mu.Unlock()
	close(m.fake.block)
	resp := <-ended
	m.fake.mu.Lock()
	m.fake.block, m.fake.entered = nil, nil
	m.fake.mu.Unlock()
	if resp == nil {
		t.FailNow()
	}
	d := resp.Data
	if fmt.Sprint(d["destroyed"]) != "[1 2]" || d["strays_searched"] != true || len(d["other_tokens"].([]map[string]any)) != 0 || len(resp.Warnings) != 0 {
		t.Errorf("%v %q", d, resp.Warnings)
	}
	strays := d["strays"].([]map[string]any)
	if len(strays) != 1 || strays[0]["label"] != stray.Label || strays[0]["key_id"] != fmt.Sprintf("%x", stray.ID) ||
		!strings.Contains(strays[0]["command"].(string), fmt.Sprintf("--type privkey --id %x", stray.ID)) {
		t.Errorf("strays: %v", strays)
	}
	if _, ok := m.fake.token[string(other.ID)]; len(m.fake.token) != 2 || !ok {
		t.Errorf("%d keys in the token", len(m.fake.token))
	}
	if got := strings.Join(keys(t, m.storage), " "); strings.Contains(got, keyHSM) || strings.Contains(got, prefixNodeKeys) || !strings.Contains(got, keyMount) {
		t.Errorf("stored: %s", got)
	}
	if m.fake.closed != 1 {
		t.Errorf("the nodes were ended %d times", m.fake.closed)
	}

	// The mount is as good as new, but for the numbers.
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "ed25519"}, 400, "no HSM is configured")
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 400, "no HSM is configured")
	m.pass()
	again := m.must(logical.UpdateOperation, endPath, nil)
	if again["strays_searched"] != false || fmt.Sprint(again["destroyed"]) != "[1 2]" {
		t.Errorf("again: %v", again)
	}
	configure(m)
	if d := m.must(logical.ReadOperation, "config/hsm", nil); d["wrapping_version"] != 3 {
		t.Errorf("the next version is %v", d["wrapping_version"])
	}
	m.create("alice", "ed25519")
	m.signs("alice")
	if m.version(1)["state"] != "destroyed" || m.version(3)["state"] != "live" {
		t.Error("the states are wrong")
	}
}

// TestEndOfMountFails: the HSM goes away in the middle; the second try goes on.
func TestEndOfMountFails(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.rotate()
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	m.must(logical.DeleteOperation, "destroy/bob", nil)
	m.fake.down = true
	m.fails(logical.UpdateOperation, endPath, nil, 503, "0 of 5 nodes are ready")
	if m.version(2)["state"] != "live" {
		t.Error("marked although no node could destroy it")
	}
	m.fake.down, m.fake.destroyErr = false, pool.ErrHSMUnavailable
	m.fails(logical.UpdateOperation, endPath, nil, 503, "goes on where it stopped")
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"algorithm": "ed25519"}, http.StatusConflict, "being destroyed")
	m.fake.destroyErr = nil
	m.must(logical.UpdateOperation, endPath, nil)
	if len(m.fake.token) != 0 {
		t.Errorf("%d keys in the token", len(m.fake.token))
	}
}

// TestEndOfMountOtherToken: versions in a token that is not configured any more
// are named.
func TestEndOfMountOtherToken(t *testing.T) {
	m := configured(t)
	m.fake.serial = "other"
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": "pkcs11:token=other?module-name=softhsm", "pin": testPIN})
	if d := m.version(1); !strings.Contains(d["last_error"].(string), "another token") {
		t.Errorf("%v", d)
	}
	d := m.must(logical.UpdateOperation, endPath, nil)
	others := d["other_tokens"].([]map[string]any)
	if fmt.Sprint(d["destroyed"]) != "[2]" || len(others) != 1 || others[0]["version"] != int64(1) || others[0]["token_serial"] != testSerial {
		t.Errorf("%v", d)
	}
}

// TestAccountCalledWrappingKeys: none is made; one of an older version is
// destroyed only on purpose.
func TestAccountCalledWrappingKeys(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.fails(logical.UpdateOperation, "accounts/wrapping-keys", map[string]any{"algorithm": "ed25519"}, 400, "no account can be called")
	m.fails(logical.UpdateOperation, endPath, map[string]any{"account": true}, 404, "there is no account")
	if err := m.b.store.putAccount(t.Context(), wrappingKeysName, m.record("bob")); err != nil {
		t.Fatal(err)
	}
	m.signs(wrappingKeysName)
	m.must(logical.UpdateOperation, "accounts/wrapping-keys", map[string]any{"metadata": "a=b"})
	m.fails(logical.UpdateOperation, endPath, nil, http.StatusConflict, "destroy/wrapping-keys account=true")
	m.fails(logical.DeleteOperation, endPath, nil, http.StatusMethodNotAllowed, "unsupported operation")
	m.must(logical.UpdateOperation, endPath, map[string]any{"account": true})
	m.fails(logical.ReadOperation, "accounts/wrapping-keys", nil, 404, "there is no account")
	if m.version(1)["state"] != "live" {
		t.Error("the wrapping key went with the account")
	}
}

// TestDestroyInOtherToken: a version is not taken for destroyed because the
// token that took its own's place meanwhile does not have it.
func TestDestroyInOtherToken(t *testing.T) {
	at := newClock()
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), at)
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	m.must(logical.DeleteOperation, "destroy/bob", nil)
	m.rotate()
	if err := m.b.store.PutNodeKeys(t.Context(), "local-1", nodeKeys(2)); err != nil {
		t.Fatal(err)
	}
	m.read()
	at.add(100 * 24 * time.Hour)
	conf, err := m.b.store.hsmConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := conf.Token.Serial
	for _, x := range []struct {
		serial string
		want   wrappingState
	}{{"another", stateRetired}, {own, stateDestroyed}} {
		conf.Token.Serial = x.serial
		if err := m.b.store.put(t.Context(), keyHSM, conf); err != nil {
			t.Fatal(err)
		}
		if err := m.b.destroyVersion(t.Context(), 1); err != nil {
			t.Errorf("with token %s: %v", x.serial, err)
		}
		ring, err := m.b.store.keyring(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := ring.find(1).State; got != x.want {
			t.Errorf("with token %s it is %s, not %s", x.serial, got, x.want)
		}
	}
}
