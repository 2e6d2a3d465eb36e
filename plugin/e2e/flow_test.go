//go:build e2e

package e2e_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestConfiguredToken(t *testing.T) {
	e := shared(t)
	c := e.read(t, "config/hsm")
	if c["module"] != "softhsm" || c["suite"] != "hpke-p256" || c["pin_set"] != true || number(t, c["wrapping_version"]) != 1 {
		t.Errorf("config/hsm: %v", c)
	}
	if _, ok := c["pin"]; ok {
		t.Error("the PIN comes back")
	}
	s, err := e.Client.Sys().ListMounts()
	if err != nil {
		t.Fatal(err)
	}
	m := s["mpc/"]
	if m == nil || m.RunningVersion != harness.PluginVersion || m.RunningSha256 == "" {
		t.Errorf("the mount runs %+v, want version %s with its SHA-256", m, harness.PluginVersion)
	}
}

func TestBIP340Account(t *testing.T) {
	e := shared(t)
	made := e.create(t, "bip340", bip340, 2, 3)
	if len(made["birth_certificate"].([]any)) != 3 || number(t, made["share_epoch"]) != 1 {
		t.Fatalf("created: %v", made)
	}
	for i := range 20 {
		e.sign(t, "bip340", fmt.Appendf(nil, "message %d", i))
	}
	e.sign(t, "bip340", make([]byte, 4096)) // BIP-340 has no message length

	t.Run("refused signature", func(t *testing.T) {
		s := e.sign(t, "bip340", []byte("one"))
		bad := e.write(t, "verify/bip340", map[string]any{"input": b64([]byte("two")), "signature": s["signature"]})
		if bad["valid"] != false {
			t.Errorf("a signature on another message: %v", bad)
		}
	})

	t.Run("refresh", func(t *testing.T) {
		before := e.read(t, "accounts/bip340")
		r := e.write(t, "accounts/bip340/refresh", nil)
		after := e.read(t, "accounts/bip340")
		if number(t, r["share_epoch"]) != number(t, before["share_epoch"])+1 {
			t.Errorf("epoch %v after %v", r["share_epoch"], before["share_epoch"])
		}
		if after["public_key_hex"] != before["public_key_hex"] || after["epoch_id"] == before["epoch_id"] || after["record_hash"] == before["record_hash"] {
			t.Errorf("before %v, after %v", before, after)
		}
		e.sign(t, "bip340", []byte("after the refresh"))
	})
}

func TestOtherSharings(t *testing.T) {
	e := shared(t)
	for _, c := range []struct{ threshold, shares int }{{2, 2}, {3, 3}, {3, 5}, {4, 5}, {5, 5}} {
		name := fmt.Sprintf("share-%d-%d", c.threshold, c.shares)
		e.create(t, name, bip340, c.threshold, c.shares)
		s := e.sign(t, name, []byte(name))
		if n := len(s["signers"].([]any)); n != c.threshold {
			t.Errorf("%s: %d signers", name, n)
		}
		e.write(t, "accounts/"+name+"/refresh", nil)
		e.sign(t, name, []byte(name))
	}
}

// TestECDSAAccount waits for the nodes' auxiliary keys.
func TestECDSAAccount(t *testing.T) {
	e := shared(t)
	started := time.Now()
	e.create(t, "ecdsa", ecdsaCurve, 2, 3)
	t.Logf("creating an ECDSA account took %v", time.Since(started))
	e.waitAuxiliary(t)
	for i := range 3 {
		started = time.Now()
		s := e.sign(t, "ecdsa", fmt.Appendf(nil, "message %d", i))
		t.Logf("an ECDSA signature took %v", time.Since(started))
		if v := number(t, s["v"]); v < 0 || v > 3 {
			t.Errorf("recovery ID %d", v)
		}
	}
	before := e.read(t, "accounts/ecdsa")
	e.write(t, "accounts/ecdsa/refresh", nil)
	if after := e.read(t, "accounts/ecdsa"); after["public_key"] != before["public_key"] {
		t.Error("the refresh changed the public key")
	}
	e.sign(t, "ecdsa", []byte("after the refresh"))

	t.Run("keccak and digest", func(t *testing.T) {
		s := e.write(t, "sign/ecdsa", map[string]any{"input": b64([]byte("abc")), "hash_algorithm": "keccak-256"})
		if s["digest"] != "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45" {
			t.Errorf("digest %v", s["digest"])
		}
		v := e.write(t, "verify/ecdsa", map[string]any{"input": b64(unhex(t, s["digest"])), "message_type": "digest", "signature": s["signature"]})
		if v["valid"] != true {
			t.Errorf("the signature is not valid for its digest: %v", v)
		}
	})
	t.Run("3 of 5", func(t *testing.T) {
		e.create(t, "ecdsa-3-5", ecdsaCurve, 3, 5)
		e.sign(t, "ecdsa-3-5", []byte("three of five"))
	})
}

// TestKilledNode: a signature is answered although a node has just been killed,
// and the node comes back.
func TestKilledNode(t *testing.T) {
	e := shared(t)
	e.create(t, "killed", bip340, 3, 5)
	for i := range 5 {
		victim := fmt.Sprintf("local-%d", i+1)
		pid := number(t, e.nodes(t)[victim]["pid"])
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.sign(t, "killed", fmt.Appendf(nil, "without %s", victim))
		e.await(t, 20*time.Second, "new process of "+victim, func() bool {
			n := e.nodes(t)[victim]
			return n["state"] == "ready" && number(t, n["pid"]) != pid
		})
	}
}

// TestKilledDuringSignatures kills nodes at random while many clients sign:
// every request is answered with a good signature.
func TestKilledDuringSignatures(t *testing.T) {
	e := shared(t)
	e.create(t, "storm", bip340, 2, 3)
	stop := make(chan struct{})
	var clients, killer sync.WaitGroup
	type signed struct {
		message []byte
		answer  map[string]any
	}
	results := make(chan signed, 4096)
	for c := range 4 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				m := fmt.Appendf(nil, "client %d message %d", c, i)
				s, err := e.trySign("storm", m)
				if err != nil {
					t.Errorf("%s: %v", m, err)
					return
				}
				results <- signed{m, s}
			}
		}()
	}
	killer.Add(1)
	go func() {
		defer killer.Done()
		defer close(stop)
		for round := range 6 {
			time.Sleep(400 * time.Millisecond)
			n := e.nodes(t)[fmt.Sprintf("local-%d", round%5+1)]
			if pid := number(t, n["pid"]); pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}()
	killer.Wait()
	clients.Wait()
	close(results)
	count, retried := 0, 0
	for r := range results {
		if count++; count%25 == 0 {
			e.check(t, "storm", r.message, r.answer)
		}
		if number(t, r.answer["attempts"]) > 1 {
			retried++
		}
	}
	t.Logf("%d signatures, %d of them after another try", count, retried)
	if count < 50 {
		t.Errorf("only %d signatures", count)
	}
	e.waitNodes(t, 5)
}

// TestKilledDuringECDSA kills a signer in the middle of a CMP session, which
// takes more than a second.
func TestKilledDuringECDSA(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	e.create(t, "ecdsa-killed", ecdsaCurve, 2, 3)
	// The count of sessions is a second old: let that of earlier tests pass.
	e.await(t, 10*time.Second, "idle pool", func() bool {
		for _, n := range e.nodes(t) {
			if number(t, n["sessions"]) > 0 {
				return false
			}
		}
		return true
	})
	done := make(chan error, 1)
	var answer map[string]any
	go func() {
		var err error
		answer, err = e.trySign("ecdsa-killed", []byte("in the middle"))
		done <- err
	}()
	// A node that runs a session is a signer.
	victim := ""
	e.await(t, 20*time.Second, "running session", func() bool {
		for id, n := range e.nodes(t) {
			if number(t, n["sessions"]) > 0 {
				victim = id
				return syscall.Kill(number(t, n["pid"]), syscall.SIGKILL) == nil
			}
		}
		select {
		case err := <-done:
			t.Fatalf("the signature was done before a node could be killed: %v", err)
		default:
		}
		return false
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	e.check(t, "ecdsa-killed", []byte("in the middle"), answer)
	if number(t, answer["attempts"]) < 2 {
		t.Errorf("%s was killed in the session, yet it took %v attempt", victim, answer["attempts"])
	}
	e.waitNodes(t, 5)
	e.waitAuxiliary(t)
}

// TestPeriodicRefresh: with a short period the runner makes new epochs by
// itself, and signing goes on meanwhile.
func TestPeriodicRefresh(t *testing.T) {
	e := shared(t)
	e.write(t, "accounts/rotating", map[string]any{"algorithm": bip340, "threshold": 2, "shares": 3, "refresh_period": "1s"})
	before := e.read(t, "accounts/rotating")
	e.await(t, 20*time.Second, "fourth epoch", func() bool {
		e.sign(t, "rotating", []byte("meanwhile"))
		return number(t, e.read(t, "accounts/rotating")["share_epoch"]) >= 4
	})
	after := e.read(t, "accounts/rotating")
	if after["public_key_hex"] != before["public_key_hex"] {
		t.Error("the public key changed")
	}
	if s, _ := after["last_refresh_error"].(string); s != "" {
		t.Errorf("last refresh error: %s", s)
	}
	e.write(t, "accounts/rotating", map[string]any{"refresh_period": "10m"})
}

func TestDestroy(t *testing.T) {
	e := shared(t)
	e.create(t, "short-lived", bip340, 2, 3)
	if _, err := e.Client.Logical().Delete("mpc/destroy/short-lived"); err != nil {
		t.Fatal(err)
	}
	if s, err := e.Client.Logical().Read("mpc/accounts/short-lived"); s != nil {
		t.Errorf("still there: %v %v", s, err)
	}
	for _, key := range e.RawList(t, "mpc") {
		if strings.Contains(key, "short-lived") {
			t.Errorf("storage still holds %s", key)
		}
	}
	s, err := e.Client.Logical().List("mpc/accounts")
	if err == nil && s != nil && slices.Contains(s.Data["keys"].([]any), any("short-lived")) {
		t.Error("still listed")
	}
	e.create(t, "short-lived", bip340, 2, 3) // the name is free again
	e.sign(t, "short-lived", []byte("new life"))
}

// TestMpckms runs the CLI against the real engine.
func TestMpckms(t *testing.T) {
	e := shared(t)
	run := func(args ...string) string {
		t.Helper()
		r := e.Mpckms(t, args...)
		if r.Code != 0 {
			t.Fatalf("mpckms %v: exit %d: %s", args, r.Code, r.Stderr)
		}
		return r.Stdout
	}
	if out := run("version"); !strings.Contains(out, strings.TrimPrefix(harness.PluginVersion, "v")) {
		t.Errorf("version: %s", out)
	}
	if out := run("status"); !strings.Contains(out, "local-5") || !strings.Contains(out, harness.PluginVersion) || !strings.Contains(out, "SoftHSM") {
		t.Errorf("status: %s", out)
	}
	run("account", "create", "cli", "--algorithm", bip340, "--threshold", "2", "--shares", "3", "--metadata", "team=ops")
	if out := run("account", "list"); !strings.Contains(out, "cli") {
		t.Errorf("list: %s", out)
	}
	if out := run("account", "show", "cli"); !strings.Contains(out, "ops") {
		t.Errorf("show: %s", out)
	}
	field := func(jsonText, key string) string {
		t.Helper()
		_, rest, ok := strings.Cut(jsonText, `"`+key+`": "`)
		value, _, ok2 := strings.Cut(rest, `"`)
		if !ok || !ok2 {
			t.Fatalf("no %s in %s", key, jsonText)
		}
		return value
	}
	out := run("-o", "json", "account", "sign", "cli", "--input", "from the CLI")
	sig, err := base64.StdEncoding.DecodeString(field(out, "signature"))
	if err != nil {
		t.Fatal(err)
	}
	if !verifyBIP340(unhex(t, e.read(t, "accounts/cli")["public_key_hex"]), []byte("from the CLI"), sig) {
		t.Error("the CLI's signature does not verify")
	}
	if r := e.Mpckms(t, "account", "show", "nobody"); r.Code == 0 || !strings.Contains(r.Stderr, "nobody") {
		t.Errorf("an unknown account: %+v", r)
	}
}
