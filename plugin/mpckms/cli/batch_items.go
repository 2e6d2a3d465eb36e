package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

const (
	// maxItemsFile bounds a file of items, in bytes.
	maxItemsFile = 256 << 20
	// maxItems is far more than a person waits for.
	maxItems = 100_000
)

// batchItem is one message of a batch.
type batchItem struct {
	reference string
	fields    map[string]any // as the engine takes them
	size      int            // of the input in base64, in bytes
}

// itemFields are what an object may have: a name written wrongly would
// otherwise be left out in silence, and something else signed. text and digest
// are mpckms's own.
var itemFields = []string{"input", "reference", "request_id", "message_type", "hash_algorithm", "signature_format", "derivation_path", "taproot_tweak"}

// readItems reads all items before anything is signed.
func (a *app) readItems(file string) ([]batchItem, error) {
	if file == "" {
		return nil, errors.New("give --file with the items; - is standard input")
	}
	source := a.stdin
	if file != "-" {
		f, err := os.Open(filepath.Clean(file))
		if err != nil {
			return nil, fmt.Errorf("the items cannot be read: %w", err)
		}
		defer f.Close()
		source = f
	}
	raw, err := io.ReadAll(io.LimitReader(source, maxItemsFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the items cannot be read: %w", err)
	case len(raw) > maxItemsFile:
		return nil, fmt.Errorf("the items are more than %d bytes: sign them in parts", maxItemsFile)
	}
	return parseItems(raw)
}

// parseItems takes a JSON list of objects, or objects one after the other.
func parseItems(raw []byte) ([]batchItem, error) {
	raw = bytes.TrimLeftFunc(raw, unicode.IsSpace)
	var objects []json.RawMessage
	if bytes.HasPrefix(raw, []byte("[")) {
		if err := json.Unmarshal(raw, &objects); err != nil {
			return nil, fmt.Errorf("the items are no JSON list: %w", err)
		}
	} else {
		for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
			var object json.RawMessage
			err := dec.Decode(&object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("item %d is no JSON: %w", len(objects)+1, err)
			}
			if objects = append(objects, object); len(objects) > maxItems {
				break
			}
		}
	}
	switch n := len(objects); {
	case n == 0:
		return nil, errors.New("there are no items")
	case n > maxItems:
		return nil, fmt.Errorf("there are more than %d items: sign them in parts", maxItems)
	}
	items := make([]batchItem, len(objects))
	for i, object := range objects {
		var err error
		if items[i], err = parseItem(object); err != nil {
			return nil, fmt.Errorf("item %d: %w", i+1, err)
		}
	}
	return items, nil
}

func parseItem(object []byte) (batchItem, error) {
	var given map[string]string
	if err := json.Unmarshal(object, &given); err != nil || given == nil {
		return batchItem{}, errors.New("it must be an object whose values are strings")
	}
	input, isInput := given["input"]
	message, isText := given["text"]
	digest, isDigest := given["digest"]
	delete(given, "text")
	delete(given, "digest")
	switch {
	case isInput && !isText && !isDigest:
		if _, err := base64.StdEncoding.DecodeString(input); err != nil {
			return batchItem{}, errors.New("input is not base64 (text takes a message as it is)")
		}
	case isText && !isInput && !isDigest:
		input = base64.StdEncoding.EncodeToString([]byte(message))
	case isDigest && !isInput && !isText:
		raw, err := hex.DecodeString(strings.TrimPrefix(digest, "0x"))
		if err != nil {
			return batchItem{}, errors.New("digest is not hex")
		}
		if kind := given["message_type"]; kind != "" && kind != messageDigest {
			return batchItem{}, fmt.Errorf("digest is not of message_type %s", kind)
		}
		input, given["message_type"] = base64.StdEncoding.EncodeToString(raw), messageDigest
	default:
		return batchItem{}, errors.New("it needs exactly one of text, digest and input")
	}
	item := batchItem{reference: given["reference"], fields: map[string]any{}, size: len(input)}
	for _, name := range itemFields {
		if value, ok := given[name]; ok {
			item.fields[name] = value
			delete(given, name)
		}
	}
	for name := range given {
		return batchItem{}, fmt.Errorf("%q is no field of an item; there are text, digest, %s", name, strings.Join(itemFields, ", "))
	}
	item.fields["input"] = input
	return item, nil
}
