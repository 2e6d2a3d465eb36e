package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// Kinds of a node's own wrapped secrets, part of their envelope's context.
const (
	kindIdentity  = "identity"
	kindAuxiliary = "auxiliary"
)

// Probe logs in, reports the token and, if asked, makes a wrapping key.
func (n *Node) Probe(ctx context.Context, r *nodepb.ProbeRequest) (*nodepb.ProbeReply, error) {
	if n.cfg.Host != nil {
		return nil, status.Error(codes.FailedPrecondition, "this node has its token and its PIN from its own host and tries no other")
	}
	if n.ready() == nil {
		return nil, status.Error(codes.FailedPrecondition, "a node that has been set up cannot probe: its login would hide a wrong PIN")
	}
	mountID, err := parseMountID(r.GetMountId())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	token, err := n.openToken(ctx, r.GetToken())
	if err != nil {
		return &nodepb.ProbeReply{Failure: failure(err)}, nil
	}
	defer token.Close()
	if !token.Info().PINChecked {
		return nil, status.Error(codes.FailedPrecondition, "the token did not look at the PIN: this process was logged in already")
	}
	reply := &nodepb.ProbeReply{Token: tokenInfo(token)}
	if v := r.GetCreateVersion(); v > 0 {
		key, err := makeKey(ctx, token, hsm.DefaultDomain, mountID, v, r.GetSuites())
		if err != nil {
			return &nodepb.ProbeReply{Failure: failure(err)}, nil
		}
		reply.WrappingKey = wrappingKeyToWire(key)
	}
	return reply, nil
}

// Setup logs in, finds the wrapping keys and opens the node's own keys, or
// makes an identity for a node that has none. It succeeds once. A remote node has
// all of that from its host, and may be set up before its domain has a wrapping key.
func (n *Node) Setup(ctx context.Context, r *nodepb.SetupRequest) (*nodepb.SetupReply, error) {
	n.mu.Lock()
	if n.setup || n.closed || n.token != nil {
		n.mu.Unlock()
		return nil, status.Error(codes.FailedPrecondition, "the node has been set up already")
	}
	n.mu.Unlock()

	mountID, err := parseMountID(r.GetMountId())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if r.GetNodeId() == "" || n.cfg.Host == nil && len(r.GetWrappingKeys()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a node needs a name and a wrapping key")
	}
	authority, err := parseAuthority(r.GetAuthority(), n.cfg.Authority)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	fresh := &Node{cfg: n.cfg, id: r.GetNodeId(), mountID: mountID}
	fresh.keys.domain = n.keys.domain
	if h := n.cfg.Host; h != nil {
		if err := h.takes(r); err != nil {
			return &nodepb.SetupReply{Failure: n.failed("Setup", err)}, nil
		}
		fresh.token, fresh.identity, authority = h.Token, h.Identity, h.Authority
	} else if fresh.token, err = n.openToken(ctx, r.GetToken()); err != nil {
		return &nodepb.SetupReply{Failure: n.failed("Setup", err)}, nil
	}
	discard := func() {
		if n.cfg.Host == nil {
			fresh.token.Close()
		}
	}
	reply, err := fresh.loadKeys(ctx, r)
	if err != nil {
		discard()
		return &nodepb.SetupReply{Failure: n.failed("Setup", err)}, nil
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.setup || n.closed || n.token != nil {
		discard()
		return nil, status.Error(codes.FailedPrecondition, "the node has been set up already")
	}
	if err := n.keys.adopt(&fresh.keys); err != nil {
		discard()
		return &nodepb.SetupReply{Failure: n.failed("Setup", err)}, nil
	}
	n.id, n.mountID, n.token, n.authority = fresh.id, fresh.mountID, fresh.token, authority
	n.identity, n.aux, n.setup = fresh.identity, fresh.aux, true
	n.watching.Go(func() { n.watchToken(n.closing) })
	return reply, nil
}

// loadKeys takes the wrapping keys into use and opens or makes the node's own keys.
func (n *Node) loadKeys(ctx context.Context, r *nodepb.SetupRequest) (*nodepb.SetupReply, error) {
	if len(r.GetWrappingKeys()) > 0 {
		if err := n.useKeys(ctx, r.GetWrappingKeys()); err != nil {
			return nil, err
		}
	}
	reply := &nodepb.SetupReply{Version: n.cfg.Version}
	if h := n.cfg.Host; h != nil {
		id := n.self()
		reply.Identity, reply.Domain, reply.Region, reply.Zone, reply.Token = id[:], n.keys.own(), h.Region, h.Zone, tokenInfo(n.token)
	} else if err := n.loadIdentity(ctx, r, reply); err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	if len(r.GetAuxEnvelope()) > 0 {
		if err := n.loadAuxiliary(ctx, r.GetAuxPublic(), r.GetAuxEnvelope()); err != nil {
			// Auxiliary keys can be made anew; the node works without them.
			n.cfg.Logger.Warn("stored auxiliary keys cannot be used, new ones will be made", "error", err)
		}
	}
	return reply, nil
}

func (n *Node) loadIdentity(ctx context.Context, r *nodepb.SetupRequest, reply *nodepb.SetupReply) error {
	c := hsm.NodeKeyContext(kindIdentity, n.mountID, n.id, 0)
	if len(r.GetIdentityEnvelope()) == 0 {
		seed := make([]byte, ed25519.SeedSize)
		if _, err := rand.Read(seed); err != nil {
			return err
		}
		s := secret.New(seed)
		defer s.Wipe()
		n.identity = ed25519.NewKeyFromSeed(seed)
		envelope, _, err := n.seal(ctx, c, s, 0)
		if err != nil {
			return err
		}
		reply.IdentityEnvelope = envelope
	} else {
		seed, err := n.open(ctx, c, r.GetIdentityEnvelope())
		if err != nil {
			return err
		}
		defer seed.Wipe()
		if seed.Len() != ed25519.SeedSize {
			return errors.New("the stored seed has a wrong length")
		}
		n.identity = ed25519.NewKeyFromSeed(seed.Expose())
	}
	public := n.identity.Public().(ed25519.PublicKey)
	if want := r.GetIdentity(); len(want) > 0 && !public.Equal(ed25519.PublicKey(want)) {
		return errors.New("the stored identity is not the pinned one")
	}
	reply.Identity = public
	return nil
}

// self is this node's identity.
func (n *Node) self() mpc.NodeIdentity {
	return mpc.NodeIdentity(n.identity.Public().(ed25519.PublicKey))
}

func parseMountID(b []byte) (id [16]byte, err error) {
	if len(b) != len(id) {
		return id, errors.New("the mount ID has 16 bytes")
	}
	copy(id[:], b)
	return id, nil
}
