package backend

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// The framework converts fields before a handler sees them, and where one cannot
// be converted its error repeats the value. That may be a PIN which was sent as a
// list by mistake, and the error goes to the client, and perhaps into a log. So
// types are checked before, in words of our own.

// HandleRequest implements logical.Backend.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := b.wrongTypes(req); err != nil {
		return b.translate("request", err)
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck implements logical.Backend. What HandleRequest is going to
// refuse is not looked up.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	if b.wrongTypes(req) != nil {
		return false, false, nil
	}
	return b.Backend.HandleExistenceCheck(ctx, req)
}

// wrongTypes fails for a field whose value cannot be converted to its type. The
// error names the field and not the value.
func (b *backend) wrongTypes(req *logical.Request) error {
	if req.Operation == logical.HelpOperation || len(req.Data) == 0 {
		return nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		schema := path.Fields[name]
		if schema == nil {
			continue
		}
		one := framework.FieldData{Raw: map[string]any{name: req.Data[name]}, Schema: path.Fields}
		if one.Validate() != nil {
			return invalid("%s must be %s", name, kindOf(schema.Type))
		}
	}
	return nil
}

// kindOf names a field's type for people.
func kindOf(t framework.FieldType) string {
	switch t {
	case framework.TypeInt, framework.TypeInt64:
		return "a whole number"
	case framework.TypeBool:
		return "true or false"
	case framework.TypeDurationSecond, framework.TypeSignedDurationSecond:
		return "a duration: seconds, or a text such as 10m or 24h"
	case framework.TypeSlice, framework.TypeStringSlice, framework.TypeCommaStringSlice:
		return "a list"
	case framework.TypeKVPairs, framework.TypeMap:
		return "key-value pairs: key=value on the command line, an object of texts in JSON"
	}
	return "a text"
}
