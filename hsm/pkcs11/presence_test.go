//go:build cgo

package pkcs11

import (
	"errors"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"
)

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
