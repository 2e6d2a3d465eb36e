package node

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// maxRoster bounds the rosters that a remote node reads.
const maxRoster = 1024

// vouched are the nodes that the authority has named in the newest recipient set
// that this node has been shown, by name.
type vouched struct {
	serial uint64
	nodes  map[string]mpc.NodeIdentity
	newest uint64 // serial number of the newest set that this host has ever seen
}

// SetRoster pins peers. A node that was pinned keeps its identity for as long
// as this process lives. A remote node pins nobody on the coordinator's word: it
// passes over peers that its host and the authority do not know, and refuses those
// that they know with another identity.
func (n *Node) SetRoster(_ context.Context, r *nodepb.SetRosterRequest) (*nodepb.SetRosterReply, error) {
	for _, m := range r.GetMembers() {
		if len(m.GetIdentity()) != ed25519.PublicKeySize || m.GetNodeId() == "" {
			return nil, status.Error(codes.InvalidArgument, "malformed roster")
		}
	}
	if n.cfg.Host != nil {
		return n.checkRoster(r)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range r.GetMembers() {
		id := mpc.NodeIdentity(m.GetIdentity())
		if old, ok := n.roster[m.GetNodeId()]; ok && old != id {
			return nil, status.Errorf(codes.FailedPrecondition, "node %s has another identity pinned here", m.GetNodeId())
		}
		n.roster[m.GetNodeId()] = id
	}
	return &nodepb.SetRosterReply{}, nil
}

// checkRoster is SetRoster on a remote node.
func (n *Node) checkRoster(r *nodepb.SetRosterRequest) (*nodepb.SetRosterReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if len(r.GetMembers()) > maxRoster {
		return nil, status.Errorf(codes.InvalidArgument, "%d nodes in a roster, at most %d", len(r.GetMembers()), maxRoster)
	}
	if set := r.GetRecipients(); len(set) > 0 && n.authority != nil {
		if _, _, err := n.signedSet(set); err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
	}
	for _, m := range r.GetMembers() {
		id := mpc.NodeIdentity(m.GetIdentity())
		if m.GetNodeId() == n.id {
			if id != n.self() {
				return nil, status.Errorf(codes.FailedPrecondition, "%s is this node, and its identity is %s, not %s", n.id, n.self(), id)
			}
			continue
		}
		if pinned, ok := n.pinned(m.GetNodeId()); !ok {
			n.cfg.Logger.Warn("a peer was passed over: neither this host nor the authority has pinned it", "node", fmt.Sprintf("%q", m.GetNodeId()), "identity", id)
		} else if pinned != id {
			return nil, status.Errorf(codes.FailedPrecondition, "node %s is pinned on this node's host with another identity", m.GetNodeId())
		}
	}
	return &nodepb.SetRosterReply{}, nil
}

// pinned returns a peer's pinned identity. On a remote node what the host has
// pinned goes before what the authority says.
func (n *Node) pinned(nodeID string) (mpc.NodeIdentity, bool) {
	if h := n.cfg.Host; h != nil && h.Peer != nil {
		if id, ok := h.Peer(nodeID); ok {
			return id, true
		}
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.cfg.Host != nil {
		id, ok := n.vouched.nodes[nodeID]
		return id, ok
	}
	id, ok := n.roster[nodeID]
	return id, ok
}

// noteSet remembers whom a set names that the authority has signed, unless a newer
// one was seen: whom the authority has taken out of its sets does not come back with
// an old one. Only a remote node needs it.
func (n *Node) noteSet(set *recovery.RecipientSet) error {
	if n.cfg.Host == nil {
		return nil
	}
	newest := set.Serial
	if s := n.cfg.Host.Sets; s != nil {
		var err error
		if newest, err = s.Newest(n.mountID, n.authority, set.Serial); err != nil {
			return fmt.Errorf("this node cannot remember recipient set %d, so it does not use it: %w", set.Serial, err)
		}
	}
	nodes := map[string]mpc.NodeIdentity{}
	for _, d := range set.Domains {
		for _, node := range d.Nodes {
			if id, err := mpc.ParseNodeIdentity(node.Identity); err == nil {
				nodes[node.ID] = id
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.vouched.newest = max(n.vouched.newest, newest)
	if set.Serial > n.vouched.serial && set.Serial >= n.vouched.newest {
		n.vouched.serial, n.vouched.nodes = set.Serial, nodes
	}
	return nil
}

// setInForce refuses a set that this host has seen replaced, for what is not sealed to
// it yet. An account whose record names it goes on with its recipients.
func (n *Node) setInForce(set *recovery.RecipientSet) error {
	if n.cfg.Host == nil || set == nil {
		return nil
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if newest := n.vouched.newest; set.Serial < newest {
		return refused("recipient set %d was replaced: this node has seen set %d, and nothing was sealed to the older one; write the newest to config/recovery", set.Serial, newest)
	}
	return nil
}

// checkMember compares a session's member with what this node has pinned.
func (n *Node) checkMember(nodeID string, id mpc.NodeIdentity) error {
	pinned, ok := n.pinned(nodeID)
	switch {
	case !ok && n.cfg.Host == nil:
		return fmt.Errorf("%s is %w", nodeID, errUnpinned)
	case !ok:
		return fmt.Errorf("%q is %w, and no recipient set that the authority signed names it: if it belongs to the pool, this host's operator runs: vault-plugin-secrets-mpc node peers add %q %s --config node.hcl", nodeID, errUnpinned, nodeID, id)
	case pinned != id:
		return refused("%s is pinned on this node with another identity", nodeID)
	}
	return nil
}
