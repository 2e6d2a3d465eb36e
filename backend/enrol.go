package backend

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

// Enrolment of a node on another host, in an order in which a crash strands nothing
// that a repetition does not mend:
//
//	mount identity, coordinator's certificate   stored, since the node will pin them
//	node pins                                   it takes this mount's word from now on
//	remoteNodeRecord                            stored: the node is in the pool
//	settings applied, wrapping key of a domain that is new made
//
// After a crash before the record the node has pinned this mount and its token is
// used up: `node enrol --again` prints another, and the same request with it succeeds.

// enrolTimeout bounds what is said to a node: less than a request has, so that
// what follows is done by it too.
const enrolTimeout = 3500 * time.Millisecond

// enrol makes the node that the token is of one of the pool's. The caller has
// reserved keyNodes.
func (b *backend) enrol(ctx context.Context, id string, data *framework.FieldData) (*logical.Response, error) {
	token, err := b.cfg.Enroller.ParseToken(strings.TrimSpace(data.Get("token").(string)))
	if err != nil {
		return nil, invalid("token: %v. Nothing was changed", err)
	}
	defer token.Secret.Wipe()
	r := &remoteNodeRecord{Version: recordVersion, ID: id, Region: token.Region, Zone: token.Zone, Domain: token.Domain,
		Identity: token.Identity.String(), Pin: hex.EncodeToString(token.Pin[:])}
	if err := takeTLS(r, data); err != nil {
		return nil, err
	}
	if err := b.checkEnrolToken(ctx, id, token); err != nil {
		return nil, err
	}
	if err := b.checkRegion(ctx, r); err != nil {
		return nil, err
	}
	mount, err := b.mountForNodes(ctx)
	if err != nil {
		return nil, err
	}
	own, err := b.coordinatorOrNew(ctx, mount)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepEnrolPrepared); err != nil {
		return nil, err
	}
	request, err := b.enrolRequest(ctx, token, r, mount, own)
	if err != nil {
		return nil, err
	}
	defer request.Client.Key.Wipe()
	said, err := b.dialNode(ctx, request, r)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepEnrolPinned); err != nil {
		return nil, err
	}
	// The keys of another node that had the name are of no use to this one.
	if keys, err := b.store.NodeKeys(ctx, id); err != nil {
		return nil, err
	} else if keys != nil && keys.Identity != token.Identity {
		if err := b.store.delete(ctx, prefixNodeKeys+id); err != nil {
			return nil, err
		}
	}
	r.Enrolled = b.cfg.now().UTC()
	if err := b.putEnrolled(ctx, r); err != nil {
		return nil, fmt.Errorf("the node has pinned this mount, and it could not be stored: run `node enrol --again` on its host and repeat the request with the new token: %w", err)
	}
	if err := b.step(ctx, stepEnrolStored); err != nil {
		return nil, err
	}
	b.log.Info("a node on another host was enrolled", "node", id, "address", r.Address, "identity", r.Identity, "domain", r.Domain, "region", r.Region)
	return b.enrolled(ctx, r, own, said)
}

// checkEnrolToken refuses what needs no node to be found wrong.
func (b *backend) checkEnrolToken(ctx context.Context, id string, token *EnrolToken) error {
	if token.NodeID != id {
		return invalid("the token is of node %q, and the path names %q: nothing was changed; write config/nodes/%s", clip(token.NodeID), id, clip(token.NodeID))
	}
	if now := b.cfg.now(); !now.Before(token.Expires) {
		return invalid("the token expired at %s, and it is %s here: nothing was changed; run `vault-plugin-secrets-mpc node enrol` on the node's host again (if the times look wrong, compare the clocks of both hosts)", rfc3339(token.Expires), rfc3339(now))
	}
	for _, err := range []error{checkDomain(token.Domain), checkLabel("region", token.Region), checkLabel("zone", token.Zone)} {
		if err != nil {
			return invalid("the node's configuration: %v. Nothing was changed", err)
		}
	}
	all, err := b.store.remoteNodes(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		switch known := &all[i]; {
		case known.ID == id && known.Identity != token.Identity.String():
			return invalid("node %q is enrolled with identity %s, and the token's is %s: an identity never changes under a name, and nothing was changed; delete config/nodes/%s first if this node takes its place, or choose another name in its configuration", id, known.Identity, token.Identity, id)
		case known.ID == id && known.Domain != token.Domain:
			return invalid("node %q is enrolled with wrapping domain %q, and the token says %q: nothing was changed; delete config/nodes/%s first if its token is another one now", id, known.Domain, token.Domain, id)
		case known.ID != id && known.Identity == token.Identity.String():
			return invalid("the node with that identity is enrolled already, as %q: nothing was changed; one node has one name", known.ID)
		}
	}
	if len(all) >= maxRemoteNodes {
		return invalid("%d nodes on other hosts are enrolled, and no more are kept: nothing was changed; delete one that is not used", len(all))
	}
	return nil
}

// checkRegion refuses to take a node that is enrolled into another region while shares
// live where it was and need it: nobody would serve them there.
func (b *backend) checkRegion(ctx context.Context, r *remoteNodeRecord) error {
	before, err := b.membership(ctx)
	if err != nil {
		return err
	}
	after, moves := *before, false
	after.remote = slices.Clone(before.remote)
	for i := range after.remote {
		if n := &after.remote[i]; n.ID == r.ID && n.Region != r.Region {
			n.Region, moves = r.Region, true
		}
	}
	if !moves {
		return nil
	}
	back := fmt.Sprintf("put the node's region back in its node.hcl: the token says %q", r.Region)
	return b.checkSharesFit(ctx, &after, fitAdvice{size: func(int) string { return back }, keep: back})
}

// putEnrolled stores the node, once more only if it leaves no region that needs it.
func (b *backend) putEnrolled(ctx context.Context, r *remoteNodeRecord) error {
	return b.fit.shrink(func() error {
		if err := b.checkRegion(ctx, r); err != nil {
			return err
		}
		return b.store.put(ctx, prefixRemote+r.ID, r)
	})
}

// mountForNodes returns the mount's identity, which a mount without a token of its
// own gets when its first node is enrolled.
func (b *backend) mountForNodes(ctx context.Context) (*mountRecord, error) {
	// It never changes once it is there, whatever else goes on: the domain of the
	// node before may be getting its wrapping key still.
	if mount, err := b.store.mount(ctx); err != nil || mount != nil {
		return mount, err
	}
	release, err := b.busy.reserve(keyHSM, "waits while a node is enrolled")
	if err != nil {
		return nil, err
	}
	defer release()
	mount, isNew, err := b.mountOrNew(ctx)
	if err == nil && isNew {
		err = b.store.put(ctx, keyMount, mount)
	}
	return mount, err
}

func (b *backend) enrolRequest(ctx context.Context, token *EnrolToken, r *remoteNodeRecord, mount *mountRecord, own *coordinatorRecord) (*EnrolRequest, error) {
	members, err := b.membership(ctx)
	if err != nil {
		return nil, err
	}
	sites, err := b.sites(ctx, members)
	if err != nil {
		return nil, err
	}
	anchor, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, err
	}
	authority, err := anchor.authority()
	if err != nil {
		return nil, err
	}
	out := &EnrolRequest{Token: token, Address: r.Address, MountID: mount.ID, Authority: authority, Client: own.client()}
	for _, s := range sites {
		if s.identity != nil && s.id != r.ID {
			out.Peers = append(out.Peers, EnrolPeer{s.id, *s.identity})
		}
	}
	return out, nil
}

// dialNode enrols the node and says in words what went wrong. In all cases the pool
// stays what it was.
func (b *backend) dialNode(ctx context.Context, request *EnrolRequest, r *remoteNodeRecord) (*EnrolAnswer, error) {
	dial, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	said, err := b.cfg.Enroller.Enrol(dial, *request)
	const stays = "The pool stays as it was"
	switch {
	case err == nil:
	case b.ctx.Err() != nil:
		return nil, err
	case errors.Is(err, ErrStrangeNode):
		return nil, invalid("%v. %s, and the token's secret was not given away; do not go on before you know who answers at %s. (After the node's TLS key was replaced, run `node enrol` there again.)", err, stays, r.Address)
	case errors.Is(err, ErrRefusedByNode):
		return nil, invalid("%v. %s. A token works once: run `vault-plugin-secrets-mpc node enrol --again` on its host, unless it belongs to another mount that is to keep it, and repeat the request with what it prints", err, stays)
	case errors.Is(err, ErrUnreachableNode), errors.Is(err, context.DeadlineExceeded):
		return nil, invalid("%v. %s, and the token can be used still. Check address, firewalls, and that `vault-plugin-secrets-mpc node serve` runs there and says that it listens", err, stays)
	default:
		return nil, invalid("enrolling node %q: %v. %s", r.ID, err, stays)
	}
	if said.Identity.String() != r.Identity || said.Domain != r.Domain || said.Region != r.Region || said.Zone != r.Zone {
		return nil, invalid("the node answered with another identity, domain, region or zone than its token has: its configuration was changed in between. %s; run `vault-plugin-secrets-mpc node enrol --again` on its host and repeat the request with what it prints", stays)
	}
	if r.CA != "" {
		if err := b.reachRemote(ctx, r); err != nil {
			return nil, invalid("the node was reached by its pinned key and not by tls_ca: %v. %s, and the node has pinned this mount: run `node enrol` there and repeat the request without tls_ca, or with the right one", err, stays)
		}
	}
	return said, nil
}

// enrolled has the pool take the node in, and answers. What is not done in time is
// done in the background and said in a warning.
func (b *backend) enrolled(ctx context.Context, r *remoteNodeRecord, own *coordinatorRecord, said *EnrolAnswer) (*logical.Response, error) {
	if err := b.applyChange(ctx); err != nil {
		return nil, fmt.Errorf("node %q is enrolled, and the pool could not take it in yet; it does with the next request that needs nodes: %w", r.ID, err)
	}
	resp := &logical.Response{Data: remoteAnswer(r)}
	facts, err := own.facts()
	if err != nil {
		return nil, err
	}
	resp.Data["coordinator_pin"], resp.Data["node_version"] = facts.pin, said.Version
	if err := b.adoptDomain(ctx, r.Domain); err != nil {
		resp.AddWarning(fmt.Sprintf("the wrapping key of domain %q is not made yet: %v. It is tried again by itself; no share is sealed to the domain before", r.Domain, err))
	}
	return resp, b.sayWhoAccepts(ctx, r, resp)
}

// sayWhoAccepts adds what other nodes' operators have to do. Nodes on this host take
// the coordinator's word.
func (b *backend) sayWhoAccepts(ctx context.Context, r *remoteNodeRecord, resp *logical.Response) error {
	id, err := mpc.ParseNodeIdentity(r.Identity)
	if err != nil {
		return err
	}
	named, err := b.namedBySet(ctx, r.ID, id)
	if err != nil || named {
		return err
	}
	all, err := b.store.remoteNodes(ctx)
	if err != nil {
		return err
	}
	var others []string
	for _, n := range all {
		if n.ID != r.ID {
			others = append(others, n.ID)
		}
	}
	if len(others) == 0 {
		return nil
	}
	slices.Sort(others)
	command := acceptCommand(r.ID, r.Identity)
	resp.Data["accept_on"], resp.Data["accept_command"] = others, command
	resp.AddWarning(fmt.Sprintf("%s work(s) with %s only once told to by the operator there, or by a recipient set that names it (config/recovery): run on each of those hosts: %s", strings.Join(others, ", "), r.ID, command))
	return nil
}
