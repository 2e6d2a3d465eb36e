//go:build cgo

package pkcs11

import (
	"crypto/ecdh"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm/hsmtest"
)

// gated keeps CloseAllSessions apart from every other call: SoftHSM 2.6.1 frees
// sessions that other threads are working in, and crashes.
type gated struct {
	*p11.Ctx
	gate sync.RWMutex
}

func (g *gated) closeAll(slot uint) error {
	g.gate.Lock()
	defer g.gate.Unlock()
	return g.Ctx.CloseAllSessions(slot)
}

func (g *gated) OpenSession(slot, flags uint) (p11.SessionHandle, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.OpenSession(slot, flags)
}

func (g *gated) CloseSession(s p11.SessionHandle) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.CloseSession(s)
}

func (g *gated) GetSessionInfo(s p11.SessionHandle) (p11.SessionInfo, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.GetSessionInfo(s)
}

func (g *gated) Login(s p11.SessionHandle, user uint, pin string) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.Login(s, user, pin)
}

func (g *gated) FindObjectsInit(s p11.SessionHandle, a []*p11.Attribute) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.FindObjectsInit(s, a)
}

func (g *gated) FindObjects(s p11.SessionHandle, n int) ([]p11.ObjectHandle, bool, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.FindObjects(s, n)
}

func (g *gated) FindObjectsFinal(s p11.SessionHandle) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.FindObjectsFinal(s)
}

func (g *gated) GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, a []*p11.Attribute) ([]*p11.Attribute, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.GetAttributeValue(s, o, a)
}

func (g *gated) DeriveKey(s p11.SessionHandle, m []*p11.Mechanism, base p11.ObjectHandle, a []*p11.Attribute) (p11.ObjectHandle, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.DeriveKey(s, m, base, a)
}

func (g *gated) DestroyObject(s p11.SessionHandle, o p11.ObjectHandle) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Ctx.DestroyObject(s, o)
}

// TestSessionLossUnderLoad: all sessions, the login and every handle go while
// many goroutines are between two calls of one derivation; each request is
// answered all the same, and rightly.
func TestSessionLossUnderLoad(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	var g *gated
	tok, err := open(t.Context(), Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN()}, func(cfg Config) (library, error) {
		m, err := loadModule(cfg.Module, "")
		if err != nil {
			return library{}, err
		}
		g = &gated{Ctx: m.(*p11.Ctx)}
		return library{module: g}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	key, err := tok.GenerateWrappingKey(t.Context(), request(1))
	if err != nil {
		t.Fatal(err)
	}
	eph, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := tok.ECDH(t.Context(), key, eph.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	right(t, key, eph, want)
	var done atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 100 {
				z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
				if err != nil {
					t.Errorf("after %d: %v", done.Load(), err)
					return
				}
				if !z.Equal(want) {
					t.Error("another secret")
				}
				done.Add(1)
			}
		})
	}
	for done.Load() < 400 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	if err := g.closeAll(tok.slot); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if tok.generation() == 0 {
		t.Error("nothing was lost, so the test shows nothing")
	}
}
