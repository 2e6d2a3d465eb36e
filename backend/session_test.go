package backend

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// TestTamperedCall: a call goes through once, in order, and as it was sent.
func TestTamperedCall(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	alice.founds("home", "mail")
	other := m.enrol("bob", identity.Password, "battery staple", "", nil)
	c, d := alice.login(), other.login()
	taken := c.sealed(identity.ReadOperation, "identities/home", nil)
	changed := func(change func(map[string]any)) map[string]any {
		out := maps.Clone(taken)
		change(out)
		return out
	}
	flip := func(text string) string {
		raw, err := base64.StdEncoding.DecodeString(text)
		m.ok(err)
		raw[0] ^= 1
		return encode64(raw)
	}
	for what, bad := range map[string]map[string]any{
		"another operation": changed(func(r map[string]any) { r["operation"] = "delete" }),
		"another path":      changed(func(r map[string]any) { r["path"] = "identities/work" }),
		"another number":    changed(func(r map[string]any) { r["sequence"] = c.sequence + 1 }),
		"another session":   changed(func(r map[string]any) { r["session"] = d.id }),
		"a changed message": changed(func(r map[string]any) { r["message"] = flip(r["message"].(string)) }),
		"a cut message":     changed(func(r map[string]any) { r["message"] = encode64(make([]byte, 16)) }),
	} {
		_, status, msg := m.send("session/call", bad)
		if status != http.StatusBadRequest || !strings.Contains(msg, "Nothing was done") {
			t.Errorf("%s: %d %s", what, status, msg)
		}
	}
	// None of them has used anything up.
	out, status, msg := m.send("session/call", taken)
	if status != http.StatusOK {
		t.Fatal(status, msg)
	}
	if a, inside := c.answer(identity.ReadOperation, "identities/home", out); inside != http.StatusOK || a.Data["name"] != "home" {
		t.Errorf("%d %v", inside, a)
	}
	if _, status, msg := m.send("session/call", taken); status != http.StatusConflict || !strings.Contains(msg, "nothing was done") {
		t.Errorf("again: %d %s", status, msg)
	}
	// An answer of one call is not that of another, and its status is part of it.
	id, err := identity.ParseID(c.id)
	m.ok(err)
	in := c.sealed(identity.ReadOperation, "identities/home", nil)
	out, _, _ = m.send("session/call", in)
	if _, err := c.channel.Open(c.sequence, identity.SessionAnswerContext(id, c.sequence, identity.ReadOperation, "identities/home", 404), m.bytes(out, "message")); err == nil {
		t.Error("the answer opens with another status")
	}
	c.does(identity.ReadOperation, "identities/home", nil)
}

// TestStaleSession: sessions end with their time and with the process.
func TestStaleSession(t *testing.T) {
	m, clock, _ := loginMount(t)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"session_ttl": "2m"})
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	c := alice.login()
	clock.pass(2*time.Minute - time.Second)
	c.does(identity.ReadOperation, "authenticators/alice", nil)
	clock.pass(time.Second)
	c.over(t)
	c = alice.login()
	again := openAt(t, m.storage, m.fake, clock.now)
	c.m = again
	c.over(t)
	alice.m = again
	alice.login().does(identity.ReadOperation, "authenticators/alice", nil)
}

// TestSessionRules: what a session may do, and what not.
func TestSessionRules(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	bob := m.enrol("bob", identity.Password, "battery staple", "", nil)
	carol := m.enrol("carol", identity.Password, "third", "", nil)
	m.create("treasury", "bip340-secp256k1")
	home := alice.founds("home", "mail", "money")
	carol.founds("work")
	next, err := home.Change(time.Now(), identity.SetLevel{Level: identity.Level{Name: "post", Roles: []string{"mail"}}}, identity.AddGrant{Authenticator: bob.a, Level: "post"})
	m.ok(err)
	a, b, c := alice.login(), bob.login(), carol.login()
	// The owner changes the identity through a session.
	a.does(identity.WriteOperation, "identities/home", map[string]any{"manifest": encode64(next.Manifest), "signature": encode64(next.Signature)})
	opened, _, err := identity.OpenIdentity(next, identity.Pin{}, alice.a.ID, alice.keys)
	m.ok(err)
	put := func(who *client, name string, status int, roles ...string) {
		t.Helper()
		s, err := opened.WriteAsset(opened.NewAsset(name, identity.SecretAsset), time.Now(), func(x *identity.Asset) error {
			k, err := identity.SealAssetKey(opened.Manifest, x, "value", nil, identity.NewSeed(), roles)
			if err == nil {
				x.Put(*k)
			}
			return err
		})
		m.ok(err)
		if ans, got := who.call(identity.WriteOperation, "identities/home/assets/"+name, map[string]any{"asset": encode64(s.Asset), "signature": encode64(s.Signature)}); got != status {
			t.Errorf("writing %s: %d %v, want %d", name, got, ans.Errors, status)
		}
	}
	put(a, "letters", http.StatusOK, "mail")
	put(a, "gold", http.StatusOK, "money")
	put(c, "thief", http.StatusForbidden, "money")

	read, list, write, del := identity.ReadOperation, identity.ListOperation, identity.WriteOperation, identity.DeleteOperation
	const not = "this session may not do that"
	for _, x := range []struct {
		who    *client
		op     identity.Operation
		path   string
		in     map[string]any
		status int
		text   string
	}{
		{b, read, "identities/home", nil, 200, ""},
		{b, list, "identities/home/assets", nil, 200, ""},
		{b, read, "identities/home/assets/letters", nil, 200, ""},
		{b, write, "identities/home", map[string]any{"manifest": "AAAA", "signature": "AAAA"}, 403, not},
		{b, write, "identities/home/freeze", nil, 403, not},
		{b, del, "identities/home/assets/gold", nil, 403, not},
		{b, read, "authenticators/alice", nil, 403, not},
		{b, write, "authenticators/alice/lost", nil, 403, not},
		{b, write, "authenticators/bob/lost", nil, 403, not},
		{b, read, "authenticators/bob", nil, 200, ""},
		{b, list, "authenticators/bob/devices", nil, 200, ""},
		{b, del, "identities/home", nil, 403, not},
		{c, read, "identities/home", nil, 403, not},
		{c, list, "identities/home/assets", nil, 403, not},
		{c, read, "identities/home/assets/letters", nil, 403, not},
		{c, read, "identities/none", nil, 403, not},
		{c, write, "identities/home/unfreeze", nil, 403, not},
		{c, read, "authenticators/bob", nil, 403, not},
		{c, read, "authenticators/nobody", nil, 403, not},
		{a, read, "authenticators/bob", nil, 200, ""},
		{a, read, "authenticators/carol", nil, 403, not},
		{a, write, "authenticators/carol/lost", nil, 403, not},
		{a, write, "authenticators/bob/found", nil, 403, not},
		{a, write, "authenticators/bob/unlock", nil, 403, not},
		{a, del, "authenticators/bob", nil, 403, not},
		{a, list, "identities", nil, 403, not},
		{a, list, "authenticators", nil, 403, not},
		{a, read, "config/identities", nil, 403, not},
		{a, write, "config/identities", map[string]any{"session_ttl": "12h"}, 403, not},
		{a, write, "sign/treasury", map[string]any{"input": "aGVsbG8="}, 403, not},
		{a, read, "accounts/treasury", nil, 403, not},
		{a, write, "custody/treasury/begin", nil, 403, not},
		{a, del, "destroy/treasury", nil, 403, not},
		{a, write, "session/call", nil, 403, not},
		{a, write, "login/challenge", map[string]any{"authenticator": "bob", "kind": "password"}, 403, not},
		{a, list, "nodes", nil, 200, ""},
		{a, read, "nodes/local-1", nil, 200, ""},
		{a, write, "nodes/local-1/renew", nil, 403, not},
		{a, read, "identities/home/assets/none", nil, 404, "no asset"},
		{a, write, "identities/home", map[string]any{"manifest": encode64(next.Manifest), "signature": encode64(next.Signature), "colour": "red"}, 400, "unknown field colour"},
	} {
		answer, got := x.who.call(x.op, x.path, x.in)
		if got != x.status || !strings.Contains(strings.Join(answer.Errors, "\n"), x.text) {
			t.Errorf("%s %s %s: %d %v, want %d %q", x.who.first.Identities, x.op, x.path, got, answer.Errors, x.status, x.text)
		}
	}
	// A role that may use an asset may remove it.
	b.does(del, "identities/home/assets/letters", nil)

	// Frozen: only the owner may do anything, and only what ends it or makes it safer.
	a.does(write, "identities/home/freeze", map[string]any{"reason": "stolen"})
	b.refused(read, "identities/home", nil, http.StatusConflict, "frozen")
	a.refused(read, "identities/home", nil, http.StatusConflict, "frozen")
	a.refused(list, "identities/home/assets", nil, http.StatusConflict, "frozen")
	b.refused(write, "identities/home/unfreeze", nil, http.StatusForbidden, not)
	if s := bob.login().first.Identities; len(s) != 1 || s[0].State != "frozen" {
		t.Errorf("a login to a frozen identity says %+v", s)
	}
	a.does(write, "authenticators/bob/lost", map[string]any{"reason": "gone"})
	b.over(t)
	a.does(write, "identities/home/unfreeze", nil)
	a.does(read, "identities/home", nil)

	// Carol opens an identity of her own, too: a grant that she never asked for gives
	// Alice no say over her authenticator.
	next, err = opened.Change(time.Now(), identity.AddGrant{Authenticator: carol.a, Level: "post"})
	m.ok(err)
	a.does(write, "identities/home", map[string]any{"manifest": encode64(next.Manifest), "signature": encode64(next.Signature)})
	a.does(read, "authenticators/carol", nil)
	a.refused(write, "authenticators/carol/lost", map[string]any{"reason": "malice"}, http.StatusForbidden, "other owners")
	c.does(read, "authenticators/carol", nil)
}

// TestSessionOfAnAccount: an account is read through a session that opens its
// custody key, and through no other.
func TestSessionOfAnAccount(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	bob := m.enrol("bob", identity.Password, "battery staple", "", nil)
	m.create("vault", "bip340-secp256k1")
	home := alice.founds("home", "mail", "money")
	next, err := home.Change(time.Now(), identity.SetLevel{Level: identity.Level{Name: "post", Roles: []string{"mail"}}}, identity.AddGrant{Authenticator: bob.a, Level: "post"})
	m.ok(err)
	m.must(logical.UpdateOperation, "identities/home", map[string]any{"manifest": encode64(next.Manifest), "signature": encode64(next.Signature)})
	opened, _, err := identity.OpenIdentity(next, identity.Pin{}, alice.a.ID, alice.keys)
	m.ok(err)
	key := custodyOf(t, opened, "vault-key", "money")
	m.puts("home", "vault-key", key)
	m.hasCustody("vault", "home", m.stored(opened, "vault-key"), identity.CustodyKey)
	a, b := alice.login(), bob.login()
	if got := a.does(identity.ReadOperation, "accounts/vault", nil); got["algorithm"] != "bip340-secp256k1" {
		t.Errorf("the account through a session: %v", got)
	}
	b.refused(identity.ReadOperation, "accounts/vault", nil, http.StatusForbidden, "may not")
	b.refused(identity.WriteOperation, "custody/vault/begin", nil, http.StatusForbidden, "may not")
	a.refused(identity.DeleteOperation, "accounts/vault", nil, http.StatusForbidden, "may not")
	a.refused(identity.WriteOperation, "accounts/vault", map[string]any{"presign": 1}, http.StatusForbidden, "may not")
	m.must(logical.UpdateOperation, "identities/home/freeze", nil)
	a.refused(identity.ReadOperation, "accounts/vault", nil, http.StatusConflict, "frozen")
	a.refused(identity.WriteOperation, "custody/vault/begin", nil, http.StatusConflict, "frozen")
}

// TestDeletedAuthenticator: a session of one that was deleted, and created anew
// under its name, is over.
func TestDeletedAuthenticator(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	c := alice.login()
	m.must(logical.DeleteOperation, "authenticators/alice", nil)
	c.over(t)
	stale := alice.a.ID
	next := m.enrol("alice", identity.Password, "correct horse", "", nil)
	d := next.login()
	d.does(identity.ReadOperation, "authenticators/alice", nil)
	// Also where nobody had told the sessions.
	s := m.b.sessions
	s.mu.Lock()
	for _, n := range s.live {
		n.authenticator = stale
	}
	s.mu.Unlock()
	a := d.sealed(identity.ReadOperation, "authenticators/alice", nil)
	if _, status, msg := m.send("session/call", a); status != http.StatusForbidden || !strings.Contains(msg, "log in again") {
		t.Errorf("the session of an authenticator that is gone: %d %s", status, msg)
	}
	d.over(t)
}

// TestSessionsAreBounded: nobody fills the memory with sessions or logins.
func TestSessionsAreBounded(t *testing.T) {
	clock := newSteadyClock()
	s := newSessions(clock.now)
	begin := func(authenticator byte) (*session, error) {
		clock.pass(time.Millisecond)
		return s.begin(&pendingLogin{name: "a", id: identity.ID{1, authenticator}, sessionKey: newSessionKey()}, time.Hour)
	}
	first, err := begin(0)
	if err != nil {
		t.Fatal(err)
	}
	for range maxSessionsPerAuthenticator {
		if _, err := begin(0); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.live) != maxSessionsPerAuthenticator || s.live[first.id] != nil {
		t.Errorf("%d sessions of one authenticator, the oldest among them: %v", len(s.live), s.live[first.id] != nil)
	}
	for i := 1; len(s.live) < maxSessions; i++ {
		id := identity.ID{2, byte(i), byte(i >> 8)}
		if _, err := s.begin(&pendingLogin{id: id, sessionKey: newSessionKey()}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := begin(9); err == nil {
		t.Error("one session too many")
	}
	clock.pass(time.Hour)
	if _, err := begin(9); err != nil || len(s.live) != 1 {
		t.Errorf("sessions that are over take room: %d, %v", len(s.live), err)
	}
	oldest := s.await(&pendingLogin{sessionKey: newSessionKey()})
	var newest identity.ID
	for range maxPendingLogins + 100 {
		newest = s.await(&pendingLogin{sessionKey: newSessionKey()})
	}
	if len(s.pending) > maxPendingLogins || len(s.order) > maxPendingLogins {
		t.Errorf("%d logins under way, %d in order", len(s.pending), len(s.order))
	}
	if _, err := s.take(oldest); err == nil {
		t.Error("the oldest login is there")
	}
	if _, err := s.take(newest); err != nil {
		t.Error(err)
	}
	clock.pass(pendingLoginTTL + time.Second)
	s.sweep()
	if len(s.pending) != 0 {
		t.Errorf("%d logins are kept for ever", len(s.pending))
	}
}

func newSessionKey() *secret.Bytes { return secret.New(make([]byte, identity.SessionKeySize)) }

// TestConcurrentCalls: calls of one session wait for each other, also while it is
// ended.
func TestConcurrentCalls(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	c := alice.login()
	var calls []map[string]any
	for range 8 {
		calls = append(calls, c.sealed(identity.ReadOperation, "authenticators/alice", nil))
	}
	var wg sync.WaitGroup
	statuses := make(chan int, len(calls)+1)
	for i, in := range calls {
		wg.Go(func() {
			if i == 5 {
				m.b.sessions.endAuthenticator(alice.a.ID)
			}
			_, status, _ := m.send("session/call", in)
			statuses <- status
		})
	}
	wg.Wait()
	close(statuses)
	seen := map[int]int{}
	for s := range statuses {
		seen[s]++
	}
	for s := range seen {
		if s != http.StatusOK && s != http.StatusForbidden && s != http.StatusConflict {
			t.Errorf("statuses %v", seen)
		}
	}
	c.over(t)
	if s := fmt.Sprint(m.logs); strings.Contains(s, "panic") {
		t.Error("something panicked")
	}
}
