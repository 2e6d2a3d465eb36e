package eip712

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// parse reads a JSON object into map[string]any, []any, string, json.Number,
// bool and nil. It is stricter than encoding/json, which keeps the last of
// duplicate keys and replaces what is not Unicode by U+FFFD: two readers could
// then see two messages.
func parse(document []byte) (map[string]any, error) {
	switch {
	case len(document) > MaxSize:
		return nil, wrong("the document has %d bytes, more than %d", len(document), MaxSize)
	case !utf8.Valid(document):
		return nil, wrong("the document is not UTF-8")
	case !json.Valid(document): // syntax, and nothing after the first value
		return nil, wrong("the document is not JSON: send {\"types\": …, \"primaryType\": …, \"domain\": …, \"message\": …}")
	case loneSurrogate(document):
		return nil, wrong("the document has a string with half a surrogate pair, which is not Unicode")
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	count := 0
	v, err := value(decoder, 0, &count)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, wrong("the document is not a JSON object")
	}
	return object, nil
}

// value reads the next value, which is inside depth objects and arrays and the
// one after count. The document is known to be well-formed.
func value(d *json.Decoder, depth int, count *int) (any, error) {
	if *count++; *count > maxValues {
		return nil, wrong("is one value too many: a document has at most %d, lists and objects included", maxValues)
	}
	token, err := d.Token()
	if err != nil {
		return nil, wrong("the document is not JSON")
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth == maxDepth {
		return nil, wrong("is nested deeper than %d levels", maxDepth)
	}
	if delim == '[' {
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1, count)
			if err != nil {
				return nil, in("["+strconv.Itoa(len(list))+"]", err)
			}
			list = append(list, v)
		}
		_, err = d.Token() // the closing bracket
		return list, err
	}
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		key, ok := token.(string)
		if err != nil || !ok {
			return nil, wrong("the document is not JSON")
		}
		if _, ok := object[key]; ok {
			return nil, in(key, wrong("is there twice"))
		}
		v, err := value(d, depth+1, count)
		if err != nil {
			return nil, in(key, err)
		}
		object[key] = v
	}
	_, err = d.Token()
	return object, err
}

// loneSurrogate reports whether a string of a well-formed document has an
// escape \uD800…\uDFFF that is not one of a pair (RFC 8259, section 8.2).
func loneSurrogate(document []byte) bool {
	escape := func(i int) (rune, bool) { // the \uXXXX at i, if there is one
		if i+6 > len(document) || document[i] != '\\' || document[i+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(document[i+2:i+6]), 16, 16)
		return rune(n), err == nil
	}
	for i := 0; i < len(document); i++ {
		if document[i] != '\\' {
			continue
		}
		r, ok := escape(i)
		switch {
		case !ok:
			i++ // \" and the like
		case r < 0xd800 || r > 0xdfff:
			i += 5
		default:
			low, ok := escape(i + 6)
			if r > 0xdbff || !ok || low < 0xdc00 || low > 0xdfff {
				return true
			}
			i += 11
		}
	}
	return false
}
