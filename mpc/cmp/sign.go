package cmp

import (
	"fmt"

	"github.com/taurusgroup/multi-party-sig/protocols/cmp"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// signRounds is the last round of signing.
const signRounds = 5

// SignConfig describes one signer of an ECDSA signature. The fields are those
// of PresignConfig.
type SignConfig struct {
	Self    mpc.Index
	Signers []mpc.Index
	Record  *mpc.PublicRecord
	Share   *secret.Bytes
	Aux     map[mpc.Index]*AuxPublic
	Secret  *AuxSecret
	// Digest is what is signed.
	Digest    [mpc.DigestSize]byte
	SessionID mpc.SessionID
}

// withoutDigest returns everything but the digest.
func (c *SignConfig) withoutDigest() *PresignConfig {
	return &PresignConfig{Self: c.Self, Signers: c.Signers, Record: c.Record, Share: c.Share,
		Aux: c.Aux, Secret: c.Secret, SessionID: c.SessionID}
}

// SignParty runs one signer.
type SignParty struct {
	*ordered
	keys   keys // cleared by Wipe
	record *mpc.PublicRecord
	digest [mpc.DigestSize]byte
}

var _ mpc.Party = (*SignParty)(nil)

// NewSign returns a signer. It fails when the share does not match its public
// share, the signers' public shares do not give the account's key, or auxiliary
// keys are missing, unchecked, without the account's curve or not of different
// nodes.
func NewSign(cfg SignConfig) (*SignParty, error) {
	common := cfg.withoutDigest()
	if err := common.check(); err != nil {
		return nil, fmt.Errorf("ecdsa signing: %w", err)
	}
	check, err := newMessageCheck(inSlot(signShapes()))
	if err != nil {
		return nil, err
	}
	p := &SignParty{record: cfg.Record, digest: cfg.Digest}
	err = guarded(func() error {
		library, err := p.keys.library(common)
		if err != nil {
			return err
		}
		p.ordered, err = newOrdered(handler.Config{
			Self:       cfg.Self,
			Parties:    cfg.Signers,
			SessionID:  cfg.SessionID,
			Start:      cmp.Sign(library, handler.PartyIDs(cfg.Signers), p.digest[:], nil),
			FinalRound: signRounds,
			Check:      check,
		})
		return err
	})
	if err != nil {
		p.Wipe()
		return nil, fmt.Errorf("ecdsa signing: %w", err)
	}
	return p, nil
}

// Wipe implements mpc.Party. Wiping nil is allowed.
func (p *SignParty) Wipe() {
	if p == nil {
		return
	}
	p.keys.wipe()
	if p.ordered != nil {
		p.ordered.Wipe()
	}
}
