// Package frost makes threshold keys and signs with them by FROST
// (https://eprint.iacr.org/2020/852.pdf): key generation and refresh for every
// algorithm, signing for BIP-340 and Ed25519. Key generation, refresh and
// BIP-340 signing wrap the FROST part of multi-party-sig; Ed25519 signing is
// RFC 9591, written here, since the library's challenge is not RFC 8032's.
//
// Border: parties from here are mpc.Party values; who runs them, and how their
// messages are sealed and carried, is decided elsewhere. ECDSA signing is in
// mpc/cmp, on shares made here. Groups and encodings are mpc/curve's.
package frost

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/protocol"
	"github.com/taurusgroup/multi-party-sig/protocols/frost"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// keygenRounds is the last round of key generation and refresh.
const keygenRounds = 3

// KeyConfig describes one party of a key generation or refresh. All n shares
// take part.
type KeyConfig struct {
	Self      mpc.Index
	Algorithm mpc.Algorithm
	Threshold int // signers needed
	Shares    int
	SessionID mpc.SessionID
	// OpenedUnder is for a refresh of a share that came out of an envelope: the
	// hash of the public record that was the envelope's context. If the record is
	// that one, the order of its points is not checked again. Zero otherwise.
	OpenedUnder [32]byte
}

func (c KeyConfig) check() error {
	if !c.Algorithm.Valid() {
		return fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, c.Algorithm)
	}
	if c.Threshold < mpc.MinThreshold || c.Threshold > c.Shares || c.Shares > mpc.MaxShares {
		return fmt.Errorf("threshold %d of %d shares is out of bounds", c.Threshold, c.Shares)
	}
	return nil
}

// KeyParty runs key generation or refresh for one share.
type KeyParty struct {
	*handler.Party
	cfg        KeyConfig
	chainCodes map[mpc.Index][]byte // contributions, opened in round 3
	refresh    bool
	secret     libcurve.Scalar // our copy of the old share, cleared by Wipe
}

// NewKeygen returns a party that makes a new key with the others.
func NewKeygen(cfg KeyConfig) (*KeyParty, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ids := handler.PartyIDs(allIndices(cfg.Shares))
	self := handler.PartyID(cfg.Self)
	group, err := curve.For(cfg.Algorithm)
	if err != nil {
		return nil, err
	}
	start := frost.Keygen(group, self, ids, cfg.Threshold-1)
	if cfg.Algorithm == mpc.BIP340Secp256k1 {
		start = frost.KeygenTaproot(self, ids, cfg.Threshold-1)
	}
	return newKeyParty(cfg, start, false, nil)
}

// NewRefresh returns a party that replaces the share of record's epoch by a new
// one of the same key. share is copied and stays the caller's to wipe. It fails
// when share does not match its public share.
func NewRefresh(cfg KeyConfig, record *mpc.PublicRecord, share *secret.Bytes) (*KeyParty, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if record.Algorithm != cfg.Algorithm || record.Threshold != cfg.Threshold || record.Shares != cfg.Shares {
		return nil, errors.New("refresh: the record describes another sharing")
	}
	x, err := parseShare(record, cfg.Self, share)
	if err != nil {
		return nil, err
	}
	start, err := refreshStart(cfg, record, x)
	if err != nil {
		curve.WipeScalar(x)
		return nil, err
	}
	return newKeyParty(cfg, start, true, x)
}

// refreshStart builds a fresh library configuration around x, which the library
// changes to the new share.
func refreshStart(cfg KeyConfig, record *mpc.PublicRecord, x libcurve.Scalar) (protocol.StartFunc, error) {
	vouched := vouchedFor(record, cfg.OpenedUnder)
	points, err := publicShares(record, allIndices(cfg.Shares), vouched)
	if err != nil {
		return nil, err
	}
	ids := handler.PartyIDs(allIndices(cfg.Shares))
	if cfg.Algorithm == mpc.BIP340Secp256k1 {
		c, err := taprootConfig(record, cfg.Self, x, points)
		if err != nil {
			return nil, err
		}
		return frost.RefreshTaproot(c, ids), nil // decodes the key when it starts
	}
	key, err := publicKey(record, vouched)
	if err != nil {
		return nil, err
	}
	return frost.Refresh(&frost.Config{
		ID:                 handler.PartyID(cfg.Self),
		Threshold:          cfg.Threshold - 1,
		PrivateShare:       x,
		PublicKey:          key,
		VerificationShares: party.NewPointMap(points),
	}, ids), nil
}

func newKeyParty(cfg KeyConfig, start protocol.StartFunc, refresh bool, x libcurve.Scalar) (*KeyParty, error) {
	p := &KeyParty{cfg: cfg, chainCodes: map[mpc.Index][]byte{}, refresh: refresh, secret: x}
	h, err := handler.New(handler.Config{
		Self:       cfg.Self,
		Parties:    allIndices(cfg.Shares),
		SessionID:  cfg.SessionID,
		Start:      start,
		FinalRound: keygenRounds,
		Check:      p.checkMessage,
		Broadcasts: p.noteBroadcast,
	})
	if err != nil {
		return nil, err
	}
	p.Party = h
	return p, nil
}

// noteBroadcast keeps the opened chain-code contributions: the library makes a
// chain code with commitments and then leaves it out of its result. A session
// that succeeds has checked every contribution against its commitment, and the
// commitments were echoed, so all honest parties keep the same ones.
func (p *KeyParty) noteBroadcast(m mpc.Message) {
	if m.Round != keygenRounds {
		return
	}
	var body struct {
		Contribution []byte `cbor:"C_l"`
		Decommitment cbor.RawMessage
	}
	if err := cbor.Unmarshal(m.Data, &body); err == nil {
		p.chainCodes[m.From] = body.Contribution
	}
}

// Result returns this party's new share and the public outcome. The caller
// wipes the share. It can be called once.
func (p *KeyParty) Result() (*mpc.KeyShare, error) {
	raw, err := p.Party.Result()
	if err != nil {
		return nil, err
	}
	out := &mpc.KeyShare{Index: p.cfg.Self}
	var x libcurve.Scalar
	var publicShares map[party.ID]libcurve.Point
	switch c := raw.(type) {
	case *frost.TaprootConfig:
		x = c.PrivateShare
		out.PublicKey = append([]byte(nil), c.PublicKey...)
		publicShares = make(map[party.ID]libcurve.Point, len(c.VerificationShares))
		for id, point := range c.VerificationShares {
			publicShares[id] = point
		}
	case *frost.Config:
		x = c.PrivateShare
		publicShares = c.VerificationShares.Points
		if out.PublicKey, err = c.PublicKey.MarshalBinary(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("frost: unexpected result %T", raw)
	}
	defer curve.WipeScalar(x)

	for _, i := range allIndices(p.cfg.Shares) {
		point, ok := publicShares[handler.PartyID(i)]
		if !ok || point.IsIdentity() {
			return nil, fmt.Errorf("frost: no public share %d", i)
		}
		b, err := point.MarshalBinary()
		if err != nil {
			return nil, err
		}
		out.PublicShares = append(out.PublicShares, b)
	}
	if !p.refresh {
		for _, i := range allIndices(p.cfg.Shares) {
			c := p.chainCodes[i]
			if len(c) != len(out.ChainCode) {
				return nil, fmt.Errorf("frost: no chain code contribution of share %d", i)
			}
			for k := range c {
				out.ChainCode[k] ^= c[k]
			}
		}
	}
	b, err := x.MarshalBinary()
	if err != nil {
		return nil, err
	}
	out.Share = secret.New(b)
	return out, nil
}

// Wipe implements mpc.Party.
func (p *KeyParty) Wipe() {
	curve.WipeScalar(p.secret)
	p.secret = nil
	p.Party.Wipe()
}
