package mpctest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/cryptotest"

	"vault-plugin-secrets-mpc/mpc"
)

// Session is one set of parties that have not started.
type Session struct {
	Parties map[mpc.Index]mpc.Party
	// Twin makes a second party with the configuration of party i; it may be
	// nil where two parties cannot have one configuration.
	Twin func(i mpc.Index) mpc.Party
	// Verify judges what the parties that are done arrived at: signatures
	// against the public key, shares against the record, and each against the
	// others. Parties that are not done have nothing to look at.
	Verify func(done []mpc.Index) error
}

// Suite is one protocol under attack. One party is hostile: what it sends is
// changed in its own name.
type Suite struct {
	// Session makes a fresh session of the same parties every time.
	Session func(t testing.TB) Session
	// Nameless reports errors that may name nobody, since nobody can know who
	// lied: broadcasts that differ. Every other abort must name the cheater.
	Nameless func(error) bool
	// Skip, when not nil, leaves out faults that a protocol tells nothing
	// about, or that cost too much.
	Skip func(m mpc.Message, f Fault) bool
}

// Count says how much a test has tried.
type Count struct{ Places, Faults, Sessions int }

func (c Count) String() string {
	if c.Places == 0 {
		return fmt.Sprintf("%d faults, %d sessions", c.Faults, c.Sessions)
	}
	return fmt.Sprintf("%d kinds of messages, %d faults, %d sessions", c.Places, c.Faults, c.Sessions)
}

// Honest runs the protocol without any fault, in random orders, and returns what
// each party sent in the last run. It fails the test if a party does not finish.
func (s Suite) Honest(t *testing.T, runs int) map[mpc.Index][]mpc.Message {
	t.Helper()
	var sent map[mpc.Index][]mpc.Message
	for k := range runs {
		seed := seedOf(t.Name(), "honest", k)
		sent = s.honest(t, seed)
	}
	return sent
}

func (s Suite) honest(t *testing.T, seed uint64) map[mpc.Index][]mpc.Message {
	t.Helper()
	sent := map[mpc.Index][]mpc.Message{}
	session := s.Session(t)
	result, err := Run(Config{Parties: session.Parties, Seed: seed, Hook: func(_ *rand.Rand, p Packet, _ *mpc.Message) []Packet {
		from := p.Message.From
		if !slices.ContainsFunc(sent[from], func(m mpc.Message) bool { return placeOf(m) == placeOf(p.Message) }) {
			sent[from] = append(sent[from], clone(p.Message))
		}
		return []Packet{p}
	}})
	if err == nil {
		err = errors.Join(result.Check(0), session.Verify(result.Done))
	}
	if err == nil && len(result.Done) != len(session.Parties) {
		err = fmt.Errorf("only %v finished: %v", result.Done, result.Errors)
	}
	if err != nil {
		t.Fatalf("an honest session, seed %d: %v", seed, err)
	}
	return sent
}

// Table tries every fault on every kind of message that one party sends, against
// one receiver; what that one cannot refuse at once also against all, who then
// agree about it. A fault that cannot be made from a message is left out.
func (s Suite) Table(t *testing.T) (count Count) {
	t.Helper()
	recorded := s.honest(t, seedOf(t.Name(), "record", 0))
	cheater := slices.Min(keys(recorded))
	seen := map[place]bool{}
	for _, m := range recorded[cheater] {
		kind := place{m.Round, m.Broadcast, 0}
		if seen[kind] {
			continue
		}
		seen[kind] = true
		count.Places++
		for _, f := range slices.Concat(Faults(), FieldFaults(m)) {
			if s.Skip != nil && s.Skip(m, f) {
				continue
			}
			for _, everybody := range []bool{false, true} {
				if everybody && (f.Expect != Noticed || len(recorded) == 2) {
					continue
				}
				name := fmt.Sprintf("round %d, broadcast %v, %s, to all %v", m.Round, m.Broadcast, f.Name, everybody)
				seed := seedOf(t.Name(), name, 0)
				a := &attack{suite: s, cheater: cheater, everybody: everybody, other: recorded[cheater],
					plans: []plan{{kind, f}}}
				if a.run(t, seed, true) {
					count.Sessions++
					if !everybody {
						count.Faults++
					}
				}
				if t.Failed() {
					t.Fatalf("%s (seed %d)", name, seed)
				}
			}
		}
	}
	return count
}

// Campaign tries random combinations: for each seed a random hostile party, up
// to three faults at random places against random receivers, in random order.
func (s Suite) Campaign(t *testing.T, seeds int) (count Count) {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("MPC_HOSTILE_SEEDS")); err == nil {
		seeds = n
	}
	recorded := s.honest(t, seedOf(t.Name(), "record", 0))
	for k := range seeds {
		seed := seedOf(t.Name(), "campaign", k)
		r := Random(seed)
		parties := keys(recorded)
		cheater := parties[r.IntN(len(parties))]
		a := &attack{suite: s, cheater: cheater, everybody: r.IntN(2) == 0, other: recorded[cheater]}
		for range 1 + r.IntN(3) {
			m := recorded[cheater][r.IntN(len(recorded[cheater]))]
			faults := slices.Concat(Faults(), FieldFaults(m))
			f := faults[r.IntN(len(faults))]
			if s.Skip == nil || !s.Skip(m, f) {
				a.plans = append(a.plans, plan{place{m.Round, m.Broadcast, 0}, f})
			}
		}
		a.run(t, seed, false)
		count.Sessions++
		count.Faults += len(a.plans)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	return count
}

// Sample tries n random pairs of a kind of message and a fault, one at a time:
// Table for protocols whose sessions take seconds.
func (s Suite) Sample(t *testing.T, n int) (count Count) {
	t.Helper()
	if wanted, err := strconv.Atoi(os.Getenv("MPC_HOSTILE_SEEDS")); err == nil {
		n = wanted
	}
	recorded := s.honest(t, seedOf(t.Name(), "record", 0))
	for k := 0; count.Sessions < n; k++ {
		seed := seedOf(t.Name(), "sample", k)
		r := Random(seed)
		parties := keys(recorded)
		cheater := parties[r.IntN(len(parties))]
		m := recorded[cheater][r.IntN(len(recorded[cheater]))]
		faults := slices.Concat(Faults(), FieldFaults(m))
		s.one(t, seed, recorded, cheater, m, faults[r.IntN(len(faults))], &count)
	}
	return count
}

// Recording is what each party sent in an honest session.
type Recording map[mpc.Index][]mpc.Message

// Record runs one honest session for Named.
func (s Suite) Record(t *testing.T) Recording {
	t.Helper()
	return s.honest(t, seedOf(t.Name(), "record", 0))
}

// Named tries one fault, by its name, on one kind of message of the first party.
func (s Suite) Named(t *testing.T, recorded Recording, round uint8, broadcast bool, fault string) {
	t.Helper()
	cheater := slices.Min(keys(recorded))
	var count Count
	for _, m := range recorded[cheater] {
		if m.Round != round || m.Broadcast != broadcast || count.Sessions > 0 {
			continue
		}
		for _, f := range slices.Concat(Faults(), FieldFaults(m)) {
			if f.Name == fault {
				s.one(t, seedOf(t.Name(), fault, 0), recorded, cheater, m, f, &count)
			}
		}
	}
	if count.Sessions != 1 {
		t.Fatalf("the fault %q of round %d was tried %d times", fault, round, count.Sessions)
	}
}

func (s Suite) one(t *testing.T, seed uint64, recorded map[mpc.Index][]mpc.Message, cheater mpc.Index, m mpc.Message, f Fault, count *Count) {
	t.Helper()
	if s.Skip != nil && s.Skip(m, f) {
		return
	}
	a := &attack{suite: s, cheater: cheater, other: recorded[cheater], plans: []plan{{place{m.Round, m.Broadcast, 0}, f}}}
	if a.run(t, seed, true) {
		count.Sessions++
		count.Faults++
	}
	if t.Failed() {
		t.Fatalf("round %d, broadcast %v, %s (seed %d)", m.Round, m.Broadcast, f.Name, seed)
	}
}

// seedOf names a run, so that each test has its own and the same every time.
func seedOf(test, run string, k int) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%d", test, run, k)
	return h.Sum64()
}

func keys(m map[mpc.Index][]mpc.Message) (out []mpc.Index) {
	for i := range m {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

// plan is a fault and the kind of message that suffers it.
type plan struct {
	kind  place
	fault Fault
}

// attack is one session with one hostile party.
type attack struct {
	suite     Suite
	cheater   mpc.Index
	everybody bool // else one receiver
	other     []mpc.Message
	plans     []plan

	own     []mpc.Message
	victim  mpc.Index
	applied map[mpc.Index][]Fault // by receiver
}

// run reports whether a fault was applied; judge the outcome by t. strict holds
// the receivers to the fault's expectation; with several faults at once only
// what always holds is asked for.
func (a *attack) run(t *testing.T, seed uint64, strict bool) bool {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	session := a.suite.Session(t)
	a.applied = map[mpc.Index][]Fault{}
	var honest []mpc.Index
	for i := range session.Parties {
		if i != a.cheater {
			honest = append(honest, i)
		}
	}
	slices.Sort(honest)
	a.victim = honest[Random(seed).IntN(len(honest))]
	cfg := Config{Parties: session.Parties, Seed: seed, Hook: a.hook, TwinOf: a.cheater}
	if session.Twin != nil {
		cfg.Twin = session.Twin(a.cheater)
	}
	result, err := Run(cfg)
	if err == nil {
		err = a.judge(result, session, honest, strict)
	}
	for _, p := range session.Parties {
		p.Wipe()
	}
	if cfg.Twin != nil {
		cfg.Twin.Wipe()
	}
	if err != nil {
		t.Errorf("share %d cheats: %v\nerrors: %v\ntrace: %q", a.cheater, err, result.Errors, result.Trace)
	}
	return len(a.applied) > 0
}

func (a *attack) hook(r *rand.Rand, p Packet, twin *mpc.Message) []Packet {
	if p.Message.From != a.cheater {
		return []Packet{p}
	}
	if !slices.ContainsFunc(a.own, func(m mpc.Message) bool { return placeOf(m) == placeOf(p.Message) }) {
		a.own = append(a.own, clone(p.Message))
	}
	if !a.everybody && p.To != a.victim {
		return []Packet{p}
	}
	for _, plan := range a.plans {
		if p.Message.Round != plan.kind.round || p.Message.Broadcast != plan.kind.broadcast {
			continue
		}
		c := &Cheat{Random: r, Twin: twin, Other: a.other, Own: a.own}
		if instead, ok := plan.fault.Apply(c, p); ok {
			a.applied[p.To] = append(a.applied[p.To], plan.fault)
			return instead
		}
	}
	return []Packet{p}
}

// judge reports what must not have happened.
func (a *attack) judge(result *Result, session Session, honest []mpc.Index, strict bool) error {
	done := slices.DeleteFunc(slices.Clone(result.Done), func(i mpc.Index) bool { return i == a.cheater })
	errs := []error{result.Check(a.cheater), session.Verify(done)}
	for _, i := range honest {
		err := result.Errors[i]
		if err == nil {
			continue
		}
		if errors.Is(err, mpc.ErrPanic) {
			errs = append(errs, fmt.Errorf("share %d: the library panicked on a message that was let through", i))
		}
		if len(Culprits(err)) == 0 && !a.suite.Nameless(err) {
			errs = append(errs, fmt.Errorf("share %d ends with an error that names nobody: %w", i, err))
		}
	}
	if strict {
		for i, faults := range a.applied {
			errs = append(errs, a.expected(i, faults[0], result, len(done) == len(honest)))
		}
	}
	return errors.Join(errs...)
}

func (a *attack) expected(i mpc.Index, f Fault, result *Result, allDone bool) error {
	done := slices.Contains(result.Done, i)
	switch {
	case f.Expect == Ignored && !allDone:
		return fmt.Errorf("%s: share %d did not finish: %w", f.Name, i, result.Errors[i])
	case f.Expect != Ignored && done:
		return fmt.Errorf("%s: share %d finished all the same", f.Name, i)
	case f.Expect == Named && !slices.Equal(Culprits(result.Errors[i]), []mpc.Index{a.cheater}):
		return fmt.Errorf("%s: share %d does not name the sender: %w", f.Name, i, result.Errors[i])
	}
	return nil
}
