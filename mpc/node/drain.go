package node

import "errors"

// errDraining: the node is about to end and takes no new work.
var errDraining = errors.New("the node is about to end and takes nothing new")

// Drain has the node refuse new sessions, for good, and say so in its status. What
// has begun goes on; Sessions says how much that is. It may be called more than once.
func (n *Node) Drain() { n.draining.Store(true) }

// Sessions is the number of sessions that run.
func (n *Node) Sessions() int { return len(n.sessions) }
