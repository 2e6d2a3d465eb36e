package recovery

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/secret"
)

const (
	formatDeal = "mpc-recovery-deal-1"
	labelEpoch = "vault-plugin-secrets-mpc recovered epoch id v1"
)

// Deal is one custodian's share dealt anew: commitments that everybody may see,
// and a sub-share for each of the target's nodes, sealed to its HSM.
type Deal struct {
	Dealer mpc.Index
	// Record is the hash of the public record whose share was dealt, Target
	// that of the signed target.
	Record, Target [32]byte
	// Commitments are those of frost.Dealing.
	Commitments [][]byte
	// Sealed are the sub-shares by receiver, empty where For has left them out.
	Sealed [][]byte
}

type dealFile struct {
	Format      string   `json:"format"`
	Dealer      uint8    `json:"dealer"`
	Record      []byte   `json:"record_hash"`
	Target      []byte   `json:"target_hash"`
	Commitments [][]byte `json:"commitments"`
	Sealed      [][]byte `json:"sealed"`
}

// Marshal returns the deal as JSON.
func (d *Deal) Marshal() ([]byte, error) {
	return json.MarshalIndent(dealFile{Format: formatDeal, Dealer: uint8(d.Dealer), Record: d.Record[:], Target: d.Target[:],
		Commitments: d.Commitments, Sealed: d.Sealed}, "", " ")
}

// ParseDeal reads what Marshal wrote. Whether it fits an account is for
// NewRecord to say.
func ParseDeal(b []byte) (*Deal, error) {
	var f dealFile
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	d := &Deal{Dealer: mpc.Index(f.Dealer), Commitments: f.Commitments, Sealed: f.Sealed}
	switch {
	case f.Format != formatDeal:
		return nil, fmt.Errorf("recovery: format %q; this program reads %s", f.Format, formatDeal)
	case f.Dealer < 1 || f.Dealer > mpc.MaxShares || len(f.Record) != 32 || len(f.Target) != 32:
		return nil, errors.New("recovery: the deal lacks its dealer, record or target")
	case len(f.Commitments) < mpc.MinThreshold || len(f.Commitments) > mpc.MaxShares || len(f.Sealed) < len(f.Commitments) || len(f.Sealed) > mpc.MaxShares:
		return nil, fmt.Errorf("recovery: %d commitments and %d sub-shares", len(f.Commitments), len(f.Sealed))
	}
	copy(d.Record[:], f.Record)
	copy(d.Target[:], f.Target)
	return d, nil
}

// For returns the deal with the sub-share of one receiver only: what a node may
// be handed. A node that had the sub-shares of t receivers would have the key.
func (d *Deal) For(i mpc.Index) (*Deal, error) {
	if i < 1 || int(i) > len(d.Sealed) || len(d.Sealed[i-1]) == 0 {
		return nil, fmt.Errorf("recovery: the deal has no sub-share %d", i)
	}
	out := *d
	out.Sealed = make([][]byte, len(d.Sealed))
	out.Sealed[i-1] = d.Sealed[i-1]
	return &out, nil
}

// ErrCustody says that the account has user custody: a custodian's copy of its
// shares opens with the owner's custody key only, so custodians alone cannot rebuild
// it. What brings it back is the mount's own storage together with that key.
var ErrCustody = errors.New("recovery: the account has user custody: its shares open with its owner's custody key only, so custodians cannot rebuild it")

// MakeDeal has a custodian deal his share of a bundle anew to a target. key is
// the private half of the key that the bundle's recipient of that name has. A
// target that the custodian's authority has not signed gets nothing:
// ErrSignature, and no share is opened.
func MakeDeal(ctx context.Context, b *Bundle, name string, key *ecdh.PrivateKey, authority ed25519.PublicKey, target *SignedTarget) (*Deal, error) {
	to, err := target.Verify(authority)
	if err != nil {
		return nil, err
	}
	record, set, err := b.Open()
	if err != nil {
		return nil, err
	}
	if err := frost.CheckRecord(record); err != nil {
		return nil, err
	}
	if record.HasCustody() {
		return nil, ErrCustody
	}
	at := slices.IndexFunc(set.Recipients, func(r Recipient) bool {
		return r.Name == name && slices.Equal(r.PublicKey, key.PublicKey().Bytes())
	})
	if at < 0 || at >= record.Shares {
		return nil, fmt.Errorf("recovery: this is not a key of %s that a share of the bundle is sealed to", name)
	}
	dealer := mpc.Index(at + 1)
	share, _, err := hsm.Open(ctx, hsm.SoftwareKey(key), []hsm.WrappingKey{set.Recipients[at].Key()},
		hsm.ShareContext(uint8(dealer), record.Hash()), b.Shares[at])
	if err != nil {
		return nil, fmt.Errorf("opening share %d: %w", dealer, err)
	}
	defer share.Wipe()
	dealing, err := frost.Deal(record, dealer, share)
	if err != nil {
		return nil, err
	}
	defer dealing.Wipe()
	d := &Deal{Dealer: dealer, Record: record.Hash(), Target: target.Hash(), Commitments: dealing.Commitments}
	for j, sub := range dealing.SubShares {
		c := DealContext(record, d.Target, dealer, mpc.Index(j+1))
		sealed, err := hsm.Seal(c, sub, []hsm.WrappingKey{to.Key})
		if err != nil {
			return nil, err
		}
		d.Sealed = append(d.Sealed, sealed)
	}
	return d, nil
}

// DealContext is the context that a sub-share is sealed in, which the dealer of an
// old share seals for a receiver. record is the old one, whose policy goes over to
// the new: nothing but its hash in a deal's file says which it was, and whoever has
// the files could write that of a record without the policy. So what is dealt of an
// account with a policy opens for that very record only. Accounts without one keep
// the context that custodians of older versions seal in.
func DealContext(record *mpc.PublicRecord, target [32]byte, dealer, receiver mpc.Index) hsm.Context {
	if record.PolicyHash != mpc.EmptySetHash() {
		return hsm.RecordDealContext(record.Hash(), target, uint8(dealer), uint8(receiver))
	}
	return hsm.DealContext(record.AccountID, target, uint8(dealer), uint8(receiver))
}

// NewRecord returns the public record of the account's next epoch, which
// follows from the deals of the t lowest dealers. Everybody who has the same
// deals arrives at the same record.
func NewRecord(old *mpc.PublicRecord, target, recipients [32]byte, deals []*Deal) (*mpc.PublicRecord, error) {
	if old.HasCustody() {
		return nil, ErrCustody
	}
	dealers, err := choose(old, target, deals)
	if err != nil {
		return nil, err
	}
	next := *old
	next.Epoch++
	next.RecipientsHash = recipients
	h := sha256.New()
	h.Write([]byte(labelEpoch))
	h.Write(target[:])
	hash := old.Hash()
	h.Write(hash[:])
	for _, d := range dealers {
		h.Write([]byte{byte(d.Index)})
		for _, c := range d.Commitments {
			_ = binary.Write(h, binary.BigEndian, uint32(len(c))) // a hash takes everything
			h.Write(c)
		}
	}
	copy(next.EpochID[:], h.Sum(nil))
	if next.PublicShares, err = frost.Reshare(old, dealers); err != nil {
		return nil, err
	}
	return &next, frost.CheckRecord(&next)
}

// choose checks deals against the account and the target and returns those of
// the t lowest dealers.
func choose(old *mpc.PublicRecord, target [32]byte, deals []*Deal) ([]frost.Dealer, error) {
	hash := old.Hash()
	var out []frost.Dealer
	for _, d := range deals {
		switch {
		case d.Record != hash:
			return nil, fmt.Errorf("recovery: the deal of the holder of share %d is of another account or share epoch", d.Dealer)
		case d.Target != target:
			return nil, fmt.Errorf("recovery: the holder of share %d dealt to another target", d.Dealer)
		case len(d.Sealed) != old.Shares:
			return nil, fmt.Errorf("recovery: the deal of the holder of share %d has %d sub-shares instead of %d", d.Dealer, len(d.Sealed), old.Shares)
		}
		out = append(out, frost.Dealer{Index: d.Dealer, Commitments: d.Commitments})
	}
	slices.SortFunc(out, func(a, b frost.Dealer) int { return int(a.Index) - int(b.Index) })
	for k := 1; k < len(out); k++ {
		if out[k].Index == out[k-1].Index {
			return nil, fmt.Errorf("recovery: two deals of the holder of share %d", out[k].Index)
		}
	}
	if len(out) < old.Threshold {
		return nil, fmt.Errorf("recovery: %d deals, and the account needs those of %d custodians", len(out), old.Threshold)
	}
	return out[:old.Threshold], nil
}

// CombineShare makes share i of the record that NewRecord returned for the same
// deals. open returns a deal's sub-share for i, which CombineShare wipes; so
// does the caller with the result. A dealer who lied is named
// (*frost.DealerError).
func CombineShare(old, record *mpc.PublicRecord, target [32]byte, deals []*Deal, i mpc.Index, open func(*Deal) (*secret.Bytes, error)) (*secret.Bytes, error) {
	dealers, err := choose(old, target, deals)
	if err != nil {
		return nil, err
	}
	var subs []*secret.Bytes
	defer func() {
		for _, s := range subs {
			s.Wipe()
		}
	}()
	for _, dealer := range dealers {
		at := slices.IndexFunc(deals, func(d *Deal) bool { return d.Dealer == dealer.Index })
		sub, err := open(deals[at])
		if err != nil {
			return nil, fmt.Errorf("the sub-share that the holder of share %d dealt: %w", dealer.Index, err)
		}
		subs = append(subs, sub)
	}
	share, err := frost.AddSubShares(old, dealers, i, subs)
	if err != nil {
		return nil, err
	}
	if err := frost.CheckShare(record, i, share); err != nil {
		share.Wipe()
		return nil, err
	}
	return share, nil
}
