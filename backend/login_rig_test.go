package backend

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// member is an authenticator that was registered with real OPAQUE, and what its
// owner knows.
type member struct {
	m          *mount
	a          *identity.Authenticator
	keys       *identity.Keys
	info       string // password or PIN
	personal   string
	serverPart *secret.Bytes
	kind       identity.Method
}

// enrol registers and creates an authenticator as a client does. change may set
// what the authenticator says; phone goes to the record.
func (m *mount) enrol(name string, kind identity.Method, info, phone string, change func(*identity.Authenticator)) *member {
	m.t.Helper()
	p := &member{m: m, info: info, kind: kind}
	a := &identity.Authenticator{Format: 1, ID: identity.NewID(), Name: name, Method: kind, KDF: identity.DefaultKDF(), Created: time.Now().UTC().Truncate(time.Second)}
	if change != nil {
		change(a)
	}
	p.a = a
	register := func(loginSecret *secret.Bytes) (*identity.Registration, map[string]any, *identity.Keys) {
		reg, request, err := identity.StartRegistration(loginSecret, a.ID, a.KDF)
		m.ok(err)
		in := map[string]any{"id": a.ID.String(), "request": encode64(request), "kind": string(kind)}
		var once *identity.Keys
		if kind.HasServerPart() {
			once, err = identity.NewKeys(identity.NewSeed())
			m.ok(err)
			in["client_public"] = encode64(once.Public().Seal)
		}
		return reg, m.must(logical.UpdateOperation, "authenticators/"+name+"/register", in), once
	}
	in := map[string]any{}
	if kind.HasServerPart() {
		_, out, once := register(identity.NewSeed()) // the part belongs to the secret
		part, err := once.Open(identity.ServerPartContext(a.ID), m.bytes(out, "sealed_part"))
		m.ok(err)
		p.serverPart, in["server_part"] = part, out["server_part"]
	}
	reg, out, _ := register(p.loginSecret())
	registration, export, _, err := reg.Finish(m.bytes(out, "response"))
	m.ok(err)
	kek, err := identity.AuthenticatorKEK(export, a.ID)
	m.ok(err)
	p.keys, err = identity.NewKeys(identity.NewSeed())
	m.ok(err)
	a.Keys = p.keys.Public()
	a.Wrapped, err = identity.Wrap(kek, identity.AuthenticatorSeedContext(a.ID), p.keys.Seed())
	m.ok(err)
	signed, err := identity.SignAuthenticator(a, p.keys)
	m.ok(err)
	in["authenticator"], in["signature"], in["registration"] = encode64(signed.Authenticator), encode64(signed.Signature), encode64(registration)
	if phone != "" {
		in["phone"] = phone
	}
	m.must(logical.UpdateOperation, "authenticators/"+name, in)
	return p
}

func (p *member) loginSecret() *secret.Bytes {
	p.m.t.Helper()
	s, err := identity.AuthenticationInformation{Information: secret.Copy([]byte(p.info)), ServerPart: p.serverPart, Personal: secret.Copy([]byte(p.personal))}.LoginSecret(p.a.ID, p.kind)
	p.m.ok(err)
	return s
}

func (m *mount) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *mount) bytes(data map[string]any, field string) []byte {
	m.t.Helper()
	text, ok := data[field].(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !ok || len(raw) == 0 {
		m.t.Fatalf("%s is %v: %v", field, data[field], err)
	}
	return raw
}

// send is do without a failing test for refusals.
func (m *mount) send(path string, data map[string]any) (map[string]any, int, string) {
	m.t.Helper()
	resp, status, msg := m.do(logical.UpdateOperation, path, data)
	if resp == nil {
		return nil, status, msg
	}
	return resp.Data, status, msg
}

// client is a session as its client has it.
type client struct {
	m        *mount
	id       string
	channel  *identity.Channel
	sequence uint64
	first    *identity.LoginMessage
	keys     *identity.Keys
}

// begin does the first three steps; finish takes the last.
type begun struct {
	login  string
	ke3    []byte
	key    *secret.Bytes
	export *secret.Bytes
	wrong  error // of the client
	start  int   // status of login/start
}

func (p *member) challenge() map[string]any {
	p.m.t.Helper()
	return p.m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": p.a.Name, "kind": string(p.kind)})
}

// begin runs login/start for a challenge with a secret.
func (m *mount) begin(challenge map[string]any, loginSecret *secret.Bytes) *begun {
	m.t.Helper()
	id, err := identity.ParseID(challenge["login_id"].(string))
	m.ok(err)
	l, ke1, err := identity.StartLogin(loginSecret, id, identity.DefaultKDF())
	m.ok(err)
	b := &begun{}
	out, status, _ := m.send("login/start", map[string]any{"challenge": challenge["challenge"], "ke1": encode64(ke1)})
	if b.start = status; status != http.StatusOK {
		return b
	}
	b.login = out["login"].(string)
	if b.ke3, b.key, b.export, b.wrong = l.Finish(m.bytes(out, "ke2")); b.wrong != nil {
		b.ke3 = make([]byte, identity.KE3Size)
	}
	return b
}

func (b *begun) finish(m *mount) (map[string]any, int, string) {
	m.t.Helper()
	return m.send("login/finish", map[string]any{"login": b.login, "ke3": encode64(b.ke3)})
}

// login logs in with what the member knows.
func (p *member) login() *client {
	p.m.t.Helper()
	return p.loginWith(p.challenge())
}

func (p *member) loginWith(challenge map[string]any) *client {
	p.m.t.Helper()
	b := p.m.begin(challenge, p.loginSecret())
	p.m.ok(b.wrong)
	out, status, msg := b.finish(p.m)
	if status != http.StatusOK {
		p.m.t.Fatalf("login/start %d, login/finish %d %s\n%s", b.start, status, msg, p.m.logs)
	}
	return p.opened(b, out)
}

// opened opens the first message and the authenticator's own keys in it.
func (p *member) opened(b *begun, out map[string]any) *client {
	p.m.t.Helper()
	c := &client{m: p.m, id: out["session"].(string), channel: identity.NewChannel(b.key, true)}
	id, err := identity.ParseID(c.id)
	p.m.ok(err)
	body, err := c.channel.Open(0, identity.SessionLoginContext(id), p.m.bytes(out, "message"))
	p.m.ok(err)
	c.first, err = identity.ParseLoginMessage(body)
	p.m.ok(err)
	signed := &identity.SignedAuthenticator{Authenticator: c.first.Authenticator, Signature: c.first.Signature}
	a, err := signed.Verify()
	p.m.ok(err)
	kek, err := identity.AuthenticatorKEK(b.export, a.ID)
	p.m.ok(err)
	seed, err := identity.Unwrap(kek, identity.AuthenticatorSeedContext(a.ID), a.Wrapped)
	p.m.ok(err)
	c.keys, err = identity.NewKeys(seed)
	p.m.ok(err)
	if !c.keys.Public().Equal(p.a.Keys) {
		p.m.t.Fatal("the login does not open the authenticator's keys")
	}
	return c
}

// sealed is the request of a call, which may be sent again or changed.
func (c *client) sealed(op identity.Operation, path string, in map[string]any) map[string]any {
	c.m.t.Helper()
	body, err := json.Marshal(in)
	c.m.ok(err)
	id, err := identity.ParseID(c.id)
	c.m.ok(err)
	c.sequence++
	message, err := c.channel.Seal(c.sequence, identity.SessionCallContext(id, c.sequence, op, path), body)
	c.m.ok(err)
	return map[string]any{"session": c.id, "sequence": c.sequence, "operation": string(op), "path": path, "message": encode64(message)}
}

// call sends a request through the session and opens the answer.
func (c *client) call(op identity.Operation, path string, in map[string]any) (*identity.AnswerMessage, int) {
	c.m.t.Helper()
	out, status, msg := c.m.send("session/call", c.sealed(op, path, in))
	if status != http.StatusOK {
		c.m.t.Fatalf("session/call %s %s: %d %s", op, path, status, msg)
	}
	return c.answer(op, path, out)
}

func (c *client) answer(op identity.Operation, path string, out map[string]any) (*identity.AnswerMessage, int) {
	c.m.t.Helper()
	id, err := identity.ParseID(c.id)
	c.m.ok(err)
	inside := out["status"].(int)
	body, err := c.channel.Open(c.sequence, identity.SessionAnswerContext(id, c.sequence, op, path, inside), c.m.bytes(out, "message"))
	c.m.ok(err)
	a, err := identity.ParseAnswerMessage(body)
	c.m.ok(err)
	return a, inside
}

// does is a call that has to succeed.
func (c *client) does(op identity.Operation, path string, in map[string]any) map[string]any {
	c.m.t.Helper()
	a, status := c.call(op, path, in)
	if status >= 300 {
		c.m.t.Fatalf("%s %s: %d %v", op, path, status, a.Errors)
	}
	return a.Data
}

// refused is a call that is answered by a status inside.
func (c *client) refused(op identity.Operation, path string, in map[string]any, status int, text string) {
	c.m.t.Helper()
	a, got := c.call(op, path, in)
	if got != status || !strings.Contains(strings.Join(a.Errors, "\n"), text) {
		c.m.t.Errorf("%s %s: %d %v, want %d and %q", op, path, got, a.Errors, status, text)
	}
}

// over is a call that is refused because the session is.
func (c *client) over(t *testing.T) {
	t.Helper()
	_, status, msg := c.m.send("session/call", c.sealed(identity.ListOperation, "nodes", nil))
	if status != http.StatusForbidden || !strings.Contains(msg, "log in again") {
		t.Errorf("the session goes on: %d %s", status, msg)
	}
}

// founds makes an identity that the member owns and stores it with a token.
func (p *member) founds(name string, roles ...string) *identity.Opened {
	p.m.t.Helper()
	signed, o, err := identity.Create(identity.NewIdentity{Name: name, Kind: identity.Person, Roles: roles, Authenticator: p.a, Keys: p.keys, Time: time.Now()})
	p.m.ok(err)
	p.m.must(logical.UpdateOperation, "identities/"+name, map[string]any{"manifest": encode64(signed.Manifest), "signature": encode64(signed.Signature)})
	return o
}
