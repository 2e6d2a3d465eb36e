package cmp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// TestEncodingsAreStable pins version 1 of everything that is stored or hashed:
// keys and receipts of an older version of this program must stay readable and
// its proofs valid. A change here needs a new version in the label.
func TestEncodingsAreStable(t *testing.T) {
	public := syntheticPublic()
	private := &AuxSecret{generation: 1, p: secret.New(bytes.Repeat([]byte{0xff}, primeSize)), q: secret.New(bytes.Repeat([]byte{0xfb}, primeSize)),
		elGamal: []elGamalSecret{{"secp256k1", secret.New(bytes.Repeat([]byte{1}, scalarSize))}}}
	both := syntheticPublic()
	both.elGamal = append([]elGamalPublic{{curve: "P-256", point: [pointSize]byte{3}}}, both.elGamal...)
	bothPrivate := &AuxSecret{generation: 1, p: private.p, q: private.q,
		elGamal: append([]elGamalSecret{{"P-256", secret.New(bytes.Repeat([]byte{2}, scalarSize))}}, private.elGamal...)}
	peer := Owner{MountID: [16]byte{3}, NodeID: "local-2", Identity: mpc.NodeIdentity{2}, Generation: 1}
	receipt := &Receipt{nodeID: "local-1", identity: mpc.NodeIdentity{1}, peer: peer}
	for name, c := range map[string]struct {
		b    []byte
		want string // SHA-256
	}{
		"public":             {public.Marshal(), "742d73d7377016fe9aba64635ede3041ab7b22be951bd15436e109db9cab4313"},
		"secret":             {private.Marshal().Expose(), "472a26dcb85bf4cf71f8cde55f02568949046270b3e52b0346b88f05f582fdca"},
		"public, two curves": {both.Marshal(), "74b62498ea40f6dc8ba0467cd81de03afc4e228121594b1f71d21cd420c1116b"},
		"secret, two curves": {bothPrivate.Marshal().Expose(), "0979115c4bb0bf90512b6dbb20b1bbedffd3ae203966f9122c7235911261ce30"},
		"factor proof":       {(&FactorProof{}).Marshal(), "89528a37a2d48d9332e78d827b85fe6fc856e5fd4e3bc61f2ed54042f1e15dac"},
		"receipt":            {receipt.Marshal(), "c7dc9178da44adafafb9a64c7c7d42f12f510b161a5666c63ef8365f7c2bed48"},
		"mod proof hash":     {proofHash(labelModProof, public.owner).Sum(), "3d65630158645cec44f966857df6baaf3c4aff681d42c0963f4fea40ad17f105"},
		"prm proof hash":     {proofHash(labelPrmProof, public.owner).Sum(), "c1abe48c5e2988f255a9de6367427a52ab4b62d30c2af8232799f22fc9fe91bd"},
		"factor proof hash":  {proofHash(labelFactorHash, public.owner, peer).Sum(), "44564293babf46fc9baed42a45fbdecd8ba677c2a6a62155c5935d9329647d1a"},
	} {
		if sum := sha256.Sum256(c.b); hex.EncodeToString(sum[:]) != c.want {
			t.Errorf("%s: %x", name, sum)
		}
	}
}
