package hsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

// SoftToken is a throwaway SoftHSM token; everything in it is public.
type SoftToken struct {
	Module string // path of libsofthsm2.so
	Label  string
	Dir    string // mode 0700, removed with the test
	Conf   string // what SOFTHSM2_CONF was set to
	pin    string
}

// PIN returns a new copy of the user PIN.
func (s SoftToken) PIN() *secret.Bytes { return secret.Copy([]byte(s.pin)) }

// SoftHSM makes a token in a directory of its own and points SOFTHSM2_CONF of
// this process to it until the test ends. The test must not run in parallel.
// SoftHSM reads its configuration when a process initialises it, so at the end
// of the test the module is finalised (with cgo): close every Token before.
//
// A missing SoftHSM fails the test: a skipped one would look passed.
func SoftHSM(t testing.TB) SoftToken {
	t.Helper()
	s := SoftToken{Label: "mpc-test", pin: "4321", Module: softHSMModule()}
	util, err := exec.LookPath("softhsm2-util")
	if err != nil || s.Module == "" {
		t.Fatal("SoftHSM is not installed: apt-get install softhsm2")
	}
	// Not t.TempDir: it carries the test's name, and a # in it would start a
	// comment in SoftHSM's configuration.
	if s.Dir, err = os.MkdirTemp("", "softhsm-test-"); err != nil { // mode 0700
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.Dir) })
	tokens := filepath.Join(s.Dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Conf = filepath.Join(s.Dir, "softhsm2.conf")
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens)
	if err := os.WriteFile(s.Conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", s.Conf)
	// A throwaway PIN may stand on a command line; a real one may not.
	out, err := exec.CommandContext(t.Context(), util, "--init-token", "--free", "--label", s.Label, "--so-pin", "123456", "--pin", s.pin).CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	t.Cleanup(func() { finalize(t, s.Module) })
	return s
}

func softHSMModule() string {
	for _, path := range []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
