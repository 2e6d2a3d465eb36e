package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// person answers by topic and remembers what was asked and shown.
type person struct {
	secrets map[Topic]string
	answers []string // to Ask, in turn
	asked   []Question
	shown   []string
	browse  func(url string) error
}

func (p *person) Ask(_ context.Context, text string) (string, error) {
	if len(p.answers) == 0 {
		return "", errors.New("nobody answers " + text)
	}
	a := p.answers[0]
	p.answers = p.answers[1:]
	return a, nil
}

func (p *person) AskSecret(_ context.Context, q Question) (*secret.Bytes, error) {
	p.asked = append(p.asked, q)
	s, ok := p.secrets[q.Topic]
	if !ok {
		return nil, errors.New("nobody answers " + q.Text)
	}
	return secret.Copy([]byte(s)), nil
}

func (p *person) Show(text string) { p.shown = append(p.shown, text) }

func (p *person) OpenURL(url string) error {
	if p.browse == nil {
		return errors.New("no browser")
	}
	return p.browse(url)
}

func register1(t *testing.T, s *server, name string, m identity.Method, src Source, opts RegisterOptions) *identity.Authenticator {
	t.Helper()
	a, keys, err := Register(t.Context(), s, name, m, src, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Wipe()
	if !a.Keys.Equal(keys.Public()) || a.Name != name || a.Method != m {
		t.Fatalf("made %+v", a)
	}
	return a
}

// logIn logs in and uses the session once, so that a session which is only half
// right fails.
func logIn(t *testing.T, s *server, a *identity.Authenticator, src Source) *Session {
	t.Helper()
	session, err := Login(t.Context(), s, a.Name, a.Method, src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Wipe)
	if session.Authenticator().ID != a.ID || !session.Keys().Public().Equal(a.Keys) {
		t.Fatal("the login opened another authenticator")
	}
	if err := session.Call(t.Context(), Write, "identities/x", map[string]any{"name": "x"}, nil); err != nil {
		t.Fatal(err)
	}
	var out struct {
		Name string `json:"name"`
	}
	if err := session.Call(t.Context(), Read, "identities/x", nil, &out); err != nil || out.Name != "x" {
		t.Fatalf("read %+v, %v", out, err)
	}
	return session
}

func fails(t *testing.T, err error, want error, parts ...string) {
	t.Helper()
	if err == nil || want != nil && !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error lacks %q: %v", p, err)
		}
	}
}

// callerFunc is a Caller without a context.
type callerFunc func(op Op, path string, in map[string]any, out any) error

func (f callerFunc) Call(_ context.Context, op Op, path string, in map[string]any, out any) error {
	return f(op, path, in, out)
}

func remarshal(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
