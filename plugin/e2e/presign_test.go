//go:build e2e

package e2e_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

func (e *engine) waitPresignatures(t testing.TB, name string, count int) {
	t.Helper()
	e.await(t, 3*time.Minute, fmt.Sprintf("%d presignatures of %s", count, name), func() bool {
		return number(t, e.read(t, "accounts/"+name)["presignatures"]) >= count
	})
}

// TestPresignatures: an account with presign keeps a stock that makes its
// signatures fast; digests and child keys never draw on it, a refresh voids it,
// and no nonce is used twice while clients race for it and nodes are killed.
func TestPresignatures(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	for _, algorithm := range []string{ecdsaCurve, ecdsaP256} {
		t.Run(algorithm, func(t *testing.T) {
			name := "stock-" + algorithm
			e.write(t, "accounts/"+name, map[string]any{"algorithm": algorithm, "threshold": 2, "shares": 3, "presign": 2})
			e.waitPresignatures(t, name, 2)

			started := time.Now()
			s := e.sign(t, name, []byte("presigned"))
			t.Logf("a signature with a presignature took %v, with the checks of this test", time.Since(started))
			if s["presigned"] != true {
				t.Errorf("no presignature was used: %v", s)
			}
			digest := e.write(t, "sign/"+name, map[string]any{"input": b64(make([]byte, 32)), "message_type": "digest"})
			if digest["presigned"] != false {
				t.Error("a caller's digest was signed with a presignature")
			}
			e.waitPresignatures(t, name, 2) // replenished
			if algorithm == ecdsaCurve {
				child := e.write(t, "sign/"+name, map[string]any{"input": b64([]byte("child")), "derivation_path": "m/1"})
				if child["presigned"] != false {
					t.Error("a child's signature was made with a presignature")
				}
			}
			r := e.write(t, "accounts/"+name+"/refresh", nil)
			if n := number(t, r["presignatures"]); n != 0 {
				t.Errorf("%d presignatures outlive a refresh", n)
			}
			e.write(t, "accounts/"+name, map[string]any{"presign": 0})
		})
	}
	t.Run("refused", func(t *testing.T) {
		e.refuse(t, "accounts/no-stock", map[string]any{"algorithm": bip340, "presign": 1}, badRequest, "presign")
		e.refuse(t, "accounts/no-stock", map[string]any{"algorithm": ed25519, "presign": 1}, badRequest, "presign")
		e.refuse(t, "accounts/no-stock", map[string]any{"algorithm": ecdsaCurve, "presign": 65}, badRequest, "presign")
		e.refuse(t, "accounts/no-stock", map[string]any{"algorithm": ecdsaCurve, "presign": -1}, badRequest, "presign")
	})
}

// TestPresignatureRace: many clients take from one small stock while nodes are
// killed; every answer verifies and no two have the same r.
func TestPresignatureRace(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 4)
	// What the stock does not cover costs seconds of CPU each, all at once.
	e.write(t, "config/nodes", map[string]any{"session_timeout": "60s"})
	e.waitAuxiliary(t)
	e.write(t, "accounts/race", map[string]any{"algorithm": ecdsaCurve, "threshold": 2, "shares": 3, "presign": 6})
	e.waitPresignatures(t, "race", 6)

	type signed struct {
		message []byte
		answer  map[string]any
	}
	var mu sync.Mutex
	var all []signed
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for i := range 3 {
				m := fmt.Appendf(nil, "client %d message %d", c, i)
				s, err := e.trySign("race", m)
				if err != nil {
					t.Errorf("%s: %v", m, err)
					continue
				}
				mu.Lock()
				all = append(all, signed{m, s})
				mu.Unlock()
			}
		}()
	}
	for i := range 2 {
		time.Sleep(700 * time.Millisecond)
		if pid := number(t, e.nodes(t)[fmt.Sprintf("local-%d", i+1)]["pid"]); pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	clients.Wait()
	nonces, fast := map[string]bool{}, 0
	for _, s := range all {
		e.check(t, "race", s.message, s.answer)
		r := s.answer["r"].(string)
		if nonces[r] {
			t.Fatalf("two signatures have r = %s: the key is lost", r)
		}
		nonces[r] = true
		if s.answer["presigned"] == true {
			fast++
		}
	}
	t.Logf("%d signatures, %d of them presigned", len(all), fast)
	if len(all) != 12 || fast == 0 {
		t.Errorf("%d signatures, %d presigned", len(all), fast)
	}
}
