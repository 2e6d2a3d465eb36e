package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
)

// What a coordinator may do to the objects in a remote node's token, which may
// hold keys of others: it sees and destroys wrapping keys of its own mount only.

// mayDestroy refuses to destroy what is not this mount's wrapping key.
// hsm.ErrKeyNotFound: nothing has that ID.
func (n *Node) mayDestroy(ctx context.Context, key hsm.WrappingKey) error {
	h := n.cfg.Host
	switch {
	case h == nil:
		return nil
	case h.Switches.KeepWrappingKeys:
		return fmt.Errorf("%w: wrapping keys stay in this node's token (keep_wrapping_keys in its host's node.hcl); what is sealed to version %d can still be opened with it", ErrSwitchedOff, key.Version)
	case key.Domain != n.keys.own():
		return refused("wrapping key version %d is of domain %q, and this node's token is %q: nothing was destroyed", key.Version, key.Domain, n.keys.own())
	}
	found, err := n.token.FindByLabel(ctx, keyLabel(n.mountID, key.Version))
	if err != nil {
		return n.noted(err)
	}
	if slices.ContainsFunc(found, func(o pkcs11.KeyObject) bool { return string(o.ID) == string(key.ID) }) {
		return nil
	}
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := n.token.Bind(look, key); errors.Is(err, hsm.ErrKeyNotFound) || errors.Is(err, hsm.ErrUnavailable) {
		return n.noted(err)
	}
	return refused("the token's object with the ID %x is not version %d of this mount's wrapping key: nothing was destroyed", key.ID, key.Version)
}

// mayList refuses to look for other labels than those of this mount's keys.
func (n *Node) mayList(label string) error {
	if n.cfg.Host != nil && !strings.HasPrefix(label, keyLabelPrefix(n.mountID)) {
		return refused("this node lists wrapping keys of its own mount only")
	}
	return nil
}
