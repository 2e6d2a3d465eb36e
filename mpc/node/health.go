package node

import (
	"context"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// How often a node that nobody uses looks whether its token is
// still there, and how often while it is not.
const (
	idleCheck = 5 * time.Second
	awayCheck = time.Second
)

// watchToken notices a token that goes away while nobody asks for it, and one
// that has come back, by sealing and opening something. It ends with ctx.
func (n *Node) watchToken(ctx context.Context) {
	t := time.NewTicker(awayCheck)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		away := n.hsm.Load()
		if away == nil && time.Since(time.Unix(0, n.hsmUsed.Load())) < idleCheck {
			continue
		}
		if away != nil && isPIN(*away) {
			continue // each look could be another try of the PIN
		}
		n.checkToken(ctx)
	}
}

func (n *Node) checkToken(ctx context.Context) {
	probe := secret.New(make([]byte, 32))
	defer probe.Wipe()
	c := hsm.ProbeContext()
	envelope, _, err := n.seal(ctx, c, probe, 0)
	if err != nil {
		return // no key yet
	}
	opened, err := n.open(ctx, c, envelope)
	if err == nil {
		opened.Wipe()
	}
}
