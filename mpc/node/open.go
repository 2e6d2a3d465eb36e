package node

import (
	"context"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// opening is a call to the token that runs while a session says hello: both
// take about as long. It is used by one goroutine.
type opening struct {
	done  chan struct{}
	share *secret.Bytes
	err   error
}

// openSoon begins to open a share's envelope, with the owner's part k2 where the
// account has user custody. Whoever calls it calls discard in the end, and wipes
// k2 after that.
func (n *Node) openSoon(ctx context.Context, c hsm.Context, envelope []byte, k2 *secret.Bytes) *opening {
	o := &opening{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer func() {
			if r := recover(); r != nil {
				o.err = mpc.ErrPanic // the value may hold secrets; the session ends, not the node
			}
		}()
		o.share, o.err = n.openShare(ctx, c, envelope, k2)
	}()
	return o
}

// wait returns the plaintext, which stays the opening's to wipe.
func (o *opening) wait() (*secret.Bytes, error) {
	<-o.done // open keeps the deadline of its context
	return o.share, o.err
}

// discard waits for the call and wipes what it returned. Discarding nil is
// allowed.
func (o *opening) discard() {
	if o == nil {
		return
	}
	<-o.done
	if o.share != nil {
		o.share.Wipe()
	}
}
