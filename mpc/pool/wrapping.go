package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// KeyRequest asks for a version of the wrapping key.
type KeyRequest struct {
	// Version counts from 1; 0 asks for none.
	Version uint32
	// Suites in order of preference: the first that the token really does, by
	// a live probe, is the key's.
	Suites []hsm.Suite
}

// keysTimeout bounds the time in which running nodes take a new wrapping key
// over: they look for it in the token and try it.
const keysTimeout = 5 * time.Second

// compatibleKeys reports whether a running node of the domain can go from one list
// of wrapping keys to the other: a version that is in both is the same key.
func compatibleKeys(a, b []hsm.WrappingKey, domain string) bool {
	for _, x := range keysOf(a, domain) {
		for _, y := range keysOf(b, domain) {
			if x.Version == y.Version && !bytes.Equal(x.ID, y.ID) {
				return false
			}
		}
	}
	return true
}

// keysOf returns the keys of one domain: a node is handed no others, since it could
// do nothing with them.
func keysOf(keys []hsm.WrappingKey, domain string) (own []hsm.WrappingKey) {
	for _, k := range keys {
		if k.Domain == domain {
			own = append(own, k)
		}
	}
	return own
}

func sameVersions(a, b []hsm.WrappingKey) bool {
	return slices.EqualFunc(a, b, func(x, y hsm.WrappingKey) bool { return x.Version == y.Version })
}

// shareWrappingKeys hands the settings' wrapping keys to running nodes that
// have others. A node that cannot take them over is started again: some modules
// see a key that another process made only after they were loaded anew.
func (p *Pool) shareWrappingKeys(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range p.all() {
		wg.Go(func() {
			if err := n.takeWrappingKeys(ctx); err != nil {
				p.cfg.Logger.Warn("starting a node again, which does not take a new version of the wrapping key", "node", n.id, "error", err)
				n.stopProcess()
			}
		})
	}
	wg.Wait()
}

// takeWrappingKeys gives the node's process the settings' wrapping keys, if it
// runs and has others.
func (n *poolNode) takeWrappingKeys(ctx context.Context) error {
	settings, ok := n.pool.currentSettings()
	n.mu.Lock()
	proc, has := n.proc, n.wrapping
	n.mu.Unlock()
	wanted := keysOf(settings.WrappingKeys, n.domain)
	if !ok || proc == nil || sameVersions(has, wanted) {
		return nil
	}
	reply, err := proc.client.SetWrappingKeys(ctx, &nodepb.SetWrappingKeysRequest{WrappingKeys: wrappingKeysToWire(wanted)})
	if err == nil {
		err = fromFailure(reply.GetFailure())
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	if n.proc == proc {
		n.wrapping = wanted
	}
	n.mu.Unlock()
	if len(has) == 0 {
		n.pool.notify() // shares may be sealed to its token from now on
	}
	return nil
}

// stopProcess ends the node's process; its supervisor starts another.
func (n *poolNode) stopProcess() {
	n.mu.Lock()
	proc := n.proc
	n.mu.Unlock()
	if proc != nil {
		proc.Stop()
	}
}

// newestKey is the newest version that the node's process has, 0 for none.
func (n *poolNode) newestKey() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return newestOf(n.wrapping)
}

// newestOf is the newest version among the keys of one domain, 0 for none.
func newestOf(keys []hsm.WrappingKey) uint32 {
	if len(keys) == 0 {
		return 0
	}
	return keys[len(keys)-1].Version
}

// sealingVersion is the newest version that all members have: for a moment
// after it was made not all nodes know the newest one. 0 leaves it to each node.
func (p *Pool) sealingVersion(members []*nodepb.Member) uint32 {
	var version uint32
	for _, m := range members {
		n := p.node(m.GetNodeId())
		if n == nil {
			return 0
		}
		if v := n.newestKey(); version == 0 || v < version {
			version = v
		}
	}
	return version
}

// anyNode runs call on the first ready node of the wrapping domain, and waits for
// one.
func (p *Pool) anyNode(ctx context.Context, domain string, call func(candidate, nodepb.NodeClient) error) error {
	for {
		nodes, _, changed, err := p.ready()
		if err != nil {
			return err
		}
		for _, n := range nodes {
			client := n.client()
			c, ok := n.candidate()
			if client == nil || !ok || c.domain != domain {
				continue
			}
			if err := call(c, client); err != nil {
				return fmt.Errorf("%s: %w", n.id, err)
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return p.noNode(domain, ctx.Err())
		}
	}
}

// noNode says why no node of the wrapping domain is ready.
func (p *Pool) noNode(domain string, err error) error {
	of := ""
	if domain != hsm.DefaultDomain {
		of = fmt.Sprintf(" of wrapping domain %q", domain)
	}
	for _, n := range p.all() {
		if trouble := n.trouble(); trouble != nil && n.domain == domain {
			return fmt.Errorf("no node%s is ready; %s: %w", of, n.id, trouble)
		}
	}
	return fmt.Errorf("no node%s is ready: %w", of, err)
}

// MadeKey is a version of a domain's wrapping key and the word for it of the node
// that made it.
type MadeKey struct {
	Key         hsm.WrappingKey
	Endorsement KeyEndorsement
}

// MakeWrappingKey has one node of the domain make a version of the wrapping key in
// its token. No node uses it before it is in the settings. The caller must make
// sure that only one key is made or destroyed at a time.
func (p *Pool) MakeWrappingKey(ctx context.Context, domain string, version uint32, suites []hsm.Suite) (*MadeKey, error) {
	var made *MadeKey
	err := p.anyNode(ctx, domain, func(n candidate, c nodepb.NodeClient) error {
		reply, err := c.MakeWrappingKey(ctx, &nodepb.MakeWrappingKeyRequest{Version: version, Suites: suitesToWire(suites)})
		if err != nil {
			return err
		}
		if err := fromFailure(reply.GetFailure()); err != nil {
			return err
		}
		if reply.GetWrappingKey().GetVersion() != version {
			return errors.New("the node made no wrapping key of this version")
		}
		key := wrappingKeyFromWire(reply.GetWrappingKey())
		if key.Domain != domain {
			return fmt.Errorf("the node made a key of domain %q, and %q was asked for", key.Domain, domain)
		}
		made = &MadeKey{Key: *key, Endorsement: KeyEndorsement{Domain: domain, Version: version, Identity: n.identity, Signature: reply.GetEndorsement()}}
		return nil
	})
	return made, err
}

// DestroyWrappingKey has one node of the key's domain destroy a version in the token and look again.
// It returns hsm.ErrKeyNotFound if nothing was there. The caller must make sure
// that nothing needs the key.
func (p *Pool) DestroyWrappingKey(ctx context.Context, key hsm.WrappingKey) error {
	return p.anyNode(ctx, key.Domain, func(_ candidate, c nodepb.NodeClient) error {
		reply, err := c.DestroyWrappingKey(ctx, &nodepb.DestroyWrappingKeyRequest{WrappingKey: wrappingKeyToWire(key)})
		if err != nil {
			return err
		}
		if err := fromFailure(reply.GetFailure()); err != nil {
			return err
		}
		if reply.GetAbsent() {
			return hsm.ErrKeyNotFound
		}
		return nil
	})
}

// FindWrappingKeys lists the key objects in the domain's token that have a label.
func (p *Pool) FindWrappingKeys(ctx context.Context, domain, label string) ([]KeyObject, error) {
	var found []KeyObject
	err := p.anyNode(ctx, domain, func(_ candidate, c nodepb.NodeClient) error {
		reply, err := c.FindWrappingKeys(ctx, &nodepb.FindWrappingKeysRequest{Label: label})
		if err != nil {
			return err
		}
		if err := fromFailure(reply.GetFailure()); err != nil {
			return err
		}
		for _, o := range reply.GetObjects() {
			found = append(found, KeyObject{ID: o.GetId(), Private: int(o.GetPrivate()), Public: int(o.GetPublic())})
		}
		return nil
	})
	return found, err
}

func wrappingKeyToWire(k hsm.WrappingKey) *nodepb.WrappingKey {
	return &nodepb.WrappingKey{Domain: k.Domain, Version: k.Version, Suite: uint32(k.Suite),
		Id: k.ID, PublicKey: k.PublicKey, Label: k.Label}
}

func wrappingKeysToWire(keys []hsm.WrappingKey) []*nodepb.WrappingKey {
	var out []*nodepb.WrappingKey
	for _, k := range keys {
		out = append(out, wrappingKeyToWire(k))
	}
	return out
}

func wrappingKeyFromWire(w *nodepb.WrappingKey) *hsm.WrappingKey {
	return &hsm.WrappingKey{Domain: w.GetDomain(), Version: w.GetVersion(), Suite: hsm.Suite(w.GetSuite()),
		ID: w.GetId(), PublicKey: w.GetPublicKey(), Label: w.GetLabel()}
}

func suitesToWire(in []hsm.Suite) []uint32 {
	var out []uint32
	for _, s := range in {
		out = append(out, uint32(s))
	}
	return out
}
