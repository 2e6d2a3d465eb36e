package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// What the server of digital identities does with secret keys. These are one set
// for a mount, stored as an envelope that only this token's nodes open; a node
// keeps what it has opened in memory, since people log in often and a token may be
// slow.

const (
	// maxLogins bounds how many of these calls compute at once; more wait in turn,
	// so that a flood of logins does not keep signatures from the processor.
	maxLogins = 4
	// maxLoginKeys bounds the envelopes whose content is kept: the present one, and
	// one that is being replaced.
	maxLoginKeys = 2
)

// logins holds opened identity keys by the SHA-256 of their envelope. All methods
// may be called concurrently.
type logins struct {
	slots chan struct{} // one token per call that computes
	turn  chan struct{} // capacity 1: held while an envelope is opened

	mu     sync.RWMutex // held for reading while keys are used, for milliseconds
	held   map[[32]byte]*identity.ServerKeys
	order  [][32]byte // oldest first
	closed bool
}

func newLogins() *logins {
	return &logins{slots: make(chan struct{}, maxLogins), turn: make(chan struct{}, 1), held: map[[32]byte]*identity.ServerKeys{}}
}

// use runs f with the keys of an envelope, if they are held.
func (l *logins) use(hash [32]byte, f func(*identity.ServerKeys) error) (held bool, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	keys := l.held[hash]
	if keys == nil {
		return false, nil
	}
	return true, f(keys)
}

// keep takes keys over. The oldest set leaves when there are too many.
func (l *logins) keep(hash [32]byte, keys *identity.ServerKeys) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.held[hash] != nil {
		keys.Wipe()
		return
	}
	if len(l.order) == maxLoginKeys {
		l.held[l.order[0]].Wipe()
		delete(l.held, l.order[0])
		l.order = l.order[1:]
	}
	l.held[hash], l.order = keys, append(l.order, hash)
}

// close wipes everything; nothing is kept after it.
func (l *logins) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, keys := range l.held {
		keys.Wipe()
	}
	clear(l.held)
	l.order, l.closed = nil, true
}

// Identity makes, uses and reseals the mount's identity keys.
func (n *Node) Identity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	reply, err := n.identityCall(ctx, r)
	if err != nil {
		return &nodepb.IdentityReply{Failure: n.failed("Identity", err)}, nil
	}
	return reply, nil
}

func (n *Node) identityCall(ctx context.Context, r *nodepb.IdentityRequest) (reply *nodepb.IdentityReply, err error) {
	defer func() {
		if p := recover(); p != nil {
			reply, err = nil, mpc.ErrPanic // the value may hold secrets; the call ends, not the node
		}
	}()
	if !n.enter() {
		return nil, errNotSetUp
	}
	defer n.running.Done()
	if err := n.ready(); err != nil {
		return nil, err
	}
	if err := n.serves(opLogin); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.closing, cancel)() // Close waits for this call
	select {
	case n.logins.slots <- struct{}{}:
		defer func() { <-n.logins.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch kind := r.GetKind().(type) {
	case *nodepb.IdentityRequest_Make:
		return n.makeIdentityKeys(ctx, r.GetKeysEnvelope(), kind.Make.GetWrappingVersion())
	case *nodepb.IdentityRequest_Rewrap:
		return n.rewrapIdentityKeys(ctx, r.GetKeysEnvelope(), kind.Rewrap.GetWrappingVersion())
	}
	reply = &nodepb.IdentityReply{}
	err = n.withIdentityKeys(ctx, r.GetKeysEnvelope(), func(keys *identity.ServerKeys) error {
		return useIdentityKeys(keys, r, reply)
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// useIdentityKeys answers what needs the keys opened.
func useIdentityKeys(keys *identity.ServerKeys, r *nodepb.IdentityRequest, reply *nodepb.IdentityReply) error {
	switch kind := r.GetKind().(type) {
	case *nodepb.IdentityRequest_Register:
		id, err := credentialID(kind.Register.GetCredentialId())
		if err != nil {
			return err
		}
		reply.Response, err = keys.Register(id, kind.Register.GetRequest())
		return err
	case *nodepb.IdentityRequest_Login:
		id, err := credentialID(kind.Login.GetCredentialId())
		if err != nil {
			return err
		}
		ke2, mac, session, err := keys.Login(id, kind.Login.GetRegistration(), kind.Login.GetKe1())
		if err != nil {
			return err
		}
		// The message takes the session key over: it leaves this process in it.
		reply.Response, reply.ClientMac, reply.SessionKey = ke2, mac, session.Expose()
		return nil
	case *nodepb.IdentityRequest_MakePart:
		id, err := credentialID(kind.MakePart.GetCredentialId())
		if err != nil {
			return err
		}
		reply.Part, reply.SealedPart, err = keys.MakePart(id, kind.MakePart.GetClientPublic())
		return err
	case *nodepb.IdentityRequest_ReleasePart:
		id, err := credentialID(kind.ReleasePart.GetCredentialId())
		if err != nil {
			return err
		}
		reply.SealedPart, err = keys.ReleasePart(id, kind.ReleasePart.GetPart(), kind.ReleasePart.GetClientPublic())
		return err
	}
	return refused("a request of an unknown kind")
}

func credentialID(b []byte) (identity.ID, error) {
	if len(b) != len(identity.ID{}) || bytes.Equal(b, make([]byte, len(b))) {
		return identity.ID{}, refused("a login ID has 16 bytes")
	}
	return identity.ID(b), nil
}

// withIdentityKeys runs f with the keys of an envelope, which it opens where this
// process has not done so yet: one caller at a time asks the token.
func (n *Node) withIdentityKeys(ctx context.Context, envelope []byte, f func(*identity.ServerKeys) error) error {
	if len(envelope) == 0 {
		return refused("a request for logins without identity keys")
	}
	hash := sha256.Sum256(envelope)
	if held, err := n.logins.use(hash, f); held {
		return err
	}
	if err := n.openIdentityKeys(ctx, hash, envelope); err != nil {
		return err
	}
	if held, err := n.logins.use(hash, f); held {
		return err
	}
	return errBusy // two newer envelopes have come meanwhile
}

func (n *Node) openIdentityKeys(ctx context.Context, hash [32]byte, envelope []byte) error {
	select {
	case n.logins.turn <- struct{}{}:
		defer func() { <-n.logins.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if held, _ := n.logins.use(hash, func(*identity.ServerKeys) error { return nil }); held {
		return nil // the caller before us did it
	}
	plain, err := n.open(ctx, hsm.IdentityKeysContext(n.mountID), envelope)
	if err != nil {
		return err
	}
	defer plain.Wipe()
	keys, err := identity.ParseServerKeys(plain)
	if err != nil {
		// It was authenticated, so this is no request's fault.
		return errors.New("the mount's identity keys are of a form that this node does not know: " + err.Error())
	}
	n.logins.keep(hash, keys)
	return nil
}

// makeIdentityKeys draws the keys of a mount that has none.
func (n *Node) makeIdentityKeys(ctx context.Context, envelope []byte, version uint32) (*nodepb.IdentityReply, error) {
	if len(envelope) > 0 {
		return nil, refused("new identity keys were asked for where there are some")
	}
	keys := identity.NewServerKeys()
	defer keys.Wipe()
	plain := keys.Marshal()
	defer plain.Wipe()
	fresh, err := n.sealChecked(ctx, hsm.IdentityKeysContext(n.mountID), plain, version)
	if err != nil {
		return nil, err
	}
	return &nodepb.IdentityReply{KeysEnvelope: fresh, PublicKey: keys.PublicKey()}, nil
}

// rewrapIdentityKeys seals them to another version of the wrapping key.
func (n *Node) rewrapIdentityKeys(ctx context.Context, envelope []byte, version uint32) (*nodepb.IdentityReply, error) {
	reply := &nodepb.IdentityReply{}
	err := n.withIdentityKeys(ctx, envelope, func(keys *identity.ServerKeys) error {
		reply.PublicKey = keys.PublicKey()
		return nil
	})
	if err != nil {
		return nil, err
	}
	reply.KeysEnvelope, err = n.reseal(ctx, hsm.IdentityKeysContext(n.mountID), envelope, version)
	if err != nil {
		return nil, err
	}
	return reply, nil
}
