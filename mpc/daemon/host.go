package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
)

// This file is what the commands on the node's host do. They work on the state
// directory, or through the control socket where a running daemon has it.

// OpenEnrolment makes what a new node lacks, opens a window of nodelink.EnrolWindow
// and returns its token; the caller wipes the token's Secret. A daemon need not be
// running. A node that has a coordinator is opened for another with again only.
func OpenEnrolment(ctx context.Context, s *Settings, open OpenToken, again bool) (*nodelink.EnrolToken, error) {
	dir, err := openState(s.StateDir)
	if err != nil {
		return nil, err
	}
	unlock, err := dir.lock(changeLock, true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	enrolled, err := dir.has(enrolledFile)
	if err != nil {
		return nil, err
	}
	if enrolled && !again {
		return nil, fmt.Errorf("%w: node %s has a coordinator already; with --again the next one to enrol takes its place", ErrSettings, s.Name)
	}
	identity, err := readIdentity(dir, s.Name)
	if err != nil {
		return nil, err
	}
	if identity == nil {
		if identity, err = firstIdentity(ctx, dir, s, open); err != nil {
			return nil, err
		}
	}
	if err := ensureCertificate(dir, s); err != nil {
		return nil, err
	}
	cert, err := newCertificate(dir, s, hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	t := &nodelink.EnrolToken{NodeID: s.Name, Domain: s.Domain, Region: s.Region, Zone: s.Zone,
		Expires: time.Now().Add(nodelink.EnrolWindow).Truncate(time.Second), Secret: nodelink.NewEnrolSecret()}
	if t.Pin, err = cert.pin(); err == nil {
		t.Identity, err = identity.public()
	}
	if err == nil {
		err = openWindow(dir, t.Secret, t.Expires)
	}
	if err != nil {
		t.Secret.Wipe()
		return nil, err
	}
	return t, nil
}

// firstIdentity opens the token to make the node's identity.
func firstIdentity(ctx context.Context, dir stateDir, s *Settings, open OpenToken) (*identityRecord, error) {
	token, err := openToken(ctx, s, open)
	if err != nil {
		return nil, err
	}
	identity, err := makeIdentity(ctx, dir, s, token)
	return identity, errors.Join(err, token.Close())
}

// Finding is one line of `node check`.
type Finding struct {
	What string
	Err  error // nil: fine
}

// Check looks at everything that serve needs and changes nothing: settings were
// read by the caller. The token is opened with the PIN, once.
func Check(ctx context.Context, s *Settings, open OpenToken) []Finding {
	var out []Finding
	note := func(err error, format string, args ...any) bool {
		out = append(out, Finding{fmt.Sprintf(format, args...), err})
		return err == nil
	}
	dir, err := openState(s.StateDir)
	if !note(err, "state directory %s", s.StateDir) {
		return out
	}
	r := newRegistry(s, dir)
	note(r.reload(), "enrolment and peers")
	identity, err := readIdentity(dir, s.Name)
	if err == nil && identity == nil {
		note(nil, "identity: none yet; `node enrol` or `node serve` makes it")
	} else {
		note(err, "identity file")
	}
	hasKey, _ := dir.has(keyFile)
	if s.TLS.CertFile == "" && !hasKey {
		note(nil, "certificate: none yet; `node enrol` or `node serve` makes it")
	} else if cert, err := newCertificate(dir, s, hclog.NewNullLogger()); note(err, "certificate") {
		if until := cert.expires(); time.Now().After(until) {
			note(fmt.Errorf("it expired on %s", until.UTC().Format(time.RFC3339)), "certificate's time")
		}
	}
	token, err := openToken(ctx, s, open)
	if !note(err, "token %s%s", s.HSM.Token, s.HSM.Serial) {
		return out
	}
	defer token.Close()
	if identity != nil {
		private, err := openIdentity(ctx, identity, s.Name, token)
		clear(private)
		note(err, "identity opens with the token")
	}
	return out
}

// ReadStatus asks the running daemon.
func ReadStatus(ctx context.Context, s *Settings) (Status, error) {
	var st Status
	err := control(ctx, stateDir(s.StateDir), "GET", "/status", nil, &st)
	return st, err
}

// FloorLine is one account of the floor for people to read.
type FloorLine = floorJSON

// ListFloor returns the floor by account ID, of a running daemon or of the file.
func ListFloor(ctx context.Context, s *Settings) ([]FloorLine, error) {
	dir := stateDir(s.StateDir)
	var lines []FloorLine
	err := control(ctx, dir, "GET", "/floor", nil, &lines)
	if !errors.Is(err, errNotRunning) {
		return lines, err
	}
	f, err := openFloor(dir.path(floorFile), false)
	if err != nil {
		return nil, err
	}
	all, err := f.list()
	return floorToJSON(all), errors.Join(err, f.Close())
}

// LowerFloor lets the node work with an older epoch of an account again: with epoch
// and what is newer, or with 0 with any, as if it had never seen the account.
func LowerFloor(ctx context.Context, s *Settings, account string, epoch uint64) error {
	var id mpc.AccountID
	if !unhex(id[:], account) {
		return fmt.Errorf("%w: an account ID has 32 hex digits; `node floor list` shows them", ErrSettings)
	}
	dir := stateDir(s.StateDir)
	err := control(ctx, dir, "POST", "/floor/lower", lowerJSON{account, epoch}, &struct{}{})
	if !errors.Is(err, errNotRunning) {
		return err
	}
	f, err := openFloor(dir.path(floorFile), false)
	if err != nil {
		return err
	}
	return errors.Join(f.lower(ctx, id, epoch), f.Close())
}

// NewFloor makes an empty floor where it is gone.
func NewFloor(s *Settings) error {
	dir := stateDir(s.StateDir)
	unlock, err := dir.lock(serveLock, false)
	if err != nil {
		return err
	}
	defer unlock()
	if has, err := dir.has(floorFile); err != nil || has {
		return errors.Join(err, fmt.Errorf("%w: there is a floor; lower single accounts with `node floor lower`", ErrSettings))
	}
	f, err := openFloor(dir.path(floorFile), true)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), dir.sync())
}

// Peer is one pinned node.
type Peer struct {
	Name     string `json:"name"`
	Identity string `json:"identity"`
	// Source is "node.hcl", "command" or "enrolment".
	Source string `json:"source"`
}

// ListPeers returns who is pinned, by name.
func ListPeers(s *Settings) ([]Peer, error) {
	dir := stateDir(s.StateDir)
	r := newRegistry(s, dir)
	if err := r.reload(); errors.Is(err, fs.ErrPermission) {
		return nil, notTheService(s.StateDir)
	} else if err != nil {
		return nil, err
	}
	changed, err := readPeers(dir)
	if err != nil {
		return nil, err
	}
	// Before the first enrolment the registry has none; those of node.hcl and of
	// the command count all the same.
	pinned := maps.Clone(r.peers)
	if pinned == nil {
		if pinned, err = r.loadPeers(&Enrolled{}); err != nil {
			return nil, err
		}
	}
	var out []Peer
	for _, name := range slices.Sorted(maps.Keys(pinned)) {
		p := Peer{Name: name, Identity: pinned[name].String(), Source: "enrolment"}
		if _, ok := changed.Added[name]; ok {
			p.Source = "command"
		}
		if _, ok := s.Peers[name]; ok {
			p.Source = "node.hcl"
		}
		out = append(out, p)
	}
	return out, nil
}

// AddPeer pins a peer, in place of what was pinned for its name.
func AddPeer(s *Settings, name, identity string) error {
	id, err := mpc.ParseNodeIdentity(identity)
	switch {
	case !nodelink.ValidName(name):
		return fmt.Errorf("%w: a peer's name is %s", ErrSettings, nameRule)
	case err != nil:
		return fmt.Errorf("%w: an identity has 64 hex digits, as Vault shows it for the node under mpc/nodes", ErrSettings)
	case name == s.Name:
		return fmt.Errorf("%w: %s is this node itself", ErrSettings, name)
	}
	return changePeers(s, name, func(p *peersRecord) {
		p.Added[name] = id.String()
		p.Removed = slices.DeleteFunc(p.Removed, func(n string) bool { return n == name })
	})
}

// RemovePeer ends a peer's pin, whether it came with the enrolment or by AddPeer.
func RemovePeer(s *Settings, name string) error {
	return changePeers(s, name, func(p *peersRecord) {
		delete(p.Added, name)
		if !slices.Contains(p.Removed, name) {
			p.Removed = append(p.Removed, name)
		}
	})
}

func changePeers(s *Settings, name string, change func(*peersRecord)) error {
	if _, ok := s.Peers[name]; ok {
		return fmt.Errorf("%w: peer %s is pinned in %s, which wins: change it there and restart", ErrSettings, name, s.Path)
	}
	dir, err := openState(s.StateDir)
	if err != nil {
		return err
	}
	unlock, err := dir.lock(changeLock, true)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := readPeers(dir)
	if err != nil {
		return err
	}
	change(p)
	p.Version = stateVersion
	return dir.writeJSON(peersFile, p)
}

// PinText is how a pin is shown: 64 hex digits.
func PinText(pin [32]byte) string { return hex.EncodeToString(pin[:]) }
