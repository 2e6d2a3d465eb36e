package frost

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
)

// Rounds of Ed25519 signing, numbered as in RFC 9591, section 5: nonce
// commitments, then signature shares. Both are broadcast; there is no
// coordinator, every signer aggregates.
const (
	roundCommit = 1
	roundShare  = 2
)

// echoLabel separates the echo hash from every other hash of this program.
const echoLabel = "vault-plugin-secrets-mpc frost ed25519 echo v1"

var errWrongShare = errors.New("the signature share is wrong")

// ed25519Party runs one signer of FROST(Ed25519, SHA-512), RFC 9591.
//
// Beyond the RFC, every message carries the transcript digest, so that signers
// with other inputs part at once, and round 2 repeats (as a hash) what its
// sender was told in round 1, so that a signer who tells the others different
// commitments is noticed before shares are judged. Neither is hashed into the
// signature's binding factors: those are the RFC's.
type ed25519Party struct {
	cfg    SignConfig
	tag    [32]byte
	random io.Reader // crypto/rand; the RFC's vectors in tests

	share  *edwards25519.Scalar // wiped with the nonces once the share is out
	nonces *nonces              // nil before Start and after their single use
	public map[mpc.Index]*edwards25519.Point

	commitments map[mpc.Index]commitment
	waiting     map[mpc.Index]mpc.Message // shares that came before ours was out
	seen        map[[2]uint8]bool         // sender and round; a second one is ignored
	size        int                       // bytes accepted so far

	// Set when all commitments are there.
	echo      []byte
	group     *edwards25519.Point // R
	parts     map[mpc.Index]*edwards25519.Point
	challenge *edwards25519.Scalar
	shares    map[mpc.Index]*edwards25519.Scalar // verified ones

	started   bool
	signature []byte
	failed    error
}

func newEd25519(cfg SignConfig) (*ed25519Party, error) {
	x, err := parseShare(cfg.Record, cfg.Self, cfg.Share)
	if err != nil {
		return nil, err
	}
	defer curve.WipeScalar(x)
	own, ok := x.(*curve.Edwards25519Scalar)
	if !ok {
		return nil, errors.New("frost: the share is not on edwards25519")
	}
	parse := curve.ParseEdwards25519
	if vouchedFor(cfg.Record, cfg.OpenedUnder) {
		parse = curve.ParseVouchedEdwards25519
	}
	if _, err := parse(cfg.Record.PublicKey); err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	p := &ed25519Party{cfg: cfg, tag: cfg.transcript(), random: rand.Reader,
		public:      map[mpc.Index]*edwards25519.Point{},
		commitments: map[mpc.Index]commitment{}, waiting: map[mpc.Index]mpc.Message{},
		seen: map[[2]uint8]bool{}, parts: map[mpc.Index]*edwards25519.Point{},
		shares: map[mpc.Index]*edwards25519.Scalar{}}
	for _, i := range cfg.Signers {
		if i == cfg.Self {
			continue // checked with the share
		}
		if p.public[i], err = parse(cfg.Record.PublicShare(i)); err != nil {
			return nil, fmt.Errorf("public share %d: %w", i, err)
		}
	}
	p.share = own.Value()
	return p, nil
}

// Start implements mpc.Party: round 1, nonces and their commitments.
func (p *ed25519Party) Start() ([]mpc.Message, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.started:
		return nil, errors.New("frost: started twice")
	}
	p.started = true
	var random [2][32]byte
	for k := range random {
		if _, err := io.ReadFull(p.random, random[k][:]); err != nil {
			return nil, p.fail(fmt.Errorf("no randomness for nonces: %w", err))
		}
	}
	p.nonces = &nonces{nonceGenerate(random[0], p.share), nonceGenerate(random[1], p.share)}
	clear(random[:])
	own := commit(p.cfg.Self, *p.nonces)
	p.commitments[p.cfg.Self] = own
	return []mpc.Message{p.message(roundCommit, bytes.Clone(own.encoded))}, nil
}

func (p *ed25519Party) message(round uint8, data []byte) mpc.Message {
	return mpc.Message{From: p.cfg.Self, Broadcast: true, Round: round, Transcript: p.tag, Echo: p.echo, Data: data}
}

// Step implements mpc.Party.
func (p *ed25519Party) Step(m mpc.Message) ([]mpc.Message, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case !p.started:
		return nil, errors.New("frost: not started")
	case p.signature != nil:
		return nil, nil // a straggler after the end changes nothing
	}
	if err := p.admit(m); err != nil {
		return nil, p.fail(err, m.From)
	}
	place := [2]uint8{uint8(m.From), m.Round}
	if p.seen[place] {
		return nil, nil
	}
	p.seen[place] = true
	if m.Round == roundShare {
		if p.group == nil {
			p.waiting[m.From] = m
			return nil, nil
		}
		return nil, p.takeShare(m)
	}
	c, err := parseCommitment(m.From, bytes.Clone(m.Data))
	if err != nil {
		return nil, p.fail(fmt.Errorf("%w: nonce commitments: %w", mpc.ErrMalformedMessage, err), m.From)
	}
	p.commitments[m.From] = c
	if len(p.commitments) < len(p.cfg.Signers) {
		return nil, nil
	}
	own := p.sign()
	for _, i := range p.cfg.Signers {
		if w, ok := p.waiting[i]; ok {
			if err := p.takeShare(w); err != nil {
				return nil, err
			}
		}
	}
	return []mpc.Message{own}, nil
}

// admit refuses what no honest signer sends.
func (p *ed25519Party) admit(m mpc.Message) error {
	_, peer := p.public[m.From]
	want, echo := pairSize, 0
	if m.Round == roundShare {
		want, echo = shareSize, sha512.Size
	}
	switch {
	case !peer:
		return fmt.Errorf("%w: share %d is not in this session", mpc.ErrMalformedMessage, m.From)
	case !m.Broadcast || m.To != 0:
		return fmt.Errorf("%w: not a broadcast", mpc.ErrMalformedMessage)
	case m.Round != roundCommit && m.Round != roundShare:
		return fmt.Errorf("%w: round %d", mpc.ErrMalformedMessage, m.Round)
	case m.Transcript != p.tag:
		return mpc.ErrOtherSession
	case len(m.Data) != want:
		return fmt.Errorf("%w: round %d: %d bytes instead of %d", mpc.ErrMalformedMessage, m.Round, len(m.Data), want)
	case len(m.Echo) != echo:
		return fmt.Errorf("%w: round %d: echo of %d bytes", mpc.ErrMalformedMessage, m.Round, len(m.Echo))
	}
	if p.size += len(m.Data); p.size > mpc.MaxSessionSize {
		return fmt.Errorf("%w: more than %d bytes in one session", mpc.ErrMalformedMessage, mpc.MaxSessionSize)
	}
	return nil
}

// sign makes this party's share: RFC 9591, section 5.2. The nonces and the
// private share end here.
func (p *ed25519Party) sign() mpc.Message {
	var list []commitment
	for _, i := range p.cfg.Signers {
		list = append(list, p.commitments[i])
	}
	h := sha512.New()
	h.Write([]byte(echoLabel))
	h.Write(p.tag[:])
	h.Write(encodeCommitments(list))
	p.echo = h.Sum(nil)

	factors := bindingFactors(p.cfg.Record.PublicKey, list, p.cfg.Message)
	group, parts := groupCommitment(list, factors)
	p.group = group
	p.challenge = challenge(group.Bytes(), p.cfg.Record.PublicKey, p.cfg.Message)
	var own *edwards25519.Scalar
	for k, i := range p.cfg.Signers {
		p.parts[i] = parts[k]
		if i == p.cfg.Self {
			own = signatureShare(*p.nonces, factors[k], interpolating(i, p.cfg.Signers), p.share, p.challenge)
		}
	}
	p.wipeSecrets()
	p.shares[p.cfg.Self] = own
	return p.message(roundShare, own.Bytes())
}

// takeShare judges one signature share, and finishes with the last one. The
// echo comes first: a share made for other commitments is not wrong.
func (p *ed25519Party) takeShare(m mpc.Message) error {
	if !bytes.Equal(m.Echo, p.echo) {
		return p.end(broadcastFault(p.cfg.Self, p.cfg.Signers))
	}
	z, err := parseShareZ(m.Data)
	if err != nil {
		return p.fail(fmt.Errorf("%w: signature share: %w", mpc.ErrMalformedMessage, err), m.From)
	}
	if !verifyShare(z, p.parts[m.From], p.public[m.From], interpolating(m.From, p.cfg.Signers), p.challenge) {
		return p.fail(errWrongShare, m.From)
	}
	p.shares[m.From] = z
	if len(p.shares) < len(p.cfg.Signers) {
		return nil
	}
	var all []*edwards25519.Scalar
	for _, i := range p.cfg.Signers {
		all = append(all, p.shares[i])
	}
	sig := aggregate(p.group, all)
	if !ed25519.Verify(p.cfg.Record.PublicKey, p.cfg.Message, sig) {
		// Every share is right for its public share, so the record is wrong.
		return p.fail(errors.New("the signature does not verify: the public shares do not belong to the public key"))
	}
	p.signature = sig
	return nil
}

// fail ends the session and names who is to blame, if that is known.
func (p *ed25519Party) fail(err error, culprits ...mpc.Index) error {
	return p.end(&mpc.AbortError{Culprits: culprits, Err: err})
}

func (p *ed25519Party) end(abort *mpc.AbortError) error {
	p.failed = abort
	p.wipeSecrets()
	return abort
}

// Done implements mpc.Party.
func (p *ed25519Party) Done() bool { return p.signature != nil }

// Result returns the signature R‖S, which crypto/ed25519 has verified.
func (p *ed25519Party) Result() (*mpc.Signature, error) {
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.signature == nil:
		return nil, errors.New("frost: the session has not ended")
	}
	out := &mpc.Signature{Bytes: bytes.Clone(p.signature), RecoveryID: -1, Digest: p.cfg.Message}
	copy(out.R[:], p.signature[:32])
	copy(out.S[:], p.signature[32:])
	return out, nil
}

// Wipe implements mpc.Party.
func (p *ed25519Party) Wipe() {
	if p.failed == nil {
		p.failed = errors.New("frost: the session was ended")
	}
	p.wipeSecrets()
	p.signature = nil
	clear(p.waiting)
}

func (p *ed25519Party) wipeSecrets() {
	wipeEdwards(p.share)
	p.share = nil
	if p.nonces != nil {
		p.nonces.wipe()
		p.nonces = nil
	}
}
