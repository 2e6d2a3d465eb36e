package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/api"
)

// maxAnswer bounds what is read of an answer, in bytes. The longest, a batch of
// 128 signatures or a page of 1000 accounts, is well below 2 MiB.
const maxAnswer = 16 << 20

// Client calls one mount of the engine. Make it with New.
type Client struct {
	vault *api.Client
	mount string // without slashes around it
}

// New returns a client of the engine at a mount, such as "mpc" or "teams/mpc".
// It sends nothing. The api.Client stays the caller's: a token set there later is
// used from then on.
func New(vault *api.Client, mount string) *Client {
	return &Client{vault: vault, mount: strings.Trim(mount, "/")}
}

// call is one request. Its path is below the mount.
type call struct {
	op     string // "sign with account \"x\"": follows "cannot"
	method string
	path   string
	query  url.Values
	body   any // sent as JSON unless nil
}

// answer is what Vault wraps around an engine's data.
type answer struct {
	Data     json.RawMessage `json:"data"`
	Warnings []string        `json:"warnings"`
}

// do sends a request and decodes the data of its answer into out, unless that is
// nil. Answers without data leave out alone.
func (c *Client) do(ctx context.Context, r call, out any) (warnings []string, err error) {
	a, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.Warnings, a.decode(r.op, out)
}

// send returns an answer's frame. With an *Error it may hold data all the same.
func (c *Client) send(ctx context.Context, r call) (*answer, error) {
	// Ended once the body has been read: the library leaves its own deadline
	// running for that.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := c.vault.NewRequest(r.method, "/v1/"+c.mount+"/"+r.path)
	if r.query != nil {
		req.Params = r.query
	}
	if r.body != nil {
		if err := req.SetJSONBody(r.body); err != nil {
			return nil, fmt.Errorf("cannot %s: %w", r.op, err)
		}
	}
	//lint:ignore SA1019 of the functions that send a body it is the only one whose answer can be read within the configured timeout, data beside an error status included
	resp, err := c.vault.RawRequestWithContext(ctx, req)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	var refused *api.ResponseError
	if err != nil && !errors.As(err, &refused) {
		return nil, fmt.Errorf("cannot %s: %w", r.op, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot %s: reading the answer: %w", r.op, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("cannot %s: the answer is longer than %d bytes", r.op, maxAnswer)
	}
	var a answer
	if len(body) > 0 {
		err = json.Unmarshal(body, &a)
	}
	if refused != nil {
		e := &Error{Op: r.op, Status: refused.StatusCode}
		if refused.RawError || err != nil {
			// Whatever answered, perhaps a proxy; its page is no message.
			e.Messages = []string{"the answer is not one of Vault's: check the address, and what is between here and there"}
		} else {
			e.Messages = unframed(refused.Errors)
		}
		return &a, e
	}
	if err != nil {
		return nil, fmt.Errorf("cannot %s: the answer is not one of Vault's: check the address", r.op)
	}
	return &a, nil
}

func (a *answer) decode(op string, out any) error {
	if out == nil || len(a.Data) == 0 || string(a.Data) == "null" {
		return nil
	}
	if err := json.Unmarshal(a.Data, out); err != nil {
		return fmt.Errorf("cannot %s: the answer does not have the expected form (%w); this package and the engine may be of versions that do not fit together", op, err)
	}
	return nil
}

// accountName is what the engine takes as a name. Checking it here keeps a name
// that comes from outside ("x/freeze", "../sys/seal") from reaching another path.
var accountName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,126}[a-zA-Z0-9])?$`) // read only

// onAccount makes a call about an account; suffix begins with a slash or is empty.
func onAccount(method, folder, account, suffix, what string, body any) (call, error) {
	r := call{op: fmt.Sprintf("%s account %q", what, account), method: method, path: folder + account + suffix, body: body}
	return r, checkName(r.op, account)
}

func checkName(op, name string) error {
	if accountName.MatchString(name) {
		return nil
	}
	return &Error{Op: op, Status: http.StatusBadRequest, Messages: []string{
		fmt.Sprintf("%.140q is not an account name: use up to 128 letters, digits, dots, dashes and underscores, with a letter or digit at both ends (nothing was sent)", name),
	}}
}
