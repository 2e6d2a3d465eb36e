package keyholder

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

// TestNoBusIsStarted: where there is no message bus none is started, which would
// outlive the process with the secret in it.
func TestNoBusIsStarted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a message bus")
	}
	dir := t.TempDir()
	started := filepath.Join(dir, "started")
	if err := os.WriteFile(filepath.Join(dir, "dbus-launch"), []byte("#!/bin/sh\n: > "+started+"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for _, address := range []string{"", "autolaunch:"} {
		t.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
		k := SystemKeyring("test")
		err := ProbeKeyring(k)
		if _, gone := os.Stat(started); gone == nil {
			t.Fatalf("%q: a message bus was started: %v", address, err)
		}
		if bus := sessionBus(); bus != nil && (!errors.Is(err, ErrNoKeyring) || !errors.Is(k.Set("ada", secret.Copy([]byte("x"))), ErrNoKeyring)) {
			t.Errorf("%q: %v", address, err)
		}
	}
}
