package keyholder

import (
	"context"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

const (
	// passkeyLimit is the time that a person has on the page, a minute less than the
	// server's challenge lasts; passkeyPrompt that of one prompt of the browser.
	passkeyLimit  = 4 * time.Minute
	passkeyPrompt = 90 * time.Second
	// maxPasskeyAnswer bounds what the page may send, in bytes.
	maxPasskeyAnswer = 64 << 10
)

// passkeyPolicy lets the page load what is beside it, and nobody put it into a frame.
const passkeyPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed passkey
var passkeyFiles embed.FS

// passkeyFile returns what the page is made of, by name in its folder.
func passkeyFile(name string) (body []byte, contentType string, ok bool) {
	switch name {
	case "":
		name, contentType = "page.html", "text/html; charset=utf-8"
	case "page.css":
		contentType = "text/css; charset=utf-8"
	case "page.js":
		contentType = "text/javascript; charset=utf-8"
	default:
		return nil, "", false
	}
	body, err := passkeyFiles.ReadFile("passkey/" + name)
	return body, contentType, err == nil
}

// passkeyPage serves one page for one answer. Everybody who can reach the loopback
// address can try: what keeps others away is
//
//   - other pages in the same browser: a folder with a random name, and Host, Origin
//     and content type, which a page elsewhere cannot choose (a name that was bound to
//     this host anew has another Host);
//   - other users of this host, who may see the address among the arguments of the
//     program that opens it: the user of whoever connects, where the system tells it
//     (Linux). Elsewhere they are as near as the address.
//
// Other programs of the same user are not kept away; they could as well read this one's
// memory. Its owner calls await, once.
type passkeyPage struct {
	port, host, token string
	task              []byte // JSON
	origin            string
	server            *http.Server
	came              chan *passkeyAnswer
	answered          atomic.Bool
	served            chan error
	listeners         int
	// peer says whether the user of a connection's other end may use the page; nil
	// where that cannot be known.
	peer func(remote, local netip.AddrPort) error
	// stranger is set when somebody else tried.
	stranger atomic.Bool
}

// servePasskey begins to serve, before anybody is sent there. It completes the task.
func servePasskey(ctx context.Context, port int, task *passkeyTask) (*passkeyPage, error) {
	listeners, err := listenLoopback(ctx, port)
	if err != nil {
		return nil, err
	}
	_, number, _ := net.SplitHostPort(listeners[0].Addr().String())
	p := &passkeyPage{port: number, host: net.JoinHostPort(task.Site, number), token: token(), came: make(chan *passkeyAnswer, 1), served: make(chan error, len(listeners)), listeners: len(listeners), peer: peerCheck()}
	p.origin = "http://" + p.host
	task.Origin, task.Timeout = p.origin, passkeyPrompt.Milliseconds()
	task.UseChallenge = random(32).Expose()
	if task.Make {
		task.User, task.MakeChallenge = random(32).Expose(), random(32).Expose()
	}
	if p.task, err = json.Marshal(task); err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return nil, err
	}
	p.server = &http.Server{
		ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), Handler: p,
	}
	for _, l := range listeners {
		go func() { p.served <- p.server.Serve(l) }()
	}
	return p, nil
}

// listenLoopback listens on one port of 127.0.0.1 and of ::1 where there is that. Both
// are one name to browsers: whoever had the other one would be taken for this program.
func listenLoopback(ctx context.Context, port int) ([]net.Listener, error) {
	var config net.ListenConfig
	probe, err := config.Listen(ctx, "tcp6", "[::1]:0")
	six := err == nil
	if six {
		_ = probe.Close()
	}
	const tries = 20
	for i := 0; ; i++ {
		four, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil || !six {
			return []net.Listener{four}, err
		}
		both, err := config.Listen(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(four.Addr().(*net.TCPAddr).Port)))
		if err == nil {
			return []net.Listener{four, both}, nil
		}
		_ = four.Close()
		if port != 0 || i == tries || ctx.Err() != nil {
			return nil, err
		}
	}
}

// address is what the browser opens.
func (p *passkeyPage) address() string { return p.origin + "/" + p.token + "/" }

// await waits until the page has answered, limit at most, and ends the server. The
// caller wipes the answer.
func (p *passkeyPage) await(ctx context.Context, limit time.Duration) (*passkeyAnswer, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var got *passkeyAnswer
	var err error
	ended := 0
	select {
	case got = <-p.came:
	case err = <-p.served:
		ended, err = 1, fmt.Errorf("the page cannot be served any more: %w", err)
	case <-limited.Done():
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case p.stranger.Load():
			err = errors.New("the page was opened by another user of this host only, who was refused: run mpckms as the user whose browser it is")
		default:
			err = errors.New("nobody used the page in the browser in time: try again")
		}
	}
	// The page is told that its answer has come before the server ends.
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if p.server.Shutdown(end) != nil {
		_ = p.server.Close()
	}
	for ; ended < p.listeners; ended++ {
		<-p.served
	}
	p.answered.Store(true) // nobody reads any more what comes now
	if err != nil {
		select {
		case late := <-p.came:
			late.wipe()
		default:
		}
	}
	return got, err
}

func (p *passkeyPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"Content-Security-Policy": passkeyPolicy, "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", // the address has the token in it
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		"Content-Type": "text/plain; charset=utf-8",
	} {
		w.Header().Set(name, value)
	}
	if err := p.checkPeer(r); err != nil {
		p.stranger.Store(true)
		refusePage(w, http.StatusForbidden, "This page is not shown to you: "+err.Error()+".")
		return
	}
	folder, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.Host != p.host:
		refusePage(w, http.StatusMisdirectedRequest, "This page is at "+p.host+" only: open the address that mpckms shows.")
	case subtle.ConstantTimeCompare([]byte(folder), []byte(p.token)) != 1:
		refusePage(w, http.StatusNotFound, "This is not the page that mpckms waits for: open the address that it shows.")
	case name == "answer":
		p.takeAnswer(w, r)
	case r.Method != http.MethodGet:
		refusePage(w, http.StatusMethodNotAllowed, "This is only to be read.")
	case name == "task":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(p.task)
	default:
		body, contentType, ok := passkeyFile(name)
		if !ok {
			refusePage(w, http.StatusNotFound, "There is nothing here.")
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}

func refusePage(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

var errNobody = errors.New("it cannot be seen whose browser this is")

// checkPeer fails closed where the system should know whose the connection is and does
// not say it.
func (p *passkeyPage) checkPeer(r *http.Request) error {
	if p.peer == nil {
		return nil
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if err != nil || !ok {
		return errNobody
	}
	return p.peer(remote, local.AddrPort())
}

// takeAnswer takes the first answer that the page may have sent.
func (p *passkeyPage) takeAnswer(w http.ResponseWriter, r *http.Request) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	site := r.Header.Get("Sec-Fetch-Site")
	switch {
	case r.Method != http.MethodPost:
		refusePage(w, http.StatusMethodNotAllowed, "An answer is posted.")
		return
	case r.Header.Get("Origin") != p.origin || site != "" && site != "same-origin":
		refusePage(w, http.StatusForbidden, "Another page cannot answer.")
		return
	case kind != "application/json":
		refusePage(w, http.StatusUnsupportedMediaType, "An answer is JSON.")
		return
	case r.ContentLength <= 0 || r.ContentLength > maxPasskeyAnswer:
		w.Header().Set("Connection", "close")
		refusePage(w, http.StatusRequestEntityTooLarge, "An answer says its length and is shorter.")
		return
	}
	raw := make([]byte, r.ContentLength) // known beforehand: it grows nowhere, though net/http may have buffered its beginning
	defer secret.Wipe(raw)
	if _, err := io.ReadFull(r.Body, raw); err != nil {
		refusePage(w, http.StatusBadRequest, "The answer is cut off.")
		return
	}
	a, err := parsePasskeyAnswer(raw)
	if err != nil {
		refusePage(w, http.StatusBadRequest, "The answer is not what the page sends.")
		return
	}
	if !p.answered.CompareAndSwap(false, true) {
		a.wipe()
		refusePage(w, http.StatusConflict, "There was an answer already.")
		return
	}
	w.WriteHeader(http.StatusNoContent)
	p.came <- a // the only one
}
