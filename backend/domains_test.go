package backend

import (
	"crypto/ed25519"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// enrolled adds a node on another host, as its enrolment leaves it in storage.
func (m *mount) enrolled(id, domain string, number int) {
	m.t.Helper()
	if r, err := m.b.store.coordinator(m.t.Context()); err != nil {
		m.t.Fatal(err)
	} else if r == nil {
		certificate, key, err := nodelink.NewCertificate("test", time.Now().Add(time.Hour))
		if err != nil {
			m.t.Fatal(err)
		}
		own := &coordinatorRecord{Version: recordVersion, Certificate: string(certificate), Key: string(key.Expose()), Made: true, Updated: time.Now()}
		if err := m.b.store.put(m.t.Context(), keyCoordinator, own); err != nil {
			m.t.Fatal(err)
		}
	}
	if _, err := m.b.mountForNodes(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	r := &remoteNodeRecord{Version: recordVersion, ID: id, Address: id + ":8300", Region: "region of " + domain, Domain: domain,
		Identity: nodeIdentity(number).String(), Pin: strings.Repeat("ab", 32), Enrolled: time.Now()}
	if err := m.b.store.put(m.t.Context(), prefixRemote+id, r); err != nil {
		m.t.Fatal(err)
	}
	if err := m.b.applyChange(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

// leaves removes a node on another host.
func (m *mount) leaves(id string) {
	m.t.Helper()
	if err := m.b.store.delete(m.t.Context(), prefixRemote+id); err != nil {
		m.t.Fatal(err)
	}
	if err := m.b.applyChange(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

// domained is wrapped with nodes in the domains eu and ap, which have joined.
func domained(t *testing.T, storage logical.Storage, fake *fakeEngine, at *clock, change ...func(*Config)) *mount {
	t.Helper()
	m := wrapped(t, storage, fake, at, change...)
	if all, err := m.b.store.remoteNodes(t.Context()); err != nil {
		t.Fatal(err)
	} else if len(all) == 0 {
		m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0})
		m.enrolled("eu-1", "eu", 10)
		m.enrolled("ap-1", "ap", 11)
		m.pass()
	}
	return m
}

// spread makes an account with a share in each of three domains.
func (m *mount) spread(name string) {
	m.t.Helper()
	m.must(logical.UpdateOperation, "accounts/"+name, map[string]any{"algorithm": "ed25519", "refresh_period": longPeriod})
	got := map[string]bool{}
	for _, e := range m.record(name).Current.Shares {
		got[recovery.WrappingDomain(e)] = true
	}
	if len(got) != 3 || len(m.record(name).Current.Homes) != 3 {
		m.t.Fatalf("%s lives in %v", name, got)
	}
}

// keyRecord returns the record of a version as it is in storage.
func (m *mount) keyRecord(version uint32) *wrappingRecord {
	m.t.Helper()
	r := &wrappingRecord{}
	if ok, err := m.b.store.get(m.t.Context(), wrappingKey(version), r); err != nil || !ok {
		m.t.Fatalf("version %d: %v", version, err)
	}
	return r
}

// inDomain returns what wrapping-keys/:version says of a domain.
func (m *mount) inDomain(version uint32, domain string) map[string]any {
	m.t.Helper()
	d, _ := m.version(version)["domains"].(map[string]any)[domain].(map[string]any)
	return d
}

// inToken counts a domain's keys in its token.
func (f *fakeEngine) inToken(domain string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.token {
		if k.Domain == domain {
			n++
		}
	}
	return n
}

// TestDomainJoins: a domain that comes into use gets a key of the newest version,
// which is added to its record, and nodes get it with the endorsement.
func TestDomainJoins(t *testing.T) {
	at, fake := newClock(), newFake(t)
	_, fake.endorser, _ = ed25519.GenerateKey(nil)
	m := wrapped(t, &logical.InmemStorage{}, fake, at)
	m.rotate()
	before := m.keyRecord(2)
	m.enrolled("eu-1", "eu", 10)
	fake.away["eu-1"] = true
	m.pass()
	d := m.version(2)
	if text := d["last_error"].(string); fmt.Sprint(d["missing"]) != "[eu]" || !strings.Contains(text, `"eu" has no key of this version yet`) || !strings.Contains(text, "eu-1 (restarting)") {
		t.Fatalf("while it is away: missing %v, %q", d["missing"], d["last_error"])
	}
	if e := m.must(logical.ReadOperation, "config/rotation", nil)["rewrap"].(map[string]any)["last_error"].(map[string]any); e["domain"] != "eu" || !strings.Contains(fmt.Sprint(e["error"]), "eu-1 (restarting)") {
		t.Errorf("config/rotation: %v", e)
	}
	m.signs("alice") // the others go on
	fake.away["eu-1"] = false
	at.add(keeperBackoffMax)
	m.pass()
	d = m.version(2)
	if len(d["missing"].([]string)) != 0 || d["last_error"] != "" || m.inDomain(2, "eu")["state"] != "in use" || m.inDomain(1, "eu") != nil {
		t.Fatalf("after it came back: %v", d)
	}
	after := m.keyRecord(2)
	if after.Created != before.Created || string(after.ID) != string(before.ID) || len(after.Domains) != 1 || after.Domains[0].Endorsement == nil || after.Endorsement == nil {
		t.Errorf("the record of the version: %+v", after)
	}
	s := fake.settings()
	var got []string
	for _, k := range s.WrappingKeys {
		got = append(got, fmt.Sprintf("%d %s", k.Version, k.Domain))
	}
	if fmt.Sprint(got) != "[1 default 2 default 2 eu]" || len(s.Endorsements) != 2 { // version 1 is of config/hsm, where none is given
		t.Errorf("nodes have %v and %d endorsements", got, len(s.Endorsements))
	}
	for _, e := range s.Endorsements {
		k := newestOf(s.WrappingKeys, e.Domain)
		if !hsm.VerifyKeyEndorsement(e.Identity[:], s.MountID, *k, e.Signature) {
			t.Errorf("the endorsement of %s is not for its key", e.Domain)
		}
	}
	made := fake.made
	m.pass()
	if err := m.b.joinDomain(t.Context(), "eu"); err != nil || fake.made != made {
		t.Errorf("joined twice: %v", err)
	}
	if err := m.b.joinDomain(t.Context(), "mars"); err == nil || !strings.Contains(err.Error(), "no node of this mount") {
		t.Errorf("a domain without nodes: %v", err)
	}
	m.must(logical.UpdateOperation, "accounts/bob/refresh", nil)
	m.signs("bob")
}

// TestRoundNeedsEveryDomain: nothing is made while a domain has no node.
func TestRoundNeedsEveryDomain(t *testing.T) {
	at, fake := newClock(), newFake(t)
	m := domained(t, &logical.InmemStorage{}, fake, at)
	m.spread("carol")
	made := fake.made
	fake.away["ap-1"] = true
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 503, `wrapping domain "ap" waits for one of its nodes, none of which is ready: ap-1 (restarting)`)
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": "24h"})
	at.add(24 * time.Hour)
	m.pass()
	e := m.must(logical.ReadOperation, "config/rotation", nil)["rewrap"].(map[string]any)["last_error"].(map[string]any)
	if !strings.Contains(fmt.Sprint(e["error"]), `"ap" waits for`) || !strings.Contains(m.version(1)["last_error"].(string), `"ap" waits for`) {
		t.Errorf("it is not said: %v, %v", e, m.version(1)["last_error"])
	}
	info := m.must(logical.ListOperation, "wrapping-keys/", nil)["key_info"].(map[string]any)["1"].(map[string]any)
	if !strings.Contains(info["last_error"].(string), `"ap" waits for`) || fmt.Sprint(info["domains"]) != "[default ap eu]" {
		t.Errorf("list: %v", info)
	}
	if fake.made != made || m.version(1)["newest"] != true {
		t.Fatal("a key was made all the same")
	}
	// A node of a later domain makes something else: what was made before it goes.
	fake.away["ap-1"] = false
	fake.makeMismatch = func(k *hsm.WrappingKey) {
		if k.Domain == "eu" {
			k.Version = 77
		}
	}
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 500, `wrapping domain "eu": a node made version 77`)
	if fake.inToken("default") != 1 || fake.inToken("ap") != 1 || fake.inToken("eu") != 2 {
		t.Errorf("in tokens: %d, %d, %d", fake.inToken("default"), fake.inToken("ap"), fake.inToken("eu"))
	}
	fake.makeMismatch = nil
	at.add(keeperBackoffMax)
	m.pass()
	r := m.keyRecord(2)
	if fmt.Sprint(domainNames(r)) != "[default ap eu]" || m.version(1)["state"] != "retired" || m.version(2)["last_error"] != "" {
		t.Fatalf("the round: %v, version 1 is %v", domainNames(r), m.version(1)["state"])
	}
	for _, d := range r.Domains {
		if d.TokenSerial != "serial of "+d.Domain {
			t.Errorf("token of %s: %q", d.Domain, d.TokenSerial)
		}
	}
	m.signs("carol")
	m.rewrap("carol")
	if got := m.record("carol"); got.refers().sealed != 2 || got.Previous != nil || len(got.Current.Homes) != 3 {
		t.Errorf("carol is sealed to %d, homes %v", got.refers().sealed, got.Current.Homes)
	}
	m.signs("carol")
}

// TestEndorsementIsChecked: what a node says for its key is verified before it is
// stored.
func TestEndorsementIsChecked(t *testing.T) {
	fake := newFake(t)
	_, fake.endorser, _ = ed25519.GenerateKey(nil)
	m := wrapped(t, &logical.InmemStorage{}, fake, newClock())
	made := &pool.MadeKey{Key: *fake.makeKey([16]byte{1}, "eu", 3)}
	made.Endorsement = pool.KeyEndorsement{Domain: "eu", Version: 3, Identity: mpc.NodeIdentity(fake.endorser.Public().(ed25519.PublicKey)),
		Signature: hsm.EndorseKey(fake.endorser, [16]byte{1}, made.Key)}
	suites := []hsm.Suite{hsm.SuiteHPKEP256}
	if err := checkMade(made, [16]byte{1}, "eu", 3, suites); err != nil {
		t.Fatal(err)
	}
	if err := checkMade(made, [16]byte{2}, "eu", 3, suites); err == nil || !strings.Contains(err.Error(), "endorsement") {
		t.Errorf("of another mount: %v", err)
	}
	made.Endorsement.Identity = nodeIdentity(1)
	if err := checkMade(made, [16]byte{1}, "eu", 3, suites); err == nil {
		t.Error("by another node")
	}
	if err := checkMade(made, [16]byte{1}, "ap", 3, suites); err == nil {
		t.Error("of another domain")
	}
	if err := checkMade(made, [16]byte{1}, "eu", 3, []hsm.Suite{hsm.SuiteRSA3072OAEPSHA256}); err == nil {
		t.Error("of another suite")
	}
	// A label is endorsed by nobody: it is ours, whatever the node calls its key.
	want := strings.Replace(m.keyRecord(1).Label, "v1", "v2", 1)
	fake.makeMismatch = func(k *hsm.WrappingKey) { k.Label = strings.Repeat("x", 1<<20) }
	m.rotate()
	if got := m.keyRecord(2).Label; got != want {
		t.Errorf("the key is stored as %.20q (%d bytes), want %q", got, len(got), want)
	}
}

// TestDestroyWithDomainAway: a version goes in every domain; one whose nodes are
// away keeps it in "destroying", and the others do not wait.
func TestDestroyWithDomainAway(t *testing.T) {
	at, fake := newClock(), newFake(t)
	m := domained(t, &logical.InmemStorage{}, fake, at)
	m.spread("carol")
	if err := m.b.store.PutNodeKeys(t.Context(), "eu-1", &pool.NodeKeys{Identity: nodeIdentity(10),
		Aux: &pool.AuxKeys{Generation: 1, Public: []byte("p"), Envelope: fakeSealed("eu", []byte("aux"), 1)}}); err != nil {
		t.Fatal(err)
	}
	m.rotate()
	if refs := m.inDomain(1, "eu")["references"].(map[string]any); refs["accounts"] != 1 || refs["node_keys"] != 1 {
		t.Errorf("in eu: %v", refs)
	}
	if refs := m.inDomain(1, "default")["references"].(map[string]any); refs["accounts"] != 3 || refs["node_keys"] != 1 {
		t.Errorf("in default: %v", refs)
	}
	for _, name := range []string{"alice", "bob"} {
		m.rewrap(name)
	}
	// A share whose domain is away keeps the account, and with it the version.
	fake.away["ap-1"] = true
	if _, err := m.b.RewrapAccount(t.Context(), "carol"); err == nil {
		t.Fatal("rewrapped without a domain")
	}
	at.add(defaultRetireAfter)
	m.pass()
	if d := m.version(1); d["state"] != "retired" || m.references(1) != "1/0" {
		t.Fatalf("version 1 is %v, with references %s", d["state"], m.references(1))
	}
	fake.away["ap-1"] = false
	m.rewrap("carol")
	if m.references(1) != "0/0" || m.references(2) != "3/2" {
		t.Errorf("references: %s and %s", m.references(1), m.references(2))
	}
	fake.away["ap-1"] = true
	at.add(keeperBackoffMax)
	m.pass()
	d := m.version(1)
	if text := d["last_error"].(string); d["state"] != "destroying" || !strings.Contains(text, `"ap"`) || !strings.Contains(text, "ap-1 (restarting)") || strings.Contains(text, `"eu"`) {
		t.Fatalf("version 1: %v %q", d["state"], d["last_error"])
	}
	if fake.inToken("default") != 1 || fake.inToken("eu") != 1 || fake.inToken("ap") != 2 {
		t.Errorf("in tokens: %d, %d, %d", fake.inToken("default"), fake.inToken("eu"), fake.inToken("ap"))
	}
	if m.inDomain(1, "eu")["state"] != "destroyed" || m.inDomain(1, "ap")["state"] != "in use" || d["destroyed_time"] != "" {
		t.Errorf("%v", d["domains"])
	}
	m.must(logical.UpdateOperation, "accounts/bob/refresh", nil)
	fake.away["ap-1"] = false
	at.add(keeperBackoffMax)
	m.pass()
	if d := m.version(1); d["state"] != "destroyed" || len(d["left_behind"].([]string)) != 0 || d["last_error"] != "" || fake.inToken("ap") != 1 {
		t.Fatalf("version 1: %v\n%s", d, m.logs)
	}
	for _, k := range fake.settings().WrappingKeys {
		if k.Version == 1 {
			t.Errorf("nodes still have version 1 of %s", k.Domain)
		}
	}
	m.signs("carol")
}

// TestDomainLeftBehind: a domain that no node of the mount is of any more keeps no
// version from being destroyed in the others, unless something is sealed to it.
func TestDomainLeftBehind(t *testing.T) {
	at, fake := newClock(), newFake(t)
	m := domained(t, &logical.InmemStorage{}, fake, at)
	m.spread("carol")
	for i, name := range []string{"alice", "bob", "carol"} {
		if i == 0 {
			m.rotate()
		}
		m.rewrap(name)
	}
	m.pass()
	m.leaves("eu-1")
	at.add(defaultRetireAfter)
	m.pass()
	d := m.version(1)
	if d["state"] != "destroyed" || fmt.Sprint(d["left_behind"]) != "[eu]" || m.inDomain(1, "eu")["state"] != "left behind" || fake.inToken("eu") != 2 || fake.inToken("ap") != 1 {
		t.Fatalf("version 1: %v\n%s", d, m.logs)
	}
	if log := m.logs.String(); !strings.Contains(log, "left behind in a token that no node of this mount can reach") || !strings.Contains(log, "[ERROR]") {
		t.Errorf("the log does not say so: %s", log)
	}
	// The next round goes without it; carol's share there keeps version 2.
	m.rotate()
	if fmt.Sprint(domainNames(m.keyRecord(3))) != "[default ap]" {
		t.Errorf("version 3 is in %v", domainNames(m.keyRecord(3)))
	}
	m.rewrap("alice")
	m.rewrap("bob")
	at.add(defaultRetireAfter)
	m.pass()
	if d := m.version(2); d["state"] != "retired" || m.references(2) != "1/0" {
		t.Errorf("version 2: %v with %s", d["state"], m.references(2))
	}
	// It comes back, gets a key of the newest version, and carol follows.
	m.enrolled("eu-1", "eu", 10)
	m.pass()
	m.rewrap("carol")
	at.add(keeperBackoffMax)
	m.pass()
	if d := m.version(2); d["state"] != "destroyed" || len(d["left_behind"].([]string)) != 0 || fake.inToken("eu") != 1 {
		t.Errorf("version 2: %v, %d keys in eu", d, fake.inToken("eu"))
	}
	if d := m.version(1); len(d["left_behind"].([]string)) != 0 || m.inDomain(1, "eu")["state"] != "destroyed" {
		t.Errorf("version 1, which was left behind: %v", d)
	}
	m.signs("carol")
}

// TestRemoteOnlyMount: without config/hsm the first domain makes version 1, and the
// token of this host joins later.
func TestRemoteOnlyMount(t *testing.T) {
	fake := newFake(t)
	m := openWith(t, &logical.InmemStorage{}, fake, func(c *Config) { c.now = newClock().now })
	m.fails(logical.UpdateOperation, "wrapping-keys/rotate", nil, 400, "no HSM is configured")
	for i := range 3 {
		m.enrolled(fmt.Sprintf("eu-%d", i+1), "eu", 8+i)
	}
	fake.away["eu-1"], fake.away["eu-2"], fake.away["eu-3"] = true, true, true
	m.read()
	m.pass()
	fake.away = map[string]bool{}
	if err := m.b.joinDomain(t.Context(), "eu"); err != nil {
		t.Fatal(err)
	}
	m.pass()
	if r := m.keyRecord(1); len(r.ID) != 0 || r.Domain != "" || fmt.Sprint(domainNames(r)) != "[eu]" || fake.made != 1 {
		t.Fatalf("version 1: %+v", r)
	}
	if d := m.version(1); d["suite"] != "" || d["state"] != "live" || d["newest"] != true || m.inDomain(1, "eu")["suite"] != "hpke-p256" {
		t.Errorf("version 1: %v", d)
	}
	m.create("alice", "ed25519")
	m.signs("alice")
	m.create("bob", "ed25519")
	registration := m.registers(loginID, 5) // the identity keys live there as well
	if r := m.version(1)["references"].(map[string]any); r["identity_keys"] != 1 {
		t.Errorf("references: %v", r)
	}
	target, err := m.b.presentKeys(t.Context())
	if err != nil || len(target) != 1 || target[0].Domain != "eu" {
		t.Errorf("keys: %v %v", target, err)
	}
	if _, key, err := m.b.importKey(t.Context()); err != nil || key.Domain != "eu" {
		t.Errorf("custodians deal to %v: %v", key, err)
	}
	if v := m.rotate(); v != 2 {
		t.Errorf("version %d", v)
	}
	m.rewrap("alice")
	m.pass()
	if r := m.version(2)["references"].(map[string]any); r["identity_keys"] != 1 || r["accounts"] != 1 {
		t.Errorf("references: %v", r)
	}
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Error(err)
	}

	// A token on this host: its key is added to the version there is.
	before := m.must(logical.ReadOperation, "accounts/alice", nil)["public_key_hex"]
	configure(m)
	if d := m.must(logical.ReadOperation, "config/hsm", nil); d["wrapping_version"] != 2 || d["suite"] != "hpke-p256" {
		t.Errorf("config/hsm: %v", d)
	}
	if fmt.Sprint(domainNames(m.keyRecord(2))) != "[default eu]" || fmt.Sprint(domainNames(m.keyRecord(1))) != "[eu]" {
		t.Errorf("version 1 is in %v, version 2 in %v", domainNames(m.keyRecord(1)), domainNames(m.keyRecord(2)))
	}
	if v := m.rotate(); v != 3 {
		t.Errorf("version %d", v)
	}
	m.rewrap("alice")
	m.signs("alice")
	m.pass()
	if err := m.logsIn(loginID, registration, 5); err != nil {
		t.Errorf("with a token on this host: %v", err)
	}
	r := &identityKeysRecord{}
	if _, err := m.b.store.get(t.Context(), keyIdentityKeys, r); err != nil || recovery.WrappingDomain(r.Envelope) != "eu" || r.refers().sealed != 3 {
		t.Errorf("the identity keys are in %q, version %d (%v)", recovery.WrappingDomain(r.Envelope), r.refers().sealed, err)
	}
	if now := m.must(logical.ReadOperation, "accounts/alice", nil)["public_key_hex"]; now != before {
		t.Error("alice has another key")
	}
	// Its nodes are the only ones that open them; and they stay in their domain.
	for i := range 3 {
		last := i == 2
		if _, status, msg := m.do(logical.DeleteOperation, fmt.Sprintf("config/nodes/eu-%d", i+1), nil); last && (status != 400 || !strings.Contains(msg, "keep a node there") && !strings.Contains(msg, "alice")) {
			t.Errorf("the last node of eu was removed: %d %s", status, msg)
		}
	}
	if err := m.b.keepsLogins(t.Context(), &membership{local: 5}); err == nil || !strings.Contains(err.Error(), `identity keys are sealed in wrapping domain "eu"`) {
		t.Errorf("without nodes in eu: %v", err)
	}
	if err := m.b.keepsLogins(t.Context(), &membership{remote: []remoteNodeRecord{{Domain: "eu"}}}); err != nil {
		t.Error(err)
	}
	fake.identityReply = func(q *nodepb.IdentityRequest, r *nodepb.IdentityReply) {
		if q.GetRewrap() != nil {
			e, err := hsm.ParseEnvelope(r.GetKeysEnvelope())
			if err != nil {
				t.Fatal(err)
			}
			e.Holders[0].Seals[0].Domain = "default"
			if r.KeysEnvelope, err = e.Marshal(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.b.resealIdentityKeys(t.Context(), m.rotate()); err == nil || !strings.Contains(err.Error(), `sealed it to wrapping domain "default", and it lives in "eu"`) {
		t.Errorf("resealed in another domain: %v", err)
	}
	fake.identityReply = nil

	// Again, with another PIN or URI: nothing is made.
	made := fake.made
	configure(m)
	if fake.made != made {
		t.Error("another key was made")
	}
}

// TestEndOfDomains: the end of a mount is the end in every domain, or of none.
func TestEndOfDomains(t *testing.T) {
	fake := newFake(t)
	m := domained(t, &logical.InmemStorage{}, fake, newClock())
	m.rotate()
	for _, name := range []string{"alice", "bob"} {
		m.must(logical.DeleteOperation, "destroy/"+name, nil)
	}
	fake.away["eu-1"] = true
	m.fails(logical.UpdateOperation, endPath, nil, http.StatusServiceUnavailable, `wrapping domain "eu" waits for`)
	if m.version(2)["state"] != "live" || len(fake.token) != 6 {
		t.Error("marked although not every domain could be reached")
	}
	fake.away["eu-1"] = false
	m.leaves("ap-1")
	fake.mu.Lock()
	stray := fake.makeKey(fake.settings().MountID, "eu", 3)
	fake.mu.Unlock()
	d := m.must(logical.UpdateOperation, endPath, nil)
	if fmt.Sprint(d["destroyed"]) != "[1 2]" || fake.inToken("default") != 0 || fake.inToken("eu") != 1 || fake.inToken("ap") != 2 {
		t.Errorf("%v; in tokens %d, %d, %d", d, fake.inToken("default"), fake.inToken("eu"), fake.inToken("ap"))
	}
	others := d["other_tokens"].([]map[string]any)
	if len(others) != 2 || others[0]["domain"] != "ap" || others[1]["version"] != int64(2) {
		t.Errorf("left behind: %v", others)
	}
	strays := d["strays"].([]map[string]any)
	if d["strays_searched"] != true || len(strays) != 1 || strays[0]["domain"] != "eu" || strays[0]["key_id"] != fmt.Sprintf("%x", stray.ID) {
		t.Errorf("strays: %v", strays)
	}
	// The keeper makes nothing by itself after it.
	made := fake.made
	m.pass()
	if fake.made != made {
		t.Error("a version was made after the end")
	}
	if v := m.rotate(); v != 3 || fmt.Sprint(domainNames(m.keyRecord(3))) != "[eu]" {
		t.Errorf("begun again with version %d", v)
	}
}

// TestSealsOfShares: what shares may be sealed to.
func TestSealsOfShares(t *testing.T) {
	share := func(i int, envelope []byte) mpc.WrappedShare {
		return mpc.WrappedShare{Index: mpc.Index(i), Envelope: envelope}
	}
	in := func(domain string, versions ...uint32) []byte { return fakeSealed(domain, []byte(domain), versions...) }
	both, err := (&hsm.Envelope{Ciphertext: make([]byte, 20), Holders: []hsm.Holder{{Kind: hsm.HolderDomain, Seals: []hsm.SealedKey{
		{Suite: hsm.SuiteHPKEP256, Domain: "default", Version: 3, Sealed: make([]byte, 113)},
		{Suite: hsm.SuiteHPKEP256, Domain: "eu", Version: 3, Sealed: make([]byte, 113)},
	}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := (&hsm.Envelope{Ciphertext: make([]byte, 20), Holders: []hsm.Holder{{Kind: hsm.HolderDomain, Seals: []hsm.SealedKey{
		{Suite: hsm.SuiteHPKEP256, Domain: "recovery:bank", Version: 3, Sealed: make([]byte, 113)},
	}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	homes := []mpc.Home{{Domain: "default"}, {Domain: "eu"}}
	for what, c := range map[string]struct {
		shares []mpc.WrappedShare
		homes  []mpc.Home
		text   string
	}{
		"at home":              {[]mpc.WrappedShare{share(1, in("default", 3)), share(2, in("eu", 3))}, homes, ""},
		"no homes":             {[]mpc.WrappedShare{share(1, in("default", 3)), share(2, in("default", 3))}, nil, ""},
		"swapped":              {[]mpc.WrappedShare{share(1, in("eu", 3)), share(2, in("default", 3))}, homes, `share 1: nodes sealed it to wrapping domain "eu", and it lives in "default"`},
		"another version":      {[]mpc.WrappedShare{share(1, in("default", 3)), share(2, in("eu", 2))}, homes, "version 3 of the wrapping key alone"},
		"two domains":          {[]mpc.WrappedShare{share(1, both), share(2, in("eu", 3))}, homes, `share 1: nodes sealed it to wrapping domain "eu"`},
		"two domains, no home": {[]mpc.WrappedShare{share(1, both), share(2, in("eu", 3))}, nil, "sealed it to 2 wrapping keys"},
		"a custodian alone":    {[]mpc.WrappedShare{share(1, in("default", 3)), share(2, recipient)}, homes, "sealed it to 0 wrapping keys"},
		"too few homes":        {[]mpc.WrappedShare{share(1, in("default", 3)), share(2, in("eu", 3))}, homes[:1], "homes for 1 of 2 shares"},
	} {
		_, err := envelopesOf(c.shares, 2, 3, c.homes)
		if (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	a := &mpc.Account{Shares: []mpc.WrappedShare{share(1, in("default", 3)), share(2, in("eu", 3))}}
	if err := sharesWithin(a, []string{"eu", "ap"}); err == nil || !strings.Contains(err.Error(), `share 1 to wrapping domain "default"`) {
		t.Errorf("outside of what was asked for: %v", err)
	}
	if err := sharesWithin(a, []string{"eu", "default"}); err != nil {
		t.Error(err)
	}
	// A rewrap keeps a share in its domain, with or without homes.
	moved := &pool.RewrapResult{WrappingVersion: 4, Shares: []mpc.WrappedShare{share(1, in("default", 4)), share(2, in("ap", 4))}}
	if _, err := checkRewrapped(a, moved, 4); err == nil || !strings.Contains(err.Error(), `"ap", and it lives in "eu"`) {
		t.Errorf("a rewrap that moves a share: %v", err)
	}
	moved.Shares[1] = share(2, in("eu", 4))
	if _, err := checkRewrapped(a, moved, 4); err != nil {
		t.Error(err)
	}
}

// TestDomainNames: names of recipients and of domains cannot be mixed up.
func TestDomainNames(t *testing.T) {
	for _, name := range []string{"recovery:bank", "recovery:", "a:b", ""} {
		if checkDomain(name) == nil {
			t.Errorf("%q is a domain", name)
		}
	}
	if isWrappingDomain("recovery:bank") || !isWrappingDomain("default") || !isWrappingDomain("eu") {
		t.Error("recipients are taken for domains")
	}
	got := []string{"us", "default", "ap", "default"}
	slices.SortFunc(got, compareDomains)
	if fmt.Sprint(got) != "[default default ap us]" {
		t.Errorf("order: %v", got)
	}
}
