package keyholder

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
)

func (s *server) logInFails(t *testing.T, a *identity.Authenticator, src Source) {
	t.Helper()
	session, err := Login(t.Context(), s, a.Name, a.Method, src)
	if err == nil {
		session.Wipe()
	}
	fails(t, err, ErrLogin)
}

func text(s string) *string { return &s }

func TestChangePassword(t *testing.T) {
	s := newServer(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword, TopicAnswer: "Rex"}}
	a := register1(t, s, "a", identity.Password, Password(p), RegisterOptions{PersonalQuestion: "First dog?"})
	session, other := logIn(t, s, a, Password(p)), logIn(t, s, a, Password(p))
	p.secrets[TopicPassword] = "battery horse correct"
	p.asked = nil
	if err := session.Change(t.Context(), Password(p), ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(p.asked) != 1 || !p.asked[0].Fresh || p.asked[0].Topic != TopicPassword {
		t.Errorf("asked %+v", p.asked)
	}
	fails(t, other.Call(t.Context(), Read, "identities/x", nil, nil), ErrSessionOver)
	// The session goes on, with what a device would be bound with now.
	if err := session.Call(t.Context(), Read, "identities/x", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := session.Info(); string(got.Information.Expose()) != "battery horse correct" || string(got.Personal.Expose()) != "Rex" {
		t.Error("the session has kept the old secret")
	}
	again := logIn(t, s, a, Password(p)) // the same keys: logIn compares them
	if x := again.Authenticator(); x.PersonalInformation != "First dog?" || !x.Created.Equal(a.Created) || x.Fingerprint() != a.Fingerprint() {
		t.Errorf("something else was changed: %+v", x)
	}
	fails(t, again.Change(t.Context(), Password(p), ChangeOptions{}), nil, "the new secret is the old one")
	p.secrets[TopicPassword] = testPassword
	s.logInFails(t, a, Password(p))
}

func TestChangeQuestion(t *testing.T) {
	s := newServer(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
	a := register1(t, s, "a", identity.Password, Password(p), RegisterOptions{})
	p.secrets[TopicAnswer] = "Rex"
	if err := logIn(t, s, a, Password(p)).Change(t.Context(), Password(p), ChangeOptions{Keep: true, PersonalQuestion: text("First dog?")}); err != nil {
		t.Fatal(err)
	}
	p.secrets[TopicAnswer] = "Max"
	s.logInFails(t, a, Password(p))
	p.secrets[TopicAnswer] = "rex"
	session := logIn(t, s, a, Password(p))
	delete(p.secrets, TopicAnswer)
	if err := session.Change(t.Context(), Password(p), ChangeOptions{Keep: true, PersonalQuestion: text("")}); err != nil {
		t.Fatal(err)
	}
	logIn(t, s, a, Password(p))
}

func TestChangeKeyFile(t *testing.T) {
	s := newServer(t)
	p := &person{}
	old, fresh := filepath.Join(t.TempDir(), "old.key"), filepath.Join(t.TempDir(), "new.key")
	a := register1(t, s, "a", identity.KeyFile, KeyFile(p, old), RegisterOptions{})
	session := logIn(t, s, a, KeyFile(p, old))
	fails(t, session.Change(t.Context(), KeyFile(p, old), ChangeOptions{}), nil, "the new secret is the old one")
	if err := session.Change(t.Context(), KeyFile(p, fresh), ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	s.logInFails(t, a, KeyFile(p, old))
	logIn(t, s, a, KeyFile(p, fresh))
}

func TestChangePIN(t *testing.T) {
	for _, pin := range []bool{false, true} {
		s := newServer(t)
		s.code = "123456"
		p := &person{secrets: map[Topic]string{TopicPIN: "8261"}, answers: []string{"123456", "123456", "123456"}}
		a := register1(t, s, "a", identity.Phone, Phone(p), RegisterOptions{Phone: "+49 30 1", PIN: pin})
		session := logIn(t, s, a, Phone(p))
		p.secrets[TopicPIN] = "9371"
		err := session.Change(t.Context(), Phone(p), ChangeOptions{})
		if !pin {
			fails(t, err, nil, "has no PIN")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		logIn(t, s, a, Phone(p))
		p.secrets[TopicPIN] = "8261"
		s.logInFails(t, a, Phone(p))
	}
}

// A line that is cut leaves the old secret or the new one in force, and the error
// says which, or that it is not known.
func TestChangeCut(t *testing.T) {
	for name, x := range map[string]struct {
		path    string
		done    bool
		err     error
		unknown bool
	}{
		"before the first request":  {"register", false, errors.New("cut"), false},
		"before the write":          {"", false, errors.New("cut"), true},
		"after the write":           {"", true, errors.New("cut"), true},
		"the session ended with it": {"", true, &Refusal{Status: http.StatusForbidden}, true},
		"storage may have failed":   {"", true, &Refusal{Status: http.StatusInternalServerError}, true},
		"refused":                   {"", false, &Refusal{Status: http.StatusConflict}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
			a := register1(t, s, "a", identity.Password, Password(p), RegisterOptions{})
			session := logIn(t, s, a, Password(p))
			session.caller = callerFunc(func(op Op, path string, in map[string]any, out any) error {
				if inner, _ := in["path"].(string); strings.HasSuffix(inner, "/register") != (x.path != "") {
					return s.Call(context.Background(), op, path, in, out)
				}
				if x.done {
					if err := s.Call(context.Background(), op, path, in, out); err != nil {
						t.Error(err)
					}
				}
				return x.err
			})
			p.secrets[TopicPassword] = "battery horse correct"
			err := session.Change(t.Context(), Password(p), ChangeOptions{})
			if err == nil || errors.Is(err, ErrUnknownChange) != x.unknown {
				t.Fatalf("got %v", err)
			}
			if !x.done {
				s.logInFails(t, a, Password(p))
				p.secrets[TopicPassword] = testPassword
			}
			logIn(t, s, a, Password(p))
		})
	}
}

func TestChangeDevice(t *testing.T) {
	s := newServer(t)
	home, err := OpenHome(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &person{secrets: map[Topic]string{TopicAnswer: "Rex"}}
	src := Device(p, FileKeyring(home))
	a := register1(t, s, "a", identity.Device, src, RegisterOptions{})
	session := logIn(t, s, a, src)
	fails(t, session.Change(t.Context(), src, ChangeOptions{}), nil, "only the question")
	if err := session.Change(t.Context(), src, ChangeOptions{Keep: true, PersonalQuestion: text("First dog?")}); err != nil {
		t.Fatal(err)
	}
	logIn(t, s, a, src)
}
