//go:build e2e

package e2e_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/secret"
)

// keeper is the owner of an identity with one authenticator, as a client program of
// his own holds it: the packages identity and mpc/custody, and the engine's API.
type keeper struct {
	e      *engine
	name   string
	opened *identity.Opened
	// roster has the nodes' identities, which the client has pinned.
	roster map[mpc.NodeIdentity]bool
}

// newKeeper registers an authenticator and creates an identity.
func newKeeper(t *testing.T, e *engine, name string) *keeper {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a := &identity.Authenticator{Format: 1, ID: identity.NewID(), Name: name + "-file", Method: identity.KeyFile,
		KDF: identity.DefaultKDF(), Created: time.Now().UTC().Truncate(time.Second)}
	login, err := identity.AuthenticationInformation{Information: identity.NewSeed()}.LoginSecret(a.ID, a.Method)
	ok(err)
	r, request, err := identity.StartRegistration(login, a.ID, a.KDF)
	ok(err)
	answer := e.write(t, "authenticators/"+a.Name+"/register", map[string]any{"id": a.ID.String(), "request": b64(request), "kind": string(a.Method)})
	registration, export, _, err := r.Finish(fromBase64(t, answer["response"]))
	ok(err)
	kek, err := identity.AuthenticatorKEK(export, a.ID)
	ok(err)
	keys, err := identity.NewKeys(identity.NewSeed())
	ok(err)
	a.Keys = keys.Public()
	a.Wrapped, err = identity.Wrap(kek, identity.AuthenticatorSeedContext(a.ID), keys.Seed())
	ok(err)
	signed, err := identity.SignAuthenticator(a, keys)
	ok(err)
	e.write(t, "authenticators/"+a.Name, map[string]any{"authenticator": b64(signed.Authenticator), "signature": b64(signed.Signature), "registration": b64(registration)})

	manifest, opened, err := identity.Create(identity.NewIdentity{Name: name, Kind: identity.Person, Authenticator: a, Keys: keys, Time: time.Now()})
	ok(err)
	e.write(t, "identities/"+name, map[string]any{"manifest": b64(manifest.Manifest), "signature": b64(manifest.Signature)})
	k := &keeper{e: e, name: name, opened: opened}
	k.pin(t)
	return k
}

// pin takes the nodes that there are for the right ones, as a client does once.
func (k *keeper) pin(t *testing.T) {
	t.Helper()
	k.roster = map[mpc.NodeIdentity]bool{}
	for id, n := range k.e.nodes(t) {
		node, err := mpc.ParseNodeIdentity(fmt.Sprint(n["identity"]))
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		k.roster[node] = true
	}
}

func fromBase64(t testing.TB, v any) []byte {
	t.Helper()
	text, _ := v.(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 {
		t.Fatalf("%v is not base64: %v", v, err)
	}
	return raw
}

// asset reads and verifies the asset of that name; nil where there is none yet.
func (k *keeper) asset(t *testing.T, name string) *identity.Asset {
	t.Helper()
	d := k.e.read(t, "identities/"+k.name+"/assets/"+name)
	a, err := k.opened.OpenAssetNamed(name, &identity.SignedAsset{Asset: fromBase64(t, d["asset"]), Signature: fromBase64(t, d["signature"])})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (k *keeper) store(t *testing.T, name string, s *identity.SignedAsset, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	k.e.write(t, "identities/"+k.name+"/assets/"+name, map[string]any{"asset": b64(s.Asset), "signature": b64(s.Signature)})
}

// newCustody draws a custody key.
func newCustody(*identity.Asset) (public []byte, private *secret.Bytes, err error) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return key.PublicKey().Bytes(), secret.New(key.Bytes()), nil
}

// account makes an asset with a custody key and an account that is tied to it.
func (k *keeper) account(t *testing.T, name, algorithm string, threshold, shares int) map[string]any {
	t.Helper()
	s, err := k.opened.WriteAsset(k.opened.NewAsset(name, identity.AccountAsset), time.Now(), func(a *identity.Asset) error {
		public, private, err := newCustody(a)
		if err != nil {
			return err
		}
		defer private.Wipe()
		key, err := identity.SealAssetKey(k.opened.Manifest, a, identity.CustodyKey, public, private, []string{identity.OwnerRole})
		if err == nil {
			a.Put(*key)
		}
		return err
	})
	k.store(t, name, s, err)
	made := k.e.write(t, "accounts/"+name, map[string]any{"algorithm": algorithm, "threshold": threshold, "shares": shares,
		"custody_identity": k.name, "custody_asset": name})
	s, err = k.opened.WriteAsset(k.asset(t, name), time.Now(), func(a *identity.Asset) error {
		a.Account = made["id"].(string)
		return nil
	})
	k.store(t, name, s, err)
	return made
}

// key opens a custody key of the account's asset.
func (k *keeper) key(t *testing.T, account, name string) *ecdh.PrivateKey {
	t.Helper()
	value, err := k.opened.AssetValue(k.asset(t, account), name)
	if err != nil {
		t.Fatal(err)
	}
	defer value.Wipe()
	key, err := ecdh.P256().NewPrivateKey(value.Expose())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// offered is what begin returned, as a client understands it.
type offered struct {
	release  string
	approval custody.Approval
	next     []byte
}

// begin begins an operation and puts together what the user asked for.
func (k *keeper) begin(t *testing.T, account string, want custody.Purpose) *offered {
	t.Helper()
	in := map[string]any{"operation": want.Operation}
	for field, v := range map[string]string{"message_type": want.MessageType, "hash_algorithm": want.HashAlgorithm,
		"derivation_path": want.DerivationPath, "taproot_tweak": want.TaprootTweak} {
		if v != "" {
			in[field] = v
		}
	}
	if len(want.Input) > 0 {
		in["input"] = b64(want.Input)
	}
	d := k.e.write(t, "custody/"+account+"/begin", in)
	record, err := mpc.ParsePublicRecord(fromBase64(t, d["record"]))
	if err != nil {
		t.Fatal(err)
	}
	o := &offered{release: d["release"].(string), next: fromBase64(t, d["next_custody_public_key"])}
	want.Record = record.Hash()
	if want.Operation == custody.OpRefresh {
		want.NextCustody = o.next
	}
	o.approval = custody.Approval{Record: record, Envelopes: map[mpc.Index][]byte{}, Now: time.Now(),
		Pinned: func(n mpc.NodeIdentity) bool { return k.roster[n] }}
	for _, raw := range d["signers"].([]any) {
		s := raw.(map[string]any)
		index, err := s["index"].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		expires, err := s["expires_unix_ms"].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		node, err := mpc.ParseNodeIdentity(s["identity"].(string))
		if err != nil {
			t.Fatal(err)
		}
		offer := custody.Offer{Index: mpc.Index(index), Node: node, PublicKey: fromBase64(t, s["public_key"]),
			Expires: time.UnixMilli(expires), Signature: fromBase64(t, s["signature"])}
		id, err := hex.DecodeString(s["release_id"].(string))
		if err != nil || copy(offer.ReleaseID[:], id) != len(offer.ReleaseID) {
			t.Fatalf("release ID %v", s["release_id"])
		}
		want.Signers = append(want.Signers, custody.Signer{Index: offer.Index, Node: node})
		o.approval.Offers = append(o.approval.Offers, offer)
		o.approval.Envelopes[offer.Index] = fromBase64(t, s["envelope"])
	}
	o.approval.Purpose = want
	if hash := want.Hash(); b64(hash[:]) != d["purpose"] {
		t.Fatalf("the engine prepares something else than was asked for: %v", d)
	}
	return o
}

// finishing is what the client sends back: nothing but the second keys, sealed to
// the nodes.
func (o *offered) finishing(t *testing.T, key *ecdh.PrivateKey) map[string]any {
	t.Helper()
	releases, err := o.approval.Release(key)
	if err != nil {
		t.Fatal(err)
	}
	var list []any
	for i := range maps.Keys(releases) {
		list = append(list, map[string]any{"index": int(i), "release": b64(releases[i])})
	}
	return map[string]any{"release": o.release, "releases": list}
}

// signs signs as the user wants and checks the signature with other programs.
func (k *keeper) signs(t *testing.T, account, algorithm string, message []byte) {
	t.Helper()
	k.e.check(t, account, message, k.e.write(t, "custody/"+account+"/finish",
		k.begin(t, account, rawMessage(algorithm, message)).finishing(t, k.key(t, account, identity.CustodyKey))))
}

// rawMessage is what a user who signs a message as it is agrees to.
func rawMessage(algorithm string, message []byte) custody.Purpose {
	p := custody.Purpose{Operation: custody.OpSign, Input: message, MessageType: string(mpc.MessageRaw), HashAlgorithm: string(mpc.HashNone)}
	if mpc.Algorithm(algorithm).IsECDSA() {
		p.HashAlgorithm = string(mpc.HashSHA256)
	}
	return p
}

// refreshes refreshes with the key in force; the next one is the asset's.
func (k *keeper) refreshes(t *testing.T, account string) map[string]any {
	t.Helper()
	return k.e.write(t, "custody/"+account+"/finish",
		k.begin(t, account, custody.Purpose{Operation: custody.OpRefresh}).finishing(t, k.key(t, account, identity.CustodyKey)))
}
