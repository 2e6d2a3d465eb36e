package keyholder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

func openHome(t *testing.T) *Home {
	t.Helper()
	h, err := OpenHome(filepath.Join(t.TempDir(), "a", "home"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHome(t *testing.T) {
	h := openHome(t)
	known := Known{Name: "ada", ID: identity.ID{1}, Method: identity.KeyFile, KeyFile: "/k", Identities: []string{"acme"}}
	if _, ok, err := h.Authenticator("ada"); ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := errors.Join(h.SetAuthenticator(known), h.SetAuthenticator(Known{Name: "ben"}), h.SetBinding("acme", []byte("{}")), h.SetRoster(Roster{map[string]string{"node-1": "ab"}})); err != nil {
		t.Fatal(err)
	}
	again, err := OpenHome(h.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, err := again.Authenticator("ada"); !ok || err != nil || got.ID != known.ID || got.KeyFile != "/k" || !slices.Equal(got.Identities, known.Identities) {
		t.Errorf("%+v, %v", got, err)
	}
	if all, err := again.Authenticators(); err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	if names, err := again.Bindings(); err != nil || !slices.Equal(names, []string{"acme"}) {
		t.Errorf("%v, %v", names, err)
	}
	if r, err := again.Roster(); err != nil || !r.Holds("ab") || r.Holds("cd") {
		t.Errorf("%+v, %v", r, err)
	}
	if err := errors.Join(h.ForgetAuthenticator("ada"), h.ForgetAuthenticator("ada"), h.ForgetBinding("acme")); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Binding("acme"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the binding is still there: %v", err)
	}
	err = filepath.WalkDir(filepath.Dir(h.Dir()), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 || strings.Contains(path, ".new-") {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestHomeRefuses(t *testing.T) {
	h := openHome(t)
	for _, name := range []string{"", "..", "../x", "a/b", ".hidden", "UPPER"} {
		if h.SetAuthenticator(Known{Name: name}) == nil || h.SetBinding(name, nil) == nil || h.SetPin(name, identity.Pin{}) == nil {
			t.Errorf("took the name %q", name)
		}
	}
	path := filepath.Join(h.Dir(), homeIdentities, "acme.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A damaged pin is not the same as none.
	if _, err := h.Pin("acme"); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a damaged pin: %v", err)
	}
	if err := os.Chmod(h.Dir(), 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHome(h.Dir()); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("a home that others may write to: %v", err)
	}
}

// However many write at once, the newest pin stays.
func TestPinsNeverGoBack(t *testing.T) {
	h := openHome(t)
	var all sync.WaitGroup
	for g := uint64(1); g <= 40; g++ {
		all.Go(func() {
			own, err := OpenHome(h.Dir()) // as another process has it
			if err == nil {
				err = own.SetPin("acme", identity.Pin{Identity: identity.ID{1}, Generation: g})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if p, err := h.Pin("acme"); err != nil || p.Generation != 40 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestRoster(t *testing.T) {
	s := newServer(t)
	id := strings.Repeat("ab", 32)
	s.data["nodes/node-1"] = map[string]any{"identity": id}
	list := map[string]any{"keys": []string{"node-1"}}
	c := callerFunc(func(op Op, path string, in map[string]any, out any) error {
		if op == List {
			return remarshal(list, out)
		}
		return s.Call(t.Context(), op, path, in, out)
	})
	r, err := FetchRoster(t.Context(), c)
	if err != nil || !r.Holds(id) {
		t.Fatal(r, err)
	}
	if changes := r.Changes(r); len(changes) > 0 {
		t.Errorf("changed: %v", changes)
	}
	changes := r.Changes(Roster{map[string]string{"node-1": "cd", "node-2": "ef"}})
	if len(changes) != 2 || !strings.Contains(changes[0], "in place of "+id) || !strings.Contains(changes[1], "node-2 is new") {
		t.Errorf("changed: %v", changes)
	}
	if changes := r.Changes(Roster{}); len(changes) != 1 || changes[0] != "node node-1 is gone" {
		t.Errorf("changed: %v", changes)
	}
	s.data["nodes/node-1"]["identity"] = ""
	if _, err := FetchRoster(t.Context(), c); err == nil {
		t.Error("a node without identity was taken")
	}
}

func TestDevice(t *testing.T) {
	s, h, p := newServer(t), openHome(t), &person{}
	ring := FileKeyring(h)
	if err := ProbeKeyring(ring); err != nil {
		t.Fatal(err)
	}
	a := register1(t, s, "desk", identity.Device, Device(p, ring), RegisterOptions{})
	logIn(t, s, a, Device(p, ring))
	before, err := ring.Get("desk")
	if err != nil {
		t.Fatal(err)
	}
	// The secret of an authenticator that works is never replaced.
	_, _, err = Register(t.Context(), s, "desk", identity.Device, Device(p, ring), RegisterOptions{})
	fails(t, err, nil, "keeps a secret for authenticator desk already")
	if now, err := ring.Get("desk"); err != nil || !now.Equal(before) {
		t.Error("the secret was replaced:", err)
	}
	_, err = Login(t.Context(), s, "desk", identity.Device, Device(p, FileKeyring(openHome(t))))
	fails(t, err, ErrNoSecret, "made on another device")
	// What the server refused leaves nothing behind.
	if err := ring.Delete("desk"); err != nil {
		t.Fatal(err)
	}
	_, _, err = Register(t.Context(), s, "desk", identity.Device, Device(p, ring), RegisterOptions{})
	if !Refused(err, 409) {
		t.Fatal(err)
	}
	if _, err := ring.Get("desk"); !errors.Is(err, ErrNoSecret) {
		t.Error("a secret without an authenticator was left:", err)
	}
	// A keyring that forgets is noticed while nothing depends on it.
	_, _, err = Register(t.Context(), s, "tv", identity.Device, Device(p, forgetful{}), RegisterOptions{})
	fails(t, err, nil, "does not give back")
	if s.stored["tv"] != nil {
		t.Error("an authenticator was made")
	}
	broken := brokenRing{}
	if err := ProbeKeyring(broken); !errors.Is(err, ErrNoKeyring) {
		t.Error(err)
	}
	said := fmt.Errorf("%w: there is no bus", ErrNoKeyring)
	if err := ProbeKeyring(saysSo{err: said}); err == nil || err.Error() != said.Error() {
		t.Error("said twice:", err)
	}
}

type forgetful struct{}

func (forgetful) Set(string, *secret.Bytes) error   { return nil }
func (forgetful) Get(string) (*secret.Bytes, error) { return nil, ErrNoSecret }
func (forgetful) Delete(string) error               { return nil }
func (forgetful) Where() string                     { return "a sieve" }

type saysSo struct {
	forgetful
	err error
}

func (s saysSo) Get(string) (*secret.Bytes, error) { return nil, s.err }

type brokenRing struct{ forgetful }

func (brokenRing) Get(string) (*secret.Bytes, error) { return nil, errors.New("no bus") }

// TestOpen opens an identity in a session, and not one that went back.
func TestOpen(t *testing.T) {
	s, h := newServer(t), openHome(t)
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword}}
	a := register1(t, s, "a", identity.Password, Password(p), RegisterOptions{})
	session := logIn(t, s, a, Password(p))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, o, err := identity.Create(identity.NewIdentity{Name: "acme", Kind: identity.Organization, Roles: []string{"web"}, Authenticator: a, Keys: session.Keys(), Time: at})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Wipe()
	show := func(path string, m *identity.SignedManifest) {
		s.data[path] = map[string]any{"manifest": m.Manifest, "signature": m.Signature}
	}
	show("identities/acme", first)
	opened, err := session.Open(t.Context(), "acme", h)
	if err != nil || opened.Roles["web"] == nil {
		t.Fatal(err)
	}
	opened.Wipe()
	second, err := o.Change(at.Add(time.Hour), identity.AddRole{Name: "mail"})
	if err != nil {
		t.Fatal(err)
	}
	show("identities/acme", second)
	if opened, err = session.Open(t.Context(), "acme", h); err != nil {
		t.Fatal(err)
	}
	opened.Wipe()
	show("identities/acme", first)
	_, err = session.Open(t.Context(), "acme", h)
	fails(t, err, identity.ErrRolledBack)
	// Another home has seen nothing, and a name is its own identity's only.
	if opened, err = session.Open(t.Context(), "acme", openHome(t)); err != nil {
		t.Fatal(err)
	}
	opened.Wipe()
	show("identities/other", second)
	_, err = session.Open(t.Context(), "other", h)
	fails(t, err, identity.ErrSignature)
	if pin, err := h.Pin("other"); err != nil || pin.Generation != 0 {
		t.Error("a wrong identity was pinned:", err)
	}
	second.Signature[0] ^= 1
	show("identities/acme", second)
	_, err = session.Open(t.Context(), "acme", h)
	fails(t, err, identity.ErrSignature)
}

// TestInform gets what opens a bound device, with no server at all.
func TestInform(t *testing.T) {
	p := &person{secrets: map[Topic]string{TopicPassword: testPassword, TopicAnswer: "rex"}}
	b := &identity.Binding{AuthenticatorName: "a", Authenticator: identity.ID{1}, Method: identity.Password, KDF: identity.DefaultKDF(), PersonalInformation: "Dog?"}
	info, err := Inform(t.Context(), b, Password(p))
	if err != nil || string(info.Information.Expose()) != testPassword || string(info.Personal.Expose()) != "rex" {
		t.Fatal(err)
	}
	if _, err := Inform(t.Context(), b, KeyFile(p, "/nonexistent")); err == nil {
		t.Error("another kind was taken")
	}
	b.Method = identity.Phone
	if _, err := Inform(t.Context(), b, Phone(p)); err == nil {
		t.Error("a kind with a server part was taken")
	}
}
