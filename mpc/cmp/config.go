package cmp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/paillier"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp/config"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

// PresignConfig describes one party of a session that uses auxiliary keys: a
// signature or, without a digest, a presignature.
type PresignConfig struct {
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
	// included; all of them serve Record.Algorithm. Those of peers must have
	// been checked completely.
	Aux map[mpc.Index]*AuxPublic
	// Secret belongs to Aux[Self]. It is copied and must not be wiped before
	// NewSign or NewPresign has returned.
	Secret    *AuxSecret
	SessionID mpc.SessionID
}

// checkSigners verifies that signers are exactly as many ascending share
// indices of the record as it needs, self among them.
func checkSigners(record *mpc.PublicRecord, signers []mpc.Index, self mpc.Index) error {
	if record == nil {
		return errors.New("no public record")
	}
	if !record.Algorithm.IsECDSA() {
		return fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, record.Algorithm)
	}
	if err := record.Check(); err != nil {
		return err
	}
	if len(signers) != record.Threshold {
		return fmt.Errorf("%d signers for a threshold of %d", len(signers), record.Threshold)
	}
	last, found := mpc.Index(0), false
	for _, i := range signers {
		if i <= last || record.PublicShare(i) == nil {
			return fmt.Errorf("signers %v are not ascending share indices", signers)
		}
		last, found = i, found || i == self
	}
	if !found {
		return fmt.Errorf("share %d is not one of the signers %v", self, signers)
	}
	return nil
}

func (c *PresignConfig) check() error {
	if err := checkSigners(c.Record, c.Signers, c.Self); err != nil {
		return err
	}
	if c.Secret == nil || len(c.Aux) != len(c.Signers) {
		return fmt.Errorf("%d signers with %d auxiliary keys", len(c.Signers), len(c.Aux))
	}
	own := c.Aux[c.Self]
	if own == nil {
		return fmt.Errorf("share %d: no auxiliary keys", c.Self)
	}
	nodes := map[string]bool{}
	moduli := map[[modulusSize]byte]bool{}
	for _, i := range c.Signers {
		aux := c.Aux[i]
		switch {
		case aux == nil:
			return fmt.Errorf("share %d: no auxiliary keys", i)
		case i != c.Self && !aux.usable():
			return fmt.Errorf("share %d: %w", i, ErrUnchecked)
		case aux.owner.MountID != own.owner.MountID:
			return fmt.Errorf("share %d: %w", i, ErrOwner)
		case !aux.Serves(c.Record.Algorithm):
			return fmt.Errorf("share %d: %w", i, ErrCurve)
		}
		// Whoever has the Paillier keys of two signers can learn a third's share.
		id := string(aux.owner.Identity[:])
		if nodes[id] || moduli[aux.n] {
			return fmt.Errorf("share %d: another signer has the same auxiliary keys or node", i)
		}
		nodes[id], moduli[aux.n] = true, true
	}
	return nil
}

// keys are the secrets that one session has made for itself.
type keys struct {
	scalars []libcurve.Scalar
	key     *paillier.SecretKey
}

func (k *keys) wipe() {
	for _, x := range k.scalars {
		curve.WipeScalar(x)
	}
	wipePaillier(k.key)
	k.scalars, k.key = nil, nil
}

// library puts a library configuration together for the signers alone, with
// the secrets of this session only.
func (k *keys) library(c *PresignConfig) (*cmp.Config, error) {
	group, err := groupOf(c.Record.Algorithm)
	if err != nil {
		return nil, err
	}
	own := c.Aux[c.Self]
	x, err := curve.ParseScalar(group, c.Share)
	if err != nil {
		return nil, mpc.ErrShareMismatch
	}
	k.scalars = append(k.scalars, x)
	if c.Secret.p.Len() != primeSize || c.Secret.q.Len() != primeSize {
		return nil, errWiped
	}
	y, err := c.Secret.elGamalScalar(group.Name())
	if err != nil {
		return nil, err
	}
	k.scalars = append(k.scalars, y)
	k.key = c.Secret.paillierKey()
	if !bytes.Equal(k.key.N().Bytes(), own.n[:]) {
		return nil, ErrSecretMismatch
	}

	public := make(map[party.ID]*config.Public, len(c.Signers))
	for _, i := range c.Signers {
		share, err := curve.ParsePoint(group, c.Record.PublicShare(i))
		if err != nil {
			return nil, fmt.Errorf("public share %d: %w", i, err)
		}
		elGamal, err := c.Aux[i].elGamalPoint(group.Name())
		if err != nil {
			return nil, fmt.Errorf("share %d: %w", i, err)
		}
		key := k.key.PublicKey // knows the factors: much faster
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
		Paillier:  k.key,
		RID:       rid[:],
		ChainKey:  append([]byte(nil), c.Record.ChainCode[:]...),
		Public:    public,
	}
	account, err := curve.ParsePoint(group, c.Record.PublicKey)
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
func (c *PresignConfig) rid() [32]byte {
	record := c.Record.Hash()
	f := newFields(labelRID).put(record[:])
	for _, i := range c.Signers {
		f = f.put([]byte{byte(i)}).put(c.Aux[i].hash[:])
	}
	return sha256.Sum256(f)
}
