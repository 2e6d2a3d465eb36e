//go:build linux

package netlab

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAvailable tells scripts/test-cluster.sh whether labs can be made here.
func TestAvailable(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
}

// newLab makes a lab of sites that are named and placed "name@region".
func newLab(t *testing.T, cfg Config, sites ...string) (*Lab, map[string]*Site) {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	byName := map[string]*Site{}
	for _, s := range sites {
		name, region, _ := strings.Cut(s, "@")
		if byName[name], err = l.Add(name, region); err != nil {
			t.Fatal(err)
		}
	}
	return l, byName
}

// farAndNear has a delay between regions only.
func farAndNear(oneWay time.Duration) func(a, b *Site) Path {
	return func(a, b *Site) Path {
		if a.Region == b.Region {
			return Path{}
		}
		return Path{Delay: oneWay}
	}
}

// echo answers every datagram that reaches the site until the test ends.
func echo(t *testing.T, s *Site) netip.AddrPort {
	t.Helper()
	c, err := s.ListenPacket(0)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = c.Close(); serving.Wait() })
	serving.Go(func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buffer[:n], from)
		}
	})
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// ping sends datagrams and returns how many came back, and the shortest round
// trip. It waits for the last ones for the given time at most.
func ping(t *testing.T, from *Site, to netip.AddrPort, count int, wait time.Duration) (back int, shortest time.Duration) {
	t.Helper()
	c, err := from.DialContext(t.Context(), "udp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's socket
	sent := make([]time.Time, count)
	var mu sync.Mutex // of sent
	var receiving sync.WaitGroup
	receiving.Go(func() {
		buffer := make([]byte, 64)
		for {
			if _, err := c.Read(buffer); err != nil {
				return // the deadline
			}
			mu.Lock()
			took := time.Since(sent[binary.BigEndian.Uint32(buffer)])
			mu.Unlock()
			if back++; shortest == 0 || took < shortest {
				shortest = took
			}
			if back == count {
				return
			}
		}
	})
	for i := range count {
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			t.Error(err)
			break
		}
		if i%20 == 19 { // below what socket buffers hold
			time.Sleep(time.Millisecond)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	receiving.Wait()
	return back, shortest
}

func TestDelayBetweenRegionsOnly(t *testing.T) {
	const oneWay = 25 * time.Millisecond
	_, s := newLab(t, Config{Paths: farAndNear(oneWay)}, "eu-1@eu", "eu-2@eu", "us-1@us")
	back, far := ping(t, s["eu-1"], echo(t, s["us-1"]), 20, 2*time.Second)
	if back != 20 || far < 2*oneWay {
		t.Errorf("between regions: %d of 20 came back, the fastest after %v: want all, and %v or more", back, far, 2*oneWay)
	}
	back, near := ping(t, s["eu-1"], echo(t, s["eu-2"]), 20, 2*time.Second)
	if back != 20 || near <= 0 {
		t.Errorf("within a region: %d of 20 came back, the fastest after %v", back, near)
	}
	// Both were measured on the same machine in the same second: only a router
	// that delays the wrong path makes this one the longer one.
	if near >= far {
		t.Errorf("within a region a round trip takes %v, between regions %v", near, far)
	}
	t.Logf("round trips: %v between regions, %v within one", far, near)
}

func TestLossIsWhatWasAskedFor(t *testing.T) {
	const count = 4000
	for _, tt := range []struct {
		loss        float64
		least, most int // of count, that come back: both ways lose
	}{
		{0, count, count},
		// 0.99² = 0.9801 of 4000 is 3920, standard deviation 9.
		{0.01, 3860, 3980},
		// 0.8² = 0.64 of 4000 is 2560, standard deviation 30.
		{0.2, 2380, 2740},
		{1, 0, 0},
	} {
		t.Run(fmt.Sprint(tt.loss), func(t *testing.T) {
			l, s := newLab(t, Config{Seed: 7, Paths: func(_, _ *Site) Path { return Path{Loss: tt.loss} }}, "a@x", "b@y")
			back, _ := ping(t, s["a"], echo(t, s["b"]), count, time.Second)
			if back < tt.least || back > tt.most {
				t.Errorf("%d of %d came back, want %d to %d; router: %+v", back, count, tt.least, tt.most, l.Counts())
			}
			t.Logf("%d of %d came back; router: %+v", back, count, l.Counts())
		})
	}
}

func TestCutAndMend(t *testing.T) {
	l, s := newLab(t, Config{}, "a@x", "b@y", "c@y")
	toB, toC := echo(t, s["b"]), echo(t, s["c"])
	reach := func(from *Site, to netip.AddrPort) bool {
		back, _ := ping(t, from, to, 3, 300*time.Millisecond)
		return back > 0
	}
	if !reach(s["a"], toB) || !reach(s["a"], toC) {
		t.Fatal("no way before the cut")
	}
	far := l.Sites(func(s *Site) bool { return s.Region == "y" })
	l.Cut([]*Site{s["a"]}, far)
	if reach(s["a"], toB) || reach(s["a"], toC) {
		t.Error("a reaches the other side of the cut")
	}
	if !reach(s["b"], toC) {
		t.Error("b and c, on one side of the cut, do not reach each other")
	}
	if l.Counts().Cut == 0 {
		t.Error("the router counts no packet that was cut")
	}
	l.Mend([]*Site{s["a"]}, []*Site{s["b"]})
	if !reach(s["a"], toB) || reach(s["a"], toC) {
		t.Error("mending a-b must bring back a-b, and a-b only")
	}
}

// TestConnectionsSurviveDelayAndLoss has TCP carry a megabyte, so that whole
// windows are under way.
func TestConnectionsSurviveDelayAndLoss(t *testing.T) {
	_, s := newLab(t, Config{Paths: func(_, _ *Site) Path { return Path{Delay: 5 * time.Millisecond, Loss: 0.01} }}, "a@x", "b@y")
	listener, err := s["b"].Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer listener.Close() //nolint:errcheck // a test's socket
	serving.Go(func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close() //nolint:errcheck // a test's socket
		_, _ = io.Copy(c, c)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := s["a"].DialContext(ctx, "tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's socket
	if host, _, _ := net.SplitHostPort(c.LocalAddr().String()); host != s["a"].Addr().String() {
		t.Errorf("the connection comes from %s, not from a's address %s", host, s["a"].Addr())
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	serving.Go(func() { _, _ = c.Write(sent) })
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("what came back is not what was sent: %v", err)
	}
}

func TestProcessesAreInTheirSite(t *testing.T) {
	_, s := newLab(t, Config{}, "a@x", "b@y")
	links := func(start func(*exec.Cmd) error) string {
		cmd := exec.Command("cat", "/proc/self/net/dev")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := links(s["a"].Start); !strings.Contains(got, device+":") || strings.Count(got, ":") != 2 {
		t.Errorf("in a site there are other devices than lo and %s:\n%s", device, got)
	}
	// The threads of this process are back where they were.
	for range 50 {
		if got := links((*exec.Cmd).Start); strings.Contains(got, device+":") {
			t.Fatal("a process that was started outside of the lab is inside")
		}
	}
}

// TestClosedLabIsGone looks at the kernel's own count of namespaces: a process
// in a site is what keeps one.
func TestClosedLabIsGone(t *testing.T) {
	l, s := newLab(t, Config{}, "a@x", "b@y")
	to := echo(t, s["b"])
	if back, _ := ping(t, s["a"], to, 1, time.Second); back != 1 {
		t.Fatal("no way while the lab is there")
	}
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s["a"].Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // ends with its input
	defer stdin.Close()
	devices := func() string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if !strings.Contains(devices(), device+":") {
		t.Fatal("the process in the site does not see its device")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(devices(), device+":") {
		t.Error("a closed lab left a device behind")
	}
	if _, err := l.Add("c", "x"); err == nil {
		t.Error("a closed lab takes another site")
	}
}
