package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// TestForgedAuxiliaryKeys: a coordinator makes auxiliary keys itself and seals them
// to the public half of the node's wrapping key, as if the node had made them. With
// the Paillier key of a signer it would read that signer's share out of one session.
func TestForgedAuxiliaryKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("auxiliary keys take seconds of CPU")
	}
	h := newHosts(t, "a", "b")
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	owner := cmp.Owner{MountID: [16]byte(mount), NodeID: "n1", Identity: mpc.NodeIdentity(public), Generation: 1}
	own, forged, err := cmp.Generate(t.Context(), owner, private, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Wipe()
	plain := own.Marshal()
	defer plain.Wipe()
	envelope, err := hsm.Seal(hsm.NodeKeyContext(kindAuxiliary, [16]byte(mount), "n1", 1), plain,
		[]hsm.WrappingKey{wrappingKeyFromWire(h.domains["a"].keys[0])})
	if err != nil {
		t.Fatal(err)
	}
	r := h.setup("n1")
	r.AuxEnvelope = envelope
	r.AuxPublic = bytes.Replace(forged.Marshal(), public, h.of["n1"].Identity.Public().(ed25519.PublicKey), 1)
	h.clients["n1"], h.nodes["n1"] = h.serveAs(Config{Version: "test", SessionTime: h.limit, Host: h.of["n1"]})
	if reply, err := h.clients["n1"].Setup(h.ctx(), r); err != nil || reply.GetFailure() != nil {
		t.Fatal(err, reply.GetFailure())
	}
	status, err := h.clients["n1"].Status(h.ctx(), &nodepb.StatusRequest{})
	if err != nil || status.GetAuxGeneration() != 0 {
		t.Errorf("the node uses auxiliary keys that the coordinator made: generation %d, %v", status.GetAuxGeneration(), err)
	}
}
