package backend

import (
	"context"
	"slices"
	"strings"
	"sync"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// The directory of approvers: people and machines that accounts' policies may name.
// A policy takes copies of what is here, so that nothing which changes here changes
// who may approve for an account. What the directory decides is only what the next
// policy will take.

// Bounds of the directory.
const (
	maxApproversStored = 1024
	// maxApproverEntities leaves room for the identity, and for "none".
	maxApproverEntities = 15
)

// approvers is what is kept in memory about the directory. It may be used
// concurrently.
type approvers struct {
	// turn, capacity 1, is held by whoever changes the directory, an enrolment or a
	// one-time code's last step: keys are unique over all of them.
	turn chan struct{}
	// links counts wrong secrets by enrolment ID, codes wrong one-time codes by
	// approver ID. Both are in memory only.
	links, codes *limiter

	mu    sync.Mutex
	names map[string]string // approver ID → name under which it was last seen
}

func newApprovers(l func() *limiter) *approvers {
	return &approvers{turn: make(chan struct{}, 1), links: l(), codes: l(), names: map[string]string{}}
}

// take waits for the turn to change something.
func (a *approvers) take(ctx context.Context) (release func(), err error) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// seen remembers under which name an approver is. It is a hint: whoever uses it
// reads the record.
func (a *approvers) seen(id, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.names) > 2*maxApproversStored { // deleted ones among them
		clear(a.names)
	}
	a.names[id] = name
}

func (a *approvers) hint(id string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.names[id]
}

// mountID is what statements and enrolments of this mount are bound to.
func (b *backend) mountID(ctx context.Context) ([16]byte, error) {
	m, err := b.store.mount(ctx)
	if err != nil {
		return [16]byte{}, err
	}
	if m == nil {
		return [16]byte{}, invalid("this mount has no nodes yet, and so no ID that approvals could name: write config/hsm, or enrol nodes of other hosts with config/nodes/NAME, then repeat the request")
	}
	return m.ID, nil
}

// needApprover reads an approver that the caller says exists.
func (b *backend) needApprover(ctx context.Context, name string) (*approverRecord, error) {
	r, err := b.store.approver(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, unknown("there is no approver %q: list approvers/ for those there are", name)
	}
	b.people.seen(r.ID, name)
	return r, nil
}

// approverByID finds an approver by its ID, 32 hex digits. Where there is none, the
// record is nil: it may have been deleted while policies still name it.
func (b *backend) approverByID(ctx context.Context, id string) (name string, r *approverRecord, err error) {
	if hint := b.people.hint(id); hint != "" {
		r, err := b.store.approver(ctx, hint)
		if err != nil {
			return "", nil, err
		}
		if r != nil && r.ID == id {
			return hint, r, nil
		}
	}
	names, err := b.store.approverNames(ctx)
	if err != nil {
		return "", nil, err
	}
	for _, name := range names {
		r, err := b.store.approver(ctx, name)
		if err != nil {
			return "", nil, err
		}
		if r != nil {
			b.people.seen(r.ID, name)
			if r.ID == id {
				return name, r, nil
			}
		}
	}
	return "", nil, nil
}

// Requester identifiers, as policies hold them.
const (
	requesterEntity   = "entity:"
	requesterIdentity = "identity:"
	// requesterNone says that an approver asks for no signatures itself. It is
	// nobody's identifier.
	requesterNone = "none"
)

// approver is the approver as a policy takes it: a copy of all of it. The caller
// checks the policy as a whole (approval.Policy.Check).
func (r *approverRecord) approver(name string) (approval.Approver, error) {
	id, err := approval.ParseID(r.ID)
	if err != nil {
		return approval.Approver{}, &damagedError{prefixApprovers + name, err}
	}
	a := approval.Approver{ID: id, Name: name, Requesters: r.requesters(), Checked: r.checked()}
	for i := range r.Keys {
		k := r.Keys[i].key()
		k.Public, k.Credential, k.Origins = slices.Clone(k.Public), slices.Clone(k.Credential), slices.Clone(k.Origins)
		a.Keys = append(a.Keys, k)
	}
	if len(a.Keys) == 0 {
		return approval.Approver{}, invalid("approver %q has no device yet, so no policy can name it: enrol one (approvers/%s/enrol)", name, name)
	}
	return a, nil
}

// requesters are the identifiers under which the approver may ask for signatures,
// in order; never empty.
func (r *approverRecord) requesters() []string {
	var out []string
	for _, e := range r.Entities {
		out = append(out, requesterEntity+e)
	}
	if r.Identity != "" {
		out = append(out, requesterIdentity+r.Identity)
	}
	if len(out) == 0 {
		out = []string{requesterNone}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// checked are the kinds of factors that the coordinator checks for the approver.
func (r *approverRecord) checked() []approval.Kind {
	var out []approval.Kind
	if r.TOTP != nil && r.TOTP.Confirmed {
		out = append(out, approval.TOTP)
	}
	if r.Identity != "" {
		out = append(out, approval.Login)
	}
	return out
}

// keyByID returns the index of a key, -1 for none. It takes 32 hex digits.
func (r *approverRecord) keyByID(id string) int {
	return slices.IndexFunc(r.Keys, func(k approverKeyRecord) bool {
		key := k.key()
		return key.ID().String() == id
	})
}

// policiesWith returns the accounts whose policy in force has what is asked for, in
// order, and those that cannot be read.
func (b *backend) policiesWith(ctx context.Context, has func(*approval.Policy) bool) (accounts, unreadable []string, err error) {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		r, err := b.store.account(ctx, name)
		if err != nil {
			unreadable = append(unreadable, name)
			continue
		}
		if r == nil || len(r.Current.Policy) == 0 {
			continue
		}
		p, err := approval.ParsePolicy(r.Current.Policy)
		if err != nil {
			unreadable = append(unreadable, name)
			continue
		}
		if has(p) {
			accounts = append(accounts, name)
		}
	}
	return accounts, unreadable, nil
}

// maxNamesShown bounds the names in one warning.
const maxNamesShown = 50

func shownNames(names []string) string {
	if len(names) <= maxNamesShown {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:maxNamesShown], ", ") + ", …"
}
