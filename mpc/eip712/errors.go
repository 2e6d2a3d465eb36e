package eip712

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPath bounds how much of a place an error shows, in bytes.
const maxPath = 160

// placed is what is wrong, and where in the document.
type placed struct {
	path string // "message.from.wallet", empty for the whole
	what string
}

func (p *placed) Error() string {
	if p.path == "" {
		return p.what
	}
	path := p.path
	if len(path) > maxPath {
		cut := maxPath
		for !utf8.RuneStart(path[cut]) {
			cut--
		}
		path = path[:cut] + "…"
	}
	// Names are the sender's: quoted, so that they cannot pass for our words.
	return fmt.Sprintf("%q %s", path, p.what)
}

// wrong says what is wrong with the value at hand.
func wrong(format string, args ...any) error { return &placed{what: fmt.Sprintf(format, args...)} }

// in puts an error below a member or, as "[3]", an element.
func in(step string, err error) error {
	var p *placed
	if !errors.As(err, &p) {
		return err
	}
	path := step
	switch {
	case strings.HasPrefix(p.path, "["):
		path += p.path
	case p.path != "":
		path += "." + p.path
	}
	return &placed{path: path, what: p.what}
}
