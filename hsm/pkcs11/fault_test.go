//go:build cgo

package pkcs11

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/secret"
)

// faulty puts faults in front of a real module. Each hook may be nil.
type faulty struct {
	module
	mu       sync.Mutex
	calls    map[string]int
	derive   func() error // before C_DeriveKey
	decrypt  func() error // before C_DecryptInit
	info     func() error // before C_GetTokenInfo
	generate func(real func() (p11.ObjectHandle, p11.ObjectHandle, error)) (p11.ObjectHandle, p11.ObjectHandle, error)
	read     func(typ uint) ([]byte, error, bool)
	login    func() (error, bool)
	flags    uint // added to the token's
}

func (f *faulty) count(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[name]++
}

func (f *faulty) called(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[name]
}

func (f *faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *faulty) OpenSession(slot, flags uint) (p11.SessionHandle, error) {
	f.count("open")
	return f.module.OpenSession(slot, flags)
}

func (f *faulty) CloseSession(s p11.SessionHandle) error {
	f.count("close")
	return f.module.CloseSession(s)
}

func (f *faulty) GetTokenInfo(slot uint) (p11.TokenInfo, error) {
	f.mu.Lock()
	hook := f.info
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return p11.TokenInfo{}, err
		}
	}
	ti, err := f.module.GetTokenInfo(slot)
	ti.Flags |= f.flags
	return ti, err
}

func (f *faulty) Login(s p11.SessionHandle, userType uint, pin string) error {
	f.count("login")
	f.mu.Lock()
	hook := f.login
	f.mu.Unlock()
	if hook != nil {
		if err, done := hook(); done {
			return err
		}
	}
	return f.module.Login(s, userType, pin)
}

func (f *faulty) DeriveKey(s p11.SessionHandle, m []*p11.Mechanism, base p11.ObjectHandle, a []*p11.Attribute) (p11.ObjectHandle, error) {
	f.count("derive")
	f.mu.Lock()
	hook := f.derive
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return 0, err
		}
	}
	return f.module.DeriveKey(s, m, base, a)
}

func (f *faulty) FindObjectsInit(s p11.SessionHandle, a []*p11.Attribute) error {
	f.count("find")
	return f.module.FindObjectsInit(s, a)
}

func (f *faulty) DecryptInit(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle) error {
	f.count("decrypt")
	f.mu.Lock()
	hook := f.decrypt
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	return f.module.DecryptInit(s, m, key)
}

func (f *faulty) GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error) {
	f.count("generate")
	real := func() (p11.ObjectHandle, p11.ObjectHandle, error) {
		return f.module.GenerateKeyPair(s, m, public, private)
	}
	if f.generate != nil {
		return f.generate(real)
	}
	return real()
}

func (f *faulty) GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, a []*p11.Attribute) ([]*p11.Attribute, error) {
	if f.read != nil {
		if v, err, done := f.read(a[0].Type); done {
			if err != nil {
				return nil, err
			}
			return []*p11.Attribute{p11.NewAttribute(a[0].Type, v)}, nil
		}
	}
	return f.module.GetAttributeValue(s, o, a)
}

// openFaulty opens a SoftHSM token behind f.
func openFaulty(t *testing.T, f *faulty, change ...func(*Config)) (*Token, error) {
	t.Helper()
	soft := hsmtest.SoftHSM(t)
	cfg := Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), Timeout: time.Second}
	for _, c := range change {
		c(&cfg)
	}
	tok, err := open(t.Context(), cfg, func(cfg Config) (library, error) {
		m, err := loadModule(cfg.Module, "")
		f.module = m
		return library{module: f}, err
	})
	if err == nil {
		t.Cleanup(func() { _ = tok.Close() })
	}
	return tok, err
}

func ready(t *testing.T, f *faulty, change ...func(*Config)) (*Token, hsm.WrappingKey, *ecdh.PrivateKey) {
	t.Helper()
	tok, err := openFaulty(t, f, change...)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tok.GenerateWrappingKey(t.Context(), request(1))
	if err != nil {
		t.Fatal(err)
	}
	eph, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tok, key, eph
}

func request(version uint32) KeyRequest {
	return KeyRequest{Domain: "default", Version: version, Suites: []hsm.Suite{hsm.SuiteHPKEP256}}
}

func TestRetriesOnceByClass(t *testing.T) {
	for _, test := range []struct {
		code  uint
		times int // how often the module answers so
		want  error
		calls int // of C_DeriveKey, probes included
	}{
		{p11.CKR_SESSION_HANDLE_INVALID, 1, nil, 3},
		{p11.CKR_SESSION_CLOSED, 1, nil, 3},
		{p11.CKR_SESSION_HANDLE_INVALID, 9, ErrUnavailable, 2},
		{p11.CKR_KEY_HANDLE_INVALID, 1, nil, 3}, // the second is the probe of finding it again
		{p11.CKR_USER_NOT_LOGGED_IN, 1, nil, 2},
		{p11.CKR_DEVICE_ERROR, 1, ErrUnavailable, 1},
		{p11.CKR_DEVICE_REMOVED, 1, ErrUnavailable, 1},
		{p11.CKR_TOKEN_NOT_PRESENT, 1, ErrUnavailable, 1},
		{p11.CKR_CRYPTOKI_NOT_INITIALIZED, 1, ErrUnavailable, 1},
		{p11.CKR_FUNCTION_FAILED, 9, p11.Error(p11.CKR_FUNCTION_FAILED), 1},
	} {
		t.Run(p11.Error(test.code).Error(), func(t *testing.T) {
			f := &faulty{}
			tok, key, eph := ready(t, f)
			left := test.times
			f.set(func() {
				f.calls = nil
				f.derive = func() error {
					if left--; left >= 0 {
						return p11.Error(test.code)
					}
					return nil
				}
			})
			z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v", err)
			}
			if test.want == nil {
				right(t, key, eph, z)
			} else if !errors.Is(err, p11.Error(test.code)) {
				t.Errorf("the code is lost: %v", err)
			}
			if n := f.called("derive"); n != test.calls {
				t.Errorf("%d derivations, want %d", n, test.calls)
			}
			// The session is closed after the caller has its answer.
			for end := time.Now().Add(2 * time.Second); test.code == p11.CKR_FUNCTION_FAILED && f.called("close") != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("a session stayed open after an error")
				}
			}
		})
	}
}

func right(t *testing.T, key hsm.WrappingKey, eph *ecdh.PrivateKey, z *secret.Bytes) {
	t.Helper()
	pub, err := ecdh.P256().NewPublicKey(key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	want, err := eph.ECDH(pub)
	if err != nil || string(want) != string(z.Expose()) {
		t.Fatal("another secret")
	}
}

// TestHang: the module does not return. The caller gets its deadline, others
// work on, the session is not used again, and nothing is lost for good.
func TestHang(t *testing.T) {
	f := &faulty{}
	tok, key, eph := ready(t, f, func(c *Config) { c.Sessions, c.Timeout = 2, 300*time.Millisecond })
	hang := make(chan struct{})
	f.set(func() {
		f.calls = nil
		f.derive = func() error { <-hang; return nil }
	})
	for i := range 3 { // the third finds no free session
		start := time.Now()
		_, err := tok.ECDH(t.Context(), key, eph.PublicKey())
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("call %d: %v", i, err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Fatalf("call %d took %v", i, d)
		}
	}
	if n := f.called("derive"); n != 2 {
		t.Errorf("%d threads hang in the module, want 2", n)
	}
	if err := tok.Close(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Close with hanging calls: %v", err)
	}
	close(hang)
	for range cap(tok.permits) - len(tok.permits) {
		select { // Close took what was free; the hanging calls give theirs back
		case <-tok.permits:
		case <-time.After(5 * time.Second):
			t.Fatal("a permit was lost")
		}
	}
	if n := f.called("close"); n != 2 {
		t.Errorf("%d sessions closed, want the 2 that hung", n)
	}
}

func TestHangThenRecovers(t *testing.T) {
	f := &faulty{}
	tok, key, eph := ready(t, f, func(c *Config) { c.Sessions, c.Timeout = 1, 300*time.Millisecond })
	hang := make(chan struct{})
	f.set(func() { f.derive = func() error { <-hang; return nil } })
	if _, err := tok.ECDH(t.Context(), key, eph.PublicKey()); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	f.set(func() { f.derive = nil })
	close(hang)
	z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	right(t, key, eph, z)
}

// TestPointQuirk: a token that takes only DER points is recognised and
// remembered.
func TestPointQuirk(t *testing.T) {
	f := &faulty{}
	onlyDER := func(t *Token) pointEncoding { t.mu.Lock(); defer t.mu.Unlock(); return t.point }
	tok, key, eph := ready(t, f)
	if onlyDER(tok) != pointRaw {
		t.Fatal("SoftHSM takes raw points")
	}
	tok.mu.Lock()
	tok.point = pointUnknown
	tok.mu.Unlock()
	refusals := 1
	f.set(func() {
		f.calls = nil
		f.derive = func() error {
			if refusals--; refusals >= 0 {
				return p11.Error(p11.CKR_MECHANISM_PARAM_INVALID)
			}
			return nil
		}
	})
	for range 2 {
		z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		right(t, key, eph, z)
	}
	if onlyDER(tok) != pointDER || f.called("derive") != 3 {
		t.Fatalf("encoding %d after %d derivations", onlyDER(tok), f.called("derive"))
	}
}

// TestShortSecret: a token that strips leading zeros, and one that returns
// nonsense.
func TestShortSecret(t *testing.T) {
	f := &faulty{}
	tok, key, eph := ready(t, f)
	for value, ok := range map[string]bool{"\x01\x02": true, "": false, strings.Repeat("x", 33): false} {
		f.read = func(typ uint) ([]byte, error, bool) { return []byte(value), nil, typ == p11.CKA_VALUE }
		z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
		if (err == nil) != ok {
			t.Fatalf("%d bytes: %v", len(value), err)
		}
		if ok && (z.Len() != 32 || string(z.Expose()[30:]) != value) {
			t.Fatal("not padded on the left")
		}
	}
}

// TestGenerateLeavesNothing: every way to fail after the keys were made.
func TestGenerateLeavesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		f    *faulty
		want error
	}{
		"extractable once":   {&faulty{read: attribute(p11.CKA_NEVER_EXTRACTABLE, 0)}, ErrKeyMismatch},
		"extractable":        {&faulty{read: attribute(p11.CKA_EXTRACTABLE, 1)}, ErrKeyMismatch},
		"not sensitive":      {&faulty{read: attribute(p11.CKA_SENSITIVE, 0)}, ErrKeyMismatch},
		"public key unknown": {&faulty{read: attribute(p11.CKA_EC_POINT, 4)}, ErrKeyMismatch},
		"cannot derive":      {&faulty{derive: func() error { return p11.Error(p11.CKR_MECHANISM_INVALID) }}, ErrNoSuite},
		"derives nonsense": {&faulty{read: func(typ uint) ([]byte, error, bool) {
			return make([]byte, 32), nil, typ == p11.CKA_VALUE
		}}, ErrKeyMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := openFaulty(t, test.f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tok.GenerateWrappingKey(t.Context(), request(1)); !errors.Is(err, test.want) {
				t.Fatalf("got %v", err)
			}
			if test.f.called("generate") != 1 {
				t.Fatal("nothing was made, so the test shows nothing")
			}
			empty(t, tok)
		})
	}
}

func attribute(typ uint, value byte) func(uint) ([]byte, error, bool) {
	return func(got uint) ([]byte, error, bool) { return []byte{value}, nil, got == typ }
}

// empty checks that the token holds no key at all.
func empty(t *testing.T, tok *Token) {
	t.Helper()
	_, err := withSession(t.Context(), tok, true, func(s p11.SessionHandle) (int, error) {
		if err := tok.mod.FindObjectsInit(s, nil); err != nil {
			return 0, err
		}
		found, _, err := tok.mod.FindObjects(s, 10)
		if len(found) > 0 {
			t.Errorf("%d objects are left", len(found))
		}
		return 0, errors.Join(err, tok.mod.FindObjectsFinal(s))
	}, nil)
	if err != nil {
		t.Error(err)
	}
}

// TestGenerateTooLate: the token makes the keys after the caller has left.
func TestGenerateTooLate(t *testing.T) {
	hang := make(chan struct{})
	f := &faulty{generate: func(real func() (p11.ObjectHandle, p11.ObjectHandle, error)) (p11.ObjectHandle, p11.ObjectHandle, error) {
		<-hang
		return real()
	}}
	tok, err := openFaulty(t, f, func(c *Config) { c.Timeout = 200 * time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = tok.GenerateWrappingKey(ctx, request(1))
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "may be left") {
		t.Fatalf("got %v", err)
	}
	close(hang)
	empty(t, tok) // waits for admin, so for the late generation
	if f.called("generate") != 1 {
		t.Fatal("nothing was made")
	}
}

// TestNeverExtractableUnknown: a token without the attribute is taken on
// EXTRACTABLE.
func TestNeverExtractableUnknown(t *testing.T) {
	f := &faulty{read: func(typ uint) ([]byte, error, bool) {
		return nil, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID), typ == p11.CKA_NEVER_EXTRACTABLE
	}}
	ready(t, f)
}

// TestHalfPair: Bind waits for the half that another process is still making.
func TestHalfPair(t *testing.T) {
	f := &faulty{}
	tok, key, _ := ready(t, f)
	tok.forget(key.ID)
	tries := 0
	f.read = func(typ uint) ([]byte, error, bool) {
		if typ != p11.CKA_EC_POINT {
			return nil, nil, false
		}
		tries++
		return nil, nil, tries < 3
	}
	if err := tok.Bind(t.Context(), key); err != nil || tries != 3 {
		t.Fatalf("after %d tries: %v", tries, err)
	}
}

// TestPINIsNotRetried: the token loses its sessions and then refuses the PIN;
// it is asked once, whatever is called afterwards.
func TestPINIsNotRetried(t *testing.T) {
	f := &faulty{}
	tok, key, eph := ready(t, f)
	if err := f.module.(*p11.Ctx).CloseAllSessions(tok.slot); err != nil {
		t.Fatal(err)
	}
	f.set(func() {
		f.calls = nil
		f.login = func() (error, bool) { return p11.Error(p11.CKR_PIN_INCORRECT), true }
	})
	for range 3 {
		if _, err := tok.ECDH(t.Context(), key, eph.PublicKey()); !errors.Is(err, ErrPINIncorrect) {
			t.Fatalf("got %v", err)
		}
	}
	if n := f.called("login"); n != 1 {
		t.Fatalf("the PIN was tried %d times", n)
	}
}

func TestPINStates(t *testing.T) {
	for name, test := range map[string]struct {
		f      *faulty
		want   error
		logins int
	}{
		"locked":     {&faulty{flags: p11.CKF_USER_PIN_LOCKED}, ErrPINLocked, 0},
		"final try":  {&faulty{flags: p11.CKF_USER_PIN_FINAL_TRY}, ErrPINLocked, 0},
		"locks now":  {&faulty{login: func() (error, bool) { return p11.Error(p11.CKR_PIN_LOCKED), true }}, ErrPINLocked, 1},
		"wrong size": {&faulty{login: func() (error, bool) { return p11.Error(p11.CKR_PIN_LEN_RANGE), true }}, ErrPINIncorrect, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openFaulty(t, test.f)
			if !errors.Is(err, test.want) || strings.Contains(err.Error(), "4321") {
				t.Fatalf("got %v", err)
			}
			if n := test.f.called("login"); n != test.logins {
				t.Fatalf("the PIN was tried %d times", n)
			}
		})
	}
}

// TestSecondLogin: the process is logged in already, so the PIN was not
// checked, and Info says so.
func TestSecondLogin(t *testing.T) {
	f := &faulty{login: func() (error, bool) { return p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN), true }}
	tok, err := openFaulty(t, f)
	if err != nil || tok.Info().PINChecked {
		t.Fatalf("%v, %+v", err, tok.Info())
	}
	f.set(func() { f.login = nil })
}

// TestSessionVanishesInCall: the module loses everything during a derivation
// and says no more than that it failed.
func TestSessionVanishesInCall(t *testing.T) {
	f := &faulty{}
	tok, key, eph := ready(t, f)
	lost := false
	f.set(func() {
		f.derive = func() error {
			if lost {
				return nil
			}
			lost = true
			if err := f.module.(*p11.Ctx).CloseAllSessions(tok.slot); err != nil {
				t.Error(err)
			}
			return p11.Error(p11.CKR_GENERAL_ERROR)
		}
	})
	z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
	if err != nil || !lost {
		t.Fatalf("got %v", err)
	}
	right(t, key, eph, z)
}
