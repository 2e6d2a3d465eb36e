package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// An account with user custody needs its owner for every operation that opens
// shares, so an operation has two halves. PrepareCustody chooses the nodes, has
// their exposures stored and gets a key of each of them; the owner opens the
// second key of each chosen share and seals it to that node's key; RunCustody
// runs the one session that these releases are for. What the owner released is
// bound to the nodes, to the epoch and to the very operation, so nothing can be
// exchanged in between, and a session that fails is not tried with other nodes:
// the owner begins again.

// CustodyRequest asks for one operation of an account with user custody.
type CustodyRequest struct {
	// Operation is custody.OpSign or custody.OpRefresh.
	Operation string
	Account   mpc.Account
	// Expose is called as in SignRequest, by PrepareCustody only.
	Expose func(ctx context.Context, added mpc.Exposures) error

	// Of a signature; see SignRequest.
	Input       []byte
	MessageType mpc.MessageType
	Hash        mpc.HashAlgorithm
	Derivation  mpc.Derivation
	// Of a signature of an account with a policy, see SignRequest, and of a refresh
	// that changes it. They may be filled in until RunCustody.
	Policy, Approvals []byte

	// Of a refresh; see RefreshRequest. NextCustody is the custody key of the new
	// epoch, an uncompressed P-256 point; mostly that of the present one.
	Recipients, OldRecipients []byte
	NextCustody               []byte
	// NextPolicy, where not empty, is the policy of the new epoch. What is released
	// is for that policy.
	NextPolicy []byte
}

// CustodyOffer is a prepared operation: who takes part, and each one's key.
type CustodyOffer struct {
	// Request may be changed until RunCustody in what a release is not bound to:
	// the envelopes of the same epoch, the recipient sets, and the present policy
	// with its approvals.
	Request CustodyRequest
	Purpose [32]byte
	// Members are in the order of their shares.
	Members []CustodyMember
	// Expires is when the first node forgets its key.
	Expires time.Time

	chosen []assignment
	// processes are those that have the keys, by share.
	processes map[mpc.Index]uint64
}

// CustodyMember is one node of a prepared operation.
type CustodyMember struct {
	NodeID string
	custody.Offer
}

// CustodyResult has the result of the operation that was asked for.
type CustodyResult struct {
	Signature *SignResult
	Key       *KeyResult
}

// CustodyLostError: the prepared operation cannot be run, or failed. Its releases
// are used up; the owner begins again. Nothing of the account has changed.
type CustodyLostError struct{ Err error }

func (e *CustodyLostError) Error() string {
	return "the prepared operation came to nothing: " + e.Err.Error()
}
func (e *CustodyLostError) Unwrap() error { return e.Err }

// PrepareCustody chooses nodes by the placement rule, stores their exposures and
// has each of them make a key for this operation. It waits until that is possible.
func (p *Pool) PrepareCustody(ctx context.Context, r CustodyRequest) (*CustodyOffer, error) {
	j, err := p.custodyJob(&r)
	if err != nil {
		return nil, err
	}
	avoid, conflicts, refusals := map[string]bool{}, 0, 0
	for tries := 1; ; tries++ {
		chosen, err := j.settle(ctx, avoid)
		if err != nil {
			return nil, err
		}
		err = j.store(ctx, chosen)
		var exposed *ExposedError
		if errors.As(err, &exposed) && conflicts < maxConflicts {
			conflicts++
			tries--
			j.seen = maps.Clone(exposed.Current)
			continue
		}
		if errors.Is(err, ErrStrands) && conflicts < maxConflicts && pause(ctx, strandPause) {
			conflicts++
			tries--
			continue
		}
		if err != nil {
			return nil, err
		}
		offer, failed, err := p.offers(ctx, &r, chosen)
		if err == nil {
			return offer, nil
		}
		p.cfg.Logger.Debug("a node made no key for a release", "node", failed, "error", err)
		avoid[failed] = true
		j.last.err = err
		var refused *RefusedError
		var busy *BusyError
		if errors.As(err, &refused) {
			refusals++ // one node may lie; two are believed
		}
		switch {
		case refusals > 1, tries >= maxAttempts, !pause(ctx, 20*time.Millisecond):
			if errors.As(err, &busy) {
				return nil, busy
			}
			return nil, &SessionError{Operation: j.operation, Attempts: tries, Err: err}
		}
	}
}

// custodyJob checks the request and says what its session needs of nodes.
func (p *Pool) custodyJob(r *CustodyRequest) (*job, error) {
	record := &r.Account.Record
	switch {
	case len(r.Account.Shares) != record.Shares:
		return nil, errIncompleteShares
	case !record.HasCustody():
		return nil, errors.New("pool: the account has no user custody")
	case len(r.NextPolicy) > 0 && r.Operation != custody.OpRefresh:
		return nil, errors.New("pool: only a refresh changes the policy")
	}
	j := &job{pool: p, operation: r.Operation, account: record.AccountID, n: record.Shares, where: sitingOf(&r.Account),
		seen: maps.Clone(r.Account.Exposures), noSpares: r.Account.NoSpares, expose: r.Expose}
	if j.seen == nil {
		j.seen = mpc.Exposures{}
	}
	switch r.Operation {
	case custody.OpSign:
		if _, err := mpc.SigningInput(record.Algorithm, r.MessageType, r.Hash, r.Input); err != nil {
			return nil, err
		}
		if _, err := derive.Derive(record, r.Derivation); err != nil {
			return nil, err
		}
		j.count = record.Threshold
		if record.Algorithm.NeedsAuxiliaryKeys() {
			p.demandAuxiliary(j)
		}
	case custody.OpRefresh:
		if len(r.NextCustody) == 0 {
			return nil, errors.New("pool: no custody key for the next epoch")
		}
		j.count = record.Shares
	default:
		return nil, fmt.Errorf("pool: no operation %q with user custody", r.Operation)
	}
	return j, nil
}

// settle waits for a placement and chooses one. Nodes to avoid are used only
// where there are no others.
func (j *job) settle(ctx context.Context, avoid map[string]bool) ([]assignment, error) {
	for {
		ready, configured, changed, err := j.pool.candidates()
		if err != nil {
			return nil, err
		}
		good := slices.DeleteFunc(slices.Clone(ready), func(c candidate) bool { return avoid[c.id] })
		spares := j.count
		if j.noSpares {
			spares = 0
		}
		for _, candidates := range [][]candidate{good, ready} {
			r, _ := j.rule(candidates, nil)
			if s, chosen := r.fewestSpares(candidates, spares); chosen != nil {
				if near := r.nearest(candidates, s); near != nil {
					return near, nil
				}
				return chosen, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, j.fail(j.explain(ready, configured))
		}
	}
}

// purpose is what nodes compute from their Start, too.
func (r *CustodyRequest) purpose(chosen []assignment) [32]byte {
	u := custody.Purpose{Operation: r.Operation, Record: r.Account.Record.Hash()}
	if r.Operation == custody.OpSign {
		u.Input, u.MessageType, u.HashAlgorithm = r.Input, string(r.MessageType), string(r.Hash)
		u.DerivationPath, u.TaprootTweak = r.Derivation.Path, r.Derivation.TaprootTweak
	} else {
		u.NextCustody = r.NextCustody
		if len(r.NextPolicy) > 0 {
			hash := sha256.Sum256(r.NextPolicy)
			u.NextPolicy = hash[:]
		}
	}
	for _, a := range chosen {
		u.Signers = append(u.Signers, custody.Signer{Index: a.index, Node: a.node.identity})
	}
	return u.Hash()
}

// offers asks every chosen node for its key, all at once. With an error it names
// a node that failed.
func (p *Pool) offers(ctx context.Context, r *CustodyRequest, chosen []assignment) (*CustodyOffer, string, error) {
	offer := &CustodyOffer{Request: *r, Purpose: r.purpose(chosen), Members: make([]CustodyMember, len(chosen)),
		chosen: chosen, processes: map[mpc.Index]uint64{}}
	record := r.Account.Record.Marshal()
	errs, processes := make([]error, len(chosen)), make([]uint64, len(chosen))
	var wg sync.WaitGroup
	for k, a := range chosen {
		wg.Go(func() {
			offer.Members[k], processes[k], errs[k] = p.offer(ctx, a, record, offer.Purpose)
		})
	}
	wg.Wait()
	for k, err := range errs {
		if err != nil {
			return nil, chosen[k].node.id, fmt.Errorf("%s: %w", chosen[k].node.id, err)
		}
		offer.processes[chosen[k].index] = processes[k]
		if offer.Expires.IsZero() || offer.Members[k].Expires.Before(offer.Expires) {
			offer.Expires = offer.Members[k].Expires
		}
	}
	return offer, "", nil
}

// offer asks one node. The client checks the signature against the roster it has
// pinned; that it is the right node's is checked here as well, so that a node
// which answers nonsense costs another node's answer and not a user's time.
func (p *Pool) offer(ctx context.Context, a assignment, record []byte, purpose [32]byte) (CustodyMember, uint64, error) {
	m := CustodyMember{NodeID: a.node.id}
	n := p.node(a.node.id)
	if n == nil {
		return m, 0, ErrNodeGone
	}
	process, client := n.incarnation(), n.client()
	if process == 0 || client == nil {
		return m, 0, ErrNodeGone
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	reply, err := client.PrepareRelease(ctx, &nodepb.PrepareReleaseRequest{Record: record, Index: uint32(a.index), Purpose: purpose[:]})
	if err != nil {
		return m, 0, err
	}
	switch f := reply.GetFailure(); f.GetReason() {
	case nodepb.Failure_REFUSED:
		return m, 0, &RefusedError{failureText(f)}
	case nodepb.Failure_BUSY:
		return m, 0, &BusyError{}
	}
	if err := fromFailure(reply.GetFailure()); err != nil {
		return m, 0, err
	}
	m.Offer = custody.Offer{Index: a.index, Node: a.node.identity, PublicKey: reply.GetPublicKey(),
		Expires: time.UnixMilli(int64(reply.GetExpiresUnixMs())), Signature: reply.GetSignature()}
	if len(reply.GetReleaseId()) != len(m.ReleaseID) {
		return m, 0, errors.New("a malformed release ID")
	}
	copy(m.ReleaseID[:], reply.GetReleaseId())
	if !m.Verify(purpose, time.Now()) {
		return m, 0, errors.New("a key that it did not sign for this operation")
	}
	return m, process, nil
}

// RunCustody runs the session that an offer was made for, once. releases holds
// what the owner sealed to each member, by share. An error that is a
// *CustodyLostError says that the owner has to begin again.
func (p *Pool) RunCustody(ctx context.Context, o *CustodyOffer, releases map[mpc.Index][]byte) (*CustodyResult, error) {
	r := &o.Request
	j, err := p.custodyJob(r)
	if err != nil {
		return nil, err
	}
	if r.purpose(o.chosen) != o.Purpose {
		return nil, errors.New("pool: the request is another than the one that was prepared")
	}
	for _, m := range o.Members {
		if len(releases[m.Index]) == 0 {
			return nil, fmt.Errorf("pool: no release for share %d", m.Index)
		}
	}
	if !time.Now().Before(o.Expires) {
		return nil, &CustodyLostError{errors.New("its time is over")}
	}
	result := &CustodyResult{}
	if r.Operation == custody.OpSign {
		err = p.runSign(ctx, j, o, releases, result)
	} else {
		err = p.runRefresh(ctx, j, o, releases, result)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

func (p *Pool) runSign(ctx context.Context, j *job, o *CustodyOffer, releases map[mpc.Index][]byte, result *CustodyResult) error {
	r := &o.Request
	record := &r.Account.Record
	encoded := record.Marshal()
	message, err := mpc.SigningInput(record.Algorithm, r.MessageType, r.Hash, r.Input)
	if err != nil {
		return err
	}
	child, err := derive.Derive(record, r.Derivation)
	if err != nil {
		return err
	}
	j.need = 1
	j.start = func(a assignment, members []*nodepb.Member) *nodepb.Start {
		id := o.releaseID(a.index)
		return &nodepb.Start{
			Operation: custody.OpSign, Members: members, Self: uint32(a.index), Record: encoded,
			Envelope: r.Account.Shares[a.index-1].Envelope,
			Input:    r.Input, MessageType: string(r.MessageType), HashAlgorithm: string(r.Hash),
			DerivationPath: r.Derivation.Path, TaprootTweak: r.Derivation.TaprootTweak,
			ReleaseId: id[:], Release: releases[a.index],
			Policy: r.Policy, Approvals: r.Approvals,
		}
	}
	var signature *mpc.Signature
	j.accept = func(out *nodepb.Outcome) (err error) {
		signature, err = checkSignature(record.Algorithm, child.PublicKey, message, out)
		return err
	}
	if err := j.once(ctx, o); err != nil {
		return err
	}
	for _, out := range j.last.outcomes { // exactly one: it was accepted
		result.Signature = signResult(signature, out, j.chosen)
		result.Signature.Attempts = 1
		return nil
	}
	return errors.New("pool: a session without an outcome")
}

func (p *Pool) runRefresh(ctx context.Context, j *job, o *CustodyOffer, releases map[mpc.Index][]byte, result *CustodyResult) error {
	r := &o.Request
	encoded := r.Account.Record.Marshal()
	m, err := p.move(&r.Account, nil, nil)
	if err != nil {
		return err
	}
	j.need, j.accept, j.describe = j.n, hasRecord, m.describe
	j.start = func(a assignment, members []*nodepb.Member) *nodepb.Start {
		id := o.releaseID(a.index)
		return &nodepb.Start{
			Operation: custody.OpRefresh, Members: members, Self: uint32(a.index), Record: encoded,
			Envelope:   r.Account.Shares[a.index-1].Envelope,
			Recipients: r.Recipients, OldRecipients: r.OldRecipients,
			WrappingVersion: m.version(members), CustodyKey: r.NextCustody,
			ReleaseId: id[:], Release: releases[a.index],
			NextPolicy: r.NextPolicy, Policy: r.Policy, Approvals: r.Approvals,
		}
	}
	j.check = agreed(&result.Key)
	if err := j.once(ctx, o); err != nil {
		return err
	}
	if err := isSuccessor(&r.Account.Record, &result.Key.Account.Record, r.NextPolicy); err != nil {
		return err
	}
	return m.finish(ctx, &result.Key.Account)
}

func (o *CustodyOffer) releaseID(i mpc.Index) custody.ReleaseID {
	k := slices.IndexFunc(o.Members, func(m CustodyMember) bool { return m.Index == i })
	return o.Members[k].ReleaseID
}

// once runs one session among the nodes of the offer, with the placement rule as
// ever: it knows these nodes alone, and each with its share.
func (j *job) once(ctx context.Context, o *CustodyOffer) error {
	j.noSpares, j.seen = true, mpc.Exposures{}
	for _, a := range o.chosen {
		j.seen[a.node.identity] = a.index
	}
	for _, a := range o.chosen {
		// A node that was started again has forgotten its key, and who waits for
		// one that is away waits in vain.
		n := j.pool.node(a.node.id)
		if n == nil || !n.isReady() || n.incarnation() != o.processes[a.index] {
			return &CustodyLostError{fmt.Errorf("%s has been started again or is away", a.node.id)}
		}
	}
	deadline, cancel := context.WithDeadline(ctx, o.Expires)
	defer cancel()
	j.single = true
	err := j.attempt(deadline)
	switch {
	case errors.Is(err, ErrNodeGone), err != nil && !time.Now().Before(o.Expires):
		return &CustodyLostError{err}
	case err != nil: // no node was sent anything
		return err
	case j.last.err == nil:
		return nil
	}
	err = j.fail(j.last.err)
	_ = j.learn(ctx) // for the next one: nodes that lack something they can be given
	return &CustodyLostError{err}
}
