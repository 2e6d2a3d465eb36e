package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func TestEnrolment(t *testing.T) {
	m := approvable(t)
	card, err := rsa.GenerateKey(rand.Reader, 2048)
	m.ok(err)
	p := m.newPhone()
	p.certificate = card
	l := m.opensEnrolment("alice")
	if s := m.enrolmentState(l); s != "open" {
		t.Errorf("it is %s", s)
	}
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": "1234-5678"}, http.StatusConflict, "no device of this approver waits")
	body, code := p.offer(l)
	if out := m.must(logical.UpdateOperation, "approve/enrol/finish", body); out["code"] != code {
		t.Errorf("the server says %v, the device %s", out["code"], code)
	}
	if s := m.enrolmentState(l); s != "offered" {
		t.Errorf("it is %s", s)
	}
	if got := m.must(logical.ReadOperation, "approvers/alice", nil); len(got["factors"].([]map[string]any)) != 0 {
		t.Errorf("what was not confirmed counts: %v", got)
	}
	info := m.must(logical.ListOperation, "approvers/alice/enrolments/", nil)["key_info"].(map[string]any)[l.enrolment].(map[string]any)
	if info["state"] != "offered" || len(info["factors"].([]map[string]any)) != 3 || info["tries_left"] != 3 || info["label"] != "phone" {
		t.Errorf("the operator sees %v", info)
	}
	// As people type it.
	out := m.must(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": strings.ReplaceAll(code, "-", " "), "enrolment": l.enrolment})
	factors := out["factors"].([]map[string]any)
	if len(factors) != 3 || factors[0]["name"] != "Alice's phone" || factors[0]["device"] != factors[2]["device"] || factors[0]["checked_by"] != "nodes" {
		t.Errorf("the factors are %v", factors)
	}
	if s := m.enrolmentState(l); s != "confirmed" {
		t.Errorf("it is %s", s)
	}
	// The keys are those that policies pin, with the IDs that the device computes.
	a := policyNaming(t, m, "alice").Approvers[0]
	for _, k := range p.keys() {
		if a.Key(k.ID()) == nil {
			t.Errorf("there is no %s with ID %s", k.Kind, k.ID())
		}
	}
	if k := a.Keys[1]; k.RPID != "vault.example.com" || !slices.Equal(k.Origins, []string{testPublicURL}) {
		t.Errorf("the passkey is %v", k)
	}
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": code, "enrolment": l.enrolment}, http.StatusConflict, "confirmed before")
	m.fails(logical.UpdateOperation, "approve/enrol/finish", body, http.StatusConflict, "was confirmed")
	m.fails(logical.UpdateOperation, "approve/enrol", l.body(), http.StatusConflict, "was confirmed")
	for _, secret := range []string{l.secret, code} {
		if strings.Contains(m.logs.String(), secret) {
			t.Error("the log has the link's secret or the code")
		}
	}
}

// TestEnrolmentLink: the link leads to the page, or to mpckms where there is none.
func TestEnrolmentLink(t *testing.T) {
	m := configured(t)
	m.must(logical.UpdateOperation, "approvers/bob", map[string]any{"no_entity": true})
	resp, _, _ := m.do(logical.UpdateOperation, "approvers/bob/enrol", nil)
	if link := resp.Data["link"].(string); !strings.HasPrefix(link, "mpc:#e=") || len(resp.Warnings) != 1 {
		t.Errorf("the link is %s, %v", link, resp.Warnings)
	}
	l := openedLink{resp.Data["enrolment"].(string), resp.Data["secret"].(string)}
	p := &phone{m: m, device: p256(t)}
	body, _ := p.offer(l)
	// A passkey belongs to a site.
	p.passkey = newPasskey(t, &uiRecord{RPID: "vault.example.com", PublicURL: testPublicURL})
	with, _ := p.offer(l)
	m.fails(logical.UpdateOperation, "approve/enrol/finish", with, http.StatusBadRequest, "names no public_url")
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)

	m.must(logical.UpdateOperation, "config/ui", map[string]any{"public_url": testPublicURL})
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "approvers/bob/enrol", Data: map[string]any{}, Storage: m.storage, MountPoint: "mpc/"}
	resp, err := m.b.HandleRequest(t.Context(), req)
	m.ok(err)
	if link := resp.Data["link"].(string); link != testPublicURL+"/v1/mpc/ui/phone#e="+resp.Data["enrolment"].(string)+"&s="+resp.Data["secret"].(string) {
		t.Errorf("the link is %s", link)
	}
}

// TestEnrolmentNeedsNodes: without a mount ID there is nothing to sign for.
func TestEnrolmentNeedsNodes(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	m.must(logical.UpdateOperation, "approvers/bob", map[string]any{"no_entity": true})
	m.fails(logical.UpdateOperation, "approvers/bob/enrol", nil, http.StatusBadRequest, "has no nodes yet")
}

func TestEnrolmentBounds(t *testing.T) {
	m := approvable(t)
	for _, c := range []struct {
		in   map[string]any
		text string
	}{
		{map[string]any{"ttl": "16m"}, "1m to 15m"},
		{map[string]any{"ttl": "59s"}, "1m to 15m"},
		{map[string]any{"ttl": 0}, "1m to 15m"},
		{map[string]any{"label": strings.Repeat("x", 129)}, "128 bytes"},
		{map[string]any{"label": "a\x1b[2Jb"}, "printable"},
	} {
		m.fails(logical.UpdateOperation, "approvers/alice/enrol", c.in, http.StatusBadRequest, c.text)
	}
	m.fails(logical.UpdateOperation, "approvers/bob/enrol", nil, http.StatusNotFound, "there is no approver")
	m.fails(logical.ListOperation, "approvers/bob/enrolments/", nil, http.StatusNotFound, "there is no approver")
	for range maxOpenOfApprover {
		m.opensEnrolment("alice")
	}
	m.fails(logical.UpdateOperation, "approvers/alice/enrol", nil, http.StatusConflict, "are open")
	// In all.
	for i := range maxOpenEnrolments - maxOpenOfApprover {
		if i%maxOpenOfApprover == 0 {
			m.must(logical.UpdateOperation, "approvers/a"+hex.EncodeToString([]byte{byte(i)}), map[string]any{"no_entity": true})
		}
		m.opensEnrolment("a" + hex.EncodeToString([]byte{byte(i - i%maxOpenOfApprover)}))
	}
	m.must(logical.UpdateOperation, "approvers/bob", map[string]any{"no_entity": true})
	m.fails(logical.UpdateOperation, "approvers/bob/enrol", nil, http.StatusConflict, "wait some minutes")
}

// TestEnrolmentSecret: what there is not and what is not shown right are answered
// alike, and counted.
func TestEnrolmentSecret(t *testing.T) {
	at := newClock()
	m := openAt(t, &logical.InmemStorage{}, newFake(t), at.now)
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	m.must(logical.UpdateOperation, "approvers/alice", map[string]any{"no_entity": true})
	l := m.opensEnrolment("alice")
	texts := map[string]bool{}
	other := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for _, path := range []string{"approve/enrol", "approve/enrol/state", "approve/enrol/finish"} {
		for _, in := range []openedLink{
			{strings.Repeat("00", 16), l.secret}, {strings.Repeat("01", 16), other}, {l.enrolment, other},
			{"", ""}, {"x", l.secret}, {strings.ToUpper(l.enrolment), l.secret}, {"../" + l.enrolment, l.secret},
		} {
			if in.enrolment == l.enrolment && path == "approve/enrol/finish" {
				continue // one less than what locks it
			}
			status, msg := m.statusOfSend(path, in.body())
			if status != http.StatusForbidden {
				t.Errorf("%s %v: %d %s", path, in, status, msg)
			}
			texts[msg] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("one can tell them apart: %v", slices.Collect(maps.Keys(texts)))
	}
	// 32 zero bytes are no secret of what is not there; nor is less or more.
	for _, secret := range []string{l.secret[:42], l.secret + "AA"} {
		if status, _ := m.statusOfSend("approve/enrol/state", openedLink{l.enrolment, secret}.body()); status != http.StatusForbidden {
			t.Errorf("%q: %d", secret, status)
		}
	}
	if s := m.enrolmentState(l); s != "open" {
		t.Errorf("it is %s", s)
	}
	// After five in a row the right one waits as well; one that there is not is
	// treated alike.
	for _, id := range []string{l.enrolment, strings.Repeat("02", 16)} {
		for range 5 {
			m.fails(logical.UpdateOperation, "approve/enrol/state", openedLink{id, other}.body(), http.StatusForbidden, "no such enrolment")
		}
		m.fails(logical.UpdateOperation, "approve/enrol/state", openedLink{id, l.secret}.body(), http.StatusTooManyRequests, "too many wrong secrets")
	}
	at.add(time.Minute)
	if s := m.enrolmentState(l); s != "open" {
		t.Errorf("it is %s", s)
	}
}

// TestEnrolmentEnds by its time.
func TestEnrolmentEnds(t *testing.T) {
	at := newClock()
	m := openAt(t, &logical.InmemStorage{}, newFake(t), at.now)
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	m.must(logical.UpdateOperation, "approvers/alice", map[string]any{"no_entity": true})
	p := &phone{m: m, device: p256(t)}
	open, offered := m.opensEnrolment("alice"), m.opensEnrolment("alice")
	body, code := p.offer(offered)
	late, _ := p.offer(open)
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)
	at.add(defaultEnrolmentTTL)
	for _, l := range []openedLink{open, offered} {
		if s := m.enrolmentState(l); s != "ended" {
			t.Errorf("it is %s", s)
		}
	}
	m.fails(logical.UpdateOperation, "approve/enrol", open.body(), http.StatusConflict, "has ended")
	m.fails(logical.UpdateOperation, "approve/enrol/finish", late, http.StatusConflict, "has ended")
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": code}, http.StatusConflict, "no device of this approver waits")
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": code, "enrolment": offered.enrolment}, http.StatusConflict, "its time is over")
	if got := m.must(logical.ListOperation, "approvers/alice/enrolments/", nil); len(got) != 0 {
		t.Errorf("listed are %v", got)
	}
	fresh := m.opensEnrolment("alice") // which removes those as well
	if ids := m.storedUnder(prefixEnrolments); !slices.Equal(ids, []string{fresh.enrolment}) {
		t.Errorf("stored are %v", ids)
	}
	at.add(defaultEnrolmentTTL)
	m.b.expireEnrolments()
	release, err := m.b.people.take(t.Context())
	m.ok(err)
	release()
	if ids := m.storedUnder(prefixEnrolments); len(ids) != 0 {
		t.Errorf("stored are %v", ids)
	}
	m.fails(logical.UpdateOperation, "approve/enrol/state", fresh.body(), http.StatusForbidden, "no such enrolment")
}

func (m *mount) storedUnder(prefix string) []string {
	m.t.Helper()
	ids, err := m.storage.List(m.t.Context(), prefix)
	m.ok(err)
	return ids
}

// TestEnrolmentCodes: the third wrong code ends it.
func TestEnrolmentCodes(t *testing.T) {
	m := approvable(t)
	l := m.opensEnrolment("alice")
	body, code := m.newPhone().offer(l)
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)
	for _, text := range []string{"", "1234", "1234-567", "1234-56789", "abcd-efgh", "١٢٣٤٥٦٧٨"} {
		m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": text}, http.StatusBadRequest, "not counted")
	}
	wrong := "0000-0000"
	if code == wrong {
		wrong = "0000-0001"
	}
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": wrong}, http.StatusForbidden, "2 more are taken")
	// Over a restart.
	m = reopened(t, m)
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": wrong}, http.StatusForbidden, "1 more are taken")
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": wrong}, http.StatusForbidden, "that was the third")
	m.fails(logical.UpdateOperation, "approvers/alice/confirm", map[string]any{"code": code, "enrolment": l.enrolment}, http.StatusConflict, "three wrong codes")
	out := m.must(logical.UpdateOperation, "approve/enrol/state", l.body())
	if out["state"] != "ended" || out["reason"] != "three wrong codes were given" {
		t.Errorf("the device is told %v", out)
	}
	if got := m.must(logical.ReadOperation, "approvers/alice", nil); len(got["factors"].([]map[string]any)) != 0 {
		t.Errorf("alice has %v", got)
	}
}

// reopened is the same storage with another backend, as after a restart.
func reopened(t *testing.T, m *mount) *mount {
	t.Helper()
	m.b.Cleanup(t.Context())
	return open(t, m.storage, m.fake)
}

// TestEnrolmentUsedTwice: whoever comes second with other keys is told so, and so is
// the operator, and neither device is enrolled.
func TestEnrolmentUsedTwice(t *testing.T) {
	m := approvable(t)
	l := m.opensEnrolment("alice")
	thief, alice := m.newPhone(), m.newPhone()
	begun := m.must(logical.UpdateOperation, "approve/enrol", l.body())
	again := m.must(logical.UpdateOperation, "approve/enrol", l.body())
	if begun["challenge"] != again["challenge"] {
		t.Error("a page that is loaded again has another challenge")
	}
	stolen, code := thief.offerFor(l, begun)
	own, _ := alice.offerFor(l, begun)
	m.must(logical.UpdateOperation, "approve/enrol/finish", stolen)
	m.fails(logical.UpdateOperation, "approve/enrol", l.body(), http.StatusConflict, "WARNING")
	// The same device once more changes nothing.
	m.fails(logical.UpdateOperation, "approve/enrol/finish", stolen, http.StatusConflict, "offered its keys already")
	if s := m.enrolmentState(l); s != "offered" {
		t.Errorf("it is %s", s)
	}
	m.fails(logical.UpdateOperation, "approve/enrol/finish", own, http.StatusConflict, "WARNING")
	m.fails(logical.UpdateOperation, "approve/enrol/finish", stolen, http.StatusConflict, "WARNING")
	for _, in := range []map[string]any{{"code": code}, {"code": code, "enrolment": l.enrolment}} {
		m.fails(logical.UpdateOperation, "approvers/alice/confirm", in, http.StatusConflict, "WARNING")
	}
	out := m.must(logical.UpdateOperation, "approve/enrol/state", l.body())
	if out["state"] != "ended" || !strings.Contains(out["reason"].(string), "somebody else has it") {
		t.Errorf("the device is told %v", out)
	}
	info := m.must(logical.ListOperation, "approvers/alice/enrolments/", nil)["key_info"].(map[string]any)[l.enrolment].(map[string]any)
	if info["state"] != "ended" || info["reason"] != out["reason"] {
		t.Errorf("the operator sees %v", info)
	}
	// Another enrolment works, and its code is not taken for the first.
	alice.enrols("alice")
}

// TestEnrolmentOfOthers: a key belongs to one approver, as one factor.
func TestEnrolmentOfOthers(t *testing.T) {
	m := approvable(t)
	m.must(logical.UpdateOperation, "approvers/bob", map[string]any{"no_entity": true})
	alice := m.newPhone()
	alice.enrols("alice")
	try := func(name string, p *phone, text string) {
		t.Helper()
		body, _ := p.offer(m.opensEnrolment(name))
		m.fails(logical.UpdateOperation, "approve/enrol/finish", body, http.StatusConflict, text)
	}
	try("bob", &phone{m: m, device: alice.device}, "enrolled already")
	other := m.newPhone()
	other.passkey.credential = alice.passkey.credential
	try("bob", other, "enrolled already")
	try("bob", &phone{m: m, device: p256(t), certificate: alice.device}, "enrolled already")
	// Nor for the approver itself as another kind; nor the same once more.
	try("alice", &phone{m: m, device: p256(t), certificate: alice.device}, "enrolled already")
	try("alice", &phone{m: m, device: alice.device}, "already")
	// But her device may bring another factor.
	card, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	m.ok(err)
	out := (&phone{m: m, device: alice.device, certificate: card}).enrols("alice")
	if n := len(out["factors"].([]map[string]any)); n != 3 {
		t.Errorf("alice has %d factors", n)
	}
	// Two enrolments offer the same key at once: the second is not confirmed.
	one := &phone{m: m, device: p256(t)}
	codes := map[string]string{}
	m.b.people.links = newLimiter(time.Now)
	m.must(logical.UpdateOperation, "approvers/carol", map[string]any{"no_entity": true})
	m.must(logical.UpdateOperation, "approvers/dave", map[string]any{"no_entity": true})
	for _, name := range []string{"carol", "dave"} {
		body, code := one.offer(m.opensEnrolment(name))
		m.must(logical.UpdateOperation, "approve/enrol/finish", body)
		codes[name] = code
	}
	if codes["carol"] == codes["dave"] {
		t.Error("both have the same code")
	}
	m.must(logical.UpdateOperation, "approvers/dave/confirm", map[string]any{"code": codes["dave"]})
	m.fails(logical.UpdateOperation, "approvers/carol/confirm", map[string]any{"code": codes["carol"]}, http.StatusConflict, "enrolled already")
}

// TestEnrolmentOfDeleted: it ends with its approver, also where another of that name
// comes.
func TestEnrolmentOfDeleted(t *testing.T) {
	m := approvable(t)
	l := m.opensEnrolment("alice")
	body, _ := m.newPhone().offer(l)
	m.must(logical.DeleteOperation, "approvers/alice", nil)
	m.must(logical.UpdateOperation, "approvers/alice", map[string]any{"no_entity": true})
	m.fails(logical.UpdateOperation, "approve/enrol/finish", body, http.StatusForbidden, "no such enrolment")
	if ids := m.storedUnder(prefixEnrolments); len(ids) != 0 {
		t.Errorf("stored are %v", ids)
	}
}

// TestEnrolmentAtOnce: of devices that finish at the same time, one is offered at
// most, and nothing can be confirmed once two have come.
func TestEnrolmentAtOnce(t *testing.T) {
	m := approvable(t)
	l := m.opensEnrolment("alice")
	begun := m.must(logical.UpdateOperation, "approve/enrol", l.body())
	bodies := make([]map[string]any, 4)
	for i := range bodies {
		bodies[i], _ = m.newPhone().offerFor(l, begun)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	took := 0
	for _, body := range bodies {
		wg.Go(func() {
			req := &logical.Request{Operation: logical.UpdateOperation, Path: "approve/enrol/finish", Data: body, Storage: m.storage}
			resp, err := m.b.HandleRequest(t.Context(), req)
			status, _ := answer(resp, err)
			mu.Lock()
			defer mu.Unlock()
			switch status {
			case http.StatusOK:
				took++
			case http.StatusConflict:
			default:
				t.Errorf("%d", status)
			}
		})
	}
	wg.Wait()
	if took != 1 {
		t.Errorf("%d were offered", took)
	}
	if s := m.enrolmentState(l); s != "ended" {
		t.Errorf("it is %s", s)
	}
}

// TestEnrolmentCrash: after a stop at any write, before it or after it, what was
// begun is finished by doing it again, and nothing is there twice.
func TestEnrolmentCrash(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := range 5 {
			m := approvable(t)
			p, l := m.newPhone(), m.opensEnrolment("alice")
			crash := &crashing{Storage: m.storage, left: n, late: late}
			m.b.Cleanup(t.Context())
			c := open(t, crash, m.fake)
			code := p.walk(c, l)
			c.b.Cleanup(t.Context())
			after := open(t, m.storage, m.fake)
			if again := p.walk(after, l); again != "" {
				code = again
			}
			got := after.must(logical.ReadOperation, "approvers/alice", nil)
			if n := len(got["factors"].([]map[string]any)); n != 2 || code == "" {
				t.Errorf("write %d, late %v: alice has %d factors, the code was %q", n, late, n, code)
			}
		}
	}
}

// walk enrols as far as it gets, and returns the code as far as there is one.
func (p *phone) walk(m *mount, l openedLink) string {
	code := ""
	begun, status, _ := m.send("approve/enrol", l.body())
	if status == http.StatusOK {
		p.m = m
		var body map[string]any
		body, code = p.offerFor(l, begun)
		m.send("approve/enrol/finish", body)
	} else {
		// What the device knows is not lost by a server's restart.
		mount, err := m.b.mountID(m.t.Context())
		r, err2 := m.b.store.approver(m.t.Context(), "alice")
		if err != nil || err2 != nil {
			return ""
		}
		p.m = m
		code = approval.EnrolCode(mount, idOf(m.t, l.enrolment), idOf(m.t, r.ID), p.keys())
	}
	m.send("approvers/alice/confirm", map[string]any{"code": code, "enrolment": l.enrolment})
	return code
}

// TestOfferRefused: every lie about keys.
func TestOfferRefused(t *testing.T) {
	m := approvable(t)
	card, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	m.ok(err)
	p := m.newPhone()
	p.certificate = card
	l := m.opensEnrolment("alice")
	good, code := p.offer(l)
	set := func(object, member string, value any) func(map[string]any) {
		return func(b map[string]any) {
			o := maps.Clone(b[object].(map[string]any))
			o[member] = value
			b[object] = o
		}
	}
	without := func(field string) func(map[string]any) { return func(b map[string]any) { delete(b, field) } }
	tooBig := &rsa.PublicKey{N: card.X, E: 65537}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	m.ok(err)
	sum := sha256.Sum256([]byte("x"))
	raw, err := ecdsa.SignASN1(rand.Reader, p.device, sum[:])
	m.ok(err)
	for name, c := range map[string]struct {
		change func(map[string]any)
		status int
		text   string
	}{
		"no device":              {without("device"), 400, "device is missing"},
		"empty device":           {func(b map[string]any) { b["device"] = map[string]any{} }, 400, "device is missing"},
		"device is a text":       {func(b map[string]any) { b["device"] = "x" }, 400, "device must be"},
		"other member":           {set("device", "pin", "x"), 400, "unknown field"},
		"name is a number":       {set("device", "name", 5), 400, "must be a text"},
		"name of control codes":  {set("device", "name", "a\x07"), 400, "printable"},
		"long name":              {set("device", "name", strings.Repeat("x", 129)), 400, "128 bytes"},
		"no public key":          {set("device", "public", ""), 400, "is missing"},
		"public key, not base64": {set("device", "public", "%%%"), 400, "in base64"},
		"long public key":        {set("device", "public", strings.Repeat("A", 4096)), 400, "in base64"},
		"public key of nothing":  {set("device", "public", "AAAA"), 400, "not a SubjectPublicKeyInfo"},
		"device on P-384":        {set("device", "public", b64(spki(t, card.Public()))), 400, "cannot have a public key of this kind"},
		"certificate on P-521":   {set("certificate", "public", b64(spki(t, p521.Public()))), 400, "cannot have a public key of this kind"},
		"short RSA":              {set("certificate", "public", b64(spki(t, tooBig))), 400, "kind"},
		"another device key":     {set("device", "public", b64(spki(t, &p256(t).PublicKey))), 403, "device's key is not over"},
		"another certificate":    {set("certificate", "public", b64(spki(t, &p256(t).PublicKey))), 403, "device's key is not over"},
		"certificate unproven":   {set("certificate", "signature", b64(raw)), 403, "certificate's key is not over"},
		"signature of 63 bytes":  {set("device", "signature", b64(make([]byte, 63))), 403, "device's key is not over"},
		"DER for r and s":        {set("device", "signature", b64(raw)), 403, "device's key is not over"},
		"no certificate":         {without("certificate"), 403, "device's key is not over"},
		"no passkey":             {without("passkey"), 403, "device's key is not over"},
		"transports a text":      {set("passkey", "transports", "usb"), 400, "list of texts"},
		"transports too many":    {set("passkey", "transports", slices.Repeat([]any{"usb"}, 9)), 400, "more than 8"},
		"transports odd":         {set("passkey", "transports", []any{"<script>"}), 400, "must be texts"},
		"transports numbers":     {set("passkey", "transports", []any{1}), 400, "must be texts"},
		"attestation not CBOR":   {set("passkey", "attestation_object", "AAAA"), 403, "was not enrolled"},
		"attestation too long":   {set("passkey", "attestation_object", strings.Repeat("A", 40000)), 400, "in base64"},
		"client data not JSON":   {set("passkey", "client_data_json", "AAAA"), 403, "was not enrolled"},
		"unknown field":          {func(b map[string]any) { b["totp"] = "1" }, 400, "unknown field"},
	} {
		body := maps.Clone(good)
		c.change(body)
		status, msg := m.statusOfSend("approve/enrol/finish", body)
		if status != c.status || !strings.Contains(msg, c.text) {
			t.Errorf("%s: %d %s", name, status, msg)
		}
	}
	// A certificate with the device's own key would be one key for two kinds.
	same := &phone{m: m, device: p.device, certificate: p.device}
	body, _ := same.offer(l)
	m.fails(logical.UpdateOperation, "approve/enrol/finish", body, http.StatusBadRequest, "same key")
	// Nothing of it was taken: the device goes on.
	if out := m.must(logical.UpdateOperation, "approve/enrol/finish", good); out["code"] != code {
		t.Errorf("%v", out)
	}
	// For another enrolment it is worth nothing.
	other := m.opensEnrolment("alice")
	m.must(logical.UpdateOperation, "approve/enrol", other.body())
	moved := maps.Clone(good)
	maps.Copy(moved, other.body())
	delete(moved, "passkey")
	m.fails(logical.UpdateOperation, "approve/enrol/finish", moved, http.StatusForbidden, "device's key is not over")
}
