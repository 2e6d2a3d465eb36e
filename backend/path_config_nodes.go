package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// Bounds and defaults of config/nodes.
const (
	minLocalNodes         = mpc.MinThreshold
	maxLocalNodes         = mpc.MaxShares
	defaultLocalNodes     = 5
	maxSessionTimeout     = 60 * time.Second // the vault CLI gives up at 60 s
	minSessionTimeout     = time.Second
	defaultSessionTimeout = 30 * time.Second
	maxSessionsPerNode    = 64 // a node refuses more
)

func defaultNodes() nodesRecord {
	return nodesRecord{
		Version:         recordVersion,
		Local:           defaultLocalNodes,
		SessionTimeout:  int64(defaultSessionTimeout / time.Second),
		SessionsPerNode: pool.DefaultSessionsPerNode,
	}
}

func (r nodesRecord) sessionTimeout() time.Duration {
	return time.Duration(r.SessionTimeout) * time.Second
}

func (b *backend) pathConfigNodes() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"local":             field(framework.TypeInt, "Number of local nodes."),
		"session_timeout":   field(framework.TypeInt, "Longest time an ECDSA signature may take, in seconds."),
		"sessions_per_node": field(framework.TypeInt, "Most protocol sessions that a node runs at once."),
	}
	write := b.handle("config/nodes", 0, b.configNodesWrite)
	return []*framework.Path{{
		Pattern: "config/nodes$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "nodes-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"local": {
				Type:         framework.TypeInt,
				Description:  "Number of local nodes, 2 to 16; default 5. With 2n-1 nodes an account of n shares outlives the loss of n-1.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Local nodes", Value: defaultLocalNodes},
			},
			"session_timeout": {
				Type:         framework.TypeDurationSecond,
				Description:  "Longest time an ECDSA signature may take, 1s to 60s; default 30s.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Session timeout", Value: "30s"},
			},
			"sessions_per_node": {
				Type:         framework.TypeInt,
				Description:  "Most protocol sessions that a node runs at once, 1 to 64; default 16. Further requests wait in turn, account by account.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Sessions per node", Value: pool.DefaultSessionsPerNode},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyNodes)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure the nodes.", true, write, answer),
			logical.UpdateOperation: b.operation("Configure the nodes.", true, write, answer),
			logical.ReadOperation:   b.operation("Read the nodes' configuration.", false, b.handle("config/nodes", 0, b.configNodesRead), answer),
		},
		HelpSynopsis: "How many MPC nodes run on this host, and how long they may take.",
		HelpDescription: `
Sets the number of local nodes, the time limit of an ECDSA signature and how many
sessions a node runs at once:

  $ vault write mpc/config/nodes local=7 session_timeout=20s sessions_per_node=32

Fields that are left out keep their value. Nodes are started and ended to fit
without touching the others. The number cannot go below the number of shares
of any account, nor so low that the nodes that remain could not refresh one: in
a share epoch a node may only serve the share it has seen.
`,
	}}
}

func nodesAnswer(r nodesRecord) *logical.Response {
	return &logical.Response{Data: map[string]any{
		"local":             r.Local,
		"session_timeout":   r.SessionTimeout,
		"sessions_per_node": r.SessionsPerNode,
	}}
}

func (b *backend) configNodesRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.nodesConfig(ctx)
	if err != nil {
		return nil, err
	}
	return nodesAnswer(r), nil
}

func (b *backend) configNodesWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyNodes, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.nodesConfig(ctx)
	if err != nil {
		return nil, err
	}
	before := r.Local
	if v, ok := data.GetOk("local"); ok {
		r.Local = v.(int)
	}
	if v, ok := data.GetOk("session_timeout"); ok {
		r.SessionTimeout = int64(v.(int))
	}
	if v, ok := data.GetOk("sessions_per_node"); ok {
		r.SessionsPerNode = v.(int)
	}
	if r.SessionsPerNode < 1 || r.SessionsPerNode > maxSessionsPerNode {
		return nil, invalid("sessions_per_node must be 1 to %d, not %d", maxSessionsPerNode, r.SessionsPerNode)
	}
	if r.Local < minLocalNodes || r.Local > maxLocalNodes {
		return nil, invalid("local must be %d to %d, not %d", minLocalNodes, maxLocalNodes, r.Local)
	}
	if t := r.sessionTimeout(); t < minSessionTimeout || t > maxSessionTimeout {
		return nil, invalid("session_timeout must be %s to %s", short(minSessionTimeout), short(maxSessionTimeout))
	}
	put := func() error { return b.store.putNodesConfig(ctx, r) }
	if r.Local < before {
		err = b.fit.shrink(func() error {
			if err := b.checkSharesFit(ctx, r.Local); err != nil {
				return err
			}
			return put()
		})
	} else {
		err = put()
	}
	if err != nil {
		return nil, err
	}
	if err := b.applyChange(ctx); err != nil {
		return nil, err
	}
	return nodesAnswer(r), nil
}

// checkSharesFit fails when an account could not be refreshed by the nodes that
// would remain: it needs a node for each share, and in its current epoch a node
// may only serve the share it has seen.
func (b *backend) checkSharesFit(ctx context.Context, local int) error {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	remaining, err := b.identities(ctx, local)
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if n := len(r.Current.Shares); n > local {
			return invalid("account %s has %d shares and needs as many nodes: keep local at %d or more", name, n, n)
		}
		epochs := []*accountRecord{r}
		if r.Previous != nil { // which it may go back to
			epochs = append(epochs, &accountRecord{Current: *r.Previous})
		}
		for _, e := range epochs {
			a, err := b.store.usable(ctx, e)
			if err != nil {
				return err
			}
			if !canServe(a, remaining, local-len(remaining)) {
				return invalid("the nodes that would remain may not serve every share of account %s in its current epoch: refresh it and try again, or keep local as it is", name)
			}
		}
	}
	return nil
}
