package pool

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
)

// LocalNodeID is the name of local node i, counted from 1. Names are the same on
// every server of a cluster.
func LocalNodeID(i int) string { return fmt.Sprintf("local-%d", i) }

// IsLocalNode reports whether a name is one that LocalNodeID gives.
func IsLocalNode(id string) bool {
	i, err := strconv.Atoi(strings.TrimPrefix(id, "local-"))
	return err == nil && i > 0 && id == LocalNodeID(i)
}

// check finds what no pool can run with. A pool with one node or none is none of
// that: the others may have been taken away, or are enrolled next.
func (s *Settings) check() error {
	switch {
	case s.Local < 0, s.Local == 0 && s.MountID == [16]byte{},
		s.Local > 0 && (s.Token.Module == "" || len(keysOf(s.WrappingKeys, hsm.DefaultDomain)) == 0):
		return errors.New("pool: incomplete settings")
	}
	seen := map[string]bool{}
	for _, r := range s.Remote {
		switch {
		case r.ID == "", IsLocalNode(r.ID), seen[r.ID]:
			return fmt.Errorf("pool: a remote node cannot have the name %q", r.ID)
		case r.Identity == mpc.NodeIdentity{}, r.Domain == "":
			return fmt.Errorf("pool: %s has not been enrolled", r.ID)
		}
		seen[r.ID] = true
	}
	return nil
}

// sameKeys reports whether running local nodes can go on under the new settings,
// but for the PIN.
func sameKeys(a, b Settings) bool {
	return a.MountID == b.MountID && a.Token.Module == b.Token.Module &&
		a.Token.Label == b.Token.Label && a.Token.Serial == b.Token.Serial &&
		bytes.Equal(a.Authority, b.Authority) && compatibleKeys(a.WrappingKeys, b.WrappingKeys, hsm.DefaultDomain)
}

// sameConnection reports whether the connection to a remote node of that domain
// can go on under the new settings, as far as they are not the node's own.
func sameConnection(a, b Settings, domain string) bool {
	return a.MountID == b.MountID && a.Client.same(b.Client) && bytes.Equal(a.Authority, b.Authority) &&
		compatibleKeys(a.WrappingKeys, b.WrappingKeys, domain)
}
