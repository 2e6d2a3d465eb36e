package keyholder

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/identity"
)

const testPassword = "correct horse battery"

func TestPassword(t *testing.T) {
	s := newServer(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
	a := register1(t, s, "alice-password", identity.Password, Password(p), RegisterOptions{})
	if !p.asked[0].Fresh {
		t.Error("a new password was not asked for as a new one")
	}
	session := logIn(t, s, a, Password(p))
	if got := session.Identities(); len(got) != 1 || got[0].Name != "alice" || got[0].Level != "full" || session.Expires().Year() != 2030 {
		t.Errorf("the session shows %+v until %s", got, session.Expires())
	}
	if err := session.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	fails(t, session.Call(t.Context(), Read, "identities/x", nil, nil), ErrSessionOver)

	p.secrets[TopicPassword] = "correct horse batterz" // as long
	_, err := Login(t.Context(), s, a.Name, a.Method, Password(p))
	fails(t, err, ErrLogin)
	_, err = Login(t.Context(), s, "nobody", identity.Password, Password(p))
	fails(t, err, ErrLogin)
	p.secrets[TopicPassword] = "short"
	_, _, err = Register(t.Context(), s, "other", identity.Password, Password(p), RegisterOptions{})
	fails(t, err, nil, "take 10 to 1024")
	if s.stored["other"] != nil {
		t.Error("an authenticator with a short password was made")
	}
}

// One password typed on keyboards that compose letters differently is one.
func TestPasswordForm(t *testing.T) {
	s := newServer(t)
	composed, decomposed := "gr\u00fc\u00dfe aus k\u00f6ln", "gru\u0308\u00dfe aus ko\u0308ln"
	a := register1(t, s, "a", identity.Password, Password(&person{secrets: map[Topic]string{TopicPassword: composed}}), RegisterOptions{})
	logIn(t, s, a, Password(&person{secrets: map[Topic]string{TopicPassword: decomposed}}))
}

func TestPersonalInformation(t *testing.T) {
	s := newServer(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword, TopicAnswer: " Rex "}}
	a := register1(t, s, "a", identity.Password, Password(p), RegisterOptions{PersonalQuestion: "First dog?"})
	p.secrets[TopicAnswer] = "rex"
	logIn(t, s, a, Password(p))
	if q := p.asked[len(p.asked)-1]; q.Text != "First dog?" || q.Topic != TopicAnswer {
		t.Errorf("asked %+v", q)
	}
	p.secrets[TopicAnswer] = "max"
	_, err := Login(t.Context(), s, "a", identity.Password, Password(p))
	fails(t, err, ErrLogin)
}

func TestKeyFile(t *testing.T) {
	s := newServer(t)
	p := &person{}
	path := filepath.Join(t.TempDir(), "alice.key")
	a := register1(t, s, "a", identity.KeyFile, KeyFile(p, path), RegisterOptions{})
	logIn(t, s, a, KeyFile(p, path))
	// A file that exists is used, not replaced.
	b := register1(t, s, "b", identity.KeyFile, KeyFile(p, path), RegisterOptions{})
	logIn(t, s, a, KeyFile(p, path))
	logIn(t, s, b, KeyFile(p, path))

	other := filepath.Join(t.TempDir(), "other.key")
	register1(t, s, "c", identity.KeyFile, KeyFile(p, other), RegisterOptions{})
	_, err := Login(t.Context(), s, "a", identity.KeyFile, KeyFile(p, other))
	fails(t, err, ErrLogin)
	if err := writeNew(other+".txt", []byte("not a key file\n")); err != nil {
		t.Fatal(err)
	}
	_, err = Login(t.Context(), s, "a", identity.KeyFile, KeyFile(p, other+".txt"))
	fails(t, err, nil, "is not a key file")
}

func TestPhone(t *testing.T) {
	for _, pin := range []bool{false, true} {
		s := newServer(t)
		p := &person{secrets: map[Topic]string{TopicPIN: "8261"}, answers: []string{" 123456\n", "999999", "123456"}}
		a := register1(t, s, "a", identity.Phone, Phone(p), RegisterOptions{Phone: "+49 30 1", PIN: pin})
		if a.ServerTrusting() == pin {
			t.Errorf("PIN %v, server-trusting %v", pin, a.ServerTrusting())
		}
		s.code = "123456"
		logIn(t, s, a, Phone(p))
		_, err := Login(t.Context(), s, "a", identity.Phone, Phone(p))
		fails(t, err, ErrLogin) // a wrong code releases another part
		if pin {
			p.secrets[TopicPIN] = "8262" // as long
			_, err = Login(t.Context(), s, "a", identity.Phone, Phone(p))
			fails(t, err, ErrLogin)
		} else if len(p.asked) > 0 {
			t.Error("a PIN was asked for where there is none")
		}
	}
}

// A server that makes guessing cheap, or lies about the authenticator, is refused;
// in the first case before anybody was asked for a secret.
func TestHostileServer(t *testing.T) {
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
	newOne := func() *server {
		s := newServer(t)
		register1(t, s, "a", identity.Password, Password(p), RegisterOptions{})
		register1(t, s, "b", identity.Password, Password(p), RegisterOptions{})
		p.asked = nil
		return s
	}
	login := func(s *server) error {
		session, err := Login(t.Context(), s, "a", identity.Password, Password(p))
		if err == nil {
			session.Wipe()
		}
		return err
	}
	s := newOne()
	s.kdf = identity.KDF{Time: 1, Memory: 8, Threads: 1}
	fails(t, login(s), identity.ErrWeakKDF, "nothing was asked")
	if len(p.asked) > 0 {
		t.Error("a password was asked for")
	}
	s = newOne()
	s.kdf = identity.KDF{Time: 4, Memory: 64 << 10, Threads: 4}
	fails(t, login(s), ErrLogin) // other parameters than registered
	s = newOne()
	s.tamper = func(path string, reply map[string]any) {
		if path == "login/challenge" {
			reply["pin"] = true
		}
	}
	fails(t, login(s), identity.ErrRecord)
	s = newOne()
	s.tamper = func(path string, reply map[string]any) {
		if path == "login/challenge" {
			reply["personal_information"] = "What is your other password?"
		}
	}
	p.secrets[TopicAnswer] = "x"
	fails(t, login(s), ErrLogin)
	s = newOne()
	s.stored["a"].signed = s.stored["b"].signed // another authenticator's record
	fails(t, login(s), identity.ErrSignature)
	s = newOne()
	s.tamper = func(path string, reply map[string]any) {
		if path == "login/finish" {
			reply["message"].([]byte)[3] ^= 1
		}
	}
	fails(t, login(s), identity.ErrOpen)
	s = newOne()
	s.keys = identity.NewServerKeys() // another server
	fails(t, login(s), ErrLogin)
}

func TestSession(t *testing.T) {
	s := newServer(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
	a := register1(t, s, "a", identity.Password, Password(p), RegisterOptions{})
	session := logIn(t, s, a, Password(p))
	var warnings []string
	session.Warn = func(w string) { warnings = append(warnings, w) }
	err := session.Call(t.Context(), Read, "identities/missing", nil, nil)
	fails(t, err, nil, "there is no identities/missing")
	if !Refused(err, http.StatusNotFound) || !slices.Equal(warnings, []string{"a warning about identities/missing"}) {
		t.Errorf("%v, warnings %q", err, warnings)
	}
	var list struct {
		Keys []string `json:"keys"`
	}
	if err := session.Call(t.Context(), List, "identities", nil, &list); err != nil || !slices.Equal(list.Keys, []string{"identities/x"}) {
		t.Errorf("%v, %v", list, err)
	}
	// A refusal's status is authenticated: it cannot be turned into another.
	s.tamper = func(path string, reply map[string]any) { reply["status"] = http.StatusNotFound }
	fails(t, session.Call(t.Context(), Read, "identities/x", nil, nil), identity.ErrOpen)
	fails(t, session.Call(t.Context(), Read, "identities/x", nil, nil), ErrSessionOver)

	// An answer to another request does not pass for this one's.
	s.tamper = nil
	session = logIn(t, s, a, Password(p))
	var old []byte
	s.tamper = func(path string, reply map[string]any) {
		m, _ := reply["message"].([]byte)
		if old == nil {
			old = m
			return
		}
		reply["message"] = old
	}
	if err := session.Call(t.Context(), Read, "identities/x", nil, nil); err != nil {
		t.Fatal(err)
	}
	fails(t, session.Call(t.Context(), Read, "identities/x", nil, nil), identity.ErrOpen)

	// The engine forgets its sessions when it starts anew.
	s.tamper = nil
	session = logIn(t, s, a, Password(p))
	clear(s.open)
	fails(t, session.Call(t.Context(), Read, "identities/x", nil, nil), ErrSessionOver, "log in again")

	// Waiting for the turn ends with the context, and Wipe may come twice.
	session = logIn(t, s, a, Password(p))
	<-session.turn
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fails(t, session.Call(ctx, Read, "identities/x", nil, nil), context.Canceled)
	session.turn <- struct{}{}
	session.Wipe()
	session.Wipe()
	if session.Call(t.Context(), Read, "identities/x", nil, nil) == nil || session.Info().Information.Len() != 0 {
		t.Error("a wiped session works")
	}
}

// What an authenticator needs is asked before anything is sent.
func TestRegisterRefuses(t *testing.T) {
	s := newServer(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
	for _, c := range []struct {
		name string
		m    identity.Method
		src  Source
		opts RegisterOptions
	}{
		{"Not A Name", identity.Password, Password(p), RegisterOptions{}},
		{"a", identity.Password, Phone(p), RegisterOptions{}},
		{"a", identity.Password, nil, RegisterOptions{}},
		{"a", identity.Password, Password(p), RegisterOptions{PIN: true}},
		{"a", identity.Password, Password(p), RegisterOptions{Phone: "1"}},
		{"a", identity.Phone, Phone(p), RegisterOptions{}},
		{"a", identity.OIDC, OIDC(p, OIDCConfig{}), RegisterOptions{}},
		{"a", identity.Password, Password(p), RegisterOptions{KDF: identity.KDF{Time: 1, Memory: 1, Threads: 1}}},
	} {
		if _, _, err := Register(t.Context(), s, c.name, c.m, c.src, c.opts); err == nil {
			t.Errorf("made %+v", c)
		}
	}
	if len(s.calls)+len(p.asked) > 0 {
		t.Errorf("sent %v, asked %v", s.calls, p.asked)
	}
}
