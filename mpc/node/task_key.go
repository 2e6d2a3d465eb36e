package node

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

const epochLabel = "vault-plugin-secrets-mpc epoch id v1"

// keyTask makes a new share epoch: the first of an account (keygen) or the one
// after old (refresh).
type keyTask struct {
	node     *Node
	self     mpc.Index
	old      *mpc.PublicRecord // nil for keygen
	envelope []byte            // of the old share
	next     mpc.PublicRecord  // what is known of the new record beforehand
	seals    []hsm.WrappingKey // what the new share is sealed to
	custody  *ecdh.PublicKey   // and this, where the account has user custody
	k2       *secret.Bytes     // the owner's part of the old share; nil without

	opening *opening // of the old share; nil for keygen
	key     *frost.KeyParty
	share   *mpc.KeyShare
}

func (n *Node) newKeygen(ctx context.Context, s *nodepb.Start, self mpc.Index) (task, error) {
	t := &keyTask{node: n, self: self}
	t.next = mpc.PublicRecord{
		Algorithm: mpc.Algorithm(s.GetAlgorithm()),
		Threshold: int(s.GetThreshold()),
		Shares:    int(s.GetShares()),
		Epoch:     1,
	}
	for _, f := range []struct {
		dst, src []byte
	}{
		{t.next.AccountID[:], s.GetAccountId()},
		{t.next.RecipientsHash[:], s.GetRecipientsHash()},
		{t.next.PolicyHash[:], s.GetPolicyHash()},
	} {
		if len(f.src) != len(f.dst) {
			return nil, refused("malformed key generation request")
		}
		copy(f.dst, f.src)
	}
	if len(s.GetRelease()) > 0 || len(s.GetReleaseId()) > 0 {
		return nil, refused("a key is made without any release")
	}
	if err := t.seal(nil, s.GetCustodyKey()); err != nil {
		return nil, err
	}
	if err := t.checkMembers(s); err != nil {
		return nil, err
	}
	if err := n.allows(opKeygen, &t.next); err != nil {
		return nil, err
	}
	if err := policyOf(t.next.PolicyHash, s); err != nil {
		return nil, err
	}
	if domain := t.home(s); domain != "" && domain != n.keys.own() {
		return nil, refused("a new account's share %d is to be sealed to wrapping domain %q, and this node's token is %q: only a refresh moves shares", self, domain, n.keys.own())
	}
	set, err := n.recipients(t.next.RecipientsHash, s.GetRecipients())
	if err == nil {
		err = n.setInForce(set)
	}
	if err != nil {
		return nil, err
	}
	t.seals, err = n.sealTo(ctx, destination{version: s.GetWrappingVersion(), set: set, index: self, shares: t.next.Shares})
	return t, err
}

func (n *Node) newRefresh(ctx context.Context, s *nodepb.Start, self mpc.Index) (task, error) {
	old, err := mpc.ParsePublicRecord(s.GetRecord())
	if err != nil {
		return nil, refusedError{err}
	}
	if err := n.admit(opRefresh, old); err != nil {
		return nil, err
	}
	t := &keyTask{node: n, self: self, old: old, envelope: s.GetEnvelope(), next: *old}
	t.next.Epoch++
	if err := t.seal(old, s.GetCustodyKey()); err != nil {
		return nil, err
	}
	if err := t.checkMembers(s); err != nil {
		return nil, err
	}
	if t.next.PolicyHash, err = n.nextPolicy(s, old); err != nil {
		return nil, err
	}
	set, hash, err := n.nextRecipients(old.RecipientsHash, s.GetOldRecipients(), s.GetRecipients())
	if err != nil {
		return nil, err
	}
	t.next.RecipientsHash = hash
	t.seals, err = n.sealTo(ctx, destination{version: s.GetWrappingVersion(), set: set, index: self, shares: t.next.Shares,
		domain: t.home(s), endorsed: s.GetSealTo()})
	if err != nil {
		return nil, err
	}
	if t.k2, err = n.released(s, self, old); err != nil {
		return nil, err
	}
	return t, nil
}

// seal notes the custody key of the next epoch, if there is to be one, where the
// share is sealed and in the record.
func (t *keyTask) seal(old *mpc.PublicRecord, public []byte) (err error) {
	if t.custody, err = custodyKey(old, public); err == nil && t.custody != nil {
		t.next.Custody = mpc.CustodyHash(public)
	}
	return err
}

// checkMembers demands all n shares, in order.
func (t *keyTask) checkMembers(s *nodepb.Start) error {
	if !t.next.Algorithm.Valid() || t.next.Threshold < mpc.MinThreshold ||
		t.next.Threshold > t.next.Shares || t.next.Shares > mpc.MaxShares {
		return refused("%s with threshold %d of %d shares cannot be made", t.next.Algorithm, t.next.Threshold, t.next.Shares)
	}
	if len(s.GetMembers()) != t.next.Shares {
		return refused("%d members for %d shares", len(s.GetMembers()), t.next.Shares)
	}
	for k, m := range s.GetMembers() {
		if m.GetIndex() != uint32(k+1) {
			return refused("members are not in share order")
		}
	}
	return t.node.spread(s.GetMembers(), t.next.Threshold)
}

// home is the wrapping domain that this node's new share goes to, empty for its
// own.
func (t *keyTask) home(s *nodepb.Start) string {
	if int(t.self) > len(s.GetMembers()) {
		return "" // the session will not begin: nobody has that share
	}
	return s.GetMembers()[t.self-1].GetDomain() // checkMembers: all shares, in order
}

func (t *keyTask) config(id mpc.SessionID) frost.KeyConfig {
	return frost.KeyConfig{Self: t.self, Algorithm: t.next.Algorithm, Threshold: t.next.Threshold,
		Shares: t.next.Shares, SessionID: id}
}

func (t *keyTask) begin(ctx context.Context) {
	if t.old != nil {
		t.opening = t.node.openSoon(ctx, hsm.ShareContext(uint8(t.self), t.old.Hash()), t.envelope, t.k2)
	}
}

func (t *keyTask) party(ctx context.Context, id mpc.SessionID) (_ mpc.Party, err error) {
	if t.old == nil {
		if t.key, err = frost.NewKeygen(t.config(id)); err != nil {
			return nil, err
		}
		return t.key, nil
	}
	share, err := t.opening.wait()
	if err != nil {
		return nil, err
	}
	if err := t.node.inForce(ctx, t.old, t.self, share); err != nil {
		return nil, err
	}
	cfg := t.config(id)
	cfg.OpenedUnder = t.old.Hash()
	if t.key, err = frost.NewRefresh(cfg, t.old, share); err != nil {
		return nil, err
	}
	return t.key, nil
}

func (t *keyTask) background() bool { return false }

func (t *keyTask) confirms() bool { return true }

// record completes the new public record from the protocol's result.
func (t *keyTask) record(id mpc.SessionID) ([32]byte, error) {
	share, err := t.key.Result()
	if err != nil {
		return [32]byte{}, err
	}
	t.share = share
	t.next.PublicShares = share.PublicShares
	if t.old == nil {
		t.next.PublicKey = share.PublicKey
		t.next.ChainCode = share.ChainCode
	} else if string(share.PublicKey) != string(t.old.PublicKey) {
		return [32]byte{}, errors.New("the refresh would change the public key")
	}
	sum := sha256.Sum256(append([]byte(epochLabel), id[:]...))
	copy(t.next.EpochID[:], sum[:])
	if err := frost.CheckRecord(&t.next); err != nil {
		return [32]byte{}, err
	}
	if err := frost.CheckShare(&t.next, t.self, share.Share); err != nil {
		return [32]byte{}, err
	}
	if err := t.node.checkFloor(&t.next); err != nil {
		return [32]byte{}, err
	}
	return t.next.Hash(), nil
}

// outcome wraps the share, opens what it wrapped and endorses the record. The
// public half of the wrapping key would be enough to wrap; opening proves that
// this token can.
func (t *keyTask) outcome(ctx context.Context, id mpc.SessionID) (*nodepb.Outcome, error) {
	c := hsm.ShareContext(uint8(t.self), t.next.Hash())
	envelope, err := t.node.wrapShare(ctx, c, t.share.Share, t.seals, t.custody)
	if err != nil {
		return nil, err
	}
	if t.old != nil {
		// From here on the new shares may be in force. Were presignatures to go
		// earlier, a refresh that fails would cost the stock; later there is no
		// moment that this node sees.
		t.node.stock.supersede(t.next.AccountID)
	}
	return &nodepb.Outcome{
		SessionId:       id[:],
		Record:          t.next.Marshal(),
		Envelope:        envelope,
		Endorsement:     mpc.Endorse(t.node.identity, &t.next),
		WrappingVersion: t.seals[0].Version,
	}, nil
}

// wrapShare seals a share, to the custody key too where that is not nil, and
// opens what it sealed. What it has sealed to another wrapping domain it cannot
// open, and only sees that it is sealed to nothing else: that it opens, the nodes
// of that domain have to say before it is in force.
func (n *Node) wrapShare(ctx context.Context, c hsm.Context, share *secret.Bytes, seals []hsm.WrappingKey, custody *ecdh.PublicKey) (envelope []byte, err error) {
	var k2 *secret.Bytes
	if custody == nil {
		envelope, err = hsm.Seal(c, share, seals)
	} else {
		envelope, k2, err = hsm.SealCustody(c, share, seals, custody)
		defer k2.Wipe()
	}
	if err != nil {
		return nil, fmt.Errorf("wrapping the share: %w", err)
	}
	if seals[0].Domain != n.keys.own() {
		return envelope, checkSeals(envelope, seals, custody != nil)
	}
	opened, err := n.openShare(ctx, c, envelope, k2)
	if err != nil {
		return nil, fmt.Errorf("opening the share just wrapped: %w", err)
	}
	defer opened.Wipe()
	if !opened.Equal(share) {
		return nil, errors.New("the share just wrapped opens to something else")
	}
	return envelope, nil
}

// checkSeals demands that an envelope is sealed to these keys, all of them and no
// other, and to a custody key or not.
func checkSeals(envelope []byte, keys []hsm.WrappingKey, custody bool) error {
	e, err := hsm.ParseEnvelope(envelope)
	if err != nil {
		return fmt.Errorf("reading the share just wrapped: %w", err)
	}
	seals := e.Seals()
	for _, key := range keys {
		i := slices.IndexFunc(seals, func(s hsm.SealedKey) bool {
			return s.Domain == key.Domain && s.Version == key.Version && s.Suite == key.Suite
		})
		if i < 0 {
			return fmt.Errorf("the share just wrapped is not sealed to wrapping domain %q version %d", key.Domain, key.Version)
		}
	}
	if len(seals) != len(keys) || e.Custody() != custody {
		return errors.New("the share just wrapped is sealed to something else than was asked for")
	}
	return nil
}

func (t *keyTask) wipe() {
	t.opening.discard()
	t.k2.Wipe()
	if t.share != nil {
		t.share.Share.Wipe()
	}
}
