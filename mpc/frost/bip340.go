package frost

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/taproot"
	"github.com/taurusgroup/multi-party-sig/protocols/frost"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// bip340Rounds is the last round of signing.
const bip340Rounds = 3

// bip340Party runs one signer of a BIP-340 signature by the library.
//
// The library checks a signature share before it compares what the parties
// were told, so that with three signers one who tells the others different
// nonce commitments gets an honest one convicted. Shares are therefore held
// back until this party's own is out, and their echo is compared first.
type bip340Party struct {
	*handler.Party
	cfg     SignConfig
	secret  libcurve.Scalar
	tag     [32]byte // of this party's own messages
	echo    []byte   // 64 bytes: what this party was told in round 2
	sent    bool     // round 3 is out, and with it echo is known
	waiting map[mpc.Index]mpc.Message
	failed  error
}

func newBIP340(cfg SignConfig) (*bip340Party, error) {
	x, err := parseShare(cfg.Record, cfg.Self, cfg.Share)
	if err != nil {
		return nil, err
	}
	p := &bip340Party{cfg: cfg, secret: x, waiting: map[mpc.Index]mpc.Message{}}
	if err := p.prepare(x); err != nil {
		curve.WipeScalar(x)
		return nil, err
	}
	return p, nil
}

func (p *bip340Party) prepare(x libcurve.Scalar) error {
	// The library uses no others, and every one of them costs a square root.
	points, err := publicShares(p.cfg.Record, p.cfg.Signers, false)
	if err != nil {
		return err
	}
	config, err := taprootConfig(p.cfg.Record, p.cfg.Self, x, points)
	if err != nil {
		return err
	}
	p.Party, err = handler.New(handler.Config{
		Self:    p.cfg.Self,
		Parties: p.cfg.Signers,
		// The library binds neither account nor message to a session.
		SessionID:  p.cfg.transcript(),
		Start:      frost.SignTaproot(config, handler.PartyIDs(p.cfg.Signers), p.cfg.Message),
		FinalRound: bip340Rounds,
		Check:      checkBIP340,
	})
	return err
}

// Start implements mpc.Party.
func (p *bip340Party) Start() ([]mpc.Message, error) {
	out, err := p.Party.Start()
	if err != nil {
		p.failed = err
	} else if len(out) > 0 {
		p.tag = out[0].Transcript
	}
	return out, err
}

// Step implements mpc.Party.
func (p *bip340Party) Step(m mpc.Message) ([]mpc.Message, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case m.Round != bip340Rounds || p.Done() || !p.sound(m):
		// Round 2; or a straggler, which the handler ignores; or a message
		// that it refuses, and says why.
	case !p.sent:
		if _, again := p.waiting[m.From]; !again {
			p.waiting[m.From] = m
		}
		return nil, nil
	case !bytes.Equal(m.Echo, p.echo):
		p.failed = broadcastFault(p.cfg.Self, p.cfg.Signers)
		return nil, p.failed
	}
	out, err := p.Party.Step(m)
	if err != nil {
		p.failed = err // for good: nothing is held back any more
		return nil, err
	}
	for _, o := range out {
		if o.Round == bip340Rounds {
			p.echo, p.sent = o.Echo, true
		}
	}
	return p.release(out)
}

// release takes the held messages up, in the order of their senders, once this
// party's own share is out.
func (p *bip340Party) release(out []mpc.Message) ([]mpc.Message, error) {
	if !p.sent {
		return out, nil
	}
	for _, i := range p.cfg.Signers {
		m, ok := p.waiting[i]
		if !ok {
			continue
		}
		delete(p.waiting, i)
		more, err := p.Step(m)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// sound reports whether the handler would take a message of the last round.
func (p *bip340Party) sound(m mpc.Message) bool {
	return m.From != p.cfg.Self && slices.Contains(p.cfg.Signers, m.From) && m.Broadcast && m.To == 0 &&
		m.Transcript == p.tag && (len(m.Echo) == 0 || len(m.Echo) == 64) &&
		len(m.Data) <= mpc.MaxMessageSize && checkBIP340(m) == nil
}

// Result returns the signature R.x‖s. The library has verified it with its own
// code.
func (p *bip340Party) Result() (*mpc.Signature, error) {
	if p.failed != nil {
		return nil, p.failed
	}
	raw, err := p.Party.Result()
	if err != nil {
		return nil, err
	}
	sig, ok := raw.(taproot.Signature)
	if !ok || len(sig) != 64 {
		return nil, fmt.Errorf("frost: unexpected result %T", raw)
	}
	out := &mpc.Signature{Bytes: append([]byte(nil), sig...), RecoveryID: -1, Digest: p.cfg.Message}
	copy(out.R[:], sig[:32])
	copy(out.S[:], sig[32:])
	return out, nil
}

// Wipe implements mpc.Party.
func (p *bip340Party) Wipe() {
	curve.WipeScalar(p.secret)
	p.secret, p.waiting = nil, nil
	p.Party.Wipe()
}

// taprootConfig builds a fresh library configuration around x.
func taprootConfig(record *mpc.PublicRecord, self mpc.Index, x libcurve.Scalar, points map[party.ID]libcurve.Point) (*frost.TaprootConfig, error) {
	share, ok := x.(*libcurve.Secp256k1Scalar)
	if !ok {
		return nil, errors.New("frost: the share is not on secp256k1")
	}
	own := make(map[party.ID]*libcurve.Secp256k1Point, len(points))
	for id, p := range points {
		if own[id], ok = p.(*libcurve.Secp256k1Point); !ok {
			return nil, errors.New("frost: a public share is not on secp256k1")
		}
	}
	return &frost.TaprootConfig{
		ID:                 handler.PartyID(self),
		Threshold:          record.Threshold - 1,
		PrivateShare:       share,
		PublicKey:          append(taproot.PublicKey(nil), record.PublicKey...),
		VerificationShares: own,
	}, nil
}
