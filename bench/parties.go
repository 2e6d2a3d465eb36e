package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/secret"
)

// engine is an account in this process: the engine's parties, without nodes,
// token and network.
type engine struct {
	record *mpc.PublicRecord
	shares map[mpc.Index]*secret.Bytes
}

func sessionID() (id mpc.SessionID) {
	_, _ = rand.Read(id[:])
	return id
}

// carrier brings a message to a recipient.
type carrier func(to mpc.Index, m mpc.Message) (mpc.Message, error)

// drive runs parties to their end, one message after the other; carry may be
// nil.
func drive(parties map[mpc.Index]mpc.Party, carry carrier) error {
	type packet struct {
		to mpc.Index
		m  mpc.Message
	}
	order := slices.Sorted(maps.Keys(parties))
	var queue []packet
	post := func(from mpc.Index, out []mpc.Message) {
		for _, m := range out {
			for _, to := range order {
				if to != from && (m.Broadcast || m.To == to) {
					queue = append(queue, packet{to, m})
				}
			}
		}
	}
	for _, i := range order {
		out, err := parties[i].Start()
		if err != nil {
			return err
		}
		post(i, out)
	}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		if carry != nil {
			var err error
			if p.m, err = carry(p.to, p.m); err != nil {
				return err
			}
		}
		out, err := parties[p.to].Step(p.m)
		if err != nil {
			return err
		}
		post(p.to, out)
	}
	for i, p := range parties {
		if !p.Done() {
			return fmt.Errorf("share %d has not ended", i)
		}
	}
	return nil
}

// newEngine makes an account of n shares.
func newEngine(a mpc.Algorithm, threshold, n int) (*engine, error) {
	return keyRound(a, threshold, n, nil)
}

// refresh gives the account new shares.
func (e *engine) refresh() (*engine, error) {
	return keyRound(e.record.Algorithm, e.record.Threshold, e.record.Shares, e)
}

func keyRound(a mpc.Algorithm, threshold, n int, old *engine) (*engine, error) {
	id := sessionID()
	parties, keys := map[mpc.Index]mpc.Party{}, map[mpc.Index]*frost.KeyParty{}
	for i := mpc.Index(1); int(i) <= n; i++ {
		cfg := frost.KeyConfig{Self: i, Algorithm: a, Threshold: threshold, Shares: n, SessionID: id}
		var p *frost.KeyParty
		var err error
		if old == nil {
			p, err = frost.NewKeygen(cfg)
		} else {
			p, err = frost.NewRefresh(cfg, old.record, old.shares[i])
		}
		if err != nil {
			return nil, err
		}
		parties[i], keys[i] = p, p
	}
	if err := drive(parties, nil); err != nil {
		return nil, err
	}
	e := &engine{shares: map[mpc.Index]*secret.Bytes{}}
	set := mpc.EmptySetHash()
	for i, p := range keys {
		share, err := p.Result()
		if err != nil {
			return nil, err
		}
		e.shares[i] = share.Share
		e.record = &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: threshold, Shares: n,
			PublicKey: share.PublicKey, PublicShares: share.PublicShares, ChainCode: share.ChainCode,
			Epoch: 1, EpochID: mpc.EpochID(id[:16]), RecipientsHash: set, PolicyHash: set}
		if old != nil {
			e.record.ChainCode = old.record.ChainCode
			e.record.Epoch = old.record.Epoch + 1
		}
	}
	return e, frost.CheckRecord(e.record)
}

func (e *engine) signers() []mpc.Index {
	var out []mpc.Index
	for i := mpc.Index(1); int(i) <= e.record.Threshold; i++ {
		out = append(out, i)
	}
	return out
}

// schnorr signs with BIP-340 or Ed25519.
func (e *engine) schnorr(message []byte) error {
	parties, err := e.schnorrParties(sessionID(), message)
	if err != nil {
		return err
	}
	return drive(parties, nil)
}

func (e *engine) schnorrParties(id mpc.SessionID, message []byte) (map[mpc.Index]mpc.Party, error) {
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range e.signers() {
		p, err := frost.NewSign(frost.SignConfig{Self: i, Signers: e.signers(), Record: e.record, Share: e.shares[i], Message: message, SessionID: id})
		if err != nil {
			return nil, err
		}
		parties[i] = p
	}
	return parties, nil
}

// aux are auxiliary keys of as many nodes as an account has signers.
type aux struct {
	public map[mpc.Index]*cmp.AuxPublic
	secret map[mpc.Index]*cmp.AuxSecret
}

// newAux makes and checks auxiliary keys of n nodes: seconds each.
func newAux(n int) (*aux, error) {
	a := &aux{map[mpc.Index]*cmp.AuxPublic{}, map[mpc.Index]*cmp.AuxSecret{}}
	for i := mpc.Index(1); int(i) <= n; i++ {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		owner := cmp.Owner{MountID: [16]byte{1}, NodeID: fmt.Sprint("node-", i), Identity: mpc.NodeIdentity(public), Generation: 1}
		if a.secret[i], a.public[i], err = cmp.Generate(context.Background(), owner, private, nil); err != nil {
			return nil, err
		}
		if err := a.public[i].Verify(owner); err != nil {
			return nil, err
		}
	}
	for i, p := range a.public { // one verifier stands for all here
		v := a.public[i%mpc.Index(n)+1]
		proof, err := cmp.ProveFactors(a.secret[i], p.Owner(), v, v.Owner())
		if err != nil {
			return nil, err
		}
		if err := cmp.VerifyFactors(proof, p, p.Owner(), v, v.Owner()); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (e *engine) ecdsa(a *aux, message []byte) error {
	id, parties := sessionID(), map[mpc.Index]mpc.Party{}
	for _, i := range e.signers() {
		p, err := cmp.NewSign(cmp.SignConfig{Self: i, Signers: e.signers(), Record: e.record, Share: e.shares[i],
			Aux: a.public, Secret: a.secret[i], Digest: sha256.Sum256(message), SessionID: id})
		if err != nil {
			return err
		}
		parties[i] = p
	}
	return drive(parties, nil)
}

func (e *engine) presign(a *aux) (map[mpc.Index]*cmp.Presignature, error) {
	id, parties, made := sessionID(), map[mpc.Index]mpc.Party{}, map[mpc.Index]*cmp.PresignParty{}
	for _, i := range e.signers() {
		p, err := cmp.NewPresign(cmp.PresignConfig{Self: i, Signers: e.signers(), Record: e.record, Share: e.shares[i],
			Aux: a.public, Secret: a.secret[i], SessionID: id})
		if err != nil {
			return nil, err
		}
		parties[i], made[i] = p, p
	}
	if err := drive(parties, nil); err != nil {
		return nil, err
	}
	out := map[mpc.Index]*cmp.Presignature{}
	for i, p := range made {
		var err error
		if out[i], err = p.Result(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (e *engine) online(from map[mpc.Index]*cmp.Presignature, message []byte) error {
	id, parties := sessionID(), map[mpc.Index]mpc.Party{}
	for _, i := range e.signers() {
		p, err := cmp.NewOnline(cmp.OnlineConfig{Self: i, Signers: e.signers(), Record: e.record, Presignature: from[i],
			Digest: sha256.Sum256(message), SessionID: id})
		if err != nil {
			return err
		}
		parties[i] = p
	}
	return drive(parties, nil)
}
