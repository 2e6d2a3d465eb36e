package backend

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// What was sent and has no effect is never passed over: what changes something
// refuses it, and what only reads says so.

// checkFields fails for fields that a path cannot do right by.
func checkFields(req *logical.Request, data *framework.FieldData) error {
	if err := refuseUnknownFields(req, data); err != nil {
		return err
	}
	if err := refuseContradictions(req, data); err != nil {
		return err
	}
	return refuseFractions(req, data)
}

// fromPath reports whether a field is part of the path and not of the body: all
// that are, and only they, are marked as identifiers.
func fromPath(f *framework.FieldSchema) bool {
	return f.DisplayAttrs != nil && f.DisplayAttrs.Identifier
}

// refuseContradictions fails for a body that names something else than the path.
// The framework goes by the path.
func refuseContradictions(req *logical.Request, data *framework.FieldData) error {
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		if sent, used := req.Data[name], data.Raw[name]; !reflect.DeepEqual(sent, used) {
			return invalid("%s is in the path (%v) and differs in the body: leave it out of the body", name, clip(fmt.Sprint(used)))
		}
	}
	return nil
}

// ignoredFields warns of query parameters that the path knows and a read does not
// look at. The framework warns of those that the path does not know.
func ignoredFields(req *logical.Request, data *framework.FieldData) (warnings []string) {
	if req.Operation != logical.ReadOperation && req.Operation != logical.ListOperation {
		return nil
	}
	var ignored []string
	for name := range req.Data {
		if f := data.Schema[name]; f != nil && !f.Query {
			ignored = append(ignored, clip(name))
		}
	}
	if len(ignored) == 0 {
		return nil
	}
	slices.Sort(ignored)
	return []string{"ignored, since they have no effect when reading: " + strings.Join(ignored, ", ")}
}

// refuseUnknownFields fails for a field of the body, or of a deletion's query,
// that the path does not have. Vault would only warn, and a misspelt policy or
// period would be lost.
func refuseUnknownFields(req *logical.Request, data *framework.FieldData) error {
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.DeleteOperation:
		return onlyKnownFields(req, data)
	}
	return nil
}

// onlyKnownFields is that check for any operation: reads that take fields call
// it themselves.
func onlyKnownFields(req *logical.Request, data *framework.FieldData) error {
	var strange []string
	for name := range req.Data {
		if _, ok := data.Schema[name]; !ok {
			strange = append(strange, clip(name))
		}
	}
	if len(strange) == 0 {
		return nil
	}
	slices.Sort(strange)
	known := slices.Sorted(maps.Keys(data.Schema))
	_, deletes := data.Schema["delete_after"]
	deletes = deletes && req.Operation == logical.DeleteOperation
	known = slices.DeleteFunc(known, func(s string) bool { return fromPath(data.Schema[s]) || deletes != (s == "delete_after") })
	if len(known) == 0 {
		return invalid("unknown field %s: this path takes no fields", strings.Join(strange, ", "))
	}
	return invalid("unknown field %s: the fields are %s", strings.Join(strange, ", "), strings.Join(known, ", "))
}

// refuseFractions fails for a fraction where a whole number is due. The
// framework would cut it off, and a threshold of 2.9 would quietly become 2.
func refuseFractions(req *logical.Request, data *framework.FieldData) error {
	for name, raw := range req.Data {
		f, ok := raw.(float64)
		if ok && f != math.Trunc(f) && data.Schema[name] != nil && data.Schema[name].Type == framework.TypeInt {
			return invalid("%s must be a whole number, not %v", name, f)
		}
	}
	return nil
}
