package backend

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestRecordsThatCouldNotBeRead: what is too large to be read again is not stored.
func TestRecordsThatCouldNotBeRead(t *testing.T) {
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	r := m.keyRecord(1)
	r.Label = strings.Repeat("x", maxStoredRecord)
	if err := m.b.store.put(t.Context(), wrappingKey(1), r); err == nil || !strings.Contains(err.Error(), "nothing was stored") {
		t.Errorf("a record of more than %d bytes: %v", maxStoredRecord, err)
	}
	m.rotate()
}
