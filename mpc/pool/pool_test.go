package pool_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// TestMain lets this test binary be the node that the pool starts: real
// subprocesses with real PKCS#11 sessions, as in production. It can also be a node
// on another host; see remote_test.go.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && runHost(os.Args[1], os.Args[2]) {
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "node" {
		if err := nodelink.ExitWithParent(func() { os.Exit(0) }); err != nil {
			os.Exit(2)
		}
		n := node.New(node.Config{Version: "v0", Logger: hclog.NewNullLogger(), Modules: os.Getenv(modules.Variable),
			OpenToken: func(ctx context.Context, c pkcs11.Config) (node.Token, error) { return pkcs11.Open(ctx, c) }})
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: nodelink.Handshake(),
			Plugins:         plugin.PluginSet{nodelink.Name: &nodelink.Plugin{Node: n}},
			GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
				return plugin.DefaultGRPCServer(append(opts, grpc.MaxRecvMsgSize(nodelink.MaxMessage)))
			},
		})
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// memoryStore is a KeyStore for one test.
type memoryStore struct {
	mu   sync.Mutex
	keys map[string]pool.NodeKeys
}

func (s *memoryStore) NodeKeys(_ context.Context, id string) (*pool.NodeKeys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[id]
	if !ok {
		return nil, nil
	}
	return &k, nil
}

func (s *memoryStore) PutNodeKeys(_ context.Context, id string, k *pool.NodeKeys) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = *k
	return nil
}

// fixture is a pool of nodes on a fresh SoftHSM token.
type fixture struct {
	pool     *pool.Pool
	store    *memoryStore
	token    pool.Token
	settings pool.Settings
}

func start(t *testing.T, local int) *fixture {
	t.Helper()
	f := &fixture{store: &memoryStore{keys: map[string]pool.NodeKeys{}}, token: softToken(t)}
	f.pool = pool.New(pool.Config{Store: f.store, Logger: hclog.NewNullLogger(), Env: os.Environ()})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.pool.Close(ctx); err != nil {
			t.Errorf("closing the pool: %v", err)
		}
	})
	mount := [16]byte{1, 2, 3}
	info, key, err := f.pool.Probe(deadline(t, 10*time.Second), mount, f.token, pool.KeyRequest{Version: 1, Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
	if err != nil {
		t.Fatal(err)
	}
	if info.Label != f.token.Label || key == nil || key.Version != 1 {
		t.Fatalf("probe: %+v %+v", info, key)
	}
	f.settings = pool.Settings{MountID: mount, Token: f.token, WrappingKeys: []hsm.WrappingKey{*key}, Local: local}
	if err := f.pool.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	return f
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func (f *fixture) create(t *testing.T, a mpc.Algorithm, threshold, shares int) mpc.Account {
	t.Helper()
	r, err := f.pool.Create(deadline(t, 10*time.Second), pool.CreateRequest{AccountID: mpc.AccountID{9}, Algorithm: a,
		Threshold: threshold, Shares: shares, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Certificate) != shares || r.Account.Record.Epoch != 1 {
		t.Fatalf("%d endorsements, epoch %d", len(r.Certificate), r.Account.Record.Epoch)
	}
	return r.Account
}

// ledger keeps exposures as a backend would and refuses what breaks the rule.
type ledger struct {
	mu sync.Mutex
	by mpc.Exposures
}

func (l *ledger) expose(_ context.Context, added mpc.Exposures) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, i := range added {
		if old, ok := l.by[id]; ok && old != i {
			return &pool.ExposedError{Node: id, Seen: old, Want: i, Current: maps.Clone(l.by)}
		}
	}
	maps.Copy(l.by, added)
	return nil
}

func (l *ledger) copy() mpc.Exposures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.by)
}

func (f *fixture) sign(t *testing.T, a mpc.Account, l *ledger, message []byte) *pool.SignResult {
	t.Helper()
	a.Exposures = l.copy()
	r, err := f.pool.Sign(deadline(t, 30*time.Second), pool.SignRequest{Account: a, Input: message,
		MessageType: mpc.MessageRaw, Hash: hashFor(a), Expose: l.expose})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := verify.Message(&a.Record, mpc.MessageRaw, hashFor(a), message, r.Signature.Bytes); !ok || err != nil {
		t.Fatalf("the signature does not verify: %v", err)
	}
	if len(r.Signers) != a.Record.Threshold {
		t.Fatalf("%d signers", len(r.Signers))
	}
	return r
}

func hashFor(a mpc.Account) mpc.HashAlgorithm {
	if !a.Record.Algorithm.IsECDSA() {
		return mpc.HashNone
	}
	return mpc.HashSHA256
}

func TestPool(t *testing.T) {
	f := start(t, 5)
	account := f.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	for i := 0; i < 10; i++ {
		f.sign(t, account, l, []byte{1, byte(i)})
	}

	t.Run("refresh", func(t *testing.T) {
		r, err := f.pool.Refresh(deadline(t, 10*time.Second), pool.RefreshRequest{Account: account, Expose: l.expose})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Account.Record.PublicKey, account.Record.PublicKey) || r.Account.Record.Epoch != 2 {
			t.Fatal("the refresh changed the key or did not count the epoch")
		}
		if r.Account.Record.ChainCode != account.Record.ChainCode || r.Account.Record.EpochID == account.Record.EpochID {
			t.Fatal("chain code or epoch ID")
		}
		if err := f.pool.OpenCheck(deadline(t, 5*time.Second), r.Account); err != nil {
			t.Fatal(err)
		}
		account = r.Account
		l = &ledger{by: maps.Clone(account.Exposures)}
		f.sign(t, account, l, []byte("after refresh"))
	})

	t.Run("killed nodes", func(t *testing.T) {
		f.waitReady(t, 5)
		// Kill a node that holds a share; a spare or another share serves.
		for round := 0; round < 3; round++ {
			victim := f.pool.Nodes()[round]
			p, err := os.FindProcess(victim.PID)
			if err != nil || victim.PID == 0 {
				t.Fatalf("node %s has no process: %v", victim.ID, err)
			}
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			f.sign(t, account, l, []byte{2, byte(round)})
		}
		f.waitReady(t, 5)
	})

	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for g := 0; g < 8; g++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := 0; i < 5; i++ {
					f.sign(t, account, l, []byte{3, byte(g), byte(i)})
				}
			}()
		}
		wg.Wait()
	})

	t.Run("two sessions want the same spare", func(t *testing.T) {
		// Both know only the nodes of shares 1 and 2, and share 3's node is one
		// spare among others to them; what the one stores the other learns.
		var wg sync.WaitGroup
		few := mpc.Exposures{}
		for id, i := range account.Exposures {
			if i == 1 {
				few[id] = i
			}
		}
		shared := &ledger{by: maps.Clone(few)}
		for g := 0; g < 8; g++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a := account
				a.Exposures = maps.Clone(few)
				r, err := f.pool.Sign(deadline(t, 20*time.Second), pool.SignRequest{Account: a, Input: []byte{5, byte(g)},
					MessageType: mpc.MessageRaw, Hash: mpc.HashNone, Expose: shared.expose})
				if err != nil {
					t.Error(err)
				} else if ok, _ := verify.Message(&a.Record, mpc.MessageRaw, mpc.HashNone, []byte{5, byte(g)}, r.Signature.Bytes); !ok {
					t.Error("bad signature")
				}
			}()
		}
		wg.Wait()
	})

	t.Run("damaged share", func(t *testing.T) {
		damaged := account
		damaged.Shares = append([]mpc.WrappedShare(nil), account.Shares...)
		e := bytes.Clone(damaged.Shares[0].Envelope)
		e[len(e)-1] ^= 1
		damaged.Shares[0] = mpc.WrappedShare{Index: 1, Envelope: e}
		if err := f.pool.OpenCheck(deadline(t, 5*time.Second), damaged); !errors.Is(err, pool.ErrShareUnusable) {
			t.Fatalf("open check: %v", err)
		}
		for i := 0; i < 5; i++ { // the other two shares still sign
			f.sign(t, damaged, l, []byte{4, byte(i)})
		}
		_, err := f.pool.Refresh(deadline(t, 5*time.Second), pool.RefreshRequest{Account: damaged, Expose: l.expose})
		if !errors.Is(err, pool.ErrShareUnusable) {
			t.Fatalf("refresh with a damaged share: %v", err)
		}
	})

	t.Run("share of another index", func(t *testing.T) {
		swapped := account
		swapped.Shares = []mpc.WrappedShare{account.Shares[0], {Index: 2, Envelope: account.Shares[0].Envelope}, {Index: 3, Envelope: account.Shares[0].Envelope}}
		_, err := f.pool.Sign(deadline(t, 5*time.Second), pool.SignRequest{Account: swapped, Input: []byte("x"),
			MessageType: mpc.MessageRaw, Hash: mpc.HashNone, Expose: l.expose})
		if !errors.Is(err, pool.ErrShareUnusable) {
			t.Fatalf("got %v", err)
		}
	})

	t.Run("too many shares", func(t *testing.T) {
		_, err := f.pool.Create(deadline(t, 5*time.Second), pool.CreateRequest{AccountID: mpc.AccountID{1},
			Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 6, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()})
		var few *pool.TooFewNodesError
		if !errors.As(err, &few) {
			t.Fatalf("got %v", err)
		}
	})

	t.Run("wrong PIN in a probe", func(t *testing.T) {
		wrong := f.token
		wrong.PIN = secret.New([]byte("0000"))
		_, _, err := f.pool.Probe(deadline(t, 5*time.Second), [16]byte{1}, wrong, pool.KeyRequest{})
		if !errors.Is(err, pool.ErrPINIncorrect) {
			t.Fatalf("got %v", err)
		}
	})
}

func (f *fixture) waitReady(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		ready := 0
		for _, s := range f.pool.Nodes() {
			if s.State == pool.NodeReady {
				ready++
			}
		}
		if ready == n {
			return
		}
	}
	t.Fatalf("nodes: %+v", f.pool.Nodes())
}

// softToken makes a fresh SoftHSM token and points the environment at it.
func softToken(t *testing.T) pool.Token {
	t.Helper()
	s := hsmtest.SoftHSM(t)
	t.Setenv(modules.Variable, "softhsm="+s.Module)
	return pool.Token{Module: "softhsm", Label: s.Label, PIN: s.PIN()}
}

// TestECDSA makes auxiliary keys on real nodes, signs, refreshes, and starts
// the pool anew on the stored keys.
func TestECDSA(t *testing.T) {
	if testing.Short() {
		t.Skip("making auxiliary keys takes minutes under the race detector; this test runs without -short")
	}
	f := start(t, 3)
	account := f.create(t, mpc.ECDSASecp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}

	_, err := f.pool.Sign(deadline(t, 300*time.Millisecond), pool.SignRequest{Account: account, Input: []byte("too early"),
		MessageType: mpc.MessageRaw, Hash: mpc.HashSHA256, Expose: l.expose})
	var pending *pool.AuxPendingError
	if !errors.As(err, &pending) || len(pending.Nodes) == 0 {
		t.Fatalf("a signature before there are auxiliary keys: %v", err)
	}

	f.waitAuxiliary(t)
	f.sign(t, account, l, []byte("one"))
	r, err := f.pool.Refresh(deadline(t, 10*time.Second), pool.RefreshRequest{Account: account, Expose: l.expose})
	if err != nil {
		t.Fatal(err)
	}
	account, l = r.Account, &ledger{by: maps.Clone(r.Account.Exposures)}
	f.sign(t, account, l, []byte("two"))

	// A new process works with stored keys and receipts: no new primes.
	before := f.store.keys["local-1"].Aux
	victim := f.pool.Nodes()[0]
	if p, err := os.FindProcess(victim.PID); err != nil || p.Kill() != nil {
		t.Fatal("cannot kill", victim.PID)
	}
	f.sign(t, account, l, []byte("three"))
	f.waitReady(t, 3)
	started := time.Now()
	f.waitAuxiliary(t)
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("the node needed %v after its restart", took)
	}
	f.sign(t, account, l, []byte("four"))
	if after := f.store.keys["local-1"].Aux; after.Generation != before.Generation || len(after.Receipts) != 2 {
		t.Errorf("generation %d with %d receipts, want %d with 2", after.Generation, len(after.Receipts), before.Generation)
	}
}

func (f *fixture) waitAuxiliary(t *testing.T) {
	t.Helper()
	started := time.Now()
	for end := started.Add(5 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ready := 0
		for _, s := range f.pool.Nodes() {
			if s.Aux.State == "ready" {
				ready++
			}
		}
		if ready == len(f.pool.Nodes()) {
			t.Logf("auxiliary keys complete after %v", time.Since(started).Round(time.Millisecond))
			return
		}
	}
	t.Fatalf("nodes: %+v", f.pool.Nodes())
}
