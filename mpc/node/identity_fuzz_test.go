package node

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// FuzzIdentity hands a node with opened keys any request: it answers or refuses, and
// never gives its own keys away.
func FuzzIdentity(f *testing.F) {
	keys := identity.NewServerKeys()
	id := identity.ID{7}
	login, ke1, err := identity.StartLogin(secret.New(make([]byte, 32)), id, identity.DefaultKDF())
	if err != nil {
		f.Fatal(err)
	}
	login.Wipe()
	public := keys.PublicKey() // any 32 bytes are a key for X25519, but for a few
	part, _, err := keys.MakePart(id, public)
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []*nodepb.IdentityRequest{
		{}, askLogin(nil, id[:], nil, ke1), askRegister(nil, id[:], ke1[:32]), askPart(nil, id[:], public),
		askRelease(nil, id[:], part, public), askRelease(nil, id[:], nil, public), askMake(nil, 1), askRewrap(nil, 1),
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &nodepb.IdentityRequest{}
		if proto.Unmarshal(b, r) != nil {
			return
		}
		reply := &nodepb.IdentityReply{}
		if err := useIdentityKeys(keys, r, reply); err != nil && failure(err).GetReason() != nodepb.Failure_REFUSED {
			t.Errorf("%v is not said to be the request's fault", err)
		}
		if len(reply.GetKeysEnvelope())+len(reply.GetPublicKey()) != 0 {
			t.Error("keys leave with the answer")
		}
	})
}
