package daemon

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
)

// TestFloorOfChangedPolicies: a change of policy passes, on a node that took part in
// it and on one that only sees what came of it; what was before does not come back,
// also after a restart.
func TestFloorOfChangedPolicies(t *testing.T) {
	none, first, second := mpc.EmptySetHash(), [32]byte{7}, [32]byte{8}
	for what, seen := range map[string][]*mpc.PublicRecord{
		"took part":     {record(1, 1, none), record(1, 2, first), record(1, 3, second)},
		"saw the first": {record(1, 1, none), record(1, 3, second)},
		"saw the last":  {record(1, 3, second)},
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), floorFile)
			f := testFloor(t, path, true)
			for _, r := range seen {
				if err := f.Raise(t.Context(), r); err != nil {
					t.Fatalf("epoch %d: %v", r.Epoch, err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f = testFloor(t, path, false)
			defer f.Close()
			for _, c := range []struct {
				record *mpc.PublicRecord
				says   string
			}{
				{record(1, 1, none), "epoch 1 and this node has worked with epoch 3"},
				{record(1, 2, first), "epoch 2 and this node has worked with epoch 3"},
				{record(1, 2, second), "epoch 2 and this node has worked with epoch 3"},
				{record(1, 3, first), "another record of epoch 3"},
				{record(1, 3, none), "another record of epoch 3"},
				{record(1, 4, none), "no policy"},
				{record(1, 1<<60, none), "no policy"},
			} {
				if err := f.Check(c.record); !errors.Is(err, node.ErrBelowFloor) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("epoch %d, policy %x: %v", c.record.Epoch, c.record.PolicyHash[:1], err)
				}
			}
			for _, r := range []*mpc.PublicRecord{record(1, 3, second), record(1, 4, second), record(1, 5, first)} {
				if err := f.Check(r); err != nil {
					t.Errorf("epoch %d, policy %x: %v", r.Epoch, r.PolicyHash[:1], err)
				}
			}
		})
	}
}
