package node

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// ask sends a request for logins that a node does not refuse to take.
func (w *world) ask(id string, r *nodepb.IdentityRequest) *nodepb.IdentityReply {
	w.t.Helper()
	reply, err := w.clients[id].Identity(w.ctx(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func loginKE1(t testing.TB, id identity.ID) (*identity.Login, []byte) {
	t.Helper()
	login, ke1, err := identity.StartLogin(secret.New(bytes.Repeat([]byte{5}, 32)), id, identity.DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	return login, ke1
}

func askMake(envelope []byte, version uint32) *nodepb.IdentityRequest {
	return &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{WrappingVersion: version}}}
}

func askRewrap(envelope []byte, version uint32) *nodepb.IdentityRequest {
	return &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Rewrap{Rewrap: &nodepb.RewrapIdentityKeys{WrappingVersion: version}}}
}

func askRegister(envelope, id, request []byte) *nodepb.IdentityRequest {
	return &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Register{Register: &nodepb.OpaqueRegister{CredentialId: id, Request: request}}}
}

func askLogin(envelope, id, registration, ke1 []byte) *nodepb.IdentityRequest {
	return &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Login{Login: &nodepb.OpaqueLogin{CredentialId: id, Registration: registration, Ke1: ke1}}}
}

func askPart(envelope, id, public []byte) *nodepb.IdentityRequest {
	return &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_MakePart{MakePart: &nodepb.MakeServerPart{CredentialId: id, ClientPublic: public}}}
}

func askRelease(envelope, id, part, public []byte) *nodepb.IdentityRequest {
	return &nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_ReleasePart{ReleasePart: &nodepb.ReleaseServerPart{CredentialId: id, Part: part, ClientPublic: public}}}
}

// registerAt registers an ID on a node.
func (w *world) registerAt(node string, envelope []byte, id identity.ID) []byte {
	w.t.Helper()
	r, request, err := identity.StartRegistration(secret.New(bytes.Repeat([]byte{5}, 32)), id, identity.DefaultKDF())
	if err != nil {
		w.t.Fatal(err)
	}
	reply := w.ask(node, askRegister(envelope, id[:], request))
	if reply.GetFailure() != nil {
		w.t.Fatal(reply.GetFailure())
	}
	registration, _, _, err := r.Finish(reply.GetResponse())
	if err != nil {
		w.t.Fatal(err)
	}
	return registration
}

// loginAt logs in through a node.
func (w *world) loginAt(node string, envelope []byte, id identity.ID, registration []byte) error {
	w.t.Helper()
	login, ke1 := loginKE1(w.t, id)
	reply := w.ask(node, askLogin(envelope, id[:], registration, ke1))
	if reply.GetFailure() != nil {
		w.t.Fatal(reply.GetFailure())
	}
	ke3, session, _, err := login.Finish(reply.GetResponse())
	if err != nil {
		return err
	}
	if !identity.VerifyKE3(reply.GetClientMac(), ke3) || !session.Equal(secret.Copy(reply.GetSessionKey())) {
		w.t.Error("client and node do not agree")
	}
	return nil
}

func TestIdentityKeys(t *testing.T) {
	w := newWorld(t, 2)
	made := w.ask("n1", askMake(nil, 1))
	if made.GetFailure() != nil || len(made.GetPublicKey()) != 32 {
		t.Fatal(made.GetFailure())
	}
	envelope := made.GetKeysEnvelope()
	if seals, err := hsm.Seals(envelope); err != nil || len(seals) != 1 || seals[0].Version != 1 {
		t.Fatal("not sealed to version 1:", seals, err)
	}
	// One node registers, the other logs in: the keys are the mount's.
	id := identity.ID{7}
	registration := w.registerAt("n1", envelope, id)
	for _, node := range w.ids {
		if err := w.loginAt(node, envelope, id, registration); err != nil {
			t.Fatal(node, err)
		}
	}
	if err := w.loginAt("n2", envelope, id, nil); !errors.Is(err, identity.ErrLogin) {
		t.Errorf("as an ID that does not exist: %v", err)
	}

	client, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	part := w.ask("n1", askPart(envelope, id[:], client.Public().Seal))
	if part.GetFailure() != nil {
		t.Fatal(part.GetFailure())
	}
	first, err := client.Open(identity.ServerPartContext(id), part.GetSealedPart())
	if err != nil {
		t.Fatal(err)
	}
	released := w.ask("n2", askRelease(envelope, id[:], part.GetPart(), client.Public().Seal))
	second, err := client.Open(identity.ServerPartContext(id), released.GetSealedPart())
	if err != nil || !first.Equal(second) {
		t.Error("the released part is another:", err, released.GetFailure())
	}
	if fake := w.ask("n2", askRelease(envelope, id[:], nil, client.Public().Seal)); len(fake.GetSealedPart()) != len(released.GetSealedPart()) {
		t.Error("a fake part has another length:", fake.GetFailure())
	}

	// Resealed, they are the same keys.
	again := w.ask("n2", askRewrap(envelope, 1))
	if again.GetFailure() != nil || !bytes.Equal(again.GetPublicKey(), made.GetPublicKey()) || bytes.Equal(again.GetKeysEnvelope(), envelope) {
		t.Fatal("resealing:", again.GetFailure())
	}
	if err := w.loginAt("n1", again.GetKeysEnvelope(), id, registration); err != nil {
		t.Error("after resealing:", err)
	}
	if r := w.ask("n1", askRewrap(envelope, 9)); r.GetFailure().GetReason() != nodepb.Failure_WRAPPING_KEY {
		t.Errorf("resealing to a version that is not there: %v", r.GetFailure())
	}
}

// TestIdentityMalformed: what a coordinator or client may send wrong ends the call,
// tells no secret and leaves the node well.
func TestIdentityMalformed(t *testing.T) {
	w := newWorld(t, 1)
	envelope := w.ask("n1", askMake(nil, 0)).GetKeysEnvelope()
	id := identity.ID{7}
	registration := w.registerAt("n1", envelope, id)
	_, ke1 := loginKE1(t, id)
	public := bytes.Repeat([]byte{9}, 32)
	part := w.ask("n1", askPart(envelope, id[:], public))
	if part.GetFailure() != nil {
		t.Fatal(part.GetFailure())
	}
	flipped := bytes.Clone(envelope)
	flipped[len(flipped)-1] ^= 1
	// Something else of this mount, sealed to the same key.
	node := w.setups["n1"].GetIdentityEnvelope()
	for name, c := range map[string]struct {
		r    *nodepb.IdentityRequest
		want nodepb.Failure_Reason
	}{
		"nothing":                    {&nodepb.IdentityRequest{}, nodepb.Failure_REFUSED},
		"no kind":                    {&nodepb.IdentityRequest{KeysEnvelope: envelope}, nodepb.Failure_REFUSED},
		"make where there are some":  {askMake(envelope, 0), nodepb.Failure_REFUSED},
		"make for another version":   {askMake(nil, 5), nodepb.Failure_WRAPPING_KEY},
		"rewrap of nothing":          {askRewrap(nil, 0), nodepb.Failure_REFUSED},
		"no envelope":                {askLogin(nil, id[:], registration, ke1), nodepb.Failure_REFUSED},
		"an envelope that is none":   {askLogin([]byte("x"), id[:], registration, ke1), nodepb.Failure_SHARE_UNUSABLE},
		"a changed envelope":         {askLogin(flipped, id[:], registration, ke1), nodepb.Failure_SHARE_UNUSABLE},
		"another secret's envelope":  {askLogin(node, id[:], registration, ke1), nodepb.Failure_SHARE_UNUSABLE},
		"an ID of 15 bytes":          {askLogin(envelope, id[:15], registration, ke1), nodepb.Failure_REFUSED},
		"an ID of zeros":             {askLogin(envelope, make([]byte, 16), registration, ke1), nodepb.Failure_REFUSED},
		"KE1 that is none":           {askLogin(envelope, id[:], registration, ke1[1:]), nodepb.Failure_REFUSED},
		"KE1 of zeros":               {askLogin(envelope, id[:], registration, make([]byte, 96)), nodepb.Failure_REFUSED},
		"a fake, and KE1 of zeros":   {askLogin(envelope, id[:], nil, make([]byte, 96)), nodepb.Failure_REFUSED},
		"a registration cut short":   {askLogin(envelope, id[:], registration[1:], ke1), nodepb.Failure_REFUSED},
		"a request of zeros":         {askRegister(envelope, id[:], make([]byte, 32)), nodepb.Failure_REFUSED},
		"a registration without ID":  {askRegister(envelope, nil, ke1[:32]), nodepb.Failure_REFUSED},
		"a part to no key":           {askPart(envelope, id[:], nil), nodepb.Failure_REFUSED},
		"a part to the zero key":     {askPart(envelope, id[:], make([]byte, 32)), nodepb.Failure_REFUSED},
		"a part of another ID":       {askRelease(envelope, append([]byte{8}, id[1:]...), part.GetPart(), public), nodepb.Failure_REFUSED},
		"a part that is none":        {askRelease(envelope, id[:], []byte("x"), public), nodepb.Failure_REFUSED},
		"a part released to no key":  {askRelease(envelope, id[:], part.GetPart(), nil), nodepb.Failure_REFUSED},
		"a fake released to no key":  {askRelease(envelope, id[:], nil, nil), nodepb.Failure_REFUSED},
		"an empty message of a kind": {&nodepb.IdentityRequest{KeysEnvelope: envelope, Kind: &nodepb.IdentityRequest_Login{}}, nodepb.Failure_REFUSED},
	} {
		r := w.ask("n1", c.r)
		if r.GetFailure() == nil || r.GetFailure().GetReason() != c.want {
			t.Errorf("%s: %v, want %v", name, r.GetFailure(), c.want)
		}
		if len(r.GetResponse())+len(r.GetSessionKey())+len(r.GetClientMac())+len(r.GetSealedPart())+len(r.GetPart())+len(r.GetKeysEnvelope()) != 0 {
			t.Errorf("%s: the refusal carries something", name)
		}
	}
	if err := w.loginAt("n1", envelope, id, registration); err != nil {
		t.Error("after all that:", err)
	}
}

// TestIdentityCache: keys are opened once, kept for two envelopes, and gone with the
// node.
func TestIdentityCache(t *testing.T) {
	w := newWorld(t, 1)
	n := w.nodes["n1"]
	id := identity.ID{7}
	var envelopes [][]byte
	for range 3 {
		envelopes = append(envelopes, w.ask("n1", askMake(nil, 0)).GetKeysEnvelope())
	}
	if len(n.logins.held) != 0 {
		t.Error("keys that were only made are kept")
	}
	var wg sync.WaitGroup
	for i := range 24 { // more than are kept, at once
		wg.Go(func() {
			_, ke1, err := identity.StartLogin(secret.New(bytes.Repeat([]byte{5}, 32)), id, identity.DefaultKDF())
			if err != nil {
				t.Error(err)
				return
			}
			r, err := n.Identity(t.Context(), askLogin(envelopes[i%3], id[:], nil, ke1))
			if err != nil || r.GetFailure() != nil && r.GetFailure().GetReason() != nodepb.Failure_BUSY {
				t.Error(err, r.GetFailure())
			}
		})
	}
	wg.Wait()
	n.logins.mu.RLock()
	held := len(n.logins.held)
	n.logins.mu.RUnlock()
	if held != maxLoginKeys {
		t.Errorf("%d sets of keys are held", held)
	}
	// What is held needs no token.
	_, ke1 := loginKE1(t, id)
	var warm []byte
	for _, e := range envelopes {
		if r, _ := n.Identity(t.Context(), askLogin(e, id[:], nil, ke1)); r.GetFailure() == nil {
			warm = e
		}
	}
	w.token.SetAway(true)
	if r, _ := n.Identity(t.Context(), askLogin(warm, id[:], nil, ke1)); r.GetFailure() != nil {
		t.Error("opened keys need the token again:", r.GetFailure())
	}
	if r, _ := n.Identity(t.Context(), askMake(nil, 0)); r.GetFailure() == nil {
		t.Error("keys were sealed and not opened again")
	}
	w.token.SetAway(false)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if len(n.logins.held) != 0 {
		t.Error("keys are held after Close")
	}
	if r, _ := n.Identity(t.Context(), askLogin(warm, id[:], nil, ke1)); r.GetFailure().GetReason() != nodepb.Failure_HSM_UNAVAILABLE {
		t.Errorf("after Close: %v", r.GetFailure())
	}
}

// TestIdentityClose: a node that ends does not wait for a token that does not answer.
func TestIdentityClose(t *testing.T) {
	w := newWorld(t, 1)
	n := w.nodes["n1"]
	envelope := w.ask("n1", askMake(nil, 0)).GetKeysEnvelope()
	n.logins.turn <- struct{}{} // somebody is asking the token, and will be for ever
	id := identity.ID{7}
	_, ke1 := loginKE1(t, id)
	ended := make(chan *nodepb.IdentityReply)
	go func() {
		r, _ := n.Identity(context.Background(), askLogin(envelope, id[:], nil, ke1))
		ended <- r
	}()
	for len(n.logins.slots) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if r := <-ended; r.GetFailure() == nil {
		t.Error("a login got through without keys")
	}
}

// TestIdentityPanic: a panic ends the call and tells nothing.
func TestIdentityPanic(t *testing.T) {
	w := newWorld(t, 1)
	n := w.nodes["n1"]
	real := n.logins
	n.logins = nil // every use of it panics
	r, err := n.Identity(t.Context(), askMake(nil, 0))
	n.logins = real
	if err != nil || r.GetFailure() == nil || strings.Contains(r.GetFailure().GetText(), "nil pointer") {
		t.Errorf("%v %v", r, err)
	}
	if r, _ := n.Identity(t.Context(), askMake(nil, 0)); r.GetFailure() != nil {
		t.Error("the node is ill after it:", r.GetFailure())
	}
}
