package frost

import (
	"errors"
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/taproot"
	"github.com/taurusgroup/multi-party-sig/protocols/frost"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// signRounds is the last round of signing.
const signRounds = 3

// SignConfig describes one signer of a BIP-340 signature.
type SignConfig struct {
	Self mpc.Index
	// Signers holds exactly Record.Threshold indices in ascending order, Self
	// among them.
	Signers []mpc.Index
	Record  *mpc.PublicRecord
	// Share is Self's share, copied; it stays the caller's to wipe.
	Share *secret.Bytes
	// Message is what is signed. BIP-340 hashes it itself, whatever its length.
	Message   []byte
	SessionID mpc.SessionID
}

// SignParty runs one signer.
type SignParty struct {
	*handler.Party
	cfg    SignConfig
	secret curve.Scalar
}

// NewSign returns a signer. It fails when the share does not match its public
// share or the record is no BIP-340 account.
func NewSign(cfg SignConfig) (*SignParty, error) {
	if cfg.Record.Algorithm != mpc.BIP340Secp256k1 {
		return nil, fmt.Errorf("frost signing cannot serve %q", cfg.Record.Algorithm)
	}
	if len(cfg.Signers) != cfg.Record.Threshold {
		return nil, fmt.Errorf("%d signers for a threshold of %d", len(cfg.Signers), cfg.Record.Threshold)
	}
	if len(cfg.Message) == 0 {
		return nil, errors.New("nothing to sign")
	}
	x, err := parseShare(cfg.Record, cfg.Self, cfg.Share)
	if err != nil {
		return nil, err
	}
	publicShares, err := publicShares(cfg.Record)
	if err != nil {
		return nil, err
	}
	h, err := handler.New(handler.Config{
		Self:      cfg.Self,
		Parties:   cfg.Signers,
		SessionID: cfg.SessionID,
		Start: frost.SignTaproot(taprootConfig(cfg.Record, cfg.Self, x, publicShares),
			handler.PartyIDs(cfg.Signers), cfg.Message),
		FinalRound: signRounds,
	})
	if err != nil {
		return nil, err
	}
	return &SignParty{Party: h, cfg: cfg, secret: x}, nil
}

// Result returns the signature R.x‖s. The library has verified it with its own
// code; whoever releases it verifies it again with another.
func (p *SignParty) Result() (*mpc.Signature, error) {
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
func (p *SignParty) Wipe() {
	wipeScalar(p.secret)
	p.secret = nil
	p.Party.Wipe()
}

// taprootConfig builds a fresh library configuration around x.
func taprootConfig(record *mpc.PublicRecord, self mpc.Index, x *curve.Secp256k1Scalar,
	publicShares map[party.ID]*curve.Secp256k1Point) *frost.TaprootConfig {
	return &frost.TaprootConfig{
		ID:                 handler.PartyID(self),
		Threshold:          record.Threshold - 1,
		PrivateShare:       x,
		PublicKey:          append(taproot.PublicKey(nil), record.PublicKey...),
		VerificationShares: publicShares,
	}
}
