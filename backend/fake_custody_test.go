package backend

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// custodyEnvelope is a fake envelope that needs a custody key as well.
func custodyEnvelope(content []byte, version uint32) []byte {
	e, err := hsm.ParseEnvelope(fakeEnvelope(content, version))
	if err != nil {
		panic(err)
	}
	e.Holders = append(e.Holders, hsm.Holder{Kind: hsm.HolderCustody, Seals: []hsm.SealedKey{
		{Suite: hsm.SuiteHPKEP256, Domain: "custody", Version: 1, Sealed: make([]byte, 113)}}})
	out, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	return out
}

// reseal gives a fake envelope another version of the wrapping key and changes
// nothing else; broken ones do not open.
func reseal(envelope []byte, version uint32, broken bool) []byte {
	e, err := hsm.ParseEnvelope(envelope)
	if err != nil {
		panic(err)
	}
	e.Holders[0].Seals = []hsm.SealedKey{{Suite: hsm.SuiteHPKEP256, Domain: hsm.DefaultDomain, Version: version, Sealed: make([]byte, 113)}}
	if broken {
		e.Holders[0].Seals[0].Sealed[0] = 1
	}
	out, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	return out
}

// brokenSeal says that reseal made it so.
func brokenSeal(envelope []byte) bool {
	seals, err := hsm.Seals(envelope)
	return err != nil || len(seals) == 0 || seals[0].Sealed[0] != 0
}

// fakeRelease is what an owner hands over for one share in the world of fakes.
func fakeRelease(purpose [32]byte, index mpc.Index) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "release of share %d for %x", index, purpose))
	return sum[:]
}

// releasesFor answers what custody/:name/begin returned, as the owner's client.
func releasesFor(t *testing.T, begun map[string]any) []map[string]any {
	t.Helper()
	purpose, err := base64.StdEncoding.DecodeString(begun["purpose"].(string))
	if err != nil || len(purpose) != 32 {
		t.Fatalf("purpose %v", begun["purpose"])
	}
	var out []map[string]any
	for _, s := range begun["signers"].([]map[string]any) {
		i := mpc.Index(s["index"].(int))
		out = append(out, map[string]any{"index": int(i), "release": base64.StdEncoding.EncodeToString(fakeRelease([32]byte(purpose), i))})
	}
	return out
}

func purposeOf(r *pool.CustodyRequest, members []pool.CustodyMember) custody.Purpose {
	p := custody.Purpose{Operation: r.Operation, Record: r.Account.Record.Hash(), NextCustody: r.NextCustody}
	if len(r.NextPolicy) > 0 {
		hash := sha256.Sum256(r.NextPolicy)
		p.NextPolicy = hash[:]
	}
	if r.Operation == custody.OpSign {
		p.Input, p.MessageType, p.HashAlgorithm = r.Input, string(r.MessageType), string(r.Hash)
		p.DerivationPath, p.TaprootTweak = r.Derivation.Path, r.Derivation.TaprootTweak
	}
	for _, m := range members {
		p.Signers = append(p.Signers, custody.Signer{Index: m.Index, Node: m.Node})
	}
	return p
}

func (f *fakeEngine) PrepareCustody(ctx context.Context, r pool.CustodyRequest) (*pool.CustodyOffer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.prepareErr != nil {
		return nil, f.prepareErr
	}
	n := r.Account.Record.Threshold
	if r.Operation == custody.OpRefresh {
		n = r.Account.Record.Shares
	}
	o := &pool.CustodyOffer{Request: r, Expires: time.Now().Add(custody.OfferLifetime)}
	for i := 1; i <= n; i++ {
		m := pool.CustodyMember{NodeID: fmt.Sprintf("local-%d", i)}
		m.Index, m.Node, m.PublicKey, m.Expires, m.Signature = mpc.Index(i), nodeIdentity(i), make([]byte, 32), o.Expires, make([]byte, 64)
		o.Members = append(o.Members, m)
	}
	o.Purpose = purposeOf(&r, o.Members).Hash()
	f.prepared = append(f.prepared, o)
	return o, ctx.Err()
}

func (f *fakeEngine) RunCustody(ctx context.Context, o *pool.CustodyOffer, releases map[mpc.Index][]byte) (*pool.CustodyResult, error) {
	if err := f.pause(ctx, "custody"); err != nil {
		return nil, &pool.CustodyLostError{Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.custodyErr != nil {
		return nil, f.custodyErr
	}
	r := &o.Request
	if purposeOf(r, o.Members).Hash() != o.Purpose {
		f.t.Error("the request was changed in what a release is bound to")
	}
	for _, m := range o.Members {
		if !bytes.Equal(releases[m.Index], fakeRelease(o.Purpose, m.Index)) {
			return nil, &pool.CustodyLostError{Err: errors.New("the release does not open")}
		}
		if err := f.use(&r.Account, m.Node, m.Index); err != nil {
			return nil, &pool.CustodyLostError{Err: err}
		}
	}
	if r.Operation == custody.OpSign {
		if err := f.approvedSign(&pool.SignRequest{Account: r.Account, Input: r.Input, MessageType: r.MessageType, Hash: r.Hash,
			Derivation: r.Derivation, Policy: r.Policy, Approvals: r.Approvals}); err != nil {
			return nil, err
		}
		sig, err := f.keys[r.Account.Record.AccountID].sign(&r.Account.Record, &pool.SignRequest{
			Account: r.Account, Input: r.Input, MessageType: r.MessageType, Hash: r.Hash, Derivation: r.Derivation})
		if err != nil {
			return nil, err
		}
		res := &pool.SignResult{Signature: *sig, Attempts: 1}
		for _, m := range o.Members {
			res.Signers = append(res.Signers, mpc.Signer{Index: m.Index, NodeID: m.NodeID})
		}
		return &pool.CustodyResult{Signature: res}, nil
	}
	next := r.Account.Record
	hash, err := f.nextPolicy(&pool.RefreshRequest{Account: r.Account, NextPolicy: r.NextPolicy, Policy: r.Policy, Approvals: r.Approvals})
	if err != nil {
		return nil, &pool.CustodyLostError{Err: err}
	}
	f.nextEpoch(&next)
	next.PolicyHash = hash
	next.Custody = mpc.CustodyHash(r.NextCustody)
	res := f.result(next)
	if f.mismatch != nil {
		f.mismatch(res)
	}
	return &pool.CustodyResult{Key: res}, nil
}

// owner is an identity with an asset that holds a custody key, written straight
// into storage, and the keys to change it.
type owner struct {
	t        testing.TB
	storage  logical.Storage
	name     string
	identity *identityRecord
	opened   *identity.Opened
	asset    *identity.Asset
}

// custodyKeyPair draws a custody key.
func custodyKeyPair(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newOwner writes an identity of that name with one authenticator, and an asset
// "key" that holds a custody key, straight into storage.
func newOwner(t testing.TB, storage logical.Storage, name string) *owner {
	t.Helper()
	auth, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	signed, opened, err := identity.Create(identity.NewIdentity{Name: name, Kind: identity.Person, Keys: auth, Time: at,
		Authenticator: &identity.Authenticator{Format: 1, ID: identity.NewID(), Name: name + "-key", Method: identity.KeyFile, Keys: auth.Public(), Created: at}})
	if err != nil {
		t.Fatal(err)
	}
	o := &owner{t: t, storage: storage, name: name, opened: opened,
		identity: &identityRecord{Version: recordVersion, ID: opened.Manifest.Identity.String(), Created: at, Signed: *signed}}
	o.store()
	o.write(&identity.Asset{Format: 1, Identity: opened.Manifest.Identity, ID: identity.NewID(), Name: "key", Kind: identity.AccountAsset}, func(a *identity.Asset) error {
		return o.setKey(a, identity.CustodyKey)
	})
	return o
}

func (o *owner) put(key string, record any) {
	o.t.Helper()
	raw, err := json.Marshal(record)
	if err == nil {
		err = o.storage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: raw})
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// store writes the identity's record.
func (o *owner) store() { o.put(prefixIdentities+o.name, o.identity) }

// freeze freezes the identity, or ends that.
func (o *owner) freeze(frozen bool) {
	o.identity.Frozen = nil
	if frozen {
		o.identity.Frozen = &frozenRecord{Time: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), Reason: "stolen"}
	}
	o.store()
}

// write makes the next generation of the asset and stores it.
func (o *owner) write(a *identity.Asset, change func(*identity.Asset) error) {
	o.t.Helper()
	signed, err := o.opened.WriteAsset(a, time.Now(), change)
	if err == nil {
		o.asset, err = o.opened.OpenAsset(signed)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.put(prefixAssets+o.identity.ID+"/"+o.asset.Name, &assetRecord{Version: recordVersion, Signed: *signed})
}

// setKey gives an asset a custody key, drawn now, under a name.
func (o *owner) setKey(a *identity.Asset, name string) error {
	priv := custodyKeyPair(o.t)
	k, err := identity.SealAssetKey(o.opened.Manifest, a, name, priv.PublicKey().Bytes(), secret.New(priv.Bytes()), []string{identity.OwnerRole})
	if err != nil {
		return err
	}
	a.Keys = slices.DeleteFunc(a.Keys, func(k identity.AssetKey) bool { return k.Name == name })
	a.Keys = append(a.Keys, *k)
	slices.SortFunc(a.Keys, func(x, y identity.AssetKey) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

// replace gives the asset a custody key that waits for the next refresh.
func (o *owner) replace() {
	o.t.Helper()
	o.write(o.asset, func(a *identity.Asset) error { return o.setKey(a, identity.NextCustodyKey) })
}

// promote makes the one that waits the asset's only one.
func (o *owner) promote() {
	o.t.Helper()
	signed, err := o.opened.PromoteCustody(o.asset, time.Now())
	if err == nil {
		o.asset, err = o.opened.OpenAsset(signed)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.put(prefixAssets+o.identity.ID+"/"+o.asset.Name, &assetRecord{Version: recordVersion, Signed: *signed})
}

func (o *owner) public(key string) string {
	return base64.StdEncoding.EncodeToString(o.asset.Key(key).Public)
}
