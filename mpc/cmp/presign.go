package cmp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// ErrInconsistent: the parties' parts do not fit although every proof holds, so
// somebody cheated. With two signers the other one did; with more, finding out
// who would take opening the nonces, which PresignParty never does.
var ErrInconsistent = errors.New("the signers' parts of the presignature do not fit together")

// PresignParty runs one party of a presigning session.
type PresignParty struct {
	*ordered
	cfg   PresignConfig
	group libcurve.Curve
	keys  keys // cleared by Wipe

	// delta is δⱼ of every signer, bigDelta Δⱼ, s Sⱼ.
	delta       map[mpc.Index]libcurve.Scalar
	bigDelta, s map[mpc.Index]libcurve.Point
	key         libcurve.Point
	cheated     bool // one of the sums is wrong
	taken       bool
}

var _ mpc.Party = (*PresignParty)(nil)

// NewPresign returns a party that makes a presignature share. It fails where
// NewSign does.
func NewPresign(cfg PresignConfig) (*PresignParty, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("presigning: %w", err)
	}
	check, err := newMessageCheck(presignShapes(cfg.Signers))
	if err != nil {
		return nil, err
	}
	p := &PresignParty{cfg: cfg, delta: map[mpc.Index]libcurve.Scalar{},
		bigDelta: map[mpc.Index]libcurve.Point{}, s: map[mpc.Index]libcurve.Point{}}
	err = guarded(func() error {
		library, err := p.keys.library(&cfg)
		if err != nil {
			return err
		}
		p.group = library.Group
		if p.key, err = curve.ParsePoint(p.group, cfg.Record.PublicKey); err != nil {
			return err
		}
		p.ordered, err = newOrdered(handler.Config{
			Self:       cfg.Self,
			Parties:    cfg.Signers,
			SessionID:  cfg.SessionID,
			Start:      cmp.Presign(library, handler.PartyIDs(cfg.Signers), nil),
			FinalRound: presignRounds,
			Check:      check,
		})
		return err
	})
	// Everything else in cfg is for the library; these are the caller's secrets.
	p.cfg.Share, p.cfg.Secret, p.cfg.Aux = nil, nil, nil
	if err != nil {
		p.Wipe()
		return nil, fmt.Errorf("presigning: %w", err)
	}
	p.received = p.inspect
	p.made = func(m mpc.Message) error {
		// The library's abort rounds open nonces and panic on the way. inspect
		// keeps it from them; should it get there all the same, nothing leaves.
		if check(m) != nil {
			return ErrInconsistent
		}
		p.inspect(&m)
		return nil
	}
	return p, nil
}

// inspect collects the parts that must add up. When the last one of a sum is
// there and the sum is wrong, the library would enter an abort round after the
// message: it gets a wrong echo instead, so that it still verifies the message's
// own proof and names the sender if that is false, and then gives up.
func (p *PresignParty) inspect(m *mpc.Message) {
	if !m.Broadcast {
		return
	}
	fits := true
	err := guarded(func() error {
		var body struct{ DeltaShare, BigDeltaShare, S []byte }
		switch m.Round {
		case 4, 6, 7:
			if err := cbor.Unmarshal(m.Data, &body); err != nil {
				return err
			}
		}
		var err error
		switch m.Round {
		case 4:
			p.delta[m.From], err = curve.ParseScalar(p.group, secret.New(body.DeltaShare))
		case 6:
			p.bigDelta[m.From], err = curve.ParsePoint(p.group, body.BigDeltaShare)
			fits = len(p.bigDelta) < len(p.cfg.Signers) || p.deltaFits()
		case 7:
			p.s[m.From], err = curve.ParsePoint(p.group, body.S)
			fits = len(p.s) < len(p.cfg.Signers) || p.chiFits()
		}
		return err
	})
	// What cannot be parsed is left to the library, which refuses it and names
	// the sender.
	if err == nil && !fits {
		p.cheated = true
		m.Echo = bytes.Repeat([]byte{0xff}, 64)
	}
}

// deltaFits reports δ·G = ∑Δⱼ for δ = ∑δⱼ ≠ 0; the library inverts δ unseen.
func (p *PresignParty) deltaFits() bool {
	sum, points := p.group.NewScalar(), p.group.NewPoint()
	for _, i := range p.cfg.Signers {
		if p.delta[i] == nil {
			return false
		}
		sum.Add(p.delta[i])
		points = points.Add(p.bigDelta[i])
	}
	return !sum.IsZero() && sum.ActOnBase().Equal(points)
}

// chiFits reports ∑Sⱼ = X.
func (p *PresignParty) chiFits() bool {
	sum := p.group.NewPoint()
	for _, i := range p.cfg.Signers {
		sum = sum.Add(p.s[i])
	}
	return sum.Equal(p.key)
}

// Step implements mpc.Party.
func (p *PresignParty) Step(m mpc.Message) ([]mpc.Message, error) {
	out, err := p.ordered.Step(m)
	if err == nil || !p.cheated {
		return out, err
	}
	var abort *mpc.AbortError
	if errors.As(err, &abort) && len(abort.Culprits) > 0 && !errors.Is(err, mpc.ErrPanic) && !strings.Contains(err.Error(), wrongEcho) {
		return nil, err // the last proof was false, too
	}
	return nil, p.fail(ErrInconsistent)
}

// wrongEcho is what the library says of the echo that inspect has spoilt. It
// blames nobody for it, but a sole peer is named all the same.
const wrongEcho = "broadcast verification failed"

// Result returns the presignature share, once: it is the caller's afterwards, to
// use or to wipe, and outlives the party.
func (p *PresignParty) Result() (*Presignature, error) {
	raw, err := p.ordered.Result()
	if err != nil {
		return nil, err
	}
	made, ok := raw.(*ecdsa.PreSignature)
	if !ok {
		return nil, fmt.Errorf("presigning: unexpected result %T", raw)
	}
	if p.taken {
		return nil, fmt.Errorf("presigning: %w", ErrPresignatureUsed)
	}
	p.taken = true
	out, err := newPresignature(&p.cfg, made)
	if err != nil {
		return nil, fmt.Errorf("presigning: %w", err)
	}
	return out, nil
}

// Wipe implements mpc.Party. A presignature that Result has handed out stays.
// Wiping nil is allowed.
func (p *PresignParty) Wipe() {
	if p == nil {
		return
	}
	p.keys.wipe()
	if p.ordered == nil {
		return
	}
	if raw, err := p.ordered.Result(); err == nil && !p.taken {
		if made, ok := raw.(*ecdsa.PreSignature); ok {
			wipePresignature(made)
		}
	}
	p.ordered.Wipe()
}
