package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
)

// modelled is a record as the model of the index knows it: the seals of each of its
// envelopes.
type modelled [][]sealRef

func (r modelled) record(t *testing.T) *accountRecord {
	out := &accountRecord{}
	for _, seals := range r {
		e := &hsm.Envelope{Ciphertext: make([]byte, 20), Holders: []hsm.Holder{{Kind: hsm.HolderDomain}}}
		for _, s := range seals {
			e.Holders[0].Seals = append(e.Holders[0].Seals, hsm.SealedKey{Suite: hsm.SuiteHPKEP256, Domain: s.domain, Version: s.version, Sealed: make([]byte, 113)})
		}
		b, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		out.Current.Shares = append(out.Current.Shares, b)
	}
	return out
}

// sealed is the least, over envelopes, of the newest version in any domain.
func (r modelled) sealed() uint32 {
	least := uint32(0)
	for i, seals := range r {
		newest := uint32(0)
		for _, s := range seals {
			if s.domain != "recovery:bank" {
				newest = max(newest, s.version)
			}
		}
		if i == 0 || newest < least {
			least = newest
		}
	}
	return least
}

func (r modelled) refersTo(domain string, version uint32) bool {
	return slices.ContainsFunc(r, func(seals []sealRef) bool {
		return slices.ContainsFunc(seals, func(s sealRef) bool {
			return s.version == version && (s.domain == domain || domain == "" && s.domain != "recovery:bank")
		})
	})
}

// TestReferencesOfDomains: whatever is written, deleted, failed and scanned, the
// index says of every version and of every domain's key what storage says, once it
// is complete; before that it never says that nothing refers to what something may
// refer to.
func TestReferencesOfDomains(t *testing.T) {
	domains := []string{"ap", "default", "eu", "recovery:bank"}
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 7))
		x, stored := newReferences(), map[string]modelled{}
		unsure := map[string][]modelled{} // of writes that failed, which may take effect
		doomed := map[uint32]bool{}
		draw := func() modelled {
			var r modelled
			for range 1 + rng.IntN(3) {
				var seals []sealRef
				for _, d := range domains {
					if rng.IntN(3) == 0 {
						seals = append(seals, sealRef{d, 1 + rng.Uint32N(5)})
					}
				}
				if len(seals) == 0 {
					seals = append(seals, sealRef{"eu", 1 + rng.Uint32N(5)})
				}
				r = append(r, seals)
			}
			return r
		}
		might := func(domain string, version uint32) (n int) {
			for key, r := range stored {
				hit := r.refersTo(domain, version)
				for _, u := range unsure[key] {
					hit = hit || domain == "" && u.refersTo(domain, version)
				}
				if hit {
					n++
				}
			}
			for key, all := range unsure {
				if _, ok := stored[key]; !ok && domain == "" && slices.ContainsFunc(all, func(u modelled) bool { return u.refersTo("", version) }) {
					n++
				}
			}
			return n
		}
		for step := range 200 {
			key := fmt.Sprintf("accounts/%d", rng.IntN(6))
			switch rng.IntN(8) {
			case 0, 1, 2, 3:
				r := draw()
				done, err := x.begin(key, r.record(t))
				forbidden := slices.ContainsFunc([]uint32{1, 2, 3, 4, 5}, func(v uint32) bool { return doomed[v] && r.refersTo("", v) })
				if (err != nil) != forbidden {
					t.Fatalf("seed %d, step %d: a write of %v with %v doomed: %v", seed, step, r, doomed, err)
				}
				if err != nil {
					break
				}
				if rng.IntN(6) == 0 {
					done(errors.New("no answer"))
					unsure[key] = append(unsure[key], r)
					break
				}
				done(nil)
				stored[key] = r
				delete(unsure, key)
			case 4:
				x.deleted(key, nil)
				delete(stored, key)
				delete(unsure, key)
			case 5:
				s := x.scan()
				for k, r := range stored {
					s.found(k, r.record(t))
				}
				x.end(s, true)
			case 6:
				x.invalidate(key) // another server did not change it after all
			case 7:
				v := 1 + rng.Uint32N(5)
				if doomed[v] {
					x.undoom(v)
					delete(doomed, v)
				} else if err := x.doom(t.Context(), v); err == nil {
					doomed[v] = true
				}
			}
			all := x.tallies()
			for v := uint32(1); v <= 5; v++ {
				tally := x.tally(v)
				if tally.free() && might("", v) > 0 {
					t.Fatalf("seed %d, step %d: version %d is free and %d may refer to it", seed, step, v, might("", v))
				}
				if !x.isComplete() {
					continue
				}
				if tally.accounts != might("", v) {
					t.Fatalf("seed %d, step %d: version %d has %d references, not %d", seed, step, v, tally.accounts, might("", v))
				}
				for _, d := range domains {
					got := 0
					if all[v] != nil && all[v].domains[d] != nil {
						got = all[v].domains[d].accounts
					}
					want := might(d, v)
					if d == "recovery:bank" {
						want = 0
					}
					if got != want {
						t.Fatalf("seed %d, step %d: version %d of %s has %d references, not %d", seed, step, v, d, got, want)
					}
				}
			}
			if !x.isComplete() {
				continue
			}
			var behind []string
			for k, r := range stored {
				wrapped := r.refersTo("", 1) || r.refersTo("", 2) || r.refersTo("", 3) || r.refersTo("", 4) || r.refersTo("", 5)
				if r.sealed() < 4 && wrapped {
					behind = append(behind, k)
				}
			}
			slices.Sort(behind)
			if got := x.behind(prefixAccounts, 4); fmt.Sprint(got) != fmt.Sprint(behind) {
				t.Fatalf("seed %d, step %d: behind %v, not %v", seed, step, got, behind)
			}
		}
	}
}

// TestRemoteNodeKeys: a node on another host keeps its identity itself, so that the
// record of its keys has no envelope before it has auxiliary keys.
func TestRemoteNodeKeys(t *testing.T) {
	x := newReferences()
	r := &nodeKeysRecord{Identity: nodeIdentity(9).String()}
	done, err := x.begin(prefixNodeKeys+"eu-1", r)
	if err != nil {
		t.Fatal(err)
	}
	done(nil)
	x.end(x.scan(), false)
	if got, _ := x.of(prefixNodeKeys + "eu-1"); got.broken || len(got.seals) != 0 || len(x.behind(prefixNodeKeys, 9)) != 0 {
		t.Errorf("without auxiliary keys: %+v, behind %v", got, x.behind(prefixNodeKeys, 9))
	}
	r.Aux = &auxRecord{Envelope: fakeSealed("eu", []byte("aux"), 3)}
	if got := r.refers(); got.broken || got.sealed != 3 || fmt.Sprint(got.seals) != "[{eu 3}]" {
		t.Errorf("with auxiliary keys: %+v", got)
	}
}
