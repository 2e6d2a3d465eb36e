package node

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// endorsed has a node make a key of its domain and vouch for it.
func (h *hosts) endorsed(id string, version uint32) *nodepb.EndorsedKey {
	h.t.Helper()
	made := h.makeKey(id, version)
	identity := h.nodes[id].self()
	return &nodepb.EndorsedKey{Key: made.GetWrappingKey(), Identity: identity[:], Signature: made.GetEndorsement()}
}

// TestMove: a share moves to another wrapping domain by a refresh in which its
// holder seals to that domain's key. Nodes of the domain open it, its holder does
// not, and the account signs there.
func TestMove(t *testing.T) {
	h := newHosts(t, "a", "b", "c", "d")
	a := h.make(h.keygen(), nil)
	h.signs(a)
	key := h.endorsed("n4", 2)
	for name, d := range h.domains {
		if name == "d" {
			d.keys = append(d.keys, key.GetKey())
		} else {
			d.keys = append(d.keys, h.makeKey(h.nodeOf(name), 2).GetWrappingKey())
		}
	}
	h.shareKeys()
	for what, recipients := range map[string][]recovery.Recipient{"with recipients": h.people.list(), "without": nil} {
		set, hash := h.set(3, h.people.authority, recipients, nil)
		move := h.refresh(a)
		move.Members[0].Domain, move.WrappingVersion, move.Recipients, move.SealTo = "d", 2, set, []*nodepb.EndorsedKey{key}
		moved := h.make(move, a)
		if moved.record.RecipientsHash != hash || !bytes.Equal(moved.record.PublicKey, a.record.PublicKey) {
			t.Errorf("%s: the record of the move", what)
		}
		if f := h.opensAt("n4", moved, 1); f != nil {
			t.Errorf("%s: its new home does not open the share: %v", what, f)
		}
		if f := h.opensAt("n1", moved, 1); !saysSo(f, nodepb.Failure_WRAPPING_KEY, `"d" version 2`) {
			t.Errorf("%s: its old home: %v", what, f)
		}
		for i, envelope := range moved.envelopes {
			seals, err := hsm.Seals(envelope)
			if err != nil || len(seals) != 1+min(1, len(recipients)) {
				t.Errorf("%s: share %d is sealed to %v, %v", what, i, seals, err)
			}
		}
		if len(recipients) > 0 {
			h.people.opens(t, moved.record, moved.envelopes)
		}
		start := h.signing(moved)
		start.Members = []*nodepb.Member{h.members(4)[0], h.members(3)[0]}
		start.Members[0].Index = 1
		for i, r := range h.session(start, handing(moved.envelopes)) {
			if r.outcome == nil {
				t.Errorf("%s: share %d does not sign in its new home: %v", what, i, r.failure)
			}
		}
		for _, f := range h.floors { // the next round begins with the same epoch
			f.forget(a.record.AccountID)
		}
	}
}

// TestForeignDomains: a share goes to another domain on the word of nodes only that
// the pinned authority has named for that domain, and for this mount and version.
func TestForeignDomains(t *testing.T) {
	h := newHosts(t, "a", "b", "c", "d")
	a := h.make(h.keygen(), nil)
	good := h.endorsed("n4", 1)
	set, _ := h.set(4, h.people.authority, h.people.list(), nil)
	clone := func(change func(*nodepb.EndorsedKey)) *nodepb.EndorsedKey {
		k := good.GetKey()
		e := &nodepb.EndorsedKey{Key: &nodepb.WrappingKey{Domain: k.Domain, Version: k.Version, Suite: k.Suite, Id: k.Id, PublicKey: k.PublicKey}, Identity: good.Identity, Signature: good.Signature}
		change(e)
		return e
	}
	signedBy := func(id string, mountID [16]byte, key *nodepb.WrappingKey) *nodepb.EndorsedKey {
		identity := h.nodes[id].self()
		return &nodepb.EndorsedKey{Key: key, Identity: identity[:], Signature: hsm.EndorseKey(h.of[id].Identity, mountID, wrappingKeyFromWire(key))}
	}
	evil := h.evilKey("d", 1)
	unnamed, _ := h.set(4, h.people.authority, h.people.list(), func(d []recovery.Domain) []recovery.Domain {
		return slices.DeleteFunc(d, func(d recovery.Domain) bool { return d.Name == "d" })
	})
	misnamed, _ := h.set(4, h.people.authority, h.people.list(), func(d []recovery.Domain) []recovery.Domain {
		for k := range d {
			d[k].Name = map[string]string{"a": "a", "b": "b", "c": "d", "d": "c"}[d[k].Name]
		}
		return d
	})
	plain, _ := h.people.set(t, 4, 3, h.people.authority)
	strangers := newCustodians(t, 3)
	forged, _ := h.set(4, strangers.authority, strangers.list(), nil)
	for what, c := range map[string]struct {
		set     []byte
		keys    []*nodepb.EndorsedKey
		version uint32
		text    string
	}{
		"without a set":                        {nil, []*nodepb.EndorsedKey{good}, 1, "no recipient set"},
		"a set of the first format":            {plain, []*nodepb.EndorsedKey{good}, 1, "does not name it"},
		"a set that does not name the domain":  {unnamed, []*nodepb.EndorsedKey{good}, 1, "does not name it"},
		"a set that names others for it":       {misnamed, []*nodepb.EndorsedKey{good}, 1, "none of the nodes that the authority signed for"},
		"another authority's set":              {forged, []*nodepb.EndorsedKey{good}, 1, "not signed by the authority"},
		"without a key":                        {set, nil, 1, "no key of it"},
		"without an endorsement":               {set, []*nodepb.EndorsedKey{clone(func(e *nodepb.EndorsedKey) { e.Signature, e.Identity = nil, nil })}, 1, "none of the nodes"},
		"another key under its endorsement":    {set, []*nodepb.EndorsedKey{clone(func(e *nodepb.EndorsedKey) { e.Key = evil })}, 1, "has not vouched for this key"},
		"endorsed by a node of another domain": {set, []*nodepb.EndorsedKey{signedBy("n2", [16]byte(mount), evil)}, 1, "none of the nodes"},
		"endorsed by this node itself":         {set, []*nodepb.EndorsedKey{signedBy("n1", [16]byte(mount), evil)}, 1, "none of the nodes"},
		"in the name of its node": {set, []*nodepb.EndorsedKey{clone(func(e *nodepb.EndorsedKey) {
			e.Key, e.Signature = evil, signedBy("n2", [16]byte(mount), evil).Signature
		})}, 1, "has not vouched for this key"},
		"for another mount":      {set, []*nodepb.EndorsedKey{signedBy("n4", [16]byte{9}, good.GetKey())}, 1, "on this mount"},
		"of another version":     {set, []*nodepb.EndorsedKey{h.endorsed("n4", 2)}, 1, "is of version 2"},
		"called another version": {set, []*nodepb.EndorsedKey{clone(func(e *nodepb.EndorsedKey) { e.Key.Version = 2 })}, 1, "is of version 2"},
		"without a version":      {set, []*nodepb.EndorsedKey{good}, 0, "is not given"},
		"two of them":            {set, []*nodepb.EndorsedKey{good, good}, 1, "two keys"},
		"another domain's":       {set, []*nodepb.EndorsedKey{clone(func(e *nodepb.EndorsedKey) { e.Key.Domain = "b" })}, 1, "no key of it"},
		"malformed":              {set, []*nodepb.EndorsedKey{clone(func(e *nodepb.EndorsedKey) { e.Key.PublicKey = []byte("x") })}, 1, "malformed"},
	} {
		t.Run(what, func(t *testing.T) {
			h.t, h.world.t = t, t
			move := h.refresh(a)
			move.Members[0].Domain, move.WrappingVersion, move.Recipients, move.SealTo = "d", c.version, c.set, c.keys
			h.refuses(h.session(move, handing(a.envelopes)), nodepb.Failure_REFUSED, c.text)
		})
	}
	h.t, h.world.t = t, t
	h.signs(a)
	// A new account is sealed where its nodes are.
	foreign := h.keygen()
	foreign.Members[0].Domain, foreign.SealTo = "d", []*nodepb.EndorsedKey{good}
	h.refuses(h.session(foreign, hooks{}), nodepb.Failure_REFUSED, "only a refresh moves shares")
	// A host without an authority seals elsewhere on nobody's word.
	without := *h.of["n1"]
	without.Authority = nil
	h.of["n1"] = &without
	h.clients["n1"], h.nodes["n1"] = h.serveAs(Config{Host: &without})
	r := h.setup("n1")
	r.Authority = nil
	if reply, err := h.clients["n1"].Setup(h.ctx(), r); err != nil || reply.GetFailure() != nil {
		t.Fatal(err, reply.GetFailure())
	}
	move := h.refresh(a)
	move.Members[0].Domain, move.Recipients, move.SealTo = "d", set, []*nodepb.EndorsedKey{good}
	h.refuses(h.session(move, handing(a.envelopes)), nodepb.Failure_REFUSED, "no authority pinned")
	h.signs(a)
}

// TestStolenStorage: whoever has everything that Vault stores, and one node with
// its token's PIN, opens the shares of that node's wrapping domain. Spread over
// domains they are fewer than sign; in one domain they are the key.
func TestStolenStorage(t *testing.T) {
	for what, domains := range map[string][]string{
		"spread over three domains": {"a", "b", "c", "a", "b"},
		"all in one domain":         {"a", "a", "a", "a", "a"},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHosts(t, domains...)
			const threshold, shares = 3, 5
			var accounts []*held
			for range 3 {
				start := h.keygen()
				start.Threshold, start.Shares, start.Members = threshold, shares, h.placed(1, 2, 3, 4, 5)
				accounts = append(accounts, h.make(start, nil))
			}
			// One account was refreshed, and both epochs are in some backup.
			refresh := h.refresh(accounts[0])
			refresh.Members = h.placed(1, 2, 3, 4, 5)
			accounts = append(accounts, h.make(refresh, accounts[0]))

			inOne := true
			for _, d := range domains {
				inOne = inOne && d == domains[0]
			}
			for _, thief := range h.ids {
				// Every key that Vault's storage names, and each of them under every
				// domain's name, so that no name stands in the way.
				var keys []hsm.WrappingKey
				for _, d := range h.domains {
					for _, k := range d.keys {
						for name := range h.domains {
							key := wrappingKeyFromWire(k)
							key.Domain = name
							keys = append(keys, key)
						}
					}
				}
				token := h.domains[h.of[thief].Domain].open(t)
				for k, a := range accounts {
					opened := 0
					for i, envelope := range a.envelopes {
						if h.steals(token, keys, i, a, envelope) || h.opensAt(thief, a, i) == nil {
							opened++
						}
					}
					switch {
					case inOne && opened != shares:
						t.Errorf("%s opens %d of %d shares of account %d, all of which are its token's", thief, opened, shares, k+1)
					case !inOne && (opened == 0 || opened >= threshold):
						t.Errorf("%s opens %d shares of account %d, and %d sign", thief, opened, k+1, threshold)
					}
				}
			}
		})
	}
}

// steals tries a token on an envelope with each key on its own.
func (h *hosts) steals(token Token, keys []hsm.WrappingKey, index uint32, a *held, envelope []byte) bool {
	for _, key := range keys {
		share, _, err := hsm.Open(context.Background(), token, []hsm.WrappingKey{key}, hsm.ShareContext(uint8(index), a.record.Hash()), envelope)
		if err == nil {
			share.Wipe()
			return true
		}
	}
	return false
}
