//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThalesGroup/crypto11"
	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
)

func rsaRequest() KeyRequest {
	return KeyRequest{Domain: "default", Version: 1, Suites: []hsm.Suite{hsm.SuiteRSA3072OAEPSHA1}}
}

// encrypted returns a ciphertext for key.
func encrypted(t *testing.T, key hsm.WrappingKey, text string) []byte {
	t.Helper()
	pub, err := hsm.ParseRSAPublicKey(key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func decrypts(t *testing.T, tok *Token, key hsm.WrappingKey) {
	t.Helper()
	got, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Expose()) != "text" {
		t.Fatal("decrypted to something else")
	}
}

func allowSHA1(c *Config) { c.AllowSHA1, c.Timeout = true, 10*time.Second }

// TestDecryptRetriesOnceByClass is TestRetriesOnceByClass for RSA through the
// raw layer, where the token is also asked whose fault it is.
func TestDecryptRetriesOnceByClass(t *testing.T) {
	f := &faulty{}
	tok, err := openFaulty(t, f, allowSHA1)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tok.GenerateWrappingKey(t.Context(), rsaRequest())
	if err != nil {
		t.Fatal(err)
	}
	if h, err := tok.known(key); err != nil || h.private == 0 || h.lent != nil {
		t.Fatal("crypto11 has got hold of a module in a wrapper")
	}
	for _, test := range []struct {
		code  uint
		times int // how often the module answers so
		want  error
		calls int // of C_DecryptInit, proofs included
	}{
		{p11.CKR_SESSION_HANDLE_INVALID, 1, nil, 3}, // the second proves the key, found again
		{p11.CKR_SESSION_HANDLE_INVALID, 9, ErrUnavailable, 2},
		{p11.CKR_OPERATION_ACTIVE, 1, nil, 3},
		{p11.CKR_KEY_HANDLE_INVALID, 1, nil, 3},
		{p11.CKR_USER_NOT_LOGGED_IN, 1, nil, 2},
		{p11.CKR_DEVICE_REMOVED, 9, ErrUnavailable, 3}, // the second asks whose fault it is, the third proves the key, found again
		{p11.CKR_FUNCTION_FAILED, 9, p11.Error(p11.CKR_FUNCTION_FAILED), 3},
		{p11.CKR_FUNCTION_FAILED, 1, hsm.ErrOpen, 2}, // only this ciphertext fails
		{p11.CKR_ENCRYPTED_DATA_INVALID, 1, hsm.ErrOpen, 2},
		{p11.CKR_DEVICE_ERROR, 1, hsm.ErrOpen, 2},
	} {
		t.Run(p11.Error(test.code).Error(), func(t *testing.T) {
			f.set(func() { f.decrypt = nil })
			decrypts(t, tok, key) // bound
			left := test.times
			f.set(func() {
				f.calls = nil
				f.decrypt = func() error {
					if left--; left >= 0 {
						return p11.Error(test.code)
					}
					return nil
				}
			})
			z, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text"))
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v", err)
			}
			if err == nil && string(z.Expose()) != "text" {
				t.Fatal("decrypted to something else")
			}
			if n := f.called("decrypt"); n != test.calls {
				t.Errorf("%d decryptions, want %d", n, test.calls)
			}
		})
	}
}

func TestSHA1NeedsPermission(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	cfg := Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), AllowSHA1: true}
	tok, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tok.GenerateWrappingKey(t.Context(), rsaRequest())
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.AllowSHA1 = false
	if tok, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	if _, err := tok.GenerateWrappingKey(t.Context(), rsaRequest()); !errors.Is(err, ErrNoSuite) {
		t.Errorf("made: %v", err)
	}
	if err := tok.Bind(t.Context(), key); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("bound: %v", err)
	}
	if _, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text")); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("decrypted: %v", err)
	}
}

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

// TestPresence: what the module says about the token decides whether a key is
// missing or the token.
func TestPresence(t *testing.T) {
	f := &faulty{}
	tok, key, _ := ready(t, f)
	other := key
	other.ID = make([]byte, keyIDSize)
	for code, newProcess := range map[uint]bool{
		p11.CKR_GENERAL_ERROR: true, p11.CKR_FUNCTION_FAILED: true, p11.CKR_CRYPTOKI_NOT_INITIALIZED: true,
		p11.CKR_TOKEN_NOT_PRESENT: false, p11.CKR_DEVICE_REMOVED: false, p11.CKR_SLOT_ID_INVALID: false,
	} {
		f.set(func() { f.info = func() error { return p11.Error(code) } })
		for doing, err := range map[string]error{
			"alive": tok.Alive(t.Context()), "bind": tok.Bind(t.Context(), other), "destroy": tok.DestroyWrappingKey(t.Context(), other.ID),
		} {
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrKeyNotFound) || errors.Is(err, ErrNewProcess) != newProcess || !errors.Is(err, p11.Error(code)) {
				t.Errorf("%v: %s: %v", p11.Error(code), doing, err)
			}
		}
	}
	f.set(func() { f.info = nil })
	if err := tok.Alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tok.DestroyWrappingKey(t.Context(), other.ID); !errors.Is(err, ErrKeyNotFound) || errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	tok.info.Serial = "of another token"
	if err := tok.Alive(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "in the place") {
		t.Fatal(err)
	}
}

// TestAliveDoesNotWait: asking after the token does not wait for a key that is
// being made.
func TestAliveDoesNotWait(t *testing.T) {
	f := &faulty{}
	tok, _, _ := ready(t, f)
	<-tok.admin
	defer func() { tok.admin <- struct{}{} }()
	if err := tok.Alive(t.Context()); err != nil {
		t.Fatal(err)
	}
}
