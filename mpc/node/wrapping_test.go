package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
)

// waitingToken notes how long it is given to look for a key that it does not have.
type waitingToken struct {
	Token
	until time.Time
}

func (w *waitingToken) Bind(ctx context.Context, _ hsm.WrappingKey) error {
	w.until, _ = ctx.Deadline()
	return hsm.ErrKeyNotFound
}

// TestMissingKeyIsSaidInTime: the coordinator hears which key the token lacks, and
// not only that its own time ran out while the node still looked.
func TestMissingKeyIsSaidInTime(t *testing.T) {
	token := &waitingToken{}
	n := &Node{token: token}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := n.bindInTime(ctx, hsm.WrappingKey{Domain: "eu"}); !errors.Is(err, hsm.ErrKeyNotFound) || strings.Contains(err.Error(), "configuration") {
		t.Errorf("a local node: %v", err)
	}
	if deadline, _ := ctx.Deadline(); token.until.IsZero() || deadline.Sub(token.until) < 10*time.Minute {
		t.Errorf("the node looks until %s, and its caller waits until %s", token.until, deadline)
	}
	n.cfg.Host = &Host{ID: "eu-1"}
	if err := n.bindInTime(t.Context(), hsm.WrappingKey{Domain: "eu"}); !errors.Is(err, hsm.ErrKeyNotFound) || !strings.Contains(err.Error(), `wrapping domain "eu"`) {
		t.Errorf("a node on a host of its own: %v", err)
	}
}
