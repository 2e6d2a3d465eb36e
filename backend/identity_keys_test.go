package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

var loginID = identity.ID{7}

// passwordSecret is a login secret.
func passwordSecret(b byte) *secret.Bytes { return secret.New(bytes.Repeat([]byte{b}, 32)) }

// registers runs a registration against the mount.
func (m *mount) registers(id identity.ID, with byte) []byte {
	m.t.Helper()
	r, request, err := identity.StartRegistration(passwordSecret(with), id, identity.DefaultKDF())
	if err != nil {
		m.t.Fatal(err)
	}
	response, err := m.b.opaqueRegister(m.t.Context(), id, request)
	if err != nil {
		m.t.Fatal(err)
	}
	registration, _, public, err := r.Finish(response)
	if err != nil {
		m.t.Fatal(err)
	}
	if key, err := m.b.identityServerKey(m.t.Context()); err != nil || !bytes.Equal(key, public) {
		m.t.Error("the mount says that its key is another:", err)
	}
	return registration
}

// logsIn runs a login against the mount.
func (m *mount) logsIn(id identity.ID, registration []byte, with byte) error {
	m.t.Helper()
	l, ke1, err := identity.StartLogin(passwordSecret(with), id, identity.DefaultKDF())
	if err != nil {
		m.t.Fatal(err)
	}
	ke2, mac, server, err := m.b.opaqueLogin(m.t.Context(), id, registration, ke1)
	if err != nil {
		return err
	}
	defer server.Wipe()
	ke3, client, _, err := l.Finish(ke2)
	if err == nil && (!identity.VerifyKE3(mac, ke3) || !client.Equal(server)) {
		m.t.Error("the two ends do not agree")
	}
	return err
}

// loginReferences counts what refers to a version: accounts/node keys/identity keys.
func (m *mount) loginReferences(v uint32) string {
	m.t.Helper()
	return fmt.Sprintf("%s/%v", m.references(v), m.version(v)["references"].(map[string]any)["identity_keys"])
}

// stores puts an authenticator's record as far as these tests need one.
func (m *mount) stores(name string, registration []byte) {
	m.t.Helper()
	if err := m.b.store.put(m.t.Context(), prefixAuthentic+name, &authenticatorRecord{Version: recordVersion, ID: loginID.String(),
		Signed: identity.SignedAuthenticator{Authenticator: []byte("{}"), Signature: []byte("x")}, Registration: registration}); err != nil {
		m.t.Fatal(err)
	}
}

func TestIdentityKeys(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	if got := m.loginReferences(1); got != "2/1/0" {
		t.Errorf("before there are any: %s", got)
	}
	// Many find none at once: one makes them, and all use the same.
	makes := 0
	m.fake.identityReply = func(r *nodepb.IdentityRequest, _ *nodepb.IdentityReply) {
		if r.GetMake() != nil {
			makes++ // under the engine's lock
		}
	}
	keysSeen := make([][]byte, 16)
	var wg sync.WaitGroup
	for i := range keysSeen {
		wg.Go(func() {
			var err error
			if keysSeen[i], err = m.b.identityServerKey(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m.fake.identityReply = nil
	for _, k := range keysSeen {
		if !bytes.Equal(k, keysSeen[0]) {
			t.Fatal("there are two sets of identity keys")
		}
	}
	if makes != 1 {
		t.Errorf("identity keys were made %d times", makes)
	}
	if got := m.loginReferences(1); got != "2/1/1" {
		t.Errorf("with identity keys: %s", got)
	}

	registration := m.registers(loginID, 5)
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a wrong secret":         m.logsIn(loginID, registration, 6),
		"no such authenticator":  m.logsIn(loginID, nil, 5),
		"another authenticators": m.logsIn(identity.ID{8}, registration, 5),
	} {
		if !errors.Is(err, identity.ErrLogin) {
			t.Errorf("%s: %v", what, err)
		}
	}

	client, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	wrappedPart, sealed, err := m.b.makeServerPart(t.Context(), loginID, client.Public().Seal)
	if err != nil {
		t.Fatal(err)
	}
	part, err := client.Open(identity.ServerPartContext(loginID), sealed)
	if err != nil {
		t.Fatal(err)
	}
	released, err := m.b.releaseServerPart(t.Context(), loginID, wrappedPart, client.Public().Seal)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := client.Open(identity.ServerPartContext(loginID), released); err != nil || !again.Equal(part) {
		t.Error("the released part is another:", err)
	}
	if fake, err := m.b.releaseServerPart(t.Context(), loginID, nil, client.Public().Seal); err != nil || len(fake) != len(released) {
		t.Error("a fake part:", err)
	}

	fake, err := m.b.fakeLoginID(t.Context(), "nobody")
	if err != nil || fake == (identity.ID{}) {
		t.Fatal(err)
	}
	other, _ := m.b.fakeLoginID(t.Context(), "somebody")
	blob, _ := m.b.fakeBytes(t.Context(), "sealed", "nobody", 81)
	if other == fake || len(blob) != 81 || bytes.Equal(blob[:16], fake[:]) {
		t.Error("fakes repeat themselves")
	}

	// Another process of the mount has the same keys, and makes the same fakes.
	m.b.Cleanup(context.Background())
	m = wrapped(t, m.storage, m.fake, newClock())
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Error("after a restart:", err)
	}
	if again, _ := m.b.fakeLoginID(t.Context(), "nobody"); again != fake {
		t.Error("after a restart fakes are others")
	}
	// The record is read once.
	m.storage = nil
	reads := &flaky{Storage: m.b.store.s, noReads: keyIdentityKeys}
	m.b.store.s = reads
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Error("the record is not cached:", err)
	}
}

// TestIdentityMessages: what a client sends wrong is its to mend, and what nodes and
// the token do wrong is not said to be.
func TestIdentityMessages(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	registration := m.registers(loginID, 5)
	_, ke1, err := identity.StartLogin(passwordSecret(5), loginID, identity.DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	login := func(registration, ke1 []byte) error {
		_, _, key, err := m.b.opaqueLogin(t.Context(), loginID, registration, ke1)
		if err != nil && key != nil {
			t.Error("a session key comes with an error")
		}
		return err
	}
	part := func() error {
		_, _, err := m.b.makeServerPart(t.Context(), loginID, make([]byte, 32))
		return err
	}
	register := func(b []byte) error {
		_, err := m.b.opaqueRegister(t.Context(), loginID, b)
		return err
	}
	for what, err := range map[string]error{
		"KE1 cut short":          login(registration, ke1[1:]),
		"KE1 of a fake":          login(nil, nil),
		"a damaged registration": login(registration[1:], ke1),
		"a request of zeros":     register(make([]byte, 32)),
		"no request":             register(nil),
		"a part to no key":       part(),
	} {
		if status, _ := m.b.classify(err); err == nil || status != http.StatusBadRequest {
			t.Errorf("%s: %d %v", what, status, err)
		}
	}
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{pool.ErrHSMUnavailable, http.StatusServiceUnavailable, "repeat the request once the HSM answers"},
		{fmt.Errorf("local-1: %w", pool.ErrShareUnusable), http.StatusInternalServerError, "restore the record identity-keys"},
		{pool.ErrWrappingKey, http.StatusInternalServerError, "do not change the token"},
		{context.DeadlineExceeded, http.StatusServiceUnavailable, "in time"},
	} {
		m.fake.identityErr = c.err
		err := login(registration, ke1)
		if status, text := m.b.classify(err); status != c.status || !strings.Contains(text, c.text) || strings.Contains(text, "enough to sign") {
			t.Errorf("%v: %d %s", c.err, status, text)
		}
	}
	m.fake.identityErr = nil
	for name, change := range map[string]func(*nodepb.IdentityReply){
		"no KE2":          func(r *nodepb.IdentityReply) { r.Response = nil },
		"no MAC":          func(r *nodepb.IdentityReply) { r.ClientMac = nil },
		"no session key":  func(r *nodepb.IdentityReply) { r.SessionKey = nil },
		"a short session": func(r *nodepb.IdentityReply) { r.SessionKey = r.SessionKey[:32] },
	} {
		m.fake.identityReply = func(_ *nodepb.IdentityRequest, r *nodepb.IdentityReply) { change(r) }
		if err := login(registration, ke1); !errors.Is(err, errIdentityReply) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.fake.identityReply = nil
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Error("after all that:", err)
	}
}

// TestIdentityKeysNotStored: what nodes get wrong is not stored, and the next call
// makes the keys.
func TestIdentityKeysNotStored(t *testing.T) {
	others := identity.NewServerKeys()
	for name, c := range map[string]struct {
		change func(*nodepb.IdentityRequest, *nodepb.IdentityReply)
		text   string
	}{
		"no envelope": {func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
			if r.GetMake() != nil {
				out.KeysEnvelope = nil
			}
		}, "other versions"},
		"another version": {func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
			if r.GetMake() != nil {
				out.KeysEnvelope = fakeEnvelope(others.Marshal().Expose(), 9)
			}
		}, "other versions"},
		"two versions": {func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
			if r.GetMake() != nil {
				out.KeysEnvelope = fakeEnvelope(others.Marshal().Expose(), 1, 2)
			}
		}, "other versions"},
		"no public key": {func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
			if r.GetMake() != nil {
				out.PublicKey = nil
			}
		}, "other identity keys"},
		"other keys than it says": {func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
			if r.GetMake() != nil {
				out.KeysEnvelope = fakeEnvelope(others.Marshal().Expose(), 1)
			}
		}, "open to others"},
		"something that does not open": {func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
			if r.GetMake() != nil {
				out.KeysEnvelope = fakeEnvelope([]byte("garbage"), 1)
			}
		}, "do not open"},
	} {
		t.Run(name, func(t *testing.T) {
			m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
			m.fake.identityReply = c.change
			if _, err := m.b.identityServerKey(t.Context()); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
			if got := strings.Join(keys(t, m.storage), " "); strings.Contains(got, keyIdentityKeys) {
				t.Errorf("stored: %s", got)
			}
			m.fake.identityReply = nil
			registration := m.registers(loginID, 5)
			if err := m.logsIn(loginID, registration, 5); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no token", func(t *testing.T) {
		m := open(t, &logical.InmemStorage{}, newFake(t))
		if _, err := m.b.identityServerKey(t.Context()); !errors.Is(err, pool.ErrNotConfigured) {
			t.Error(err)
		}
	})
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("a write that fails, late=%v", late), func(t *testing.T) {
			f := &flaky{Storage: &logical.InmemStorage{}, noWrites: keyIdentityKeys, late: late}
			m := wrapped(t, f, newFake(t), newClock())
			if _, err := m.b.identityServerKey(t.Context()); err == nil {
				t.Error("keys that are perhaps not stored are used")
			}
			f.noWrites = ""
			registration := m.registers(loginID, 5)
			m.b.Cleanup(context.Background())
			m = wrapped(t, f, m.fake, newClock())
			if err := m.logsIn(loginID, registration, 5); err != nil {
				t.Error("other keys were used than are stored:", err)
			}
		})
	}
	t.Run("they are missing", func(t *testing.T) {
		m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
		m.stores("ada", []byte("registration"))
		if _, err := m.b.identityServerKey(t.Context()); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("new keys hide that the old ones are lost: %v", err)
		}
	})
}

// TestIdentityKeysFollow: the identity keys keep a wrapping key alive, follow to the
// next, and registrations stay good.
func TestIdentityKeysFollow(t *testing.T) {
	at, f := newClock(), &flaky{Storage: &logical.InmemStorage{}}
	m := wrapped(t, f, newFake(t), at)
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0})
	registration := m.registers(loginID, 5)
	public, err := m.b.identityServerKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.rotate()
	m.rewrap("alice")
	m.rewrap("bob")
	if err := m.b.store.PutNodeKeys(t.Context(), "local-1", nodeKeys(2)); err != nil {
		t.Fatal(err)
	}
	// A node seals other keys: they are not taken, and version 1 stays.
	others := identity.NewServerKeys()
	m.fake.identityReply = func(r *nodepb.IdentityRequest, out *nodepb.IdentityReply) {
		if r.GetRewrap() != nil {
			out.KeysEnvelope, out.PublicKey = fakeEnvelope(others.Marshal().Expose(), 2), others.PublicKey()
		}
	}
	m.pass()
	at.add(defaultRetireAfter)
	m.pass()
	if d := m.version(1); d["state"] != "retired" || m.loginReferences(1) != "0/0/1" {
		t.Errorf("version 1, which the identity keys need: %v, %s", d["state"], m.loginReferences(1))
	}
	if what, text, _ := m.b.keeper.lastFailure(); what.what != choreIdentityKeys || !strings.Contains(text, "other identity keys") {
		t.Errorf("%s: %s", what.what, text)
	}
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Error("under the old wrapping key:", err)
	}
	m.fake.identityReply = nil
	at.add(keeperBackoffMax)
	m.pass()
	if got := m.loginReferences(2); got != "2/1/1" {
		t.Errorf("references to version 2: %s", got)
	}
	at.add(keeperBackoffMax)
	m.pass()
	if d := m.version(1); d["state"] != "destroyed" || len(m.fake.token) != 1 {
		t.Errorf("version 1: %v, %d keys in the token", d, len(m.fake.token))
	}
	now, err := m.b.identityServerKey(t.Context())
	if err != nil || !bytes.Equal(now, public) {
		t.Error("the mount has another key:", err)
	}
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Error("under the new wrapping key:", err)
	}

	// A record that cannot be read may need any version.
	m.rotate()
	m.rewrap("alice")
	m.rewrap("bob")
	m.damage(f, keyIdentityKeys, `{"version":99}`)
	m.b.invalidate(context.Background(), keyIdentityKeys)
	m.read()
	at.add(defaultRetireAfter)
	m.pass()
	if d := m.version(2); d["state"] == "destroyed" || !strings.Contains(fmt.Sprint(d["last_error"]), "identity-keys cannot be read") {
		t.Errorf("version 2: %v %v", d["state"], d["last_error"])
	}
	if err := m.logsIn(loginID, registration, 5); err == nil {
		t.Error("an old record is used after it was changed elsewhere")
	}
}

// TestIdentityKeysElsewhere: another server has had the keys resealed, and the old
// wrapping key is gone.
func TestIdentityKeysElsewhere(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%v", told), func(t *testing.T) {
			m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
			registration := m.registers(loginID, 5)
			r, err := m.b.store.identityKeys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			m.rotate()
			k, err := playIdentity(&nodepb.IdentityRequest{KeysEnvelope: r.Envelope,
				Kind: &nodepb.IdentityRequest_Rewrap{Rewrap: &nodepb.RewrapIdentityKeys{WrappingVersion: 2}}}, "default", 2, func(uint32) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			next := *r
			next.Envelope = k.GetKeysEnvelope()
			if err := bareStore(m.storage).put(t.Context(), keyIdentityKeys, &next); err != nil {
				t.Fatal(err)
			}
			m.fake.mu.Lock()
			first := m.fake.settings().WrappingKeys[0]
			delete(m.fake.token, string(first.ID))
			m.fake.mu.Unlock()
			if told {
				m.b.invalidate(context.Background(), keyIdentityKeys)
				if m.b.store.refs.isComplete() {
					t.Error("what refers to which version is still taken for certain")
				}
			}
			if err := m.logsIn(loginID, registration, 5); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestIdentityKeysAndTheEnd: a mount with authenticators is not ended, nor moved to
// another token; without them its identity keys go with it.
func TestIdentityKeysAndTheEnd(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.stores("ada", m.registers(loginID, 5))
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	m.must(logical.DeleteOperation, "destroy/bob", nil)
	m.fails(logical.UpdateOperation, endPath, nil, http.StatusConflict, "(ada)")
	if err := m.b.store.delete(t.Context(), prefixNodeKeys+"local-1"); err != nil {
		t.Fatal(err)
	}
	m.fake.serial = "another"
	m.fails(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN}, http.StatusBadRequest, "keep that token")
	m.fake.serial = testSerial
	if err := m.b.store.delete(t.Context(), prefixAuthentic+"ada"); err != nil {
		t.Fatal(err)
	}
	m.must(logical.UpdateOperation, endPath, nil)
	if got := strings.Join(keys(t, m.storage), " "); strings.Contains(got, keyIdentityKeys) || len(m.fake.token) != 0 {
		t.Errorf("left: %s, %d keys in the token", got, len(m.fake.token))
	}
	if _, err := m.b.identityServerKey(t.Context()); !errors.Is(err, pool.ErrNotConfigured) {
		t.Errorf("after the end: %v", err)
	}
	configure(m)
	if err := m.logsIn(loginID, m.registers(loginID, 5), 5); err != nil {
		t.Error("begun anew:", err)
	}
}
