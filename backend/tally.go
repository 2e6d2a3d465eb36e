package backend

import (
	"fmt"
	"slices"
	"strings"
)

// tally is how many records refer to a version, and what stands in the way of
// knowing.
type tally struct {
	accounts, nodeKeys, identityKeys int
	// names are up to three of them, for people.
	names []string
	// domains counts the same by wrapping domain: a record may refer to keys of
	// several.
	domains map[string]*domainTally
	// unreadable are records that may refer to anything.
	unreadable []string
	complete   bool
}

// domainTally is how many records refer to the key of one domain.
type domainTally struct{ accounts, nodeKeys, identityKeys int }

// count adds a record by its storage key.
func (t *domainTally) count(key string) {
	switch {
	case strings.HasPrefix(key, prefixAccounts):
		t.accounts++
	case key == keyIdentityKeys:
		t.identityKeys++
	default:
		t.nodeKeys++
	}
}

// free says that nothing refers to the version, for certain.
func (t *tally) free() bool {
	return t.complete && t.total() == 0 && len(t.unreadable) == 0
}

func (t *tally) total() int { return t.accounts + t.nodeKeys + t.identityKeys }

func (t *tally) String() string {
	switch {
	case len(t.unreadable) > 0:
		return fmt.Sprintf("%s cannot be read and may refer to it: restore the record from a backup or remove it", few(t.unreadable))
	case t.identityKeys > 0:
		return fmt.Sprintf("%d accounts, %d nodes' keys and the identity keys refer to it, among them %s", t.accounts, t.nodeKeys, strings.Join(t.names, ", "))
	case t.total() > 0:
		return fmt.Sprintf("%d accounts and %d nodes' keys refer to it, among them %s", t.accounts, t.nodeKeys, strings.Join(t.names, ", "))
	case !t.complete:
		return "not every account has been read yet"
	}
	return "nothing refers to it"
}

// few names some of a list.
func few(names []string) string {
	slices.Sort(names)
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}

// tallies counts the references to every version at once. Version 0 holds what
// is said of all.
func (x *references) tallies() map[uint32]*tally {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := map[uint32]*tally{0: {complete: x.complete}}
	at := func(v uint32) *tally {
		if out[v] == nil {
			out[v] = &tally{}
		}
		return out[v]
	}
	add := func(key string, v uint32) {
		t := at(v)
		var one domainTally
		one.count(key)
		t.accounts, t.nodeKeys, t.identityKeys = t.accounts+one.accounts, t.nodeKeys+one.nodeKeys, t.identityKeys+one.identityKeys
		if len(t.names) < 3 {
			t.names = append(t.names, key)
		}
	}
	for key, r := range x.entries {
		for _, v := range r.versions {
			add(key, v)
		}
		for _, s := range r.seals {
			t := at(s.version)
			if t.domains == nil {
				t.domains = map[string]*domainTally{}
			}
			if t.domains[s.domain] == nil {
				t.domains[s.domain] = &domainTally{}
			}
			t.domains[s.domain].count(key)
		}
		if r.broken {
			out[0].unreadable = append(out[0].unreadable, key)
		}
	}
	for key, versions := range x.unsure {
		for _, v := range versions {
			if !slices.Contains(x.entries[key].versions, v) {
				add(key, v)
			}
		}
	}
	for _, t := range out {
		t.complete, t.unreadable = out[0].complete, out[0].unreadable
	}
	return out
}

// tally counts the references to one version.
func (x *references) tally(version uint32) *tally {
	all := x.tallies()
	if t := all[version]; t != nil && version != 0 {
		return t
	}
	return all[0]
}

// behind lists the records under a prefix that are not all sealed to the
// version or a newer one, those that cannot be read left out, and those that hold
// nothing sealed.
func (x *references) behind(prefix string, version uint32) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	for key, r := range x.entries {
		if strings.HasPrefix(key, prefix) && r.sealed < version && !r.broken && len(r.versions) > 0 {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// refScan is one reading of everything that is stored. Only found may be called
// by its owner between scan and end.
type refScan struct {
	seen    map[string]refs
	touched map[string]struct{} // written meanwhile: memory is newer
	spoilt  bool                // something was changed by another server
}

// scan begins a reading; end finishes it.
func (x *references) scan() *refScan {
	s := &refScan{seen: map[string]refs{}, touched: map[string]struct{}{}}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.scans[s] = struct{}{}
	return s
}

// found notes what was read; nil for a record that makes no sense.
func (s *refScan) found(key string, r referrer) {
	if r == nil {
		s.seen[key] = refs{broken: true}
		return
	}
	s.seen[key] = r.refers()
}

// end takes over what was read. whole says that nothing was left out.
func (x *references) end(s *refScan, whole bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.scans, s)
	for key, r := range s.seen {
		if _, newer := s.touched[key]; !newer {
			x.entries[key] = r
		}
	}
	if !whole || s.spoilt {
		return
	}
	for key := range x.entries {
		_, found := s.seen[key]
		if _, newer := s.touched[key]; !found && !newer {
			delete(x.entries, key)
		}
	}
	x.complete = true
}
