package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// What the engine calls states that the CLI looks at.
const (
	nodeReady      = "ready"
	nodeRestarting = "restarting" // on another host: dialled again
	auxReady       = "ready"
	auxRenewing    = "renewing" // works with its keys while it makes the next ones
	auxNone        = "none"
	hsmOK          = "ok"
)

// node is one MPC node as the engine describes it.
type node struct {
	ID            string `json:"id"`
	State         string `json:"state"`
	Remote        bool   `json:"remote,omitempty"`
	Region        string `json:"region,omitempty"`
	Domain        string `json:"domain,omitempty"`
	Version       string `json:"version"`
	PID           int    `json:"pid"`
	Identity      string `json:"identity"`
	Sessions      int    `json:"sessions"`
	Restarts      int    `json:"restarts"`
	HSM           string `json:"hsm"`
	LastError     string `json:"last_error"`
	Since         string `json:"since"`
	AuxState      string `json:"aux_state"`
	AuxGeneration uint64 `json:"aux_generation"`
	AuxProgress   int    `json:"aux_progress"` // percent
	AuxPeersReady int    `json:"aux_peers_ready"`
	AuxPeers      int    `json:"aux_peers"`
	AuxMade       string `json:"aux_made_time"`
	AuxNextDue    string `json:"aux_next_due"`
	Presignatures int    `json:"presignatures"`
}

// hasAux reports whether the node has auxiliary keys that work.
func (n node) hasAux() bool { return n.AuxState == auxReady || n.AuxState == auxRenewing }

// working reports whether the node can take part in sessions.
func (n node) working() bool { return n.State == nodeReady && (n.HSM == hsmOK || n.HSM == "") }

// nodes lists the nodes and reads each of them; where the token may list but
// not read, the list's own summary is used.
func (c *client) nodes(ctx context.Context) ([]node, error) {
	found, err := c.list(ctx, "list the nodes", "nodes")
	if err != nil {
		return nil, err
	}
	nodes := make([]node, 0, len(found.Keys))
	for _, id := range found.Keys {
		n := node{}
		if err := decodeInfo(found.KeyInfo[id], &n); err != nil {
			return nil, &refusal{what: fmt.Sprintf("what the list says about node %q cannot be read", id), cause: err}
		}
		n.ID = id
		if !validName(id) {
			return nil, &refusal{what: fmt.Sprintf("the server lists a node with the name %q, which is not a node name", id)}
		}
		_, err := c.do(ctx, request{
			what: fmt.Sprintf("show node %q", id), capability: capRead, path: "nodes/" + id,
		}, &n)
		var r *refusal
		switch {
		case err == nil:
		case errors.As(err, &r) && (r.status == http.StatusForbidden || r.status == http.StatusNotFound):
			// Not allowed, or gone since the list was made.
		default:
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func nodeTable(t *text, nodes []node) {
	// With nodes on other hosts it matters which region is away, and their processes
	// are none of this host's.
	apart := slices.ContainsFunc(nodes, func(n node) bool { return n.Remote })
	rows := make([][]string, len(nodes))
	for i, n := range nodes {
		hsm, _, _ := strings.Cut(n.HSM, ": ") // the whole stands below
		if apart {
			rows[i] = []string{n.ID, n.State, n.Region, n.Domain, n.aux(), hsm, n.Version}
			continue
		}
		rows[i] = []string{n.ID, n.State, n.aux(), fmt.Sprint(n.Sessions), fmt.Sprint(n.Restarts), hsm, n.Version, count(n.PID), moment(n.Since)}
	}
	head := []string{"NODE", "STATE", "AUXILIARY KEYS", "SESSIONS", "RESTARTS", "HSM", "VERSION", "PID", "SINCE"}
	if apart {
		head = []string{"NODE", "STATE", "REGION", "DOMAIN", "AUXILIARY KEYS", "HSM", "VERSION"}
	}
	t.table("", head, rows)
	for _, n := range nodes {
		if strings.Contains(n.HSM, ": ") && n.HSM != n.LastError {
			t.line(n.ID + ": " + n.HSM)
		}
		if n.LastError != "" {
			t.line(fmt.Sprintf("%s, last error: %s", n.ID, n.LastError))
		}
	}
}

// aux is "ready", or how far the node is: "generating 40 %, 1 of 4 peers".
func (n node) aux() string {
	if n.hasAux() || n.AuxState == auxNone || n.AuxState == "" {
		return n.AuxState
	}
	s := fmt.Sprintf("%s %d %%", n.AuxState, n.AuxProgress)
	if n.AuxPeers > 0 {
		s += fmt.Sprintf(", %d of %d peers", n.AuxPeersReady, n.AuxPeers)
	}
	return s
}
