package keyholder

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

// server is the engine's end of registrations, logins and sessions, with the real
// OPAQUE server and the real channel, and maps for a storage. What reaches it goes
// through JSON both ways, as over HTTP.
type server struct {
	t    *testing.T
	keys *identity.ServerKeys

	mu     sync.Mutex
	stored map[string]*storedAuthenticator
	logins map[string]*serverLogin // challenges and logins by their text
	open   map[string]*serverSession
	data   map[string]map[string]any // what session/call reads and writes

	// Knobs of the tests.
	kdf      identity.KDF // shown in place of the true one
	code     string       // that was sent to the phone
	nonce    string
	site     string                                  // that passkeys belong to
	idTokens map[string]bool                         // that release takes
	tamper   func(path string, reply map[string]any) // changes an answer
	calls    []string
}

type storedAuthenticator struct {
	signed       identity.SignedAuthenticator
	a            *identity.Authenticator
	registration []byte
	part         []byte
}

type serverLogin struct {
	name    string
	mac     []byte
	session *identity.Channel
}

type serverSession struct {
	channel *identity.Channel
	name    string
}

func newServer(t *testing.T) *server {
	t.Helper()
	return &server{t: t, keys: identity.NewServerKeys(), stored: map[string]*storedAuthenticator{}, logins: map[string]*serverLogin{},
		open: map[string]*serverSession{}, data: map[string]map[string]any{}, idTokens: map[string]bool{}, nonce: "nonce-of-this-challenge"}
}

type request struct {
	ID            identity.ID        `json:"id"`
	Request       []byte             `json:"request"`
	Kind          identity.Method    `json:"kind"`
	ClientPublic  []byte             `json:"client_public"`
	Authenticator any                `json:"authenticator"`
	Signature     []byte             `json:"signature"`
	Registration  []byte             `json:"registration"`
	ServerPart    []byte             `json:"server_part"`
	Phone         string             `json:"phone"`
	Challenge     string             `json:"challenge"`
	IDToken       string             `json:"id_token"`
	Code          string             `json:"code"`
	KE1           []byte             `json:"ke1"`
	Login         string             `json:"login"`
	KE3           []byte             `json:"ke3"`
	Session       identity.ID        `json:"session"`
	Sequence      uint64             `json:"sequence"`
	Operation     identity.Operation `json:"operation"`
	Path          string             `json:"path"`
	Message       []byte             `json:"message"`
}

func (s *server) Call(_ context.Context, op Op, path string, in map[string]any, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var r request
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("the test's server cannot read the request: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, string(op)+" "+path)
	reply, err := s.serve(op, path, r)
	if err != nil {
		return err
	}
	if s.tamper != nil {
		s.tamper(path, reply)
	}
	if out == nil {
		return nil
	}
	if raw, err = json.Marshal(reply); err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

func refuse(status int, format string, args ...any) error {
	return &Refusal{Status: status, Messages: []string{fmt.Sprintf(format, args...)}}
}

func (s *server) serve(op Op, path string, r request) (map[string]any, error) {
	switch {
	case strings.HasPrefix(path, "authenticators/") && strings.HasSuffix(path, "/register"):
		return s.register(r)
	case strings.HasPrefix(path, "authenticators/"):
		return nil, s.create(strings.TrimPrefix(path, "authenticators/"), r)
	case path == "login/challenge":
		return s.challenge(r)
	case path == "login/release":
		return s.release(r)
	case path == "login/start":
		return s.start(r)
	case path == "login/finish":
		return s.finish(r)
	case path == "session/call":
		return s.call(r)
	case path == "session/end":
		delete(s.open, r.Session.String())
		return nil, nil
	}
	if d := s.data[path]; d != nil && op == Read {
		return d, nil
	}
	return nil, refuse(http.StatusNotFound, "there is no path %s", path)
}

func (s *server) register(r request) (map[string]any, error) {
	reply := map[string]any{}
	if len(r.ClientPublic) > 0 {
		part, sealed, err := s.keys.MakePart(r.ID, r.ClientPublic)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
		reply["server_part"], reply["sealed_part"] = part, sealed
	}
	if len(r.Request) > 0 {
		response, err := s.keys.Register(r.ID, r.Request)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
		reply["response"] = response
	}
	return reply, nil
}

func (s *server) create(name string, r request) error {
	if s.stored[name] != nil {
		return refuse(http.StatusConflict, "authenticator %s exists", name)
	}
	text, _ := r.Authenticator.(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return refuse(http.StatusBadRequest, "not base64")
	}
	signed := identity.SignedAuthenticator{Authenticator: raw, Signature: r.Signature}
	a, err := signed.Verify()
	if err != nil || a.Name != name {
		return refuse(http.StatusBadRequest, "not the authenticator: %v", err)
	}
	if err := identity.CheckRegistration(r.Registration, a.KDF); err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	if (len(r.ServerPart) > 0) != a.Method.HasServerPart() || (r.Phone != "") != (a.Method == identity.Phone) {
		return refuse(http.StatusBadRequest, "a part or phone number too many or too few")
	}
	s.stored[name] = &storedAuthenticator{signed: signed, a: a, registration: r.Registration, part: r.ServerPart}
	return nil
}

// unknownID is the login ID of authenticators that do not exist.
var unknownID = identity.ID{0xee}

func (s *server) challenge(r request) (map[string]any, error) {
	name, _ := r.Authenticator.(string)
	reply := map[string]any{"challenge": "challenge of " + name, "login_id": unknownID, "kdf": identity.DefaultKDF()}
	s.logins["challenge of "+name] = &serverLogin{name: name}
	if r.Kind == identity.Passkey {
		if s.site == "" {
			return nil, refuse(http.StatusBadRequest, "no passkeys are used here")
		}
		reply["passkey"] = map[string]any{"relying_party": s.site, "credential_id": bytes.Repeat([]byte{7}, 32), "salt": make([]byte, 32)}
	}
	if x := s.stored[name]; x != nil && x.a.Method == r.Kind {
		if p := x.a.Parameters.Passkey; p != nil {
			reply["passkey"] = map[string]any{"relying_party": p.RelyingParty, "credential_id": p.CredentialID, "salt": p.Salt}
		}
		reply["login_id"], reply["kdf"], reply["pin"], reply["personal_information"] = x.a.ID, x.a.KDF, x.a.PIN, x.a.PersonalInformation
		if c := x.a.Parameters.Certificate; c != nil {
			reply["certificate"] = map[string]any{"algorithm": c.Algorithm, "sealed": c.Sealed}
		}
		if o := x.a.Parameters.OIDC; o != nil {
			known := maps.Clone(s.data["config/identities/oidc/"+o.Provider])
			known["nonce"] = s.nonce
			reply["oidc"] = known
		}
	}
	if s.kdf != (identity.KDF{}) {
		reply["kdf"] = s.kdf
	}
	return reply, nil
}

func (s *server) byChallenge(challenge string) (string, *storedAuthenticator, error) {
	l := s.logins[challenge]
	if l == nil {
		return "", nil, refuse(http.StatusForbidden, "the challenge is over")
	}
	return l.name, s.stored[l.name], nil
}

func (s *server) release(r request) (map[string]any, error) {
	_, x, err := s.byChallenge(r.Challenge)
	if err != nil {
		return nil, err
	}
	id, part := unknownID, []byte(nil)
	if x != nil {
		id = x.a.ID
		if r.Code != "" && r.Code == s.code || s.idTokens[r.IDToken] {
			part = x.part
		}
	}
	sealed, err := s.keys.ReleasePart(id, part, r.ClientPublic)
	return map[string]any{"sealed_part": sealed}, err
}

func (s *server) start(r request) (map[string]any, error) {
	name, x, err := s.byChallenge(r.Challenge)
	if err != nil {
		return nil, err
	}
	id, registration := unknownID, []byte(nil)
	if x != nil {
		id, registration = x.a.ID, x.registration
	}
	ke2, mac, sessionKey, err := s.keys.Login(id, registration, r.KE1)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	defer sessionKey.Wipe()
	login := "login of " + name
	s.logins[login] = &serverLogin{name: name, mac: mac, session: identity.NewChannel(sessionKey, false)}
	return map[string]any{"login": login, "ke2": ke2}, nil
}

func (s *server) finish(r request) (map[string]any, error) {
	l := s.logins[r.Login]
	if l == nil || s.stored[l.name] == nil || !identity.VerifyKE3(l.mac, r.KE3) {
		return nil, refuse(http.StatusForbidden, "login failed")
	}
	delete(s.logins, r.Login)
	id := identity.ID(bytes.Repeat([]byte{byte(len(s.open) + 1)}, 16))
	x := s.stored[l.name]
	body, err := json.Marshal(identity.LoginMessage{Authenticator: x.signed.Authenticator, Signature: x.signed.Signature,
		Identities: []identity.LoginIdentity{{Name: "alice", Level: "full", Roles: []string{"owner"}, State: "active", ID: identity.ID{1}}},
		Expires:    time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		return nil, err
	}
	message, err := l.session.Seal(0, identity.SessionLoginContext(id), body)
	s.open[id.String()] = &serverSession{channel: l.session, name: l.name}
	return map[string]any{"session": id, "expires_time": "2030-01-02T03:04:05Z", "message": message}, err
}

func (s *server) call(r request) (map[string]any, error) {
	x := s.open[r.Session.String()]
	if x == nil {
		return nil, refuse(http.StatusForbidden, "session unknown or over: log in again")
	}
	body, err := x.channel.Open(r.Sequence, identity.SessionCallContext(r.Session, r.Sequence, r.Operation, r.Path), r.Message)
	if err != nil {
		return nil, refuse(http.StatusForbidden, "session unknown or over: log in again")
	}
	in, err := identity.ParseCallMessage(body)
	if err != nil {
		return nil, err
	}
	status, answer := http.StatusOK, identity.AnswerMessage{Warnings: []string{"a warning about " + r.Path}}
	switch own := "authenticators/" + x.name; {
	case r.Path == own+"/register" || r.Path == own && r.Operation == identity.WriteOperation:
		if answer.Data, err = s.change(x, r.Path, in); err != nil {
			status, answer = http.StatusBadRequest, identity.AnswerMessage{Errors: []string{err.Error()}}
		}
	case r.Operation == identity.ListOperation:
		answer.Data = map[string]any{"keys": slices.Sorted(maps.Keys(s.data))}
	case r.Operation == identity.WriteOperation:
		s.data[r.Path] = in
	case r.Operation == identity.DeleteOperation:
		delete(s.data, r.Path)
	case s.data[r.Path] != nil:
		answer.Data = s.data[r.Path]
	default:
		status, answer.Errors = http.StatusNotFound, []string{"there is no " + r.Path}
	}
	if body, err = json.Marshal(answer); err != nil {
		return nil, err
	}
	message, err := x.channel.Seal(r.Sequence, identity.SessionAnswerContext(r.Session, r.Sequence, r.Operation, r.Path, status), body)
	return map[string]any{"message": message, "status": status}, err
}

// change is the engine's end of Session.Change: the same keys under another secret.
func (s *server) change(x *serverSession, path string, in map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	var r request
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	was := s.stored[x.name]
	if strings.HasSuffix(path, "/register") {
		if r.ID != was.a.ID || r.Kind != was.a.Method {
			return nil, fmt.Errorf("another authenticator")
		}
		reply, err := s.register(r)
		if err == nil {
			reply["response"] = base64.StdEncoding.EncodeToString(reply["response"].([]byte))
		}
		return reply, err
	}
	part, phone := was.part, ""
	if was.a.Method == identity.Phone {
		phone = "kept"
	}
	r.ServerPart, r.Phone = part, phone
	delete(s.stored, x.name)
	if err := s.create(x.name, r); err != nil || !s.stored[x.name].a.Keys.Equal(was.a.Keys) || s.stored[x.name].a.ID != was.a.ID {
		s.stored[x.name] = was
		return nil, fmt.Errorf("not the same authenticator: %w", err)
	}
	for id, other := range s.open {
		if other != x && other.name == x.name {
			delete(s.open, id)
		}
	}
	return nil, nil
}
