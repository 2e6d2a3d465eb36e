//go:build linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// Site is a host of the lab: a network of its own with one address, and a
// loopback of its own. Its methods may be called concurrently.
type Site struct {
	Name, Region string

	addr      netip.Addr
	namespace *os.File // keeps it alive while no process is in it
	tun       *os.File // the lab's end of the site's device
}

// Addr is the site's address, for other sites and for itself.
func (s *Site) Addr() netip.Addr { return s.addr }

func (s *Site) String() string { return s.Name + " " + s.addr.String() }

// Start starts a command in the site. Its owner waits for it and ends it.
func (s *Site) Start(cmd *exec.Cmd) error {
	return s.inside(cmd.Start)
}

// DialContext connects from the site. The address holds no name to be
// resolved: there are no name servers here.
func (s *Site) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("netlab: %w", err)
	}
	// With one address to try, the socket is made on the calling thread.
	err = s.inside(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens for streams at a port of the site's address; 0 picks one.
func (s *Site) Listen(port uint16) (l net.Listener, err error) {
	err = s.inside(func() error {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(s.addr, port).String())
		return err
	})
	return l, err
}

// ListenPacket listens for UDP datagrams at a port of the site's address.
func (s *Site) ListenPacket(port uint16) (c net.PacketConn, err error) {
	err = s.inside(func() error {
		c, err = net.ListenPacket("udp4", netip.AddrPortFrom(s.addr, port).String())
		return err
	})
	return c, err
}

// inside runs do on a thread that is in the site's network. Sockets and
// processes that this thread makes belong to the site for good.
func (s *Site) inside(do func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(s.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netlab: entering %s: %w", s.Name, err)
		}
		return do()
	})
}

// onThread runs do on a thread of its own and brings the thread back to the
// network it came from. A thread that does not find back ends with its
// goroutine, which the runtime does to locked threads: no other goroutine may
// get it.
func onThread(do func() error) error {
	result := make(chan error, 1)
	go func() { // ends when do does, which the caller waits for
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close() //nolint:errcheck // only read
		err = do()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func newSite(name, region string, addr netip.Addr) (s *Site, err error) {
	s = &Site{Name: name, Region: region, addr: addr}
	err = onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		if s.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if s.tun, err = newTUN(device); err != nil {
			return fmt.Errorf("making a TUN device: %w", err)
		}
		return configure(addr)
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *Site) close() error {
	var errs []error
	for _, f := range []*os.File{s.tun, s.namespace} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
