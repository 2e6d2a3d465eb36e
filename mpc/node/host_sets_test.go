package node

import (
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// TestReplacedSets: whom the authority has taken out of its sets does not come back
// with an older one, also when the coordinator attaches anew. An account whose
// record names an older set keeps its recipients until it gets the newest.
func TestReplacedSets(t *testing.T) {
	h := newHosts(t, "a", "b", "c", "d")
	a := h.make(h.keygen(), nil)
	old, oldHash := h.set(1, h.people.authority, h.people.list(), nil)
	without := func(d []recovery.Domain) []recovery.Domain {
		return slices.DeleteFunc(d, func(d recovery.Domain) bool { return d.Name == "c" || d.Name == "d" })
	}
	present, _ := h.set(2, h.people.authority, h.people.list(), without)
	next, _ := h.set(3, h.people.authority, h.people.list(), without)
	show := func(set []byte) {
		t.Helper()
		for _, id := range h.ids {
			if _, err := h.clients[id].SetRoster(h.ctx(), &nodepb.SetRosterRequest{Recipients: set}); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := func() {
		for _, id := range h.ids {
			h.attach(id)
		}
	}
	show(present)
	again()

	move := h.refresh(a)
	move.Members[0].Domain, move.WrappingVersion, move.Recipients, move.SealTo = "d", 1, old, []*nodepb.EndorsedKey{h.endorsed("n4", 1)}
	h.refuses(h.session(move, handing(a.envelopes)), nodepb.Failure_REFUSED, "was replaced")
	birth := h.keygen()
	birth.Recipients, birth.RecipientsHash = old, oldHash[:]
	h.refuses(h.session(birth, hooks{}), nodepb.Failure_REFUSED, "was replaced")
	again()
	show(old)
	h.pin("n1", "n3", nil)
	h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_UNPINNED, `node peers add "n3"`)
	three := h.nodes["n3"].self()
	h.pin("n1", "n3", &three)

	take := h.refresh(a)
	take.Recipients = present
	b := h.make(take, a)
	h.signs(b)
	show(next)
	keep := h.refresh(b)
	keep.Recipients = present
	h.signs(h.make(keep, b))
}
