//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/secret"
)

// nobody is a Prompter for what asks nothing.
type nobody struct{ t testing.TB }

func (n nobody) Ask(context.Context, string) (string, error) {
	return "", errors.New("nobody is there")
}
func (n nobody) AskSecret(context.Context, keyholder.Question) (*secret.Bytes, error) {
	return nil, errors.New("nobody is there")
}
func (n nobody) Show(text string)     { n.t.Log(text) }
func (n nobody) OpenURL(string) error { return errors.New("nobody is there") }

// TestLoginsOutliveTheirKeys: people log in with what they registered when the
// wrapping key has been replaced and the old one destroyed, when every node and then
// Vault itself was killed, and nobody does with the mount's identity keys from before.
func TestLoginsOutliveTheirKeys(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 2)
	e.write(t, "config/rotation", map[string]any{"retire_after": "2s"})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	operator := apiCaller{v.Client, "mpc"}
	file := func(name string) keyholder.Source {
		return keyholder.KeyFile(nobody{t}, filepath.Join(t.TempDir(), name))
	}
	mine := file("ada")
	_, keys, err := keyholder.Register(ctx, operator, "ada", identity.KeyFile, mine, keyholder.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Wipe()
	another := file("eve")
	if _, k, err := keyholder.Register(ctx, operator, "eve", identity.KeyFile, another, keyholder.RegisterOptions{}); err != nil {
		t.Fatal(err)
	} else {
		k.Wipe()
	}
	login := func(as keyholder.Source) error {
		t.Helper()
		client, err := v.Client.Clone() // without a token
		if err != nil {
			t.Fatal(err)
		}
		client.ClearToken()
		s, err := keyholder.Login(ctx, apiCaller{client, "mpc"}, "ada", identity.KeyFile, as)
		if err != nil {
			return err
		}
		defer s.Wipe()
		if !s.Keys().Public().Equal(keys.Public()) {
			t.Error("another authenticator's keys")
		}
		return s.End(ctx)
	}
	must := func(when string) {
		t.Helper()
		if err := login(mine); err != nil {
			t.Fatalf("logging in %s: %v", when, err)
		}
	}
	must("at first")
	if err := login(another); !errors.Is(err, keyholder.ErrLogin) {
		t.Errorf("with another key file: %v", err)
	}
	needs := func(version string) int {
		t.Helper()
		return number(t, e.read(t, "wrapping-keys/"+version)["references"].(map[string]any)["identity_keys"])
	}
	if needs("1") != 1 {
		t.Error("nothing says that the identity keys need version 1")
	}
	old := v.RawRead(t, "mpc", "identity-keys")

	pids := e.pids(t)
	e.write(t, "wrapping-keys/rotate", nil)
	must("right after a new wrapping key")
	e.await(t, 60*time.Second, "the end of version 1", func() bool {
		return e.read(t, "wrapping-keys/1")["state"] == "destroyed"
	})
	if needs("2") != 1 || bytes.Equal(old, v.RawRead(t, "mpc", "identity-keys")) {
		t.Error("the identity keys were not sealed anew")
	}
	must("with the old wrapping key destroyed")

	for id, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}
	must("while every node starts again")
	if now := e.pids(t); now["local-1"] == pids["local-1"] {
		t.Error("no node was started again: the test tests nothing")
	}
	v.Kill9(t)
	v.Restart(t)
	e.waitNodes(t, 2)
	must("after Vault was killed")

	// The record from before the rotation, as a thief of a snapshot has it.
	good := v.RawRead(t, "mpc", "identity-keys")
	v.RawWrite(t, "mpc", "identity-keys", old)
	v.Kill9(t)
	v.Restart(t)
	e.waitNodes(t, 2)
	var refused *keyholder.Refusal
	if err := login(mine); !errors.As(err, &refused) || refused.Status != 500 {
		t.Errorf("with identity keys that nothing opens any more: %v", err)
	} else {
		t.Logf("as it should: %v", err)
	}
	v.RawWrite(t, "mpc", "identity-keys", good)
	v.Kill9(t)
	v.Restart(t)
	e.waitNodes(t, 2)
	must("with the record put back")
}
