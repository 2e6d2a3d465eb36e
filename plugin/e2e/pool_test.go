//go:build e2e

package e2e_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestDraining: nodes are taken away and added while clients sign; nobody sees
// a failure.
func TestDraining(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 5)
	e.create(t, "drained", ed25519, 2, 3)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	count := 0
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
				if _, err := e.trySign("drained", fmt.Appendf(nil, "client %d message %d", c, i)); err != nil {
					t.Errorf("while nodes come and go: %v", err)
					return
				}
				mu.Lock()
				count++
				mu.Unlock()
			}
		}()
	}
	for _, local := range []int{4, 5, 3, 6} {
		// A refresh gives every share to a node that stays.
		e.write(t, "config/nodes", map[string]any{"local": local})
		e.await(t, 40*time.Second, fmt.Sprintf("pool of %d nodes", local), func() bool {
			nodes, ready := e.nodes(t), 0
			for _, n := range nodes {
				if n["state"] == "ready" {
					ready++
				}
			}
			return len(nodes) == local && ready == local
		})
		e.write(t, "accounts/drained/refresh", nil)
	}
	close(stop)
	clients.Wait()
	t.Logf("%d signatures meanwhile", count)
	if count < 50 {
		t.Errorf("only %d signatures", count)
	}
	e.sign(t, "drained", []byte("afterwards"))
}

// TestBusy: more requests than may wait are refused with 429 and a text; all
// others are answered, also those of another account.
func TestBusy(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 2)
	e.write(t, "config/nodes", map[string]any{"sessions_per_node": 1})
	e.create(t, "loud", ed25519, 2, 2)
	e.create(t, "quiet", ed25519, 2, 2)

	const many = 600
	var wg sync.WaitGroup
	var mu sync.Mutex
	signed, refused := 0, 0
	client, err := e.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(e.RootToken)
	client.SetMaxRetries(0) // clients repeat a 429 by themselves
	for i := range many {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := client.Logical().Write("mpc/sign/loud", map[string]any{"input": b64(fmt.Appendf(nil, "%d", i))})
			mu.Lock()
			defer mu.Unlock()
			var answer *api.ResponseError
			switch {
			case err == nil:
				signed++
			case errors.As(err, &answer) && answer.StatusCode == tooMany && strings.Contains(err.Error(), "busy"):
				refused++
			default:
				t.Errorf("request %d: %v", i, err)
			}
		}()
	}
	time.Sleep(100 * time.Millisecond)
	started := time.Now()
	e.sign(t, "quiet", []byte("in between"))
	t.Logf("the quiet account waited %v", time.Since(started))
	wg.Wait()
	t.Logf("%d signed, %d refused as busy", signed, refused)
	if signed+refused != many || signed == 0 || refused == 0 {
		t.Errorf("%d signed and %d refused of %d", signed, refused, many)
	}
	e.sign(t, "loud", []byte("afterwards"))
	e.refuse(t, "config/nodes", map[string]any{"sessions_per_node": 0}, badRequest, "sessions_per_node")
	e.refuse(t, "config/nodes", map[string]any{"sessions_per_node": 65}, badRequest, "sessions_per_node")
}

// TestAuxiliaryRenewal: a node gets new auxiliary keys while ECDSA goes on; a
// restart works with the new ones without making any; a node that joins makes
// only its own.
func TestAuxiliaryRenewal(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 3)
	e.waitAuxiliary(t)
	e.create(t, "renewed", ecdsaCurve, 2, 3)
	generation := func(node string) int { return number(t, e.nodes(t)[node]["aux_generation"]) }
	before := map[string]int{}
	for _, n := range []string{"local-1", "local-2", "local-3"} {
		before[n] = generation(n)
	}
	if r := e.Mpckms(t, "node", "renew", "local-2"); r.Code != 0 {
		t.Fatalf("mpckms node renew: %+v", r)
	}
	meanwhile := 0
	e.await(t, 2*time.Minute, "renewed keys of local-2", func() bool {
		e.sign(t, "renewed", fmt.Appendf(nil, "meanwhile %d", meanwhile))
		meanwhile++
		return generation("local-2") == before["local-2"]+1
	})
	t.Logf("%d ECDSA signatures during the renewal", meanwhile)
	e.waitAuxiliary(t)
	for range 3 { // every pair of signers
		e.sign(t, "renewed", []byte("with the new keys"))
	}
	if generation("local-1") != before["local-1"] || generation("local-3") != before["local-3"] {
		t.Error("others made new keys as well")
	}
	e.refuse(t, "nodes/local-9/renew", nil, notFound, "local-9")

	v.Kill9(t)
	v.Restart(t)
	e.await(t, 20*time.Second, "answer from the engine", func() bool {
		_, err := v.Client.Logical().Read("mpc/nodes/local-1")
		return err == nil
	})
	e.waitNodes(t, 3)
	started := time.Now()
	e.sign(t, "renewed", []byte("after a restart"))
	t.Logf("the first ECDSA signature after a restart took %v", time.Since(started))
	if generation("local-2") != before["local-2"]+1 {
		t.Errorf("generation %d after the restart", generation("local-2"))
	}

	e.write(t, "config/nodes", map[string]any{"local": 4})
	e.waitNodes(t, 4)
	e.waitAuxiliary(t)
	if generation("local-1") != before["local-1"] || generation("local-2") != before["local-2"]+1 {
		t.Error("a node that joined made the others make new keys")
	}

	t.Run("by period", func(t *testing.T) {
		e.write(t, "config/rotation", map[string]any{"aux_period": "1m"})
		e.await(t, 4*time.Minute, "renewal by period", func() bool {
			e.sign(t, "renewed", []byte("by period"))
			return generation("local-1") > before["local-1"]
		})
		e.write(t, "config/rotation", map[string]any{"aux_period": "1h"})
		e.refuse(t, "config/rotation", map[string]any{"aux_period": "10s"}, badRequest, "aux_period")
	})
}

// TestRestoredStorage: after a restore of Vault's storage no spare may take
// over a share until the account's next refresh. The operator can say so, and
// an old heartbeat says so by itself.
func TestRestoredStorage(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 5)
	e.create(t, "restored", bip340, 2, 3)
	allowed := func() bool { return e.read(t, "accounts/restored")["spares_allowed"] == true }
	e.await(t, 10*time.Second, "spares at first", allowed)

	e.write(t, "recovery/restored", nil)
	if allowed() {
		t.Error("spares are allowed after a declared restore")
	}
	for range 5 {
		e.sign(t, "restored", []byte("by those known to have shares"))
	}
	e.write(t, "accounts/restored/refresh", nil)
	if !allowed() {
		t.Error("no spares after the refresh")
	}

	// A real snapshot: the heartbeat in it is old when it comes back. Ages are
	// minutes, so the test makes the stored heartbeat old instead of waiting.
	e.await(t, 90*time.Second, "heartbeat", func() bool {
		for _, key := range e.RawList(t, "mpc") {
			if key == "heartbeat" {
				return true
			}
		}
		return false
	})
	e.RawWrite(t, "mpc", "heartbeat", []byte(`{"version":2,"time":"2026-01-02T03:04:05Z"}`))
	v.Kill9(t)
	v.Restart(t)
	e.await(t, 20*time.Second, "answer from the engine", func() bool {
		_, err := v.Client.Logical().Read("mpc/accounts/restored")
		return err == nil
	})
	e.waitNodes(t, 5)
	if allowed() {
		t.Error("spares are allowed although the storage looks restored")
	}
	e.sign(t, "restored", []byte("still signs"))
	e.write(t, "accounts/restored/refresh", nil)
	if !allowed() {
		t.Error("no spares after the refresh")
	}
	e.sign(t, "restored", []byte("afterwards"))
}
