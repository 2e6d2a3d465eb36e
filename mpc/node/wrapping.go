package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// keyLabel is the CKA_LABEL of a version of a mount's wrapping key. It is for
// people: keys are found by their CKA_ID.
func keyLabel(mountID [16]byte, version uint32) string {
	return fmt.Sprintf("%s%d", keyLabelPrefix(mountID), version)
}

func keyLabelPrefix(mountID [16]byte) string { return fmt.Sprintf("vault-mpc %x v", mountID) }

// useKeys binds what is new in a list of wrapping keys and takes the list into
// use. The newest key must be in the token. An older one need not: it may have
// been destroyed by a run that ended before it was struck off the list, and
// only what is sealed to it is lost. Older keys are looked for when they are
// first needed.
func (n *Node) useKeys(ctx context.Context, wire []*nodepb.WrappingKey) error {
	var keys []hsm.WrappingKey
	for _, w := range wire {
		keys = append(keys, wrappingKeyFromWire(w))
	}
	if err := n.keys.check(keys); err != nil {
		return err
	}
	if newest := keys[len(keys)-1]; !n.keys.isBound(newest) {
		if err := n.bindInTime(ctx, newest); err != nil {
			return fmt.Errorf("wrapping key version %d: %w", newest.Version, err)
		}
		if err := n.keys.noteBound(newest); err != nil {
			return err
		}
	}
	return n.keys.set(keys)
}

// bindInTime looks for a key as long as the caller can wait, less a quarter: Bind
// looks for a missing one until its context ends, and the caller, whose deadline
// that is, would hear that time ran out and not what is missing.
func (n *Node) bindInTime(ctx context.Context, key hsm.WrappingKey) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*3/4)
		defer cancel()
	}
	err := n.token.Bind(ctx, key)
	if err != nil && n.cfg.Host != nil && errors.Is(err, hsm.ErrKeyNotFound) {
		return fmt.Errorf("%w. Is this the token of wrapping domain %q? Nodes of one domain share its keys; for a token of its own, name another domain in this node's configuration, remove the node at Vault and enrol it again", err, key.Domain)
	}
	return err
}

// bindTimeout bounds the look for a wrapping key that something is about to be
// sealed to. It is not being made just now: the coordinator knows it.
const bindTimeout = 3 * time.Second

// sealingKey returns a version of the wrapping key to seal to, with 0 the newest,
// once its pair was found in this node's token: sealing takes the public half
// only, and that half is the coordinator's word.
func (n *Node) sealingKey(ctx context.Context, version uint32) (hsm.WrappingKey, error) {
	key, err := n.keys.sealing(version)
	if err != nil {
		return key, fmt.Errorf("wrapping domain %q: %w", n.keys.own(), err)
	}
	if n.keys.isBound(key) {
		return key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	if err := n.noted(n.token.Bind(ctx, key)); err != nil {
		return hsm.WrappingKey{}, fmt.Errorf("wrapping key version %d was not found in this node's token, and nothing was sealed to it: %w", key.Version, err)
	}
	return key, n.keys.noteBound(key)
}

// SetWrappingKeys replaces the list of wrapping keys.
func (n *Node) SetWrappingKeys(ctx context.Context, r *nodepb.SetWrappingKeysRequest) (*nodepb.SetWrappingKeysReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if err := n.noted(n.useKeys(ctx, r.GetWrappingKeys())); err != nil {
		return &nodepb.SetWrappingKeysReply{Failure: n.failed("SetWrappingKeys", err)}, nil
	}
	return &nodepb.SetWrappingKeysReply{}, nil
}

// MakeWrappingKey makes a version in the token and vouches for it. It is not used
// before SetWrappingKeys names it.
func (n *Node) MakeWrappingKey(ctx context.Context, r *nodepb.MakeWrappingKeyRequest) (*nodepb.MakeWrappingKeyReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	key, err := makeKey(ctx, n.token, n.keys.own(), n.mountID, r.GetVersion(), r.GetSuites())
	if err == nil {
		// The endorsement says that the pair is there, and whole.
		err = n.token.Bind(ctx, key)
	}
	if err != nil {
		return &nodepb.MakeWrappingKeyReply{Failure: n.failed("MakeWrappingKey", n.noted(err))}, nil
	}
	return &nodepb.MakeWrappingKeyReply{WrappingKey: wrappingKeyToWire(key), Endorsement: hsm.EndorseKey(n.identity, n.mountID, key)}, nil
}

func makeKey(ctx context.Context, token Token, domain string, mountID [16]byte, version uint32, suites []uint32) (hsm.WrappingKey, error) {
	if version == 0 || len(suites) == 0 {
		return hsm.WrappingKey{}, refused("a wrapping key needs a version and a suite")
	}
	return token.GenerateWrappingKey(ctx, pkcs11.KeyRequest{
		Domain: domain, Version: version, Label: keyLabel(mountID, version), Suites: suitesFromWire(suites),
	})
}

// DestroyWrappingKey destroys a version in the token, whether or not this node
// works with it: that nothing needs it any more is for the coordinator to know.
func (n *Node) DestroyWrappingKey(ctx context.Context, r *nodepb.DestroyWrappingKeyRequest) (*nodepb.DestroyWrappingKeyReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	key := wrappingKeyFromWire(r.GetWrappingKey())
	err := key.Check()
	if err != nil {
		err = refusedError{err}
	} else {
		err = n.mayDestroy(ctx, key)
	}
	if err == nil {
		err = n.noted(n.token.DestroyWrappingKey(ctx, key.ID))
	}
	if errors.Is(err, hsm.ErrKeyNotFound) {
		return &nodepb.DestroyWrappingKeyReply{Absent: true}, nil
	}
	if err != nil {
		return &nodepb.DestroyWrappingKeyReply{Failure: n.failed("DestroyWrappingKey", err)}, nil
	}
	return &nodepb.DestroyWrappingKeyReply{}, nil
}

// FindWrappingKeys lists objects by their label.
func (n *Node) FindWrappingKeys(ctx context.Context, r *nodepb.FindWrappingKeysRequest) (*nodepb.FindWrappingKeysReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if err := n.mayList(r.GetLabel()); err != nil {
		return &nodepb.FindWrappingKeysReply{Failure: n.failed("FindWrappingKeys", err)}, nil
	}
	found, err := n.token.FindByLabel(ctx, r.GetLabel())
	if err != nil {
		return &nodepb.FindWrappingKeysReply{Failure: n.failed("FindWrappingKeys", n.noted(err))}, nil
	}
	reply := &nodepb.FindWrappingKeysReply{}
	for _, o := range found {
		reply.Objects = append(reply.Objects, &nodepb.KeyObject{Id: o.ID, Private: uint32(o.Private), Public: uint32(o.Public)})
	}
	return reply, nil
}

// RewrapShare seals the key of a stored share's envelope to another version of
// the wrapping key and to the recovery recipient that the share's record names,
// and then opens the result to see that it holds the share. A share with user
// custody cannot be opened; there it is seen that the token opens the same key from
// the result and that nothing else in it has changed.
func (n *Node) RewrapShare(ctx context.Context, r *nodepb.RewrapShareRequest) (*nodepb.RewrapShareReply, error) {
	envelope, err := n.rewrapShare(ctx, r)
	if err != nil {
		return &nodepb.RewrapShareReply{Failure: n.failed("RewrapShare", err)}, nil
	}
	return &nodepb.RewrapShareReply{Envelope: envelope}, nil
}

func (n *Node) rewrapShare(ctx context.Context, r *nodepb.RewrapShareRequest) ([]byte, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	record, err := mpc.ParsePublicRecord(r.GetRecord())
	if err != nil {
		return nil, refusedError{err}
	}
	if r.GetIndex() < 1 || int(r.GetIndex()) > record.Shares {
		return nil, refused("share %d does not exist", r.GetIndex())
	}
	index := mpc.Index(r.GetIndex())
	set, err := n.recipients(record.RecipientsHash, r.GetRecipients())
	if err != nil {
		return nil, err
	}
	// The epoch may not be in force yet: for accounts with user custody a rewrap
	// that nobody keeps shows that new shares open. So the floor stays.
	if err := n.admit(opRewrap, record); err != nil {
		return nil, err
	}
	to, err := n.sealTo(ctx, destination{version: r.GetWrappingVersion(), set: set, index: index, shares: record.Shares})
	if err != nil {
		return nil, err
	}
	stored, err := hsm.ParseEnvelope(r.GetEnvelope())
	if err != nil {
		return nil, err
	}
	if stored.Custody() != record.HasCustody() {
		return nil, fmt.Errorf("%w: the account's record says user custody: %t, and the share's envelope says %t", hsm.ErrEnvelope, record.HasCustody(), stored.Custody())
	}
	c := hsm.ShareContext(uint8(index), record.Hash())
	envelope, err := hsm.Rewrap(ctx, n.token, n.keys.all(), c, r.GetEnvelope(), to)
	if err = n.noted(n.tokenAway(ctx, err)); err != nil {
		return nil, err
	}
	if record.HasCustody() {
		err := hsm.CheckRewrapped(ctx, n.token, n.keys.all(), c, r.GetEnvelope(), envelope)
		if err = n.noted(n.tokenAway(ctx, err)); err != nil {
			return nil, fmt.Errorf("opening the share just rewrapped: %w", err)
		}
		return envelope, nil
	}
	share, err := n.open(ctx, c, envelope)
	if err != nil {
		return nil, fmt.Errorf("opening the share just rewrapped: %w", err)
	}
	defer share.Wipe()
	if err := frost.CheckShare(record, index, share); err != nil {
		return nil, err
	}
	return envelope, nil
}

// RewrapOwn seals this node's own keys anew. The envelopes come from storage,
// since the node keeps none.
func (n *Node) RewrapOwn(ctx context.Context, r *nodepb.RewrapOwnRequest) (*nodepb.RewrapOwnReply, error) {
	reply, err := n.rewrapOwn(ctx, r)
	if err != nil {
		return &nodepb.RewrapOwnReply{Failure: n.failed("RewrapOwn", err)}, nil
	}
	return reply, nil
}

func (n *Node) rewrapOwn(ctx context.Context, r *nodepb.RewrapOwnRequest) (*nodepb.RewrapOwnReply, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	reply := &nodepb.RewrapOwnReply{}
	var err error
	if n.cfg.Host == nil { // a remote node's identity lies on its own host, under a key of its own
		if reply.IdentityEnvelope, err = n.reseal(ctx, hsm.NodeKeyContext(kindIdentity, n.mountID, n.id, 0), r.GetIdentityEnvelope(), r.GetWrappingVersion()); err != nil {
			return nil, fmt.Errorf("node identity: %w", err)
		}
	}
	if len(r.GetAuxEnvelope()) > 0 {
		c := hsm.NodeKeyContext(kindAuxiliary, n.mountID, n.id, r.GetAuxGeneration())
		if reply.AuxEnvelope, err = n.reseal(ctx, c, r.GetAuxEnvelope(), r.GetWrappingVersion()); err != nil {
			return nil, fmt.Errorf("auxiliary keys: %w", err)
		}
	}
	return reply, nil
}

// reseal opens an envelope and seals its content anew to a version of the wrapping
// key.
func (n *Node) reseal(ctx context.Context, c hsm.Context, envelope []byte, version uint32) ([]byte, error) {
	plain, err := n.open(ctx, c, envelope)
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	return n.sealChecked(ctx, c, plain, version)
}

// sealChecked seals a secret and opens the result to see that it holds it.
func (n *Node) sealChecked(ctx context.Context, c hsm.Context, plain *secret.Bytes, version uint32) ([]byte, error) {
	fresh, _, err := n.seal(ctx, c, plain, version)
	if err != nil {
		return nil, err
	}
	opened, err := n.open(ctx, c, fresh)
	if err != nil {
		return nil, fmt.Errorf("opening what was just sealed: %w", err)
	}
	defer opened.Wipe()
	if !opened.Equal(plain) {
		return nil, errors.New("what was just sealed opens to something else")
	}
	return fresh, nil
}
