package backend

import "vault-plugin-secrets-mpc/mpc/approval"

// count counts answers of one decision.
func (r *requestRecord) count(d approval.Decision) (n int) {
	for _, g := range r.Given {
		if g.Decision == d {
			n++
		}
	}
	return n
}
