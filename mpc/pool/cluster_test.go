package pool_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/daemon"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// runHost makes this test binary a daemon, or its enrol command, with a settings
// file. It returns false for any other command.
func runHost(command, config string) bool {
	if command != "serve" && command != "enrol" {
		return false
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := daemon.LoadSettings(config)
	fail(err)
	open := func(ctx context.Context, c pkcs11.Config) (node.Token, error) { return pkcs11.Open(ctx, c) }
	if command == "enrol" {
		token, err := daemon.OpenEnrolment(context.Background(), s, open, false)
		fail(err)
		fmt.Println(token.Encode())
		return true
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fail(daemon.Run(ctx, daemon.Config{Settings: s, Version: "v0", Logger: hclog.NewNullLogger(), OpenToken: open,
		Started: func(a net.Addr) { fmt.Println(a) }}))
	return true
}

// host is a node on another host: a daemon in a process of its own, which is
// reached over TLS.
type host struct {
	name, region, domain string
	token                hsmtest.SoftToken
	dir, address         string
	cmd                  *exec.Cmd
	remote               pool.RemoteNode
	enrolment            *nodelink.EnrolToken
}

func (h *host) write(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, "pin"), h.token.PIN().Expose(), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`name = %q
region = %q
domain = %q
listen = %q
state_dir = %q
drain_timeout = "2s"
hsm {
  module = %q
  token = %q
  pin_file = %q
}
`, h.name, h.region, h.domain, h.address, filepath.Join(h.dir, "state"), h.token.Module, h.token.Label, filepath.Join(h.dir, "pin"))
	if err := os.WriteFile(filepath.Join(h.dir, "node.hcl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *host) command(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", name, filepath.Join(h.dir, "node.hcl"))
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+h.token.Conf)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start runs the daemon until the test ends, or kill.
func (h *host) start(t *testing.T) {
	t.Helper()
	cmd := h.command(t, "serve")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.cmd = cmd
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s did not start: %v", h.name, err)
	}
	if h.address = strings.TrimSpace(line); h.remote.Address == "" {
		h.remote.Address = h.address
	}
	h.write(t) // the next time it listens at the same address
}

// kill ends the process without any notice.
func (h *host) kill() {
	if h.cmd != nil {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
		h.cmd = nil
	}
}

// cluster is a pool with local nodes on one token and nodes on other hosts, each
// wrapping domain of which has a token of its own.
type cluster struct {
	*fixture
	hosts      map[string]*host
	recipients []byte // the signed set that names the domains
	authority  ed25519.PrivateKey
}

// startCluster starts a pool with so many local nodes in region "here", and hosts
// given as "name region domain". All are ready when it returns.
func startCluster(t *testing.T, local int, specs ...string) *cluster {
	t.Helper()
	c := &cluster{fixture: &fixture{store: &memoryStore{keys: map[string]pool.NodeKeys{}}}, hosts: map[string]*host{}}
	f := c.fixture
	f.settings = pool.Settings{MountID: [16]byte{1, 2, 3}}
	public, authority, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.settings.Authority, c.authority = public, authority
	tokens := map[string]hsmtest.SoftToken{}
	if local > 0 {
		f.token = softToken(t)
		tokens[hsm.DefaultDomain] = hsmtest.SoftToken{}
	}
	f.pool = pool.New(pool.Config{Store: f.store, Logger: hclog.NewNullLogger(), Env: os.Environ()})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.pool.Close(ctx); err != nil {
			t.Errorf("closing the pool: %v", err)
		}
	})
	if local > 0 {
		_, key, err := f.pool.Probe(deadline(t, 10*time.Second), f.settings.MountID, f.token, pool.KeyRequest{Version: 1, Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
		if err != nil {
			t.Fatal(err)
		}
		f.settings.Token, f.settings.WrappingKeys, f.settings.Local, f.settings.LocalRegion = f.token, []hsm.WrappingKey{*key}, local, "here"
		c.apply(t)
		f.waitReady(t, local)
	}
	certificate, key, err := nodelink.NewCertificate("coordinator", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	f.settings.Client = pool.ClientCertificate{Certificate: certificate, Key: key}
	var peers []*nodepb.Member
	for _, s := range f.pool.Nodes() {
		id, err := mpc.ParseNodeIdentity(s.Identity)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, &nodepb.Member{NodeId: s.ID, Identity: id[:]})
	}
	domains := map[string]*recovery.Domain{}
	var order []string
	for _, spec := range specs {
		field := strings.Fields(spec)
		h := &host{name: field[0], region: field[1], domain: field[2], dir: t.TempDir(), address: "127.0.0.1:0"}
		c.hosts[h.name] = h
		if _, ok := tokens[h.domain]; !ok {
			tokens[h.domain] = hsmtest.SoftHSM(t)
			domains[h.domain] = &recovery.Domain{Name: h.domain}
			order = append(order, h.domain)
		}
		h.token = tokens[h.domain]
		h.write(t)
		out, err := h.command(t, "enrol").Output()
		if err != nil {
			t.Fatalf("enrol: %v", err)
		}
		if h.enrolment, err = nodelink.ParseEnrolToken(strings.TrimSpace(string(out))); err != nil {
			t.Fatal(err)
		}
		h.remote = pool.RemoteNode{ID: h.name, Region: h.region, Domain: h.domain, Identity: h.enrolment.Identity, Pin: h.enrolment.Pin}
		h.start(t)
		t.Cleanup(h.kill)
		peers = append(peers, &nodepb.Member{NodeId: h.name, Identity: h.remote.Identity[:]})
		domains[h.domain].Nodes = append(domains[h.domain].Nodes, recovery.DomainNode{ID: h.name, Identity: h.remote.Identity.String()})
	}
	for _, spec := range specs {
		h := c.hosts[strings.Fields(spec)[0]]
		c.enrol(t, h, peers)
		f.settings.Remote = append(f.settings.Remote, h.remote)
	}
	c.apply(t)
	f.waitReady(t, local+len(specs)) // without wrapping keys they can be asked to make them
	var list []recovery.Domain
	for _, name := range order {
		made, err := f.pool.MakeWrappingKey(deadline(t, 10*time.Second), name, 1, []hsm.Suite{hsm.SuiteHPKEP256})
		if err != nil {
			t.Fatal(err)
		}
		f.settings.WrappingKeys = append(f.settings.WrappingKeys, made.Key)
		f.settings.Endorsements = append(f.settings.Endorsements, made.Endorsement)
		list = append(list, *domains[name])
	}
	set, err := recovery.NewDomainSet(1, nil, list)
	if err != nil {
		t.Fatal(err)
	}
	if c.recipients, err = set.Sign(authority); err != nil {
		t.Fatal(err)
	}
	f.settings.Recipients = c.recipients
	c.apply(t)
	f.waitReady(t, local+len(specs))
	return c
}

func (c *cluster) apply(t *testing.T) {
	t.Helper()
	if err := c.pool.Apply(deadline(t, 10*time.Second), c.settings); err != nil {
		t.Fatal(err)
	}
}

// enrol pins the coordinator on the host, as the backend does.
func (c *cluster) enrol(t *testing.T, h *host, peers []*nodepb.Member) {
	t.Helper()
	pair, err := tls.X509KeyPair(c.settings.Client.Certificate, c.settings.Client.Key.Expose())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	link, err := nodelink.Dial(deadline(t, 5*time.Second), h.address, pair, nodelink.Peer{Pin: h.enrolment.Pin})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	r := &nodepb.EnrolRequest{NodeId: h.name, MountId: c.settings.MountID[:], Authority: c.settings.Authority}
	for _, p := range peers {
		if p.GetNodeId() != h.name {
			r.Peers = append(r.Peers, p)
		}
	}
	r.Proof = nodelink.EnrolProof(h.enrolment.Secret.Expose(), r, nodelink.SPKI(leaf), h.enrolment.Pin)
	if _, err := link.Enrolment().Enrol(deadline(t, 5*time.Second), r); err != nil {
		t.Fatalf("enrolling %s: %v", h.name, err)
	}
}

func (c *cluster) create(t *testing.T, a mpc.Algorithm, threshold, shares int, domains ...string) mpc.Account {
	t.Helper()
	set, err := recovery.ParseSignedSet(c.recipients)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.pool.Create(deadline(t, 20*time.Second), pool.CreateRequest{AccountID: mpc.AccountID{9}, Algorithm: a,
		Threshold: threshold, Shares: shares, RecipientsHash: set.Hash(), Recipients: c.recipients, PolicyHash: mpc.EmptySetHash(), Domains: domains})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.pool.OpenCheck(deadline(t, 10*time.Second), r.Account); err != nil {
		t.Fatal(err)
	}
	return r.Account
}

func (c *cluster) refresh(t *testing.T, a mpc.Account, l *ledger, homes []mpc.Home) mpc.Account {
	t.Helper()
	a.Exposures = l.copy()
	r, err := c.pool.Refresh(deadline(t, 20*time.Second), pool.RefreshRequest{Account: a, Expose: l.expose,
		Recipients: c.recipients, Homes: homes})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.pool.OpenCheck(deadline(t, 10*time.Second), r.Account); err != nil {
		t.Fatalf("the new shares do not open: %v", err)
	}
	return r.Account
}

// status is what the pool says of a node.
func (c *cluster) status(t *testing.T, name string) pool.NodeStatus {
	t.Helper()
	for _, s := range c.pool.Nodes() {
		if s.ID == name {
			return s
		}
	}
	t.Fatalf("no node %s", name)
	return pool.NodeStatus{}
}

func (c *cluster) await(t *testing.T, name string, state pool.NodeState) pool.NodeStatus {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s := c.status(t, name); s.State == state {
			return s
		}
	}
	t.Fatalf("%s is not %s: %+v", name, state, c.status(t, name))
	return pool.NodeStatus{}
}

// placed checks that every node of the ledger is at home where its share lives.
func (c *cluster) placed(t *testing.T, a mpc.Account, l *ledger) {
	t.Helper()
	for _, s := range c.pool.Nodes() {
		id, err := mpc.ParseNodeIdentity(s.Identity)
		if err != nil {
			t.Fatal(err)
		}
		if i, ok := l.copy()[id]; ok && a.Homes[i-1] != (mpc.Home{Domain: s.Domain, Region: s.Region}) {
			t.Errorf("%s in %s (%s) has share %d of %v", s.ID, s.Region, s.Domain, i, a.Homes)
		}
	}
}
