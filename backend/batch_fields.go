package backend

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	maxBatchItems = 128
	// maxBatchInput bounds the inputs of all items together, in bytes after
	// base64: t nodes get each input.
	maxBatchInput = 4 << 20
	// maxBatchText bounds the text of a list, in bytes: inputs in base64, and 16 KiB
	// for the rest of each item.
	maxBatchText = 8 << 20
	maxReference = 256 // bytes
	minPartial   = 200
	maxPartial   = 599
)

// batchDefaults are the fields that a batch may give once for all its items.
func batchDefaults() []string {
	return []string{"message_type", "hash_algorithm", "signature_format", "derivation_path", "taproot_tweak"}
}

// batchFields are those that a request has for its batch.
func batchFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"batch_input": {
			Type: framework.TypeSlice,
			Description: fmt.Sprintf("Instead of input: a JSON list, or its text, of 1 to %d objects with the fields of a single request and reference, which is returned (at most %d bytes). ", maxBatchItems, maxReference) +
				"message_type, hash_algorithm, signature_format, derivation_path and taproot_tweak beside it are defaults of the items. Inputs have at most 4 MiB together.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Batch input"},
		},
		"partial_failure_response_code": {
			Type: framework.TypeInt,
			Description: fmt.Sprintf("HTTP status of a batch of which some items failed and some did not: %d to %d, but not 204, 205 or 3xx, which cannot carry batch_results. ", minPartial, maxPartial) +
				"Without it the status is 400 if an item has to be mended, else that of the worst item.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Partial failure response code"},
		},
	}
}

// batchItemFields are the fields of an item, one of which is the operation's own.
func batchItemFields(own string, f *framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := signFields()
	fields[own] = f
	fields["reference"] = &framework.FieldSchema{Type: framework.TypeString}
	return fields
}

func isBatch(data *framework.FieldData) bool {
	_, ok := data.Raw["batch_input"]
	return ok
}

// batchFieldsIgnored warns about what only a batch uses.
func batchFieldsIgnored(data *framework.FieldData) []string {
	if _, ok := data.Raw["partial_failure_response_code"]; ok {
		return []string{"partial_failure_response_code was ignored: it is for batch_input"}
	}
	return nil
}

// batch is batch_input and what belongs to it.
type batch struct {
	items         []*item
	partialStatus int // 0: not given
	unused        []string
}

// parseBatch reads a request with batch_input. An error is about the request as
// a whole; what is wrong with an item is in the item.
func parseBatch(data *framework.FieldData, itemFields map[string]*framework.FieldSchema) (*batch, error) {
	out := &batch{}
	for _, name := range []string{"input", "signature", "request_id"} {
		if _, ok := data.Raw[name]; ok {
			return nil, invalid("%s beside batch_input: give it within each item", name)
		}
	}
	if code, ok := data.GetOk("partial_failure_response_code"); ok {
		out.partialStatus = code.(int)
		switch c := out.partialStatus; {
		case c < minPartial, c > maxPartial, c >= 300 && c < 400, c == http.StatusNoContent, c == http.StatusResetContent:
			return nil, invalid("partial_failure_response_code must be %d to %d, but not 204, 205 or 3xx, which cannot carry batch_results; %d is not", minPartial, maxPartial, c)
		}
	}
	list, err := batchList(data.Raw["batch_input"])
	if err != nil {
		return nil, err
	}
	if len(list) < 1 || len(list) > maxBatchItems {
		return nil, invalid("batch_input must have 1 to %d items, not %d", maxBatchItems, len(list))
	}
	defaults := map[string]any{}
	used := map[string]bool{}
	for _, name := range batchDefaults() {
		if v, ok := data.Raw[name]; ok {
			defaults[name] = v
		}
	}
	size := 0
	for i, raw := range list {
		fields, ok := raw.(map[string]any)
		if !ok {
			return nil, invalid("batch_input[%d] is not an object: batch_input is a list like [{\"input\":\"aGVsbG8=\"},{\"input\":\"d29ybGQ=\"}]", i)
		}
		if input, ok := fields["input"].(string); ok {
			size += len(input)
		}
		for name := range defaults {
			if _, own := fields[name]; !own {
				used[name] = true
			}
		}
		out.items = append(out.items, newItem(i, fields, defaults, itemFields))
	}
	if size > base64.StdEncoding.EncodedLen(maxBatchInput) {
		return nil, invalid("the inputs of batch_input have more than %d bytes together: send less in one batch, or digests with message_type=digest", maxBatchInput)
	}
	for _, name := range slices.Sorted(maps.Keys(defaults)) {
		if !used[name] {
			out.unused = append(out.unused, name)
		}
	}
	return out, nil
}

// batchList reads the list as HTTP clients send it, or its text, as the CLI does.
func batchList(raw any) ([]any, error) {
	switch v := raw.(type) {
	case []any:
		return v, nil
	case string:
		return batchText(v)
	}
	return nil, invalid("batch_input is not a list of objects")
}

// batchText reads the list from its text, and of it no more than a batch may have:
// read whole, a text of a megabyte can become 50 MB of values.
func batchText(text string) ([]any, error) {
	if len(text) > maxBatchText {
		return nil, invalid("batch_input has more than %d bytes: send less in one batch, or digests with message_type=digest", maxBatchText)
	}
	noList := invalid("batch_input is not a JSON list of objects, like [{\"input\":\"aGVsbG8=\"},{\"input\":\"d29ybGQ=\"}]")
	dec := json.NewDecoder(strings.NewReader(text))
	if begin, err := dec.Token(); err != nil || begin != json.Delim('[') {
		return nil, noList
	}
	list := []any{}
	for dec.More() {
		if len(list) == maxBatchItems {
			return nil, invalid("batch_input must have 1 to %d items, not more", maxBatchItems)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, noList
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
			list = append(list, nil) // no object
			continue
		}
		item := make(map[string]any, len(fields))
		for name, value := range fields {
			var text string
			if item[name] = value; value[0] == '"' && json.Unmarshal(value, &text) == nil {
				item[name] = text // all else stays as it is: items have texts only
			}
		}
		list = append(list, item)
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return nil, noList
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("batch_input goes on after the end of its JSON list")
	}
	return list, nil
}

// newItem checks the form of an item and puts in the defaults. Items have text
// fields only.
func newItem(at int, own, defaults map[string]any, schema map[string]*framework.FieldSchema) *item {
	it := &item{at: at, done: make(chan struct{})}
	all := maps.Clone(defaults)
	for _, name := range slices.Sorted(maps.Keys(own)) {
		_, known := schema[name]
		_, text := own[name].(string)
		switch {
		case it.err != nil:
		case !known:
			it.err = invalid("unknown field %s in an item: the fields are %s", clip(name), strings.Join(slices.Sorted(maps.Keys(schema)), ", "))
		case !text:
			it.err = invalid("%s of an item must be a text", name)
		}
		all[name] = own[name]
	}
	if reference, _ := own["reference"].(string); len(reference) <= maxReference {
		it.reference = reference
	} else if it.err == nil {
		it.err = invalid("reference must have at most %d bytes", maxReference)
	}
	it.data = &framework.FieldData{Raw: all, Schema: schema}
	if it.err == nil {
		if err := it.data.Validate(); err != nil { // of a default: items have texts
			it.err = invalid("%v", err)
		}
	}
	return it
}

// warnings are about fields that had no effect. The same one of several items is
// said once.
func (batch *batch) warnings() []string {
	var out []string
	for _, name := range batch.unused {
		out = append(out, name+" was ignored: every item of batch_input has its own")
	}
	items := map[string][]int{}
	var texts []string
	for _, it := range batch.items {
		if it.signing == nil {
			continue
		}
		for _, text := range it.signing.warnings {
			if items[text] == nil {
				texts = append(texts, text)
			}
			items[text] = append(items[text], it.at)
		}
	}
	for _, text := range texts {
		out = append(out, fmt.Sprintf("batch_input%v: %s", items[text], text))
	}
	return out
}

// respondWithStatus is a response with a status other than 200, which Vault
// passes on as it is. Beside data it has errors, the field of Vault's own error
// answers: its API client and CLI show nothing else of a 4xx or 5xx.
func respondWithStatus(resp *logical.Response, req *logical.Request, status int, text string) (*logical.Response, error) {
	body := struct {
		*logical.HTTPResponse
		Errors []string `json:"errors,omitempty"`
	}{HTTPResponse: logical.LogicalResponseToHTTPResponse(resp)}
	body.RequestID = req.ID
	if status >= http.StatusBadRequest {
		body.Errors = []string{text}
	}
	var raw bytes.Buffer
	if err := json.NewEncoder(&raw).Encode(body); err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: "application/json",
		logical.HTTPStatusCode:  status,
		// A text, so that audit devices hash it.
		logical.HTTPRawBody: raw.String(),
	}}, nil
}
