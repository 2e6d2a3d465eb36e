package keyholder

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
)

// Roster is the nodes of a cluster as this client knows them: what a signature of
// a node is checked against before a custody key is used for it.
type Roster struct {
	// Nodes has each node's identity, 32 bytes as 64 hex digits, by its ID.
	Nodes map[string]string `json:"nodes"`
}

// Roster returns the pinned nodes; none at first.
func (h *Home) Roster() (r Roster, err error) {
	_, err = readJSON(filepath.Join(h.dir, homeRoster), &r)
	return r, err
}

// SetRoster pins nodes, in place of those that were.
func (h *Home) SetRoster(r Roster) error { return writeJSON(filepath.Join(h.dir, homeRoster), r) }

// FetchRoster asks the engine for its nodes. It is only as true as the server.
func FetchRoster(ctx context.Context, c Caller) (Roster, error) {
	var list struct {
		Keys []string `json:"keys"`
	}
	if err := c.Call(ctx, List, "nodes", nil, &list); err != nil {
		return Roster{}, err
	}
	r := Roster{Nodes: map[string]string{}}
	for _, id := range list.Keys {
		var node struct {
			Identity string `json:"identity"`
		}
		if err := c.Call(ctx, Read, "nodes/"+id, nil, &node); err != nil {
			return Roster{}, err
		}
		if raw, err := hex.DecodeString(node.Identity); err != nil || len(raw) != 32 {
			return Roster{}, fmt.Errorf("the server shows node %q with an identity that is none; is the node ready?", id)
		}
		r.Nodes[id] = node.Identity
	}
	return r, nil
}

// Holds reports whether an identity (hex) is that of a pinned node.
func (r Roster) Holds(identity string) bool {
	for _, have := range r.Nodes {
		if have == identity {
			return true
		}
	}
	return false
}

// Changes says what is different in another roster, for people: empty if nothing.
func (r Roster) Changes(seen Roster) []string {
	var out []string
	for id, identity := range seen.Nodes {
		switch have, ok := r.Nodes[id]; {
		case !ok:
			out = append(out, fmt.Sprintf("node %s is new, with the identity %s", id, identity))
		case have != identity:
			out = append(out, fmt.Sprintf("node %s has the identity %s in place of %s", id, identity, have))
		}
	}
	for id := range r.Nodes {
		if _, ok := seen.Nodes[id]; !ok {
			out = append(out, fmt.Sprintf("node %s is gone", id))
		}
	}
	slices.Sort(out)
	return out
}
