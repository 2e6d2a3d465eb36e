package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	// barCells is how long a bar is, in characters.
	barCells = 24
	// barWidth is the longest line of a bar where the terminal does not tell
	// its own width.
	barWidth = 79
	// eraseLine goes to the start of the line and clears it (ECMA-48 CR, EL 2).
	eraseLine = "\r\x1b[2K"
)

// bar is one line of progress on standard error that is drawn over again. It is
// there only where standard error is a terminal that can do that; elsewhere its
// methods do nothing, and shown says so. It may be used by several goroutines.
type bar struct {
	out   io.Writer
	width func() int // columns; 0 or less: not known
	clean func(string) string

	mu   sync.Mutex
	line string // as it is on the terminal; empty: nothing is
}

// newBar looks whether stderr is a terminal. Standard output does not matter:
// with -o json it carries the document, and the bar is never there.
func newBar(stderr io.Writer) *bar {
	b := &bar{out: io.Discard, clean: clean}
	f, ok := stderr.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return b
	}
	b.out, b.width = f, func() int {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0
		}
		return columns
	}
	return b
}

// shown reports whether anybody sees the bar.
func (b *bar) shown() bool { return b.width != nil }

// draw shows that done of total is reached, with text behind it.
func (b *bar) draw(what string, done, total int, text string) {
	if !b.shown() {
		return
	}
	line := barLine(what, done, total, b.clean(text), b.width())
	b.mu.Lock()
	defer b.mu.Unlock()
	if line != b.line {
		b.line = line
		_, _ = io.WriteString(b.out, eraseLine+line)
	}
}

// clear takes the bar off the terminal. It may be called at any time.
func (b *bar) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line != "" {
		b.line = ""
		_, _ = io.WriteString(b.out, eraseLine)
	}
}

// beside writes something else to standard error while the bar is there: above
// it.
func (b *bar) beside(write func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line == "" {
		write()
		return
	}
	_, _ = io.WriteString(b.out, eraseLine)
	write()
	_, _ = io.WriteString(b.out, b.line)
}

// barLine is "Auxiliary keys [#####---]  40 %  local-1 ready", cut to the
// terminal's width: a line that wraps cannot be drawn over.
func barLine(what string, done, total int, text string, width int) string {
	done, total = max(done, 0), max(total, 1)
	done = min(done, total)
	filled := done * barCells / total
	line := fmt.Sprintf("%s [%s%s] %3d %%", what, strings.Repeat("#", filled), strings.Repeat("-", barCells-filled), done*100/total)
	if text != "" {
		line += "  " + text
	}
	if width <= 0 {
		width = barWidth
	}
	if utf8.RuneCountInString(line) < width {
		return line
	}
	return string([]rune(line)[:width-1])
}
