//go:build e2e

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// What an operation passes, by the names that the engine gives its steps. A step
// that is not met fails the test, so that the lists stay true.
var (
	createSteps = []string{"create: nodes have made the key", "create: the account is stored"}
	renameSteps = []string{
		"rename: the old name is marked", "rename: the account is stored under the new name",
		"rename: the old name is removed", "rename: the mark is removed",
	}
	removeSteps  = []string{"remove: the account is removed", "remove: its exposures are removed"}
	refreshSteps = []string{"refresh: nodes have made the next shares", "refresh: the next shares have been opened", "refresh: the next shares are stored"}
	// A new wrapping-key version and what follows from it in the background.
	rotateSteps = []string{
		"rotate: the new wrapping key is in the token", "rotate: the new wrapping key is stored",
		"rotate: the old wrapping keys are retired", "rotate: nodes have been told",
		"rewrap: nodes have resealed the shares", "rewrap: the resealed shares are stored beside the old",
		"settle: the current shares have been opened", "settle: the previous shares are dropped",
		"node keys: one node's keys are resealed",
		"destroy: nothing refers to the wrapping key", "destroy: the wrapping key is marked", "destroy: nodes have forgotten the wrapping key",
		"destroy: the wrapping key has left the token", "destroy: that is stored",
	}
)

// TestKilledAtEveryStep kills the plugin, a node and Vault itself, with SIGKILL,
// between any two steps of creating, renaming, refreshing, rewrapping and destroying:
// no account is lost, every public key stays, and everything signs.
func TestKilledAtEveryStep(t *testing.T) {
	dir := os.Getenv("MPC_FAULTS_PLUGIN_DIR")
	if dir == "" {
		t.Fatal("MPC_FAULTS_PLUGIN_DIR is not set; run the suite with make e2e")
	}
	for _, victim := range []string{"kill-plugin", "kill-node", "kill-vault"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			orders := t.TempDir()
			v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft, PluginDir: dir, PluginEnv: []string{"MPC_FAULTS=" + orders}})
			v.Enable(t, "mpc")
			k := &killer{engine: &engine{v, "mpc"}, orders: orders, victim: victim, keys: map[string]any{}}
			k.write(t, "config/nodes", map[string]any{"local": 3})
			v.ConfigHSM(t, "mpc")
			// Shares stay for a day, so that a new wrapping key means rewraps.
			k.write(t, "config/rotation", map[string]any{"refresh_period": "24h", "rewrap_period": "24h", "retire_after": "2s", "aux_period": "24h"})
			k.waitNodes(t, 3)
			for _, name := range []string{"alice", "bob"} {
				k.keys[name] = k.create(t, name, map[string]string{"alice": bip340, "bob": ed25519}[name], 2, 3)["public_key_hex"]
			}
			made := 0
			for _, step := range createSteps {
				k.at(t, step, func() {
					made++
					_ = k.do(t, v.Client, "PUT", fmt.Sprintf("mpc/accounts/new-%d", made), map[string]any{"algorithm": ed25519})
				})
			}
			for _, step := range refreshSteps {
				k.at(t, step, func() { _ = k.do(t, v.Client, "PUT", "mpc/accounts/alice/refresh", nil) })
			}
			k.renameAndRemove(t)
			for _, step := range rotateSteps {
				k.at(t, step, func() { _ = k.do(t, v.Client, "PUT", "mpc/wrapping-keys/rotate", nil) })
			}
			// All of it ends well: one version lives, and everything is sealed to it. A
			// node that met a half-written object of SoftHSM's answers 503 and is
			// replaced; the background may be destroying a version, which is a 409.
			k.await(t, 30*time.Second, "another wrapping key", func() bool {
				err := k.do(t, v.Client, "PUT", "mpc/wrapping-keys/rotate", nil)
				if err != nil && !strings.Contains(err.Error(), "HSM unavailable") && !strings.Contains(err.Error(), "Code: 409") {
					t.Fatal(err)
				}
				return err == nil
			})
			k.await(t, 3*time.Minute, "everything sealed to the newest wrapping key, and no other left", func() bool {
				rewrap, _ := k.read(t, "config/rotation")["rewrap"].(map[string]any)
				if rewrap["done"] != rewrap["total"] {
					return false
				}
				list, err := v.Client.Logical().List("mpc/wrapping-keys")
				if err != nil || list == nil {
					return false
				}
				living := 0
				info, _ := list.Data["key_info"].(map[string]any)
				for _, i := range info {
					if one, _ := i.(map[string]any); one["state"] != "destroyed" {
						living++
					}
				}
				return living == 1
			})
			k.check(t)
		})
	}
}

// killer is a mount whose plugin takes orders.
type killer struct {
	*engine
	orders, victim string
	keys           map[string]any // public keys by account
}

// at orders the kill at a step, sets the operation off and checks afterwards.
func (k *killer) at(t *testing.T, step string, operation func()) {
	t.Helper()
	done := filepath.Join(k.orders, "done")
	_ = os.Remove(done)
	// Renamed into place: the plugin must not read half an order.
	order := filepath.Join(k.orders, "order")
	if err := os.WriteFile(order+".new", []byte(k.victim+"\n"+step+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(order+".new", order); err != nil {
		t.Fatal(err)
	}
	// Again and again: after the kill before, the first try may find nodes that
	// are not ready yet.
	var again time.Time
	k.await(t, 60*time.Second, "step \""+step+"\"", func() bool {
		if time.Now().After(again) {
			operation()
			again = time.Now().Add(3 * time.Second)
		}
		_, err := os.Stat(done)
		return err == nil
	})
	if k.victim == "kill-vault" {
		k.AwaitDeath(t)
		k.Restart(t)
	}
	k.check(t)
	if t.Failed() {
		t.Fatalf("after %s at step %q", k.victim, step)
	}
}

// check demands that every account is there with its key and signs.
func (k *killer) check(t *testing.T) {
	t.Helper()
	for name, key := range k.keys {
		k.await(t, 30*time.Second, "a signature by "+name, func() bool {
			answer, err := k.trySign(name, []byte(name))
			if err == nil {
				k.engine.check(t, name, []byte(name), answer)
			}
			return err == nil
		})
		if now := k.read(t, "accounts/"+name)["public_key_hex"]; now != key {
			t.Errorf("%s has the key %v, it was %v", name, now, key)
		}
	}
}
