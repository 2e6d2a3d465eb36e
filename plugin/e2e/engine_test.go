//go:build e2e

package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// engine is a configured mount with running nodes.
type engine struct {
	*e2e.Vault
	path string
}

var (
	sharedOnce   sync.Once
	sharedEngine *engine
)

// shared returns the suite's mount "mpc" with five nodes. Tests that use it
// must leave it working.
func shared(t *testing.T) *engine {
	t.Helper()
	v := harness.Shared(t)
	sharedOnce.Do(func() {
		v.Enable(t, "mpc")
		v.ConfigHSM(t, "mpc")
		sharedEngine = &engine{v, "mpc"}
	})
	if sharedEngine == nil {
		t.Fatal("the shared mount could not be configured; see the first failure")
	}
	sharedEngine.waitNodes(t, 5)
	return sharedEngine
}

var (
	raftOnce   sync.Once
	raftEngine *engine
)

// sharedRaft returns the mount "mpc" of the suite's Vault on Raft, with three
// nodes that have their auxiliary keys. Tests that use it must leave it there
// and working.
func sharedRaft(t *testing.T) *engine {
	t.Helper()
	v := harness.SharedRaft(t)
	raftOnce.Do(func() { raftEngine = enable(t, v, "mpc", 3) })
	if raftEngine == nil {
		t.Fatal("the mount on Raft could not be configured; see the first failure")
	}
	raftEngine.waitNodes(t, 3)
	raftEngine.waitAuxiliary(t)
	return raftEngine
}

// enable configures another mount on a Vault.
func enable(t *testing.T, v *e2e.Vault, path string, nodes int) *engine {
	t.Helper()
	v.Enable(t, path)
	e := &engine{v, path}
	if nodes != 5 {
		e.write(t, "config/nodes", map[string]any{"local": nodes})
	}
	v.ConfigHSM(t, path)
	e.waitNodes(t, nodes)
	return e
}

func (e *engine) write(t testing.TB, path string, data map[string]any) map[string]any {
	t.Helper()
	s, err := e.Client.Logical().Write(e.path+"/"+path, data)
	if err != nil {
		t.Fatalf("write %s: %v", path, err)
	}
	if s == nil {
		return nil
	}
	return s.Data
}

func (e *engine) read(t testing.TB, path string) map[string]any {
	t.Helper()
	s, err := e.Client.Logical().Read(e.path + "/" + path)
	if err != nil || s == nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return s.Data
}

// refuse expects an error with that status and every given piece of text.
func (e *engine) refuse(t testing.TB, path string, data map[string]any, status int, texts ...string) {
	t.Helper()
	_, err := e.Client.Logical().Write(e.path+"/"+path, data)
	checkRefusal(t, "write "+path, err, status, texts...)
}

func checkRefusal(t testing.TB, what string, err error, status int, texts ...string) {
	t.Helper()
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		t.Errorf("%s: %v, want status %d", what, err, status)
		return
	}
	all := strings.Join(answer.Errors, "\n")
	if answer.StatusCode != status {
		t.Errorf("%s: status %d, want %d: %s", what, answer.StatusCode, status, all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%s: %q does not say %q", what, all, text)
		}
	}
}

// nodes returns what nodes/ says of every node.
func (e *engine) nodes(t testing.TB) map[string]map[string]any {
	t.Helper()
	s, err := e.Client.Logical().List(e.path + "/nodes")
	if err != nil || s == nil {
		t.Fatalf("list nodes: %v", err)
	}
	out := map[string]map[string]any{}
	for id, info := range s.Data["key_info"].(map[string]any) {
		out[id] = info.(map[string]any)
	}
	return out
}

func (e *engine) waitNodes(t testing.TB, count int) {
	t.Helper()
	e.await(t, 20*time.Second, fmt.Sprintf("%d ready nodes", count), func() bool {
		ready := 0
		for _, n := range e.nodes(t) {
			if n["state"] == "ready" {
				ready++
			}
		}
		return ready == count
	})
}

// await polls until cond holds.
func (e *engine) await(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: no %s", within, what)
		}
	}
}

func (e *engine) create(t testing.TB, name, algorithm string, threshold, shares int) map[string]any {
	t.Helper()
	return e.write(t, "accounts/"+name, map[string]any{"algorithm": algorithm, "threshold": threshold, "shares": shares})
}

// sign signs a raw message and checks the answer with other implementations.
func (e *engine) sign(t testing.TB, name string, message []byte) map[string]any {
	t.Helper()
	s, err := e.trySign(name, message)
	if err != nil {
		t.Fatalf("sign with %s: %v", name, err)
	}
	e.check(t, name, message, s)
	return s
}

func (e *engine) trySign(name string, message []byte) (map[string]any, error) {
	s, err := e.Client.Logical().Write(e.path+"/sign/"+name, map[string]any{"input": b64(message)})
	if err != nil {
		return nil, err
	}
	return s.Data, nil
}

// check verifies a signature by independent code and by verify/.
func (e *engine) check(t testing.TB, name string, message []byte, answer map[string]any) {
	t.Helper()
	account := e.read(t, "accounts/"+name)
	sig, err := base64.StdEncoding.DecodeString(answer["signature"].(string))
	if err != nil {
		t.Fatal(err)
	}
	text := func(field string) string { s, _ := account[field].(string); return s }
	if err := verifySignature(text("algorithm"), text("public_key_hex"), text("public_key"), message, sig); err != nil {
		t.Fatalf("a signature of %s: %v", name, err)
	}
	valid := e.write(t, "verify/"+name, map[string]any{"input": b64(message), "signature": answer["signature"]})
	if valid["valid"] != true {
		t.Fatalf("verify/%s says %v", name, valid)
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// number reads a JSON number.
func number(t testing.TB, v any) int {
	t.Helper()
	n, ok := v.(json.Number)
	if !ok {
		t.Fatalf("%v (%T) is no number", v, v)
	}
	i, err := n.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return int(i)
}

// waitAuxiliary waits until every node can sign ECDSA with every other.
func (e *engine) waitAuxiliary(t testing.TB) {
	t.Helper()
	e.await(t, 5*time.Minute, "complete auxiliary keys", func() bool {
		for _, n := range e.nodes(t) {
			if n["aux_state"] != "ready" && n["aux_state"] != "renewing" {
				return false
			}
		}
		return true
	})
}

const (
	badRequest  = http.StatusBadRequest
	notFound    = http.StatusNotFound
	bip340      = "bip340-secp256k1"
	ed25519     = "ed25519"
	ecdsaCurve  = "ecdsa-secp256k1"
	ecdsaP256   = "ecdsa-p256"
	conflictNow = http.StatusConflict
	tooMany     = http.StatusTooManyRequests
)
