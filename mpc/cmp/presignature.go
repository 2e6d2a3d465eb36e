package cmp

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// ErrPresignatureUsed: the presignature has served a session or was wiped.
var ErrPresignatureUsed = errors.New("the presignature has been used")

var errPresignaturePrinted = errors.New("cmp: refusing to marshal a presignature")

// Presignature is one party's share of a presignature: everything of an ECDSA
// signature but the digest. Using it twice gives the account's key away, so it
// can be taken out once, by NewOnline or Wipe, and it has no encoding: it lives
// and dies in the memory of one process. All methods may be called
// concurrently.
type Presignature struct {
	self    mpc.Index
	signers []mpc.Index
	record  [32]byte // hash of the public record
	public  [32]byte
	inner   atomic.Pointer[ecdsa.PreSignature] // nil once it was taken out
}

// newPresignature checks what the library made and takes it over.
func newPresignature(c *PresignConfig, made *ecdsa.PreSignature) (*Presignature, error) {
	p := &Presignature{self: c.Self, signers: slices.Clone(c.Signers), record: c.Record.Hash()}
	err := guarded(func() (err error) {
		if err = checkPresignature(c, made); err == nil {
			p.public, err = publicHash(p, made)
		}
		return err
	})
	if err != nil {
		wipePresignature(made)
		return nil, err
	}
	p.inner.Store(made)
	return p, nil
}

// checkPresignature verifies that the signers' parts give the account's key and
// that the own secrets belong to the own points: R̄ᵢ = kᵢ·R, Sᵢ = χᵢ·R, ∑R̄ⱼ = G,
// ∑Sⱼ = X. Then shares that pass VerifySignatureShares make a valid signature.
func checkPresignature(c *PresignConfig, made *ecdsa.PreSignature) error {
	if err := made.Validate(); err != nil {
		return err
	}
	group, err := groupOf(c.Record.Algorithm)
	if err != nil {
		return err
	}
	key, err := curve.ParsePoint(group, c.Record.PublicKey)
	if err != nil {
		return err
	}
	sumR, sumS := group.NewPoint(), group.NewPoint()
	for _, i := range c.Signers {
		r, s := made.RBar.Points[handler.PartyID(i)], made.S.Points[handler.PartyID(i)]
		if r == nil || s == nil {
			return fmt.Errorf("share %d has no part in the presignature", i)
		}
		sumR, sumS = sumR.Add(r), sumS.Add(s)
	}
	own := handler.PartyID(c.Self)
	if len(made.RBar.Points) != len(c.Signers) || !sumR.Equal(group.NewBasePoint()) || !sumS.Equal(key) ||
		!made.KShare.Act(made.R).Equal(made.RBar.Points[own]) || !made.ChiShare.Act(made.R).Equal(made.S.Points[own]) {
		return errors.New("the parts of the presignature do not belong together")
	}
	return nil
}

// publicHash hashes what all signers know of a presignature.
func publicHash(p *Presignature, made *ecdsa.PreSignature) (sum [32]byte, err error) {
	f := newFields(labelPresignature).put(p.record[:])
	point := func(x libcurve.Point) {
		b, e := x.MarshalBinary()
		f, err = f.put(b), errors.Join(err, e)
	}
	point(made.R)
	for _, i := range p.signers {
		f = f.put([]byte{byte(i)})
		point(made.RBar.Points[handler.PartyID(i)])
		point(made.S.Points[handler.PartyID(i)])
	}
	return sha256.Sum256(f), err
}

// Public returns a hash of what the signers have in common: the public record's
// hash, R, the signers, and R̄ⱼ and Sⱼ of each. Honest parties of one session
// that compare it know that their shares fit; the library does not compare the
// broadcasts of its last round.
func (p *Presignature) Public() [32]byte { return p.public }

// Wipe overwrites the secret scalars kᵢ and χᵢ unless NewOnline has taken them,
// and ends the presignature. It may be called at any time, on nil too.
func (p *Presignature) Wipe() {
	if p != nil {
		wipePresignature(p.inner.Swap(nil))
	}
}

func wipePresignature(made *ecdsa.PreSignature) {
	if made != nil {
		curve.WipeScalar(made.KShare)
		curve.WipeScalar(made.ChiShare)
	}
}

// belongsTo checks that this is self's share, made by these signers for this
// very record.
func (p *Presignature) belongsTo(record *mpc.PublicRecord, signers []mpc.Index, self mpc.Index) error {
	switch {
	case p.record != record.Hash():
		return errors.New("the presignature was made for another account, epoch or policy")
	case !slices.Equal(p.signers, signers) || p.self != self:
		return fmt.Errorf("the presignature was made by share %d of signers %v", p.self, p.signers)
	}
	return nil
}

// String and the other formatters show nothing.
func (p *Presignature) String() string { return "[presignature]" }

// GoString implements fmt.GoStringer.
func (p *Presignature) GoString() string { return "[presignature]" }

// Format implements fmt.Formatter.
func (p *Presignature) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[presignature]") }

// MarshalJSON always fails.
func (p *Presignature) MarshalJSON() ([]byte, error) { return nil, errPresignaturePrinted }

// MarshalText always fails.
func (p *Presignature) MarshalText() ([]byte, error) { return nil, errPresignaturePrinted }

// MarshalBinary always fails.
func (p *Presignature) MarshalBinary() ([]byte, error) { return nil, errPresignaturePrinted }

// MarshalCBOR always fails.
func (p *Presignature) MarshalCBOR() ([]byte, error) { return nil, errPresignaturePrinted }

// GobEncode always fails.
func (p *Presignature) GobEncode() ([]byte, error) { return nil, errPresignaturePrinted }
