package cmp

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// onlineRound is the number of the one round of messages. Each is a broadcast of
// σᵢ in 32 bytes, big-endian.
const onlineRound = 8

// OnlineConfig describes one signer that has a presignature share.
type OnlineConfig struct {
	Self mpc.Index
	// Signers are those who made the presignature, ascending.
	Signers []mpc.Index
	// Record is the very one that the presignature was made for.
	Record       *mpc.PublicRecord
	Presignature *Presignature
	// Digest must be a hash that the caller computed itself: who may choose it
	// freely after R is known can get a signature on a message that nobody
	// asked for (Groth and Shoup, ePrint 2021/1330).
	Digest    [mpc.DigestSize]byte
	SessionID mpc.SessionID
}

// OnlineParty runs one signer of the last round of CGGMP with a presignature
// ("signing" in figure 8 of ePrint 2021/060). The arithmetic is the library's;
// its handler is not used, since it would demand the auxiliary keys only to hash
// them.
type OnlineParty struct {
	self    mpc.Index
	signers []mpc.Index
	record  *mpc.PublicRecord
	group   libcurve.Curve
	digest  [mpc.DigestSize]byte
	tag     [32]byte
	made    *ecdsa.PreSignature
	shares  map[party.ID]libcurve.Scalar // σⱼ; nil before Start
	result  *mpc.Signature
	failed  error
}

var _ mpc.Party = (*OnlineParty)(nil)

// NewOnline returns a signer that owns the presignature from now on; whatever
// becomes of the session, it cannot be used again. A configuration that does not
// fit the presignature is refused and leaves it as it was.
func NewOnline(cfg OnlineConfig) (*OnlineParty, error) {
	if err := checkSigners(cfg.Record, cfg.Signers, cfg.Self); err != nil {
		return nil, fmt.Errorf("online signing: %w", err)
	}
	if cfg.Presignature == nil || cfg.SessionID == (mpc.SessionID{}) {
		return nil, errors.New("online signing: incomplete configuration")
	}
	if err := cfg.Presignature.belongsTo(cfg.Record, cfg.Signers, cfg.Self); err != nil {
		return nil, fmt.Errorf("online signing: %w", err)
	}
	group, err := groupOf(cfg.Record.Algorithm)
	if err != nil {
		return nil, err
	}
	made := cfg.Presignature.inner.Swap(nil)
	if made == nil {
		return nil, ErrPresignatureUsed
	}
	p := &OnlineParty{self: cfg.Self, signers: slices.Clone(cfg.Signers), record: cfg.Record, group: group, digest: cfg.Digest, made: made}
	public := cfg.Presignature.Public()
	p.tag = sha256.Sum256(newFields(labelOnline).put(cfg.SessionID[:]).put(public[:]).put(p.digest[:]))
	return p, nil
}

// Start implements mpc.Party. It overwrites kᵢ and χᵢ, which only make σᵢ.
func (p *OnlineParty) Start() ([]mpc.Message, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.shares != nil:
		return nil, errors.New("online signing: started twice")
	}
	p.shares = map[party.ID]libcurve.Scalar{}
	var data []byte
	err := guarded(func() (err error) {
		sigma := p.made.SignatureShare(p.digest[:])
		wipePresignature(p.made)
		if sigma.IsZero() {
			return errors.New("the own share of the signature is zero")
		}
		p.shares[handler.PartyID(p.self)] = sigma
		data, err = sigma.MarshalBinary()
		return err
	})
	if err != nil {
		return nil, p.fail(err)
	}
	return []mpc.Message{{From: p.self, Broadcast: true, Round: onlineRound, Transcript: p.tag, Data: data}}, nil
}

// Step implements mpc.Party.
func (p *OnlineParty) Step(m mpc.Message) ([]mpc.Message, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.shares == nil:
		return nil, errors.New("online signing: not started")
	case p.result != nil:
		return nil, nil
	}
	sigma, err := p.admit(m)
	if err != nil {
		return nil, p.fail(err, m.From)
	}
	from := handler.PartyID(m.From)
	if p.shares[from] != nil {
		return nil, nil
	}
	if p.shares[from] = sigma; len(p.shares) < len(p.signers) {
		return nil, nil
	}
	return nil, p.combine()
}

// admit checks a message and reads σⱼ.
func (p *OnlineParty) admit(m mpc.Message) (sigma libcurve.Scalar, err error) {
	switch {
	case m.From == p.self || !slices.Contains(p.signers, m.From):
		return nil, fmt.Errorf("%w: share %d is not in this session", mpc.ErrMalformedMessage, m.From)
	case !m.Broadcast || m.To != 0 || m.Round != onlineRound || len(m.Echo) != 0:
		return nil, fmt.Errorf("%w: not a broadcast of round %d", mpc.ErrMalformedMessage, onlineRound)
	case m.Transcript != p.tag:
		return nil, mpc.ErrOtherSession
	}
	err = guarded(func() (err error) {
		sigma, err = curve.ParseScalar(p.group, secret.New(m.Data))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", mpc.ErrMalformedMessage, err)
	}
	return sigma, nil
}

// combine makes and verifies the signature. When it is invalid, every share is
// checked on its own: σⱼ·R = m·R̄ⱼ + r·Sⱼ.
func (p *OnlineParty) combine() error {
	var culprits []mpc.Index
	err := guarded(func() (err error) {
		sig := p.made.Signature(p.shares)
		out, err := newSignature(p.record.Algorithm, sig, p.digest)
		if err == nil {
			err = verifySignature(p.record.Algorithm, out, p.record.PublicKey)
		}
		if err == nil {
			p.result = out
			return nil
		}
		for _, id := range p.made.VerifySignatureShares(p.shares, p.digest[:]) {
			culprits = append(culprits, handler.Index(id))
		}
		slices.Sort(culprits)
		return err
	})
	if err != nil {
		return p.fail(err, culprits...)
	}
	return nil
}

// fail ends the session and clears what is secret.
func (p *OnlineParty) fail(err error, culprits ...mpc.Index) error {
	wipePresignature(p.made)
	p.failed = &mpc.AbortError{Culprits: culprits, Err: err}
	return p.failed
}

// Done implements mpc.Party.
func (p *OnlineParty) Done() bool { return p.result != nil }

// Result returns the signature as SignParty.Result does.
func (p *OnlineParty) Result() (*mpc.Signature, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.result == nil:
		return nil, errors.New("online signing: the session has not ended")
	}
	return p.result, nil
}

// Wipe implements mpc.Party. Wiping nil is allowed.
func (p *OnlineParty) Wipe() {
	if p == nil {
		return
	}
	wipePresignature(p.made)
	if p.failed == nil {
		p.failed = errors.New("online signing: the session was ended")
	}
	p.result = nil
}
