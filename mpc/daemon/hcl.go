package daemon

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/token"
)

// fields says for each key of a block how to read it. Any other key is an error,
// and so is one that is there twice, unless it has labels.
type fields map[string]func(value) error

// value is what stands behind a key.
type value struct {
	doc   *document
	item  *ast.ObjectItem
	key   string // for messages, with the blocks around it
	label []string
}

// document is a block, or the whole file.
type document struct {
	path, prefix string
	items        []*ast.ObjectItem
}

func parseDocument(path string, text []byte) (*document, error) {
	file, err := parser.ParseDontErrorOnDuplicateKeys(text)
	if err != nil {
		// The parser's text has a position and the kind of token, not its content.
		if e, ok := errors.AsType[*parser.PosError](err); ok {
			return nil, fmt.Errorf("%s:%d: is not HCL: %w", path, e.Pos.Line, e.Err)
		}
		return nil, fmt.Errorf("%s: is not HCL", path)
	}
	root, ok := file.Node.(*ast.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%s: is not a list of keys and blocks", path)
	}
	return &document{path: path, items: root.Items}, nil
}

// read hands every key to its reader.
func (d *document) read(f fields) error {
	seen := map[string]bool{}
	for _, item := range d.items {
		if len(item.Keys) == 0 {
			return fmt.Errorf("%s:%d: a value without a key", d.path, item.Pos().Line)
		}
		var names []string
		for _, k := range item.Keys {
			name, _ := k.Token.Value().(string)
			names = append(names, name)
		}
		v := value{doc: d, item: item, key: d.prefix + names[0], label: names[1:]}
		read, known := f[names[0]]
		if !known {
			// Never the value: it could be a PIN in the wrong place.
			return v.errorf("is no key here; there are %s", strings.Join(slices.Sorted(maps.Keys(f)), ", "))
		}
		// A key with labels is told from others of its kind by them.
		full := strings.Join(names, "\x00")
		if seen[full] {
			return v.errorf("is there twice; keep one")
		}
		seen[full] = true
		if err := read(v); err != nil {
			return err
		}
	}
	return nil
}

func (v value) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s: %s", v.doc.path, v.item.Pos().Line, v.key, fmt.Sprintf(format, args...))
}

// literal returns the text of a string.
func literal(n ast.Node) (string, bool) {
	l, ok := n.(*ast.LiteralType)
	if !ok || (l.Token.Type != token.STRING && l.Token.Type != token.HEREDOC) {
		return "", false
	}
	s, ok := l.Token.Value().(string)
	return s, ok
}

func (v value) plain() error {
	if len(v.label) > 0 {
		return v.errorf("takes no label")
	}
	return nil
}

// text reads a string that valid takes; nil takes any without control characters.
func text(to *string, valid func(string) bool, rule string) func(value) error {
	return func(v value) error {
		s, ok := literal(v.item.Val)
		if err := v.plain(); err != nil {
			return err
		}
		if valid == nil {
			valid, rule = printable, "text without control characters"
		}
		if !ok || !valid(s) {
			return v.errorf("write %s, in quotes", rule)
		}
		*to = s
		return nil
	}
}

func printable(s string) bool {
	return len(s) <= 4096 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// single parses a string.
func single[T any](v value, parse func(string) (T, error), rule string) (T, error) {
	var zero T
	s, ok := literal(v.item.Val)
	if err := v.plain(); err != nil {
		return zero, err
	}
	if !ok {
		return zero, v.errorf("write %s, in quotes", rule)
	}
	parsed, err := parse(s)
	if err != nil {
		return zero, v.errorf("write %s, in quotes", rule)
	}
	return parsed, nil
}

func parsed[T any](to *T, parse func(string) (T, error), rule string) func(value) error {
	return func(v value) (err error) {
		*to, err = single(v, parse, rule)
		return err
	}
}

func truth(to *bool) func(value) error {
	return func(v value) error {
		l, ok := v.item.Val.(*ast.LiteralType)
		if !ok || l.Token.Type != token.BOOL || len(v.label) > 0 {
			return v.errorf("write true or false, without quotes")
		}
		*to = l.Token.Text == "true"
		return nil
	}
}

func list[T any](to *[]T, parse func(string) (T, error), rule string) func(value) error {
	return func(v value) error {
		l, ok := v.item.Val.(*ast.ListType)
		if !ok || len(v.label) > 0 {
			return v.errorf("write a list in brackets, %s", rule)
		}
		for _, n := range l.List {
			s, ok := literal(n)
			if !ok {
				return v.errorf("write a list in brackets, %s", rule)
			}
			one, err := parse(s)
			if err != nil {
				return v.errorf("%q is not known; write a list in brackets, %s", s, rule)
			}
			*to = append(*to, one)
		}
		return nil
	}
}

// block reads { … } behind a key.
func block(f fields) func(value) error {
	return func(v value) error {
		if err := v.plain(); err != nil {
			return err
		}
		return v.inside(f)
	}
}

// labelled reads key "label" { … }.
func labelled(valid func(string) bool, rule string, of func(label string) (fields, error)) func(value) error {
	return func(v value) error {
		if len(v.label) != 1 || !valid(v.label[0]) {
			return v.errorf("write one name behind it, in quotes: %s", rule)
		}
		v.key += ` "` + v.label[0] + `"`
		f, err := of(v.label[0])
		if err != nil {
			return v.errorf("%v", err)
		}
		return v.inside(f)
	}
}

func (v value) inside(f fields) error {
	o, ok := v.item.Val.(*ast.ObjectType)
	if !ok || v.item.Assign.IsValid() {
		return v.errorf("is a block: write %s { … }", v.key)
	}
	d := &document{path: v.doc.path, prefix: v.key + ".", items: o.List.Items}
	return d.read(f)
}
