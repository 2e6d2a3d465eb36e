package node

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// Bounds of the offers whose keys a node keeps, each of which has about 200 bytes.
// An account's own bound is there so that one whose owner begins again and again
// leaves room for others.
const (
	maxOffers        = 1024
	maxAccountOffers = 64
)

// errOfferGone: used, expired, or of an earlier process. It is a refusal: nobody
// but the owner can help.
var errOfferGone = errors.New("the owner's release is for an offer that this node no longer has: it was used, is older than " + custody.OfferLifetime.String() + ", or the node has been started anew since; begin again")

// offered is the private half of an offer, with all that its use is tied to. The
// purpose holds the rest: the record's hash, the message, all signers.
type offered struct {
	account mpc.AccountID
	index   mpc.Index
	purpose [32]byte
	expires time.Time     // by the monotonic clock
	key     *secret.Bytes // X25519, 32 bytes
	timer   *time.Timer   // drops it; its function does memory work only and ends by itself
}

// offers holds the keys of offers by their release ID. They exist here and nowhere
// else. All methods may be called concurrently.
type offers struct {
	mu     sync.Mutex
	held   map[custody.ReleaseID]*offered
	perID  map[mpc.AccountID]int
	closed bool
}

func newOffers() *offers {
	return &offers{held: map[custody.ReleaseID]*offered{}, perID: map[mpc.AccountID]int{}}
}

// put takes o over for custody.OfferLifetime, unless a bound is reached.
func (s *offers) put(id custody.ReleaseID, o *offered) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errNotSetUp
	case len(s.held) >= maxOffers:
		return fmt.Errorf("%w: %d operations with user custody wait for their owners", errBusy, maxOffers)
	case s.perID[o.account] >= maxAccountOffers:
		return fmt.Errorf("%w: %d operations of the account wait for its owner", errBusy, maxAccountOffers)
	case s.held[id] != nil:
		return errors.New("two offers with one ID")
	}
	s.held[id] = o
	s.perID[o.account]++
	o.timer = time.AfterFunc(time.Until(o.expires), func() { s.drop(id) })
	return nil
}

// take removes an offer and hands it to the caller, who wipes its key. It
// succeeds once, whatever the caller then finds wrong.
func (s *offers) take(id custody.ReleaseID) (*offered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.removeLocked(id)
	if o == nil {
		return nil, refusedError{errOfferGone}
	}
	if !time.Now().Before(o.expires) {
		o.key.Wipe()
		return nil, refusedError{errOfferGone}
	}
	return o, nil
}

func (s *offers) drop(id custody.ReleaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.removeLocked(id); o != nil {
		o.key.Wipe()
	}
}

func (s *offers) removeLocked(id custody.ReleaseID) *offered {
	o := s.held[id]
	if o == nil {
		return nil
	}
	o.timer.Stop()
	delete(s.held, id)
	if s.perID[o.account]--; s.perID[o.account] == 0 {
		delete(s.perID, o.account)
	}
	return o
}

// close wipes everything, for good.
func (s *offers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for id := range s.held {
		s.removeLocked(id).key.Wipe()
	}
}

// PrepareRelease makes and signs an offer. It says nothing about the purpose,
// which the node sees as a hash: whether a session is that purpose is checked when
// the session comes with a release.
func (n *Node) PrepareRelease(_ context.Context, r *nodepb.PrepareReleaseRequest) (*nodepb.PrepareReleaseReply, error) {
	reply, err := n.prepareRelease(r)
	if err != nil {
		return &nodepb.PrepareReleaseReply{Failure: n.failed("PrepareRelease", err)}, nil
	}
	return reply, nil
}

func (n *Node) prepareRelease(r *nodepb.PrepareReleaseRequest) (*nodepb.PrepareReleaseReply, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	record, err := mpc.ParsePublicRecord(r.GetRecord())
	switch {
	case err != nil:
		return nil, refusedError{err}
	case !record.HasCustody():
		return nil, refused("the account has no custody key, so nothing can be released for it")
	case r.GetIndex() < 1 || int(r.GetIndex()) > record.Shares:
		return nil, refused("share %d does not exist", r.GetIndex())
	case len(r.GetPurpose()) != 32:
		return nil, refused("a purpose is a hash of 32 bytes, not %d", len(r.GetPurpose()))
	}
	// Nothing shows yet that the record is the account's: the floor stays until
	// the share is opened.
	if err := n.admit(opRelease, record); err != nil {
		return nil, err
	}
	seed := secret.New(make([]byte, 32))
	_, _ = rand.Read(seed.Expose()) // never fails: it ends the program instead
	priv, err := ecdh.X25519().NewPrivateKey(seed.Expose())
	if err != nil {
		seed.Wipe()
		return nil, err
	}
	now := time.Now()
	o := custody.Offer{Index: mpc.Index(r.GetIndex()), Node: n.self(), PublicKey: priv.PublicKey().Bytes(),
		Expires: now.Add(custody.OfferLifetime).Truncate(time.Millisecond)}
	_, _ = rand.Read(o.ReleaseID[:])
	custody.SignOffer(n.identity, [32]byte(r.GetPurpose()), &o)
	err = n.offers.put(o.ReleaseID, &offered{account: record.AccountID, index: o.Index, purpose: [32]byte(r.GetPurpose()),
		expires: now.Add(custody.OfferLifetime), key: seed})
	if err != nil {
		seed.Wipe()
		return nil, err
	}
	return &nodepb.PrepareReleaseReply{ReleaseId: o.ReleaseID[:], PublicKey: o.PublicKey,
		ExpiresUnixMs: uint64(o.Expires.UnixMilli()), Signature: o.Signature}, nil
}

// released returns the custody part k₂ of this node's share in a session, nil for
// an account without user custody; the caller wipes it. What the release was for
// is computed from the session's own terms, so that a release for anything else
// does not open here. The offer is used up, whatever comes of it.
//
// For what a session may not do the errors are refusals: only the owner can help.
func (n *Node) released(s *nodepb.Start, self mpc.Index, record *mpc.PublicRecord) (*secret.Bytes, error) {
	given := len(s.GetReleaseId()) > 0 || len(s.GetRelease()) > 0
	var id custody.ReleaseID
	switch {
	case !record.HasCustody() && given:
		return nil, refused("something was released for an account that has no custody key")
	case !record.HasCustody():
		return nil, nil
	case !given:
		return nil, refused("the account's shares need the custody key of their owner, who has released nothing for this operation")
	case len(s.GetReleaseId()) != len(id) || len(s.GetRelease()) != custody.ReleaseSize:
		return nil, refused("malformed release")
	}
	copy(id[:], s.GetReleaseId())
	o, err := n.offers.take(id)
	if err != nil {
		return nil, err
	}
	defer o.key.Wipe()
	purpose := purposeOf(s, record).Hash()
	if o.index != self || o.account != record.AccountID || o.purpose != purpose {
		return nil, refused("the owner's release is for another operation: another message, epoch, share, custody key, policy or set of nodes; nothing was opened")
	}
	priv, err := ecdh.X25519().NewPrivateKey(o.key.Expose())
	if err != nil {
		return nil, err
	}
	k2, err := custody.OpenRelease(priv, custody.Offer{ReleaseID: id, Index: self, Node: n.self()}, purpose, s.GetRelease())
	if err != nil {
		return nil, refusedError{err}
	}
	return k2, nil
}

// purposeOf is what a session does, as an owner would agree to it.
func purposeOf(s *nodepb.Start, record *mpc.PublicRecord) custody.Purpose {
	p := custody.Purpose{Operation: s.GetOperation(), Record: record.Hash(), Input: s.GetInput(), MessageType: s.GetMessageType(),
		HashAlgorithm: s.GetHashAlgorithm(), DerivationPath: s.GetDerivationPath(), TaprootTweak: s.GetTaprootTweak(),
		NextCustody: s.GetCustodyKey()}
	if len(s.GetNextPolicy()) > 0 {
		hash := sha256.Sum256(s.GetNextPolicy()) // nextPolicy has read it and found it canonical
		p.NextPolicy = hash[:]
	}
	for _, m := range s.GetMembers() { // prepare has checked them
		p.Signers = append(p.Signers, custody.Signer{Index: mpc.Index(m.GetIndex()), Node: mpc.NodeIdentity(m.GetIdentity())})
	}
	return p
}

// custodyKey reads the key that the shares of a new epoch are sealed to, nil for
// an account without user custody. An account keeps having it, or not having it:
// whoever could drop it would have what it protects, and whoever could add it
// would shut the owner out. That the key is one that the owner wants, the release
// says: it is part of the purpose.
func custodyKey(old *mpc.PublicRecord, public []byte) (*ecdh.PublicKey, error) {
	switch {
	case old != nil && old.HasCustody() && len(public) == 0:
		return nil, refused("the account has user custody, and no custody key is given for its next epoch")
	case old != nil && !old.HasCustody() && len(public) > 0:
		return nil, refused("the account was made without user custody and cannot be given it; make a new account")
	case len(public) == 0:
		return nil, nil
	}
	key, err := hsm.ParseCustodyKey(public)
	if err != nil {
		return nil, refusedError{err}
	}
	return key, nil
}

// noCustody refuses what cannot be done without the owner, for the records of
// accounts whose shares need him.
func noCustody(record *mpc.PublicRecord, what string) error {
	if record.HasCustody() {
		return refused("%s: the account's shares need the custody key of their owner", what)
	}
	return nil
}
