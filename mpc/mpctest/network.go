// Package mpctest runs mpc.Party values against each other in memory, with a
// hostile router or a hostile party among them, and judges what comes out: no
// panic leaves a party, every run ends, nobody honest is blamed, and what
// honest parties finish with is good.
//
// Three levels: Run carries messages between parties, RunSealed carries them
// sealed by mpc/session as a coordinator does, and Suite tries every fault of
// this package on every message of a protocol.
//
// A seed fixes the order of delivery and the faults. Tests that also fix the
// parties' randomness (testing/cryptotest) can repeat a run exactly.
//
// Border: for tests only; it knows no protocol, no node and no token.
package mpctest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// defaultTimeout bounds a run on the wall clock.
const defaultTimeout = 2 * time.Minute

// Errors of a run that did not end by itself.
var (
	ErrDeadline = errors.New("mpctest: the deadline passed: a party hangs")
	ErrSteps    = errors.New("mpctest: the parties never stop sending")
)

// Packet is one message on its way to one party.
type Packet struct {
	To      mpc.Index
	Message mpc.Message
	// Late packets are delivered when nothing else is under way.
	Late bool
	// touched packets are not given to the hook again.
	touched bool
}

// Hook returns what the recipient gets instead of a packet, at the moment of its
// delivery. The first packet returned arrives at once; the rest are put back in
// the network, beyond the hook's reach. twin is Config.Twin's message of the
// same place, if it has made one.
type Hook func(r *rand.Rand, p Packet, twin *mpc.Message) []Packet

// Config describes one run.
type Config struct {
	Parties map[mpc.Index]mpc.Party
	// Seed fixes the order of delivery and the hook's choices.
	Seed uint64
	// InOrder delivers in the order of sending. Otherwise the order is random.
	InOrder bool
	Hook    Hook
	// Twin is a second party with the configuration of party TwinOf. It is given
	// what that one is given; what it sends goes to the hook only.
	Twin   mpc.Party
	TwinOf mpc.Index
	// MaxSteps bounds deliveries; default 20,000.
	MaxSteps int
	// Timeout bounds the run on the wall clock; default two minutes.
	Timeout time.Duration
}

// Result is what became of the parties.
type Result struct {
	Done []mpc.Index // ascending
	// Errors holds the first error of each party that had one.
	Errors map[mpc.Index]error
	// Violations are breaches of the mpc.Party contract: a panic that left a
	// party, messages or a result after an error, messages in another's name.
	Violations []string
	Steps      int
	// Trace lists deliveries; it has no message content.
	Trace []string
}

// place is what a message is: a party sends at most one per recipient.
type place struct {
	round     uint8
	broadcast bool
	to        mpc.Index
}

func placeOf(m mpc.Message) place { return place{m.Round, m.Broadcast, m.To} }

type network struct {
	cfg    Config
	random *rand.Rand
	queue  []Packet
	twin   map[place]mpc.Message
	result *Result
}

// Run starts the parties and delivers messages until none is under way. The
// error is ErrDeadline or ErrSteps; what parties report is in the Result.
func Run(cfg Config) (*Result, error) {
	if cfg.MaxSteps == 0 {
		cfg.MaxSteps = 20_000
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	n := &network{cfg: cfg, random: Random(cfg.Seed), twin: map[place]mpc.Message{},
		result: &Result{Errors: map[mpc.Index]error{}}}
	var err error
	if !within(cfg.Timeout, func() { err = n.run() }) {
		return &Result{Errors: map[mpc.Index]error{}}, fmt.Errorf("%w\n%s", ErrDeadline, stacks())
	}
	return n.result, err
}

// Random returns the generator a seed stands for.
func Random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6d70637465737400)) }

// within runs f and reports whether it returned in time. If not, f's goroutine
// is lost: the test that sees this has failed.
func within(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func stacks() []byte {
	b := make([]byte, 1<<16)
	return b[:runtime.Stack(b, true)]
}

func (n *network) run() error {
	for _, i := range n.indices() {
		n.call(i, nil)
	}
	if n.cfg.Twin != nil {
		n.callTwin(nil)
	}
	for len(n.queue) > 0 {
		if n.result.Steps++; n.result.Steps > n.cfg.MaxSteps {
			return ErrSteps
		}
		n.deliver(n.pick())
	}
	for _, i := range n.indices() {
		if done, err := n.cfg.Parties[i].Done(), n.result.Errors[i]; done && err == nil {
			n.result.Done = append(n.result.Done, i)
		} else if done {
			n.violation("share %d is done after the error %q", i, err)
		}
	}
	return nil
}

func (n *network) indices() []mpc.Index { return slices.Sorted(maps.Keys(n.cfg.Parties)) }

// pick removes the packet to deliver next: a late one only if all are.
func (n *network) pick() Packet {
	var ready []int
	for k, p := range n.queue {
		if !p.Late {
			ready = append(ready, k)
		}
	}
	k := 0
	switch {
	case len(ready) > 0 && n.cfg.InOrder:
		k = ready[0]
	case len(ready) > 0:
		k = ready[n.random.IntN(len(ready))]
	case !n.cfg.InOrder:
		k = n.random.IntN(len(n.queue))
	}
	p := n.queue[k]
	n.queue = slices.Delete(n.queue, k, k+1)
	return p
}

func (n *network) deliver(p Packet) {
	if n.cfg.Hook != nil && !p.touched {
		var twin *mpc.Message
		if m, ok := n.twin[placeOf(p.Message)]; ok && p.Message.From == n.cfg.TwinOf {
			twin = &m
		}
		instead := n.cfg.Hook(n.random, p, twin)
		for k := range instead {
			instead[k].touched = true
		}
		if len(instead) == 0 {
			n.trace("dropped", p)
			return
		}
		n.queue = append(n.queue, instead[1:]...)
		if p = instead[0]; p.Late {
			n.queue = append(n.queue, p)
			return
		}
	}
	if n.cfg.Parties[p.To] == nil {
		return
	}
	n.trace("delivered", p)
	n.call(p.To, &p.Message)
	if p.To == n.cfg.TwinOf && n.cfg.Twin != nil {
		n.callTwin(&p.Message)
	}
}

func (n *network) trace(what string, p Packet) {
	m := p.Message
	n.result.Trace = append(n.result.Trace, fmt.Sprintf("%s %d→%d round %d broadcast %v: %d bytes", what, m.From, p.To, m.Round, m.Broadcast, len(m.Data)))
}

// call starts a party (m is nil) or gives it a message, and posts what it sends.
func (n *network) call(i mpc.Index, m *mpc.Message) {
	p := n.cfg.Parties[i]
	before := n.result.Errors[i]
	out, err := n.guarded(i, p, m)
	switch {
	case err != nil && before == nil:
		n.result.Errors[i] = err
	case err == nil && before != nil:
		n.violation("share %d goes on after the error %q", i, before)
	}
	if err != nil && len(out) > 0 {
		n.violation("share %d sends messages with the error %q", i, err)
	}
	for _, m := range out {
		if m.From != i || m.To == i || m.Broadcast != (m.To == 0) {
			n.violation("share %d sends a message from %d to %d, broadcast %v", i, m.From, m.To, m.Broadcast)
			continue
		}
		for _, to := range n.indices() {
			if to != i && (m.Broadcast || m.To == to) {
				n.queue = append(n.queue, Packet{To: to, Message: clone(m)})
			}
		}
	}
}

// callTwin keeps what the twin would send. Its errors do not matter.
func (n *network) callTwin(m *mpc.Message) {
	out, _ := n.guarded(n.cfg.TwinOf, n.cfg.Twin, m)
	for _, m := range out {
		n.twin[placeOf(m)] = clone(m)
	}
}

func (n *network) guarded(i mpc.Index, p mpc.Party, m *mpc.Message) (out []mpc.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			n.violation("a panic left share %d: %v\n%s", i, r, stacks())
			out, err = nil, errors.New("mpctest: panic")
		}
	}()
	if m == nil {
		return p.Start()
	}
	return p.Step(clone(*m))
}

func (n *network) violation(format string, args ...any) {
	n.result.Violations = append(n.result.Violations, fmt.Sprintf(format, args...))
}

// clone copies a message, so that nobody changes another's.
func clone(m mpc.Message) mpc.Message {
	m.Echo, m.Data = slices.Clone(m.Echo), slices.Clone(m.Data)
	return m
}

// Culprits returns whom an error blames, ascending; none if it is no
// *mpc.AbortError.
func Culprits(err error) []mpc.Index {
	var abort *mpc.AbortError
	if !errors.As(err, &abort) {
		return nil
	}
	return slices.SortedFunc(slices.Values(abort.Culprits), cmp.Compare)
}

// Check reports a breach of what holds whatever cheater does (0 if everybody is
// honest): the party contract, and that nobody honest is blamed by anyone
// honest.
func (r *Result) Check(cheater mpc.Index) error {
	var errs []error
	for _, v := range r.Violations {
		errs = append(errs, errors.New(v))
	}
	for i, err := range r.Errors {
		if i == cheater {
			continue
		}
		for _, c := range Culprits(err) {
			if c != cheater {
				errs = append(errs, fmt.Errorf("share %d blames share %d, which is honest: %w", i, c, err))
			}
		}
	}
	return errors.Join(errs...)
}
