package keyholder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func withTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

// browseAs goes to a name below localhost, which it resolves itself.
func (b *softBrowser) browseAs(address, site string) error {
	raw, err := named(http.MethodGet, address+"task", site, nil)
	if err != nil {
		return err
	}
	b.visited = append(b.visited, address)
	task := &passkeyTask{}
	if err := json.Unmarshal(raw, task); err != nil {
		return err
	}
	task.Origin, _, _ = strings.Cut(address, "/"+address[len(address)-44:])
	answer, err := b.answer(task)
	if err != nil {
		return err
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = named(http.MethodPost, address+"answer", site, body)
	b.status = http.StatusNoContent
	return err
}

func named(method, address, site string, body []byte) ([]byte, error) {
	origin := "http://" + strings.SplitN(strings.TrimPrefix(address, "http://"), "/", 2)[0]
	req, err := http.NewRequest(method, strings.Replace(address, site, "127.0.0.1", 1), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Host = strings.TrimPrefix(origin, "http://")
	req.Header.Set("Origin", origin)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return nil, errors.New(resp.Status)
	}
	var out bytes.Buffer
	_, err = out.ReadFrom(resp.Body)
	return out.Bytes(), err
}

// served is a page that nobody has been to, and what await returns.
func served(t *testing.T, ctx context.Context, limit time.Duration) (*passkeyPage, *passkeyTask, func() (*passkeyAnswer, error)) {
	t.Helper()
	task := &passkeyTask{Name: "ada", Site: "localhost", Salt: make([]byte, 32), Credential: []byte{1}}
	p, err := servePasskey(ctx, 0, task)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		a   *passkeyAnswer
		err error
	}
	done := make(chan result, 1)
	go func() {
		a, err := p.await(ctx, limit)
		done <- result{a, err}
	}()
	return p, task, func() (*passkeyAnswer, error) {
		r := <-done
		return r.a, r.err
	}
}

const anAnswer = `{"output":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}`

// TestPasskeyPageKeepsOthersOut: wrong requests change nothing, and the right one is
// taken after all of them.
func TestPasskeyPageKeepsOthersOut(t *testing.T) {
	p, _, await := served(t, t.Context(), time.Minute)
	origin, address := p.origin, p.address()
	for name, c := range map[string]struct {
		method, path, host, origin, kind, site, body string
		status                                       int
	}{
		"no token":           {path: "/", status: http.StatusNotFound},
		"another token":      {path: "/" + token() + "/", status: http.StatusNotFound},
		"half a token":       {path: "/" + p.token[:20] + "/", status: http.StatusNotFound},
		"no such file":       {path: "/" + p.token + "/passkey/page.js", status: http.StatusNotFound},
		"task, other token":  {path: "/" + token() + "/task", status: http.StatusNotFound},
		"by address":         {host: "127.0.0.1:" + p.port, status: http.StatusMisdirectedRequest},
		"rebound name":       {host: "evil.example:" + p.port, status: http.StatusMisdirectedRequest},
		"no port":            {host: "localhost", status: http.StatusMisdirectedRequest},
		"a page is written":  {method: http.MethodPut, status: http.StatusMethodNotAllowed},
		"an answer is read":  {method: http.MethodGet, path: "/" + p.token + "/answer", status: http.StatusMethodNotAllowed},
		"answer, no token":   {method: http.MethodPost, path: "/answer", body: anAnswer, status: http.StatusNotFound},
		"answer, token":      {method: http.MethodPost, path: "/" + token() + "/answer", body: anAnswer, status: http.StatusNotFound},
		"answer, host":       {method: http.MethodPost, path: "/" + p.token + "/answer", host: "evil.example", body: anAnswer, status: http.StatusMisdirectedRequest},
		"answer, no origin":  {method: http.MethodPost, path: "/" + p.token + "/answer", origin: "-", body: anAnswer, status: http.StatusForbidden},
		"answer, other page": {method: http.MethodPost, path: "/" + p.token + "/answer", origin: "http://localhost:1", body: anAnswer, status: http.StatusForbidden},
		"answer, null":       {method: http.MethodPost, path: "/" + p.token + "/answer", origin: "null", body: anAnswer, status: http.StatusForbidden},
		"answer, cross-site": {method: http.MethodPost, path: "/" + p.token + "/answer", site: "same-site", body: anAnswer, status: http.StatusForbidden},
		"answer, a form":     {method: http.MethodPost, path: "/" + p.token + "/answer", kind: "text/plain", body: anAnswer, status: http.StatusUnsupportedMediaType},
		"answer, nothing":    {method: http.MethodPost, path: "/" + p.token + "/answer", status: http.StatusRequestEntityTooLarge},
		"answer, too long":   {method: http.MethodPost, path: "/" + p.token + "/answer", body: strings.Repeat(" ", maxPasskeyAnswer) + anAnswer, status: http.StatusRequestEntityTooLarge},
		"answer, no JSON":    {method: http.MethodPost, path: "/" + p.token + "/answer", body: "output", status: http.StatusBadRequest},
		"answer, more in it": {method: http.MethodPost, path: "/" + p.token + "/answer", body: `{"x":1}`, status: http.StatusBadRequest},
		"answer, twice":      {method: http.MethodPost, path: "/" + p.token + "/answer", body: anAnswer + anAnswer, status: http.StatusBadRequest},
		"answer, bad error":  {method: http.MethodPost, path: "/" + p.token + "/answer", body: `{"error":"<b>x"}`, status: http.StatusBadRequest},
	} {
		or := func(s, or string) string {
			if s == "" {
				return or
			}
			return s
		}
		req, err := http.NewRequest(or(c.method, http.MethodGet), origin+or(c.path, "/"+p.token+"/"), strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = or(c.host, p.host)
		req.Header.Set("Content-Type", or(c.kind, "application/json"))
		if req.Header.Set("Origin", or(c.origin, origin)); c.origin == "-" {
			req.Header.Del("Origin")
		}
		if c.site != "" {
			req.Header.Set("Sec-Fetch-Site", c.site)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != c.status || resp.Header.Get("Content-Security-Policy") != passkeyPolicy || resp.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %s, %v", name, resp.Status, resp.Header)
		}
	}
	if status, err := post(address+"answer", origin, []byte(anAnswer)); err != nil || status != http.StatusNoContent {
		t.Fatalf("the answer: %d, %v", status, err)
	}
	a, err := await()
	if err != nil || len(a.Output) != 32 || a.Output[31] != 31 {
		t.Fatalf("%+v, %v", a, err)
	}
}

// TestPasskeyPageTakesOneAnswer: the first one, and the second is told; of many at a
// time one.
func TestPasskeyPageTakesOneAnswer(t *testing.T) {
	slow, err := servePasskey(t.Context(), 0, &passkeyTask{Name: "ada", Site: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body string
		want int
	}{{anAnswer, http.StatusNoContent}, {`{"error":"stopped"}`, http.StatusConflict}} {
		if status, err := post(slow.address()+"answer", slow.origin, []byte(c.body)); err != nil || status != c.want {
			t.Errorf("%s: %d, %v", c.body, status, err)
		}
	}
	if a, err := slow.await(t.Context(), time.Minute); err != nil || a.Error != "" || len(a.Output) != 32 {
		t.Errorf("%+v, %v", a, err)
	}

	p, _, await := served(t, t.Context(), time.Minute)
	statuses := make(chan int, 16)
	var all sync.WaitGroup
	for range cap(statuses) {
		all.Go(func() {
			status, err := post(p.address()+"answer", p.origin, []byte(anAnswer))
			if err != nil {
				status = 0 // the server had ended
			}
			statuses <- status
		})
	}
	if a, err := await(); err != nil || len(a.Output) != 32 {
		t.Fatalf("%+v, %v", a, err)
	}
	all.Wait()
	close(statuses)
	took := 0
	for status := range statuses {
		if status == http.StatusNoContent {
			took++
		} else if status != http.StatusConflict && status != 0 {
			t.Errorf("one was told %d", status)
		}
	}
	if took != 1 {
		t.Errorf("%d answers were taken", took)
	}
	if _, err := http.Get(p.address()); err == nil {
		t.Error("it is served on")
	}
}

// TestPasskeyPageAbandoned: whoever waits can stop, and everything has ended then.
func TestPasskeyPageAbandoned(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, _, await := served(t, ctx, time.Minute)
	if _, err := fetch(p.address()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if a, err := await(); !errors.Is(err, context.Canceled) || a != nil {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := http.Get(p.address()); err == nil {
		t.Error("it is served on")
	}
	if !p.answered.Load() {
		t.Error("it takes answers on")
	}
}

// TestPasskeyPageListens on both loopback addresses, so that nobody else is localhost at
// this port; where one is taken, on none.
func TestPasskeyPageListens(t *testing.T) {
	listeners, err := listenLoopback(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range listeners {
		defer l.Close()
		if a := l.Addr().(*net.TCPAddr); !a.IP.IsLoopback() || a.Port != listeners[0].Addr().(*net.TCPAddr).Port {
			t.Errorf("it listens on %v", a)
		}
	}
	if len(listeners) < 2 {
		t.Skip("this host has no ::1")
	}
	_ = listeners[0].Close()
	port := listeners[1].Addr().(*net.TCPAddr).Port
	if more, err := listenLoopback(t.Context(), port); err == nil {
		t.Errorf("it listens on %v, and somebody else on the other address", more[0].Addr())
	}
}

// TestPasskeyPageRefusesOtherUsers: a connection of another user gets no page and gives
// no answer; if nobody else came, that is said.
func TestPasskeyPageRefusesOtherUsers(t *testing.T) {
	p, _, await := served(t, t.Context(), time.Minute)
	other := &passkeyPage{
		host: p.host, origin: p.origin, token: p.token, port: p.port, came: make(chan *passkeyAnswer, 1), served: make(chan error, 1), listeners: 1,
		peer: func(netip.AddrPort, netip.AddrPort) error { return errors.New("of somebody else") },
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other.server = &http.Server{Handler: other}
	go func() { other.served <- other.server.Serve(listener) }()
	for method, path := range map[string]string{http.MethodGet: "/", http.MethodPost: "/answer"} {
		req, err := http.NewRequest(method, "http://"+listener.Addr().String()+"/"+p.token+path, strings.NewReader(anAnswer))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = p.host
		req.Header.Set("Origin", p.origin)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusForbidden || len(other.came) > 0 {
			t.Errorf("%s: %s, took %d", method, resp.Status, len(other.came))
		}
	}
	_, err = other.await(t.Context(), time.Millisecond)
	fails(t, err, nil, "another user of this host")
	if status, err := post(p.address()+"answer", p.origin, []byte(anAnswer)); err != nil || status != http.StatusNoContent {
		t.Errorf("%d, %v", status, err)
	}
	if _, err := await(); err != nil {
		t.Error(err)
	}
}

// TestPasskeyPageIsKnown: the page asks again for its task before it asks for a passkey
// and before it sends what that gave, and goes on if the challenge is the same. So that
// is the same each time, and nobody else's, such as who has the port afterwards.
func TestPasskeyPageIsKnown(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		p, _, await := served(t, ctx, time.Minute)
		var first passkeyTask
		for i := range 3 {
			raw, err := fetch(p.address() + "task")
			if err != nil {
				t.Fatal(err)
			}
			var task passkeyTask
			if err := json.Unmarshal(raw, &task); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = task
			}
			if len(task.UseChallenge) != 32 || !bytes.Equal(task.UseChallenge, first.UseChallenge) {
				t.Errorf("challenge %x, at first %x", task.UseChallenge, first.UseChallenge)
			}
		}
		if seen[string(first.UseChallenge)] {
			t.Error("two pages have one challenge")
		}
		seen[string(first.UseChallenge)] = true
		cancel()
		if _, err := await(); err == nil {
			t.Error("an answer out of nothing")
		}
		if _, err := fetch(p.address() + "task"); err == nil {
			t.Error("it is told after the end")
		}
	}
	script, _, _ := passkeyFile("page.js")
	for _, f := range []string{"async function make(task) {", "async function use(task, id) {", "async function send(task, answer) {"} {
		if !bytes.Contains(script, []byte(f+"\n  await there(task);\n")) {
			t.Errorf("the page does not look in %q whether mpckms is there", f)
		}
	}
}

// TestPasskeyPageHasALimit: nobody waits for ever.
func TestPasskeyPageHasALimit(t *testing.T) {
	p, _, await := served(t, t.Context(), time.Millisecond)
	_, err := await()
	fails(t, err, nil, "in time", "try again")
	if _, err := http.Get(p.address()); err == nil {
		t.Error("it is served on")
	}
}
