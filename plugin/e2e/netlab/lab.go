//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Path is what a packet meets between two sites, in each direction.
type Path struct {
	Delay time.Duration // one way; a round trip takes at least twice that
	Loss  float64       // the part of all packets that is lost, from 0 to 1
}

// Config of a lab; the zero value is a network without delay and loss.
type Config struct {
	// Seed of the choice of packets that are lost.
	Seed uint64
	// Paths returns the path between two sites that are new to each other. It
	// is called under the lab's lock and must not call back. Default: the zero
	// Path.
	Paths func(a, b *Site) Path
}

// Counts of packets since the lab was made.
type Counts struct {
	Delivered, Lost, Cut uint64
	// Dropped packets had no way: another protocol, an address of nobody, a
	// queue that was full.
	Dropped uint64
}

// Lab is a network of sites. Its methods may be called concurrently.
type Lab struct {
	cfg  Config
	done chan struct{}
	// running counts the goroutines that carry packets; Close waits for them.
	running sync.WaitGroup

	delivered, lost, cut, dropped atomic.Uint64

	mu     sync.RWMutex
	closed bool
	sites  map[netip.Addr]*Site
	paths  map[pair]*state
	queues map[direction]chan packet

	randomMu sync.Mutex
	random   *rand.Rand
}

// pair names two sites without order: a's address is the lower one.
type pair struct{ a, b netip.Addr }

func pairOf(a, b netip.Addr) pair {
	if b.Less(a) {
		a, b = b, a
	}
	return pair{a, b}
}

// state of a pair of sites, which the lab's lock guards.
type state struct {
	path Path
	cut  bool
}

// New makes a lab without sites. The error says what this machine lacks.
func New(cfg Config) (*Lab, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	if cfg.Paths == nil {
		cfg.Paths = func(*Site, *Site) Path { return Path{} }
	}
	return &Lab{
		cfg: cfg, done: make(chan struct{}),
		sites: map[netip.Addr]*Site{}, paths: map[pair]*state{}, queues: map[direction]chan packet{},
		random: rand.New(rand.NewPCG(cfg.Seed, 0)),
	}, nil
}

// Available says why no lab can be made here; nil means that one can. It makes
// a namespace and a device and lets go of them again.
func Available() error {
	if os.Getuid() != 0 {
		return errors.New("no network lab: making network namespaces needs root")
	}
	if _, err := os.Stat(tunPath); err != nil {
		return fmt.Errorf("no network lab: %w (load the module tun, or give the container this device)", err)
	}
	s, err := newSite("probe", "", subnet.Addr().Next())
	if err != nil {
		return fmt.Errorf("no network lab: %w", err)
	}
	return s.close()
}

// subnet holds the sites' addresses, in every lab the same.
var subnet = netip.MustParsePrefix("10.77.0.0/24")

// Add makes a site. Region is a label for the caller, and for Config.Paths.
func (l *Lab) Add(name, region string) (*Site, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("netlab: closed")
	}
	addr := subnet.Addr().Next()
	for range l.sites {
		addr = addr.Next()
	}
	if len(l.sites) >= 250 {
		return nil, errors.New("netlab: no more than 250 sites")
	}
	s, err := newSite(name, region, addr)
	if err != nil {
		return nil, fmt.Errorf("netlab: site %s: %w", name, err)
	}
	for _, other := range l.sites {
		l.paths[pairOf(addr, other.addr)] = &state{path: l.cfg.Paths(other, s)}
	}
	l.sites[addr] = s
	l.running.Go(func() { l.read(s) })
	return s, nil
}

// SetPath changes the path between every site of a and every site of b. Packets
// that are under way keep the delay they left with.
func (l *Lab) SetPath(a, b []*Site, p Path) { l.each(a, b, func(s *state) { s.path = p }) }

// Cut parts the sites of a from those of b: nothing passes, and what is under
// way is lost. Connections are not told, as with a cable that is cut.
func (l *Lab) Cut(a, b []*Site) { l.each(a, b, func(s *state) { s.cut = true }) }

// Mend ends what Cut began.
func (l *Lab) Mend(a, b []*Site) { l.each(a, b, func(s *state) { s.cut = false }) }

func (l *Lab) each(a, b []*Site, do func(*state)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range a {
		for _, y := range b {
			if s := l.paths[pairOf(x.addr, y.addr)]; s != nil { // nil: the same site
				do(s)
			}
		}
	}
}

// Sites returns the sites that the predicate picks, all when it is nil, in no
// order.
func (l *Lab) Sites(pick func(*Site) bool) []*Site {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var sites []*Site
	for _, s := range l.sites {
		if pick == nil || pick(s) {
			sites = append(sites, s)
		}
	}
	return sites
}

// Counts returns what became of packets so far.
func (l *Lab) Counts() Counts {
	return Counts{Delivered: l.delivered.Load(), Lost: l.lost.Load(), Cut: l.cut.Load(), Dropped: l.dropped.Load()}
}

// Close ends the router and lets go of the sites. Processes in them are the
// caller's to end, before or after: they keep their namespace, without a way
// out. It waits for the lab's goroutines.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	var errs []error
	for _, s := range l.sites {
		errs = append(errs, s.close())
	}
	l.mu.Unlock()
	l.running.Wait()
	return errors.Join(errs...)
}
