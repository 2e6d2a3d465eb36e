//go:build cgo

package pool_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// await polls until cond holds.
func (f *fixture) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s: %+v", what, f.pool.Nodes())
		}
	}
}

// TestRefusedPIN: a PIN that the token refuses is tried once by the whole pool.
// Nodes that are logged in go on, the others say why they do not, and a PIN that
// a probe has found right brings them back.
func TestRefusedPIN(t *testing.T) {
	f := start(t, 5)
	f.waitReady(t, 5)
	account := f.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	count := func(state pool.NodeState) (n int) {
		for _, s := range f.pool.Nodes() {
			if s.State == state {
				n++
			}
			if bytes.Contains([]byte(s.LastError), []byte("9876")) {
				t.Fatal("an error shows the PIN")
			}
		}
		return n
	}

	wrong := f.settings
	wrong.Token.PIN = secret.New([]byte("9876"))
	if err := f.pool.Apply(context.Background(), wrong); err != nil {
		t.Fatal(err)
	}
	f.await(t, "first node refused", func() bool { return count(pool.NodeFailed) == 1 })
	time.Sleep(300 * time.Millisecond)
	if n := count(pool.NodeReady); n != 4 {
		t.Fatalf("%d nodes go on, want 4", n)
	}
	f.sign(t, account, l, []byte("four are enough"))

	for _, s := range f.pool.Nodes() {
		if s.PID > 0 {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.await(t, "pool without a login", func() bool { return count(pool.NodeFailed) == 5 })
	if err := f.pool.Apply(context.Background(), wrong); err != nil { // the same PIN: not tried again
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if n := count(pool.NodeFailed); n != 5 {
		t.Fatalf("%d nodes failed, want 5", n)
	}

	// The token is given that PIN; after a probe it is tried again.
	changePIN(t, f.token, "9876")
	if _, _, err := f.pool.Probe(deadline(t, 5*time.Second), wrong.MountID, wrong.Token, pool.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	wrong.Token.Accepted = time.Now()
	if err := f.pool.Apply(context.Background(), wrong); err != nil {
		t.Fatal(err)
	}
	f.waitReady(t, 5)
	f.sign(t, account, l, []byte("back"))
}

// TestNewPIN: the nodes take a new PIN one after the other, and signing goes on.
func TestNewPIN(t *testing.T) {
	f := start(t, 5)
	f.waitReady(t, 5)
	account := f.create(t, mpc.BIP340Secp256k1, 3, 5)
	l := &ledger{by: maps.Clone(account.Exposures)}
	before := f.pool.Nodes()

	s := f.settings
	s.Token.PIN = changePIN(t, f.token, "567890")
	if err := f.pool.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	f.await(t, "renewed pool", func() bool {
		f.sign(t, account, l, []byte("meanwhile"))
		for i, n := range f.pool.Nodes() {
			if n.State != pool.NodeReady || n.PID == before[i].PID {
				return false
			}
		}
		return true
	})
	f.sign(t, account, l, []byte("with the new PIN"))
}

// changePIN gives the token another user PIN and returns it.
func changePIN(t *testing.T, token pool.Token, next string) *secret.Bytes {
	t.Helper()
	m := p11.New(strings.TrimPrefix(os.Getenv(modules.Variable), "softhsm="))
	if m == nil {
		t.Fatal("the module cannot be loaded")
	}
	if err := m.Initialize(); err != nil && err != p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Fatal(err)
	}
	slots, err := m.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := m.GetTokenInfo(slot); err != nil || strings.TrimRight(info.Label, " \x00") != token.Label {
			continue
		}
		session, err := m.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.CloseSession(session) }()
		if err := m.SetPIN(session, string(token.PIN.Expose()), next); err != nil {
			t.Fatal(err)
		}
		return secret.New([]byte(next))
	}
	t.Fatal("the token is not there")
	return nil
}

// TestHungNode: a node that stops answering neither keeps others from coming
// back nor the pool from closing, and is replaced.
func TestHungNode(t *testing.T) {
	f := start(t, 4)
	f.waitReady(t, 4)
	account := f.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	nodes := f.pool.Nodes()
	if err := syscall.Kill(nodes[1].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(nodes[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.sign(t, account, l, []byte("two of four are enough"))
	f.await(t, "full pool", func() bool {
		now := f.pool.Nodes()
		return now[0].State == pool.NodeReady && now[0].PID != nodes[0].PID &&
			now[1].State == pool.NodeReady && now[1].PID != nodes[1].PID
	})
	f.sign(t, account, l, []byte("all are back"))
	// Closing the pool, at the end of the test, must not wait for this one.
	if err := syscall.Kill(f.pool.Nodes()[2].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// TestLostToken: while the token is away errors say so and nodes/ shows it;
// when it is back, signing works again without anybody's help.
func TestLostToken(t *testing.T) {
	f := start(t, 3)
	f.waitReady(t, 3)
	account := f.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	tokens := tokenFolder(t)
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	try := func(message string) error {
		_, err := f.pool.Sign(deadline(t, 3*time.Second), pool.SignRequest{Account: account, Input: []byte(message),
			MessageType: mpc.MessageRaw, Hash: mpc.HashNone, Expose: l.expose})
		return err
	}
	// SoftHSM goes on with keys it has in memory; a new process finds no token.
	for _, n := range f.pool.Nodes() {
		if err := syscall.Kill(n.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	// SoftHSM says CKR_GENERAL_ERROR at start when its folder is not there.
	if err := try("away"); !errors.Is(err, pool.ErrModule) {
		t.Errorf("without a token: %v, want an error that names the HSM", err)
	}
	for _, n := range f.pool.Nodes() {
		if !strings.Contains(n.HSM, pool.ErrModule.Error()) {
			t.Errorf("%s does not say that the token is away: %+v", n.ID, n)
		}
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	f.await(t, "signature", func() bool { return try("back") == nil })
}

// tokenFolder is where SoftHSM keeps the tokens of this test.
func tokenFolder(t *testing.T) string {
	t.Helper()
	conf, err := os.ReadFile(os.Getenv("SOFTHSM2_CONF"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(conf)) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "directories.tokendir" {
			return strings.TrimSpace(value)
		}
	}
	t.Fatal("no token folder in SoftHSM's configuration")
	return ""
}

// TestBusy: many more requests than nodes take at once wait for their turn, and
// past the bound of the account they are turned away at once. No spare is spent
// because nodes are busy.
func TestBusy(t *testing.T) {
	f := start(t, 5)
	f.waitReady(t, 5)
	account := f.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	for _, requests := range []int{120, 400} {
		var wg sync.WaitGroup
		var mu sync.Mutex
		signed, refused := 0, 0
		for g := 0; g < requests; g++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a := account
				a.Exposures = l.copy()
				_, err := f.pool.Sign(deadline(t, 60*time.Second), pool.SignRequest{Account: a, Input: []byte{6, byte(g)},
					MessageType: mpc.MessageRaw, Hash: mpc.HashNone, Expose: l.expose})
				var busy *pool.BusyError
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					signed++
				case errors.As(err, &busy) && busy.PerAccount && busy.Waiting >= 128:
					refused++
				default:
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		if signed+refused != requests || signed < min(requests, 128) || (refused > 0) != (requests > 300) {
			t.Errorf("of %d requests at once %d were answered and %d turned away", requests, signed, refused)
		}
	}
	if n := len(l.copy()); n != len(account.Exposures) {
		t.Errorf("spares were spent: %d nodes have seen a share, want %d", n, len(account.Exposures))
	}
}
