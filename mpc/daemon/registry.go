package daemon

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
)

// Enrolled is enrolled.json: the coordinator that this host's operator let in and
// what was pinned then.
type Enrolled struct {
	Version int `json:"version"`
	// Coordinator is the pin of its certificate, hex; Name is what the certificate
	// is for, which counts with tls.client_ca_file.
	Coordinator string            `json:"coordinator"`
	Name        string            `json:"coordinator_name"`
	MountID     string            `json:"mount_id"` // hex, 16 bytes
	Authority   string            `json:"authority,omitempty"`
	Peers       map[string]string `json:"peers"` // node ID → identity, hex
	Time        time.Time         `json:"enrolled_at"`
}

func (e *Enrolled) version() int { return e.Version }

// peersRecord is peers.json: what `node peers` changed since.
type peersRecord struct {
	Version int               `json:"version"`
	Added   map[string]string `json:"added"`
	Removed []string          `json:"removed"`
}

func (p *peersRecord) version() int { return p.Version }

// registry is who may speak to the node and whom it works with. Its files are read
// again when they change, so that commands on the host need no restart. All
// methods may be called concurrently.
type registry struct {
	settings *Settings
	dir      stateDir

	mu       sync.Mutex // held over reading small files
	read     bool
	stamps   [3]stamp
	enrolled *Enrolled // nil: nobody
	mountID  [16]byte
	pin      [32]byte
	key      ed25519.PublicKey // the authority
	peers    map[string]mpc.NodeIdentity
	ca       []byte
}

func newRegistry(s *Settings, d stateDir) *registry { return &registry{settings: s, dir: d} }

// refresh reads what has changed. After an error nothing of an earlier read is
// used. The caller holds the lock.
func (r *registry) refresh(always bool) error {
	paths := [3]string{r.dir.path(enrolledFile), r.dir.path(peersFile), r.settings.TLS.ClientCAFile}
	var now [3]stamp
	for i, p := range paths {
		if p == "" {
			continue
		}
		s, err := stampOf(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		now[i] = s
	}
	if r.read && now == r.stamps && !always {
		return nil
	}
	r.read = false
	if err := r.load(); err != nil {
		return err
	}
	r.stamps, r.read = now, true
	return nil
}

func (r *registry) load() error {
	r.ca = nil
	if path := r.settings.TLS.ClientCAFile; path != "" {
		ca, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("tls.client_ca_file: %w", err)
		}
		if len(ca) == 0 || len(ca) > maxStateFile {
			return fmt.Errorf("tls.client_ca_file: %s has no certificates", path)
		}
		r.ca = ca
	}
	var e Enrolled
	switch err := r.dir.readJSON(enrolledFile, &e); {
	case errors.Is(err, fs.ErrNotExist):
		r.enrolled, r.peers, r.key = nil, nil, r.settings.Authority
		return nil
	case err != nil:
		return err
	}
	damaged := func(what string) error {
		return fmt.Errorf("%s is damaged (%s): enrol this node again", r.dir.path(enrolledFile), what)
	}
	if !unhex(r.pin[:], e.Coordinator) {
		return damaged("coordinator")
	}
	if !unhex(r.mountID[:], e.MountID) {
		return damaged("mount_id")
	}
	r.key = r.settings.Authority
	if r.key == nil && e.Authority != "" {
		key, err := parseAuthority(e.Authority)
		if err != nil {
			return damaged("authority")
		}
		r.key = key
	}
	peers, err := r.loadPeers(&e)
	if err != nil {
		return err
	}
	r.enrolled, r.peers = &e, peers
	return nil
}

// loadPeers puts together who is pinned: node.hcl wins over `node peers`, and that
// over what came with the enrolment.
func (r *registry) loadPeers(e *Enrolled) (map[string]mpc.NodeIdentity, error) {
	changed, err := readPeers(r.dir)
	if err != nil {
		return nil, err
	}
	peers := map[string]mpc.NodeIdentity{}
	for _, from := range []map[string]string{e.Peers, changed.Added} {
		for name, text := range from {
			id, err := mpc.ParseNodeIdentity(text)
			if err != nil {
				return nil, fmt.Errorf("peer %s in %s: %w", name, r.dir, err)
			}
			peers[name] = id
		}
	}
	for _, name := range changed.Removed {
		delete(peers, name)
	}
	for name, id := range r.settings.Peers {
		peers[name] = id
	}
	return peers, nil
}

func readPeers(d stateDir) (*peersRecord, error) {
	p := &peersRecord{}
	if err := d.readJSON(peersFile, p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if p.Added == nil {
		p.Added = map[string]string{}
	}
	return p, nil
}

func unhex(to []byte, s string) bool {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(to) {
		return false
	}
	copy(to, b)
	return true
}

// pinned is what a fresh node gets of the host.
type pinned struct {
	mountID   [16]byte
	authority ed25519.PublicKey
}

// present returns what is pinned, or errNotEnrolled.
func (r *registry) present() (pinned, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(false); err != nil {
		return pinned{}, err
	}
	if r.enrolled == nil {
		return pinned{}, errNotEnrolled
	}
	return pinned{r.mountID, r.key}, nil
}

var errNotEnrolled = errors.New("no coordinator is enrolled on this node: run `vault-plugin-secrets-mpc node enrol` on its host and give the token to Vault")

// client says what a coordinator's certificate is checked against. Anyone is let in
// as far as Enrol where nobody is enrolled or a window is open.
func (r *registry) client() (peer nodelink.Peer, any bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(false); err != nil {
		return nodelink.Peer{}, false, err
	}
	if r.enrolled == nil {
		return nodelink.Peer{}, true, nil
	}
	if w, err := readWindow(r.dir, time.Now()); err == nil {
		w.secret.Wipe()
		return nodelink.Peer{}, true, nil
	}
	return r.coordinator(), false, nil
}

// coordinator is what the enrolled one is known by. The caller holds the lock.
func (r *registry) coordinator() nodelink.Peer {
	if r.ca != nil {
		return nodelink.Peer{CA: r.ca, ServerName: r.enrolled.Name}
	}
	return nodelink.Peer{Pin: r.pin}
}

// known returns what the enrolled coordinator is known by, or errNotEnrolled.
func (r *registry) known() (nodelink.Peer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(false); err != nil {
		return nodelink.Peer{}, err
	}
	if r.enrolled == nil {
		return nodelink.Peer{}, errNotEnrolled
	}
	return r.coordinator(), nil
}

// peer returns a pinned identity. What cannot be read pins nobody.
func (r *registry) peer(name string) (mpc.NodeIdentity, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refresh(false) != nil {
		return mpc.NodeIdentity{}, false
	}
	id, ok := r.peers[name]
	return id, ok
}

// reload reads everything again.
func (r *registry) reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refresh(true)
}

// authorities returns the CA of coordinators; nil for none.
func (r *registry) authorities() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.refresh(false)
	return r.ca, err
}

// show writes what is pinned into a status.
func (r *registry) show(st *Status) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(false); err != nil || r.enrolled == nil {
		return err
	}
	st.Enrolled, st.Coordinator, st.MountID = true, r.enrolled.Coordinator, r.enrolled.MountID
	for name, id := range r.peers {
		st.Peers[name] = id.String()
	}
	return nil
}
