//go:build cgo

package pkcs11

import (
	"crypto"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/ThalesGroup/crypto11"
	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
)

// watched counts and disturbs crypto11.
type watched struct {
	mu         sync.Mutex
	configured int
	closed     int
	decrypt    func() error // before crypto11's Decrypt
}

func (w *watched) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *watched) counts() (configured, closed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.configured, w.closed
}

type watchedContext struct {
	rsaContext
	w *watched
}

func (c watchedContext) Close() error {
	c.w.set(func() { c.w.closed++ })
	return c.rsaContext.Close()
}

func (c watchedContext) FindRSAPrivateKeys(id, label []byte) ([]crypto11.RSAPrivateKey, error) {
	keys, err := c.rsaContext.FindRSAPrivateKeys(id, label)
	for i := range keys {
		keys[i] = watchedKey{keys[i], c.w}
	}
	return keys, err
}

type watchedKey struct {
	crypto11.RSAPrivateKey
	w *watched
}

func (k watchedKey) Decrypt(r io.Reader, ciphertext []byte, o crypto.DecrypterOpts) ([]byte, error) {
	k.w.mu.Lock()
	hook := k.w.decrypt
	k.w.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return nil, err
		}
	}
	return k.RSAPrivateKey.Decrypt(r, ciphertext, o)
}

// sharedToken opens SoftHSM with crypto11 watched, and makes an RSA key.
func sharedToken(t *testing.T, w *watched, change ...func(*Config)) (*Token, hsm.WrappingKey) {
	t.Helper()
	soft := hsmtest.SoftHSM(t)
	cfg := Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN()}
	allowSHA1(&cfg)
	for _, c := range change {
		c(&cfg)
	}
	tok, err := open(t.Context(), cfg, func(cfg Config) (library, error) {
		lib, err := load(cfg)
		if err == nil {
			real := lib.shared.configure
			lib.shared.configure = func(slot *uint) (rsaContext, error) {
				w.set(func() { w.configured++ })
				ctx, err := real(slot)
				return watchedContext{ctx, w}, err
			}
		}
		return lib, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	key, err := tok.GenerateWrappingKey(t.Context(), rsaRequest())
	if err != nil {
		t.Fatal(err)
	}
	return tok, key
}

func lent(t *testing.T, tok *Token, key hsm.WrappingKey) *lentKey {
	t.Helper()
	h, err := tok.known(key)
	if err != nil || h.lent == nil {
		t.Fatalf("the key is not used through crypto11: %v", err)
	}
	return h.lent
}

// TestCrypto11Heals: crypto11 alone would fail for good after its sessions are
// lost. It gets a new context, without a failed call, and finalises nothing.
func TestCrypto11Heals(t *testing.T) {
	w := &watched{}
	tok, key := sharedToken(t, w)
	decrypts(t, tok, key)
	before := lent(t, tok, key)
	if n, _ := w.counts(); n != 1 {
		t.Fatalf("configured %d times", n)
	}
	raw := tok.mod.(*p11.Ctx)
	for i := range 3 {
		if err := raw.CloseAllSessions(tok.slot); err != nil {
			t.Fatal(err)
		}
		decrypts(t, tok, key)
		after := lent(t, tok, key)
		if n, closed := w.counts(); after.of == before.of || n != i+2 || closed != 0 {
			t.Fatalf("configured %d times, closed %d", n, closed)
		}
		before = after
	}

	// One dirty or lost session is enough for a new context; the old one, whose
	// other sessions are good, is closed.
	for _, code := range []uint{p11.CKR_OPERATION_ACTIVE, p11.CKR_SESSION_HANDLE_INVALID} {
		n, closed := w.counts()
		failed := false
		w.set(func() {
			w.decrypt = func() error {
				if failed {
					return nil
				}
				failed = true
				return p11.Error(code)
			}
		})
		decrypts(t, tok, key)
		if n2, closed2 := w.counts(); !failed || n2 != n+1 || closed2 != closed+1 {
			t.Errorf("%v: configured %d more, closed %d more", p11.Error(code), n2-n, closed2-closed)
		}
	}

	// A ciphertext that does not decrypt costs no context.
	n, _ := w.counts()
	for range 5 {
		bad := encrypted(t, key, "text")
		bad[383] ^= 1
		if _, err := tok.DecryptOAEP(t.Context(), key, bad); !errors.Is(err, hsm.ErrOpen) {
			t.Fatal(err)
		}
	}
	decrypts(t, tok, key)
	if n2, _ := w.counts(); n2 != n {
		t.Errorf("configured %d more", n2-n)
	}
}

// TestCrypto11Hangs: crypto11 knows no deadlines; callers have theirs all the
// same, and the number of stuck calls is bounded.
func TestCrypto11Hangs(t *testing.T) {
	w := &watched{}
	tok, key := sharedToken(t, w, func(c *Config) { c.Sessions = 2 })
	decrypts(t, tok, key)
	hang := make(chan struct{})
	var mu sync.Mutex
	inside := 0
	w.set(func() {
		w.decrypt = func() error {
			mu.Lock()
			inside++
			mu.Unlock()
			<-hang
			return nil
		}
	})
	tok.timeout = 300 * time.Millisecond
	for range 4 {
		if _, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text")); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	mu.Lock()
	if inside != 2 {
		t.Errorf("%d calls hang, want 2", inside)
	}
	mu.Unlock()
	w.set(func() { w.decrypt = nil })
	close(hang)
	tok.timeout = 10 * time.Second
	decrypts(t, tok, key)
}

// TestTwoTokensOneLibrary: crypto11 counts its contexts over the whole process,
// so closing one Token does not finalise the library under another.
func TestTwoTokensOneLibrary(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	open := func() *Token {
		cfg := Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN()}
		allowSHA1(&cfg)
		tok, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tok.Close() })
		return tok
	}
	first, second := open(), open()
	if !first.Info().PINChecked || second.Info().PINChecked {
		t.Error("the second login of a process is not checked, and must say so")
	}
	key, err := first.GenerateWrappingKey(t.Context(), rsaRequest())
	if err != nil {
		t.Fatal(err)
	}
	decrypts(t, second, key)
	lent(t, second, key)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	decrypts(t, second, key)
	if err := second.Alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	third := open()
	if !third.Info().PINChecked {
		t.Error("a login survived the last Token")
	}
	decrypts(t, third, key)
	lent(t, third, key)
}
