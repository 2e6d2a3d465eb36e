//go:build e2e && cgo

package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestChangedPIN: the token's PIN is changed under a running mount. Nodes that
// are logged in go on; one that starts anew is refused, says so without the
// PIN, and does not try again; writing the new PIN mends it, and has the others
// log in with it one after the other, so that none keeps the old one.
func TestChangedPIN(t *testing.T) {
	v := harness.Shared(t)
	token := v.AddToken(t, "changing")
	const path, count = "changed-pin", 3
	v.Enable(t, path)
	t.Cleanup(func() {
		if err := v.Client.Sys().Unmount(path); err != nil {
			t.Error(err)
		}
	})
	e := &engine{v, path}
	e.write(t, "config/nodes", map[string]any{"local": count})
	e.write(t, "config/hsm", map[string]any{"uri": token.URI(), "pin": token.PIN})
	e.waitNodes(t, count)
	e.create(t, "alice", bip340, 2, 3)
	// Two of three must do while one is down. Which shares they may open is
	// fixed by now, and any two shares sign.
	e.sign(t, "alice", []byte("before"))
	pids := e.pids(t)

	newPIN := token.PIN[:8] + "-changed"
	if err := setPIN(t, token, newPIN); err != nil {
		t.Fatal(err)
	}
	e.sign(t, "alice", []byte("logged in before the change"))

	kill := func(id string) {
		t.Helper()
		if err := syscall.Kill(e.pids(t)[id], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	kill("local-1")
	e.await(t, 10*time.Second, "failed node", func() bool { return e.nodes(t)["local-1"]["state"] == "failed" })
	failed := e.nodes(t)["local-1"]
	text := fmt.Sprint(failed["last_error"])
	if !strings.Contains(text, "refused the PIN") {
		t.Errorf("last error: %s", text)
	}
	for _, pin := range []string{token.PIN, newPIN} {
		if strings.Contains(fmt.Sprint(failed), pin) {
			t.Error("the failed node shows the PIN")
		}
		if bytes.Contains(v.Log(t), []byte(pin)) {
			t.Error("the log shows the PIN")
		}
	}
	restarts := number(t, failed["restarts"])
	time.Sleep(1500 * time.Millisecond) // longer than the first pauses between restarts
	if n := e.nodes(t)["local-1"]; n["state"] != "failed" || number(t, n["restarts"]) != restarts {
		t.Errorf("the refused PIN was tried again: %v", n)
	}

	// The old PIN, now wrong, is refused and changes nothing.
	e.refuse(t, "config/hsm", map[string]any{"pin": token.PIN}, badRequest, "refused the PIN", "nothing was stored")
	e.write(t, "config/hsm", map[string]any{"pin": newPIN})
	e.await(t, 20*time.Second, "renewed pool", func() bool {
		e.sign(t, "alice", []byte("meanwhile"))
		for id, n := range e.nodes(t) {
			if n["state"] != "ready" || number(t, n["pid"]) == pids[id] {
				return false
			}
		}
		return true
	})
	e.write(t, "accounts/alice/refresh", nil) // every node opens its share
	e.sign(t, "alice", []byte("after the refresh"))
}

// pids returns the process ID of every node.
func (e *engine) pids(t testing.TB) map[string]int {
	t.Helper()
	out := map[string]int{}
	for id, n := range e.nodes(t) {
		out[id] = number(t, n["pid"])
	}
	return out
}

// setPIN changes the user PIN as an operator would with the token's own tool;
// softhsm2-util cannot.
func setPIN(t *testing.T, token e2e.Token, newPIN string) (err error) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", token.Conf)
	module := pkcs11.New(token.Module)
	if module == nil {
		return fmt.Errorf("loading %s failed", token.Module)
	}
	defer module.Destroy()
	if err := module.Initialize(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Finalize()) }()
	slots, err := module.GetSlotList(true)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(slots, func(slot uint) bool {
		info, err := module.GetTokenInfo(slot)
		return err == nil && strings.Trim(info.Label, " \x00") == token.Label
	})
	if i < 0 {
		return fmt.Errorf("no token %s", token.Label)
	}
	session, err := module.OpenSession(slots[i], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	if err := module.Login(session, pkcs11.CKU_USER, token.PIN); err != nil {
		return err
	}
	return module.SetPIN(session, token.PIN, newPIN)
}
