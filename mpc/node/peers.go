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
// one was seen. Only a remote node needs it.
func (n *Node) noteSet(set *recovery.RecipientSet) {
	if n.cfg.Host == nil {
		return
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
	if set.Serial > n.vouched.serial {
		n.vouched = vouched{set.Serial, nodes}
	}
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
