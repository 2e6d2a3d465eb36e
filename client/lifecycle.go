package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Freeze keeps an account from signing until Unfreeze. Its shares are refreshed
// as before. The reason, for people, may be empty.
func (c *Client) Freeze(ctx context.Context, name, reason string) (*Account, error) {
	body := map[string]any{}
	if reason != "" {
		body["reason"] = reason
	}
	return c.accountCall(ctx, http.MethodPut, name, "/freeze", "freeze", body)
}

// Unfreeze lets a frozen account sign again.
func (c *Client) Unfreeze(ctx context.Context, name string) (*Account, error) {
	return c.accountCall(ctx, http.MethodPut, name, "/unfreeze", "unfreeze", map[string]any{})
}

// DeleteOptions of Delete; the zero value takes the mount's waiting time.
type DeleteOptions struct {
	// After is how long the account can be restored, in whole seconds (rounded
	// up): not less than the mount's deletion_wait (7 days by default), which
	// zero stands for.
	After time.Duration
}

// Delete keeps an account from signing and removes it for good at DestroyTime of
// the answer. Until then Restore takes it back.
func (c *Client) Delete(ctx context.Context, name string, o DeleteOptions) (*Account, error) {
	r, err := onAccount(http.MethodDelete, "accounts/", name, "", "delete", nil)
	if err != nil {
		return nil, err
	}
	if o.After != 0 {
		r.query = url.Values{"delete_after": {durationText(o.After)}}
	}
	var d accountData
	warnings, err := c.do(ctx, r, &d)
	if err != nil {
		return nil, err
	}
	a := d.account(warnings)
	if a.Name == "" || a.DestroyTime.IsZero() { // an answer without the account
		if a, err = c.Account(ctx, name); err != nil {
			return nil, fmt.Errorf("the account was deleted, but: %w", err)
		}
	}
	return a, nil
}

// Restore takes back a deleted account, to frozen if it was frozen before.
func (c *Client) Restore(ctx context.Context, name string) (*Account, error) {
	return c.accountCall(ctx, http.MethodPut, name, "/restore", "restore", map[string]any{})
}

// Rename gives an account another name; its key and ID stay.
func (c *Client) Rename(ctx context.Context, name, newName string) (*Account, error) {
	if err := checkName(fmt.Sprintf("rename account %q", name), newName); err != nil {
		return nil, err
	}
	return c.accountCall(ctx, http.MethodPut, name, "/rename", "rename", map[string]any{"new_name": newName})
}
