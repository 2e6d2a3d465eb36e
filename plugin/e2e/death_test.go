//go:build e2e

package e2e_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// gone is how long plugin and nodes may outlive what they belong to.
const gone = 3 * time.Second

// family is a mount's plugin process and nodes.
func (e *engine) family(t testing.TB) []e2e.Process {
	t.Helper()
	tree := e2e.ProcessTree(t, e.PID())
	pids := map[int]bool{}
	for _, n := range e.nodes(t) {
		pids[number(t, n["pid"])] = true
	}
	var family []e2e.Process
	parent := 0
	for _, p := range tree {
		if pids[p.PID] {
			family = append(family, p)
			if parent != 0 && p.PPID != parent {
				t.Fatalf("the nodes of %s have several parents", e.path)
			}
			parent = p.PPID
		}
	}
	i := slices.IndexFunc(tree, func(p e2e.Process) bool { return p.PID == parent })
	if len(family) != len(pids) || i < 0 {
		t.Fatalf("%d of %d nodes of %s are below Vault", len(family), len(pids), e.path)
	}
	return append(family, tree[i])
}

// plugin is the last of a family.
func plugin(family []e2e.Process) e2e.Process { return family[len(family)-1] }

// TestVaultKilled: nothing survives Vault; started again on its data it signs
// with the old account, and with ECDSA at once, without new auxiliary keys.
func TestVaultKilled(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 3)
	e.create(t, "alice", bip340, 2, 3)
	e.create(t, "bob", ecdsaCurve, 2, 3)
	e.sign(t, "alice", []byte("before"))

	// Too early for ECDSA: the request waits for its time limit and says so.
	e.write(t, "config/nodes", map[string]any{"session_timeout": "1s"})
	started := time.Now()
	e.refuse(t, "sign/bob", map[string]any{"input": b64([]byte("too early"))}, conflictNow, "auxiliary keys", "local-")
	if took := time.Since(started); took < 500*time.Millisecond || took > 20*time.Second {
		t.Errorf("the refusal took %v, want about the session_timeout of 1 s, and not 30", took)
	}
	e.write(t, "config/nodes", map[string]any{"session_timeout": "30s"})
	e.waitAuxiliary(t)
	e.sign(t, "bob", []byte("before"))
	generation := number(t, e.read(t, "nodes/local-1")["aux_generation"])
	family := e.family(t)

	below := v.Kill9(t)
	for _, p := range family {
		if !slices.ContainsFunc(below, func(q e2e.Process) bool { return q.PID == p.PID }) {
			t.Errorf("%v was not below Vault", p)
		}
	}
	e2e.WaitGone(t, below, gone)

	v.Restart(t)
	e.await(t, 20*time.Second, "answer from the engine", func() bool {
		_, err := v.Client.Logical().Read("mpc/nodes/local-1")
		return err == nil
	})
	started = time.Now()
	e.sign(t, "alice", []byte("after"))
	t.Logf("first signature after the restart: %v", time.Since(started))
	started = time.Now()
	e.sign(t, "bob", []byte("after"))
	t.Logf("first ECDSA signature after the restart: %v", time.Since(started))
	if g := number(t, e.read(t, "nodes/local-1")["aux_generation"]); g != generation {
		t.Errorf("auxiliary keys of generation %d, want %d: they were made again", g, generation)
	}
	e.write(t, "accounts/alice/refresh", nil)
	e.sign(t, "alice", []byte("after the refresh"))
}

// TestPluginKilled: the nodes end with their plugin, and Vault starts both
// again with the next request.
func TestPluginKilled(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 3)
	e.create(t, "alice", bip340, 2, 3)
	family := e.family(t)
	if err := syscall.Kill(plugin(family).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e2e.WaitGone(t, family, gone)
	// Vault notices with a request, which may be the one that fails.
	e.await(t, 20*time.Second, "signature", func() bool {
		s, err := e.trySign("alice", []byte("again"))
		if err == nil {
			e.check(t, "alice", []byte("again"), s)
		}
		return err == nil
	})
}

// TestPluginKilledDuringSignature: a request that dies with the plugin is an
// error, never a wrong answer, and leaves nothing that disturbs the next.
func TestPluginKilledDuringSignature(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 3)
	e.create(t, "alice", bip340, 2, 3)
	for round := range 3 {
		family := e.family(t)
		type signed struct {
			message []byte
			answer  map[string]any
		}
		done, stop := make(chan []signed, 1), make(chan struct{})
		// Ends with the first request that fails, which is not certain to
		// come: Vault may notice the dead plugin between two requests.
		go func() {
			var all []signed
			defer func() { done <- all }()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				m := fmt.Appendf(nil, "round %d message %d", round, i)
				s, err := e.trySign("alice", m)
				if err != nil {
					return
				}
				all = append(all, signed{m, s})
			}
		}()
		time.Sleep(150 * time.Millisecond)
		if err := syscall.Kill(plugin(family).PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e2e.WaitGone(t, family, gone)
		e.await(t, 20*time.Second, "signature", func() bool {
			_, err := e.trySign("alice", []byte("again"))
			return err == nil
		})
		close(stop)
		answered := <-done
		e.waitNodes(t, 3)
		for i, s := range answered {
			if i%10 == 0 || i == len(answered)-1 {
				e.check(t, "alice", s.message, s.answer)
			}
		}
	}
	e.sign(t, "alice", []byte("after all"))
	e.write(t, "accounts/alice/refresh", nil)
	e.sign(t, "alice", []byte("after the refresh"))
}

// TestTwoMounts: mounts have processes of their own. Reloading or disabling one
// ends its processes and leaves the other's alone.
func TestTwoMounts(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	a, b := enable(t, v, "mpc-a", 3), enable(t, v, "mpc-b", 3)
	a.create(t, "alice", bip340, 2, 3)
	b.create(t, "bob", bip340, 2, 3)
	familyA, familyB := a.family(t), b.family(t)
	if plugin(familyA).PID == plugin(familyB).PID {
		t.Fatal("two mounts share a process")
	}

	// What `vault plugin reload -mounts` does; that command of Vault 1.21.0 asks
	// for the wrong path and fails.
	if r := v.CLI(t, "write", "sys/plugins/reload/backend", "mounts=mpc-a"); r.Code != 0 {
		t.Fatalf("reload: %+v", r)
	}
	e2e.WaitGone(t, familyA, gone)
	for _, p := range familyB {
		if !p.Alive() {
			t.Errorf("%v ended with the other mount", p)
		}
	}
	b.sign(t, "bob", []byte("undisturbed"))
	a.sign(t, "alice", []byte("reloaded"))
	a.waitNodes(t, 3)

	// By the plugin's name both are reloaded.
	familyA = a.family(t)
	if r := v.CLI(t, "write", "sys/plugins/reload/backend", "plugin=mpc"); r.Code != 0 {
		t.Fatalf("reload by name: %+v", r)
	}
	e2e.WaitGone(t, append(slices.Clone(familyA), familyB...), gone)
	a.sign(t, "alice", []byte("reloaded by name"))
	b.sign(t, "bob", []byte("reloaded by name"))
	a.waitNodes(t, 3)
	b.waitNodes(t, 3)

	familyA, familyB = a.family(t), b.family(t)
	if r := v.CLI(t, "secrets", "disable", "mpc-a"); r.Code != 0 {
		t.Fatalf("disable: %+v", r)
	}
	e2e.WaitGone(t, familyA, gone)
	for _, p := range familyB {
		if !p.Alive() {
			t.Errorf("%v ended with the other mount", p)
		}
	}
	b.sign(t, "bob", []byte("alone"))
	if left := e2e.ProcessTree(t, v.PID()); len(left) != len(familyB) {
		t.Errorf("below Vault: %v, want mpc-b's %d processes only", left, len(familyB))
	}
}

// TestStopped: a Vault that is asked to end takes its processes with it, and
// started again signs with the old account.
func TestStopped(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.File})
	e := enable(t, v, "mpc", 3)
	e.create(t, "alice", bip340, 2, 3)
	family := e.family(t)
	v.Stop(t)
	e2e.WaitGone(t, family, gone)
	v.Restart(t)
	e.await(t, 20*time.Second, "signature", func() bool {
		_, err := e.trySign("alice", []byte("again"))
		return err == nil
	})
	e.sign(t, "alice", []byte("unsealed"))
}
