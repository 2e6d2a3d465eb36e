package backend

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// together is a storage in which deletions wait for each other, as far as there
// are others.
type together struct {
	logical.Storage
	now, most atomic.Int64
}

func (s *together) Delete(ctx context.Context, key string) error {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	for end := time.Now().Add(20 * time.Millisecond); s.most.Load() < 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return s.Storage.Delete(ctx, key)
}

// TestExpireCatchesUp: answers are deleted one by one, but side by side where
// they come in faster than that.
func TestExpireCatchesUp(t *testing.T) {
	for behind, want := range map[int64]bool{1: false, 2: true} {
		clk, s := newClock(), &together{Storage: &logical.InmemStorage{}}
		m := openWith(t, s, newFake(t), func(c *Config) { c.now = clk.now })
		hour := hourOf(clk.now().Add(-signedFor)) - behind
		for n := range 40 {
			if err := s.Put(t.Context(), &logical.StorageEntry{Key: fmt.Sprintf("%s%064x", signedFolder(hour), n), Value: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := m.b.signed.expire(t.Context()); n != 40 || err != nil || len(m.storedAnswers()) != 0 {
			t.Errorf("%d deleted, %d left: %v", n, len(m.storedAnswers()), err)
		}
		if got := s.most.Load(); (got > 1) != want || got > expireBehind {
			t.Errorf("%d hours behind: %d deletions at once", behind, got)
		}
	}
}
