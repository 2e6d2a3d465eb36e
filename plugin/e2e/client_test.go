//go:build e2e

package e2e_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// client makes requests of one mount that may fail while servers, plugins and
// nodes come and go. It returns errors and ends no test, so that any goroutine
// may use it.
type client struct {
	api  *api.Client
	path string
}

// requestTimeout is longer than what the engine or Vault let a request wait,
// ECDSA with its 30 s included.
const requestTimeout = 60 * time.Second

// newClient returns a client of one server. It lives on while the server is
// killed and started again.
func newClient(t testing.TB, v *e2e.Vault, path string) *client {
	t.Helper()
	own, err := v.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	own.SetToken(v.RootToken)
	own.SetMaxRetries(0)
	return &client{own, path}
}

func (c *client) write(ctx context.Context, path string, data map[string]any) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := c.api.Logical().WriteWithContext(ctx, c.path+"/"+path, data)
	if err != nil || s == nil { // an answer may be empty
		return nil, err
	}
	return s.Data, nil
}

func (c *client) read(ctx context.Context, path string) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := c.api.Logical().ReadWithContext(ctx, c.path+"/"+path)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		// Also what Vault answers while it does not know the mount yet.
		return nil, errors.New("not there")
	}
	return s.Data, nil
}

// accounts returns the names of all accounts.
func (c *client) accounts(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := c.api.Logical().ListWithContext(ctx, c.path+"/accounts")
	if err != nil || s == nil {
		return nil, err
	}
	keys, _ := s.Data["keys"].([]any)
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i], _ = k.(string)
	}
	return names, nil
}

// sign returns what sign/ answers, and the signature's bytes.
func (c *client) sign(ctx context.Context, name string, message []byte) (answer map[string]any, sig []byte, err error) {
	answer, err = c.write(ctx, "sign/"+name, map[string]any{"input": b64(message)})
	if err != nil {
		return nil, nil, err
	}
	text, _ := answer["signature"].(string)
	if sig, err = base64.StdEncoding.DecodeString(text); err != nil || len(sig) == 0 {
		return nil, nil, fmt.Errorf("sign/%s answers with the signature %q", name, text)
	}
	return answer, sig, nil
}

// text and integer read fields of an answer; what is not there is empty or -1.
func text(answer map[string]any, field string) string {
	s, _ := answer[field].(string)
	return s
}

func integer(answer map[string]any, field string) int {
	n, _ := answer[field].(json.Number)
	i, err := n.Int64()
	if err != nil {
		return -1
	}
	return int(i)
}
