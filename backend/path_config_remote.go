package backend

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

func (b *backend) pathConfigRemote() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"id":              field(framework.TypeString, "The node's ID."),
		"address":         field(framework.TypeString, "Where it listens, HOST:PORT."),
		"region":          field(framework.TypeString, "Its region, as its own configuration says; empty for none."),
		"zone":            field(framework.TypeString, "Its zone, as its own configuration says; empty for none."),
		"domain":          field(framework.TypeString, "The wrapping domain of its token, as its own configuration says."),
		"identity":        field(framework.TypeString, "Its Ed25519 public key in hex, which is pinned."),
		"pin":             field(framework.TypeString, "SHA-256 of the public key of its TLS certificate in hex, which is pinned; with tls_ca, that of its enrolment."),
		"tls_ca":          field(framework.TypeString, "Certificates that its TLS certificate is checked by; empty where its key is pinned."),
		"tls_server_name": field(framework.TypeString, "The name that its TLS certificate is for, with tls_ca."),
		"enrolled_time":   field(framework.TypeString, "When it was enrolled."),
	}
	wrote := map[string]*framework.FieldSchema{
		"coordinator_pin": optional(framework.TypeString, "At enrolment: what the node has pinned of this mount, SHA-256 of its TLS public key in hex."),
		"node_version":    optional(framework.TypeString, "At enrolment: version of the node's program."),
		"accept_on":       optional(framework.TypeStringSlice, "At enrolment: nodes whose operators have to accept the new node before they work with it."),
		"accept_command":  optional(framework.TypeString, "At enrolment: what they run for it."),
	}
	for name, f := range answer {
		wrote[name] = f
	}
	write := b.handle("config/nodes/write", 0, b.configRemoteWrite)
	return []*framework.Path{{
		Pattern:      "config/nodes/$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "remote-nodes"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the nodes on other hosts.", false, b.handle("config/nodes/list", 0, b.configRemoteList), map[string]*framework.FieldSchema{
				"keys":     optional(framework.TypeStringSlice, "IDs of the nodes, in order."),
				"key_info": optional(framework.TypeMap, "What each was enrolled with, by ID."),
			}),
		},
		HelpSynopsis: "The nodes on other hosts that are enrolled.",
		HelpDescription: `
Lists the nodes on other hosts:

  $ vault list -detailed mpc/config/nodes

Their condition is at mpc/nodes, with that of the local nodes.
`,
	}, {
		Pattern:      "config/nodes/(?P<id>[^/]+)$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "remote-node"},
		Fields: map[string]*framework.FieldSchema{
			"id": {
				Type: framework.TypeString, Description: "The node's name, as in its own configuration: " + nodeNames + ".",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Node", Identifier: true},
			},
			"address":         textField("Address", "Where the node listens, HOST:PORT."),
			"token":           onceField("Enrolment token", "What `vault-plugin-secrets-mpc node enrol` printed on the node's host; it can be used once, for 15 minutes. Left out to change the other fields of an enrolled node."),
			"tls_ca":          textField("TLS CA", "Certificates in PEM that the node's TLS certificate is checked by from now on, instead of its pinned key; empty to go by the key."),
			"tls_server_name": textField("TLS server name", "The name that the node's TLS certificate is for, with tls_ca; default the host of the address."),
			"force": {
				Type: framework.TypeBool, Query: true,
				Description:  "Only with DELETE, as a query parameter: remove the node although shares are left that no other node may serve. They are of no use then until the same node is enrolled again, and accounts with fewer than threshold others cannot sign.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Force"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, data *framework.FieldData) (bool, error) {
			id, _ := data.Get("id").(string)
			if checkRemoteID(id) != nil {
				return false, nil // the handler says what is wrong
			}
			entry, err := b.store.s.Get(ctx, prefixRemote+id)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Enrol a node on another host.", true, write, wrote),
			logical.UpdateOperation: b.operation("Change how an enrolled node is reached.", true, write, wrote),
			logical.ReadOperation:   b.operation("Read what a node was enrolled with.", false, b.handle("config/nodes/read", 0, b.configRemoteRead), answer),
			logical.DeleteOperation: b.noContent("Remove a node on another host from the pool.", b.handle("config/nodes/delete", 0, b.configRemoteDelete)),
		},
		HelpSynopsis: "A node on another host: enrol it, change its address, remove it.",
		HelpDescription: `
Enrols a node that runs on another host with a token of its own. On that host, first:

  $ vault-plugin-secrets-mpc node enrol --config /etc/mpc-node/node.hcl

and with what it prints, here:

  $ vault write mpc/config/nodes/eu-1 address=eu-1.example.com:8300 token=mpcnode1.AbC

Vault dials the node at once. Each side makes sure that the other has the token's
secret, and pins the other's keys: the node pins this mount's TLS key, its ID, its
authority and the present nodes, and Vault pins the node's TLS key and identity. The
node takes part from then on; nodes on other hosts that were enrolled before accept it
once their operators have said so, for which the answer has the command, or the
recipient set in force names it.

A node that has moved keeps its pins. With tls_ca its certificate is checked by a CA
instead of its pinned key:

  $ vault write mpc/config/nodes/eu-1 address=10.1.0.7:8300

Region, zone and domain are what the node's own configuration says, and its identity
never changes under its name: to replace it, remove it and enrol it again. It cannot
be removed while accounts have shares that only it may serve: refresh or move them
first, or say force=true.

  $ vault delete mpc/config/nodes/eu-1
`,
	}}
}

func remoteAnswer(r *remoteNodeRecord) map[string]any {
	return map[string]any{
		"id": r.ID, "address": r.Address, "region": r.Region, "zone": r.Zone, "domain": r.Domain, "identity": r.Identity,
		"pin": r.Pin, "tls_ca": r.CA, "tls_server_name": r.ServerName, "enrolled_time": rfc3339(r.Enrolled),
	}
}

func (b *backend) configRemoteList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	all, err := b.store.remoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	var keys []string
	info := map[string]any{}
	for i := range all {
		keys = append(keys, all[i].ID)
		info[all[i].ID] = remoteAnswer(&all[i])
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

// needRemote reads the node that the path names.
func (b *backend) needRemote(ctx context.Context, data *framework.FieldData) (*remoteNodeRecord, error) {
	id := data.Get("id").(string)
	if err := checkRemoteID(id); err != nil {
		return nil, invalid("%v", err)
	}
	r, err := b.store.remoteNode(ctx, id)
	if err == nil && r == nil {
		err = unknown("no node %q is enrolled: list config/nodes for those that are, or send address and token to enrol it", id)
	}
	return r, err
}

func (b *backend) configRemoteRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.needRemote(ctx, data)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: remoteAnswer(r)}, nil
}

func (b *backend) configRemoteWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id := data.Get("id").(string)
	if err := checkRemoteID(id); err != nil {
		return nil, invalid("%v", err)
	}
	if _, sent := data.GetOk("force"); sent {
		return nil, invalid("force is for removing a node: leave it out")
	}
	if b.cfg.Enroller == nil {
		return nil, invalid("this program cannot reach nodes on other hosts")
	}
	release, err := b.busy.reserve(keyNodes, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	if _, sent := data.GetOk("token"); sent {
		return b.enrol(ctx, id, data)
	}
	return b.changeRemote(ctx, data)
}

// takeTLS changes how a node is reached and known.
func takeTLS(r *remoteNodeRecord, data *framework.FieldData) error {
	if v, ok := data.GetOk("address"); ok {
		r.Address = strings.TrimSpace(v.(string))
	}
	if v, ok := data.GetOk("tls_ca"); ok {
		r.CA = v.(string)
	}
	if v, ok := data.GetOk("tls_server_name"); ok {
		r.ServerName = v.(string)
	}
	if err := checkAddress(r.Address); err != nil {
		return invalid("%v", err)
	}
	if len(r.CA) > maxTLSText || len(r.ServerName) > 253 {
		return invalid("tls_ca is longer than %d bytes, or tls_server_name than 253", maxTLSText)
	}
	if r.ServerName != "" && r.CA == "" {
		return invalid("tls_server_name is for certificates that tls_ca checks: send both or neither")
	}
	return nil
}

// changeRemote changes how an enrolled node is reached, if it is reached so.
func (b *backend) changeRemote(ctx context.Context, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.needRemote(ctx, data)
	if err != nil {
		return nil, err
	}
	next := *r
	if err := takeTLS(&next, data); err != nil {
		return nil, err
	}
	if err := b.reachRemote(ctx, &next); err != nil {
		return nil, invalid("nothing was changed: %v; Vault goes on with %s", err, r.Address)
	}
	next.Version = recordVersion
	if err := b.store.put(ctx, prefixRemote+r.ID, &next); err != nil {
		return nil, err
	}
	if err := b.applyChange(ctx); err != nil {
		return nil, err
	}
	return &logical.Response{Data: remoteAnswer(&next)}, nil
}

// reachRemote dials a node as the record says and hangs up.
func (b *backend) reachRemote(ctx context.Context, r *remoteNodeRecord) error {
	own, err := b.store.coordinator(ctx)
	if err != nil {
		return err
	}
	if own == nil {
		return fmt.Errorf("the certificate that nodes know this mount by is missing from storage: restore it from a backup")
	}
	n, err := r.node()
	if err != nil {
		return err
	}
	client := own.client()
	defer client.Key.Wipe()
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	return b.cfg.Enroller.Reach(ctx, n, client)
}

// configRemoteDelete takes a node out of the pool. Its stored auxiliary keys go
// first: the other way round, a crash would leave them to whoever is enrolled under
// the name next.
func (b *backend) configRemoteDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyNodes, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.needRemote(ctx, data)
	if err != nil {
		return nil, err
	}
	before, err := b.membership(ctx)
	if err != nil {
		return nil, err
	}
	after := *before
	after.remote = nil
	for _, n := range before.remote {
		if n.ID != r.ID {
			after.remote = append(after.remote, n)
		}
	}
	err = b.fit.shrink(func() error {
		if data.Get("force") != true {
			if err := b.checkSharesFit(ctx, &after, removalAdvice()); err != nil {
				return err
			}
			if err := b.keepsLogins(ctx, &after); err != nil {
				return err
			}
		}
		if err := b.store.delete(ctx, prefixNodeKeys+r.ID); err != nil {
			return err
		}
		return b.store.delete(ctx, prefixRemote+r.ID)
	})
	if err != nil {
		return nil, err
	}
	b.log.Info("a node on another host was removed", "node", r.ID, "identity", r.Identity)
	if after.size() == 0 {
		return nil, b.dropEngine(ctx)
	}
	return nil, b.applyChange(ctx)
}

func removalAdvice() fitAdvice {
	const anyway = "keep this one; force=true removes it all the same, and its shares are of no use then until the same node is enrolled again"
	return fitAdvice{
		size: func(int) string { return "enrol another one first, or " + anyway },
		keep: anyway,
	}
}

// acceptCommand is what operators of other nodes run to accept a peer.
func acceptCommand(id, identity string) string {
	return fmt.Sprintf("vault-plugin-secrets-mpc node peers add %s %s --config FILE", id, identity)
}

// namedBySet reports whether the recipient set in force names the node, so that
// nodes which pin the authority accept it by themselves.
func (b *backend) namedBySet(ctx context.Context, id string, identity mpc.NodeIdentity) (bool, error) {
	raw, _, err := b.setInForce(ctx)
	if err != nil || raw == nil {
		return false, err
	}
	signed, err := recovery.ParseSignedSet(raw)
	if err != nil {
		return false, err
	}
	return setNamesNode(signed.Unverified(), id, identity), nil
}
