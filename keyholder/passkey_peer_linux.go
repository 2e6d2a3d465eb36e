package keyholder

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// peerCheck lets through this process's own user, and root, from whom nothing can be
// kept.
func peerCheck() func(remote, local netip.AddrPort) error {
	own := uint64(os.Getuid())
	return func(remote, local netip.AddrPort) error {
		uid, err := peerUser(remote, local)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", errNobody, err)
		case uid != own && uid != 0:
			return fmt.Errorf("mpckms runs as user %d and this browser as user %d; run both as the same", own, uid)
		}
		return nil
	}
}

// peerUser returns the user of the socket at the other end of a loopback connection,
// from the tables of proc_pid_net(5).
func peerUser(remote, local netip.AddrPort) (uint64, error) {
	remote, local = unmapped(remote), unmapped(local)
	// A socket for both versions of IP is in the second one, whatever it speaks.
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(path)
		if err != nil {
			continue // no IPv6; then it is not found
		}
		uid, err := findSocket(f, remote, local)
		_ = f.Close()
		if err == nil {
			return uid, nil
		}
	}
	return 0, errors.New("the connection's other end is not on this host, or already gone")
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// findSocket looks for the established socket with these ends. One that is being closed
// has no user any more: it is shown with that of root.
func findSocket(table io.Reader, own, other netip.AddrPort) (uint64, error) {
	const established = "01"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text()) // number, local, remote, state, queues, timer, retransmits, user
		if len(f) < 8 || f[3] != established {
			continue
		}
		a, errA := socketAddress(f[1])
		b, errB := socketAddress(f[2])
		if errA == nil && errB == nil && a == own && b == other {
			return strconv.ParseUint(f[7], 10, 32)
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("no such socket"))
}

// socketAddress reads an address as the tables have it: words of four bytes in the
// host's byte order, and the port, in hex.
func socketAddress(text string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, errors.New("no address")
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, errors.New("no port")
	}
	a, _ := netip.AddrFromSlice(raw)
	return unmapped(netip.AddrPortFrom(a, uint16(number))), nil
}
