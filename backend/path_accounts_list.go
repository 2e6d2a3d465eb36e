package backend

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sort"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

// Bounds of one page of accounts.
const (
	maxListLimit     = 1000
	defaultListLimit = 100 // where entries are read
)

func (b *backend) pathAccountList() []*framework.Path {
	query := func(t framework.FieldType, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: t, Description: description, Query: true}
	}
	return []*framework.Path{{
		Pattern: "accounts/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "accounts", Navigation: true, ItemType: "Account",
		},
		Fields: map[string]*framework.FieldSchema{
			"prefix":    query(framework.TypeString, "Only accounts whose names begin with it."),
			"algorithm": query(framework.TypeString, "Only accounts of this signature algorithm."),
			"state":     query(framework.TypeString, "Only accounts that are active, frozen or deleted."),
			"metadata":  query(framework.TypeString, "Only accounts with this metadata: key, or key=value."),
			"after":     query(framework.TypeString, "Only names after this one: the next_after of the page before."),
			"limit":     query(framework.TypeInt, "Most names on the page, 1 to 1000. With details or a filter on algorithm, state, metadata or policy it is also how many accounts are looked at, and 100 where it is left out; else there is no limit."),
			"policy":    query(framework.TypeBool, "Only accounts with an approval policy; false: only those without."),
			"details":   query(framework.TypeBool, "Also say of each account what it is, in key_info."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the accounts.", false, b.handle("accounts", 0, b.accountsList),
				map[string]*framework.FieldSchema{
					"keys":       optional(framework.TypeStringSlice, "Names of the accounts, in order."),
					"key_info":   optional(framework.TypeMap, "By name: id, algorithm, threshold, shares, state, public_key_hex, share_epoch, last_refresh_time, metadata and policy (whether signatures are approved by people). Where details or a filter on one of them was asked for."),
					"next_after": optional(framework.TypeString, "Where there may be more: what after is to be for the next page."),
				}),
		},
		HelpSynopsis: "The accounts of this mount.",
		HelpDescription: `
Lists the accounts:

  $ vault list mpc/accounts

Filters and pages are query parameters, which "vault read" sends:

  $ vault read mpc/accounts list=true prefix=al details=true
  $ vault read mpc/accounts list=true state=frozen metadata=team=ops limit=500
  $ vault read mpc/accounts list=true policy=true
  $ curl -H @<(echo "X-Vault-Token: $VAULT_TOKEN") "$VAULT_ADDR/v1/mpc/accounts?list=true&limit=100&after=alice"

A page that does not end the list has next_after, which is the next page's after.
With a filter on what accounts are, limit is how many accounts are looked at: such
a page may hold fewer names, or no keys at all, and yet not be the last. Nothing
found to the end of the list is a 404, as everywhere in Vault.
`,
	}}
}

// listQuery is what was asked for.
type listQuery struct {
	prefix, after string
	algorithm     mpc.Algorithm
	state         accountState
	key           string
	value         *string
	policy        *bool
	limit         int // 0: none
	details       bool
}

// reads says whether entries have to be read.
func (q *listQuery) reads() bool {
	return q.details || q.filters()
}

// filters says whether what accounts are was asked for.
func (q *listQuery) filters() bool {
	return q.algorithm != "" || q.state != "" || q.key != "" || q.policy != nil
}

func parseListQuery(req *logical.Request, data *framework.FieldData) (*listQuery, error) {
	if err := onlyFields(req, "prefix", "algorithm", "state", "metadata", "policy", "after", "limit", "details"); err != nil {
		return nil, err
	}
	q := &listQuery{
		prefix: data.Get("prefix").(string), after: data.Get("after").(string),
		algorithm: mpc.Algorithm(data.Get("algorithm").(string)),
		state:     accountState(data.Get("state").(string)),
		details:   data.Get("details").(bool),
	}
	if q.algorithm != "" && !q.algorithm.Valid() {
		return nil, invalid("algorithm %q is not one of %s", clip(string(q.algorithm)), algorithmList())
	}
	switch q.state {
	case "", stateActive, stateFrozen, stateDeleted:
	default:
		return nil, invalid("state %q is not active, frozen or deleted", clip(string(q.state)))
	}
	if text, ok := data.GetOk("metadata"); ok {
		key, value, both := strings.Cut(text.(string), "=")
		if key == "" {
			return nil, invalid("metadata must be a key, or key=value")
		}
		if q.key = key; both {
			q.value = &value
		}
	}
	if v, ok := data.GetOk("policy"); ok {
		with := v.(bool)
		q.policy = &with
	}
	if len(q.prefix) > maxAccountNameLen || len(q.after) > maxAccountNameLen {
		return nil, invalid("prefix and after have at most %d bytes, as names do", maxAccountNameLen)
	}
	if v, ok := data.GetOk("limit"); ok {
		if q.limit = v.(int); q.limit < 1 || q.limit > maxListLimit {
			return nil, invalid("limit must be 1 to %d, not %d", maxListLimit, q.limit)
		}
	} else if q.reads() {
		q.limit = defaultListLimit
	}
	return q, nil
}

// matches compares what a name does not tell.
func (q *listQuery) matches(record *mpc.PublicRecord, r *accountRecord) bool {
	if q.algorithm != "" && record.Algorithm != q.algorithm || q.state != "" && r.state() != q.state ||
		q.policy != nil && demandsApprovals(record) != *q.policy {
		return false
	}
	if q.key == "" {
		return true
	}
	value, has := r.Metadata[q.key]
	return has && (q.value == nil || value == *q.value)
}

func (b *backend) accountsList(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	q, err := parseListQuery(req, data)
	if err != nil {
		return nil, err
	}
	b.settleKnown(ctx)
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return nil, err
	}
	if q.after != "" {
		names = names[sort.Search(len(names), func(i int) bool { return names[i] > q.after }):]
	}
	names = names[sort.SearchStrings(names, q.prefix):]
	if end := slices.IndexFunc(names, func(n string) bool { return !strings.HasPrefix(n, q.prefix) }); end >= 0 {
		names = names[:end]
	}
	if q.reads() {
		return b.listDetails(ctx, q, names)
	}
	next := ""
	if q.limit > 0 && len(names) > q.limit {
		names = names[:q.limit]
		next = names[q.limit-1]
	}
	return listAnswer(names, nil, next), nil
}

// listDetails reads at most limit entries in order. A page on which nothing
// matches has next_after and no keys, so that Vault does not answer by 404 before
// the list has ended.
func (b *backend) listDetails(ctx context.Context, q *listQuery, names []string) (*logical.Response, error) {
	var keys, unreadable []string
	info := map[string]any{}
	next := ""
	if len(names) > q.limit {
		names = names[:q.limit]
		next = names[q.limit-1]
	}
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		if err == nil && r != nil && r.left(name) {
			b.moves.note(name, r.RenamingTo)
			b.settleKnown(ctx)
			r, err = b.store.account(ctx, name)
		}
		var damaged *damagedError
		switch {
		case errors.As(err, &damaged):
			// It is said that it is there, unless what it is was asked for.
			unreadable = append(unreadable, name)
			if !q.filters() {
				keys = append(keys, name)
				info[name] = map[string]any{"error": "the stored record cannot be read"}
			}
		case err != nil:
			return nil, err
		case r != nil:
			one, matches, err := q.info(r)
			if err != nil {
				return nil, err
			}
			if matches {
				keys = append(keys, name)
				info[name] = one
			}
		}
	}
	resp := listAnswer(keys, info, next)
	if len(unreadable) > 0 {
		resp.AddWarning("these accounts cannot be read, so that nothing is known of them: " + few(unreadable))
	}
	return resp, nil
}

// info is an account's key_info.
func (q *listQuery) info(r *accountRecord) (map[string]any, bool, error) {
	record, err := mpc.ParsePublicRecord(r.Current.Record)
	if err != nil {
		return nil, false, err
	}
	if !q.matches(record, r) {
		return nil, false, nil
	}
	metadata := r.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return map[string]any{
		"id":                r.ID,
		"algorithm":         string(record.Algorithm),
		"threshold":         record.Threshold,
		"shares":            record.Shares,
		"state":             string(r.state()),
		"public_key_hex":    hex.EncodeToString(record.PublicKey),
		"share_epoch":       record.Epoch,
		"last_refresh_time": rfc3339(r.Current.Started),
		"metadata":          metadata,
		"policy":            demandsApprovals(record),
	}, true, nil
}

// listAnswer has no empty fields: Vault answers by 404 where there is none.
func listAnswer(names []string, info map[string]any, next string) *logical.Response {
	resp := logical.ListResponse(names)
	if len(info) > 0 {
		resp.Data["key_info"] = info
	}
	if next != "" {
		resp.Data["next_after"] = next
	}
	return resp
}

// settleKnown finishes renames that are known to have been cut off. What cannot be
// finished is listed as it is stored.
func (b *backend) settleKnown(ctx context.Context) {
	for _, name := range b.moves.names() {
		if !b.moves.hasLeft(name) {
			continue
		}
		if err := b.settleMove(ctx, name); err != nil {
			b.log.Warn("a rename that was cut off could not be finished", "account", name, "error", err)
		}
	}
}
