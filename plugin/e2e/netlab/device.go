//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// device is the name of a site's TUN device, within the site.
const device = "wan0"

// newTUN makes a TUN device in the calling thread's network
// (Documentation/networking/tuntap.rst): packets without any header before
// them. The device is gone once the file is closed.
func newTUN(name string) (*os.File, error) {
	// Not os.OpenFile: the poller must first see the file when it has a device,
	// or it takes it for one that cannot be polled.
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunPath), nil
}

// configure gives the calling thread's network a loopback and the device its
// address (netdevice(7)). The address' subnet is the only route.
func configure(addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // holds nothing
	mask := netip.AddrFrom4([4]byte{255, 255, 255, 0})
	for _, step := range []struct {
		name string
		call uint
		set  func(*unix.Ifreq) error
	}{
		{"lo", unix.SIOCSIFFLAGS, flagsUp},
		{device, unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
		{device, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.AsSlice()) }},
		{device, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask.AsSlice()) }},
		{device, unix.SIOCSIFFLAGS, flagsUp},
	} {
		request, err := unix.NewIfreq(step.name)
		if err != nil {
			return err
		}
		if err := step.set(request); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, step.call, request); err != nil {
			return fmt.Errorf("configuring %s (call %#x): %w", step.name, step.call, err)
		}
	}
	return nil
}

func flagsUp(r *unix.Ifreq) error {
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return nil
}
