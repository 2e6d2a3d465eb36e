package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Filter says which accounts Accounts yields; the zero value stands for all. An
// account has to match every field that is set.
type Filter struct {
	Prefix    string // of the name
	Algorithm Algorithm
	State     State
	// Metadata is "key" for accounts that have the key, or "key=value".
	Metadata string
	// Details asks for the fields of AccountInfo besides Name. Filters other
	// than Prefix bring them, too.
	Details bool
	// PageSize is how many accounts one request asks for, 1 to 1000; default 500.
	PageSize int
}

// AccountInfo is an account in a listing. Only Name is set unless details or a
// filter on contents was asked for.
type AccountInfo struct {
	Name            string
	ID              string
	Algorithm       Algorithm
	Threshold       int
	Shares          int
	State           State
	PublicKey       []byte
	ShareEpoch      uint64
	LastRefreshTime time.Time
	Metadata        map[string]string
}

const defaultPageSize = 500

// Accounts yields the accounts that match, in order of their names, page by page
// as the loop goes on. Each page is read on its own: an account that comes or goes
// meanwhile may be there or not, but none is given twice. An error ends the
// sequence; no account comes with it.
func (c *Client) Accounts(ctx context.Context, f Filter) iter.Seq2[AccountInfo, error] {
	return func(yield func(AccountInfo, error) bool) {
		for after := ""; ; {
			page, err := c.page(ctx, f, after)
			if err != nil {
				yield(AccountInfo{}, err)
				return
			}
			for _, name := range page.Keys {
				if !yield(page.info(name), nil) {
					return
				}
			}
			if page.NextAfter == "" {
				return
			}
			if page.NextAfter <= after {
				yield(AccountInfo{}, errors.New("cannot list accounts: the engine's pages do not go on"))
				return
			}
			after = page.NextAfter
		}
	}
}

// listing is a page as it is sent.
type listing struct {
	Keys      []string               `json:"keys"`
	KeyInfo   map[string]accountData `json:"key_info"`
	NextAfter string                 `json:"next_after"`
}

func (l *listing) info(name string) AccountInfo {
	d := l.KeyInfo[name]
	return AccountInfo{
		Name: name, ID: d.ID, Algorithm: d.Algorithm, Threshold: d.Threshold, Shares: d.Shares, State: d.State,
		PublicKey: d.PublicKeyHex, ShareEpoch: d.ShareEpoch, LastRefreshTime: d.LastRefreshTime.Time, Metadata: d.Metadata,
	}
}

func (c *Client) page(ctx context.Context, f Filter, after string) (*listing, error) {
	size := f.PageSize
	if size == 0 {
		size = defaultPageSize
	}
	// GET with list=true is LIST, also through proxies that know no such method.
	r := call{op: "list accounts", method: http.MethodGet, path: "accounts", query: url.Values{
		"list": {"true"}, "limit": {strconv.Itoa(size)},
	}}
	set := func(field, value string) {
		if value != "" {
			r.query.Set(field, value)
		}
	}
	set("prefix", f.Prefix)
	set("algorithm", string(f.Algorithm))
	set("state", string(f.State))
	set("metadata", f.Metadata)
	set("after", after)
	if f.Details {
		set("details", "true")
	}
	var l listing
	if _, err := c.do(ctx, r, &l); err != nil {
		// Vault's answer for an empty list is a 404 without a message.
		if refused := (*Error)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound && len(refused.Messages) == 0 {
			return &listing{}, nil
		}
		return nil, err
	}
	// Vault passes fields that an engine does not know without a word. A filter
	// that did not filter must not look as if it had.
	contents := f.Algorithm != "" || f.State != "" || f.Metadata != "" || f.Details
	for _, name := range l.Keys {
		if _, described := l.KeyInfo[name]; contents && !described || !strings.HasPrefix(name, f.Prefix) {
			return nil, fmt.Errorf("cannot list accounts: this engine ignores filters; it is older than this package")
		}
	}
	return &l, nil
}
