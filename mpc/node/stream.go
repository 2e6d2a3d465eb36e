package node

import (
	"context"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// conversation is a stream whose Recv ends with a context.
type conversation struct {
	stream nodepb.Node_SessionServer
	in     <-chan received
	// operation is what the session is for, empty before that is known.
	operation string
}

type received struct {
	in  *nodepb.SessionIn
	err error
}

// receive reads a stream until it breaks or ctx ends. A Recv that waits cannot
// be given up before the handler has returned; it ends at once then, and with
// it this goroutine.
func receive(ctx context.Context, stream nodepb.Node_SessionServer) <-chan received {
	out := make(chan received)
	go func() {
		for {
			in, err := stream.Recv()
			select {
			case out <- received{in, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

func (c *conversation) recv(ctx context.Context) (*nodepb.SessionIn, error) {
	select {
	case r := <-c.in:
		return r.in, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
