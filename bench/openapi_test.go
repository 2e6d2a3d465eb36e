package main

import (
	"context"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestOpenAPIDocument: an independent reader takes docs/openapi.json for a valid
// OpenAPI 3 document. That it says what the code does is tested with the code.
func TestOpenAPIDocument(t *testing.T) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromFile("../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Error(err)
	}
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operation ID %q is missing or not its own", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
	if len(ids) < 30 {
		t.Errorf("%d operations: the document is not that of the engine", len(ids))
	}
}
