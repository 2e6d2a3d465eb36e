package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// unsafeRune reports whether r must not reach a terminal as it is: control
// characters (ASCII and C1), format characters such as the bidirectional
// overrides, the line and paragraph separators, and what is drawn as nothing, so
// that two different texts do not look alike.
func unsafeRune(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) || r == '\u2800'
}

// clean makes text from the server safe on a terminal: what could move the
// cursor, change colours or reorder text is shown as an escape instead, and so
// are bytes that are not UTF-8.
func clean(s string) string { return escape(s, false) }

// cleanLines is clean for text of several lines.
func cleanLines(s string) string { return escape(s, true) }

func escape(s string, keepNewlines bool) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n' && keepNewlines:
			b.WriteByte('\n')
		case !unsafeRune(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}

// cleanJSON rewrites an indented JSON document so that it can be shown on a
// terminal and still decodes to the same values: unsafe characters can only
// stand inside strings there (newlines apart), and become \u escapes.
func cleanJSON(doc []byte) []byte {
	var b strings.Builder
	for _, r := range string(doc) {
		switch {
		case r == '\n' || !unsafeRune(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		}
	}
	return []byte(b.String())
}

// text builds readable output: paragraphs, aligned label–value lists and
// tables. Everything given to it is cleaned. It uses no colour, on terminals
// neither.
type text struct{ b strings.Builder }

func (t *text) line(s string) { t.b.WriteString(clean(s) + "\n") }

func (t *text) block(s string) { t.b.WriteString(strings.TrimRight(cleanLines(s), "\n") + "\n") }

func (t *text) blank() { t.b.WriteByte('\n') }

// pairs prints label, value, label, value… with the values in one column;
// pairs with an empty value are left out.
func (t *text) pairs(indent string, labelValue ...string) {
	var rows [][]string
	for i := 0; i+1 < len(labelValue); i += 2 {
		if labelValue[i+1] != "" {
			rows = append(rows, []string{labelValue[i], labelValue[i+1]})
		}
	}
	t.rows(indent, rows)
}

// table prints rows under a header; empty cells show as "-".
func (t *text) table(indent string, header []string, rows [][]string) {
	all := make([][]string, 0, len(rows)+1)
	all = append(all, header)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = cell; cell == "" {
				cells[i] = "-"
			}
		}
		all = append(all, cells)
	}
	t.rows(indent, all)
}

func (t *text) rows(indent string, rows [][]string) {
	var raw strings.Builder
	w := tabwriter.NewWriter(&raw, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = clean(cell)
		}
		fmt.Fprintln(w, indent+strings.Join(cells, "\t"))
	}
	w.Flush() // a strings.Builder does not fail
	for line := range strings.Lines(raw.String()) {
		t.b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// unframed takes the frame off errors that Vault puts into one, when a plugin
// answers with a status of its own: "1 error occurred:\n\t* text\n\n".
func unframed(messages []string) []string {
	out := make([]string, len(messages))
	for i, m := range messages {
		m, _ = strings.CutPrefix(m, "1 error occurred:\n\t* ")
		out[i] = strings.TrimRight(m, "\n")
	}
	return out
}

// lineWidth is how many columns of a text stand in one line behind a mark, which
// leaves room for the mark in a terminal of 80.
const lineWidth = 72

// indented prints each line of a text behind a mark, so that none of it can be taken
// for this program's own words. Longer lines are broken here: a terminal would go on
// in its first column, where no mark is.
func (t *text) indented(mark, s string) {
	for line := range strings.SplitSeq(strings.TrimRight(s, "\n"), "\n") {
		rest := []rune(clean(line))
		for first := true; first || len(rest) > 0; first = false {
			n := fitting(rest)
			t.b.WriteString(mark + string(rest[:n]) + "\n")
			rest = rest[n:]
		}
	}
}

// fitting is how many of the characters fit into a line. Beyond Latin scripts they
// may be two columns wide and are counted so.
func fitting(line []rune) int {
	columns := 0
	for i, r := range line {
		if columns++; r > 0x2ff {
			columns++
		}
		if columns > lineWidth {
			return i
		}
	}
	return len(line)
}

// wrapped breaks a text without spaces into lines.
func wrapped(s string, width int) string {
	var b strings.Builder
	for len(s) > width {
		b.WriteString(s[:width] + "\n")
		s = s[width:]
	}
	return b.String() + s
}
