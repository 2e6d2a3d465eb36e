package cmp

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/cronokirby/saferith"
	"github.com/taurusgroup/multi-party-sig/pkg/math/arith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/pedersen"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
)

// Sizes in bytes. The library fixes them by its security parameters.
const (
	modulusSize = 256 // Paillier modulus N: 2048 bits
	primeSize   = 128 // its factors: 1024 bits each
	scalarSize  = 32
	pointSize   = 33 // SEC 1 compressed

	proofRounds  = 80 // binary challenges in a mod and in a prm proof
	modRoundSize = 1 + 2*modulusSize
	modProofSize = modulusSize + proofRounds*modRoundSize
	prmRoundSize = 2 * modulusSize
	prmProofSize = proofRounds * prmRoundSize

	maxCurves    = 8
	maxCurveName = 32
	maxAuxPublic = 96 << 10 // an honest one has under 83 KiB
)

// elGamalPublic is one ElGamal public key.
type elGamalPublic struct {
	curve string
	point [pointSize]byte
}

// AuxPublic is the public half of a node's auxiliary keys with the proofs that
// concern every peer alike, signed by the node. Apart from the memory of what
// was checked it never changes, and all methods may be called concurrently.
type AuxPublic struct {
	owner Owner
	// n is the Paillier modulus and the modulus of s and t, the ring-Pedersen
	// parameters; big-endian.
	n, s, t   [modulusSize]byte
	elGamal   []elGamalPublic // ascending by curve name
	mod       [modProofSize]byte
	prm       [prmProofSize]byte
	signature [ed25519.SignatureSize]byte
	hash      [32]byte // of Marshal

	verified atomic.Bool // Verify has passed
	complete atomic.Bool // so has a factor proof to this node
}

// Owner returns the owner that the keys name. It is a claim until Verify or
// VerifyReceipt has compared it with the pinned one.
func (p *AuxPublic) Owner() Owner { return p.owner }

// Hash is the SHA-256 of Marshal.
func (p *AuxPublic) Hash() [32]byte { return p.hash }

// Checked reports whether all proofs to this node have been checked in this
// process, or a receipt of that.
func (p *AuxPublic) Checked() bool { return p.complete.Load() }

// usable reports whether a peer's keys may take part in a session.
func (p *AuxPublic) usable() bool { return p.verified.Load() && p.complete.Load() }

// Curves returns the names of the curves that the keys serve, ascending.
func (p *AuxPublic) Curves() []string {
	names := make([]string, len(p.elGamal))
	for i := range p.elGamal {
		names[i] = p.elGamal[i].curve
	}
	return names
}

// Serves reports whether accounts with the algorithm can use the keys. Keys that
// an older version of this program made serve secp256k1 only; whoever needs
// more of them makes the next generation.
func (p *AuxPublic) Serves(a mpc.Algorithm) bool {
	group, err := groupOf(a)
	return err == nil && slices.Contains(p.Curves(), group.Name())
}

// signed returns what the node's identity signs: Marshal without its last field.
func (p *AuxPublic) signed() fields {
	f := newFields(labelPublic).owner(p.owner).put(p.n[:]).put(p.s[:]).put(p.t[:])
	f = f.put([]byte{byte(len(p.elGamal))})
	for i := range p.elGamal {
		f = f.put([]byte(p.elGamal[i].curve)).put(p.elGamal[i].point[:])
	}
	return f.put(p.mod[:]).put(p.prm[:])
}

// sign signs the keys and fixes their hash.
func (p *AuxPublic) sign(identity crypto.Signer) (err error) {
	if p.signature, err = sign(identity, p.owner.Identity, p.signed()); err != nil {
		return err
	}
	p.hash = sha256.Sum256(p.Marshal())
	return nil
}

// Marshal returns the canonical encoding. Every field is preceded by its length
// (4 bytes, big-endian): label with version; mount ID (16 bytes), node ID,
// identity (32), generation (8); N, s, t (256 each, big-endian like all
// numbers); number of ElGamal keys (1), for each its curve's name and point
// (33, SEC 1 compressed); mod proof W ‖ 80 × (A + 2B in one byte, X, Z); prm
// proof 80 × (A, Z); Ed25519 signature over all fields before it.
func (p *AuxPublic) Marshal() []byte { return p.signed().put(p.signature[:]) }

// ParseAuxPublic reads Marshal's encoding, the canonical form only. It checks
// lengths and ranges, which makes the numbers safe to hand to the library, and
// nothing that costs time: call Verify before anything is done with the keys.
func ParseAuxPublic(b []byte) (*AuxPublic, error) {
	r := newReader(b, maxAuxPublic, labelPublic)
	p := &AuxPublic{owner: r.owner()}
	r.fixed(p.n[:])
	r.fixed(p.s[:])
	r.fixed(p.t[:])
	var count [1]byte
	r.fixed(count[:])
	if count[0] < 1 || count[0] > maxCurves {
		r.rejectf("%d ElGamal keys", count[0])
	}
	for last := ""; len(p.elGamal) < int(count[0]) && r.err == nil; {
		e := elGamalPublic{curve: string(r.between(1, maxCurveName))}
		if _, ok := curveByName(e.curve); !ok || e.curve <= last {
			r.rejectf("ElGamal key on an unknown curve or out of order")
		}
		last = e.curve
		r.fixed(e.point[:])
		p.elGamal = append(p.elGamal, e)
	}
	r.fixed(p.mod[:])
	r.fixed(p.prm[:])
	r.fixed(p.signature[:])
	if err := r.end(); err != nil {
		return nil, err
	}
	if err := p.checkRanges(); err != nil {
		return nil, err
	}
	p.hash = sha256.Sum256(b)
	return p, nil
}

// checkRanges verifies that N has exactly 2048 bits and is odd, and that every
// number modulo N lies in 1…N−1.
func (p *AuxPublic) checkRanges() error {
	r := &reader{}
	if p.n[0]&0x80 == 0 || p.n[modulusSize-1]&1 == 0 {
		r.rejectf("the modulus is not odd or has not 2048 bits")
	}
	if !inRange(p.s[:], p.n[:]) || !inRange(p.t[:], p.n[:]) {
		r.rejectf("Pedersen parameters out of range")
	}
	if !inRange(p.mod[:modulusSize], p.n[:]) {
		r.rejectf("mod proof: W out of range")
	}
	for in := p.mod[modulusSize:]; len(in) > 0; in = in[modRoundSize:] {
		if in[0] > 3 || !inRange(in[1:1+modulusSize], p.n[:]) || !inRange(in[1+modulusSize:modRoundSize], p.n[:]) {
			r.rejectf("mod proof: response out of range")
		}
	}
	for in := p.prm[:]; len(in) > 0; in = in[modulusSize:] {
		if !inRange(in[:modulusSize], p.n[:]) {
			r.rejectf("prm proof: number out of range")
		}
	}
	return r.err
}

// modulus returns a fresh library object for N.
func (p *AuxPublic) modulus() *saferith.Modulus { return saferith.ModulusFromBytes(p.n[:]) }

// pedersen returns fresh Pedersen parameters on n, which is N, with its
// factors where they are known.
func (p *AuxPublic) pedersen(n *arith.Modulus) *pedersen.Parameters {
	return pedersen.New(n, nat(p.s[:]), nat(p.t[:]))
}

// elGamalPoint returns a fresh point on a curve.
func (p *AuxPublic) elGamalPoint(name string) (libcurve.Point, error) {
	group, known := curveByName(name)
	for i := range p.elGamal {
		if e := &p.elGamal[i]; known && e.curve == name {
			return curve.ParsePoint(group, e.point[:])
		}
	}
	return nil, errors.New("no ElGamal key on " + name)
}

func nat(b []byte) *saferith.Nat { return new(saferith.Nat).SetBytes(b) }
