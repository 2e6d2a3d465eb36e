package backend

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// atOnce runs them all and waits.
func atOnce(all ...func()) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(func() {
			<-start
			f()
		})
	}
	close(start)
	wg.Wait()
}

// status sends a request as Vault does and returns the answer's status. Unlike do
// it may be called from any goroutine.
func (m *mount) status(op logical.Operation, path string, data map[string]any) int {
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage}
	if op == logical.UpdateOperation {
		if found, exists, err := m.b.HandleExistenceCheck(context.Background(), req); err == nil && found && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := m.b.HandleRequest(context.Background(), req)
	status, _ := answer(resp, err)
	return status
}

// TestIdentityTwins: of several writers of the same generation one gets through, and the
// others are told to read again.
func TestIdentityTwins(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	o := alice.creates("alice")
	for round := range 10 {
		const writers = 6
		var manifests []func()
		statuses := make([]int, 2*writers)
		asset := fmt.Sprintf("asset-%d", round)
		for i := range writers {
			signed := alice.makes(o, identity.AddRole{Name: fmt.Sprintf("r%d-%d", round, i)})
			manifests = append(manifests, func() {
				statuses[i] = m.status(logical.UpdateOperation, "identities/alice", manifestBody(signed))
			})
			mine := secretOf(t, o, asset, fmt.Sprint(i), "owner")
			manifests = append(manifests, func() {
				statuses[writers+i] = m.status(logical.UpdateOperation, "identities/alice/assets/"+asset, assetBody(mine))
			})
		}
		atOnce(manifests...)
		for _, half := range [][]int{statuses[:writers], statuses[writers:]} {
			won := 0
			for _, s := range half {
				if s == http.StatusOK {
					won++
				} else if s != http.StatusConflict {
					t.Errorf("a loser is told %d", s)
				}
			}
			if won != 1 {
				t.Errorf("round %d: %d writers got through: %v", round, won, half)
			}
		}
		o = alice.opens(&m.record2(t, "alice").Signed)
		m.stored(o, asset)
	}
}

// TestGrantAgainstDelete: an authenticator that is granted and deleted, or lost, at
// the same time is never both.
func TestGrantAgainstDelete(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	o := alice.creates("alice")
	for i := range 20 {
		bob := newPerson(m, fmt.Sprintf("bob-%d", i)).store()
		signed := alice.makes(o, identity.AddGrant{Authenticator: bob.a, Level: "full"})
		var granted, gone int
		lose := i%2 == 0
		atOnce(func() { granted = m.status(logical.UpdateOperation, "identities/alice", manifestBody(signed)) }, func() {
			if lose {
				gone = m.status(logical.UpdateOperation, bob.path()+"/lost", nil)
			} else {
				gone = m.status(logical.DeleteOperation, bob.path(), nil)
			}
		})
		if !lose && (granted == http.StatusOK) == (gone == http.StatusOK) {
			t.Errorf("granted %d, deleted %d", granted, gone)
		}
		if lose && gone != http.StatusOK {
			t.Errorf("a report is answered by %d", gone)
		}
		if granted == http.StatusOK {
			o = alice.opens(&m.record2(t, "alice").Signed)
		}
		for _, g := range m.read1("identities/alice")["grants"].([]map[string]any) {
			if _, status, _ := m.do(logical.ReadOperation, "authenticators/"+g["authenticator"].(string), nil); status != http.StatusOK {
				t.Errorf("%v is granted and not there", g["authenticator"])
			}
		}
	}
}

// TestRoleAgainstAsset: a role is not removed while an asset comes that is for it.
func TestRoleAgainstAsset(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	o := alice.creates("alice")
	for i := range 20 {
		role, name := fmt.Sprintf("role-%d", i), fmt.Sprintf("asset-%d", i)
		o = alice.changes(o, identity.AddRole{Name: role})
		full := identity.Level{Name: "full", Roles: []string{"owner"}}
		for _, r := range o.Manifest.Level("full").Roles {
			if r != role && r != "owner" {
				full.Roles = append(full.Roles, r)
			}
		}
		less := alice.makes(o, identity.SetLevel{Level: full}, identity.RemoveRole{Name: role})
		asset := secretOf(t, o, name, "x", role)
		var removed, stored int
		atOnce(
			func() { removed = m.status(logical.UpdateOperation, "identities/alice", manifestBody(less)) },
			func() {
				stored = m.status(logical.UpdateOperation, "identities/alice/assets/"+name, assetBody(asset))
			})
		if (removed == http.StatusOK) == (stored == http.StatusOK) {
			t.Errorf("the role was removed: %d, and its asset stored: %d", removed, stored)
		}
		o = alice.opens(&m.record2(t, "alice").Signed)
	}
	m.must(logical.ListOperation, "identities/alice/assets", nil) // all verify
}

// TestDevicesAtOnce: none is lost.
func TestDevicesAtOnce(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	alice.creates("alice")
	var all []func()
	for i := range 20 {
		all = append(all, func() {
			m.status(logical.UpdateOperation, "authenticators/alice-password/devices", map[string]any{"identity": "alice", "label": "d", "device": fmt.Sprintf("%032x", i+1)})
		})
	}
	all = append(all, func() { m.status(logical.UpdateOperation, "authenticators/alice-password/lost", nil) })
	all = append(all, func() { m.status(logical.UpdateOperation, "authenticators/alice-password/found", nil) })
	atOnce(all...)
	bound := 0
	for i := range 20 {
		if _, status, _ := m.do(logical.ReadOperation, fmt.Sprintf("authenticators/alice-password/devices/%032x", i+1), nil); status == http.StatusOK {
			bound++
		}
	}
	r, err := m.b.store.authenticator(t.Context(), "alice-password")
	if err != nil || len(r.Devices) != bound {
		t.Errorf("%d devices are stored and %d answer: %v", len(r.Devices), bound, err)
	}
}

// TestIdentityCrashes does a life of an identity on a storage that fails at every
// write in turn, with and without effect, starts again, and does the rest: nothing
// is lost and everything gets through.
func TestIdentityCrashes(t *testing.T) {
	writes := identityLife(t, -1, false)
	if writes < 12 {
		t.Fatalf("%d writes: the test looks at the wrong place", writes)
	}
	for at := range writes {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, late %v", at, late), func(t *testing.T) { identityLife(t, at, late) })
		}
	}
}

// identityLife returns how many writes there were. Each request is repeated after
// a restart when the storage dies under it.
func identityLife(t *testing.T, at int, late bool) int {
	t.Helper()
	prepared := enrolled(t)
	prepared.b.Cleanup(context.Background())
	base, fake := prepared.storage, prepared.fake
	k := &crashing{Storage: base, left: at, late: late}
	if at < 0 {
		k.left = 1 << 30
	}
	m := open(t, k, fake)
	client := &mount{t: t} // makes keys only
	alice, bob := newPerson(client, "alice-password"), newPerson(client, "bob-password")
	do := func(op logical.Operation, path string, data map[string]any) {
		t.Helper()
		_, status, msg := m.do(op, path, data)
		if status != http.StatusOK && k.dead {
			m.b.Cleanup(context.Background())
			k.mu.Lock()
			k.dead, k.left = false, 1<<30
			k.mu.Unlock()
			m = open(t, k, fake)
			_, status, msg = m.do(op, path, data)
			// It had taken effect.
			if op == logical.DeleteOperation && status == http.StatusNotFound {
				status = http.StatusOK
			}
		}
		if status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", op, path, status, msg)
		}
	}
	do(logical.UpdateOperation, alice.path(), alice.body())
	do(logical.UpdateOperation, bob.path(), bob.body())
	first, o, err := identity.Create(identity.NewIdentity{Name: "alice", Kind: identity.Person, Roles: []string{"everyday"}, Authenticator: alice.a, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	do(logical.UpdateOperation, "identities/alice", manifestBody(first))
	next := alice.makes(o, identity.AddGrant{Authenticator: bob.a, Level: "full"})
	do(logical.UpdateOperation, "identities/alice", manifestBody(next))
	o = alice.opens(next)
	for _, name := range []string{"bank", "mail", "shop"} {
		do(logical.UpdateOperation, "identities/alice/assets/"+name, assetBody(secretOf(t, o, name, name, "everyday")))
	}
	do(logical.UpdateOperation, "authenticators/bob-password/devices", map[string]any{"identity": "alice", "label": "x", "device": strings.Repeat("ab", 16)})
	do(logical.UpdateOperation, "identities/alice/freeze", map[string]any{"reason": "x"})
	do(logical.UpdateOperation, "identities/alice/unfreeze", nil)
	do(logical.UpdateOperation, "authenticators/bob-password/lost", nil)
	next = alice.makes(o, identity.RemoveGrant{Authenticator: bob.a.ID})
	do(logical.UpdateOperation, "identities/alice", manifestBody(next))
	for _, name := range []string{"bank", "mail", "shop"} {
		if v, err := o.AssetValue(m.stored(o, name), "value"); err != nil || string(v.Expose()) != name {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := m.b.store.put(t.Context(), prefixAuthLocks+"bob-password", &authenticatorLockRecord{Version: recordVersion, Failures: 5, Until: time.Now(), Time: time.Now()}); err != nil {
		do(logical.ReadOperation, "identities/alice", nil) // starts again
	}
	do(logical.DeleteOperation, "authenticators/bob-password", nil)
	do(logical.DeleteOperation, "identities/alice", nil)
	do(logical.DeleteOperation, "authenticators/alice-password", nil)
	for _, key := range keys(t, base) {
		for _, prefix := range []string{prefixIdentities, prefixAssets, prefixAuthentic} {
			if strings.HasPrefix(key, prefix) {
				t.Errorf("%s is left", key)
			}
		}
	}
	return k.wrote
}

// TestIdentityInvalidation: what another server wrote is seen, in all that is kept
// in memory.
func TestIdentityInvalidation(t *testing.T) {
	m := enrolled(t)
	m.create("pay", "bip340-secp256k1")
	other := open(t, m.storage, newFake(t))
	alice := newPerson(m, "alice-password").store()
	o := alice.creates("alice", "everyday")
	mail := secretOf(t, o, "mail", "x", "everyday")
	m.puts("alice", "mail", mail)
	see := func() (devices int, state, asset string, custody int) {
		t.Helper()
		a := other.read1("authenticators/alice-password")
		info, _ := other.must(logical.ListOperation, "identities/alice/assets", nil)["key_info"].(map[string]any)
		held, err := other.b.custodies(t.Context(), func(*custodyRecord) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		return len(a["identities"].([]map[string]any)), other.read1("identities/alice")["grants"].([]map[string]any)[0]["state"].(string), fmt.Sprint(info["mail"]), len(held)
	}
	n, state, asset, custody := see()
	if n != 1 || state != "active" || !strings.Contains(asset, "generation:1") || custody != 0 {
		t.Fatal(n, state, asset, custody)
	}
	account := custodyOf(t, o, "pay", "owner")
	m.puts("alice", "pay", account)
	m.hasCustody("pay", "alice", verified(t, o, account), identity.CustodyKey)
	m.puts("alice", "mail", writeAsset(t, o, verified(t, o, mail), nil))
	m.update("authenticators/alice-password/lost", nil)
	for _, key := range keys(t, m.storage) {
		other.b.InvalidateKey(t.Context(), key)
	}
	if n, state, asset, custody = see(); n != 1 || state != "lost" || !strings.Contains(asset, "generation:2") || custody != 1 {
		t.Error(n, state, asset, custody)
	}
}

// TestDamagedIdentities: what cannot be read is said, and nothing is decided as if
// it were not there.
func TestDamagedIdentities(t *testing.T) {
	m := enrolled(t)
	m.create("pay", "bip340-secp256k1")
	alice, bob := newPerson(m, "alice-password").store(), newPerson(m, "bob-password").store()
	o := alice.creates("alice", "everyday")
	bo := bob.creates("bob")
	m.puts("alice", "mail", secretOf(t, o, "mail", "x", "everyday"))
	m.puts("bob", "pay", custodyOf(t, bo, "pay", "owner"))
	spoil := func(key string) (mend func()) {
		t.Helper()
		entry, err := m.storage.Get(t.Context(), key)
		if err != nil || entry == nil {
			t.Fatal(key, err)
		}
		if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"version":1}`)}); err != nil {
			t.Fatal(err)
		}
		m.b.InvalidateKey(t.Context(), key)
		return func() {
			t.Helper()
			if err := m.storage.Put(t.Context(), entry); err != nil {
				t.Fatal(err)
			}
			m.b.InvalidateKey(t.Context(), key)
		}
	}
	// A manifest that does not verify is as bad as one that does not parse.
	r := m.record2(t, "alice")
	r.Signed.Signature[3] ^= 1
	if err := m.b.store.put(t.Context(), prefixIdentities+"alice", r); err != nil {
		t.Fatal(err)
	}
	m.fails(logical.ReadOperation, "identities/alice", nil, http.StatusInternalServerError, "stored record identities/alice")
	m.fails(logical.DeleteOperation, "authenticators/alice-password", nil, http.StatusConflict, "cannot be read: alice")
	m.warns(logical.ReadOperation, "authenticators/bob-password", nil, "cannot be read")
	r.Signed.Signature[3] ^= 1
	if err := m.b.store.put(t.Context(), prefixIdentities+"alice", r); err != nil {
		t.Fatal(err)
	}
	mend := spoil(assetKey(o.Manifest.Identity, "mail"))
	without := alice.makes(o, identity.SetLevel{Level: identity.Level{Name: "full", Roles: []string{"owner"}}}, identity.RemoveRole{Name: "everyday"})
	m.fails(logical.UpdateOperation, "identities/alice", manifestBody(without), http.StatusInternalServerError, "stored record assets/")
	mend()
	mend = spoil(prefixAccounts + "pay")
	m.fails(logical.DeleteOperation, "identities/bob", nil, http.StatusConflict, "an account cannot be read")
	m.fails(logical.DeleteOperation, "identities/bob/assets/pay", nil, http.StatusConflict, "an account cannot be read")
	mend()
	mend = spoil(prefixAuthentic + "bob-password")
	m.fails(logical.UpdateOperation, "identities/bob", manifestBody(bob.makes(bo, identity.SetKind{Kind: identity.Persona})), http.StatusInternalServerError, "stored record authenticators/bob-password")
	mend()
	m.must(logical.DeleteOperation, "identities/bob", nil)
}
