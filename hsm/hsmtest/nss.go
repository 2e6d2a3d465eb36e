package hsmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

// NSSToken is a throwaway database of NSS softokn; everything in it is public.
type NSSToken struct {
	Module   string // path of libsoftokn3.so
	InitArgs string // what the library must be started with
	Label    string
	Dir      string // of the database, below a folder of its own that is removed with the test
	pin      string
}

// PIN returns a new copy of the user PIN.
func (s NSSToken) PIN() *secret.Bytes { return secret.Copy([]byte(s.pin)) }

// NSS makes a database of NSS softokn. A process can use one such database at a
// time: at the end of the test the module is finalised (with cgo), so close
// every Token before, and do not run the test in parallel. A missing NSS fails
// the test.
func NSS(t testing.TB) NSSToken {
	t.Helper()
	s := NSSToken{Label: "NSS Certificate DB", pin: "nss test pin", Module: nssModule()}
	certutil, err := exec.LookPath("certutil")
	if err != nil || s.Module == "" {
		t.Fatal("NSS is not installed: apt-get install libnss3 libnss3-tools")
	}
	base, err := os.MkdirTemp("", "nss-test-") // mode 0700, and no quotes in its name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	s.Dir = filepath.Join(base, "db")
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pinFile := filepath.Join(base, "pin")
	if err := os.WriteFile(pinFile, []byte(s.pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), certutil, "-N", "-d", "sql:"+s.Dir, "-f", pinFile).CombinedOutput()
	if err != nil {
		t.Fatalf("certutil: %v\n%s", err, out)
	}
	s.InitArgs = "configDir='sql:" + s.Dir + "' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
	t.Cleanup(func() { finalize(t, s.Module) })
	return s
}

func nssModule() string {
	for _, path := range []string{
		"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
		"/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
		"/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so",
		"/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
		"/usr/lib64/libsoftokn3.so",
		"/usr/lib/libsoftokn3.so",
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
