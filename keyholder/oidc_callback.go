package keyholder

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// callback is what the browser came back with.
type callback struct {
	code string
	err  error
}

// callbackServer serves the one page that the browser comes back to. Its owner calls
// await, once.
type callbackServer struct {
	server *http.Server
	came   chan callback
	served chan error
}

// serveCallbacks begins to serve, before anybody is sent there.
func serveCallbacks(listener net.Listener, state string) *callbackServer {
	c := &callbackServer{came: make(chan callback, 1), served: make(chan error, 1)}
	c.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serveCallback(w, r, state, c.came)
		}),
	}
	go func() { c.served <- c.server.Serve(listener) }()
	return c
}

// await waits until a request with the right state has come, and ends the server.
// Requests with another state are answered and change nothing: any page in the
// browser can make them.
func (c *callbackServer) await(ctx context.Context) (code string, err error) {
	ctx, cancel := context.WithTimeout(ctx, oidcLogin)
	defer cancel()
	var got callback
	select {
	case got = <-c.came:
	case err := <-c.served:
		return "", fmt.Errorf("the browser has nowhere to come back to: %w", err)
	case <-ctx.Done():
		got.err = errors.New("nobody came back from the browser in time: nothing was sent, log in again")
		if errors.Is(ctx.Err(), context.Canceled) {
			got.err = ctx.Err()
		}
	}
	// The page is delivered before the server ends, if the browser wants it.
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if c.server.Shutdown(end) != nil {
		_ = c.server.Close()
	}
	<-c.served
	return got.code, got.err
}

func serveCallback(w http.ResponseWriter, r *http.Request, state string, came chan<- callback) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // the address has the code in it
	query := r.URL.Query()
	if r.URL.Path != callbackPath || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(state)) != 1 {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "This is not the login that mpckms waits for.\n")
		return
	}
	got := callback{code: query.Get("code")}
	text := "Logged in. Go back to mpckms; this page can be closed.\n"
	if got.code == "" {
		got.err = fmt.Errorf("the provider refused the login: %s", refusalName(query.Get("error")))
		text = "The provider refused the login. Go back to mpckms; this page can be closed.\n"
	}
	_, _ = io.WriteString(w, text)
	select {
	case came <- got:
	default: // the page was loaded again
	}
}

// refusalName shows an error code of RFC 6749, 4.1.2.1, and nothing else that a
// page may have put there.
func refusalName(code string) string {
	if code == "" || len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return "it gives no reason"
	}
	return code
}
