package cli

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
)

// custodyDoc says who has an account's custody key; a part of accounts/:name.
type custodyDoc struct {
	Identity  string `json:"identity"`
	Asset     string `json:"asset"`
	PublicKey []byte `json:"public_key"` // P-256, uncompressed, 65 bytes
}

// roster knows the nodes that this home has seen: what is released is sealed to
// keys that one of them has signed.
type roster interface {
	// Known fails unless the node was seen before, or none was.
	Known(node mpc.NodeIdentity) error
}

// custodian uses the custody key of one account for one operation at a time.
type custodian struct {
	keyholder.Caller
	nodes roster
	now   func() time.Time
	// pause is how long to wait before an operation is begun again.
	pause time.Duration
}

// offered is the answer to custody/:name/begin.
type offered struct {
	Release     string          `json:"release"`
	Record      []byte          `json:"record"`
	Purpose     []byte          `json:"purpose"`
	Signers     []offeredSigner `json:"signers"`
	CustodyKey  []byte          `json:"custody_public_key"`
	NextCustody []byte          `json:"next_custody_public_key"`
	RefreshDue  bool            `json:"refresh_due"`
	Expires     string          `json:"expires_time"`
	// Of a refresh with a request: the approval policies in force and to come.
	Policy     []byte `json:"policy"`
	NextPolicy []byte `json:"next_policy"`
}

type offeredSigner struct {
	Index     mpc.Index `json:"index"`
	Node      string    `json:"node"`
	Identity  string    `json:"identity"`   // hex
	ReleaseID string    `json:"release_id"` // hex
	PublicKey []byte    `json:"public_key"`
	Expires   int64     `json:"expires_unix_ms"`
	Signature []byte    `json:"signature"`
	Envelope  []byte    `json:"envelope"`
}

func (s offeredSigner) offer() (custody.Offer, error) {
	node, err := mpc.ParseNodeIdentity(s.Identity)
	if err != nil {
		return custody.Offer{}, errForm(err)
	}
	id, err := hex.DecodeString(s.ReleaseID)
	if err != nil || len(id) != len(custody.Offer{}.ReleaseID) {
		return custody.Offer{}, errForm(errors.New("a release has no ID"))
	}
	return custody.Offer{ReleaseID: [16]byte(id), Index: s.Index, Node: node, PublicKey: s.PublicKey,
		Expires: time.UnixMilli(s.Expires), Signature: s.Signature}, nil
}

// custodyTask is one use of a custody key.
type custodyTask struct {
	what    string // "sign with account \"x\""
	account string // name
	// id is the account that the asset names; key its custody key.
	id  string
	key *ecdh.PrivateKey
	// purpose is what the key is used for; run adds record and signers. For a
	// refresh, NextCustody is the key that is to be in force afterwards.
	purpose custody.Purpose
	// finish are further fields of custody/:name/finish.
	finish map[string]any
	// mayRefresh has a refresh that is due done first.
	mayRefresh bool
	// request is the one that was approved, of an account that demands it.
	request string
	// policy has the fields of a refresh that brings the account's first policy.
	policy map[string]any
	// present is the hash of the policy in force that the user was shown, where
	// purpose.NextPolicy is to replace it.
	present [32]byte
	// publicKey is what this home remembers as the account's; nil where it does not
	// come to that, which is so in refreshes.
	publicKey []byte
	// accept, if there is one, checks what a finished operation has answered.
	accept func() error
}

// maxBegins bounds how often an operation is begun: a node may end between the
// two halves, and the release was for that one only.
const maxBegins = 4

// run has the nodes offer session keys, checks all that they are for, releases
// the second layer of their shares to them, and has them carry it out. Nothing is
// released that differs from the task in any respect.
func (c *custodian) run(ctx context.Context, t custodyTask, out any) error {
	for try := 1; ; try++ {
		err := c.once(ctx, &t, out)
		if err == nil || try == maxBegins || !beginAgain(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return &refusal{what: "cannot " + t.what, cause: ctx.Err()}
		case <-time.After(c.pause):
		}
	}
}

// beginAgain: the nodes that were chosen are no longer the ones that can do it.
func beginAgain(err error) bool {
	var r *refusal
	return errors.As(err, &r) && (r.status == http.StatusConflict || r.status == http.StatusServiceUnavailable) && r.said("begin again")
}

func (c *custodian) once(ctx context.Context, t *custodyTask, out any) error {
	path := "custody/" + t.account
	var o offered
	if err := c.Call(ctx, keyholder.Write, path+"/begin", t.beginBody(), &o); err != nil {
		return refusedBy(t.what, err)
	}
	if o.RefreshDue && t.mayRefresh {
		t.mayRefresh = false
		if err := c.refresh(ctx, t.account, t.id, t.key, nil); err != nil {
			return fmt.Errorf("a refresh of the shares is due, and it failed: %w", err)
		}
		return c.once(ctx, t, out)
	}
	releases, err := c.release(t, &o)
	if err != nil {
		out := refusedBy(t.what, err)
		var r *refusal
		if errors.As(out, &r) && r.advice == "" {
			r.advice = "Nothing was released and nothing was signed."
		}
		return out
	}
	body := map[string]any{"release": o.Release, "releases": releases}
	for k, v := range t.finish {
		body[k] = v
	}
	if err := c.Call(ctx, keyholder.Write, path+"/finish", body, out); err != nil {
		return refusedBy(t.what, err)
	}
	if t.accept != nil {
		return t.accept()
	}
	return nil
}

// sign has a message signed, and takes nothing for a signature but one of it with the
// account's key. Where it fails doc is empty.
func (c *custodian) sign(ctx context.Context, t custodyTask, want *wantedSignature, doc *signDoc) error {
	var answer signDoc
	t.publicKey = want.record.PublicKey
	t.accept = func() error { return want.checked(t.what, &answer) }
	if err := c.run(ctx, t, &answer); err != nil {
		return err
	}
	answer.Name = doc.Name
	*doc = answer
	return nil
}

func (t *custodyTask) beginBody() map[string]any {
	body := map[string]any{"operation": t.purpose.Operation}
	for name, value := range map[string]string{"message_type": t.purpose.MessageType, "hash_algorithm": t.purpose.HashAlgorithm,
		"derivation_path": t.purpose.DerivationPath, "taproot_tweak": t.purpose.TaprootTweak} {
		if value != "" {
			body[name] = value
		}
	}
	maps.Copy(body, t.policy)
	if t.request != "" {
		body["request"] = t.request
	}
	if len(t.purpose.Input) > 0 {
		body["input"] = base64.StdEncoding.EncodeToString(t.purpose.Input)
	}
	return body
}

// release checks what the server offers and seals to each signer what opens its
// share. The record has to be of the account that the asset names; that it binds
// this custody key, and that every signer is a node this home knows and has signed
// a key of its own for exactly this purpose, custody.Approval checks.
func (c *custodian) release(t *custodyTask, o *offered) (string, error) {
	record, err := t.recordIn(o)
	if err != nil {
		return "", err
	}
	if len(t.purpose.NextPolicy) > 0 && record.PolicyHash != t.present {
		return "", errors.New("the account has another policy by now than the one that was shown")
	}
	if t.publicKey != nil && !bytes.Equal(record.PublicKey, t.publicKey) {
		return "", errors.New("the server shows a record with another public key than this home remembers for the account")
	}
	approval := custody.Approval{Purpose: t.purpose, Record: record, Envelopes: map[mpc.Index][]byte{}, Now: c.now(),
		Pinned: func(node mpc.NodeIdentity) bool { return c.nodes.Known(node) == nil }}
	approval.Purpose.Record, approval.Purpose.Signers = record.Hash(), nil
	if t.purpose.Operation == custody.OpSign {
		approval.Purpose.HashAlgorithm = usualHash(record.Algorithm, t.purpose.MessageType, t.purpose.HashAlgorithm)
	}
	for _, s := range o.Signers {
		offer, err := s.offer()
		if err != nil {
			return "", err
		}
		if err := c.nodes.Known(offer.Node); err != nil {
			return "", fmt.Errorf("node %s: %w", s.Node, err)
		}
		approval.Purpose.Signers = append(approval.Purpose.Signers, custody.Signer{Index: s.Index, Node: offer.Node})
		approval.Offers = append(approval.Offers, offer)
		approval.Envelopes[s.Index] = s.Envelope
	}
	if hash := approval.Purpose.Hash(); !bytes.Equal(hash[:], o.Purpose) {
		return "", errors.New("the server would have the nodes do something else than what was asked for")
	}
	releases, err := approval.Release(t.key)
	if err != nil {
		return "", err
	}
	type released struct {
		Index   mpc.Index `json:"index"`
		Release []byte    `json:"release"`
	}
	var all []released
	for _, i := range slices.Sorted(maps.Keys(releases)) {
		all = append(all, released{i, releases[i]})
	}
	raw, err := json.Marshal(all)
	return string(raw), err
}

// usualHash is the hash that a message is signed with where none is named, as the
// engine documents it: the server's word for it would be what it likes.
func usualHash(a mpc.Algorithm, kind, named string) string {
	h := mpc.HashAlgorithm(named)
	switch {
	case mpc.MessageType(kind).Ethereum():
		return string(mpc.HashKeccak256)
	case !a.IsECDSA(), mpc.MessageType(kind) == mpc.MessageDigest && (named == "" || h.DigestLength() == mpc.DigestSize):
		return string(mpc.HashNone)
	case named == "":
		return string(mpc.Hashes(a)[0])
	}
	return named
}

// refresh replaces the account's shares with the custody key in force; they are
// sealed to next afterwards, which is the same key where it is nil.
func (c *custodian) refresh(ctx context.Context, account, id string, key *ecdh.PrivateKey, next []byte) error {
	if next == nil {
		next = key.PublicKey().Bytes()
	}
	return c.run(ctx, custodyTask{
		what: "refresh account " + quote(account), account: account, id: id, key: key,
		purpose: custody.Purpose{Operation: custody.OpRefresh, NextCustody: next},
	}, nil)
}

// custodyKey opens an asset's custody key of that name. The standard library keeps
// a copy that cannot be wiped; the process ends soon.
func (h *holder) custodyKey(a *identity.Asset, name string) (*ecdh.PrivateKey, error) {
	what := "open the custody key in " + quote(h.name+"/"+a.Name)
	if a.Kind != identity.AccountAsset {
		return nil, &refusal{what: fmt.Sprintf("%s is a secret, not the custody key of an account", quote(h.name+"/"+a.Name))}
	}
	value, err := h.opened.AssetValue(a, name)
	if err != nil {
		return nil, refusedBy(what, err)
	}
	defer value.Wipe()
	key, err := ecdh.P256().NewPrivateKey(value.Expose())
	if err != nil || !bytes.Equal(key.PublicKey().Bytes(), a.Key(name).Public) {
		return nil, refusedBy(what, errors.New("the private key in the asset is not that of its public half"))
	}
	return key, nil
}

// needsCustody: the engine will not use the account without its custody key, as
// it says with the path that does.
func needsCustody(err error) bool {
	var r *refusal
	return errors.As(err, &r) && (r.status == http.StatusConflict || r.status == http.StatusBadRequest) && strings.Contains(strings.Join(r.messages, " "), "custody/")
}
