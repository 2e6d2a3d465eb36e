package pool

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// States of a node's auxiliary keys, as NodeStatus shows them.
const (
	auxNone       = "none"
	auxGenerating = "generating"
	auxChecking   = "checking"
	auxReady      = "ready"
	auxRenewing   = "renewing"
)

// peerGenerations is how many generations of a peer's keys a node keeps: the
// newest ones.
const peerGenerations = 2

// nodeAux is what the pool knows of a running node's auxiliary keys. It is
// guarded by poolNode.mu. What keys, next and accepted point to is never
// changed in place, so that a copy can be read without the lock.
type nodeAux struct {
	state    string // "" means none
	progress int    // percent of generating, or of renewing
	// keys are stored, and used in sessions; next are those that will replace
	// them, in the node's memory only, nil most of the time.
	keys, next     *AuxKeys
	hash, nextHash [32]byte // of their public halves
	accepted       map[string][]acceptedKeys
	retired        string // what the process was last told by RetireAuxiliary
}

// acceptedKeys names keys of a peer that a node's process works with; a node's
// nodeAux.accepted holds them by peer, in the order of generations.
type acceptedKeys struct {
	generation uint64
	hash       [32]byte
}

// offer is one generation of a node's keys for its peers to accept.
type offer struct {
	keys *AuxKeys
	acceptedKeys
}

// offers returns the keys in use and then the next ones, as far as there are
// any.
func (a nodeAux) offers() (out []offer) {
	if a.keys != nil {
		out = append(out, offer{a.keys, acceptedKeys{a.keys.Generation, a.hash}})
	}
	if a.next != nil {
		out = append(out, offer{a.next, acceptedKeys{a.next.Generation, a.nextHash}})
	}
	return out
}

// works reports whether the node works with those keys of a peer.
func (a nodeAux) works(peerID string, k acceptedKeys) bool {
	return slices.Contains(a.accepted[peerID], k)
}

// past reports whether the node has accepted newer keys of a peer, and so will
// not take those of an earlier generation.
func (a nodeAux) past(peerID string, generation uint64) bool {
	return slices.ContainsFunc(a.accepted[peerID], func(k acceptedKeys) bool { return k.generation > generation })
}

func (a nodeAux) status() AuxStatus {
	s := AuxStatus{State: a.state, Progress: a.progress}
	if s.State == "" {
		s.State = auxNone
	}
	if a.keys != nil {
		s.Generation, s.Made = a.keys.Generation, a.keys.Made
	}
	return s
}

// noteProgress takes what the node says of keys that it is making, in percent.
func (a *nodeAux) noteProgress(percent int) {
	switch {
	case a.state == auxGenerating:
		a.progress = percent
	case a.state == auxRenewing && a.next == nil:
		a.progress = percent / 2 // peers have to check them then
	}
}

// complete combines making the keys (first half) and checking them with every
// peer (second half) into one figure. Renewal has its own while the keys in use
// are checked by all.
func (s *AuxStatus) complete() {
	switch {
	case s.State != auxReady && s.State != auxRenewing:
		s.Progress /= 2
	case s.PeersReady < s.Peers:
		s.State, s.Progress = auxChecking, 50+50*s.PeersReady/s.Peers
	case s.State == auxReady:
		s.Progress = 100
	}
}

// usable reports whether the keys in use have been checked with every peer.
func (s AuxStatus) usable() bool { return s.State == auxReady || s.State == auxRenewing }

// auxHash names a node's public auxiliary keys in sessions.
func auxHash(public []byte) [32]byte { return sha256.Sum256(public) }

// auxView is what the pool knows of a node's keys at one moment.
type auxView struct {
	n       *poolNode
	id      string
	process uint64 // 0 while none is set up
	client  nodepb.NodeClient
	nodeAux
}

func (n *poolNode) auxView() auxView {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := auxView{n: n, id: n.id, nodeAux: n.aux}
	if n.proc != nil {
		v.process, v.client = n.proc.number, n.proc.client
	}
	return v
}

// withAux changes what is known of the keys of one process of n. It returns
// false, and does nothing, where that process is not n's any more.
func (n *poolNode) withAux(process uint64, change func(*nodeAux)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil || n.proc.number != process {
		return false
	}
	change(&n.aux)
	return true
}

// accepted reports whether n works with the auxiliary keys that peer uses.
func (n *poolNode) accepted(peer *poolNode) bool {
	theirs, own := peer.auxView(), n.auxView()
	return theirs.keys != nil && own.process != 0 && own.works(peer.id, acceptedKeys{theirs.keys.Generation, theirs.hash})
}

// noteAccepted records that n's process works with keys of a peer.
func (a *nodeAux) noteAccepted(peerID string, k acceptedKeys) {
	list := append(slices.Clone(a.accepted[peerID]), k)
	slices.SortFunc(list, func(x, y acceptedKeys) int { return cmp.Compare(x.generation, y.generation) })
	list = slices.Compact(list)
	if a.accepted = maps.Clone(a.accepted); a.accepted == nil {
		a.accepted = map[string][]acceptedKeys{}
	}
	a.accepted[peerID] = list[max(0, len(list)-peerGenerations):]
}

// receiptKey names a receipt in AuxKeys.Receipts.
func receiptKey(peerID string, generation uint64) string {
	return fmt.Sprintf("%s#%d", peerID, generation)
}

// receipt returns the node's receipt for a peer's keys of that generation, nil
// for none. Older versions stored it under the peer's name, of some generation.
func (k *AuxKeys) receipt(peerID string, generation uint64) []byte {
	if r := k.Receipts[receiptKey(peerID, generation)]; len(r) > 0 {
		return r
	}
	return k.Receipts[peerID]
}

// withReceipt returns a copy of k with a receipt added, and without those for
// generations that the peer does not offer any more.
func (k *AuxKeys) withReceipt(peerID string, generation uint64, receipt []byte, offered []offer) *AuxKeys {
	out := *k
	out.Receipts = maps.Clone(k.Receipts)
	maps.DeleteFunc(out.Receipts, func(key string, _ []byte) bool {
		if key == peerID { // most likely of the keys in use
			return generation == offered[0].generation
		}
		name, _, _ := strings.Cut(key, "#")
		return name == peerID && !slices.ContainsFunc(offered, func(o offer) bool { return key == receiptKey(peerID, o.generation) })
	})
	if out.Receipts == nil {
		out.Receipts = map[string][]byte{}
	}
	out.Receipts[receiptKey(peerID, generation)] = receipt
	return &out
}

// forgetAccepted has a node's peers' auxiliary keys accepted anew.
func (p *Pool) forgetAccepted(nodeID string) {
	if n := p.node(nodeID); n != nil {
		n.mu.Lock()
		n.aux.accepted = nil
		n.mu.Unlock()
	}
	p.notify()
}

// auxPending says which nodes are not done with auxiliary keys.
func (p *Pool) auxPending() *AuxPendingError {
	e := &AuxPendingError{}
	for _, s := range p.Nodes() {
		if s.State == NodeReady && !s.Aux.usable() {
			e.Nodes = append(e.Nodes, AuxProgress{NodeID: s.ID, Progress: s.Aux.Progress})
		}
	}
	return e
}

// demandAuxiliary restricts a signing job to nodes that have checked each
// other's auxiliary keys, and puts the keys' hashes into its sessions.
func (p *Pool) demandAuxiliary(j *job) {
	j.compatible = func(a, b candidate) bool {
		x, y := p.node(a.id), p.node(b.id)
		return x != nil && y != nil && x.accepted(y) && y.accepted(x)
	}
	j.missing = func() error {
		if e := p.auxPending(); len(e.Nodes) > 0 {
			return e
		}
		return nil
	}
	j.describe = func(m *nodepb.Member) {
		if n := p.node(m.GetNodeId()); n != nil {
			if v := n.auxView(); v.keys != nil {
				m.AuxHash = v.hash[:]
			}
		}
	}
}
