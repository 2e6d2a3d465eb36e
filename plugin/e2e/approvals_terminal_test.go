//go:build e2e && linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// screen is a pseudo-terminal with a program on it, and what a person sees there: the
// few control sequences that the program uses are carried out, any other fails the
// test.
type screen struct {
	keys, tty *os.File
	cmd       *exec.Cmd
	before    unix.Termios
	read      sync.WaitGroup

	mu      sync.Mutex
	rows    [][]rune
	row     int
	column  int
	redrawn int    // how often the cursor went up
	strange string // what is not understood
	rest    []byte // the beginning of a sequence or character
}

// onScreen starts mpckms on a terminal of so many columns.
func (p *terminalAsker) onScreen(t *testing.T, columns uint16, args ...string) *screen {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	s := &screen{keys: keys, tty: tty}
	s.resize(t, columns)
	// Else Ctrl-C throws away what the program has drawn and this test has not read.
	keep := s.settings(t)
	keep.Lflag |= unix.NOFLSH
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &keep); err != nil {
		t.Fatal(err)
	}
	s.before = s.settings(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s.cmd = p.command(ctx, p.token, args)
	s.cmd.Env = append(s.cmd.Env, "TERM=xterm")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	// The program's own terminal, so that Ctrl-C reaches it as it does a person's.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.read.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := keys.Read(buf)
			s.feed(buf[:n])
			if err != nil { // closed
				return
			}
		}
	})
	return s
}

func (s *screen) settings(t *testing.T) unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *state
}

func (s *screen) resize(t *testing.T, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(s.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 60, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// feed carries out what the program wrote (ECMA-48: CSI n A, J, K, m).
func (s *screen) feed(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(append(s.rest, b...))
	s.rest = nil
	for text != "" {
		r := []rune(text[:min(len(text), 4)])[0]
		switch {
		case r == '\x1b':
			end := strings.IndexFunc(text[1:], func(r rune) bool { return r >= '@' && r <= '~' && r != '[' })
			if end < 0 {
				s.rest = []byte(text)
				return
			}
			s.control(text[1 : end+2])
			text = text[end+2:]
			continue
		case r == '\r':
			s.column = 0
		case r == '\n':
			s.row++
		case r == '\ufffd' && len(text) < 4:
			s.rest = []byte(text)
			return
		default:
			s.put(r)
		}
		text = text[len(string(r)):]
	}
}

func (s *screen) line() *[]rune {
	for len(s.rows) <= s.row {
		s.rows = append(s.rows, nil)
	}
	return &s.rows[s.row]
}

func (s *screen) put(r rune) {
	l := s.line()
	for len(*l) <= s.column {
		*l = append(*l, ' ')
	}
	(*l)[s.column] = r
	s.column++
}

func (s *screen) control(seq string) {
	s.line()
	switch number, err := strconv.Atoi(seq[1 : len(seq)-1]); {
	case strings.HasSuffix(seq, "m"): // colours
	case strings.HasSuffix(seq, "A") && err == nil && number <= s.row:
		s.row -= number
		s.redrawn++
	case seq == "[K":
		l := s.line()
		*l = (*l)[:min(len(*l), s.column)]
	case seq == "[J":
		l := s.line()
		*l = (*l)[:min(len(*l), s.column)]
		s.rows = s.rows[:s.row+1]
	default:
		s.strange += fmt.Sprintf(" %q at line %d", seq, s.row)
	}
}

// shown is what is on the screen now.
func (s *screen) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, l := range s.rows {
		b.WriteString(string(l) + "\n")
	}
	return b.String()
}

// link is that of the code on the screen; empty where there is none, or one is just
// being drawn.
func (s *screen) link(t *testing.T) string {
	t.Helper()
	shown := s.shown()
	if !strings.Contains(shown, "█") || !strings.Contains(shown, "Scan it") {
		return ""
	}
	// On a terminal with colours what is drawn is dark, see drawCode.
	const scale = 6
	var rows [][]rune
	for line := range strings.Lines(shown) {
		if line = strings.TrimRight(line, "\n"); line != "" && strings.Trim(line, "█▀▄ ") == "" {
			rows = append(rows, []rune(line))
		}
	}
	img := image.NewGray(image.Rect(0, 0, len(rows[0])*scale, len(rows)*2*scale))
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			r, upper := ' ', y%(2*scale) < scale
			if row := rows[y/(2*scale)]; x/scale < len(row) {
				r = row[x/scale]
			}
			if r != '█' && (r != '▀' || !upper) && (r != '▄' || upper) {
				img.SetGray(x, y, color.Gray{255})
			}
		}
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		return "" // half drawn
	}
	return result.GetText()
}

// end waits for the program and checks that the terminal is as it was before.
func (s *screen) end(t *testing.T) int {
	t.Helper()
	err := s.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if now := s.settings(t); now != s.before {
		t.Errorf("the terminal is left with other settings: %+v, before %+v", now, s.before)
	}
	s.tty.Close() // the reader ends when nobody has it open
	s.read.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.strange != "" {
		t.Errorf("control sequences that move what was there before, or are not known:%s", s.strange)
	}
	return s.cmd.ProcessState.ExitCode()
}

// TestApprovalsTerminal shows a request's moving code on a real terminal.
func TestApprovalsTerminal(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvals-tty", 3)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200", "qr_period": "1s"})
	carol := newTerminalAsker(t, e, "tara")
	e.approver(t, "guard")
	ok(t, carol.admin(t, "account", "create", "gold", "--algorithm", bip340, "--approver", "guard"))
	ask := func(message string) string {
		t.Helper()
		return printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", message, "-o", "json")).Request
	}

	t.Run("moves until the request ends", func(t *testing.T) {
		request := ask("to be cancelled")
		s := carol.onScreen(t, 120, "request", "qr", request)
		var forms []string
		await(t, "four forms of the code", func() bool {
			if link := s.link(t); link != "" && !slices.Contains(forms, link) {
				forms = append(forms, link)
			}
			return len(forms) >= 4 && strings.Contains(s.shown(), "approvals 0 of 1")
		})
		for _, link := range forms {
			if !strings.HasPrefix(link, "https://vault.example.com:8200/v1/approvals-tty/ui/phone#r="+request+"&f=") {
				t.Errorf("the code says %q", link)
			}
		}
		// In place: there is one code and one line of state, however often it was drawn.
		shown := s.shown()
		s.mu.Lock()
		if s.redrawn < 3 {
			t.Errorf("redrawn %d times", s.redrawn)
		}
		s.mu.Unlock()
		if n := strings.Count(shown, "Request "+request); n != 1 || strings.Count(shown, "approvals 0 of 1") != 1 {
			t.Errorf("on the screen the request is %d times:\n%s", n, shown)
		}
		ok(t, carol.asks(t, "request", "cancel", request), "cancelled")
		if code := s.end(t); code != 1 {
			t.Errorf("exit %d", code)
		}
		// The code is off the screen, and what became of it is there.
		if shown := s.shown(); strings.ContainsAny(shown, "█▀▄") || !strings.Contains(shown, "is cancelled") {
			t.Errorf("afterwards the screen has\n%s", shown)
		}
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		request := ask("to be looked at")
		s := carol.onScreen(t, 120, "request", "qr", request)
		await(t, "a code", func() bool { return s.link(t) != "" })
		if _, err := s.keys.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
		code := s.end(t)
		shown := s.shown()
		if code == 0 || strings.ContainsAny(shown, "█▀▄") || !strings.Contains(oneLine(shown), "stays open") {
			t.Errorf("after Ctrl-C: exit %d, the screen has\n%s", code, shown)
		}
		if q := e.read(t, "requests/"+request); q["state"] != "pending" {
			t.Errorf("the request is %v", q["state"])
		}
	})
	t.Run("narrow", func(t *testing.T) {
		request := ask("for a narrow one")
		s := carol.onScreen(t, 30, "request", "qr", request)
		await(t, "that the terminal is too narrow", func() bool { return strings.Contains(s.shown(), "too narrow") })
		if shown := s.shown(); strings.ContainsAny(shown, "█▀▄") {
			t.Errorf("a code is drawn all the same:\n%s", shown)
		}
		// The same program shows it once there is room.
		s.resize(t, 120)
		await(t, "the code in a wider terminal", func() bool { return s.link(t) != "" })
		ok(t, carol.asks(t, "request", "cancel", request))
		if code := s.end(t); code != 1 {
			t.Errorf("exit %d", code)
		}
	})
}
