package backend

import (
	"context"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/pool"
)

func (b *backend) pathNodes() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"id":              field(framework.TypeString, "The node's ID."),
		"state":           field(framework.TypeString, "starting, ready, restarting (one on another host: dialled again, while its operator brings it back), failed (not tried again before the settings change), or draining (leaves the pool when its sessions have ended)."),
		"since":           field(framework.TypeString, "Since when it is in this state."),
		"version":         field(framework.TypeString, "Version of the node's program."),
		"pid":             field(framework.TypeInt, "Process ID on Vault's host; 0 for a node on another host."),
		"identity":        field(framework.TypeString, "The node's Ed25519 public key in hex; empty before it has one."),
		"sessions":        field(framework.TypeInt, "Protocol sessions running now."),
		"restarts":        field(framework.TypeInt, "How often the node was started again."),
		"hsm":             field(framework.TypeString, "ok, or what is wrong with the node's session on the token."),
		"last_error":      field(framework.TypeString, "The last error, empty when there was none."),
		"presignatures":   field(framework.TypeInt, "Presignatures that it holds, of all accounts."),
		"aux_state":       field(framework.TypeString, "Auxiliary keys for ECDSA signing: none, generating, checking, ready, or renewing (the next are being made, these are in use)."),
		"aux_generation":  field(framework.TypeInt64, "Generation of the auxiliary keys in use."),
		"aux_made_time":   field(framework.TypeString, "When they were made; empty where that is not known."),
		"aux_next_due":    field(framework.TypeString, "When the next ones are due; empty where none are planned."),
		"aux_progress":    field(framework.TypeInt, "Percent done of making and checking auxiliary keys."),
		"aux_peers_ready": field(framework.TypeInt, "Other nodes with which auxiliary keys are checked both ways."),
		"aux_peers":       field(framework.TypeInt, "Number of other nodes."),
		"remote":          field(framework.TypeBool, "Whether it runs on another host; see config/nodes/:id."),
		"address":         field(framework.TypeString, "Where a node on another host listens; empty for a local one."),
		"region":          field(framework.TypeString, "Its region; empty for none."),
		"zone":            field(framework.TypeString, "Its zone; empty for none."),
		"domain":          field(framework.TypeString, "The wrapping domain of its token."),
		"rtt_ms":          field(framework.TypeFloat, "How long it takes to answer, in milliseconds, smoothed; 0 before it was asked."),
		"clock_skew_ms":   field(framework.TypeFloat, "Its clock minus that of Vault's host, in milliseconds, as far as the time of an answer lets one see."),
	}
	return []*framework.Path{
		{
			Pattern: "nodes/?$",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: operationPrefix, OperationSuffix: "nodes",
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation("List the nodes and their condition.", true, b.handle("nodes", 0, b.nodesList),
					map[string]*framework.FieldSchema{
						"keys":     field(framework.TypeStringSlice, "Node IDs."),
						"key_info": field(framework.TypeMap, "Each node's condition by ID."),
					}),
			},
			HelpSynopsis: "The MPC nodes of this mount and their condition.",
			HelpDescription: `
Lists the nodes:

  $ vault list -detailed mpc/nodes

How many of them run on Vault's host is set with: vault write mpc/config/nodes local=5
Those on other hosts are enrolled at mpc/config/nodes/NAME.
`,
		},
		{
			Pattern: "nodes/(?P<id>[^/]+)$",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: operationPrefix, OperationSuffix: "node",
			},
			Fields: map[string]*framework.FieldSchema{
				"id": {Type: framework.TypeString, Description: "The node's ID, for example local-1.", DisplayAttrs: &framework.DisplayAttributes{Name: "Node", Identifier: true}},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation("Read a node's condition.", true, b.handle("nodes", 0, b.nodeRead), answer),
			},
			HelpSynopsis: "One MPC node's condition.",
			HelpDescription: `
Shows one node, with the progress of its auxiliary keys and its last error:

  $ vault read mpc/nodes/local-1

How many there are is set with: vault write mpc/config/nodes local=5
`,
		},
		{
			Pattern: "nodes/(?P<id>[^/]+)/renew$",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: operationPrefix, OperationVerb: "renew", OperationSuffix: "node",
			},
			Fields: map[string]*framework.FieldSchema{
				"id": {Type: framework.TypeString, Description: "The node's ID, for example local-1.", DisplayAttrs: &framework.DisplayAttributes{Name: "Node", Identifier: true}},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.noContent("Have a node replace its auxiliary keys now.", b.handle("nodes/renew", 0, b.nodeRenew)),
			},
			HelpSynopsis: "Have a node replace its auxiliary keys now.",
			HelpDescription: `
For a node that is under suspicion: it makes new auxiliary keys at once, without
waiting for aux_period of mpc/config/rotation:

  $ vault write -force mpc/nodes/local-2/renew

The answer comes at once. Signatures go on with the old keys until the others
have checked the new ones; then the old ones are destroyed. Read mpc/nodes/local-2
until aux_generation has grown. Refresh the ECDSA accounts after that: who has a
node's auxiliary key and its recorded sessions has its shares of those epochs.
`,
		},
	}
}

func (b *backend) nodesList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	var keys []string
	info := map[string]any{}
	for _, n := range eng.Nodes() {
		keys = append(keys, n.ID)
		info[n.ID] = nodeAnswer(n)
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

func (b *backend) nodeRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	_, n, err := b.needNode(ctx, data)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: nodeAnswer(*n)}, nil
}

func (b *backend) nodeRenew(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	eng, n, err := b.needNode(ctx, data)
	if err != nil {
		return nil, err
	}
	return nil, eng.RenewAuxiliary(n.ID)
}

// needNode returns the engine and the node that the path names.
func (b *backend) needNode(ctx context.Context, data *framework.FieldData) (Engine, *pool.NodeStatus, error) {
	id := data.Get("id").(string)
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range eng.Nodes() {
		if n.ID == id {
			return eng, &n, nil
		}
	}
	return nil, nil, unknown("there is no node %q: list nodes/ for the nodes there are", clip(id))
}

func nodeAnswer(n pool.NodeStatus) map[string]any {
	return map[string]any{
		"id":              n.ID,
		"state":           string(n.State),
		"since":           rfc3339(n.Since),
		"version":         n.Version,
		"pid":             n.PID,
		"identity":        n.Identity,
		"sessions":        n.Sessions,
		"presignatures":   n.Presignatures,
		"restarts":        n.Restarts,
		"hsm":             n.HSM,
		"last_error":      n.LastError,
		"aux_state":       n.Aux.State,
		"aux_generation":  n.Aux.Generation,
		"aux_made_time":   rfc3339(n.Aux.Made),
		"aux_next_due":    rfc3339(n.Aux.NextDue),
		"aux_progress":    n.Aux.Progress,
		"aux_peers_ready": n.Aux.PeersReady,
		"aux_peers":       n.Aux.Peers,
		"remote":          n.Remote,
		"address":         n.Address,
		"region":          n.Region,
		"zone":            n.Zone,
		"domain":          domainOf(n),
		"rtt_ms":          milliseconds(n.RTT),
		"clock_skew_ms":   milliseconds(n.ClockSkew),
	}
}

// milliseconds rounds to a hundredth.
func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*100) / 100
}
