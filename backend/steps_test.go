package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/rotation"
)

// everyStep lists the constants of steps.go.
var everyStep = []string{
	stepCreateMade, stepCreateStored,
	stepSignMade, stepSignStored,
	stepCustodyOffered,
	stepRefreshMade, stepRefreshChecked, stepRefreshStored,
	stepMoveSealed,
	stepEnrolPrepared, stepEnrolPinned, stepEnrolStored,
	stepRewrapMade, stepRewrapStored,
	stepSettleChecked, stepSettleDropped, stepSettleBack, stepSettleWent,
	stepRenameMarked, stepRenameArrived, stepRenameRemoved, stepRenameDone,
	stepRemoveAccount, stepRemoveExposures,
	stepRotateDomain, stepJoinMade, stepJoinStored, stepJoinApplied,
	stepRotateMade, stepRotateStored, stepRotateRetired, stepRotateApplied,
	stepNodeKeysRewrapped,
	stepDestroyScanned, stepDestroyMarked, stepDestroyApplied, stepDestroyGone, stepDestroyRecorded,
	stepIdentityAsset, stepIdentityRemoved, stepAuthenticatorUnlocked,
	stepIdentityKeysMade, stepIdentityKeysStored, stepIdentityKeysRewrapped, stepIdentityKeysResealed,
	stepEndMarked, stepEndNodeKeys, stepEndIdentityKeys, stepEndGone, stepEndRemoved,
}

// stepTest is one operation that is stopped at each of its steps.
type stepTest struct {
	prepare func(*mount, *clock)
	do      func(*mount, *clock)
	// check says what must hold after a restart; it also has the operation
	// done again.
	check func(*mount, *clock)
}

var stepTests = map[string]stepTest{
	"create": {
		do: func(m *mount, _ *clock) {
			m.do(logical.UpdateOperation, "accounts/carol", map[string]any{"algorithm": "ed25519"})
		},
		check: func(m *mount, _ *clock) {
			if _, status, _ := m.do(logical.ReadOperation, "accounts/carol", nil); status == http.StatusNotFound {
				m.create("carol", "ed25519")
			}
			m.signs("carol")
		},
	},
	"sign with a request_id": {
		do: func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "sign/alice", signedOnce) },
		check: func(m *mount, _ *clock) {
			stored := len(m.storedAnswers()) == 1
			first := m.must(logical.UpdateOperation, "sign/alice", signedOnce)
			second := m.must(logical.UpdateOperation, "sign/alice", signedOnce)
			if first["replayed"] != stored || second["replayed"] != true || first["signature"] != second["signature"] || len(m.storedAnswers()) != 1 {
				m.t.Errorf("stored %v, then %v, then %v", stored, first, second)
			}
		},
	},
	"refresh": {
		do:    func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "accounts/alice/refresh", nil) },
		check: func(m *mount, _ *clock) { m.must(logical.UpdateOperation, "accounts/alice/refresh", nil) },
	},
	"sign with custody": {
		prepare: func(m *mount, _ *clock) { m.owned("carol", "ed25519") },
		do:      func(m *mount, _ *clock) { m.tryOwned("carol", helloToSign) },
		check:   func(m *mount, _ *clock) { m.signsOwned("carol") },
	},
	"refresh with custody": {
		prepare: func(m *mount, _ *clock) { m.owned("carol", "ed25519").replace() },
		do:      func(m *mount, _ *clock) { m.tryOwned("carol", map[string]any{"operation": "refresh"}) },
		check: func(m *mount, _ *clock) {
			// The key that the record names is the one that is shown, at every moment.
			d := m.must(logical.ReadOperation, "accounts/carol", nil)
			r := m.record("carol")
			a, err := r.Current.account()
			if err != nil || a.Record.Custody != r.Custody.hash() || d["custody_pending"] != (a.Record.Epoch == 1) {
				m.t.Errorf("epoch %d, pending %v (%v)", a.Record.Epoch, d["custody_pending"], err)
			}
			m.signsOwned("carol")
			if d := m.finishOwned("carol", m.beginOwned("carol", map[string]any{"operation": "refresh"})); d["custody_pending"] != false {
				m.t.Errorf("after a refresh: %v", d)
			}
			m.signsOwned("carol")
		},
	},
	"rewrap with custody": {
		prepare: func(m *mount, _ *clock) {
			m.owned("carol", "ed25519")
			m.rotate()
		},
		do: func(m *mount, _ *clock) { _, _ = m.b.RewrapAccount(context.Background(), "carol") },
		check: func(m *mount, _ *clock) {
			m.signsOwned("carol")
			m.rewrap("carol")
			if r := m.record("carol"); r.Previous != nil || r.Current.WrappingVersion != 2 {
				m.t.Errorf("after another rewrap: version %d, previous kept: %v", r.Current.WrappingVersion, r.Previous != nil)
			}
			m.signsOwned("carol")
		},
	},
	"create with custody": {
		prepare: func(m *mount, _ *clock) { newOwner(m.t, m.storage, "owner-of-carol") },
		do:      func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "accounts/carol", ownedByCarol) },
		check: func(m *mount, _ *clock) {
			if _, status, _ := m.do(logical.ReadOperation, "accounts/carol", nil); status == http.StatusNotFound {
				m.must(logical.UpdateOperation, "accounts/carol", ownedByCarol)
			}
			m.signsOwned("carol")
		},
	},
	"rename": {
		prepare: func(m *mount, _ *clock) { toBeRenamed(m) },
		do: func(m *mount, _ *clock) {
			m.do(logical.UpdateOperation, "accounts/carol/rename", map[string]any{"new_name": "caroline"})
		},
		check: func(m *mount, _ *clock) { checkRenamed(m, "carol", "caroline") },
	},
	"destruction of an account": {
		prepare: func(m *mount, _ *clock) { toBeRenamed(m) },
		do:      func(m *mount, _ *clock) { m.do(logical.DeleteOperation, "destroy/carol", nil) },
		check:   func(m *mount, _ *clock) { checkRemoved(m, "carol") },
	},
	"destruction of a deleted account": {
		prepare: func(m *mount, _ *clock) { toBeRenamed(m) },
		do: func(m *mount, at *clock) {
			m.do(logical.DeleteOperation, "accounts/carol", nil)
			m.due(at, "carol")
		},
		check: func(m *mount, _ *clock) { checkRemoved(m, "carol") },
	},
	"enrol": {
		prepare: func(m *mount, _ *clock) { m.up(eu1) },
		do:      func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "config/nodes/eu-1", m.enrolment(eu1)) },
		check: func(m *mount, _ *clock) {
			m.enrolNode(eu1) // with another token
			if s := m.fake.settings(); len(s.Remote) != 1 || newestOf(s.WrappingKeys, "eu") == nil {
				m.t.Errorf("%d nodes on other hosts, wrapping keys %v", len(s.Remote), s.WrappingKeys)
			}
			all := m.must(logical.ReadOperation, "config/coordinator", nil)
			for _, r := range m.fake.enroller.requests { // one certificate, whatever happened
				if string(r.Client.Certificate) != all["certificate"] {
					m.t.Error("nodes were shown different certificates")
				}
			}
		},
	},
	"move": {
		prepare: func(m *mount, _ *clock) {
			m.enrolNode(eu1)
			m.enrolNode(us1)
			m.must(logical.UpdateOperation, "config/nodes", map[string]any{"region": "ap"})
			m.names(eu1, us1)
		},
		do: func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "accounts/alice/move", nil) },
		check: func(m *mount, _ *clock) {
			m.signs("alice")
			m.must(logical.UpdateOperation, "accounts/alice/move", nil)
			m.onlyAtHome("alice")
			if a := m.accountOf("alice"); len(a.Homes) != a.Record.Shares {
				m.t.Errorf("homes: %v", a.Homes)
			}
		},
	},
	"rewrap": {
		prepare: func(m *mount, _ *clock) { m.rotate() },
		do:      func(m *mount, _ *clock) { _, _ = m.b.RewrapAccount(context.Background(), "alice") },
		check:   checkRewrap,
	},
	"rewrap that is taken back": {
		prepare: func(m *mount, _ *clock) { m.rotate() },
		do: func(m *mount, _ *clock) {
			m.fake.garbage = true
			_, _ = m.b.RewrapAccount(context.Background(), "alice")
		},
		check: checkRewrap,
	},
	"rotate": {
		do: func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "wrapping-keys/rotate", nil) },
		check: func(m *mount, _ *clock) {
			m.pass() // what was begun is finished
			ring, err := m.b.store.keyring(context.Background())
			if err != nil {
				m.t.Fatal(err)
			}
			if live := ring.in(stateLive); len(live) != 1 || live[0].KeyVersion != ring.newest().KeyVersion {
				m.t.Errorf("%d versions are live", len(live))
			}
			next := m.rotate()
			if next != ring.newest().KeyVersion+1 {
				m.t.Errorf("after %d comes %d", ring.newest().KeyVersion, next)
			}
			m.rewrap("alice")
			if v := m.record("alice").Current.WrappingVersion; v != next {
				m.t.Errorf("rewrapped to %d, not %d", v, next)
			}
		},
	},
	"nodes' keys": {
		prepare: func(m *mount, _ *clock) {
			if err := m.b.store.PutNodeKeys(context.Background(), "local-2", nodeKeys(1)); err != nil {
				m.t.Fatal(err)
			}
			m.rotate()
		},
		do: func(m *mount, _ *clock) { m.pass() },
		check: func(m *mount, at *clock) {
			at.add(keeperBackoffMax)
			m.pass()
			if got := m.references(2); !strings.HasSuffix(got, "/2") {
				m.t.Errorf("references to version 2: %s", got)
			}
		},
	},
	"deletion of an identity": {
		prepare: func(m *mount, _ *clock) { toBeDeleted(m) },
		do:      func(m *mount, _ *clock) { m.do(logical.DeleteOperation, "identities/ada", nil) },
		check:   func(m *mount, _ *clock) { checkDeleted(m) },
	},
	"deletion of an authenticator": {
		prepare: func(m *mount, _ *clock) {
			toBeDeleted(m)
			m.must(logical.DeleteOperation, "identities/ada", nil)
		},
		do:    func(m *mount, _ *clock) { m.do(logical.DeleteOperation, "authenticators/ada-password", nil) },
		check: func(m *mount, _ *clock) { checkDeleted(m) },
	},
	"identity keys": {
		do: func(m *mount, _ *clock) { _, _ = m.b.identityServerKey(context.Background()) },
		check: func(m *mount, _ *clock) {
			stored := &identityKeysRecord{}
			was, err := m.b.store.get(m.t.Context(), keyIdentityKeys, stored)
			if err != nil {
				m.t.Fatal(err)
			}
			registration := m.registers(loginID, 5)
			if now, err := m.b.store.identityKeys(m.t.Context()); err != nil || was && !bytes.Equal(now.Envelope, stored.Envelope) {
				m.t.Errorf("keys that were stored are replaced: %v", err)
			}
			if err := m.logsIn(loginID, registration, 5); err != nil {
				m.t.Error(err)
			}
		},
	},
	"identity keys follow": {
		prepare: func(m *mount, _ *clock) {
			m.stores("ada", m.registers(loginID, 5))
			m.rotate()
		},
		do: func(m *mount, _ *clock) { m.pass() },
		check: func(m *mount, at *clock) {
			at.add(keeperBackoffMax)
			m.pass()
			if got := m.loginReferences(2); !strings.HasSuffix(got, "/1") {
				m.t.Errorf("references to version 2: %s", got)
			}
			r := &authenticatorRecord{}
			if ok, err := m.b.store.get(m.t.Context(), prefixAuthentic+"ada", r); !ok || err != nil {
				m.t.Fatal(err)
			}
			if err := m.logsIn(loginID, r.Registration, 5); err != nil {
				m.t.Errorf("a registration from before: %v", err)
			}
		},
	},
	"join of a domain": {
		prepare: func(m *mount, _ *clock) {
			m.rotate()
			m.enrolled("eu-1", "eu", 10)
		},
		do:    func(m *mount, _ *clock) { m.pass() },
		check: func(m *mount, at *clock) { checkDomains(m, at, 2, "default", "eu") },
	},
	"rotate in domains": {
		prepare: inDomains,
		do:      func(m *mount, _ *clock) { m.do(logical.UpdateOperation, "wrapping-keys/rotate", nil) },
		check: func(m *mount, at *clock) {
			newest := uint32(1)
			if ring, err := m.b.store.keyring(context.Background()); err != nil {
				m.t.Fatal(err)
			} else if newest = ring.newest().KeyVersion; newest > 2 {
				m.t.Errorf("the newest version is %d", newest)
			}
			checkDomains(m, at, newest, "default", "ap", "eu")
			checkDomains(m, at, m.rotate(), "default", "ap", "eu")
		},
	},
	"rewrap in domains": {
		prepare: func(m *mount, at *clock) {
			inDomains(m, at)
			m.rotate()
		},
		do:    func(m *mount, _ *clock) { _, _ = m.b.RewrapAccount(context.Background(), "carol") },
		check: func(m *mount, at *clock) { checkDomains(m, at, 2, "default", "ap", "eu") },
	},
	"destroy in domains": {
		prepare: func(m *mount, at *clock) {
			inDomains(m, at)
			m.rotate()
			for _, name := range []string{"alice", "bob", "carol"} {
				m.rewrap(name)
			}
			m.pass()
			m.leaves("ap-1") // which carol keeps from being gone from version 2
			at.add(defaultRetireAfter)
		},
		do: func(m *mount, _ *clock) { m.pass() },
		check: func(m *mount, at *clock) {
			at.add(keeperBackoffMax)
			m.pass()
			d := m.version(1)
			if d["state"] != "destroyed" || fmt.Sprint(d["left_behind"]) != "[ap]" || m.fake.inToken("default") != 1 || m.fake.inToken("eu") != 1 || m.fake.inToken("ap") != 2 {
				m.t.Errorf("version 1: %v, in tokens %d, %d, %d", d, m.fake.inToken("default"), m.fake.inToken("eu"), m.fake.inToken("ap"))
			}
			m.enrolled("ap-1", "ap", 11)
			checkDomains(m, at, 2, "default", "ap", "eu")
		},
	},
	"destroy": {
		prepare: toBeDestroyed,
		do:      func(m *mount, _ *clock) { m.pass() },
		check: func(m *mount, at *clock) {
			at.add(keeperBackoffMax)
			m.pass()
			if d := m.version(1); d["state"] != "destroyed" || len(m.fake.token) != 1 {
				m.t.Errorf("version 1: %v, %d keys in the token", d, len(m.fake.token))
			}
			m.rotate()
			m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
		},
	},
}

// inDomains makes an account with a share in each of three domains.
func inDomains(m *mount, _ *clock) {
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0})
	m.enrolled("eu-1", "eu", 10)
	m.enrolled("ap-1", "ap", 11)
	m.pass()
	m.spread("carol")
}

// checkDomains finishes what was begun. Then the newest version has one key in each
// domain, all of them are in their tokens, nothing was taken from a version that is
// there, and all accounts get to it.
func checkDomains(m *mount, at *clock, newest uint32, domains ...string) {
	m.t.Helper()
	at.add(keeperBackoffMax)
	m.pass()
	ring, err := m.b.store.keyring(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	if got := ring.newest(); got == nil || got.KeyVersion != newest || fmt.Sprint(domainNames(got)) != fmt.Sprint(domains) || len(ring.lacking()) != 0 {
		m.t.Fatalf("the newest version is %+v, not %d in %v", got, newest, domains)
	}
	if live := ring.in(stateLive); len(live) != 1 {
		m.t.Errorf("%d versions are live", len(live))
	}
	for _, r := range ring.usable() {
		for _, d := range r.parts() {
			if k, ok := m.fake.token[string(d.ID)]; !ok || k.Version != r.KeyVersion || k.Domain != d.Domain {
				m.t.Errorf("version %d of %s is not in its token", r.KeyVersion, d.Domain)
			}
		}
	}
	names, err := m.b.store.accountNames(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range names {
		m.signs(name)
		m.rewrap(name)
		m.signs(name)
		if r := m.record(name); r.refers().sealed != newest || r.Previous != nil {
			m.t.Errorf("%s is sealed to version %d", name, r.refers().sealed)
		}
	}
}

func checkRewrap(m *mount, _ *clock) {
	unsettled := m.record("alice").Previous != nil
	records, err := m.b.Schedule(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, r := range records { // what is left over is the runner's to finish
		if at, due := rotation.NextRewrap(r, m.b.runner.Policy(), rotation.Wrapping{}); r.Key == "alice" && (due != unsettled || !at.IsZero()) {
			m.t.Errorf("unsettled: %v, due: %v at %v", unsettled, due, at)
		}
	}
	m.rewrap("alice")
	if r := m.record("alice"); r.Previous != nil || r.Current.WrappingVersion != 2 {
		m.t.Errorf("after another rewrap: version %d, previous kept: %v", r.Current.WrappingVersion, r.Previous != nil)
	}
	if got := m.references(1); got != "1/1" { // bob and local-1
		m.t.Errorf("references to version 1: %s", got)
	}
}

// toBeDeleted makes an identity with assets.
func toBeDeleted(m *mount) {
	if _, err := m.b.identityServerKey(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	ada := newPerson(m, "ada-password").store()
	o := ada.creates("ada")
	for _, name := range []string{"bank", "mail"} {
		m.puts("ada", name, secretOf(m.t, o, name, name, "owner"))
	}
}

// checkDeleted deletes what is left, which is always possible, and in the order in
// which it is needed.
func checkDeleted(m *mount) {
	if _, status, _ := m.do(logical.ReadOperation, "identities/ada", nil); status == http.StatusOK {
		m.must(logical.ListOperation, "identities/ada/assets", nil)
		m.must(logical.DeleteOperation, "identities/ada", nil)
	}
	if _, status, _ := m.do(logical.ReadOperation, "authenticators/ada-password", nil); status == http.StatusOK {
		m.must(logical.DeleteOperation, "authenticators/ada-password", nil)
	}
	for _, key := range keys(m.t, m.storage) {
		if strings.HasPrefix(key, prefixAssets) || strings.HasPrefix(key, prefixIdentities) || strings.HasPrefix(key, prefixAuthentic) || strings.HasPrefix(key, prefixAuthLocks) {
			m.t.Errorf("%s is left", key)
		}
	}
	newPerson(m, "ada-password").store()
}

func toBeDestroyed(m *mount, at *clock) {
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0})
	m.rotate()
	m.rewrap("alice")
	m.rewrap("bob")
	m.pass()
	at.add(defaultRetireAfter)
}

// killer stops a mount at a step: from then on it is as dead as its process
// would be.
type killer struct {
	storage *crashing
	at      string
	skip    int // times that the step is passed before
	met     []string
}

func (k *killer) step(_ context.Context, name string) error {
	if k.met = append(k.met, name); name != k.at {
		return nil
	}
	if k.skip--; k.skip >= 0 {
		return nil
	}
	k.storage.mu.Lock()
	defer k.storage.mu.Unlock()
	k.storage.dead = true
	return errCrash
}

// TestCrashAtEveryStep stops every operation at each of its steps, starts again
// on what was stored and on the token as it was left, and checks that no
// account is lost, that keys stay, that everything signs, and that the operation
// gets through.
func TestCrashAtEveryStep(t *testing.T) {
	met := map[string]bool{}
	for name, c := range stepTests {
		steps := crashAt(t, name, c, "", 0)
		if len(steps) == 0 {
			t.Fatalf("%s has no steps", name)
		}
		for i, step := range steps {
			met[step] = true
			skip := timesIn(steps[:i], step)
			t.Run(fmt.Sprintf("%s/%d %s", name, i, step), func(t *testing.T) { crashAt(t, name, c, step, skip) })
		}
	}
	for _, s := range endSteps(t) {
		met[s] = true
	}
	for _, s := range everyStep {
		if !met[s] {
			t.Errorf("no test stops at %q", s)
		}
	}
}

// crashAt does an operation, dies when it comes to a step once more after so many
// times, starts again and checks. It returns the steps that were met.
func crashAt(t *testing.T, name string, c stepTest, at string, skip int) []string {
	t.Helper()
	clk, fake, base := newClock(), newFake(t), &logical.InmemStorage{}
	m := wrapped(t, base, fake, clk)
	if c.prepare != nil {
		c.prepare(m, clk)
	}
	keys := map[string]any{}
	for _, account := range []string{"alice", "bob"} {
		keys[account] = m.must(logical.ReadOperation, "accounts/"+account, nil)["public_key_hex"]
	}
	m.b.Cleanup(context.Background())

	k := &killer{storage: &crashing{Storage: base, left: 1 << 30}, at: at, skip: skip}
	m = wrapped(t, k.storage, fake, clk, func(cfg *Config) { cfg.step = k.step })
	c.do(m, clk)
	if at != "" && !k.storage.dead {
		t.Fatalf("%s did not come to %q", name, at)
	}
	m.b.Cleanup(context.Background())
	fake.garbage, fake.spare = false, false

	m = wrapped(t, snapshot(t, base), fake, clk)
	sound := func() {
		t.Helper()
		for account, key := range keys {
			m.signs(account)
			if now := m.must(logical.ReadOperation, "accounts/"+account, nil)["public_key_hex"]; now != key {
				t.Errorf("%s has another key", account)
			}
		}
	}
	sound()
	c.check(m, clk)
	sound()
	return k.met
}

func timesIn(steps []string, step string) int {
	return len(slices.DeleteFunc(slices.Clone(steps), func(s string) bool { return s != step }))
}

// endSteps stops destroy/wrapping-keys at each of its steps.
func endSteps(t *testing.T) []string {
	var steps []string
	for i := -1; i < len(steps); i++ {
		at, skip := "", 0
		if i >= 0 {
			at = steps[i]
			skip = timesIn(steps[:i], at)
		}
		t.Run(fmt.Sprintf("end/%d %s", i, at), func(t *testing.T) {
			clk, fake, base := newClock(), newFake(t), &logical.InmemStorage{}
			m := wrapped(t, base, fake, clk)
			m.registers(loginID, 5)
			m.rotate()
			for _, name := range []string{"alice", "bob"} {
				m.must(logical.DeleteOperation, "destroy/"+name, nil)
			}
			m.b.Cleanup(context.Background())
			k := &killer{storage: &crashing{Storage: base, left: 1 << 30}, at: at, skip: skip}
			m = openWith(t, k.storage, fake, func(cfg *Config) { cfg.now, cfg.step = clk.now, k.step })
			m.do(logical.UpdateOperation, "destroy/wrapping-keys", nil)
			if i < 0 {
				steps = k.met
			} else if !k.storage.dead {
				t.Fatalf("did not come to %q", at)
			}
			m.b.Cleanup(context.Background())

			m = openWith(t, snapshot(t, base), fake, func(cfg *Config) { cfg.now = clk.now })
			d := m.must(logical.UpdateOperation, "destroy/wrapping-keys", nil)
			if len(fake.token) != 0 || fmt.Sprint(d["destroyed"]) != "[1 2]" {
				t.Errorf("%d keys in the token, %v", len(fake.token), d)
			}
			left := strings.Join(keys(t, m.storage), " ")
			if strings.Contains(left, keyHSM) || strings.Contains(left, prefixNodeKeys) || strings.Contains(left, keyIdentityKeys) {
				t.Errorf("left: %s", left)
			}
			configure(m)
			if d := m.must(logical.ReadOperation, "config/hsm", nil); d["wrapping_version"] != 3 {
				t.Errorf("begins again with version %v", d["wrapping_version"])
			}
			m.create("alice", "ed25519")
			m.signs("alice")
		})
	}
	return steps
}

// TestCrashAtEveryWrite does the same with storage that fails at each write,
// before or after it took effect.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, name := range []string{"refresh with custody", "rewrap with custody", "create with custody", "rename", "destruction of an account", "rewrap", "rewrap that is taken back", "rotate", "destroy", "join of a domain", "rotate in domains", "rewrap in domains", "destroy in domains", "nodes' keys", "deletion of an identity", "deletion of an authenticator", "identity keys", "identity keys follow"} {
		c := stepTests[name]
		for _, late := range []bool{false, true} {
			for n, through := 0, false; !through; n++ {
				t.Run(fmt.Sprintf("%s/late=%v/write=%d", name, late, n), func(t *testing.T) {
					clk, fake, base := newClock(), newFake(t), &logical.InmemStorage{}
					m := wrapped(t, base, fake, clk)
					if c.prepare != nil {
						c.prepare(m, clk)
					}
					m.b.Cleanup(context.Background())
					s := &crashing{Storage: base, left: 1 << 30, late: late}
					m = wrapped(t, s, fake, clk)
					s.mu.Lock()
					s.left, s.wrote = n, 0
					s.mu.Unlock()
					c.do(m, clk)
					through = !s.dead
					if through && s.wrote == 0 {
						t.Fatal("the operation writes nothing: the test tests nothing")
					}
					m.b.Cleanup(context.Background())
					fake.garbage = false
					m = wrapped(t, snapshot(t, base), fake, clk)
					m.signs("alice")
					m.signs("bob")
					c.check(m, clk)
					m.signs("alice")
					m.signs("bob")
				})
			}
		}
	}
}

// TestStepsInWords: names are for people and for tests elsewhere, so they are
// all different.
func TestStepsInWords(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range everyStep {
		if seen[s] || !strings.Contains(s, ": ") {
			t.Errorf("%q", s)
		}
		seen[s] = true
	}
	b := &backend{cfg: Config{step: func(context.Context, string) error { return errCrash }}}
	if err := b.step(t.Context(), stepCreateMade); !errors.Is(err, errCrash) {
		t.Error(err)
	}
	if err := (&backend{}).step(t.Context(), stepCreateMade); err != nil {
		t.Error(err)
	}
}
