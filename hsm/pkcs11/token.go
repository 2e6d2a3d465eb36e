//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Token is one logged-in token. Its methods may be called concurrently; Close
// ends the others.
type Token struct {
	mod     module
	shared  *sharing // nil: crypto11 cannot use the library
	sha1    bool     // Config.AllowSHA1
	slot    uint
	info    TokenInfo
	timeout time.Duration
	done    chan struct{} // closed by Close

	// permits has one element per call that may enter the module; a call that
	// hangs keeps its permit, so the number of stuck threads is bounded.
	permits chan struct{}
	// admin has one element. It is held across login and across making,
	// finding and destroying objects: the one lock here that is held over HSM
	// calls, because SoftHSM fails at random (CKR_GENERAL_ERROR,
	// CKR_TEMPLATE_INCONSISTENT) and NSS hangs when these run at once. ECDH on
	// a known handle does not take it, and waiting for it ends with the
	// context.
	admin chan struct{}

	// Held with admin:
	hold    p11.SessionHandle // keeps the login alive; never used for work
	pin     *secret.Bytes
	pinFail error // the token refused the PIN: never try again

	mu      sync.Mutex // never held across an HSM call
	closed  bool
	gen     uint64 // grows when all sessions are to be dropped
	idle    []p11.SessionHandle
	handles map[string]handle // by CKA_ID
	point   pointEncoding
}

var _ hsm.PrivateKeys = (*Token)(nil)

// Open loads the module, finds the one token that matches and logs in. A PIN
// that is refused is tried once; never call Open again with a PIN that gave
// ErrPINIncorrect. If ctx ends first, the start goes on in the background and
// is undone when it returns.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	return open(ctx, cfg, load)
}

func open(ctx context.Context, cfg Config, load func(Config) (library, error)) (*Token, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Token{
		sha1:    cfg.AllowSHA1,
		timeout: cfg.Timeout,
		done:    make(chan struct{}),
		permits: make(chan struct{}, cfg.Sessions),
		admin:   make(chan struct{}, 1),
		pin:     cfg.PIN.Clone(),
		handles: make(map[string]handle),
	}
	t.admin <- struct{}{}
	for range cfg.Sessions {
		t.permits <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	return await(ctx, func() (*Token, error) {
		return t, t.start(cfg, load)
	}, func(_ *Token, err error, delivered bool) {
		if err == nil && !delivered {
			_ = t.mod.CloseSession(t.hold)
			_ = t.shared.close()
		}
		if err != nil || !delivered {
			t.pin.Wipe()
		}
	})
}

func (t *Token) start(cfg Config, load func(Config) (library, error)) (err error) {
	lib, err := load(cfg)
	if err != nil {
		return err
	}
	t.mod, t.shared = lib.module, lib.shared
	defer func() {
		if err != nil {
			_ = t.shared.close()
		}
	}()
	var found p11.TokenInfo
	if t.slot, found, err = findToken(t.mod, cfg); err != nil {
		return err
	}
	t.info = tokenInfo(found)
	t.shared.aim(t.slot)
	t.hold, err = t.mod.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return explain("opening a session", err)
	}
	if t.info.PINChecked, err = t.login(); err != nil {
		_ = t.mod.CloseSession(t.hold)
		return err
	}
	return nil
}

func tokenInfo(ti p11.TokenInfo) TokenInfo {
	return TokenInfo{
		Label: trim(ti.Label), Serial: trim(ti.SerialNumber),
		Manufacturer: trim(ti.ManufacturerID), Model: trim(ti.Model),
	}
}

// findToken returns the slot of the one token that matches.
func findToken(m module, cfg Config) (uint, p11.TokenInfo, error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return 0, p11.TokenInfo{}, explain("listing tokens", err)
	}
	var match []uint
	var infos []p11.TokenInfo
	var there []string
	for _, slot := range slots {
		ti, err := m.GetTokenInfo(slot)
		if err != nil || ti.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue // an empty or unreadable slot cannot be the token
		}
		there = append(there, fmt.Sprintf("%q (serial %s)", trim(ti.Label), trim(ti.SerialNumber)))
		if (cfg.Label == "" || cfg.Label == trim(ti.Label)) && (cfg.Serial == "" || cfg.Serial == trim(ti.SerialNumber)) {
			match, infos = append(match, slot), append(infos, ti)
		}
	}
	if len(match) == 1 {
		return match[0], infos[0], nil
	}
	have := "the module shows no token; check its configuration and that this user may read it"
	if len(there) > 0 {
		have = "the module shows " + strings.Join(there, ", ")
	}
	want := fmt.Sprintf("label %q", cfg.Label)
	if cfg.Serial != "" {
		want += fmt.Sprintf(" serial %q", cfg.Serial)
	}
	return 0, p11.TokenInfo{}, fmt.Errorf("%w: %d tokens match %s; %s", ErrTokenNotFound, len(match), want, have)
}

func trim(s string) string { return strings.Trim(s, " \x00") }

// login logs in through t.hold and says whether the token looked at the PIN.
// The caller holds admin or is Open.
func (t *Token) login() (checked bool, err error) {
	if t.pinFail != nil {
		return false, t.pinFail
	}
	if ti, err := t.mod.GetTokenInfo(t.slot); err == nil {
		if ti.Flags&p11.CKF_USER_PIN_LOCKED != 0 {
			return false, fmt.Errorf("%w: unlock it with the token's own tool", ErrPINLocked)
		}
		if ti.Flags&p11.CKF_USER_PIN_FINAL_TRY != 0 {
			return false, fmt.Errorf("%w after one more wrong PIN, so none was tried: log in once with the token's own tool and the right PIN, then try again", ErrPINLocked)
		}
	}
	// The string shares memory with t.pin, which is wiped; a Go string of its
	// own could not be. The binding makes a C copy for the call.
	b := t.pin.Expose()
	err = t.mod.Login(t.hold, p11.CKU_USER, unsafe.String(unsafe.SliceData(b), len(b)))
	code, _ := errors.AsType[p11.Error](err)
	switch {
	case err == nil:
		return true, nil
	case code == p11.CKR_USER_ALREADY_LOGGED_IN:
		return false, nil
	case code == p11.CKR_PIN_INCORRECT, code == p11.CKR_PIN_INVALID, code == p11.CKR_PIN_LEN_RANGE:
		t.pinFail = fmt.Errorf("%w: %w; it was tried once and will not be tried again, set the right one", ErrPINIncorrect, err)
		return false, t.pinFail
	case code == p11.CKR_PIN_LOCKED:
		t.pinFail = fmt.Errorf("%w: %w; unlock it with the token's own tool", ErrPINLocked, err)
		return false, t.pinFail
	}
	return false, explain("logging in", err)
}

// ensureLogin logs in again if the module lost the login, and says whether it
// had to. The caller holds admin. It never logs out: that would void the
// handles of private keys for the whole process.
func (t *Token) ensureLogin() (relogged bool, err error) {
	si, err := t.mod.GetSessionInfo(t.hold)
	if err == nil && loggedIn(si) {
		return false, nil
	}
	if err != nil {
		if classify(err) != faultSession {
			return false, explain("looking at the login", err)
		}
		if t.hold, err = t.mod.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION); err != nil {
			return false, explain("opening a session", err)
		}
	}
	_, err = t.login()
	return true, err
}

func loggedIn(si p11.SessionInfo) bool {
	return si.State == p11.CKS_RO_USER_FUNCTIONS || si.State == p11.CKS_RW_USER_FUNCTIONS
}

// Info describes the token as it was when it was opened.
func (t *Token) Info() TokenInfo { return t.info }

// Close ends the use of the token: it waits up to Config.Timeout for calls that
// are inside the module, closes the sessions, which ends the login, and forgets
// the PIN. The module stays loaded; it also stays started, unless crypto11
// started it and this was its last user in the process. If a call hangs, Close returns
// ErrUnavailable and only ending the process frees what it holds.
func (t *Token) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	close(t.done)

	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	for _, permits := range append([]chan struct{}{t.admin}, repeat(t.permits)...) {
		select {
		case <-permits:
		case <-ctx.Done():
			return fmt.Errorf("%w: a call still hangs in the module; end this process", ErrUnavailable)
		}
	}
	t.pin.Wipe()
	_, err := await(ctx, func() (struct{}, error) {
		var errs []error
		for _, s := range append(t.idle, t.hold) {
			if err := t.mod.CloseSession(s); err != nil && classify(err) != faultSession {
				errs = append(errs, err)
			}
		}
		// Last, because crypto11 may finalise the module.
		return struct{}{}, errors.Join(append(errs, t.shared.close())...)
	}, func(struct{}, error, bool) {})
	if err != nil {
		return fmt.Errorf("pkcs11: closing sessions: %w", err)
	}
	return nil
}

// repeat lists permits as often as it has elements when nobody uses them.
func repeat(permits chan struct{}) []chan struct{} {
	out := make([]chan struct{}, cap(permits))
	for i := range out {
		out[i] = permits
	}
	return out
}
