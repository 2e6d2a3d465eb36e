//go:build cgo

package hsmtest

import (
	"errors"
	"testing"

	p11 "github.com/miekg/pkcs11"
)

// finalize lets the next test of this process see another token. The library
// stays loaded.
func finalize(t testing.TB, path string) {
	c := p11.New(path)
	if c == nil {
		return
	}
	if err := c.Finalize(); err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
		t.Errorf("finalising %s: %v", path, err)
	}
}
