//go:build e2e

package e2e_test

import (
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// waitGrowth is how long a pool may take to let a node go.
const waitGrowth = time.Minute

// growth: a node joins and leaves while the others sign on. Nothing is
// restarted.
func (r *remoteTest) growth(t *testing.T) {
	r.create(t, "growth", ecdsaCurve)
	restarts := map[string]int{}
	before := e2e.ProcessTree(t, r.PID())
	for id, n := range r.engine.nodes(t) {
		restarts[id] = integer(n, "restarts")
	}
	r.add(t, e2e.RemoteOptions{Name: "us-3", Region: "us"})
	r.awaitReady(t, true, "us-3")
	r.sign(t, "growth", "with one more node in the pool")
	r.waitAuxiliary(t)

	// The new node takes part: with it alone in its region, it must.
	r.nodes["us-1"].Kill9(t)
	r.nodes["us-2"].Kill9(t)
	r.awaitReady(t, false, "us-1", "us-2")
	r.refresh(t, "growth")
	answer, _, err := r.client.sign(t.Context(), "growth", []byte("with us-3"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("signed by %v", signers(answer))
	r.nodes["us-1"].Start(t)
	r.nodes["us-2"].Start(t)
	r.awaitReady(t, true, r.names("")...)
	// Its share goes to a node that stays, before it leaves.
	r.refresh(t, "growth")

	r.await(t, waitGrowth, "us-3 to be given up", func() bool {
		_, err := r.Client.Logical().Delete(r.path + "/config/nodes/us-3")
		if err != nil {
			r.refresh(t, "growth")
		}
		return err == nil
	})
	r.await(t, waitGrowth, "us-3 to be out of the pool", func() bool { return r.state(t, "us-3") == "" })
	r.nodes["us-3"].Terminate(t)
	delete(r.nodes, "us-3")
	r.refresh(t, "growth")
	r.sign(t, "growth", "without it again")
	for id, n := range r.engine.nodes(t) {
		if id == "us-1" || id == "us-2" {
			continue
		}
		if integer(n, "restarts") != restarts[id] {
			t.Errorf("%s was attached again while another node came and went", id)
		}
	}
	after := e2e.ProcessTree(t, r.PID())
	if !slices.EqualFunc(before, after, func(a, b e2e.Process) bool { return a.PID == b.PID && a.Start == b.Start }) {
		t.Errorf("the processes below Vault changed from %v to %v", before, after)
	}
}
