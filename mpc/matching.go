package mpc

// Matched is how many of so many shares can be served at once by so many nodes, each
// by a node of its own: the size of a maximum matching, by augmenting paths. Both are
// counted from 0; serves says which node may serve which share.
func Matched(shares, nodes int, serves func(share, node int) bool) (n int) {
	holder := make([]int, nodes) // share by node, counted from 1; 0 for none
	tried := make([]bool, nodes)
	var assign func(share int) bool
	assign = func(share int) bool {
		for node := range nodes {
			if tried[node] || !serves(share, node) {
				continue
			}
			tried[node] = true
			if holder[node] == 0 || assign(holder[node]-1) {
				holder[node] = share + 1
				return true
			}
		}
		return false
	}
	for share := range shares {
		clear(tried)
		if assign(share) {
			n++
		}
	}
	return n
}
