package backend

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// slowStorage answers as storage behind gRPC does when time runs out: in text.
type slowStorage struct {
	logical.InmemStorage
	end context.CancelFunc
}

func (s *slowStorage) Get(context.Context, string) (*logical.StorageEntry, error) {
	s.end()
	return nil, errors.New("rpc error: code = Canceled desc = context canceled")
}

// TestStorageOutOfTime: that a request ran out of time is nobody's fault, so it
// is said to be repeated.
func TestStorageOutOfTime(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := bareStore(&slowStorage{end: cancel}).account(ctx, "alice")
	if status, text := m.b.classify(err); status != 503 {
		t.Errorf("%d %s", status, text)
	}
	_, err = bareStore(&slowStorage{end: func() {}}).account(t.Context(), "alice")
	if status, text := m.b.classify(err); status != 500 {
		t.Errorf("%d %s", status, text)
	}
}
