package node

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// custodians have keys and an authority that signs sets of them.
type custodians struct {
	authority ed25519.PrivateKey
	keys      []*ecdh.PrivateKey
}

func newCustodians(t *testing.T, n int) *custodians {
	t.Helper()
	c := &custodians{}
	var err error
	if _, c.authority, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	for range n {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.keys = append(c.keys, key)
	}
	return c
}

func (c *custodians) public() []byte { return c.authority.Public().(ed25519.PublicKey) }

func (c *custodians) list() (out []recovery.Recipient) {
	for i, k := range c.keys {
		out = append(out, recovery.Recipient{Name: fmt.Sprintf("c%d", i+1), Version: 1, PublicKey: k.PublicKey().Bytes()})
	}
	return out
}

// set signs the first n custodians.
func (c *custodians) set(t *testing.T, serial uint64, n int, by ed25519.PrivateKey) (signed []byte, hash [32]byte) {
	t.Helper()
	s, err := recovery.NewSet(serial, c.list()[:n])
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = s.Sign(by); err != nil {
		t.Fatal(err)
	}
	parsed, err := recovery.ParseSignedSet(signed)
	if err != nil {
		t.Fatal(err)
	}
	return signed, parsed.Hash()
}

func (w *world) keygenFor(set []byte, hash [32]byte) *nodepb.Start {
	s := w.keygen()
	s.Recipients, s.RecipientsHash = set, hash[:]
	return s
}

func (w *world) refreshStart(record *mpc.PublicRecord, set, old []byte) *nodepb.Start {
	return &nodepb.Start{Operation: "refresh", Members: w.members(1, 2, 3), Record: record.Marshal(), Recipients: set, OldRecipients: old}
}

func handing(envelopes map[uint32][]byte) hooks {
	return hooks{start: func(self uint32, s *nodepb.Start) { s.Envelope = envelopes[self] }}
}

// made reads what a session of key generation or refresh made.
func (w *world) made(results map[uint32]outcome) (*mpc.PublicRecord, map[uint32][]byte) {
	w.t.Helper()
	envelopes := map[uint32][]byte{}
	var record *mpc.PublicRecord
	for i, r := range results {
		if r.outcome == nil {
			w.t.Fatalf("share %d: %v", i, r.failure)
		}
		var err error
		if record, err = mpc.ParsePublicRecord(r.outcome.GetRecord()); err != nil {
			w.t.Fatal(err)
		}
		envelopes[i] = r.outcome.GetEnvelope()
	}
	return record, envelopes
}

// refusedBy demands that every node that was asked refuses, with that reason in
// its text.
func (w *world) refusedBy(what string, results map[uint32]outcome, text string) {
	w.t.Helper()
	said := false
	for i, r := range results {
		if r.outcome != nil {
			w.t.Errorf("%s: share %d was made", what, i)
		}
		said = said || r.failure.GetReason() == nodepb.Failure_REFUSED && strings.Contains(r.failure.GetText(), text)
	}
	if !said {
		w.t.Errorf("%s: nobody says %q: %v", what, text, results)
	}
}

// TestRecipients: every share is sealed to the token and to its custodian, and
// to nobody whom the authority has not signed for.
func TestRecipients(t *testing.T) {
	c, strangers := newCustodians(t, 4), newCustodians(t, 4)
	w := newWorldOf(t, 3, c.public())
	set, hash := c.set(t, 5, 3, c.authority)

	record, envelopes := w.made(w.session(w.keygenFor(set, hash), hooks{}))
	if record.RecipientsHash != hash {
		t.Fatal("the record names another set")
	}
	c.opens(t, record, envelopes)
	for i, r := range w.sign(record, envelopes, hooks{}) {
		if r.outcome == nil {
			t.Fatalf("share %d does not sign: %v", i, r.failure)
		}
	}

	unsigned, unsignedHash := c.set(t, 6, 3, strangers.authority)
	few, fewHash := c.set(t, 6, 2, c.authority)
	broken := bytes.Clone(set)
	broken[len(broken)/2] ^= 1
	for what, x := range map[string]struct {
		set  []byte
		hash [32]byte
		text string
	}{
		"another authority's set":   {unsigned, unsignedHash, "not signed by the authority"},
		"too few recipients":        {few, fewHash, "recipients for 2 shares"},
		"another set than named":    {few, hash, "not the one"},
		"a set that is not named":   {set, mpc.EmptySetHash(), "names none"},
		"no set where one is named": {nil, hash, "none was given"},
	} {
		w.refusedBy("key generation with "+what, w.session(w.keygenFor(x.set, x.hash), hooks{}), x.text)
	}
	w.refusedBy("key generation with a changed set", w.session(w.keygenFor(broken, hash), hooks{}), "")

	newer, newerHash := c.set(t, 6, 4, c.authority)
	older, _ := c.set(t, 4, 4, c.authority)
	same, _ := c.set(t, 5, 4, c.authority)
	foreign, _ := c.set(t, 9, 4, strangers.authority)
	for what, x := range map[string]struct {
		set, old []byte
		text     string
	}{
		"without its set":           {nil, nil, "none was given"},
		"with another set":          {newer, nil, "not the one"},
		"with an older set":         {older, set, "not newer"},
		"with a set of its age":     {same, set, "not newer"},
		"dropping the set":          {nil, set, ""},
		"with a stranger's set":     {foreign, set, "not signed by the authority"},
		"from a set it never had":   {newer, older, "not the one"},
		"from a set that is no set": {newer, []byte("x"), ""},
	} {
		w.refusedBy("refresh "+what, w.session(w.refreshStart(record, x.set, x.old), handing(envelopes)), x.text)
	}
	kept, keptEnvelopes := w.made(w.session(w.refreshStart(record, set, nil), handing(envelopes)))
	if kept.RecipientsHash != hash {
		t.Error("a refresh changed the set")
	}
	c.opens(t, kept, keptEnvelopes)
	moved, movedEnvelopes := w.made(w.session(w.refreshStart(record, newer, set), handing(envelopes)))
	if moved.RecipientsHash != newerHash || !bytes.Equal(moved.PublicKey, record.PublicKey) {
		t.Error("the refresh to a newer set")
	}
	c.opens(t, moved, movedEnvelopes)

	// The authority of the account's set was replaced, and the one that is
	// pinned now has signed its successor only.
	former, formerHash := c.set(t, 5, 3, strangers.authority)
	if formerHash != hash {
		t.Fatal("a set has another name for each of its signers")
	}
	w.refusedBy("refresh keeping a former authority's set", w.session(w.refreshStart(record, former, nil), handing(envelopes)), "not signed by the authority")
	handed, handedEnvelopes := w.made(w.session(w.refreshStart(record, newer, former), handing(envelopes)))
	if handed.RecipientsHash != newerHash {
		t.Error("the refresh to a new authority's set")
	}
	c.opens(t, handed, handedEnvelopes)

	plain, plainEnvelopes := w.account() // allowed: there may be no set yet
	joined, joinedEnvelopes := w.made(w.session(w.refreshStart(plain, set, nil), handing(plainEnvelopes)))
	if joined.RecipientsHash != hash {
		t.Error("an account without recipients did not get them")
	}
	c.opens(t, joined, joinedEnvelopes)

	t.Run("rewrap", func(t *testing.T) {
		made, err := w.clients["n1"].MakeWrappingKey(w.ctx(), &nodepb.MakeWrappingKeyRequest{Version: 2, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
		if err != nil || made.GetFailure() != nil {
			t.Fatal(err, made.GetFailure())
		}
		for _, id := range w.ids {
			reply, err := w.clients[id].SetWrappingKeys(w.ctx(), &nodepb.SetWrappingKeysRequest{WrappingKeys: []*nodepb.WrappingKey{w.key, made.GetWrappingKey()}})
			if err != nil || reply.GetFailure() != nil {
				t.Fatal(err, reply.GetFailure())
			}
		}
		again := map[uint32][]byte{}
		for i, envelope := range envelopes {
			r := &nodepb.RewrapShareRequest{Record: record.Marshal(), Index: i, Envelope: envelope, WrappingVersion: 2, Recipients: set}
			reply, err := w.clients[w.ids[i-1]].RewrapShare(w.ctx(), r)
			if err != nil || reply.GetFailure() != nil {
				t.Fatal(err, reply.GetFailure())
			}
			again[i] = reply.GetEnvelope()
			for what, set := range map[string][]byte{"no set": nil, "another set": newer, "a stranger's set": foreign} {
				r.Recipients = set
				if reply, err := w.clients[w.ids[i-1]].RewrapShare(w.ctx(), r); err != nil || reply.GetFailure().GetReason() != nodepb.Failure_REFUSED {
					t.Errorf("rewrapped with %s: %v %v", what, err, reply.GetFailure())
				}
			}
		}
		c.opens(t, record, again)
	})

	t.Run("fixed by the host", func(t *testing.T) {
		own := hex.EncodeToString(c.public())
		if _, err := parseAuthority(c.public(), own); err != nil {
			t.Error(err)
		}
		if _, err := parseAuthority(strangers.public(), own); err == nil {
			t.Error("took another authority than the host's")
		}
		if key, err := parseAuthority(nil, own); err != nil || key != nil {
			t.Errorf("without an authority: %v, %v", key, err)
		}
	})
	t.Run("no authority", func(t *testing.T) {
		bare := newWorld(t, 3)
		bare.refusedBy("key generation without an authority", bare.session(bare.keygenFor(set, hash), hooks{}), "no authority pinned")
	})
}

// opens demands that custodian i opens share i and no other.
func (c *custodians) opens(t *testing.T, record *mpc.PublicRecord, envelopes map[uint32][]byte) {
	t.Helper()
	for i, envelope := range envelopes {
		for k, key := range c.keys {
			s, _, err := hsm.Open(t.Context(), hsm.SoftwareKey(key), []hsm.WrappingKey{c.list()[k].Key()},
				hsm.ShareContext(uint8(i), record.Hash()), envelope)
			if uint32(k+1) != i {
				if !errors.Is(err, hsm.ErrUnknownKeyVersion) {
					t.Errorf("custodian %d opens share %d: %v", k+1, i, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("custodian %d: %v", k+1, err)
			} else if err := frost.CheckShare(record, mpc.Index(i), s); err != nil {
				t.Errorf("custodian %d has another share: %v", k+1, err)
			}
		}
	}
}

// dealTo has the first and the third custodian deal a bundle to a world's token.
func (c *custodians) dealTo(t *testing.T, w *world, bundle *recovery.Bundle) (target [32]byte, deals []*recovery.Deal) {
	t.Helper()
	to := &recovery.Target{MountID: [16]byte(mount), Key: wrappingKeyFromWire(w.key), Made: time.Unix(2, 0)}
	raw, err := to.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = recovery.SignTarget(raw, c.authority); err != nil {
		t.Fatal(err)
	}
	signed, err := recovery.ParseSignedTarget(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []int{0, 2} {
		d, err := recovery.MakeDeal(t.Context(), bundle, fmt.Sprintf("c%d", k+1), c.keys[k], c.authority.Public().(ed25519.PublicKey), signed)
		if err != nil {
			t.Fatal(err)
		}
		deals = append(deals, d)
	}
	return signed.Hash(), deals
}

// TestImportShare: nodes of another mount make shares out of what custodians
// dealt to its token, and sign with them for the old key.
func TestImportShare(t *testing.T) {
	c := newCustodians(t, 3)
	lost := newWorldOf(t, 3, c.public())
	set, hash := c.set(t, 1, 3, c.authority)
	record, envelopes := lost.made(lost.session(lost.keygenFor(set, hash), hooks{}))
	bundle := &recovery.Bundle{Account: "treasury", Record: record.Marshal(), Recipients: set, Created: time.Unix(1, 0),
		Shares: [][]byte{envelopes[1], envelopes[2], envelopes[3]}}

	w := newWorldOf(t, 3, c.public())
	targetHash, deals := c.dealTo(t, w, bundle)
	request := func(i int, change func(*nodepb.ImportShareRequest)) *nodepb.ImportShareReply {
		r := &nodepb.ImportShareRequest{OldRecord: record.Marshal(), Index: uint32(i), Target: targetHash[:], Recipients: set}
		for _, d := range deals {
			only, err := d.For(mpc.Index(i))
			if err != nil {
				t.Fatal(err)
			}
			b, err := only.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			r.Deals = append(r.Deals, b)
		}
		if change != nil {
			change(r)
		}
		reply, err := w.clients[w.ids[i-1]].ImportShare(w.ctx(), r)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	fresh := map[uint32][]byte{}
	var next *mpc.PublicRecord
	for i := 1; i <= 3; i++ {
		reply := request(i, nil)
		if reply.GetFailure() != nil {
			t.Fatal(reply.GetFailure())
		}
		got, err := mpc.ParsePublicRecord(reply.GetRecord())
		if err != nil || next != nil && got.Hash() != next.Hash() {
			t.Fatalf("node %d arrives at another record, %v", i, err)
		}
		next, fresh[uint32(i)] = got, reply.GetEnvelope()
		if !mpc.VerifyEndorsement(mpc.NodeIdentity(w.setups[w.ids[i-1]].GetIdentity()), got, reply.GetEndorsement()) {
			t.Errorf("node %d did not endorse the record", i)
		}
	}
	if !bytes.Equal(next.PublicKey, record.PublicKey) || next.RecipientsHash != hash {
		t.Fatal("another key, or other recipients")
	}
	c.opens(t, next, fresh)
	for i, r := range w.sign(next, fresh, hooks{}) {
		if r.outcome == nil {
			t.Fatalf("share %d: %v", i, r.failure)
		}
	}
	w.made(w.session(w.refreshStart(next, set, nil), handing(fresh)))

	for what, change := range map[string]func(*nodepb.ImportShareRequest){
		"a deal too few":   func(r *nodepb.ImportShareRequest) { r.Deals = r.Deals[:1] },
		"a deal twice":     func(r *nodepb.ImportShareRequest) { r.Deals[1] = r.Deals[0] },
		"no deal":          func(r *nodepb.ImportShareRequest) { r.Deals = nil },
		"a broken deal":    func(r *nodepb.ImportShareRequest) { r.Deals[0] = []byte("{}") },
		"another target":   func(r *nodepb.ImportShareRequest) { r.Target = make([]byte, 32) },
		"no target":        func(r *nodepb.ImportShareRequest) { r.Target = nil },
		"another account":  func(r *nodepb.ImportShareRequest) { o := *record; o.AccountID[0] ^= 1; r.OldRecord = o.Marshal() },
		"an older epoch":   func(r *nodepb.ImportShareRequest) { o := *record; o.Epoch = 9; r.OldRecord = o.Marshal() },
		"a weaker policy":  func(r *nodepb.ImportShareRequest) { o := *record; o.PolicyHash[0] ^= 1; r.OldRecord = o.Marshal() },
		"share 4":          func(r *nodepb.ImportShareRequest) { r.Index = 4 },
		"another share":    func(r *nodepb.ImportShareRequest) { r.Index = 2 }, // sealed for share 1
		"unsigned custody": func(r *nodepb.ImportShareRequest) { r.Recipients = []byte("{}") },
	} {
		if reply := request(1, change); reply.GetFailure() == nil {
			t.Errorf("imported with %s", what)
		}
	}
}
