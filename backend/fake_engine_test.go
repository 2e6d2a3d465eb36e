package backend

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

const (
	testPIN    = "correct-horse-93817"
	testSerial = "0123456789abcdef"
)

// fakeEngine stands in for the node pool in unit tests of this package. It
// keeps whole keys, makes envelopes that only say what they are, and enforces
// what nodes would: an envelope belongs to one record and one index, and a
// node sees one index per epoch. It survives "restarts" of the backend.
type fakeEngine struct {
	t *testing.T

	mu       sync.Mutex
	keys     map[mpc.AccountID]*fakeKey
	seen     map[mpc.EpochID]map[mpc.NodeIdentity]mpc.Index
	applied  []pool.Settings
	probes   int
	logins   int // with the wrong PIN
	created  []uint32
	token    map[string]hsm.WrappingKey // what is in the token, by key ID
	made     int                        // wrapping keys so far
	serial   string
	closed   int
	nodes    int
	spare    bool // the next signature uses a node that has seen nothing
	garbage  bool // the next refresh stores a share that does not open
	mismatch func(*pool.KeyResult)

	rewrapMismatch func(*pool.RewrapResult)
	makeMismatch   func(*hsm.WrappingKey)
	down           bool               // no node is ready
	away           map[string]bool    // nodes on other hosts that are not
	endorser       ed25519.PrivateKey // of the node that endorses keys; nil: none does

	stock    map[mpc.AccountID][][32]byte // record hashes of presignatures
	used     func(mpc.AccountID)
	presigns []pool.PresignRequest
	forgot   []mpc.AccountID
	renewed  []string
	// presign, when set, is called before a presignature is made.
	presign func(context.Context, pool.PresignRequest) error

	probeErr, createErr, signErr, refreshErr, openErr error
	makeErr, destroyErr, rewrapErr, nodeKeysErr       error
	prepareErr, custodyErr                            error
	prepared                                          []*pool.CustodyOffer
	rewraps, nodeRewraps                              int
	store                                             pool.KeyStore

	at        func() time.Time // the nodes' clock; nil: the real one
	approvals int              // bundles that were found right
	// spoilRecord, when set, changes the record of each epoch before it is signed.
	spoilRecord func(*mpc.PublicRecord)

	enroller      *fakeEnroller
	identityErr   error
	identityReply func(*nodepb.IdentityRequest, *nodepb.IdentityReply)
	identityCalls int
	// block, when set, is received from in the middle of create, refresh,
	// rewrap, make and destroy.
	block   chan struct{}
	entered chan string
}

func newFake(t *testing.T) *fakeEngine {
	return &fakeEngine{
		t: t, nodes: 5, serial: testSerial,
		token: map[string]hsm.WrappingKey{}, away: map[string]bool{},
		keys:  map[mpc.AccountID]*fakeKey{},
		seen:  map[mpc.EpochID]map[mpc.NodeIdentity]mpc.Index{},
		stock: map[mpc.AccountID][][32]byte{},

		enroller: &fakeEnroller{t: t, nodes: map[string]*EnrolAnswer{}},
	}
}

func nodeIdentity(i int) mpc.NodeIdentity { return mpc.NodeIdentity{byte(i), 0xaa} }

func (f *fakeEngine) Apply(ctx context.Context, s pool.Settings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.Local > 0 && string(s.Token.PIN.Expose()) != testPIN {
		f.t.Errorf("Apply got another PIN than the one that was accepted")
	}
	f.applied = append(f.applied, s)
	f.nodes = s.Local
	return ctx.Err()
}

func (f *fakeEngine) Probe(ctx context.Context, mountID [16]byte, token pool.Token, request pool.KeyRequest) (pool.TokenInfo, *hsm.WrappingKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes++
	if f.probeErr != nil {
		return pool.TokenInfo{}, nil, f.probeErr
	}
	if token.Label == "missing" {
		return pool.TokenInfo{}, nil, fmt.Errorf("token %q: %w", token.Label, pool.ErrTokenNotFound)
	}
	if string(token.PIN.Expose()) != testPIN {
		f.logins++
		return pool.TokenInfo{}, nil, fmt.Errorf("logging in: %w", pool.ErrPINIncorrect)
	}
	info := pool.TokenInfo{Label: "prod", Serial: f.serial, Manufacturer: "fake", Model: "m1"}
	create := request.Version
	if create == 0 {
		return info, nil, ctx.Err()
	}
	f.created = append(f.created, create)
	return info, f.makeKey(mountID, hsm.DefaultDomain, create), nil
}

// makeKey puts a key pair into the token; the caller holds f.mu.
func (f *fakeEngine) makeKey(mountID [16]byte, domain string, version uint32) *hsm.WrappingKey {
	f.made++
	id := sha256.Sum256(fmt.Appendf(nil, "wrapping key %d", f.made))
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		f.t.Error(err)
	}
	key := hsm.WrappingKey{
		Domain: domain, Version: version, Suite: hsm.SuiteHPKEP256,
		ID: id[:16], PublicKey: priv.PublicKey().Bytes(), Label: fmt.Sprintf("vault-mpc %x v%d", mountID, version),
	}
	f.token[string(key.ID)] = key
	return &key
}

// sealTo is the version that nodes seal to; the caller holds f.mu.
func (f *fakeEngine) sealTo() uint32 {
	keys := f.settings().WrappingKeys
	if len(keys) == 0 {
		f.t.Error("nodes have no wrapping key")
		return 1
	}
	return keys[len(keys)-1].Version
}

func (f *fakeEngine) settings() pool.Settings {
	if len(f.applied) == 0 {
		f.t.Error("nodes are used before they got settings")
		return pool.Settings{}
	}
	return f.applied[len(f.applied)-1]
}

// opensIn says whether nodes have a domain's wrapping key of a version, and the token
// has it as well; the caller holds f.mu.
func (f *fakeEngine) opensIn(domain string, version uint32) bool {
	for _, k := range f.settings().WrappingKeys {
		if _, ok := f.token[string(k.ID)]; ok && k.Version == version && k.Domain == domain {
			return true
		}
	}
	return false
}

func (f *fakeEngine) pause(ctx context.Context, what string) error {
	f.mu.Lock()
	block, entered := f.block, f.entered
	f.mu.Unlock()
	if entered != nil {
		entered <- what
	}
	if block == nil {
		return nil
	}
	select {
	case <-block:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// result makes the epoch of the record and remembers who saw what.
func (f *fakeEngine) result(r mpc.PublicRecord) *pool.KeyResult {
	if f.spoilRecord != nil {
		f.spoilRecord(&r)
	}
	hash := r.Hash()
	res := &pool.KeyResult{
		Account:         mpc.Account{Record: r, Exposures: mpc.Exposures{}},
		SessionID:       sha256.Sum256(append([]byte("session"), r.EpochID[:]...)),
		WrappingVersion: f.sealTo(),
	}
	f.seen[r.EpochID] = map[mpc.NodeIdentity]mpc.Index{}
	for i := 1; i <= r.Shares; i++ {
		index := mpc.Index(i)
		made := envelope(index, hash, res.WrappingVersion)
		if r.HasCustody() {
			made = custodyEnvelope(fmt.Appendf(nil, "share %d of %x", index, hash), res.WrappingVersion)
		}
		res.Account.Shares = append(res.Account.Shares, mpc.WrappedShare{Index: index, Envelope: made})
		res.Account.Exposures[nodeIdentity(i)] = index
		f.seen[r.EpochID][nodeIdentity(i)] = index
		res.Certificate = append(res.Certificate, pool.Endorsement{
			NodeID: fmt.Sprintf("local-%d", i), Identity: nodeIdentity(i), Signature: bytes.Repeat([]byte{byte(i)}, 64),
		})
	}
	return res
}

func envelope(i mpc.Index, recordHash [32]byte, version uint32) []byte {
	return fakeEnvelope(fmt.Appendf(nil, "share %d of %x", i, recordHash), version)
}

// fakeEnvelope has a real header and says in clear what is in it.
func fakeEnvelope(content []byte, versions ...uint32) []byte {
	return fakeSealed(hsm.DefaultDomain, content, versions...)
}

// fakeSealed is fakeEnvelope in a domain.
func fakeSealed(domain string, content []byte, versions ...uint32) []byte {
	e := &hsm.Envelope{Holders: []hsm.Holder{{Kind: hsm.HolderDomain}}, Ciphertext: append(content, make([]byte, 16)...)}
	for _, v := range versions {
		e.Holders[0].Seals = append(e.Holders[0].Seals, hsm.SealedKey{
			Suite: hsm.SuiteHPKEP256, Domain: domain, Version: v, Sealed: make([]byte, 113)})
	}
	out, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	return out
}

// opened checks an envelope of one seal, as nodes would; the caller holds f.mu.
func (f *fakeEngine) opened(envelope, content []byte) bool {
	e, err := hsm.ParseEnvelope(envelope)
	return err == nil && !brokenSeal(envelope) && bytes.Equal(e.Ciphertext, append(content, make([]byte, 16)...)) && f.opensIn(e.Seals()[0].Domain, e.Seals()[0].Version)
}

func (f *fakeEngine) Create(ctx context.Context, q pool.CreateRequest) (*pool.KeyResult, error) {
	if err := f.pause(ctx, "create"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.createErr != nil {
		return nil, f.createErr
	}
	if err := f.createPolicy(&q); err != nil {
		return nil, err
	}
	key, pub, err := newFakeKey(q.Algorithm)
	if err != nil {
		return nil, err
	}
	f.keys[q.AccountID] = key
	r := mpc.PublicRecord{
		AccountID: q.AccountID, Algorithm: q.Algorithm, Threshold: q.Threshold, Shares: q.Shares,
		PublicKey: pub, ChainCode: sha256.Sum256(pub), RecipientsHash: q.RecipientsHash, PolicyHash: q.PolicyHash,
	}
	if len(q.Custody) > 0 {
		r.Custody = mpc.CustodyHash(q.Custody)
	}
	f.nextEpoch(&r)
	res := f.result(r)
	if f.spreads() {
		homes, err := mpc.PlanHomes(r.Threshold, r.Shares, f.places(q.Domains))
		if err != nil {
			return nil, err
		}
		if err := f.settle(res, homes, nil); err != nil {
			return nil, err
		}
	}
	if f.mismatch != nil {
		f.mismatch(res)
	}
	return res, nil
}

// nextEpoch draws the epoch's ID and public shares.
func (f *fakeEngine) nextEpoch(r *mpc.PublicRecord) {
	r.Epoch++
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("epoch"), r.AccountID[:]...), uint64(len(f.seen))))
	copy(r.EpochID[:], seed[:])
	r.PublicShares = nil
	for i := range r.Shares {
		x := sha256.Sum256(append(seed[:], byte(i)))
		r.PublicShares = append(r.PublicShares, append([]byte{2}, x[:]...)[:r.Algorithm.PublicShareSize()])
	}
}

// use has a node open a share, as nodes would: the envelope must fit.
func (f *fakeEngine) use(a *mpc.Account, node mpc.NodeIdentity, index mpc.Index) error {
	seen := f.seen[a.Record.EpochID]
	if seen == nil {
		return fmt.Errorf("share %d: %w: no such epoch", index, pool.ErrShareUnusable)
	}
	if old, ok := seen[node]; ok && old != index {
		f.t.Errorf("node %v opens share %d after share %d of one epoch", node, index, old)
	}
	seen[node] = index
	if !f.opened(a.Shares[index-1].Envelope, fmt.Appendf(nil, "share %d of %x", index, a.Record.Hash())) {
		return fmt.Errorf("share %d: %w", index, pool.ErrShareUnusable)
	}
	return nil
}

func (f *fakeEngine) Sign(ctx context.Context, q pool.SignRequest) (*pool.SignResult, error) {
	f.mu.Lock()
	spare, fail := f.spare, f.signErr
	f.spare = false
	if fail == nil {
		fail = f.approvedSign(&q)
	}
	f.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	r := &q.Account.Record
	res := &pool.SignResult{SessionID: sha256.Sum256([]byte("sign")), Attempts: 1}
	for i := 1; i <= r.Threshold; i++ {
		index := mpc.Index(i)
		var node mpc.NodeIdentity
		number := 0
		for n := 1; n <= 16; n++ {
			f.mu.Lock()
			lives := f.lives(&q.Account, nodeIdentity(n), index)
			f.mu.Unlock()
			if q.Account.Exposures[nodeIdentity(n)] == index && lives {
				node, number = nodeIdentity(n), n
			}
		}
		if spare && i == 1 && q.Account.NoSpares {
			return nil, &pool.NoEligibleNodeError{Index: index, NoSpares: true}
		}
		if spare && i == 1 { // the lowest node that has seen nothing
			for n := 1; ; n++ {
				if _, ok := q.Account.Exposures[nodeIdentity(n)]; !ok {
					node, number = nodeIdentity(n), n
					break
				}
			}
			if err := q.Expose(ctx, mpc.Exposures{node: index}); err != nil {
				return nil, fmt.Errorf("recording exposure: %w", err)
			}
		}
		if number == 0 {
			return nil, &pool.NoEligibleNodeError{Index: index}
		}
		f.mu.Lock()
		err := f.use(&q.Account, node, index)
		f.mu.Unlock()
		if err != nil {
			return nil, err
		}
		res.Signers = append(res.Signers, mpc.Signer{Index: index, NodeID: fmt.Sprintf("local-%d", number)})
	}
	f.mu.Lock()
	key := f.keys[r.AccountID]
	f.mu.Unlock()
	sig, err := key.sign(r, &q)
	if err != nil {
		return nil, err
	}
	res.Signature = *sig
	res.Presigned = q.MessageType.HashedByNodes() && q.Derivation == (mpc.Derivation{}) && f.take(r)
	return res, ctx.Err()
}

// take uses up a presignature of the record.
func (f *fakeEngine) take(r *mpc.PublicRecord) bool {
	f.mu.Lock()
	i := slices.Index(f.stock[r.AccountID], r.Hash())
	if i >= 0 {
		f.stock[r.AccountID] = slices.Delete(f.stock[r.AccountID], i, i+1)
	}
	used := f.used
	f.mu.Unlock()
	if i >= 0 {
		used(r.AccountID)
	}
	return i >= 0
}

func (f *fakeEngine) Presign(ctx context.Context, q pool.PresignRequest) error {
	f.mu.Lock()
	before := f.presign
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, q); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &q.Account.Record
	if !r.Algorithm.IsECDSA() || q.Lifetime <= 0 || q.Lifetime > pool.MaxPresignLifetime || q.Expose == nil {
		f.t.Errorf("presign request: %s, lifetime %v", r.Algorithm, q.Lifetime)
	}
	f.presigns = append(f.presigns, q)
	f.stock[r.AccountID] = append(f.stock[r.AccountID], r.Hash())
	return nil
}

func (f *fakeEngine) Presignatures(id mpc.AccountID, recordHash [32]byte) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, h := range f.stock[id] {
		if h == recordHash {
			n++
		}
	}
	return n
}

func (f *fakeEngine) ForgetPresignatures(_ context.Context, id mpc.AccountID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.stock, id)
	f.forgot = append(f.forgot, id)
}

func (f *fakeEngine) RenewAuxiliary(nodeID string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewed = append(f.renewed, nodeID)
	return nil
}

func (f *fakeEngine) Refresh(ctx context.Context, q pool.RefreshRequest) (*pool.KeyResult, error) {
	if err := f.pause(ctx, "refresh"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	fail := f.refreshErr
	f.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	policy, err := f.nextPolicy(&q)
	if err != nil {
		return nil, err
	}
	if err := f.openAll(&q.Account); err != nil { // all n take part
		return nil, err
	}
	r := q.Account.Record
	r.PolicyHash = policy
	if set, err := recovery.ParseSignedSet(q.Recipients); err == nil && len(set.Unverified().Recipients) == 0 {
		r.RecipientsHash = set.Hash() // nothing is sealed to it
	}
	f.nextEpoch(&r)
	res := f.result(r)
	if homes := f.homesAfter(&q); homes != nil {
		if err := f.settle(res, homes, &q.Account); err != nil {
			return nil, err
		}
	}
	if f.garbage {
		f.garbage = false
		res.Account.Shares[0].Envelope = fakeEnvelope([]byte("garbage"), res.WrappingVersion)
	}
	if f.mismatch != nil {
		f.mismatch(res)
	}
	return res, nil
}

func (f *fakeEngine) OpenCheck(_ context.Context, a mpc.Account) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.openErr != nil {
		return f.openErr
	}
	return f.openAll(&a)
}

func (f *fakeEngine) openAll(a *mpc.Account) error {
	for node, index := range a.Exposures {
		if !f.lives(a, node, index) {
			continue
		}
		if err := f.use(a, node, index); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeEngine) MakeWrappingKey(ctx context.Context, domain string, version uint32, suites []hsm.Suite) (*pool.MadeKey, error) {
	if err := f.pause(ctx, "make"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.makeErr != nil {
		return nil, f.makeErr
	}
	if len(suites) != 1 && domain == hsm.DefaultDomain || suites[0] != hsm.SuiteHPKEP256 {
		f.t.Errorf("a wrapping key was asked for with the suites %v", suites)
	}
	if !f.serves(domain) {
		f.t.Errorf("a wrapping key was asked for in domain %q, which has no node that is ready", domain)
		return nil, &pool.TooFewNodesError{Needed: 1}
	}
	mountID := f.settings().MountID
	key := f.makeKey(mountID, domain, version)
	if f.makeMismatch != nil {
		f.makeMismatch(key)
	}
	made := &pool.MadeKey{Key: *key, Endorsement: pool.KeyEndorsement{Domain: domain, Version: version}}
	if f.endorser != nil {
		made.Endorsement.Identity = mpc.NodeIdentity(f.endorser.Public().(ed25519.PublicKey))
		made.Endorsement.Signature = hsm.EndorseKey(f.endorser, mountID, *key)
	}
	return made, nil
}

func (f *fakeEngine) DestroyWrappingKey(ctx context.Context, key hsm.WrappingKey) error {
	if err := f.pause(ctx, "destroy"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.destroyErr != nil {
		return f.destroyErr
	}
	if !f.serves(key.Domain) {
		f.t.Errorf("a wrapping key was to be destroyed in domain %q, which has no node that is ready", key.Domain)
		return &pool.TooFewNodesError{Needed: 1}
	}
	if _, ok := f.token[string(key.ID)]; !ok {
		return fmt.Errorf("version %d: %w", key.Version, hsm.ErrKeyNotFound)
	}
	delete(f.token, string(key.ID))
	return nil
}

// serves says whether a domain has a node that is ready; the caller holds f.mu.
func (f *fakeEngine) serves(domain string) bool {
	return slices.ContainsFunc(f.all(), func(n fakeSite) bool { return n.home.Domain == domain })
}

func (f *fakeEngine) FindWrappingKeys(ctx context.Context, domain, label string) ([]pool.KeyObject, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []pool.KeyObject
	for _, k := range f.token {
		if k.Label == label && k.Domain == domain {
			out = append(out, pool.KeyObject{ID: k.ID, Private: 1, Public: 1})
		}
	}
	return out, ctx.Err()
}

func (f *fakeEngine) Rewrap(ctx context.Context, q pool.RewrapRequest) (*pool.RewrapResult, error) {
	if err := f.pause(ctx, "rewrap"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	spare, fail := f.spare, f.rewrapErr
	f.spare = false
	f.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	if spare && q.Account.NoSpares {
		return nil, &pool.NoEligibleNodeError{Index: 1, NoSpares: true}
	}
	if spare { // share 1 goes through a node that has seen nothing
		for n := 1; ; n++ {
			if _, ok := q.Account.Exposures[nodeIdentity(n)]; !ok {
				added := mpc.Exposures{nodeIdentity(n): 1}
				if err := q.Expose(ctx, added); err != nil {
					return nil, fmt.Errorf("recording exposure: %w", err)
				}
				q.Account.Exposures[nodeIdentity(n)] = 1
				break
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rewraps++
	for i := range q.Account.Homes {
		held := false
		for node, index := range q.Account.Exposures {
			held = held || int(index) == i+1 && f.lives(&q.Account, node, index)
		}
		if !held {
			return nil, &pool.NoEligibleNodeError{Index: mpc.Index(i + 1), Domain: q.Account.Homes[i].Domain}
		}
	}
	if err := f.openAll(&q.Account); err != nil {
		return nil, err
	}
	res := &pool.RewrapResult{WrappingVersion: f.sealTo()}
	hash := q.Account.Record.Hash()
	for i := range q.Account.Record.Shares {
		index := mpc.Index(i + 1)
		was := recovery.WrappingDomain(q.Account.Shares[i].Envelope)
		made := fakeSealed(was, fmt.Appendf(nil, "share %d of %x", index, hash), res.WrappingVersion)
		if q.Account.Record.HasCustody() {
			made = reseal(q.Account.Shares[i].Envelope, res.WrappingVersion, f.garbage && i == 0)
		}
		made = inDomain(made, recovery.WrappingDomain(q.Account.Shares[i].Envelope))
		res.Shares = append(res.Shares, mpc.WrappedShare{Index: index, Envelope: made})
	}
	if f.garbage && !q.Account.Record.HasCustody() {
		res.Shares[0].Envelope = fakeEnvelope([]byte("garbage"), res.WrappingVersion)
	}
	f.garbage = false
	if f.rewrapMismatch != nil {
		f.rewrapMismatch(res)
	}
	return res, nil
}

func (f *fakeEngine) RewrapNodeKeys(ctx context.Context, nodeID string) error {
	f.mu.Lock()
	fail, to, keys := f.nodeKeysErr, f.sealTo(), f.store
	f.nodeRewraps++
	f.mu.Unlock()
	if fail != nil {
		return fail
	}
	k, err := keys.NodeKeys(ctx, nodeID)
	if err != nil || k == nil {
		return err
	}
	if len(k.IdentityEnvelope) > 0 {
		k.IdentityEnvelope = fakeEnvelope([]byte("seed"), to)
	}
	if k.Aux != nil {
		k.Aux.Envelope = fakeSealed(recovery.WrappingDomain(k.Aux.Envelope), []byte("aux"), to)
	}
	return keys.PutNodeKeys(ctx, nodeID, k)
}

func (f *fakeEngine) Import(context.Context, pool.ImportRequest) (*pool.KeyResult, error) {
	return nil, errors.New("the fake engine imports nothing")
}

func (f *fakeEngine) Nodes() []pool.NodeStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []pool.NodeStatus
	state := pool.NodeReady
	if f.down {
		state = pool.NodeRestarting
	}
	for i := 1; i <= f.nodes; i++ {
		region := ""
		if len(f.applied) > 0 {
			region = f.settings().LocalRegion
		}
		out = append(out, pool.NodeStatus{
			ID: fmt.Sprintf("local-%d", i), State: state, Version: "v0.1.0", PID: 100 + i, HSM: "ok", Region: region,
			Presignatures: 7,
			Aux: pool.AuxStatus{State: "renewing", Generation: 3, Progress: 40, Peers: 4, PeersReady: 2,
				Made: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		})
	}
	return append(out, f.remote(state)...)
}

func (f *fakeEngine) Close(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

// instantEngine returns the same signature every time.
type instantEngine struct{ *fakeEngine }

func (instantEngine) Sign(context.Context, pool.SignRequest) (*pool.SignResult, error) {
	return &pool.SignResult{Signature: mpc.Signature{Bytes: make([]byte, 64), RecoveryID: -1}, Attempts: 1,
		Signers: []mpc.Signer{{Index: 1, NodeID: "local-1"}, {Index: 2, NodeID: "local-2"}}}, nil
}
