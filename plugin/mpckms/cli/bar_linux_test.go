package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen is a terminal for standard error, and what was written to it.
type screen struct {
	*terminal
	mu   sync.Mutex
	b    bytes.Buffer
	done chan struct{}
}

func newScreen(t *testing.T, columns uint16) *screen {
	t.Helper()
	t.Setenv("TERM", "xterm")
	s := &screen{terminal: newTerminal(t), done: make(chan struct{})}
	if err := unix.IoctlSetWinsize(int(s.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	go func() { // ends when the last holder of the terminal closes it
		defer close(s.done)
		buf := make([]byte, 4096)
		for {
			n, err := s.keys.Read(buf)
			s.mu.Lock()
			s.b.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

// run runs a command with the screen as standard error and returns what it
// showed, after the command has ended.
func (s *screen) run(t *testing.T, cfg Config) (code int, stdout, shown string) {
	t.Helper()
	var out lockedBuffer
	cfg.Stdout, cfg.Stderr = &out, s.tty
	cfg.StoredToken = func() (string, error) { return "", nil }
	cfg.retryPause, cfg.progressPause, cfg.batchPace = time.Millisecond, time.Millisecond, time.Hour
	code = Run(t.Context(), cfg)
	if err := s.tty.Close(); err != nil {
		t.Fatal(err)
	}
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return code, out.String(), s.b.String()
}

// lines are the states of the line a bar stands on.
func lines(shown string) []string {
	return strings.Split(strings.ReplaceAll(shown, "\r\n", "\n"), eraseLine)
}

// left is what stands on the screen when all was written.
func left(shown string) string {
	all := lines(shown)
	return all[len(all)-1]
}

func TestSignShowsABar(t *testing.T) {
	s := engine(t)
	var tries atomic.Int32
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			for range 500 {
				if len(s.called("GET mpc/nodes/local-3")) > 0 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond)
			fails(409, pendingMessage)(w, r)
			return
		}
		data(signData)(w, r)
	})
	code, stdout, shown := newScreen(t, 100).run(t, Config{Args: []string{"account", "sign", "treasury", "--input", "x", "-o", "json"}})
	if code != 0 || !strings.Contains(stdout, `"signature": "MEQ="`) || strings.ContainsAny(stdout, "\r\x1b#") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	// 100, 40 and 0 percent are 46 together.
	if want := "Auxiliary keys [###########-------------]  46 %  local-1 ready, local-2 40 %, local-3 0 %"; !strings.Contains(shown, want) {
		t.Errorf("shown %q, not %q", shown, want)
	}
	if left(shown) != "" {
		t.Errorf("left on the screen: %q of %q", left(shown), shown)
	}
}

// A narrow terminal, or one that cannot draw.
func TestBarFits(t *testing.T) {
	for _, columns := range []int{10, 40, 80, 300} {
		line := barLine("Auxiliary keys", 1, 3, strings.Repeat("é", 200), columns)
		if n := len([]rune(line)); n >= columns {
			t.Errorf("%d columns: %d characters: %q", columns, n, line)
		}
	}
	for _, test := range []struct {
		done, total int
		want        string
	}{{0, 0, "[------------------------]   0 %"}, {5, 3, "[########################] 100 %"}, {-1, 3, "[------------------------]   0 %"}, {1, 2, "[############------------]  50 %"}} {
		if got := barLine("x", test.done, test.total, "", 0); got != "x "+test.want {
			t.Errorf("%d of %d: %q", test.done, test.total, got)
		}
	}
	s := newScreen(t, 80)
	t.Setenv("TERM", "dumb")
	if newBar(s.tty).shown() {
		t.Error("a bar on a terminal that cannot draw one")
	}
	if newBar(os.Stdin).width != nil && newBar(&bytes.Buffer{}).shown() {
		t.Error("a bar without a terminal")
	}
}

// pendingNodes answers for the nodes: some still make auxiliary keys, until they
// were looked at a few times.
func pendingNodes(s *server, looks int32) {
	var n atomic.Int32
	for _, id := range []string{"local-2", "local-3"} {
		s.on("GET mpc/nodes/"+id, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) <= 2*looks {
				data(strings.Replace(node2, "local-2", id, 1))(w, r)
				return
			}
			data(strings.Replace(node1, "local-1", id, 1))(w, r)
		})
	}
}

func TestCreateWaitsForAuxiliaryKeys(t *testing.T) {
	create := func(more ...string) []string {
		return append([]string{"account", "create", "fresh", "--algorithm", "ecdsa-secp256k1"}, more...)
	}
	s := engine(t)
	pendingNodes(s, 3)
	code, stdout, shown := newScreen(t, 100).run(t, Config{Args: create()})
	if code != 0 || !strings.Contains(stdout, "02aabb") || !strings.Contains(shown, "Auxiliary keys [##############----------]  60 %") || left(shown) != "" {
		t.Errorf("exit code %d, left %q: %q", code, left(shown), shown)
	}

	// Without a terminal only where asked for.
	s = engine(t)
	pendingNodes(s, 3)
	run(t, create()...).want(t, 0)
	if n := len(s.called("LIST mpc/nodes")); n != 0 {
		t.Error("a script waits without having asked for it")
	}
	runWatching(t, create("--wait")...).want(t, 0, "Auxiliary keys: local-1 ready, local-2 40 %, local-3 40 %")
	run(t, create("--wait", "--no-wait")...).want(t, 2, "wait")

	// Schemes without auxiliary keys do not wait, nor does who says so.
	for _, args := range [][]string{create("--no-wait"), {"account", "create", "fresh", "--algorithm", "ed25519"}} {
		s.forget()
		if code, _, shown := newScreen(t, 100).run(t, Config{Args: args}); code != 0 || shown != "" || len(s.called("LIST mpc/nodes")) != 0 {
			t.Errorf("%v: exit code %d, %q", args, code, shown)
		}
	}

	// The account is made: that the nodes cannot be seen is no failure of it.
	s.on("LIST mpc/nodes", fails(403, "permission denied"))
	if code, _, shown := newScreen(t, 200).run(t, Config{Args: create()}); code != 0 || !strings.Contains(shown, `Account "fresh" is created`) {
		t.Errorf("exit code %d: %q", code, shown)
	}
	runWatching(t, create("--wait")...).want(t, 1, "permission denied", `Account "fresh" is created`)
}

func TestCatchUpShowsABar(t *testing.T) {
	s := keeping(t)
	var looks atomic.Int32
	s.on("GET mpc/config/rotation", func(w http.ResponseWriter, r *http.Request) {
		remaining, finished := 7-2*looks.Add(1), ""
		if remaining <= 0 {
			remaining, finished = 0, "2026-01-02T03:05:05Z"
		}
		data(fmt.Sprintf(`{"catch_up":{"remaining":%d,"started_time":"2026-01-02T03:04:05Z","finished_time":%q}}`, remaining, finished))(w, r)
	})
	code, stdout, shown := newScreen(t, 100).run(t, Config{Args: []string{"rotation", "catch-up"}})
	if code != 0 || stdout != "Catch-up  finished at 2026-01-02T03:05:05Z\n" || left(shown) != "" {
		t.Errorf("exit code %d, stdout %q, left %q", code, stdout, left(shown))
	}
	for _, want := range []string{"]   0 %  0 of 7 accounts", "]  28 %  2 of 7 accounts", "]  85 %  6 of 7 accounts"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q was not shown: %q", want, shown)
		}
	}
	looks.Store(0)
	runWatching(t, "rotation", "catch-up", "--wait").want(t, 0, "Catch-up: 2 of 7 accounts")
	looks.Store(0)
	run(t, "rotation", "catch-up").want(t, 0)
	if looks.Load() != 0 {
		t.Error("a script waits without having asked for it")
	}
	s.on("GET mpc/config/rotation", fails(403, "permission denied"))
	runWatching(t, "rotation", "catch-up", "--wait").want(t, 1, "permission denied", "The catch-up has begun")
}

// Warnings stand above the bar, and the batch ends without it.
func TestBatchShowsABar(t *testing.T) {
	s := batchServer(t)
	_ = s
	code, stdout, shown := newScreen(t, 100).run(t, Config{
		Args:  []string{"account", "sign-batch", "treasury", "--file", "-", "-o", "json"},
		Stdin: strings.NewReader(strings.Repeat(`{"text":"x"}`, 40)),
	})
	if code != 0 || strings.Contains(stdout, "\x1b") || !strings.Contains(shown, "Signing [############------------]  50 %  20 of 40") || left(shown) != "" {
		t.Errorf("exit code %d, left %q: %q", code, left(shown), shown)
	}
}

// The name is typed once more at a terminal.
func TestDestroyAsks(t *testing.T) {
	s := engine(t)
	p := newTerminal(t)
	args := []string{"account", "destroy", "treasury"}
	if code, said := atTerminal(t, t.Context(), p, args, "treasure\n"); code != 2 || !strings.Contains(said, "nothing was destroyed") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if n := len(s.called("PUT mpc/destroy/treasury")); n != 0 {
		t.Fatal("it was destroyed")
	}
	if code, said := atTerminal(t, t.Context(), p, args, "treasury\n"); code != 0 || !strings.Contains(said, "removed for good") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if n := len(s.called("PUT mpc/destroy/treasury")); n != 1 {
		t.Errorf("%d requests", n)
	}
}
