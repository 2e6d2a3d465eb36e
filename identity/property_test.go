package identity

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

var (
	propertySeed = flag.Uint64("property-seed", 0, "run TestHierarchyProperty with this seed only; 0 means several fixed ones and a random one")
	propertyOps  = flag.Int("property-ops", 120, "operations per run of TestHierarchyProperty")
)

// TestHierarchyProperty plays random identities, grants, losses and resets, and
// holds against each other what an oracle says and what really happens: whether
// an operation is refused, what each authenticator opens of the records there
// are, and what it could open of all records that there ever were. The oracle
// knows names and numbers only; it never looks into a record.
func TestHierarchyProperty(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, rand.Uint64()}
	if *propertySeed != 0 {
		seeds = []uint64{*propertySeed}
	}
	kinds := map[string]int{}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("property-seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, rand.New(rand.NewPCG(seed, 0)))
			for op := range *propertyOps {
				w.step()
				if op%10 == 9 {
					w.checkPresent()
				}
				if t.Failed() {
					t.Fatalf("after operation %d; the last ones: %q", op, w.log[max(0, len(w.log)-5):])
				}
			}
			w.checkPresent()
			w.checkEver()
			for kind, n := range w.kinds {
				kinds[kind] += n
			}
			kinds["refused"] += w.refused
		})
	}
	t.Logf("done: %v", kinds)
	for _, kind := range []string{"add role", "set level", "grant", "set grant", "remove grant", "reset", "remove role", "drop past", "put", "reseal", "refused"} {
		if *propertySeed == 0 && kinds[kind] == 0 {
			t.Errorf("no operation %q was done: the test tests less than it says", kind)
		}
	}
}

// roleKey names a role; incarnation tells roles of one name apart.
type roleKey struct {
	identity, role string
	incarnation    int
}

type oRole struct {
	key        roleKey
	generation uint64
	past       bool
}

type oKey struct {
	value string
	roles map[string]uint64 // role → generation that it is sealed to
}

type oAsset struct {
	keys      map[string]*oKey
	writer    string
	writerGen uint64
	signed    *SignedAsset
}

type oIdentity struct {
	name   string
	roles  map[string]*oRole
	levels map[string]map[string]bool
	grants map[int]string // authenticator → level
	assets map[string]*oAsset
	signed *SignedManifest
}

// sealing is a value that was once sealed to a role generation.
type sealing struct {
	value      string
	role       roleKey
	generation uint64
}

type world struct {
	t          *testing.T
	r          *rand.Rand
	people     []who
	identities []*oIdentity
	ever       []map[roleKey]uint64 // per authenticator: the newest generation it was ever granted
	sealings   []sealing
	manifests  []*SignedManifest // all there ever were
	assets     []*SignedAsset
	count      int
	done       int
	refused    int
	kinds      map[string]int // of operations that were done
	log        []string
}

func newWorld(t *testing.T, r *rand.Rand) *world {
	w := &world{t: t, r: r, kinds: map[string]int{}}
	for i := range 5 {
		w.people = append(w.people, newWho(t, fmt.Sprintf("auth-%d", i), Password))
		w.ever = append(w.ever, map[roleKey]uint64{})
	}
	for i := range 2 {
		name, first := fmt.Sprintf("identity-%d", i), r.IntN(len(w.people))
		s, o := create(t, name, w.people[first], "r0", "r1")
		o.Wipe()
		id := &oIdentity{name: name, roles: map[string]*oRole{}, levels: map[string]map[string]bool{}, grants: map[int]string{first: FullLevel}, assets: map[string]*oAsset{}}
		for _, role := range []string{OwnerRole, "r0", "r1"} {
			id.roles[role] = &oRole{key: roleKey{name, role, 0}, generation: 1}
		}
		id.levels[FullLevel] = map[string]bool{OwnerRole: true, "r0": true, "r1": true}
		w.identities = append(w.identities, id)
		w.stored(id, s)
	}
	return w
}

// stored is the server: it keeps every record for ever.
func (w *world) stored(id *oIdentity, s *SignedManifest) {
	if id.signed != nil {
		if _, err := s.VerifyNext(id.signed); err != nil {
			w.t.Fatalf("the server refuses what the client made: %v", err)
		}
	}
	id.signed = s
	w.manifests = append(w.manifests, s)
	for p, level := range id.grants {
		for role := range id.levels[level] {
			r := id.roles[role]
			w.ever[p][r.key] = max(w.ever[p][r.key], r.generation)
		}
	}
}

func (w *world) storedAsset(id *oIdentity, name string, s *SignedAsset, o *Opened, next *oAsset) {
	var before *Asset
	if old := id.assets[name]; old != nil {
		before = verify(w.t, o, old.signed)
	}
	a, err := s.VerifyNext(o.Manifest, before)
	if err != nil {
		w.t.Fatalf("the server refuses the asset that the client made: %v", err)
	}
	next.signed, next.writer, next.writerGen = s, a.Writer, a.WriterGeneration
	id.assets[name] = next
	w.assets = append(w.assets, s)
	for _, k := range next.keys {
		for role, generation := range k.roles {
			w.sealings = append(w.sealings, sealing{k.value, id.roles[role].key, generation})
		}
	}
}

// pick takes one at random.
func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (w *world) some(id *oIdentity, list []string) []string {
	var out []string
	for _, v := range list {
		if w.r.IntN(2) == 0 {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		out = []string{pick(w.r, list)}
	}
	return out
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (id *oIdentity) holds(p int, role string) bool { return id.levels[id.grants[p]][role] }

func (id *oIdentity) opened(role string) bool {
	for p := range id.grants {
		if id.holds(p, role) {
			return true
		}
	}
	return false
}

// clone copies what changes of the manifest change.
func (id *oIdentity) clone() *oIdentity {
	c := *id
	c.roles, c.levels, c.grants = map[string]*oRole{}, map[string]map[string]bool{}, maps.Clone(id.grants)
	for n, r := range id.roles {
		copied := *r
		c.roles[n] = &copied
	}
	for n, l := range id.levels {
		c.levels[n] = maps.Clone(l)
	}
	return &c
}

// step does one operation as a random authenticator on a random identity.
func (w *world) step() {
	id := pick(w.r, w.identities)
	p := pick(w.r, slices.Sorted(maps.Keys(id.grants)))
	o := w.people[p].open(w.t, id.signed)
	defer o.Wipe()
	switch w.r.IntN(12) {
	case 0, 1, 2:
		w.putKey(id, p, o)
	case 3, 4, 5:
		w.reseal(id, p, o)
	case 6:
		if len(id.assets) > 0 && w.r.IntN(3) == 0 {
			delete(id.assets, pick(w.r, sorted(id.assets)))
		}
	default:
		w.change(id, p, o)
	}
}

// expect compares the oracle's refusal with the real one; true if it was done.
func (w *world) expect(id *oIdentity, p int, kind, what string, want bool, err error) bool {
	what = fmt.Sprintf("%s: as %d: %s %s", id.name, p, kind, what)
	w.log = append(w.log, fmt.Sprintf("%s: %v", what, err))
	if (err == nil) != want {
		w.t.Errorf("%s: the oracle says allowed=%v, and it gave %v", what, want, err)
	}
	if err != nil {
		w.refused++
	} else {
		w.done++
		w.kinds[kind]++
	}
	return err == nil && want
}

// change makes a random change of the manifest.
func (w *world) change(id *oIdentity, p int, o *Opened) {
	next, ok, force := id.clone(), id.holds(p, OwnerRole), false
	needs := func(roles ...string) { // which the actor must hold
		for _, role := range roles {
			ok = ok && (next.roles[role] != nil && id.roles[role] == nil || id.holds(p, role))
		}
	}
	var changes []Change
	var kind, what string
	target := w.r.IntN(len(w.people))
	has := func(who int) bool { _, there := next.grants[who]; return there }
	op := pick(w.r, []int{0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 7})
	if 3 <= op && op <= 5 && w.r.IntN(5) > 0 {
		target = pick(w.r, slices.Sorted(maps.Keys(id.grants)))
	}
	switch op {
	case 0:
		name := fmt.Sprintf("r%d", w.r.IntN(5))
		kind, what, changes = "add role", name, []Change{AddRole{Name: name}}
		ok = ok && id.roles[name] == nil
		if ok {
			w.count++
			next.roles[name] = &oRole{key: roleKey{id.name, name, w.count}, generation: 1}
			next.levels[next.grants[p]][name] = true
		}
	case 1:
		name, roles := fmt.Sprintf("l%d", w.r.IntN(3)), w.some(id, sorted(id.roles))
		if w.r.IntN(2) == 0 {
			roles = sortedNames(append(roles, OwnerRole))
		}
		kind, what, changes = "set level", fmt.Sprintf("%s to %q", name, roles), []Change{SetLevel{Level{Name: name, Roles: roles}}}
		old := next.levels[name]
		for user := range next.grants {
			if next.grants[user] == name {
				for _, role := range roles {
					if !old[role] {
						needs(role)
					}
				}
			}
		}
		next.levels[name] = map[string]bool{}
		for _, role := range roles {
			next.levels[name][role] = true
		}
	case 2:
		level := pick(w.r, sorted(id.levels))
		kind, what, changes = "grant", fmt.Sprintf("%s to %d", level, target), []Change{AddGrant{Authenticator: w.people[target].a, Level: level}}
		ok = ok && !has(target)
		needs(sorted(id.levels[level])...)
		next.grants[target] = level
	case 3:
		level := pick(w.r, sorted(id.levels))
		kind, what, changes = "set grant", fmt.Sprintf("of %d to %s", target, level), []Change{SetGrant{Authenticator: w.people[target].a.ID, Level: level}}
		ok = ok && has(target)
		for role := range id.levels[level] {
			if !id.levels[id.grants[target]][role] {
				needs(role)
			}
		}
		next.grants[target] = level
	case 4:
		force = w.r.IntN(3) == 0
		kind, what, changes = "remove grant", fmt.Sprintf("of %d, force %v", target, force), []Change{RemoveGrant{w.people[target].a.ID, force}}
		ok = ok && has(target)
		delete(next.grants, target)
	case 5: // loss: access taken away and roles rotated at once
		roles := sorted(id.levels[id.grants[target]])
		kind, what, changes = "reset", fmt.Sprintf("after the loss of %d", target), []Change{RemoveGrant{Authenticator: w.people[target].a.ID}, RotateRoles{roles}}
		if w.r.IntN(2) == 0 {
			slices.Reverse(changes)
		}
		ok = ok && has(target)
		needs(roles...)
		for _, role := range roles {
			ok = ok && !next.roles[role].past
			next.roles[role].past = true
			next.roles[role].generation++
		}
		delete(next.grants, target)
	case 6:
		name := pick(w.r, sorted(id.roles))
		for _, a := range id.assets { // the server's part: what is sealed to it
			for _, k := range a.keys {
				if _, sealed := k.roles[name]; sealed {
					return
				}
			}
			if a.writer == name {
				return
			}
		}
		if w.r.IntN(4) > 0 { // out of the levels first
			for _, level := range sorted(next.levels) {
				l := next.levels[level]
				if delete(l, name); len(l) < len(id.levels[level]) && len(l) > 0 {
					changes = append(changes, SetLevel{Level{Name: level, Roles: sorted(l)}})
				} else {
					next.levels[level] = maps.Clone(id.levels[level])
				}
			}
		}
		kind, what, changes = "remove role", name, append(changes, RemoveRole{name})
		ok = ok && name != OwnerRole
		for _, l := range next.levels {
			ok = ok && !l[name]
		}
		delete(next.roles, name)
	case 7:
		var roles []string
		for name, r := range id.roles {
			if r.past && !id.stale(name) { // the server refuses others
				roles = append(roles, name)
			}
		}
		if len(roles) == 0 {
			return
		}
		slices.Sort(roles)
		kind, what, changes = "drop past", fmt.Sprintf("of %q", roles), []Change{DropPast{roles}}
		for _, name := range roles {
			next.roles[name].past = false
		}
	}
	if ok { // who would be left
		for name := range next.roles {
			if !next.opened(name) && (name == OwnerRole || id.roles[name] == nil || id.opened(name) && !force) {
				ok = false
			}
		}
	}
	s, err := o.Change(at, changes...)
	if w.expect(id, p, kind, what, ok, err) {
		*id = *next
		w.stored(id, s)
	}
}

// stale reports whether an asset is sealed to or signed with past keys of a role.
func (id *oIdentity) stale(role string) bool {
	generation := id.roles[role].generation
	for _, a := range id.assets {
		if a.writer == role && a.writerGen != generation {
			return true
		}
		for _, k := range a.keys {
			if g, there := k.roles[role]; there && g != generation {
				return true
			}
		}
	}
	return false
}

func (id *oIdentity) staleKey(k *oKey) bool {
	for role, g := range k.roles {
		if g != id.roles[role].generation {
			return true
		}
	}
	return false
}

// mayWrite: the owner role may; another may if it could use every key that changes.
func (id *oIdentity) mayWrite(p int, before, after map[string]*oKey, changed []string) bool {
	if id.holds(p, OwnerRole) {
		return true
	}
	uses := func(keys map[string]*oKey, role string) bool {
		for _, k := range keys {
			if _, there := k.roles[role]; there {
				return true
			}
		}
		return false
	}
	for role := range id.roles {
		good := id.holds(p, role) && uses(after, role) && (before == nil || uses(before, role))
		for _, name := range changed {
			if k := before[name]; k != nil {
				_, there := k.roles[role]
				good = good && there
			}
		}
		if good {
			return true
		}
	}
	return false
}

// putKey makes an asset, or adds or replaces a key of one.
func (w *world) putKey(id *oIdentity, p int, o *Opened) {
	name, key, roles := fmt.Sprintf("asset-%d", w.r.IntN(4)), fmt.Sprintf("key-%d", w.r.IntN(2)), w.some(id, sorted(id.roles))
	w.count++
	value := fmt.Sprintf("value %d", w.count)
	old, next := id.assets[name], &oAsset{keys: map[string]*oKey{}}
	a, ok := o.NewAsset(name, SecretAsset), true
	var before map[string]*oKey
	if old != nil {
		a, before = verify(w.t, o, old.signed), old.keys
		for n, k := range old.keys {
			next.keys[n] = k
			ok = ok && (n == key || !id.staleKey(k))
		}
	}
	next.keys[key] = &oKey{value: value, roles: map[string]uint64{}}
	for _, role := range roles {
		next.keys[key].roles[role] = id.roles[role].generation
	}
	ok = ok && id.mayWrite(p, before, next.keys, []string{key})
	s, err := o.WriteAsset(a, at, func(a *Asset) error {
		return o.sealTo(a, key, nil, secret.Copy([]byte(value)), roles)
	})
	if w.expect(id, p, "put", fmt.Sprintf("%s/%s for %q", name, key, roles), ok, err) {
		w.storedAsset(id, name, s, o, next)
	}
}

// reseal moves a stale asset.
func (w *world) reseal(id *oIdentity, p int, o *Opened) {
	if len(id.assets) == 0 {
		return
	}
	name := pick(w.r, sorted(id.assets))
	old, next := id.assets[name], &oAsset{keys: map[string]*oKey{}}
	a, ok := verify(w.t, o, old.signed), true
	var changed []string
	stale := old.writerGen != id.roles[old.writer].generation
	for n, k := range old.keys {
		next.keys[n] = k
		if !id.staleKey(k) {
			continue
		}
		changed, stale = append(changed, n), true
		moved, opens := &oKey{value: k.value, roles: map[string]uint64{}}, false
		for role := range k.roles {
			moved.roles[role] = id.roles[role].generation
			opens = opens || id.holds(p, role)
		}
		next.keys[n] = moved
		ok = ok && opens
	}
	if Stale(o.Manifest, a) != stale {
		w.t.Errorf("%s: Stale of %s is not %v", id.name, name, stale)
	}
	if !stale {
		return
	}
	ok = ok && id.mayWrite(p, old.keys, next.keys, changed)
	s, err := o.Reseal(a, at, nil)
	if w.expect(id, p, "reseal", name, ok, err) {
		w.storedAsset(id, name, s, o, next)
	}
}

// checkPresent: each authenticator opens of the present records what it may.
func (w *world) checkPresent() {
	w.t.Helper()
	for _, id := range w.identities {
		for p, person := range w.people {
			o, _, err := OpenIdentity(id.signed, Pin{}, person.a.ID, person.keys)
			if _, granted := id.grants[p]; !granted {
				if !errors.Is(err, ErrNotGranted) {
					w.t.Errorf("%s: %d opens it or gets another error: %v", id.name, p, err)
				}
				continue
			}
			if err != nil {
				w.t.Fatalf("%s: %d does not open it: %v", id.name, p, err)
			}
			for name, asset := range id.assets {
				a := verify(w.t, o, asset.signed)
				for n, k := range asset.keys {
					may := false
					for role := range k.roles {
						may = may || id.holds(p, role)
					}
					got, err := o.AssetValue(a, n)
					switch {
					case may && (err != nil || string(got.Expose()) != k.value):
						w.t.Errorf("%s: %d may open %s/%s and got %v", id.name, p, name, n, err)
					case !may && !errors.Is(err, ErrNotHeld):
						w.t.Errorf("%s: %d may not open %s/%s and got %v", id.name, p, name, n, err)
					}
				}
			}
			o.Wipe()
		}
	}
}

// checkEver: of all records that there ever were, each authenticator opens with
// its own keys what was once sealed to a role generation that it was granted, or
// to an earlier one of that role, and nothing else. The attacker here goes by no
// rule: it tries every key that it finds on every ciphertext.
func (w *world) checkEver() {
	w.t.Helper()
	for p, person := range w.people {
		may := map[string]bool{}
		for _, s := range w.sealings {
			if w.ever[p][s.role] >= s.generation {
				may[s.value] = true
			}
		}
		got := everOpened(person, w.manifests, w.assets)
		for _, s := range w.sealings {
			if may[s.value] != got[s.value] {
				w.t.Errorf("authenticator %d: the oracle says that it can ever have opened %s (%+v): %v; it opens: %v", p, s.value, s.role, may[s.value], got[s.value])
			}
		}
		for value := range got {
			if !may[value] {
				w.t.Errorf("authenticator %d opens %s", p, value)
			}
		}
	}
}

// everOpened returns all values that somebody opens with all records.
func everOpened(person who, manifests []*SignedManifest, assets []*SignedAsset) map[string]bool {
	found := map[string]*Keys{} // by public key
	var list []*Keys
	add := func(seed *secret.Bytes, err error) {
		if err != nil {
			return
		}
		keys, err := NewKeys(seed)
		if id := string(keys.Public().Seal); err == nil && found[id] == nil {
			found[id] = keys
			list = append(list, keys)
		}
	}
	var parsed []*Manifest
	for _, s := range manifests {
		m, _ := s.Verify()
		parsed = append(parsed, m)
		for _, g := range m.Grants {
			for _, r := range g.Sealed {
				add(person.keys.Open(RoleSeedContext(m.Identity, r.Role, r.Generation, g.Authenticator), r.Sealed))
			}
		}
	}
	for i := 0; i < len(list); i++ { // until nothing new is found
		for _, m := range parsed {
			for _, r := range m.Roles {
				if r.Past != nil {
					add(list[i].Open(PastSeedContext(m.Identity, r.Name, r.Past.Generation, r.Generation), r.Past.Sealed))
				}
			}
		}
	}
	values := map[string]bool{}
	for _, s := range assets {
		a := &Asset{}
		if decodeStrict("asset", s.Asset, MaxAsset, a) != nil {
			continue
		}
		for _, k := range a.Keys {
			for _, sealed := range k.Sealed {
				for _, keys := range list {
					if v, err := OpenAssetKey(a, k.Name, sealed.Role, sealed.Generation, keys); err == nil {
						values[string(v.Expose())] = true
					}
				}
			}
		}
	}
	return values
}
