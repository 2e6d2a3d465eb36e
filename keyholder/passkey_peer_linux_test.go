package keyholder

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestFindSocket(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:1F90 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
   2: 0100007F:C351 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1
`
	const six = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:C352 00000000000000000000000001000000:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 3 1 0 20 4 30 10 -1
   1: 0000000000000000FFFF00000100007F:C353 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 00:00000000 00000000  1003        0 4 1 0 20 4 30 10 -1
   2: short
   3: zz:C353 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1003
`
	for _, c := range []struct {
		table, own, other string
		want              uint64
	}{
		{table, "127.0.0.1:50001", "127.0.0.1:8080", 1001},
		{table, "127.0.0.1:50000", "127.0.0.1:8080", 0}, // being closed: it looks like root's
		{table, "127.0.0.1:8080", "127.0.0.1:50001", 0},
		{six, "[::1]:50002", "[::1]:8080", 1002},
		{six, "127.0.0.1:50003", "127.0.0.1:8080", 1003},
		{six, "[::1]:50003", "[::1]:8080", 0},
	} {
		uid, err := findSocket(strings.NewReader(c.table), netip.MustParseAddrPort(c.own), netip.MustParseAddrPort(c.other))
		if uid != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s to %s: %d, %v", c.own, c.other, uid, err)
		}
	}
}

// TestPeerUser looks at real connections: of this user, and, where the test may take
// another one, of somebody else.
func TestPeerUser(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
		l, err := net.Listen(network, address)
		if err != nil {
			t.Log(err)
			continue
		}
		defer l.Close()
		check := peerCheck()
		asks := func(from net.Conn) error {
			t.Helper()
			to, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			defer from.Close()
			return check(to.RemoteAddr().(*net.TCPAddr).AddrPort(), to.LocalAddr().(*net.TCPAddr).AddrPort())
		}
		own, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := asks(own); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		gone, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = gone.Close()
		if err := asks(gone); err == nil {
			t.Errorf("%s: one that is being closed is somebody", network)
		}
		if os.Getuid() != 0 {
			continue
		}
		other := make(chan net.Conn)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its user
			_ = syscall.Setfsuid(65534)
			c, _ := net.Dial(network, l.Addr().String())
			other <- c
		}()
		c := <-other
		if c == nil {
			t.Fatal("nobody cannot connect")
		}
		if err := asks(c); err == nil || !strings.Contains(err.Error(), "65534") {
			t.Errorf("%s: another user: %v", network, err)
		}
	}
}
