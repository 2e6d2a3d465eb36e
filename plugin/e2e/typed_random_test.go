//go:build e2e

package e2e_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// part is a piece of a JSON document that can be changed and written again: keys and
// scalars are kept as they are written, so that it can be malformed, too.
type part struct {
	open  string   // "{", "[", or empty for a scalar
	text  string   // of a scalar
	keys  []string // of an object, with their quotes
	parts []*part
}

func (p *part) write(b *strings.Builder) {
	if p.open == "" {
		b.WriteString(p.text)
		return
	}
	b.WriteString(p.open)
	for i, item := range p.parts {
		if i > 0 {
			b.WriteString(",")
		}
		if p.open == "{" {
			b.WriteString(p.keys[i] + ":")
		}
		item.write(b)
	}
	b.WriteString(map[string]string{"{": "}", "[": "]"}[p.open])
}

func (p *part) String() string {
	var b strings.Builder
	p.write(&b)
	return b.String()
}

func (p *part) copied() *part {
	c := &part{p.open, p.text, slices.Clone(p.keys), make([]*part, len(p.parts))}
	for i := range p.parts {
		c.parts[i] = p.parts[i].copied()
	}
	return c
}

// all lists a part and everything in it.
func (p *part) all() []*part {
	out := []*part{p}
	for _, item := range p.parts {
		out = append(out, item.all()...)
	}
	return out
}

func scalar(text string) *part { return &part{text: text} }

func jsonList(items ...*part) *part { return &part{open: "[", parts: items} }

func (p *part) set(key string, value *part) *part {
	p.keys, p.parts = append(p.keys, strconv.Quote(key)), append(p.parts, value)
	return p
}

func jsonObject() *part { return &part{open: "{"} }

// typedRandom makes documents of typed data, the same ones for the same seed.
type typedRandom struct {
	*rand.Rand
	names   []string
	members map[string][][2]string // name and type
	left    int                    // elements that lists of any length may still get
}

func (r *typedRandom) pick(from ...string) string { return from[r.IntN(len(from))] }

// document is a random document that has to be taken.
func (r *typedRandom) document() *part {
	pool := []string{"Order", "Person", "a", "_", "Z9", "aB", "Permit", "__proto__", "constructor", "uint_8"}
	r.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
	r.names, r.members, r.left = pool[:1+r.IntN(6)], map[string][][2]string{}, 40
	for i, name := range r.names {
		fields := []string{"a", "b", "from", "$to", "__proto__", "toString", "x1", "_", "name"}
		r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
		for _, field := range fields[:1+r.IntN(6)] {
			r.members[name] = append(r.members[name], [2]string{field, r.memberType(i)})
		}
	}
	domain, domainType := jsonObject(), jsonList()
	for _, m := range [][3]string{{"name", "string", `"d"`}, {"version", "string", `"1"`}, {"chainId", "uint256", `5`}, {"verifyingContract", "address", ""}, {"salt", "bytes32", ""}} {
		if len(domain.keys) > 0 && r.IntN(3) == 0 {
			continue
		}
		domainType.parts = append(domainType.parts, jsonObject().set("name", scalar(strconv.Quote(m[0]))).set("type", scalar(strconv.Quote(m[1]))))
		domain.set(m[0], r.value(m[1], 0))
	}
	types := jsonObject()
	for _, name := range r.names {
		def := jsonList()
		for _, m := range r.members[name] {
			def.parts = append(def.parts, jsonObject().set("name", scalar(strconv.Quote(m[0]))).set("type", scalar(strconv.Quote(m[1]))))
		}
		types.set(name, def)
	}
	at := r.IntN(len(types.keys) + 1)
	types.keys, types.parts = slices.Insert(types.keys, at, `"EIP712Domain"`), slices.Insert(types.parts, at, domainType)
	top := jsonObject().set("types", types).set("primaryType", scalar(strconv.Quote(r.names[0]))).set("domain", domain).set("message", r.value(r.names[0], 0))
	for _, p := range top.all() { // the order of members says nothing
		if p.open == "{" && r.IntN(2) == 0 {
			r.Shuffle(len(p.keys), func(i, j int) {
				p.keys[i], p.keys[j], p.parts[i], p.parts[j] = p.keys[j], p.keys[i], p.parts[j], p.parts[i]
			})
		}
	}
	return top
}

// memberType is a type for a member of the struct with this place among the names: it
// refers to itself and those before over lists of any length only, which can be empty.
func (r *typedRandom) memberType(i int) string {
	suffix := ""
	for r.IntN(3) == 0 && len(suffix) < 9 {
		suffix += r.pick("[]", "[]", "[1]", "[2]", "[3]")
	}
	if r.IntN(3) > 0 {
		return r.pick("bool", "address", "bytes", "string", "string", fmt.Sprintf("bytes%d", 1+r.IntN(32)), fmt.Sprintf("uint%d", 8+8*r.IntN(32)), fmt.Sprintf("int%d", 8+8*r.IntN(32)), "uint256") + suffix
	}
	if later := r.names[i+1:]; len(later) > 0 && r.IntN(2) == 0 {
		return r.pick(later...) + r.pick("", "", "[]", "[1]", "[2]", "[2][]", "[][2]")
	}
	return r.pick(r.names...) + suffix + "[]"
}

// value is a value of a type, depth lists and structs down.
func (r *typedRandom) value(typ string, depth int) *part {
	if i := strings.LastIndexByte(typ, '['); i >= 0 {
		n, fixed := r.IntN(4), typ[i+1:len(typ)-1]
		if fixed != "" {
			n, _ = strconv.Atoi(fixed)
		} else if depth > 5 || r.left < n {
			n = 0
		} else {
			r.left -= n
		}
		out := jsonList()
		for range n {
			out.parts = append(out.parts, r.value(typ[:i], depth+1))
		}
		return out
	}
	if members, ok := r.members[typ]; ok {
		out := jsonObject()
		for _, m := range members {
			out.set(m[0], r.value(m[1], depth+1))
		}
		return out
	}
	bytes := func(n int) *part {
		text := strings.Repeat("00", n)
		if n > 0 && r.IntN(8) > 0 {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			text = fmt.Sprintf("%x", b)
		}
		if r.IntN(4) == 0 {
			text = strings.ToUpper(text)
		}
		return scalar(`"0x` + text + `"`)
	}
	digits := strings.TrimLeft(typ, "abcdefghijklmnopqrstuvwxyz")
	size, _ := strconv.Atoi(digits)
	switch strings.TrimSuffix(typ, digits) {
	case "bool":
		return scalar(r.pick("true", "false"))
	case "address":
		return bytes(20)
	case "bytes":
		if size == 0 {
			size = r.pickInt(0, 1, 31, 32, 33, 135, 136, 137, r.IntN(300))
		}
		return bytes(size)
	case "uint":
		return r.integer(uint(size), false)
	case "int":
		return r.integer(uint(size), true)
	}
	var s strings.Builder
	for range r.IntN(12) {
		s.WriteString(r.pick("a", "Z", " ", "é", "🔑", "\u2028", "\u202e", "\\n", "\\\"", "\\\\", "\\u0000", "\\ud83d\\udd11", "\\u00e9", "\\/", "0x12", "42", strings.Repeat("long ", 30)))
	}
	return scalar(`"` + s.String() + `"`)
}

func (r *typedRandom) pickInt(from ...int) int { return from[r.IntN(len(from))] }

// integer is a number of a type, near its ends or anywhere, written in one of the ways.
func (r *typedRandom) integer(bits uint, signed bool) *part {
	one := big.NewInt(1)
	most := new(big.Int).Sub(new(big.Int).Lsh(one, bits), one)
	if signed {
		most.Rsh(most, 1)
	}
	n := new(big.Int)
	switch r.IntN(5) {
	case 0:
		n.Set(most)
	case 1:
		n.SetInt64(int64(r.IntN(128)))
	case 2:
		n.And(most, big.NewInt(1<<53-1))
	default:
		for range 4 {
			n.Or(n.Lsh(n, 64), new(big.Int).SetUint64(r.Uint64()))
		}
		n.And(n, most)
	}
	if signed && r.IntN(2) == 0 {
		n.Not(n) // −n − 1: the least number is that of the most
	}
	switch {
	case n.IsInt64() && n.Int64() <= 1<<53-1 && n.Int64() >= -(1<<53-1) && r.IntN(2) == 0:
		return scalar(n.String())
	case n.Sign() >= 0 && r.IntN(2) == 0:
		return scalar(fmt.Sprintf(`"0x%s%x"`, strings.Repeat("0", r.IntN(1+64-len(n.Text(16)))), n))
	}
	return scalar(strconv.Quote(n.String()))
}

// mutant is a document with a few changes, which mostly has to be refused.
func (r *typedRandom) mutant(of *part) string {
	top := of.copied()
	for range 1 + r.IntN(2) {
		r.change(top)
	}
	text := top.String()
	if r.IntN(5) > 0 {
		return text
	}
	at := r.IntN(len(text))
	switch r.IntN(3) {
	case 0:
		return text[:at] + text[at+1:]
	case 1:
		return text[:at] + r.pick(" ", "\t", "\v", "0", "-", ",", "]", "}", `"`, "\\", "\x01", "\xff", "\u00a0", "a", "A") + text[at:]
	}
	return text[:at] + string(rune(32+r.IntN(95))) + text[at+1:]
}

func (r *typedRandom) change(top *part) {
	all := top.all()
	p := all[r.IntN(len(all))]
	n := len(p.parts)
	types := []string{`"uint"`, `"uint8"`, `"uint256"`, `"int8"`, `"int"`, `"bytes"`, `"bytes1"`, `"bytes33"`, `"bool"`, `"string"`, `"address"`, `"string[]"`, `"string[0]"`, `"string[01]"`, `"string[ ]"`, `"a"`, `"Person[]"`, `"EIP712Domain"`, `"uint08"`, `"name"`, `"toString"`}
	if p.open == "" {
		switch r.IntN(4) {
		case 0:
			p.text = r.pick(types...)
		case 1: // another digit or letter somewhere
			if i := r.IntN(len(p.text)); p.text[i] != '"' && p.text[i] != '\\' {
				p.text = p.text[:i] + r.pick("0", "1", "9", "a", "F", "x", "X", "-", ".", "e") + p.text[i+1:]
			}
		case 2: // the same in other letters, a number as a string, a string as a number
			p.text = r.pick(strings.ToLower(p.text), strings.ToUpper(p.text), strings.Trim(p.text, `"`), `"`+strings.Trim(p.text, `"`)+`"`)
		default:
			p.text = r.pick("null", "true", "0", "-0", "-1", "255", "256", "1.0", "1e2", "9007199254740991", "9007199254740992", `"9007199254740993"`, `""`, `"0x"`, `"0x0"`, `"0x00"`, `"0X00"`, `"-0x1"`, `" 1"`, `"1 "`, `"+1"`, `"-1"`, `"-0"`, `"00"`, `"\ud83d"`, `"\ud83d\udd11"`, `"\u0030"`, `"0x0000000000000000000000000000000000000001"`, "{}", "[]")
		}
		return
	}
	if n == 0 {
		p.parts, p.keys = append(p.parts, scalar(r.pick("1", "null", "{}"))), append(p.keys, r.pick(`"a"`, `"__proto__"`))
		return
	}
	i, j := r.IntN(n), r.IntN(n)
	switch r.IntN(7) {
	case 0: // leave out
		p.parts = slices.Delete(p.parts, i, i+1)
		if p.open == "{" {
			p.keys = slices.Delete(p.keys, i, i+1)
		}
	case 1: // twice, perhaps with another value
		p.parts = append(p.parts, r.pickPart(p.parts[i].copied(), p.parts[j].copied(), scalar(`"x"`)))
		if p.open == "{" {
			p.keys = append(p.keys, p.keys[i])
		}
	case 2: // exchange two
		p.parts[i], p.parts[j] = p.parts[j], p.parts[i]
	case 3: // something more
		p.parts = append(p.parts, r.pickPart(p.parts[i].copied(), scalar("1"), jsonObject()))
		if p.open == "{" {
			p.keys = append(p.keys, r.pick(`"a"`, `"x1"`, `"name"`, `"salt"`, `"__proto__"`, `"Extra"`, `"types"`))
		}
	case 4:
		p.parts[i] = r.pickPart(scalar("null"), jsonObject(), jsonList(), scalar(`"0x"`), jsonList(p.parts[i]))
	case 5: // another name, or the same one in another spelling
		if p.open == "{" {
			key := strings.Trim(p.keys[i], `"`)
			p.keys[i] = r.pick(`"`+strings.ToUpper(key)+`"`, `"`+key+` "`, fmt.Sprintf(`"\u%04x%s"`, key[0], key[1:]), p.keys[j], `"constructor"`)
		}
	default: // another place from elsewhere in the document
		all := top.all()
		p.parts[i] = all[r.IntN(len(all))].copied()
	}
}

func (r *typedRandom) pickPart(from ...*part) *part { return from[r.IntN(len(from))] }
