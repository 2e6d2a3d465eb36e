package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// requestTimeout bounds every request but ECDSA signing. Vault gives requests
// no deadline of its own, and an open one holds up sealing and failover.
const requestTimeout = 5 * time.Second

// operationPrefix begins every OpenAPI operation ID.
const operationPrefix = "mpc"

// handle wraps a handler with what all share: unknown fields are refused, the
// deadline is set, errors are translated, and the request is counted. timeout 0
// means requestTimeout.
func (b *backend) handle(op string, timeout time.Duration, h framework.OperationFunc) framework.OperationFunc {
	if timeout == 0 {
		timeout = requestTimeout
	}
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		defer context.AfterFunc(b.ctx, cancel)()
		started := time.Now()
		err := checkFields(req, data)
		var resp *logical.Response
		if err == nil {
			resp, err = h(ctx, req, data)
			var again bool
			if again, err = b.finished(ctx, err); again { // a rename, by now
				resp, err = h(ctx, req, data)
			}
		}
		if errors.Is(err, context.Canceled) && b.ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", pool.ErrClosed, err)
		}
		cause := err
		if err != nil {
			resp, err = b.translate(op, err)
		} else if resp != nil {
			resp.Warnings = append(resp.Warnings, ignoredFields(req, data)...)
		}
		took := time.Since(started)
		b.logRequest(op, req, data, took, b.metrics.answered(op, req, took, resp, err), cause)
		return resp, err
	}
}

// logRequest writes a line that fits the audit log by Vault's ID of the request:
// who asked is there, and what happened here. An answer by 5xx is an error of
// ours, everything else is of interest to whoever looks for it. status 0: another
// server answers.
func (b *backend) logRequest(op string, req *logical.Request, data *framework.FieldData, took time.Duration, status int, cause error) {
	if status == 0 || status < http.StatusInternalServerError && !b.log.IsDebug() {
		return
	}
	args := []any{"operation", op, "status", status, "took", took.Round(time.Microsecond).String(), "vault_request", req.ID}
	if name, ok := data.Raw["name"].(string); ok && data.Schema["name"] != nil {
		args = append(args, "name", clip(name))
	}
	if cause != nil {
		args = append(args, "error", cause)
	}
	if status >= http.StatusInternalServerError {
		b.log.Error("request failed", args...)
		return
	}
	b.log.Debug("request answered", args...)
}

// exists wraps an existence check in the same way.
func (b *backend) exists(f func(ctx context.Context, data *framework.FieldData) (bool, error)) framework.ExistenceFunc {
	return func(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return f(ctx, data)
	}
}

// operation describes one operation of a path. effects says that it does more
// than read storage, so that it must run on the active server of the primary.
func (b *backend) operation(summary string, effects bool, h framework.OperationFunc, response map[string]*framework.FieldSchema) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    h,
		Summary:                     summary,
		ForwardPerformanceStandby:   effects,
		ForwardPerformanceSecondary: effects,
		Responses: map[int][]framework.Response{
			200: {{Description: "OK", Fields: response}},
		},
	}
}

// noContent is an operation that answers 204.
func (b *backend) noContent(summary string, h framework.OperationFunc) *framework.PathOperation {
	op := b.operation(summary, true, h, nil)
	op.Responses = map[int][]framework.Response{204: {{Description: "Done"}}}
	return op
}

// field is one field of a response schema.
func field(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description, Required: true}
}

// optional is a field that not every response has.
func optional(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description}
}

// namePattern captures a path segment; checkAccountName says later and in
// words what is wrong with it.
const namePattern = `(?P<name>[^/]+)`

var accountName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$`) // read only

// nameField is the account's name as captured from the path.
func nameField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the account: up to 128 letters, digits, dots, dashes and underscores, with a letter or digit at both ends.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Account", Identifier: true},
	}
}

func checkAccountName(data *framework.FieldData) (string, error) {
	name, _ := data.Get("name").(string)
	if len(name) > maxAccountNameLen || !accountName.MatchString(name) {
		return "", invalid("%q is not an account name: use up to %d letters, digits, dots, dashes and underscores, with a letter or digit at both ends", clip(name), maxAccountNameLen)
	}
	return name, nil
}

// busySet reserves names in memory while something is done with them that
// must not be done twice at once.
type busySet struct {
	mu     sync.Mutex
	what   map[string]reservation
	closed map[string]string // prefixes under which nothing is reserved
}

type reservation struct {
	doing string
	ended chan struct{} // closed when it is released
}

// reserve returns a release function, or a 409 that says what is under way.
func (s *busySet) reserve(key, doing string) (func(), error) {
	release, _, err := s.tryReserve(key, doing)
	return release, err
}

// reserveSoon is reserve, but waits for who has reserved the name.
func (s *busySet) reserveSoon(ctx context.Context, key, doing string) (func(), error) {
	for {
		release, ended, err := s.tryReserve(key, doing)
		if ended == nil {
			return release, err
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// tryReserve returns a channel with the error where the name is taken.
func (s *busySet) tryReserve(key, doing string) (func(), chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, taken := s.what[key]; taken {
		return nil, now.ended, conflict("%s %s: wait for it to finish, then look at the result", key, now.doing)
	}
	for prefix, why := range s.closed {
		if strings.HasPrefix(key, prefix) {
			return nil, nil, conflict("%s: %s", key, why)
		}
	}
	if s.what == nil {
		s.what = map[string]reservation{}
	}
	r := reservation{doing, make(chan struct{})}
	s.what[key] = r
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.what, key)
		close(r.ended)
	}, nil, nil
}

// taken reports whether somebody has reserved the name.
func (s *busySet) taken(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, taken := s.what[key]
	return taken
}

// reserveAll keeps everybody from reserving names under a prefix, for the reason
// given, or is a 409 where somebody has.
func (s *busySet) reserveAll(prefix, why string) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, now := range s.what {
		if strings.HasPrefix(key, prefix) {
			return nil, conflict("%s %s: wait for it to finish, then look at the result", key, now.doing)
		}
	}
	if now, taken := s.closed[prefix]; taken {
		return nil, conflict("%s", now)
	}
	if s.closed == nil {
		s.closed = map[string]string{}
	}
	s.closed[prefix] = why
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.closed, prefix)
	}, nil
}

// rfc3339 formats a time for a response; the zero time is an empty string.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
