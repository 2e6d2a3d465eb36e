//go:build cgo

package pool_test

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

func (f *fixture) identity(t *testing.T, r *nodepb.IdentityRequest) *nodepb.IdentityReply {
	t.Helper()
	reply, err := f.pool.Identity(deadline(t, 10*time.Second), r)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// TestIdentityKeysOnToken registers and logs in through node processes with a real
// token, over a new version of the wrapping key, the end of the old one, and nodes
// that are killed.
func TestIdentityKeysOnToken(t *testing.T) {
	f := start(t, 2)
	f.waitReady(t, 2)
	made := f.identity(t, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{WrappingVersion: 1}}})
	envelope := made.GetKeysEnvelope()
	id, password := identity.ID{7}, func(b byte) *secret.Bytes { return secret.New(bytes.Repeat([]byte{b}, 32)) }
	registering, request, err := identity.StartRegistration(password(5), id, identity.DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	answer := f.identity(t, &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Register{
		Register: &nodepb.OpaqueRegister{CredentialId: id[:], Request: request}}})
	registration, _, public, err := registering.Finish(answer.GetResponse())
	if err != nil || !bytes.Equal(public, made.GetPublicKey()) {
		t.Fatal("registration:", err)
	}
	login := func(envelope []byte, with *secret.Bytes) error {
		t.Helper()
		l, ke1, err := identity.StartLogin(with, id, identity.DefaultKDF())
		if err != nil {
			t.Fatal(err)
		}
		reply := f.identity(t, &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Login{
			Login: &nodepb.OpaqueLogin{CredentialId: id[:], Registration: registration, Ke1: ke1}}})
		ke3, session, _, err := l.Finish(reply.GetResponse())
		if err == nil && (!identity.VerifyKE3(reply.GetClientMac(), ke3) || !session.Equal(secret.Copy(reply.GetSessionKey()))) {
			t.Error("client and node do not agree")
		}
		return err
	}
	for range 2 { // one on each node
		if err := login(envelope, password(5)); err != nil {
			t.Fatal(err)
		}
	}
	if err := login(envelope, password(6)); !errors.Is(err, identity.ErrLogin) {
		t.Errorf("a wrong secret: %v", err)
	}

	second := f.nextKey(t)
	rewrapped := f.identity(t, &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Rewrap{
		Rewrap: &nodepb.RewrapIdentityKeys{WrappingVersion: second.Version}}})
	if got := versions(t, rewrapped.GetKeysEnvelope()); len(got) != 1 || got[0] != 2 || !bytes.Equal(rewrapped.GetPublicKey(), made.GetPublicKey()) {
		t.Fatalf("resealed to %v", got)
	}
	for _, n := range f.pool.Nodes() {
		if err := f.pool.RewrapNodeKeys(deadline(t, 5*time.Second), n.ID); err != nil {
			t.Fatal(err)
		}
	}
	first := f.settings.WrappingKeys[0]
	f.setKeys(t, second)
	if err := f.pool.DestroyWrappingKey(deadline(t, 5*time.Second), first); err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Fatal(err)
	}
	// New processes, which hold nothing: what was sealed to the old version is gone.
	for _, n := range f.pool.Nodes() {
		p, err := os.FindProcess(n.PID)
		if err != nil || n.PID == 0 {
			t.Fatalf("node %s has no process: %v", n.ID, err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	f.waitNew(t)
	if err := login(rewrapped.GetKeysEnvelope(), password(5)); err != nil {
		t.Errorf("after the old wrapping key is gone: %v", err)
	}
	_, ke1, err := identity.StartLogin(password(5), id, identity.DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.pool.Identity(deadline(t, 5*time.Second), &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Login{
		Login: &nodepb.OpaqueLogin{CredentialId: id[:], Registration: registration, Ke1: ke1}}})
	if !errors.Is(err, pool.ErrWrappingKey) {
		t.Errorf("the old envelope: %v", err)
	}
}

// waitNew waits until both nodes run in other processes than those killed.
func (f *fixture) waitNew(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		ready := 0
		for _, s := range f.pool.Nodes() {
			if s.State == pool.NodeReady && s.Restarts > 0 {
				ready++
			}
		}
		if ready == 2 {
			return
		}
	}
	t.Fatalf("nodes: %+v", f.pool.Nodes())
}
