package cli

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestIndentedBreaksLines: a terminal that goes on in its first column would show a
// part of the message where this program's own words stand.
func TestIndentedBreaksLines(t *testing.T) {
	const mark = "  | "
	for name, s := range map[string]string{
		"padded":  "pay 5 to bob" + strings.Repeat(" ", 68) + "SHA-256    1bd57b54c0c1072\nsecond",
		"long":    strings.Repeat("x", 4096),
		"wide":    strings.Repeat("漢", 200),
		"escapes": strings.Repeat("\x1b[2J", 50),
		"empty":   "",
		"lines":   "a\n\nb",
	} {
		var out text
		out.indented(mark, s)
		var whole strings.Builder
		for line := range strings.Lines(out.b.String()) {
			rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), mark)
			if !ok || utf8.RuneCountInString(rest) > 72 || strings.HasPrefix(rest, "漢") && utf8.RuneCountInString(rest) > 36 {
				t.Errorf("%s: a line goes beyond 80 columns or has no mark: %q", name, line)
			}
			whole.WriteString(rest)
		}
		if want := strings.ReplaceAll(cleanLines(s), "\n", ""); whole.String() != want {
			t.Errorf("%s: other text: %q", name, whole.String())
		}
	}
}

// TestTypedDataBreaksLines: so do the values of typed data.
func TestTypedDataBreaksLines(t *testing.T) {
	doc := openedDoc{MessageKind: "typed", Fields: []approverField{{"message.note", "hi\nLength  1 bytes" + strings.Repeat(" ", 80) + "SHA-256  00"}}}
	var out text
	doc.write(&out)
	for line := range strings.Lines(out.b.String()) {
		if strings.HasPrefix(line, "SHA-256  00") || strings.HasPrefix(line, "Length  1 ") || strings.Contains(line, "hi") && len(line) > 80 {
			t.Errorf("taken for this program's own: %q", line)
		}
	}
}

// TestFailedRequestSaysWhatNext: a reason that can be mended does not bring the
// request back.
func TestFailedRequestSaysWhatNext(t *testing.T) {
	err := requestEnd(&requestDoc{Request: "00", State: "failed", Reason: "account frozen"})
	var r *refusal
	if !errors.As(err, &r) || !strings.Contains(r.what, "has failed: account frozen") || !strings.Contains(r.advice, "ask anew") {
		t.Errorf("%+v", err)
	}
}
