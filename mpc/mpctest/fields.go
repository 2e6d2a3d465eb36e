package mpctest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"vault-plugin-secrets-mpc/mpc"
)

// FieldFaults are faults inside a message that is a CBOR map: each field, in
// maps within maps too, is removed, emptied, lengthened, taken from another run
// and so on. A message that is no CBOR map has none.
func FieldFaults(m mpc.Message) []Fault {
	var fields map[string]any
	if cbor.Unmarshal(m.Data, &fields) != nil || len(fields) == 0 {
		return nil
	}
	var out []Fault
	for _, path := range paths(fields, nil) {
		for _, e := range edits() {
			out = append(out, change(fmt.Sprintf("%v: %s", path, e.name), e.expect, func(c *Cheat, m *mpc.Message) bool {
				return editData(c, m, path, e)
			}))
		}
	}
	for name, raw := range map[string]func(data []byte) []byte{
		// The encoding of a map of up to 23 fields begins with 0xa0 + size.
		"a field more":      func(d []byte) []byte { return append([]byte{d[0] + 1}, append(d[1:], "\x61?\x41\x00"...)...) },
		"a field twice":     func(d []byte) []byte { return append([]byte{d[0] + 1}, append(firstPair(d), d[1:]...)...) },
		"endless encoding":  func(d []byte) []byte { return append(append([]byte{0xbf}, d[1:]...), 0xff) },
		"long map header":   func(d []byte) []byte { return append([]byte{0xb8, d[0] & 31}, d[1:]...) },
		"tagged":            func(d []byte) []byte { return append([]byte{0xd8, 0x20}, d...) },
		"array of the same": func(d []byte) []byte { return append([]byte{0x81}, d...) },
	} {
		out = append(out, change(name, Named, func(_ *Cheat, m *mpc.Message) bool {
			if m.Data[0] < 0xa1 || m.Data[0] >= 0xb7 {
				return false
			}
			m.Data = raw(bytes.Clone(m.Data))
			return true
		}))
	}
	slices.SortStableFunc(out, func(a, b Fault) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

// firstPair returns the encoding of a map's first key and value.
func firstPair(data []byte) []byte {
	var key, value cbor.RawMessage
	rest, err := cbor.UnmarshalFirst(data[1:], &key)
	if err == nil {
		_, err = cbor.UnmarshalFirst(rest, &value)
	}
	if err != nil {
		return nil
	}
	return slices.Concat(key, value)
}

// paths lists the fields of a decoded map, inner ones after the map they are in.
func paths(fields map[string]any, above []string) (out [][]string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		path := append(slices.Clone(above), name)
		out = append(out, path)
		if inner := asMap(fields[name]); inner != nil {
			out = append(out, paths(inner, path)...)
		}
	}
	return out
}

// asMap reads what cbor decodes a nested map to.
func asMap(v any) map[string]any {
	decoded, ok := v.(map[any]any)
	if !ok {
		return nil
	}
	out := map[string]any{}
	for k, v := range decoded {
		name, ok := k.(string)
		if !ok {
			return nil
		}
		out[name] = v
	}
	return out
}

// edit changes the value of one field. other is the value that another run of
// the sender has there; ok is false where the edit makes no sense. A value of
// another length or type is refused in the sender's name; one of the right
// length may be a valid one that only the echo gives away.
type edit struct {
	name   string
	expect Expectation
	apply  func(c *Cheat, value, other any) (changed any, ok bool)
}

type removed struct{}

func edits() []edit {
	onBytes := func(name string, expect Expectation, f func(c *Cheat, b []byte) []byte) edit {
		return edit{name, expect, func(c *Cheat, value, _ any) (any, bool) {
			b, ok := value.([]byte)
			if !ok {
				return nil, false
			}
			changed := f(c, bytes.Clone(b))
			return changed, !bytes.Equal(changed, b)
		}}
	}
	constant := func(name string, v any) edit {
		return edit{name, Named, func(*Cheat, any, any) (any, bool) { return v, true }}
	}
	return []edit{
		constant("removed", removed{}),
		constant("null", nil),
		constant("a number", 1),
		constant("text", "text"),
		constant("an empty map", map[string]any{}),
		constant("an empty array", []any{}),
		constant("an array of nulls", []any{nil, nil}),
		constant("no bytes", []byte{}),
		onBytes("one byte", Named, func(_ *Cheat, b []byte) []byte { return b[:1] }),
		onBytes("a byte less", Named, func(_ *Cheat, b []byte) []byte { return b[:len(b)-1] }),
		onBytes("a byte more", Named, func(_ *Cheat, b []byte) []byte { return append(b, 0) }),
		onBytes("100 KiB", Named, func(_ *Cheat, b []byte) []byte { return bytes.Repeat(b[:1], 100<<10) }),
		onBytes("zeros", Noticed, func(_ *Cheat, b []byte) []byte { clear(b); return b }),
		onBytes("ones", Noticed, func(_ *Cheat, b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) }),
		onBytes("zeros after the first byte", Noticed, func(_ *Cheat, b []byte) []byte { clear(b[1:]); return b }),
		onBytes("ones after the first byte", Noticed, func(_ *Cheat, b []byte) []byte {
			return append(b[:1], bytes.Repeat([]byte{0xff}, len(b)-1)...)
		}),
		// A length that a library may trust: 2³²−16 in the first four bytes.
		onBytes("huge length", Noticed, func(_ *Cheat, b []byte) []byte {
			return append([]byte{0xff, 0xff, 0xff, 0xf0}, b[min(4, len(b)):]...)
		}),
		onBytes("huge length alone", Named, func(*Cheat, []byte) []byte { return []byte{0xff, 0xff, 0xff, 0xf0, 0xa0} }),
		onBytes("flipped first bit", Noticed, func(_ *Cheat, b []byte) []byte { b[0] ^= 0x80; return b }),
		onBytes("flipped last bit", Noticed, func(_ *Cheat, b []byte) []byte { b[len(b)-1] ^= 1; return b }),
		onBytes("flipped bit", Noticed, func(c *Cheat, b []byte) []byte {
			b[c.Random.IntN(len(b))] ^= 1 << c.Random.IntN(8)
			return b
		}),
		{"of another run", Noticed, func(_ *Cheat, value, other any) (any, bool) {
			a, ok := value.([]byte)
			b, both := other.([]byte)
			return b, ok && both && !bytes.Equal(a, b)
		}},
	}
}

// editData applies an edit at a path. The other fields keep their encoding and
// their order, so that the edit is the only thing wrong.
func editData(c *Cheat, m *mpc.Message, path []string, e edit) bool {
	var other []byte
	if c.Twin != nil {
		other = c.Twin.Data
	}
	data, ok := editMap(c, m.Data, other, path, e)
	if !ok {
		return false
	}
	m.Data = data
	return true
}

func editMap(c *Cheat, data, other []byte, path []string, e edit) ([]byte, bool) {
	if len(data) == 0 || data[0] < 0xa0 || data[0] > 0xb7 {
		return nil, false
	}
	count, rest, found := int(data[0]&31), data[1:], false
	var body []byte
	for range data[0] & 31 {
		var key string
		var value cbor.RawMessage
		after, err := cbor.UnmarshalFirst(rest, &key)
		if err != nil {
			return nil, false
		}
		rawKey := rest[:len(rest)-len(after)]
		if rest, err = cbor.UnmarshalFirst(after, &value); err != nil {
			return nil, false
		}
		if key != path[0] {
			body = append(append(body, rawKey...), value...)
			continue
		}
		found = true
		changed, gone, ok := editValue(c, value, field(other, key), path[1:], e)
		switch {
		case !ok:
			return nil, false
		case gone:
			count--
		default:
			body = append(append(body, rawKey...), changed...)
		}
	}
	return append([]byte{0xa0 | byte(count)}, body...), found
}

func editValue(c *Cheat, value, other []byte, path []string, e edit) (changed []byte, gone, ok bool) {
	if len(path) > 0 {
		changed, ok = editMap(c, value, other, path, e)
		return changed, false, ok
	}
	var decoded, decodedOther any
	if cbor.Unmarshal(value, &decoded) != nil {
		return nil, false, false
	}
	if len(other) > 0 && cbor.Unmarshal(other, &decodedOther) != nil {
		return nil, false, false
	}
	v, ok := e.apply(c, decoded, decodedOther)
	if !ok {
		return nil, false, false
	}
	if _, gone = v.(removed); gone {
		return nil, true, true
	}
	changed, err := cbor.Marshal(v)
	return changed, false, err == nil && !bytes.Equal(changed, value)
}

// field returns the encoding of one field of an encoded map, or nil.
func field(data []byte, name string) []byte {
	var fields map[string]cbor.RawMessage
	if cbor.Unmarshal(data, &fields) != nil {
		return nil
	}
	return fields[name]
}
