package backend

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

const testPhone = "+41791234567"

// webhook is a server that takes codes.
func webhook(t *testing.T, status int) (url string, codes <-chan codeMessage, headers <-chan string) {
	t.Helper()
	got, auth := make(chan codeMessage, 64), make(chan string, 64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m codeMessage
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.Method != http.MethodPost {
			t.Errorf("the webhook got %s: %v", r.Method, err)
		}
		got <- m
		auth <- r.Header.Get("Authorization")
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s.URL, got, auth
}

// release asks for the server's part.
func (m *mount) release(challenge map[string]any, in map[string]any) (*identity.Keys, map[string]any, int, string) {
	m.t.Helper()
	once, err := identity.NewKeys(identity.NewSeed())
	m.ok(err)
	body := map[string]any{"challenge": challenge["challenge"], "client_public": encode64(once.Public().Seal)}
	for k, v := range in {
		body[k] = v
	}
	out, status, msg := m.send("login/release", body)
	return once, out, status, msg
}

// releases has the part released and logs in with it.
func (p *member) releases(challenge map[string]any, in map[string]any) *client {
	p.m.t.Helper()
	once, out, status, msg := p.m.release(challenge, in)
	if status != http.StatusOK {
		p.m.t.Fatalf("login/release: %d %s", status, msg)
	}
	part, err := once.Open(identity.ServerPartContext(p.a.ID), p.m.bytes(out, "sealed_part"))
	p.m.ok(err)
	known := *p
	known.serverPart = part // and not what was kept from the registration
	return known.loginWith(challenge)
}

func TestPhone(t *testing.T) {
	m, clock, storage := loginMount(t)
	hook, codes, headers := webhook(t, http.StatusAccepted)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": hook, "phone_webhook_header": "Bearer for-the-webhook"})
	p := m.enrol("alice-phone", identity.Phone, "", testPhone, nil)
	challenge := p.challenge()
	if challenge["phone_sent"] != true {
		t.Errorf("%v", challenge)
	}
	sent := <-codes
	if sent.Phone != testPhone || len(sent.Code) != 6 || strings.Trim(sent.Code, "0123456789") != "" || sent.Expires != challenge["expires_time"] {
		t.Errorf("the webhook got %+v", sent)
	}
	if h := <-headers; h != "Bearer for-the-webhook" {
		t.Errorf("the webhook's header is %q", h)
	}
	c := p.releases(challenge, map[string]any{"code": sent.Code})
	c.does(identity.ReadOperation, "authenticators/alice-phone", nil)
	// The code is good for once.
	if _, _, status, _ := m.release(challenge, map[string]any{"code": sent.Code}); status != http.StatusForbidden {
		t.Errorf("the same code again: %d", status)
	}

	// Names without a phone: the same words at every step, and nothing is sent.
	writes := storage.writes()
	said := map[string][]string{}
	for _, name := range []string{"alice-phone", "nobody"} {
		clock.pass(2 * maxCodeWait)
		ask := func() (map[string]any, int, string) {
			return m.send("login/challenge", map[string]any{"authenticator": name, "kind": "phone"})
		}
		challenge, status, _ := ask()
		if status != http.StatusOK || challenge["phone_sent"] != true {
			t.Fatalf("%s: %d %v", name, status, challenge)
		}
		_, status, msg := ask() // too soon
		said[name] = append(said[name], msg)
		if status != http.StatusForbidden || !strings.Contains(msg, "ask again in") {
			t.Errorf("%s: a second code at once: %d %s", name, status, msg)
		}
		for range codeTries {
			_, _, status, msg := m.release(challenge, map[string]any{"code": wrongCode(m, challenge)})
			said[name] = append(said[name], msg)
			if status != http.StatusForbidden || !strings.Contains(msg, "login failed") {
				t.Errorf("%s: a wrong code: %d %s", name, status, msg)
			}
		}
		// Three wrong ones end it, for the right one too.
		k, err := m.b.tickets.open(challenge["challenge"].(string), clock.now())
		m.ok(err)
		_, _, status, msg = m.release(challenge, map[string]any{"code": m.b.tickets.code(k)})
		said[name] = append(said[name], msg)
		if status != http.StatusForbidden {
			t.Errorf("%s: the right code after three wrong ones: %d", name, status)
		}
		clock.pass(time.Minute)
		_, _, status, msg = m.release(challenge, map[string]any{"code": m.b.tickets.code(k)})
		said[name] = append(said[name], msg)
		if status != http.StatusForbidden {
			t.Errorf("%s: the right code after three wrong ones and a minute: %d", name, status)
		}
	}
	if a, b := strings.Join(said["alice-phone"], "\n"), strings.Join(said["nobody"], "\n"); a != b {
		t.Errorf("a phone:\n%s\nnone:\n%s", a, b)
	}
	m.settleLocks()
	if n := storage.writes() - writes; n != 1 { // the lock of alice-phone
		t.Errorf("%d writes", n)
	}
	if n := len(codes); n != 1 {
		t.Errorf("%d codes were sent", n)
	}
	for _, secret := range []string{sent.Code, testPhone, "for-the-webhook"} {
		if strings.Contains(m.logs.String(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

func wrongCode(m *mount, challenge map[string]any) string {
	k, err := m.b.tickets.open(challenge["challenge"].(string), m.b.cfg.now())
	m.ok(err)
	if m.b.tickets.code(k) == "000000" {
		return "000001"
	}
	return "000000"
}

// TestPhoneWithPIN: the server's part alone opens nothing.
func TestPhoneWithPIN(t *testing.T) {
	m, _, _ := loginMount(t)
	hook, codes, _ := webhook(t, http.StatusOK)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": hook})
	p := m.enrol("alice-phone", identity.Phone, "2468", testPhone, func(a *identity.Authenticator) { a.PIN = true })
	challenge := p.challenge()
	if challenge["pin"] != true {
		t.Errorf("%v", challenge)
	}
	code := (<-codes).Code
	once, out, status, msg := m.release(challenge, map[string]any{"code": code})
	if status != http.StatusOK {
		t.Fatal(status, msg)
	}
	part, err := once.Open(identity.ServerPartContext(p.a.ID), m.bytes(out, "sealed_part"))
	m.ok(err)
	thief := *p
	thief.serverPart, thief.info = part, "1357"
	if b := m.begin(challenge, thief.loginSecret()); b.wrong == nil {
		t.Error("a wrong PIN opens it")
	}
	p.loginWith(challenge)
}

// TestLostPhone gets no codes, and who asks learns nothing.
func TestLostPhone(t *testing.T) {
	m, clock, _ := loginMount(t)
	hook, codes, _ := webhook(t, http.StatusOK)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": hook})
	p := m.enrol("alice-phone", identity.Phone, "", testPhone, nil)
	challenge := p.challenge()
	code := (<-codes).Code
	m.must(logical.UpdateOperation, "authenticators/alice-phone/lost", nil)
	if _, _, status, msg := m.release(challenge, map[string]any{"code": code}); status != http.StatusConflict || !strings.Contains(msg, "lost") {
		t.Errorf("the right code for a lost phone: %d %s", status, msg)
	}
	clock.pass(maxCodeWait)
	if got := p.challenge(); got["phone_sent"] != true {
		t.Errorf("%v", got)
	}
	m.b.tasks.Wait()
	if len(codes) != 0 {
		t.Error("a lost phone got a code")
	}
}

// TestWebhookTrouble: a webhook that fails is told to the log alone, and all its
// slots are given back.
func TestWebhookTrouble(t *testing.T) {
	m, clock, _ := loginMount(t)
	hook, _, _ := webhook(t, http.StatusTeapot)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": hook + "/?key=in-the-url"})
	p := m.enrol("alice-phone", identity.Phone, "", testPhone, nil)
	for range 3 {
		p.challenge()
		clock.pass(maxCodeWait)
	}
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": "http://127.0.0.1:1/?key=in-the-url"})
	p.challenge()
	m.b.tasks.Wait()
	log := m.logs.String()
	if strings.Count(log, "a one-time code was not sent") != 4 || !strings.Contains(log, "status 418") || strings.Contains(log, "in-the-url") || strings.Contains(log, testPhone) {
		t.Errorf("the log says:\n%s", log)
	}
	if n := len(m.b.codeSlots); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
	for range maxCodesSent {
		m.b.codeSlots <- struct{}{}
	}
	for _, name := range []string{"alice-phone", "nobody"} {
		m.fails(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": name, "kind": "phone"}, http.StatusServiceUnavailable, "none was sent")
	}
}

// TestAnsweredIsBounded: challenges that were answered take a bounded memory.
func TestAnsweredIsBounded(t *testing.T) {
	clock := newSteadyClock()
	a := newAnswered(clock.now)
	for i := range maxAnswered + 100 {
		a.try(&ticket{Nonce: [16]byte{1, byte(i), byte(i >> 8), byte(i >> 16)}, Expires: clock.now().Add(challengeTTL)}, "1", "2")
	}
	if len(a.tries) > maxAnswered || len(a.order) > maxAnswered {
		t.Errorf("%d challenges are remembered", len(a.tries))
	}
	clock.pass(challengeTTL + time.Second)
	a.try(&ticket{Expires: clock.now()}, "1", "2")
	if len(a.tries) != 1 {
		t.Errorf("%d challenges are remembered that are over", len(a.tries))
	}
}
