package pool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

var errIncompleteShares = errors.New("pool: the account's shares are incomplete")

// Create makes a new key among Shares nodes.
func (p *Pool) Create(ctx context.Context, r CreateRequest) (*KeyResult, error) {
	settings, ok := p.currentSettings()
	if all := settings.nodesIn(r.Domains); ok && all < r.Shares {
		return nil, &TooFewNodesError{Ready: all, Needed: r.Shares, Configured: all, Domains: r.Domains}
	}
	j := &job{
		pool: p, operation: "create", n: r.Shares, count: r.Shares, need: r.Shares, accept: hasRecord, seen: mpc.Exposures{},
		start: func(a assignment, members []*nodepb.Member) *nodepb.Start {
			return &nodepb.Start{
				Operation: "keygen", Members: members, Self: uint32(a.index),
				AccountId: r.AccountID[:], Algorithm: string(r.Algorithm),
				Threshold: uint32(r.Threshold), Shares: uint32(r.Shares),
				RecipientsHash: r.RecipientsHash[:], PolicyHash: r.PolicyHash[:], Recipients: r.Recipients,
				WrappingVersion: p.sealingVersion(members), CustodyKey: r.Custody, Policy: r.Policy,
			}
		},
	}
	if ok && (settings.spreads() || len(r.Domains) > 0) {
		p.awaitStarting(ctx)
		j.domains = r.Domains
		j.plans = planner(r.Threshold, r.Shares, r.Domains, nil)
		j.describe = func(m *nodepb.Member) { p.nameDomain(&settings, m) }
	}
	var result *KeyResult
	j.check = agreed(&result)
	chosen, _, err := j.run(ctx)
	if err != nil {
		return nil, err
	}
	if settings.spreads() {
		result.Account.Homes = homesOf(chosen)
	}
	if err := sealedAtHome(&result.Account); err != nil {
		return nil, err
	}
	return result, nil
}

// Refresh makes the next share epoch of an account among all n shares. Where
// shares move to other homes, the result's exposures also name, for each of them, a
// node of the new home that will open it to check it.
func (p *Pool) Refresh(ctx context.Context, r RefreshRequest) (*KeyResult, error) {
	record := r.Account.Record.Marshal()
	n := r.Account.Record.Shares
	if len(r.Account.Shares) != n {
		return nil, errIncompleteShares
	}
	m, err := p.move(&r.Account, r.Homes, r.Recipients)
	if err != nil {
		return nil, err
	}
	j := &job{
		pool: p, operation: "refresh", account: r.Account.Record.AccountID, n: n, count: n, need: n, accept: hasRecord,
		where: sitingOf(&r.Account), describe: m.describe,
		seen: maps.Clone(r.Account.Exposures), noSpares: r.Account.NoSpares, expose: r.Expose,
		start: func(a assignment, members []*nodepb.Member) *nodepb.Start {
			return &nodepb.Start{
				Operation: "refresh", Members: members, Self: uint32(a.index), Record: record,
				Envelope:   r.Account.Shares[a.index-1].Envelope,
				Recipients: r.Recipients, OldRecipients: r.OldRecipients,
				WrappingVersion: m.version(members), SealTo: m.keys(a, members),
				NextPolicy: r.NextPolicy, Policy: r.Policy, Approvals: r.Approvals,
			}
		},
	}
	if err := m.possible(j); err != nil {
		return nil, err
	}
	var result *KeyResult
	j.check = agreed(&result)
	if _, _, err := j.run(ctx); err != nil {
		return nil, err
	}
	if err := isSuccessor(&r.Account.Record, &result.Account.Record, r.NextPolicy); err != nil {
		return nil, err
	}
	if err := m.finish(ctx, &result.Account); err != nil {
		return nil, err
	}
	p.supersede(&result.Account.Record)
	return result, nil
}

// isSuccessor checks that next is the epoch after old of the same key, with the same
// policy or, where one is given, that one.
func isSuccessor(old, next *mpc.PublicRecord, policy []byte) error {
	if next.AccountID != old.AccountID || next.Epoch != old.Epoch+1 || !bytes.Equal(next.PublicKey, old.PublicKey) {
		return errors.New("refresh: the new record is not this account's next epoch; the old shares stay in force")
	}
	want := old.PolicyHash
	if len(policy) > 0 {
		want = sha256.Sum256(policy)
	}
	if next.PolicyHash != want {
		return errors.New("refresh: the new record does not name the policy that was asked for; the old shares stay in force")
	}
	return nil
}

// hasRecord refuses an outcome of key generation or refresh that is malformed
// in itself; whether all outcomes agree is for agree to say.
func hasRecord(o *nodepb.Outcome) error {
	if _, err := mpc.ParsePublicRecord(o.GetRecord()); err != nil {
		return err
	}
	if len(o.GetEnvelope()) == 0 || len(o.GetSessionId()) != len(mpc.SessionID{}) {
		return errors.New("an outcome without a share")
	}
	return nil
}

// agree checks that all n nodes report the same record and have endorsed it.
func agree(chosen []assignment, outcomes map[mpc.Index]*nodepb.Outcome) (*KeyResult, error) {
	result := &KeyResult{}
	var first []byte
	for _, a := range chosen {
		o := outcomes[a.index]
		if first == nil {
			first = o.GetRecord()
			record, err := mpc.ParsePublicRecord(first)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", a.node.id, err)
			}
			result.Account = mpc.Account{Record: *record, Exposures: mpc.Exposures{}}
			result.WrappingVersion = o.GetWrappingVersion()
			if len(o.GetSessionId()) != len(result.SessionID) {
				return nil, fmt.Errorf("%s: malformed session ID", a.node.id)
			}
			copy(result.SessionID[:], o.GetSessionId())
		}
		if !bytes.Equal(first, o.GetRecord()) || !bytes.Equal(result.SessionID[:], o.GetSessionId()) ||
			o.GetWrappingVersion() != result.WrappingVersion {
			return nil, fmt.Errorf("%s arrived at another result", a.node.id)
		}
		if !mpc.VerifyEndorsement(a.node.identity, &result.Account.Record, o.GetEndorsement()) {
			return nil, fmt.Errorf("%s did not endorse the record", a.node.id)
		}
		result.Certificate = append(result.Certificate, Endorsement{NodeID: a.node.id, Identity: a.node.identity, Signature: o.GetEndorsement()})
		result.Account.Shares = append(result.Account.Shares, mpc.WrappedShare{Index: a.index, Envelope: o.GetEnvelope()})
		result.Account.Exposures[a.node.identity] = a.index
	}
	if len(result.Account.Shares) != result.Account.Record.Shares {
		return nil, errors.New("the session did not produce all shares")
	}
	return result, nil
}

// Sign makes one signature with t of the n shares, and tries again with other
// nodes when one fails. An ECDSA signature under the account's own key, on a
// message that nodes hash themselves, uses up a presignature where there is one.
// Errors of mpc.SigningInput and derive.Derive come back as they are.
func (p *Pool) Sign(ctx context.Context, r SignRequest) (*SignResult, error) {
	record := &r.Account.Record
	if len(r.Account.Shares) != record.Shares {
		return nil, errIncompleteShares
	}
	message, err := mpc.SigningInput(record.Algorithm, r.MessageType, r.Hash, r.Input)
	if err != nil {
		return nil, err
	}
	child, err := derive.Derive(record, r.Derivation)
	if err != nil {
		return nil, err
	}
	check := func(o *nodepb.Outcome) (*mpc.Signature, error) {
		return checkSignature(record.Algorithm, child.PublicKey, message, o)
	}
	spent := 0
	// With a known nonce point, a digest of the caller's choice or a child key
	// could be used to get a signature on a message that was never asked for.
	if record.Algorithm.IsECDSA() && r.MessageType.HashedByNodes() && r.Derivation == (mpc.Derivation{}) {
		var result *SignResult
		if result, spent, err = p.signPresigned(ctx, &r, check); result != nil || err != nil {
			return result, err
		}
	}
	result, err := p.signInFull(ctx, &r, check)
	var failed *SessionError
	switch {
	case errors.As(err, &failed):
		failed.Attempts += spent
	case err == nil:
		result.Attempts += spent
	}
	return result, err
}

// signInFull makes a signature from the shares alone.
func (p *Pool) signInFull(ctx context.Context, r *SignRequest, check func(*nodepb.Outcome) (*mpc.Signature, error)) (*SignResult, error) {
	record := &r.Account.Record
	encoded := record.Marshal()
	j := &job{
		pool: p, operation: "sign", account: record.AccountID, n: record.Shares, count: record.Threshold, need: 1,
		where: sitingOf(&r.Account),
		seen:  maps.Clone(r.Account.Exposures), noSpares: r.Account.NoSpares, expose: r.Expose,
		start: func(a assignment, members []*nodepb.Member) *nodepb.Start {
			return &nodepb.Start{
				Operation: "sign", Members: members, Self: uint32(a.index), Record: encoded,
				Envelope: r.Account.Shares[a.index-1].Envelope,
				Input:    r.Input, MessageType: string(r.MessageType), HashAlgorithm: string(r.Hash),
				DerivationPath: r.Derivation.Path, TaprootTweak: r.Derivation.TaprootTweak,
				Policy: r.Policy, Approvals: r.Approvals,
			}
		},
	}
	if record.Algorithm.NeedsAuxiliaryKeys() {
		p.demandAuxiliary(j)
	}
	var signature *mpc.Signature
	j.accept = func(o *nodepb.Outcome) (err error) {
		signature, err = check(o)
		return err
	}
	chosen, outcomes, err := j.run(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range outcomes { // exactly one: it was accepted
		result := signResult(signature, o, chosen)
		result.Attempts = j.attempts
		return result, nil
	}
	return nil, errors.New("pool: a session without an outcome")
}

// signResult describes a checked signature.
func signResult(s *mpc.Signature, o *nodepb.Outcome, chosen []assignment) *SignResult {
	result := &SignResult{Signature: *s}
	copy(result.SessionID[:], o.GetSessionId())
	for _, a := range chosen {
		result.Signers = append(result.Signers, mpc.Signer{Index: a.index, NodeID: a.node.id})
	}
	slices.SortFunc(result.Signers, func(a, b mpc.Signer) int { return int(a.Index) - int(b.Index) })
	return result
}

// OpenCheck has each share opened from its stored form by a node that has
// handled it already. An error that wraps ErrShareUnusable means a share that
// does not open; other errors mean that the check could not be made.
func (p *Pool) OpenCheck(ctx context.Context, a mpc.Account) error {
	record := a.Record.Marshal()
	where := sitingOf(&a)
	for _, share := range a.Shares {
		client, id, err := p.holder(ctx, a.Exposures, where, share.Index)
		if err != nil {
			return err
		}
		reply, err := client.OpenShare(ctx, &nodepb.OpenShareRequest{Record: record, Index: uint32(share.Index), Envelope: share.Envelope})
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		if err := fromFailure(reply.GetFailure()); err != nil {
			return fmt.Errorf("share %d on %s: %w", share.Index, id, err)
		}
	}
	return nil
}

// holder waits for a ready node that has seen share i and can open it.
func (p *Pool) holder(ctx context.Context, seen mpc.Exposures, where siting, i mpc.Index) (nodepb.NodeClient, string, error) {
	for {
		nodes, _, changed, err := p.ready()
		if err != nil {
			return nil, "", err
		}
		for _, n := range nodes {
			if c, ok := n.candidate(); ok && seen[c.identity] == i && where.may(i, c) {
				if client := n.client(); client != nil {
					return client, n.id, nil
				}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			e := &NoEligibleNodeError{Index: i, Domain: where.home(i).Domain, Region: where.home(i).Region}
			return nil, "", fmt.Errorf("no node that holds %s became ready: %w", e.where(), ctx.Err())
		}
	}
}
