package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// The commands on the host speak to a running daemon over a Unix socket in the
// state directory, which only its owner can enter. It carries no secrets.

// Status is what `node status` shows.
type Status struct {
	Node     string `json:"node"`
	Version  string `json:"version"`
	PID      int    `json:"pid"`
	Region   string `json:"region"`
	Zone     string `json:"zone"`
	Domain   string `json:"domain"`
	Identity string `json:"identity"`
	Pin      string `json:"pin"`
	Listen   string `json:"listen"`
	// HSM is "ok" or what is wrong with the token.
	HSM         string `json:"hsm"`
	Enrolled    bool   `json:"enrolled"`
	Coordinator string `json:"coordinator,omitempty"` // pin
	MountID     string `json:"mount_id,omitempty"`
	Attached    bool   `json:"attached"`
	Draining    bool   `json:"draining"`
	Sessions    int    `json:"sessions"`
	// Peers are the nodes that this host has pinned.
	Peers              map[string]string `json:"peers"`
	FloorAccounts      int               `json:"floor_accounts"`
	CertificateExpires time.Time         `json:"certificate_expires"`
	// CoordinatorExpires is when the attached coordinator's certificate expires.
	CoordinatorExpires time.Time `json:"coordinator_certificate_expires,omitzero"`
	Problem            string    `json:"problem,omitempty"` // of the files in the state directory
}

// NotReady says what keeps the node from serving a coordinator; empty for nothing.
func (s Status) NotReady() string {
	switch {
	case s.Draining:
		return "the node is about to end"
	case s.HSM != "ok":
		return "the token: " + s.HSM
	case s.Problem != "":
		return s.Problem
	case !s.Enrolled:
		return "no coordinator is enrolled"
	case time.Now().After(s.CertificateExpires):
		return "the node's certificate expired on " + s.CertificateExpires.UTC().Format(time.RFC3339)
	case !s.Attached:
		return "no coordinator is attached"
	}
	return ""
}

// floorJSON is one account of the floor as the socket and `node floor list` show it.
type floorJSON struct {
	Account string    `json:"account"`
	Epoch   uint64    `json:"epoch"`
	Record  string    `json:"record"` // hex; empty: any
	Policy  bool      `json:"policy"` // records without one are refused
	Time    time.Time `json:"time"`
	Lowered bool      `json:"lowered"`
}

func floorToJSON(all []FloorEntry) []floorJSON {
	out := make([]floorJSON, 0, len(all))
	for _, e := range all {
		j := floorJSON{Account: e.Account.String(), Epoch: e.Epoch, Time: e.Time, Lowered: e.Lowered,
			Policy: e.Policy != [32]byte{} && e.Policy != mpc.EmptySetHash()}
		if e.Record != [32]byte{} {
			j.Record = hex.EncodeToString(e.Record[:])
		}
		out = append(out, j)
	}
	return out
}

// lowerJSON asks to lower an account's floor.
type lowerJSON struct {
	Account string `json:"account"`
	Epoch   uint64 `json:"epoch"` // 0: forget it
}

// controlHandler serves the socket.
func controlHandler(read func() Status, floor *Floor, lowered func(account string, epoch uint64)) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(v) // a reader that went away
	}
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, read(), nil) })
	mux.HandleFunc("GET /floor", func(w http.ResponseWriter, _ *http.Request) {
		all, err := floor.list()
		answer(w, floorToJSON(all), err)
	})
	mux.HandleFunc("POST /floor/lower", func(w http.ResponseWriter, r *http.Request) {
		var q lowerJSON
		err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&q)
		var id mpc.AccountID
		if err == nil && !unhex(id[:], q.Account) {
			err = errors.New("an account ID has 32 hex digits")
		}
		if err == nil {
			err = floor.lower(r.Context(), id, q.Epoch)
		}
		if err == nil {
			lowered(q.Account, q.Epoch)
		}
		answer(w, struct{}{}, err)
	})
	return mux
}

// listenControl replaces a socket that an earlier daemon left behind; the serve
// lock is held, so none is running.
func listenControl(ctx context.Context, d stateDir) (net.Listener, error) {
	if err := os.Remove(d.path(controlSocket)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var c net.ListenConfig
	l, err := c.Listen(ctx, "unix", d.path(controlSocket))
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(d.path(controlSocket), 0o600)
}

// errNotRunning: no daemon answers on the state directory.
var errNotRunning = errors.New("no daemon is running on this state directory: start it with `systemctl start mpc-node` or `node serve`, or name its file with --config")

// control asks a running daemon.
func control(ctx context.Context, d stateDir, method, path string, in, out any) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", d.path(controlSocket))
		},
	}}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errNotRunning
	}
	if errors.Is(err, fs.ErrPermission) {
		return notTheService(string(d))
	}
	if err != nil {
		return fmt.Errorf("asking the daemon: %w", err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxAccounts*256))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(b)))
	}
	return json.Unmarshal(b, out)
}
