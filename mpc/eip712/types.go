package eip712

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// structs are the struct types of a document by name.
type structs map[string]*definition

// definition is one struct type.
type definition struct {
	name    string
	members []member
	hash    *[32]byte // typeHash, once it was asked for
}

// member is one member of a struct type.
type member struct {
	name string
	text string // the type as it is written, which has one way to be written
	typ  typ
}

// kind is a class of types that are encoded alike.
type kind uint8

const (
	kindStruct kind = iota
	kindUint        // size bits
	kindInt         // size bits
	kindBytesN      // size bytes
	kindBool
	kindAddress
	kindBytes
	kindString
)

// typ is a member's type: an element, and the lengths of the arrays around it,
// the innermost first as they are written; 0 for an array of any length.
type typ struct {
	kind   kind
	size   int
	struc  *definition // of kindStruct
	arrays []int
}

// parseTypes reads and checks "types". References may be recursive: a value
// ends such a type with an empty array, the only way that EIP-712 has.
func parseTypes(v any) (structs, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, wrong("must be an object")
	}
	if len(object) > maxTypes {
		return nil, wrong("has %d types, more than %d", len(object), maxTypes)
	}
	names := slices.Sorted(maps.Keys(object)) // so that errors are always the same
	s := structs{}
	for _, name := range names {
		if !typeName(name) {
			return nil, in(name, wrong("is not a name for a type: letters, digits and _, at most %d", maxIdentifier))
		}
		if elementary(name) {
			return nil, in(name, wrong("is the name of an elementary type"))
		}
		s[name] = &definition{name: name}
	}
	size := 0
	for _, name := range names {
		if err := s.define(s[name], object[name]); err != nil {
			return nil, in(name, err)
		}
		size += len(name)
		for _, m := range s[name].members {
			size += len(m.name) + len(m.text)
		}
		if size > maxTypesSize {
			return nil, wrong("has more than %d bytes of names", maxTypesSize)
		}
	}
	return s, nil
}

// define reads the members of one struct type.
func (s structs) define(def *definition, v any) error {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return wrong("must be a list of members, each {\"name\": …, \"type\": …}")
	}
	seen := map[string]bool{}
	for i, entry := range list {
		m, err := s.member(entry)
		switch {
		case err != nil:
		case seen[m.name]:
			err = wrong("has the name of an earlier member")
		case m.typ.kind == kindStruct && strings.Contains(def.name, ":"):
			err = wrong("has a type from types, which a type with a colon in its name cannot refer to")
		}
		if err != nil {
			return in("["+strconv.Itoa(i)+"]", err)
		}
		seen[m.name] = true
		def.members = append(def.members, m)
	}
	return nil
}

func (s structs) member(entry any) (member, error) {
	object, ok := entry.(map[string]any)
	if !ok {
		return member{}, wrong("must be {\"name\": …, \"type\": …}")
	}
	if err := exactly(object, "name", "type"); err != nil {
		return member{}, err
	}
	m := member{}
	if m.name, ok = object["name"].(string); !ok || !identifier(m.name) {
		return m, in("name", wrong("is not a name: letters, digits, _ and $, at most %d", maxIdentifier))
	}
	m.text, ok = object["type"].(string)
	if !ok || len(m.text) > maxTypeName {
		return m, in("type", wrong("must be a string of at most %d bytes", maxTypeName))
	}
	if m.typ, ok = s.parse(m.text); !ok {
		return m, in("type", wrong("is neither elementary nor among types"))
	}
	return m, nil
}

// parse reads a type's name. Every type has one spelling: the text goes into
// the type hash as it is.
func (s structs) parse(text string) (typ, bool) {
	var arrays []int
	base, rest := text, ""
	if i := strings.IndexByte(text, '['); i >= 0 {
		base, rest = text[:i], text[i:]
	}
	for rest != "" {
		end := strings.IndexByte(rest, ']')
		if end < 0 || rest[0] != '[' {
			return typ{}, false
		}
		n := 0
		if digits := rest[1:end]; digits != "" {
			var ok bool
			if n, ok = positive(digits); !ok {
				return typ{}, false
			}
		}
		arrays, rest = append(arrays, n), rest[end+1:]
	}
	t, ok := parseElementary(base)
	if !ok {
		def := s[base]
		// The domain is no part of a message: implementations differ there.
		if def == nil || base == domainType || strings.Contains(base, ":") {
			return typ{}, false
		}
		t = typ{kind: kindStruct, struc: def}
	}
	t.arrays = arrays
	return t, true
}

// parseElementary reads the name of a type that EIP-712 has. The aliases int
// and uint are not among them.
func parseElementary(name string) (typ, bool) {
	switch name {
	case "bool":
		return typ{kind: kindBool}, true
	case "address":
		return typ{kind: kindAddress}, true
	case "bytes":
		return typ{kind: kindBytes}, true
	case "string":
		return typ{kind: kindString}, true
	}
	for prefix, k := range map[string]kind{"uint": kindUint, "int": kindInt, "bytes": kindBytesN} {
		digits, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n, ok := positive(digits)
		if !ok || k == kindBytesN && n > 32 || k != kindBytesN && (n > 256 || n%8 != 0) {
			continue
		}
		return typ{kind: k, size: n}, true
	}
	return typ{}, false
}

// elementary reports whether a name is that of an elementary type, or looks
// like one (uint, int9, bytes33): a struct must not.
func elementary(name string) bool {
	switch strings.TrimRight(name, "0123456789") {
	case "uint", "int", "bytes", "bool", "address", "string":
		return true
	}
	return false
}

// positive reads a decimal number from 1 to 999999999 without leading zeros.
func positive(digits string) (int, bool) {
	if digits == "" || len(digits) > 9 || digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil
}

// typeName reports whether a name may be a struct's. Some implementations end
// the name of a type that is referred to at the first character that is none of
// [A-Za-z0-9_], so there is no $, and parts joined by colons, which are in use
// ("Application:Action"), only where a type stands alone.
func typeName(name string) bool {
	if len(name) > maxIdentifier || strings.Contains(name, "$") {
		return false
	}
	for part := range strings.SplitSeq(name, ":") {
		if !identifier(part) {
			return false
		}
	}
	return true
}

// identifier reports whether a name is one in Solidity: [A-Za-z_$][A-Za-z0-9_$]*.
func identifier(name string) bool {
	if name == "" || len(name) > maxIdentifier {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// typeHash is keccak256 of encodeType: the definition, followed by those it
// refers to, over any number of steps, sorted by name. It is computed once for
// each type.
func (def *definition) typeHash() [32]byte {
	if def.hash == nil {
		reached := map[string]*definition{}
		def.reach(reached)
		delete(reached, def.name)
		var text strings.Builder
		def.write(&text)
		for _, name := range slices.Sorted(maps.Keys(reached)) {
			reached[name].write(&text)
		}
		h := keccak256([]byte(text.String()))
		def.hash = &h
	}
	return *def.hash
}

// reach adds the definition and those it refers to. It recurses at most as deep
// as there are types.
func (def *definition) reach(reached map[string]*definition) {
	if reached[def.name] != nil {
		return
	}
	reached[def.name] = def
	for _, m := range def.members {
		if m.typ.kind == kindStruct {
			m.typ.struc.reach(reached)
		}
	}
}

// write writes the definition as encodeType has it: Mail(Person from,Person to).
func (def *definition) write(b *strings.Builder) {
	b.WriteString(def.name)
	for i, m := range def.members {
		b.WriteByte("(,"[min(i, 1)])
		b.WriteString(m.text)
		b.WriteByte(' ')
		b.WriteString(m.name)
	}
	b.WriteByte(')')
}
