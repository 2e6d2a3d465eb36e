package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Identity is played as the host's acts say, and logged as a session is.
func (p *fakeProcess) Identity(ctx context.Context, r *nodepb.IdentityRequest, _ ...grpc.CallOption) (*nodepb.IdentityReply, error) {
	p.host.mu.Lock()
	act := p.host.acts[p.name]
	p.host.log = append(p.host.log, []string{p.name})
	p.host.mu.Unlock()
	switch act {
	case "gone":
		p.host.set(p.name, "") // the process that follows is well
		p.Stop()
		return nil, status.Error(codes.Unavailable, "the connection is gone")
	case "refuses":
		return &nodepb.IdentityReply{Failure: &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: "malformed"}}, nil
	case "no token":
		return &nodepb.IdentityReply{Failure: &nodepb.Failure{Reason: nodepb.Failure_HSM_UNAVAILABLE, Text: "HSM unavailable: gone"}}, nil
	case "silent":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &nodepb.IdentityReply{Response: []byte(p.name), KeysEnvelope: []byte("not an envelope")}, nil
}

// TestIdentityNodes: who is asked, and when another one is.
func TestIdentityNodes(t *testing.T) {
	p, h, _ := fakePool(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	login := &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Login{Login: &nodepb.OpaqueLogin{}}}
	asked := func() (names []string) {
		for _, s := range h.sessions() {
			names = append(names, s...)
		}
		h.forget()
		return names
	}
	for range 3 {
		if _, err := p.Identity(ctx, login); err != nil {
			t.Fatal(err)
		}
	}
	if got := asked(); len(slices.Compact(slices.Sorted(slices.Values(got)))) != 3 {
		t.Errorf("nodes do not take turns: %v", got)
	}

	h.set("local-1", "no token")
	h.set("local-2", "no token")
	for range 3 {
		if r, err := p.Identity(ctx, login); err != nil || string(r.GetResponse()) != "local-3" {
			t.Errorf("the node that can was not asked: %v %v", r, err)
		}
	}
	asked()
	h.set("local-3", "no token")
	if _, err := p.Identity(ctx, login); !errors.Is(err, ErrHSMUnavailable) {
		t.Errorf("no node has the token: %v", err)
	}
	if got := asked(); len(got) != 3 {
		t.Errorf("asked: %v", got)
	}

	for _, name := range []string{"local-1", "local-2", "local-3"} {
		h.set(name, "refuses")
	}
	var refused *RefusedError
	if _, err := p.Identity(ctx, login); !errors.As(err, &refused) || refused.Text != "malformed" {
		t.Errorf("refused: %v", err)
	}
	if got := asked(); len(got) != 1 {
		t.Errorf("a request that was refused went to %v", got)
	}

	// A node that dies is replaced by another one's answer; a node that says nothing
	// ends with the caller's time.
	h.set("local-1", "gone")
	h.set("local-2", "")
	h.set("local-3", "")
	for range 3 {
		if _, err := p.Identity(ctx, login); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"local-1", "local-2", "local-3"} {
		eventually(t, "another process", func() bool { nodes, _, _, _ := p.ready(); return len(nodes) == 3 })
		h.set(name, "gone")
	}
	before := h.started("local-1") + h.started("local-2") + h.started("local-3")
	if r, err := p.Identity(ctx, login); err != nil || len(r.GetResponse()) == 0 {
		t.Errorf("all nodes end, and others follow: %v", err)
	}
	eventually(t, "other processes", func() bool {
		return h.started("local-1")+h.started("local-2")+h.started("local-3") == before+3
	})
	eventually(t, "all nodes ready", func() bool { nodes, _, _, _ := p.ready(); return len(nodes) == 3 })
	h.set("local-1", "silent")
	h.set("local-2", "silent")
	h.set("local-3", "silent")
	short, end := context.WithTimeout(ctx, 50*time.Millisecond)
	defer end()
	if _, err := p.Identity(short, login); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent nodes: %v", err)
	}

	// What was sealed is looked at.
	for _, name := range []string{"local-1", "local-2", "local-3"} {
		h.set(name, "")
	}
	if _, err := p.Identity(ctx, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{WrappingVersion: 1}}}); err == nil {
		t.Error("an envelope that is none is taken")
	}

	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := p.Identity(ctx, login); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
