package cmp

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/hash"

	"vault-plugin-secrets-mpc/mpc"
)

// maxNodeID bounds a node ID in bytes.
const maxNodeID = 128

// Domain labels. Each names one use of a hash or a signature key; the number is
// the version of what is hashed.
const (
	labelModProof     = "vault-plugin-secrets-mpc auxiliary mod proof v1"
	labelPrmProof     = "vault-plugin-secrets-mpc auxiliary prm proof v1"
	labelFactorHash   = "vault-plugin-secrets-mpc auxiliary factor proof context v1"
	labelOwner        = "vault-plugin-secrets-mpc auxiliary owner v1"
	labelPublic       = "vault-plugin-secrets-mpc auxiliary public v1"
	labelSecret       = "vault-plugin-secrets-mpc auxiliary secret v1"
	labelFactorProof  = "vault-plugin-secrets-mpc auxiliary factor proof v1"
	labelReceipt      = "vault-plugin-secrets-mpc auxiliary receipt v1"
	labelRID          = "vault-plugin-secrets-mpc signing configuration v1"
	labelPresignature = "vault-plugin-secrets-mpc presignature v1"
	labelOnline       = "vault-plugin-secrets-mpc online signing v1"
)

// Errors that callers may want to tell apart.
var (
	// ErrOwner: the keys or proof belong to another mount, node, identity or
	// generation than expected.
	ErrOwner = errors.New("auxiliary keys of another owner")
	// ErrSignature: not signed by the node's pinned identity.
	ErrSignature = errors.New("not signed by the node's identity")
	// ErrProof: a zero-knowledge proof about auxiliary keys does not hold, or
	// the keys are invalid in themselves.
	ErrProof = errors.New("auxiliary keys are not proven")
	// ErrUnchecked: a peer's auxiliary keys would be used unchecked.
	ErrUnchecked = errors.New("auxiliary keys have not been checked")
	// ErrCurve: auxiliary keys have no ElGamal key on the account's curve.
	ErrCurve = errors.New("auxiliary keys are of an older version and do not serve this algorithm; make new ones")
)

// Owner says whose auxiliary keys these are, and which generation of them.
// Callers take all of it from what they have pinned.
type Owner struct {
	MountID    [16]byte
	NodeID     string // 1 to 128 bytes
	Identity   mpc.NodeIdentity
	Generation uint64 // from 1
}

func (o Owner) check() error {
	if len(o.NodeID) < 1 || len(o.NodeID) > maxNodeID {
		return fmt.Errorf("a node ID of %d bytes: 1 to %d are allowed", len(o.NodeID), maxNodeID)
	}
	if o.Identity == (mpc.NodeIdentity{}) || o.Generation == 0 {
		return errors.New("auxiliary keys need an owner's identity and a generation from 1")
	}
	return nil
}

func (f fields) owner(o Owner) fields {
	return f.put(o.MountID[:]).put([]byte(o.NodeID)).put(o.Identity[:]).uint64(o.Generation)
}

func (r *reader) owner() (o Owner) {
	r.fixed(o.MountID[:])
	o.NodeID = string(r.between(1, maxNodeID))
	r.fixed(o.Identity[:])
	if o.Generation = r.uint64(); r.err == nil {
		if err := o.check(); err != nil {
			r.rejectf("%w", err)
		}
	}
	return o
}

// proofHash is the initial state of a proof's Fiat-Shamir hash. Which proof it
// is and who it is about are hashed before anything that the prover chooses.
func proofHash(label string, owners ...Owner) *hash.Hash {
	f := newFields(labelOwner)
	for _, o := range owners {
		f = f.owner(o)
	}
	return hash.New(hash.BytesWithDomain{TheDomain: label, Bytes: f})
}

// sign signs with a node identity. signer's public key must be identity.
func sign(signer crypto.Signer, identity mpc.NodeIdentity, message []byte) (sig [ed25519.SignatureSize]byte, err error) {
	if !identity.Equal(signer.Public()) {
		return sig, fmt.Errorf("%w: the signing key is another one", ErrOwner)
	}
	b, err := signer.Sign(nil, message, crypto.Hash(0)) // pure Ed25519, RFC 8032
	if err != nil {
		return sig, fmt.Errorf("signing with the node identity: %w", err)
	}
	if len(b) != len(sig) || !ed25519.Verify(identity[:], message, b) {
		return sig, errors.New("the node identity made an invalid signature")
	}
	return [ed25519.SignatureSize]byte(b), nil
}
