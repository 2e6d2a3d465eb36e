package cmp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/paillier"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp/config"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// signRounds is the last round of signing.
const signRounds = 5

// SignConfig describes one signer of an ECDSA signature.
type SignConfig struct {
	Self mpc.Index
	// Signers holds exactly Record.Threshold indices in ascending order, Self
	// among them.
	Signers []mpc.Index
	// Record is an account's that mpc/frost.CheckRecord accepts.
	Record *mpc.PublicRecord
	// Share is Self's share: 32 bytes, big-endian. It is copied and stays the
	// caller's to wipe.
	Share *secret.Bytes
	// Aux holds the auxiliary keys of the node behind every signer, Self
	// included. Those of peers must have been checked completely.
	Aux map[mpc.Index]*AuxPublic
	// Secret belongs to Aux[Self]. It is copied and must not be wiped before
	// NewSign has returned.
	Secret *AuxSecret
	// Digest is what is signed.
	Digest    [mpc.DigestSize]byte
	SessionID mpc.SessionID
}

// SignParty runs one signer.
type SignParty struct {
	*handler.Party
	record *mpc.PublicRecord
	digest [mpc.DigestSize]byte
	// secrets made for this session, cleared by Wipe
	scalars []curve.Scalar
	key     *paillier.SecretKey
}

var _ mpc.Party = (*SignParty)(nil)

// NewSign returns a signer. It fails when the share does not match its public
// share, the signers' public shares do not give the account's key, or auxiliary
// keys are missing, unchecked or not of different nodes.
func NewSign(cfg SignConfig) (*SignParty, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("ecdsa signing: %w", err)
	}
	check, err := newMessageCheck()
	if err != nil {
		return nil, err
	}
	p := &SignParty{record: cfg.Record, digest: cfg.Digest}
	err = guarded(func() error {
		library, err := p.libraryConfig(cfg)
		if err != nil {
			return err
		}
		p.Party, err = handler.New(handler.Config{
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
	for _, x := range p.scalars {
		wipeScalar(x)
	}
	wipePaillier(p.key)
	p.scalars, p.key = nil, nil
	if p.Party != nil {
		p.Party.Wipe()
	}
}

func (c *SignConfig) check() error {
	if c.Record == nil || c.Secret == nil {
		return errors.New("no public record or no auxiliary keys")
	}
	if c.Record.Algorithm != mpc.ECDSASecp256k1 {
		return fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, c.Record.Algorithm)
	}
	if err := c.Record.Check(); err != nil {
		return err
	}
	if len(c.Signers) != c.Record.Threshold || len(c.Aux) != len(c.Signers) {
		return fmt.Errorf("%d signers with %d auxiliary keys for a threshold of %d", len(c.Signers), len(c.Aux), c.Record.Threshold)
	}
	own := c.Aux[c.Self]
	if own == nil {
		return fmt.Errorf("share %d: no auxiliary keys", c.Self)
	}
	nodes := map[string]bool{}
	moduli := map[[modulusSize]byte]bool{}
	last := mpc.Index(0)
	for _, i := range c.Signers {
		aux := c.Aux[i]
		switch {
		case i <= last || c.Record.PublicShare(i) == nil:
			return fmt.Errorf("signers %v are not ascending share indices", c.Signers)
		case aux == nil:
			return fmt.Errorf("share %d: no auxiliary keys", i)
		case i != c.Self && !(aux.verified.Load() && aux.complete.Load()):
			return fmt.Errorf("share %d: %w", i, ErrUnchecked)
		case aux.owner.MountID != own.owner.MountID:
			return fmt.Errorf("share %d: %w", i, ErrOwner)
		}
		last = i
		// Whoever has the Paillier keys of two signers can learn a third's share.
		id := string(aux.owner.Identity[:])
		if nodes[id] || moduli[aux.n] {
			return fmt.Errorf("share %d: another signer has the same auxiliary keys or node", i)
		}
		nodes[id], moduli[aux.n] = true, true
	}
	return nil
}

// libraryConfig puts a library configuration together for the signers alone,
// with the secrets of this session only.
func (p *SignParty) libraryConfig(c SignConfig) (*cmp.Config, error) {
	group := curve.Secp256k1{}
	own := c.Aux[c.Self]
	x, err := parseScalar(group, c.Share)
	if err != nil {
		return nil, mpc.ErrShareMismatch
	}
	p.scalars = append(p.scalars, x)
	if c.Secret.p.Len() != primeSize || c.Secret.q.Len() != primeSize {
		return nil, errWiped
	}
	y, err := c.Secret.elGamalScalar(group.Name())
	if err != nil {
		return nil, err
	}
	p.scalars = append(p.scalars, y)
	p.key = c.Secret.paillierKey()
	if !bytes.Equal(p.key.N().Bytes(), own.n[:]) {
		return nil, ErrSecretMismatch
	}

	public := make(map[party.ID]*config.Public, len(c.Signers))
	for _, i := range c.Signers {
		share, err := parsePoint(group, c.Record.PublicShare(i))
		if err != nil {
			return nil, fmt.Errorf("public share %d: %w", i, err)
		}
		elGamal, err := c.Aux[i].elGamalPoint(group.Name())
		if err != nil {
			return nil, fmt.Errorf("share %d: %w", i, err)
		}
		key := p.key.PublicKey // knows the factors: much faster
		if i != c.Self {
			key = paillier.NewPublicKey(c.Aux[i].modulus())
		}
		public[handler.PartyID(i)] = &config.Public{ECDSA: share, ElGamal: elGamal, Paillier: key,
			Pedersen: c.Aux[i].pedersen(key.Modulus())}
	}
	self := public[handler.PartyID(c.Self)]
	if !x.ActOnBase().Equal(self.ECDSA) {
		return nil, mpc.ErrShareMismatch
	}
	if !y.ActOnBase().Equal(self.ElGamal) {
		return nil, ErrSecretMismatch
	}

	rid := c.rid()
	library := &cmp.Config{
		Group:     group,
		ID:        handler.PartyID(c.Self),
		Threshold: c.Record.Threshold - 1,
		ECDSA:     x,
		ElGamal:   y,
		Paillier:  p.key,
		RID:       rid[:],
		ChainKey:  append([]byte(nil), c.Record.ChainCode[:]...),
		Public:    public,
	}
	account, err := parsePoint(group, c.Record.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if !library.PublicPoint().Equal(account) {
		return nil, errors.New("the signers' public shares do not give the account's key")
	}
	return library, nil
}

// rid binds the session identifier, which the library derives from it, to the
// account's public record and to the auxiliary keys of every signer with all
// their proofs.
func (c *SignConfig) rid() [32]byte {
	record := c.Record.Hash()
	f := newFields(labelRID).put(record[:])
	for _, i := range c.Signers {
		f = f.put([]byte{byte(i)}).put(c.Aux[i].hash[:])
	}
	return sha256.Sum256(f)
}
