package backend

import (
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

func TestCanServe(t *testing.T) {
	node := func(i byte) mpc.NodeIdentity { return mpc.NodeIdentity{i} }
	a := &mpc.Account{Record: mpc.PublicRecord{Shares: 3},
		Exposures: mpc.Exposures{node(1): 1, node(2): 1, node(3): 1, node(4): 2, node(5): 3}}
	for _, c := range []struct {
		name     string
		nodes    []mpc.NodeIdentity
		fresh    int
		noSpares bool // after a restore of storage
		want     bool
	}{
		{"all", []mpc.NodeIdentity{node(1), node(2), node(3), node(4), node(5)}, 0, false, true},
		{"three that saw the same share", []mpc.NodeIdentity{node(1), node(2), node(3)}, 0, false, false},
		{"one of each share", []mpc.NodeIdentity{node(1), node(4), node(5)}, 0, false, true},
		{"one share and two spares", []mpc.NodeIdentity{node(1), node(6), node(7)}, 0, false, true},
		{"one share, a spare and a node yet to come", []mpc.NodeIdentity{node(1), node(6)}, 1, false, true},
		{"one share and one spare", []mpc.NodeIdentity{node(1), node(6)}, 0, false, false},
		{"one of each share, no spares", []mpc.NodeIdentity{node(1), node(4), node(5)}, 0, true, true},
		{"one share and two that do not count", []mpc.NodeIdentity{node(1), node(6), node(7)}, 0, true, false},
		{"a node yet to come that does not count", []mpc.NodeIdentity{node(1), node(4)}, 1, true, false},
	} {
		a.NoSpares = c.noSpares
		if got := canServe(a, c.nodes, c.fresh); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
