package identity

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestSessionContexts: no two messages of a session have one context, whatever is
// in them.
func TestSessionContexts(t *testing.T) {
	seen := map[string]string{}
	note := func(c Context, what string) {
		t.Helper()
		if other := seen[string(c)]; other != "" {
			t.Errorf("%s has the context of %s", what, other)
		}
		seen[string(c)] = what
	}
	for _, id := range []ID{{1}, {2}} {
		note(SessionLoginContext(id), fmt.Sprint("login ", id))
		for sequence := range uint64(3) {
			for _, op := range []Operation{ReadOperation, ListOperation, WriteOperation, DeleteOperation} {
				for _, path := range []string{"a", "ad", "reada", "a/b"} {
					what := fmt.Sprint(id, sequence, op, " ", path)
					note(SessionCallContext(id, sequence, op, path), "call "+what)
					for _, status := range []int{0, 200, 403} {
						note(SessionAnswerContext(id, sequence, op, path, status), fmt.Sprint("answer ", what, status))
					}
				}
			}
		}
	}
	if !bytes.Equal(SessionAnswerContext(ID{1}, 1, ReadOperation, "a", -1), SessionAnswerContext(ID{1}, 1, ReadOperation, "a", 0)) {
		t.Error("a status below 0 is not one")
	}
}

func TestSessionMessages(t *testing.T) {
	if _, err := ParseLoginMessage([]byte(`{"authenticator":"AA==","signature":"AA==","later":1}`)); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
	for _, bad := range []string{"", "[]", `{"authenticator":"AA=="}`, `{"authenticator":1}`} {
		if _, err := ParseLoginMessage([]byte(bad)); !errors.Is(err, ErrRecord) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if m, err := ParseCallMessage(nil); err != nil || m != nil {
		t.Errorf("no fields: %v, %v", m, err)
	}
	if _, err := ParseCallMessage([]byte(`["a"]`)); !errors.Is(err, ErrRecord) {
		t.Errorf("a list: %v", err)
	}
	if _, err := ParseAnswerMessage(make([]byte, MaxChannelMessage+1)); !errors.Is(err, ErrRecord) {
		t.Errorf("a message that is too long: %v", err)
	}
}

func TestSplitPath(t *testing.T) {
	if parts, err := SplitPath("identities/alice/assets/mail"); err != nil || len(parts) != 4 || parts[3] != "mail" {
		t.Errorf("%q, %v", parts, err)
	}
	for _, bad := range []string{"", "/", "/nodes", "nodes/", "a//b", "a/../b", "./a", "a b", "a\x00", "a/é", "a\n", strings.Repeat("a", MaxPath+1)} {
		if _, err := SplitPath(bad); !errors.Is(err, ErrRecord) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzSessionInput: what the other end sends is read or refused, and a path that is
// taken has one form.
func FuzzSessionInput(f *testing.F) {
	f.Add("identities/alice", []byte(`{"a":[1,{"b":null}]}`))
	f.Add("a/../b", []byte(`{"authenticator":"AA==","signature":"AA==","identities":[{"id":"00"}]}`))
	f.Add("//", []byte(`[[[[[[[[`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if parts, err := SplitPath(path); err == nil && strings.Join(parts, "/") != path {
			t.Errorf("%q is taken as %q", path, parts)
		}
		for what, err := range map[string]error{
			"login": second(ParseLoginMessage(body)), "answer": second(ParseAnswerMessage(body)), "call": second(ParseCallMessage(body)),
		} {
			if err != nil && !errors.Is(err, ErrRecord) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }
