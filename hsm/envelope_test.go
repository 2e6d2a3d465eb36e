package hsm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
)

func goldenBytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, "envelope-v1.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenEnvelope(t testing.TB) *hsm.Envelope {
	t.Helper()
	e, err := hsm.ParseEnvelope(goldenBytes(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestNotCanonical: Marshal refuses each, so none has an encoding.
func TestNotCanonical(t *testing.T) {
	for name, change := range map[string]func(e *hsm.Envelope){
		"no holder":           func(e *hsm.Envelope) { e.Holders = nil },
		"no domain holder":    func(e *hsm.Envelope) { e.Holders[0].Kind = hsm.HolderCustody },
		"unknown holder":      func(e *hsm.Envelope) { e.Holders[0].Kind = 3 },
		"two domain holders":  func(e *hsm.Envelope) { e.Holders = append(e.Holders, e.Holders[0]) },
		"three holders":       func(e *hsm.Envelope) { e.Holders = append(e.Holders, e.Holders[0], e.Holders[0]) },
		"no seals":            func(e *hsm.Envelope) { e.Holders[0].Seals = nil },
		"unordered seals":     func(e *hsm.Envelope) { s := e.Holders[0].Seals; s[0], s[1] = s[1], s[0] },
		"doubled seal":        func(e *hsm.Envelope) { s := e.Holders[0].Seals; s[1] = s[0] },
		"suite 0":             func(e *hsm.Envelope) { e.Holders[0].Seals[0].Suite = 0 },
		"version 0":           func(e *hsm.Envelope) { e.Holders[0].Seals[0].Version = 0 },
		"no domain":           func(e *hsm.Envelope) { e.Holders[0].Seals[0].Domain = "" },
		"long domain":         func(e *hsm.Envelope) { e.Holders[0].Seals[0].Domain = strings.Repeat("a", 65) },
		"long RSA seal":       func(e *hsm.Envelope) { s := &e.Holders[0].Seals[0]; s.Suite, s.Sealed = 2, make([]byte, 385) },
		"short RSA seal":      func(e *hsm.Envelope) { s := &e.Holders[0].Seals[0]; s.Suite, s.Sealed = 3, make([]byte, 113) },
		"short sealed key":    func(e *hsm.Envelope) { s := &e.Holders[0].Seals[0]; s.Sealed = s.Sealed[:112] },
		"long sealed key":     func(e *hsm.Envelope) { s := &e.Holders[0].Seals[0]; s.Suite, s.Sealed = 9, make([]byte, 1025) },
		"ciphertext too long": func(e *hsm.Envelope) { e.Ciphertext = make([]byte, hsm.MaxPlaintext+17) },
		"no tag":              func(e *hsm.Envelope) { e.Ciphertext = e.Ciphertext[:15] },
		"too many seals": func(e *hsm.Envelope) {
			for v := range uint32(16) {
				s := e.Holders[0].Seals[1]
				s.Version += v + 1
				e.Holders[0].Seals = append(e.Holders[0].Seals, s)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := goldenEnvelope(t)
			if _, err := e.Marshal(); err != nil {
				t.Fatal(err)
			}
			change(e)
			if b, err := e.Marshal(); !errors.Is(err, hsm.ErrEnvelope) || b != nil {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// TestParseRefusesSwappedSeals covers order on the reading side, where Marshal
// cannot make the input.
func TestParseRefusesSwappedSeals(t *testing.T) {
	e, b := goldenEnvelope(t), goldenBytes(t)
	const header, domainAt = 4 + 1 + 1 + 1 + 1, 2
	first := header + domainAt + len(e.Seals()[0].Domain) + 4 + 2 + 113
	second := first + domainAt + len(e.Seals()[1].Domain) + 4 + 2 + 113
	swapped := bytes.Join([][]byte{b[:header], b[first:second], b[header:first], b[second:]}, nil)
	if _, err := hsm.ParseEnvelope(swapped); !errors.Is(err, hsm.ErrEnvelope) || !strings.Contains(err.Error(), "order") {
		t.Fatalf("got %v", err)
	}
}

func TestUnknownSuiteIsKept(t *testing.T) {
	e := goldenEnvelope(t)
	e.Holders[0].Seals[1].Suite, e.Holders[0].Seals[1].Sealed = 9, make([]byte, 384)
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := hsm.ParseEnvelope(b)
	if err != nil || again.Seals()[1].Suite != 9 {
		t.Fatalf("got %v", err)
	}
}

// TestParseAllocatesLittle: counts and lengths in the input are promises, not
// facts.
func TestParseAllocatesLittle(t *testing.T) {
	liar := append([]byte("MPCW"), 1, 255, 1, 255, 1, 255)
	huge := append(bytes.Clone(goldenBytes(t)[:len(goldenBytes(t))-48-4]), 0xff, 0xff, 0xff, 0xff)
	for _, b := range [][]byte{liar, huge, make([]byte, hsm.MaxEnvelope+1)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := hsm.ParseEnvelope(b)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, hsm.ErrEnvelope) {
			t.Fatalf("got %v", err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%d bytes allocated for %d bytes of input", n, len(b))
		}
	}
}

func FuzzParseEnvelope(f *testing.F) {
	for _, name := range goldenNames {
		b, err := os.ReadFile(filepath.Join(goldenDir, name+".bin"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte("MPCW\x01\xff\x01\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := hsm.ParseEnvelope(b)
		if err != nil {
			if !errors.Is(err, hsm.ErrEnvelope) || e != nil {
				t.Fatalf("got %v", err)
			}
			return
		}
		again, err := e.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("not canonical: %v", err)
		}
		for _, s := range e.Seals() {
			if _, rsa := s.Suite.OAEPHash(); rsa && len(s.Sealed) != 384 {
				t.Fatalf("an RSA seal of %d bytes", len(s.Sealed))
			}
		}
	})
}
