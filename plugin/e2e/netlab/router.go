//go:build linux

package netlab

import (
	"net/netip"
	"time"
)

// packet is one IPv4 packet under way.
type packet struct {
	bytes []byte
	due   time.Time // when it arrives
}

// direction names one way between two sites.
type direction struct{ from, to netip.Addr }

const (
	// mtu of the sites' devices, in bytes: Ethernet's, which TCP will expect.
	mtu = 1500
	// queued packets of one direction at most. A TCP window at 250 ms fits.
	queued = 4096
)

// read takes in what a site sends, until its device is closed.
func (l *Lab) read(s *Site) {
	buffer := make([]byte, mtu+64)
	for {
		n, err := s.tun.Read(buffer)
		if err != nil {
			return // closed: the device gives no other error
		}
		l.route(s, buffer[:n])
	}
}

// route decides about a packet at the moment it leaves.
func (l *Lab) route(from *Site, raw []byte) {
	now := time.Now()
	// RFC 791: version in the first half byte, destination at byte 16. Whatever
	// else the kernel sends, IPv6 router solicitations for one, has no way here.
	if len(raw) < 20 || raw[0]>>4 != 4 {
		l.dropped.Add(1)
		return
	}
	to, _ := netip.AddrFromSlice(raw[16:20])
	l.mu.RLock()
	s := l.paths[pairOf(from.addr, to)]
	if s == nil || l.closed {
		l.mu.RUnlock()
		l.dropped.Add(1)
		return
	}
	path, cut := s.path, s.cut
	l.mu.RUnlock()
	switch {
	case cut:
		l.cut.Add(1)
		return
	case path.Loss > 0 && l.draw() < path.Loss:
		l.lost.Add(1)
		return
	}
	queue := l.queue(direction{from.addr, to})
	if queue == nil {
		return
	}
	select {
	case queue <- packet{append([]byte(nil), raw...), now.Add(path.Delay)}:
	default:
		l.dropped.Add(1)
	}
}

func (l *Lab) draw() float64 {
	l.randomMu.Lock()
	defer l.randomMu.Unlock()
	return l.random.Float64()
}

// queue returns the queue of a direction, which its first packet makes; nil
// after Close.
func (l *Lab) queue(d direction) chan<- packet {
	l.mu.RLock()
	queue := l.queues[d]
	l.mu.RUnlock()
	if queue != nil {
		return queue
	}
	// Only the reader of d.from comes here for d, so nobody was faster.
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	queue = make(chan packet, queued)
	l.queues[d] = queue
	state, to := l.paths[pairOf(d.from, d.to)], l.sites[d.to]
	l.running.Go(func() { l.deliver(queue, state, to) })
	return queue
}

// deliver hands the packets of one direction over, each when it is due, in the
// order in which they left.
func (l *Lab) deliver(queue <-chan packet, s *state, to *Site) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var p packet
		select {
		case p = <-queue:
		case <-l.done:
			return
		}
		if wait := time.Until(p.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-l.done:
				return
			}
		}
		l.mu.RLock()
		cut := s.cut
		l.mu.RUnlock()
		if cut {
			l.cut.Add(1)
		} else if _, err := to.tun.Write(p.bytes); err != nil {
			l.dropped.Add(1)
		} else {
			l.delivered.Add(1)
		}
	}
}
