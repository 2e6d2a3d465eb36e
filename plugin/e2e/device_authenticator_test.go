//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDeviceAuthenticator keeps the secret in a file where there is no keyring, and
// says so, and in a real Secret Service where one can be started.
func TestDeviceAuthenticator(t *testing.T) {
	e := enable(t, harness.Shared(t), "devices", 3)
	t.Run("file", func(t *testing.T) {
		u := newUser(t, e, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent")
		r := u.admin(t, "authenticator", "create", "desk", "--kind", "device")
		ok(t, r)
		if !strings.Contains(r.Stderr, "no keyring") || !strings.Contains(r.Stderr, "in clear") {
			t.Errorf("nothing was said about the file: %s", r.Stderr)
		}
		owned(t, e, "acme-file", "desk")
		opens(t, u.run(t, "login", "-o", "json"), "desk", "acme-file")
		info, err := os.Stat(u.path("home/keyring/desk"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info, err)
		}
		// Another home of the same name has not got it.
		refusedWith(t, newUser(t, e, u.more...).run(t, "login", "--authenticator", "desk", "--kind", "device"), 1, "desk")
	})
	t.Run("Secret Service", func(t *testing.T) {
		u := newUser(t, e, secretService(t))
		r := u.admin(t, "authenticator", "create", "laptop", "--kind", "device")
		ok(t, r)
		if strings.Contains(r.Stderr, "Warning") {
			t.Fatalf("the keyring was not used: %s", r.Stderr)
		}
		owned(t, e, "acme-keyring", "laptop")
		opens(t, u.run(t, "login", "-o", "json"), "laptop", "acme-keyring")
		if _, err := os.Stat(u.path("home/keyring")); !os.IsNotExist(err) {
			t.Errorf("there is a file beside the keyring: %v", err)
		}
		refusedWith(t, newUser(t, e, u.more...).run(t, "login", "--authenticator", "laptop", "--kind", "device"), 1, "made on another device")
	})
}

// secretService starts a message bus and GNOME's keyring with an empty password,
// and returns the environment variable that leads to them.
func secretService(t *testing.T) string {
	t.Helper()
	for _, need := range []string{"dbus-daemon", "gnome-keyring-daemon"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Fatalf("%s is not installed: run make setup", need)
		}
	}
	dir := t.TempDir()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "XDG_DATA_HOME=" + dir}
	// A bus that starts no services by itself: it would start a second keyring,
	// which nobody unlocks, for the first question that comes too early.
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, []byte(`<busconfig><type>session</type><listen>unix:path=`+dir+`/bus</listen>
		<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`), 0o600); err != nil {
		t.Fatal(err)
	}
	bus := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address=1")
	bus.Env = env
	out, err := bus.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, bus) })
	line := make([]byte, 512)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address := "DBUS_SESSION_BUS_ADDRESS=" + string(bytes.TrimSpace(line[:n]))
	ring := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets", "--control-directory="+dir+"/keyring")
	ring.Env = append(env, address)
	ring.Stdin = strings.NewReader("keyring password")
	var said bytes.Buffer
	ring.Stdout, ring.Stderr = &said, &said
	if err := ring.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, ring) })
	await(t, "the Secret Service", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, "dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.secrets", "/org/freedesktop/secrets/aliases/default", "org.freedesktop.DBus.Properties.Get", "string:org.freedesktop.Secret.Collection", "string:Locked")
		c.Env = append(env, address)
		reply, err := c.Output()
		return err == nil && bytes.Contains(reply, []byte("false"))
	})
	return address
}

func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
}
