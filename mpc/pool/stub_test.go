package pool

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// stubWorld is a set of nodes in memory that follow the nodes' contract without
// its cryptography, and keep a book of what they were asked. They sign with one
// whole key per curve.
type stubWorld struct {
	key *ecdsa.PrivateKey // P-256
	k1  *secp256k1.PrivateKey
	// ignores makes nodes sign with the account's key whatever the derivation.
	ignores bool
	// presigned is how nodes misbehave when they sign with a presignature:
	// "refuse", "lie" or "hang".
	presigned string
	// offers is how a node misbehaves when it is to make a key for a release:
	// "refuse", "busy", "unsigned", "another" or "short".
	offers map[string]string
	// starts are those that came with a release.
	starts []*nodepb.Start
	// unapproved are nodes that miss approvals for everything, and asked all Starts
	// that came with a policy field.
	unapproved map[string]bool
	asked      []*nodepb.Start
	// keepsPolicy makes refreshes keep the policy, whatever was asked for.
	keepsPolicy bool
	// misnames is a node that reports sessions under other names.
	misnames string

	mu   sync.Mutex
	live map[string]*stubNode
	// hook, where set, is called before and after every call that matters to
	// auxiliary keys, with a name like "accept:local-1 local-2#3 done".
	hook func(step string)
	// slow, where set, delays the end of every session.
	slow time.Duration
	// refuses makes nodes refuse auxiliary keys: "local-1 local-2#3".
	refuses map[string]bool

	offered    map[string]int            // "session node": how often it was named in a Start
	inputs     map[string]map[string]int // by presignature: what it was to sign
	made       map[string]int            // "node#generation": how often it was asked for
	auxPending int                       // sessions refused for auxiliary keys
	bad        []string                  // what must never happen
}

func newStubWorld(t *testing.T) *stubWorld {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k1, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return &stubWorld{key: key, k1: k1, live: map[string]*stubNode{}, refuses: map[string]bool{}, offered: map[string]int{},
		inputs: map[string]map[string]int{}, made: map[string]int{}, offers: map[string]string{}}
}

func (w *stubWorld) Start(name string) (Process, error) {
	n := &stubNode{world: w, id: name, dead: make(chan struct{}), presignatures: map[mpc.SessionID]stubPresignature{},
		own: map[[32]byte]uint64{}, peers: map[string][]acceptedKeys{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[name] = n
	return n, nil
}

// kill ends a node's process, if it has one.
func (w *stubWorld) kill(name string) {
	w.mu.Lock()
	n := w.live[name]
	w.mu.Unlock()
	if n != nil {
		n.Stop()
	}
}

func (w *stubWorld) step(format string, args ...any) {
	w.mu.Lock()
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		hook(fmt.Sprintf(format, args...))
	}
}

// wrong notes something that must never happen. The caller holds w.mu.
func (w *stubWorld) wrong(format string, args ...any) {
	w.bad = append(w.bad, fmt.Sprintf(format, args...))
}

func (w *stubWorld) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.bad {
		t.Error(s)
	}
	for key, n := range w.offered {
		if n > 1 {
			t.Errorf("presignature and node %s: offered %d times", key, n)
		}
	}
	for session, inputs := range w.inputs {
		if len(inputs) > 1 {
			t.Errorf("presignature %x was to sign %d messages", session, len(inputs))
		}
	}
	for key, n := range w.made {
		if n > 1 {
			t.Errorf("auxiliary keys %s were asked for %d times", key, n)
		}
	}
}

// stubStore is a KeyStore that knows when something goes back.
type stubStore struct {
	world  *stubWorld
	mu     sync.Mutex
	keys   map[string]NodeKeys
	frozen bool // the plugin has crashed: nothing is written
	// loses are the keys whose writing fails: "local-2#2".
	loses map[string]bool
}

func (s *stubStore) NodeKeys(_ context.Context, id string) (*NodeKeys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.keys[id]; ok {
		return &k, nil
	}
	return nil, nil
}

func (s *stubStore) PutNodeKeys(_ context.Context, id string, k *NodeKeys) error {
	if k.Aux != nil {
		s.world.step("store:%s#%d", id, k.Aux.Generation)
	}
	s.mu.Lock()
	if s.frozen || k.Aux != nil && s.loses[receiptKey(id, k.Aux.Generation)] {
		s.mu.Unlock()
		return errors.New("frozen")
	}
	old := s.keys[id].Aux
	s.keys[id] = *k
	s.mu.Unlock()
	if old != nil && (k.Aux == nil || k.Aux.Generation < old.Generation) {
		s.world.mu.Lock()
		s.world.wrong("%s: an older generation was stored", id)
		s.world.mu.Unlock()
	}
	if k.Aux != nil {
		s.world.step("store:%s#%d done", id, k.Aux.Generation)
	}
	return nil
}

func (s *stubStore) freeze(frozen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = frozen
}

func (s *stubStore) generation(id string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if aux := s.keys[id].Aux; aux != nil {
		return aux.Generation
	}
	return 0
}

// stubPool is a pool of stub nodes.
type stubPool struct {
	*Pool
	world    *stubWorld
	store    *stubStore
	settings Settings
}

func startStubs(t *testing.T, local int, change func(*Config)) *stubPool {
	t.Helper()
	w := newStubWorld(t)
	f := &stubPool{world: w, store: &stubStore{world: w, keys: map[string]NodeKeys{}},
		settings: Settings{MountID: [16]byte{1}, Local: local, WrappingKeys: []hsm.WrappingKey{{Domain: hsm.DefaultDomain, Version: 1}},
			Token: Token{Module: "stub", Label: "stub", PIN: secret.New([]byte("1234"))}}}
	f.open(t, change)
	t.Cleanup(func() {
		f.close(t)
		w.check(t)
	})
	return f
}

// open starts a new pool on what is stored.
func (f *stubPool) open(t *testing.T, change func(*Config)) {
	t.Helper()
	cfg := Config{Store: f.store, Logger: hclog.NewNullLogger(), Launcher: f.world,
		RestartMin: time.Millisecond, RestartMax: 10 * time.Millisecond, auxRetry: 20 * time.Millisecond, auxGrace: 50 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	f.Pool = New(cfg)
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
}

func (f *stubPool) close(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.Close(ctx); err != nil {
		t.Errorf("closing the pool: %v", err)
	}
}

func (f *stubPool) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s: %+v", what, f.Nodes())
		}
	}
}

// settled reports whether all nodes are ready and have checked each other.
func (f *stubPool) settled() bool {
	nodes := f.Nodes()
	return len(nodes) == f.settings.Local && !slices.ContainsFunc(nodes, func(s NodeStatus) bool {
		return s.State != NodeReady || s.Aux.State != auxReady
	})
}

// account is an ECDSA account of the world's key, whose shares the first n
// nodes have seen.
func (f *stubPool) account(t *testing.T, threshold, shares int) mpc.Account {
	t.Helper()
	public := elliptic.MarshalCompressed(elliptic.P256(), f.world.key.X, f.world.key.Y)
	a := mpc.Account{Record: mpc.PublicRecord{AccountID: mpc.AccountID{9}, Algorithm: mpc.ECDSAP256, Threshold: threshold, Shares: shares,
		PublicKey: public, Epoch: 1, EpochID: mpc.EpochID{1}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()},
		Exposures: mpc.Exposures{}}
	nodes := f.all()
	for i := range shares {
		a.Record.PublicShares = append(a.Record.PublicShares, public)
		a.Shares = append(a.Shares, mpc.WrappedShare{Index: mpc.Index(i + 1), Envelope: []byte("sealed")})
		c, ok := nodes[i].candidate()
		if !ok {
			t.Fatal("a node without an identity")
		}
		a.Exposures[c.identity] = mpc.Index(i + 1)
	}
	if _, err := mpc.ParsePublicRecord(a.Record.Marshal()); err != nil {
		t.Fatal(err)
	}
	return a
}

// onSecp256k1 gives a the world's key on the other curve.
func (f *stubPool) onSecp256k1(a mpc.Account) mpc.Account {
	public := f.world.k1.PubKey().SerializeCompressed()
	a.Record.Algorithm, a.Record.PublicKey, a.Record.ChainCode = mpc.ECDSASecp256k1, public, [32]byte{3}
	a.Record.PublicShares = slices.Repeat([][]byte{public}, a.Record.Shares)
	return a
}

// stubLedger stores exposures as a backend does.
type stubLedger struct {
	mu sync.Mutex
	by mpc.Exposures
}

func (l *stubLedger) expose(_ context.Context, added mpc.Exposures) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, i := range added {
		if old, ok := l.by[id]; ok && old != i {
			return &ExposedError{Node: id, Seen: old, Want: i, Current: maps.Clone(l.by)}
		}
	}
	maps.Copy(l.by, added)
	return nil
}

func (l *stubLedger) copy() mpc.Exposures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.by)
}
