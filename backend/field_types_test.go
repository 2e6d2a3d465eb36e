package backend

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestWrongTypes: a field of another type is refused, and its value, which may be
// a PIN, is not repeated.
func TestWrongTypes(t *testing.T) {
	const value = "very-secret-value"
	m := configured(t)
	m.create("alice", "ed25519")
	for _, c := range []struct {
		path, field string
		sent        any
		says        string
	}{
		{"config/hsm", "pin", map[string]any{"a": value}, "pin must be a text"},
		{"config/hsm", "pin", []any{value}, "pin must be a text"},
		{"config/hsm", "uri", []any{value, value}, "uri must be a text"},
		{"accounts/alice", "threshold", value, "threshold must be a whole number"},
		{"accounts/alice", "refresh_period", value, "refresh_period must be a duration"},
		{"accounts/alice", "metadata", []any{[]any{value}}, "metadata must be key-value pairs"},
		{"rotation/catch-up", "all", value, "all must be true or false"},
		{"sign/alice", "input", map[string]any{"a": value}, "input must be a text"},
	} {
		req := &logical.Request{Operation: logical.UpdateOperation, Path: c.path, Data: map[string]any{c.field: c.sent}, Storage: m.storage}
		if _, exists, err := m.b.HandleExistenceCheck(t.Context(), req); exists || err != nil {
			t.Errorf("%s of %s: existence check %v, %v", c.field, c.path, exists, err)
		}
		resp, err := m.b.HandleRequest(t.Context(), req)
		text := ""
		if resp != nil && resp.IsError() {
			text = resp.Error().Error()
		}
		if err != logical.ErrInvalidRequest || !strings.Contains(text, c.says) || strings.Contains(text, value) {
			t.Errorf("%s of %s: %q, %v", c.field, c.path, text, err)
		}
	}
}
