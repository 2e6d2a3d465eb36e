package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
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
		"local":                 field(framework.TypeInt, "Number of local nodes."),
		"region":                field(framework.TypeString, "Region of the local nodes; empty for none."),
		"remote":                field(framework.TypeStringSlice, "IDs of the nodes on other hosts; see config/nodes/:id."),
		"coordinator_pin":       optional(framework.TypeString, "SHA-256 of the public key of the TLS certificate that nodes on other hosts know this mount by, in hex; see config/coordinator."),
		"coordinator_not_after": optional(framework.TypeString, "When that certificate expires."),
		"session_timeout":       field(framework.TypeInt, "Longest time an ECDSA signature may take, in seconds."),
		"sessions_per_node":     field(framework.TypeInt, "Most protocol sessions that a node runs at once."),
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
				Description:  "Number of local nodes, 2 to 16; default 5. With 2n-1 nodes an account of n shares outlives the loss of n-1. 0 is allowed with two or more nodes on other hosts.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Local nodes", Value: defaultLocalNodes},
			},
			"region": textField("Region", "Region of the local nodes: a name that nodes on other hosts use too, so that shares are spread over regions; empty for none."),
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

Nodes on other hosts are enrolled one by one with mpc/config/nodes/NAME. With two
or more of them local may be 0, and then Vault's host needs no token. region says
where the local ones are:

  $ vault write mpc/config/nodes local=3 region=eu
`,
	}}
}

func (b *backend) nodesAnswer(ctx context.Context, r nodesRecord) (*logical.Response, error) {
	remote, err := b.store.remoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	own, err := b.store.coordinator(ctx)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, n := range remote {
		ids = append(ids, n.ID)
	}
	data := map[string]any{
		"local":             r.Local,
		"region":            r.Region,
		"remote":            ids,
		"session_timeout":   r.SessionTimeout,
		"sessions_per_node": r.SessionsPerNode,
	}
	resp := &logical.Response{Data: data}
	if own != nil {
		facts, err := own.facts()
		if err != nil {
			return nil, err
		}
		data["coordinator_pin"], data["coordinator_not_after"] = facts.pin, rfc3339(facts.notAfter)
	}
	if r.Local == 0 {
		return resp, nil
	}
	if b.cfg.NoLocalNodes != "" {
		resp.AddWarning("local nodes are configured and none runs: this host runs no local nodes: " + b.cfg.NoLocalNodes)
	} else if conf, err := b.store.hsmConfig(ctx); err != nil {
		return nil, err
	} else if conf == nil && len(remote) > 0 {
		resp.AddWarning("local nodes are configured and none runs, since they have no token: write config/hsm, or local=0 to have none")
	}
	return resp, nil
}

func (b *backend) configNodesRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.nodesConfig(ctx)
	if err != nil {
		return nil, err
	}
	return b.nodesAnswer(ctx, r)
}

func (b *backend) configNodesWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyNodes, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	before, err := b.membership(ctx)
	if err != nil {
		return nil, err
	}
	after := *before
	r := &after.nodes
	if err := b.takeNodes(r, data, len(before.remote)); err != nil {
		return nil, err
	}
	if after.local = 0; before.token {
		after.local = r.Local
	}
	if before.local == 0 && after.local > 0 && len(before.remote) > 0 {
		if err := b.localHaveKey(ctx); err != nil {
			return nil, err
		}
	}
	put := func() error { return b.store.putNodesConfig(ctx, *r) }
	if after.local < before.local || r.Region != before.nodes.Region && before.local > 0 {
		err = b.fit.shrink(func() error {
			if err := b.checkSharesFit(ctx, &after, localAdvice(len(after.remote))); err != nil {
				return err
			}
			if err := b.keepsLogins(ctx, &after); err != nil {
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
	resp, err := b.nodesAnswer(ctx, *r)
	if err == nil && after.local > before.local && len(after.remote) > 0 {
		resp.AddWarning("nodes on other hosts accept the new local nodes once their operators have said so, unless the recipient set in force names them: when nodes/ shows their identities, run on each of those hosts: " + acceptCommand("LOCAL-N", "IDENTITY"))
	}
	return resp, err
}

// localHaveKey refuses local nodes whose token has no wrapping key any more: the
// versions that had one there were destroyed while there were none. The pool would not
// start, nodes on other hosts included.
func (b *backend) localHaveKey(ctx context.Context) error {
	keys, err := b.presentKeys(ctx)
	if err != nil || newestOf(keys, hsm.DefaultDomain) != nil {
		return err
	}
	return invalid("the token of config/hsm has no wrapping key any more, since every version with one there was destroyed while there were no local nodes: nothing was changed; write config/hsm again, which makes one, and then local")
}

// takeNodes changes what was sent, and checks it.
func (b *backend) takeNodes(r *nodesRecord, data *framework.FieldData, remote int) error {
	if v, ok := data.GetOk("local"); ok {
		r.Local = v.(int)
	}
	if v, ok := data.GetOk("region"); ok {
		r.Region = v.(string)
	}
	if v, ok := data.GetOk("session_timeout"); ok {
		r.SessionTimeout = int64(v.(int))
	}
	if v, ok := data.GetOk("sessions_per_node"); ok {
		r.SessionsPerNode = v.(int)
	}
	if err := checkLabel("region", r.Region); err != nil {
		return invalid("%v", err)
	}
	if r.SessionsPerNode < 1 || r.SessionsPerNode > maxSessionsPerNode {
		return invalid("sessions_per_node must be 1 to %d, not %d", maxSessionsPerNode, r.SessionsPerNode)
	}
	if _, sent := data.GetOk("local"); sent {
		if err := b.checkLocal(r.Local, remote); err != nil {
			return err
		}
	}
	if t := r.sessionTimeout(); t < minSessionTimeout || t > maxSessionTimeout {
		return invalid("session_timeout must be %s to %s", short(minSessionTimeout), short(maxSessionTimeout))
	}
	return nil
}

// checkLocal bounds the number of local nodes. Without any the pool is made of the
// nodes on other hosts.
func (b *backend) checkLocal(local, remote int) error {
	switch {
	case local > 0 && b.cfg.NoLocalNodes != "":
		return b.noLocalNodes()
	case local == 0 && remote < minLocalNodes && b.cfg.NoLocalNodes == "":
		return invalid("local must be %d to %d, not 0, while %d node(s) of other hosts are enrolled: it can be 0 with %d or more of them (config/nodes/NAME)", minLocalNodes, maxLocalNodes, remote, minLocalNodes)
	case local < 0 || local > maxLocalNodes || local+remote < minLocalNodes && b.cfg.NoLocalNodes == "":
		return invalid("local must be %d to %d, not %d", minLocalNodes, maxLocalNodes, local)
	}
	return nil
}

// noLocalNodes refuses what needs a token on this host.
func (b *backend) noLocalNodes() error {
	return invalid("this host runs no local nodes: %s. Nothing was changed. Enrol nodes of other hosts with config/nodes/NAME, or register the build with cgo as the plugin", b.cfg.NoLocalNodes)
}

func localAdvice(remote int) fitAdvice {
	return fitAdvice{
		size: func(shares int) string { return fmt.Sprintf("keep local at %d or more", max(0, shares-remote)) },
		keep: "keep local as it is",
	}
}
