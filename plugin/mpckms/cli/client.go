package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	// requestTimeout bounds one request with its retries. The engine's own
	// longest deadline is session_timeout, 30 s by default; Vault may first
	// have to start the plugin. VAULT_CLIENT_TIMEOUT overrides it.
	requestTimeout = 65 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 16 << 20
)

// What a policy must allow for a request, as Vault names it. Accounts have an
// existence check, so creating one needs "create"; other writes "update".
const (
	capRead   = "read"
	capList   = "list"
	capCreate = "create"
	capUpdate = "update"
	capDelete = "delete"
)

// client sends requests to one Vault and one mount. Safe for concurrent use.
type client struct {
	vault    *api.Client
	address  string // of Vault, without credentials
	mount    string // without slashes around it
	timeout  time.Duration
	hasToken bool
	warn     func(string)
}

// connect reads Vault's environment. It sends nothing; its errors are about
// local settings.
func (a *app) connect() (*client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, fmt.Errorf("environment variables for Vault cannot be used: %w", cfg.Error)
	}
	timeout := requestTimeout
	if os.Getenv(api.EnvVaultClientTimeout) != "" {
		timeout = cfg.Timeout
	}
	// The library would end its own deadline before the caller has read a
	// raw answer's body, so do sets the deadline instead.
	cfg.Timeout = 0
	cfg.CheckRetry = retrySafely
	vault, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("environment variables for Vault cannot be used: %w", err)
	}
	if vault.Token() == "" {
		token, err := a.storedToken()
		if err != nil {
			return nil, fmt.Errorf("the stored Vault token cannot be read (set VAULT_TOKEN, or run 'vault login' again): %w", err)
		}
		vault.SetToken(token)
	}
	a.token = vault.Token()
	c := &client{
		vault: vault, mount: a.mount, timeout: timeout, hasToken: a.token != "",
		address: vault.Address(),
		warn:    func(s string) { a.note("Warning: %s", s) },
	}
	if u, err := url.Parse(c.address); err == nil {
		c.address = u.Redacted()
	}
	return c, nil
}

// retrySafely lets the library repeat a request (twice by default, see
// VAULT_MAX_RETRIES) where that cannot do anything twice: reads after server
// and network errors, writes only when Vault says it has not handled them (412,
// 429). A refused connection is reported at once: no Vault runs there.
func retrySafely(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return false, err
	}
	var method string
	var urlErr *url.Error
	switch {
	case resp != nil && resp.Request != nil:
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusPreconditionFailed {
			return api.DefaultRetryPolicy(ctx, resp, err)
		}
		method = resp.Request.Method
	case errors.As(err, &urlErr):
		method = urlErr.Op // "Get", "Put"
	}
	if method != http.MethodGet && method != "Get" {
		return false, err
	}
	return api.DefaultRetryPolicy(ctx, resp, err)
}

// request is one call. Its path is relative to the mount unless sys is set.
type request struct {
	what       string // "sign with account \"x\"", follows "cannot"
	capability string
	path       string
	sys        bool
	body       any // JSON; nil for reads, lists and deletions
	// query are parameters of reads, lists and deletions.
	query   map[string][]string
	account string
	// withResults: the data of an answer with an error status is decoded as
	// well, and reported beside the error. A batch has results then.
	withResults bool
}

// do sends r and decodes the answer's data into out, which may be nil. It
// reports whether the answer held data. Errors are *refusal.
func (c *client) do(ctx context.Context, r request, out any) (bool, error) {
	path := r.path
	if !r.sys {
		path = c.mount + "/" + r.path
	}
	fail := func(status int, messages []string, cause error) (bool, error) {
		return false, &refusal{
			what: "cannot " + r.what, path: path, req: r, client: c,
			status: status, messages: messages, cause: cause,
		}
	}

	reqCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if r.capability == capDelete {
		return c.delete(reqCtx, r, path, out, fail)
	}
	resp, err := c.send(reqCtx, r, path)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		found := r.withResults && resp != nil && c.results(resp.Body, out)
		_, err := failed(err, fail)
		return found, err
	}
	if resp.StatusCode == http.StatusNoContent {
		return false, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fail(0, nil, err)
	}
	if len(body) > maxAnswer {
		return fail(0, nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer))
	}
	var answer struct {
		Data     json.RawMessage `json:"data"`
		Warnings []string        `json:"warnings"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fail(0, nil, errNotVault)
	}
	for _, w := range answer.Warnings {
		c.warn(w)
	}
	if len(answer.Data) == 0 || string(answer.Data) == "null" {
		return false, nil
	}
	if out != nil {
		if err := json.Unmarshal(answer.Data, out); err != nil {
			return fail(0, nil, errForm(err))
		}
	}
	return true, nil
}

// failed turns an error of the library into a refusal.
func failed(err error, fail func(int, []string, error) (bool, error)) (bool, error) {
	var vaultErr *api.ResponseError
	if !errors.As(err, &vaultErr) {
		return fail(0, nil, err)
	}
	messages := unframed(vaultErr.Errors)
	if vaultErr.RawError {
		return fail(vaultErr.StatusCode, messages, errNotVault)
	}
	return fail(vaultErr.StatusCode, messages, nil)
}

// results decodes the data of an answer with an error status, of which the
// library keeps the body, and reports whether there was any.
func (c *client) results(body io.Reader, out any) bool {
	var answer struct {
		Data     json.RawMessage `json:"data"`
		Warnings []string        `json:"warnings"`
	}
	if json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&answer) != nil || len(answer.Data) == 0 || string(answer.Data) == "null" {
		return false
	}
	for _, w := range answer.Warnings {
		c.warn(w)
	}
	return json.Unmarshal(answer.Data, out) == nil
}

// delete is do for deletions, whose parameters go into the query. The library
// has no raw form of it that takes any.
func (c *client) delete(ctx context.Context, r request, path string, out any, fail func(int, []string, error) (bool, error)) (bool, error) {
	answer, err := c.vault.Logical().DeleteWithDataWithContext(ctx, path, r.query)
	if err != nil {
		return failed(err, fail)
	}
	if answer == nil {
		return false, nil
	}
	for _, w := range answer.Warnings {
		c.warn(w)
	}
	if len(answer.Data) == 0 || out == nil {
		return len(answer.Data) > 0, nil
	}
	data, err := json.Marshal(answer.Data)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		return fail(0, nil, errForm(err))
	}
	return true, nil
}

func errForm(err error) error {
	return fmt.Errorf("the answer does not have the expected form (%w); mpckms and the plugin may be of versions that do not fit together", err)
}

func (c *client) send(ctx context.Context, r request, path string) (*api.Response, error) {
	if r.body != nil {
		body, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		return c.vault.Logical().WriteRawWithContext(ctx, path, body)
	}
	// Raw reads, because the library's List and Read turn every 404, a
	// missing mount included, into an empty answer.
	params := r.query
	if r.capability == capList {
		params = map[string][]string{"list": {"true"}}
		maps.Copy(params, r.query)
	}
	return c.vault.Logical().ReadRawWithDataWithContext(ctx, path, params)
}

// listing is the answer to a LIST.
type listing struct {
	Keys    []string                   `json:"keys"`
	KeyInfo map[string]json.RawMessage `json:"key_info"`
	// NextAfter is where the next page begins; empty on the last one.
	NextAfter string `json:"next_after"`
}

// list is do for lists: none is not an error.
func (c *client) list(ctx context.Context, what, path string) (listing, error) {
	return c.page(ctx, what, path, nil)
}

// page is list with parameters.
func (c *client) page(ctx context.Context, what, path string, query map[string][]string) (listing, error) {
	var l listing
	_, err := c.do(ctx, request{what: what, capability: capList, path: path, query: query}, &l)
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusNotFound && len(r.messages) == 0 {
		return listing{}, nil // Vault's answer for an empty list
	}
	return l, err
}
