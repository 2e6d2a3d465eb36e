package backend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
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
	keys     map[mpc.AccountID]*secp256k1.PrivateKey
	seen     map[mpc.EpochID]map[mpc.NodeIdentity]mpc.Index
	applied  []pool.Settings
	probes   int
	logins   int // with the wrong PIN
	created  []uint32
	serial   string
	closed   int
	nodes    int
	spare    bool // the next signature uses a node that has seen nothing
	garbage  bool // the next refresh stores a share that does not open
	mismatch func(*pool.KeyResult)

	probeErr, createErr, signErr, refreshErr, openErr error
	// block, when set, is received from in the middle of create and refresh.
	block   chan struct{}
	entered chan string
}

func newFake(t *testing.T) *fakeEngine {
	return &fakeEngine{
		t: t, nodes: 5, serial: testSerial,
		keys: map[mpc.AccountID]*secp256k1.PrivateKey{},
		seen: map[mpc.EpochID]map[mpc.NodeIdentity]mpc.Index{},
	}
}

func nodeIdentity(i int) mpc.NodeIdentity { return mpc.NodeIdentity{byte(i), 0xaa} }

func (f *fakeEngine) Apply(ctx context.Context, s pool.Settings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if string(s.Token.PIN.Expose()) != testPIN {
		f.t.Errorf("Apply got another PIN than the one that was accepted")
	}
	f.applied = append(f.applied, s)
	f.nodes = s.Local
	return ctx.Err()
}

func (f *fakeEngine) Probe(ctx context.Context, mountID [16]byte, token pool.Token, create uint32) (pool.TokenInfo, *hsm.WrappingKey, error) {
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
	if create == 0 {
		return info, nil, ctx.Err()
	}
	f.created = append(f.created, create)
	return info, &hsm.WrappingKey{
		Domain: hsm.DefaultDomain, Version: create, Suite: hsm.SuiteHPKEP256,
		ID: []byte("0123456789abcdef"), PublicKey: append([]byte{4}, make([]byte, 64)...),
		Label: fmt.Sprintf("mpc %x %d", mountID, create),
	}, nil
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
	hash := r.Hash()
	res := &pool.KeyResult{
		Account:         mpc.Account{Record: r, Exposures: mpc.Exposures{}},
		SessionID:       sha256.Sum256(append([]byte("session"), r.EpochID[:]...)),
		WrappingVersion: 1,
	}
	f.seen[r.EpochID] = map[mpc.NodeIdentity]mpc.Index{}
	for i := 1; i <= r.Shares; i++ {
		index := mpc.Index(i)
		res.Account.Shares = append(res.Account.Shares, mpc.WrappedShare{Index: index, Envelope: envelope(index, hash)})
		res.Account.Exposures[nodeIdentity(i)] = index
		f.seen[r.EpochID][nodeIdentity(i)] = index
		res.Certificate = append(res.Certificate, pool.Endorsement{
			NodeID: fmt.Sprintf("local-%d", i), Identity: nodeIdentity(i), Signature: bytes.Repeat([]byte{byte(i)}, 64),
		})
	}
	return res
}

func envelope(i mpc.Index, recordHash [32]byte) []byte {
	return fmt.Appendf(nil, "share %d of %x", i, recordHash)
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
	key, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	pub := key.PubKey().SerializeCompressed()
	if q.Algorithm == mpc.BIP340Secp256k1 {
		if pub[0] == secp256k1.PubKeyFormatCompressedOdd {
			key.Key.Negate()
		}
		pub = pub[1:]
	}
	f.keys[q.AccountID] = key
	r := mpc.PublicRecord{
		AccountID: q.AccountID, Algorithm: q.Algorithm, Threshold: q.Threshold, Shares: q.Shares,
		PublicKey: pub, ChainCode: sha256.Sum256(pub), RecipientsHash: q.RecipientsHash, PolicyHash: q.PolicyHash,
	}
	f.nextEpoch(&r)
	res := f.result(r)
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
		r.PublicShares = append(r.PublicShares, append([]byte{2}, x[:]...))
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
	if !bytes.Equal(a.Shares[index-1].Envelope, envelope(index, a.Record.Hash())) {
		return fmt.Errorf("share %d: %w", index, pool.ErrShareUnusable)
	}
	return nil
}

func (f *fakeEngine) Sign(ctx context.Context, q pool.SignRequest) (*pool.SignResult, error) {
	f.mu.Lock()
	spare, fail := f.spare, f.signErr
	f.spare = false
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
			if q.Account.Exposures[nodeIdentity(n)] == index {
				node, number = nodeIdentity(n), n
			}
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
	sig, err := signWith(key, r, &q)
	if err != nil {
		return nil, err
	}
	res.Signature = *sig
	return res, ctx.Err()
}

func signWith(key *secp256k1.PrivateKey, r *mpc.PublicRecord, q *pool.SignRequest) (*mpc.Signature, error) {
	if r.Algorithm == mpc.BIP340Secp256k1 {
		b := bip340Sign(key, r.PublicKey, q.Input)
		s := &mpc.Signature{Bytes: b, RecoveryID: -1, Digest: q.Input}
		copy(s.R[:], b[:32])
		copy(s.S[:], b[32:])
		return s, nil
	}
	digest, err := mpc.SigningInput(r.Algorithm, q.MessageType, q.Hash, q.Input)
	if err != nil {
		return nil, err
	}
	sig := ecdsa.Sign(key, digest)
	sr, ss := sig.R(), sig.S()
	return &mpc.Signature{Bytes: sig.Serialize(), R: sr.Bytes(), S: ss.Bytes(), RecoveryID: 1, Digest: digest}, nil
}

// bip340Sign signs with a nonce that is only good enough for tests. The key
// belongs to the point with even y.
func bip340Sign(key *secp256k1.PrivateKey, pub, msg []byte) []byte {
	seed := sha256.Sum256(append(key.Serialize(), msg...))
	var k, e secp256k1.ModNScalar
	k.SetBytes(&seed)
	var point secp256k1.JacobianPoint
	secp256k1.ScalarBaseMultNonConst(&k, &point)
	point.ToAffine()
	if point.Y.IsOdd() {
		k.Negate()
	}
	rx := point.X.Bytes()
	tag := sha256.Sum256([]byte("BIP0340/challenge"))
	c := sha256.Sum256(slices.Concat(tag[:], tag[:], rx[:], pub, msg))
	e.SetBytes(&c)
	s := e.Mul(&key.Key).Add(&k).Bytes()
	return append(rx[:], s[:]...)
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
	if err := f.openAll(&q.Account); err != nil { // all n take part
		return nil, err
	}
	r := q.Account.Record
	f.nextEpoch(&r)
	res := f.result(r)
	if f.garbage {
		f.garbage = false
		res.Account.Shares[0].Envelope = []byte("garbage")
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
		if err := f.use(a, node, index); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeEngine) Nodes() []pool.NodeStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []pool.NodeStatus
	for i := 1; i <= f.nodes; i++ {
		out = append(out, pool.NodeStatus{
			ID: fmt.Sprintf("local-%d", i), State: pool.NodeReady, Version: "v0.1.0", PID: 100 + i, HSM: "ok",
			Aux: pool.AuxStatus{State: "generating", Generation: 3, Progress: 40, Peers: 4, PeersReady: 2},
		})
	}
	return out
}

func (f *fakeEngine) Close(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}
