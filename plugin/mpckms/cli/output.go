package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// print writes an answer to stdout: doc as JSON, or what table writes.
func (a *app) print(doc any, table func(*text)) error {
	a.bar.clear()
	var out []byte
	if a.output == "json" {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(doc); err != nil {
			return &refusal{what: "the answer cannot be shown as JSON", cause: err}
		}
		out = cleanJSON(buf.Bytes())
	} else {
		var t text
		table(&t)
		out = []byte(t.b.String())
	}
	if _, err := io.WriteString(a.stdout, a.strike(string(out))); err != nil {
		return &refusal{what: "the answer could not be written to standard output", cause: err}
	}
	return nil
}

// note writes one line of progress or warning to stderr. A stderr that cannot
// be written to is no reason to fail.
func (a *app) note(format string, args ...any) {
	line := a.strike(clean(fmt.Sprintf(format, args...)))
	a.bar.beside(func() { fmt.Fprintln(a.stderr, line) })
}

func (a *app) printError(err error) {
	// Cobra indents what it suggests with a tab.
	msg := strings.TrimRight(cleanLines(strings.ReplaceAll(err.Error(), "\n\t", "\n  ")), "\n")
	fmt.Fprintln(a.stderr, a.strike("Error: "+msg))
}

// strike removes the caller's token from text that is about to be printed. No
// text here is built from it; a server or proxy might still echo a header.
func (a *app) strike(s string) string {
	// Shorter strings are no Vault tokens, and striking them would garble
	// output ("root" in a dev server is public anyway).
	if len(a.token) < 8 {
		return s
	}
	return strings.ReplaceAll(s, a.token, "[token]")
}
