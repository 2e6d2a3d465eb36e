package cli

import (
	"context"
	"fmt"
)

// peopleStatus counts who and what people have to do with. A number that the token may
// not find out, or that the engine there does not know, is left out.
type peopleStatus struct {
	Identities     *int `json:"identities,omitempty"`
	Authenticators *int `json:"authenticators,omitempty"`
	Approvers      *int `json:"approvers,omitempty"`
	// PendingRequests wait for approvals.
	PendingRequests *int `json:"pending_requests,omitempty"`
}

// askPeople fails where it is interrupted only: an engine is ready without anybody.
func (doc *statusDoc) askPeople(ctx context.Context, c *client) error {
	var p peopleStatus
	for _, part := range []struct {
		path  string
		query map[string][]string
		into  **int
	}{
		{"identities", nil, &p.Identities}, {"authenticators", nil, &p.Authenticators}, {"approvers", nil, &p.Approvers},
		{"requests", map[string][]string{"state": {"pending"}}, &p.PendingRequests},
	} {
		found, err := c.page(ctx, "count "+part.path, part.path, part.query)
		switch {
		case err == nil:
			n := len(found.Keys)
			*part.into = &n
		case ctx.Err() != nil:
			return err
		}
	}
	if p != (peopleStatus{}) {
		doc.People = &p
	}
	return nil
}

// write says nothing where there is nobody.
func (p *peopleStatus) write(t *text) {
	if p == nil {
		return
	}
	count := func(n *int, of string) string {
		if n == nil || *n == 0 {
			return ""
		}
		return fmt.Sprint(*n) + of
	}
	pairs := []string{"Identities", count(p.Identities, ""), "Authenticators", count(p.Authenticators, ""),
		"Approvers", count(p.Approvers, ""), "Requests", count(p.PendingRequests, " pending")}
	for i := 1; i < len(pairs); i += 2 {
		if pairs[i] != "" {
			t.line("People")
			t.pairs("  ", pairs...)
			return
		}
	}
}
