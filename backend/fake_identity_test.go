package backend

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// Identity is what nodes do: the protocol is the real one, and the envelope says in
// clear what is in it.
func (f *fakeEngine) Identity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	if err := f.pause(ctx, "identity"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.identityCalls++
	if f.identityErr != nil {
		return nil, f.identityErr
	}
	// As the pool chooses nodes: those of the envelope's domain, or to make keys those
	// of the default domain, else of the first.
	domain := hsm.DefaultDomain
	if made := recovery.WrappingDomain(r.GetKeysEnvelope()); made != "" {
		domain = made
	} else if f.settings().Local == 0 {
		domain = f.settings().Remote[0].Domain
	}
	if !f.serves(domain) {
		return nil, &pool.TooFewNodesError{Needed: 1}
	}
	reply, err := playIdentity(r, domain, f.sealTo(), func(version uint32) bool { return f.opensIn(domain, version) })
	if err == nil && f.identityReply != nil {
		f.identityReply(r, reply)
	}
	return reply, err
}

// Identity of a simulated node.
func (p *simProc) Identity(_ context.Context, r *nodepb.IdentityRequest, _ ...grpc.CallOption) (*nodepb.IdentityReply, error) {
	p.mu.Lock()
	newest := p.sealTo
	p.mu.Unlock()
	reply, err := playIdentity(r, hsm.DefaultDomain, newest, func(uint32) bool { return true })
	var refused *pool.RefusedError
	if errors.As(err, &refused) {
		return &nodepb.IdentityReply{Failure: &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: refused.Text}}, p.alive()
	}
	if err != nil {
		return nil, err
	}
	return reply, p.alive()
}

// playIdentity works with the versions of the domain's wrapping key that opens knows
// and seals to the newest.
func playIdentity(r *nodepb.IdentityRequest, domain string, newest uint32, opens func(uint32) bool) (*nodepb.IdentityReply, error) {
	sealed := func(k *identity.ServerKeys, version uint32) (*nodepb.IdentityReply, error) {
		if version == 0 {
			version = newest
		}
		if !opens(version) {
			return nil, fmt.Errorf("version %d: %w", version, pool.ErrWrappingKey)
		}
		return &nodepb.IdentityReply{KeysEnvelope: fakeSealed(domain, k.Marshal().Expose(), version), PublicKey: k.PublicKey()}, nil
	}
	if m := r.GetMake(); m != nil {
		return sealed(identity.NewServerKeys(), m.GetWrappingVersion())
	}
	e, err := hsm.ParseEnvelope(r.GetKeysEnvelope())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pool.ErrShareUnusable, err)
	}
	if version := e.Seals()[0].Version; !opens(version) {
		return nil, fmt.Errorf("version %d: %w", version, pool.ErrWrappingKey)
	}
	k, err := identity.ParseServerKeys(secret.Copy(e.Ciphertext[:len(e.Ciphertext)-16]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pool.ErrShareUnusable, err)
	}
	reply := &nodepb.IdentityReply{}
	switch kind := r.GetKind().(type) {
	case *nodepb.IdentityRequest_Rewrap:
		return sealed(k, kind.Rewrap.GetWrappingVersion())
	case *nodepb.IdentityRequest_Register:
		reply.Response, err = k.Register(identity.ID(kind.Register.GetCredentialId()), kind.Register.GetRequest())
	case *nodepb.IdentityRequest_Login:
		var session *secret.Bytes
		reply.Response, reply.ClientMac, session, err = k.Login(identity.ID(kind.Login.GetCredentialId()), kind.Login.GetRegistration(), kind.Login.GetKe1())
		reply.SessionKey = session.Expose()
	case *nodepb.IdentityRequest_MakePart:
		reply.Part, reply.SealedPart, err = k.MakePart(identity.ID(kind.MakePart.GetCredentialId()), kind.MakePart.GetClientPublic())
	case *nodepb.IdentityRequest_ReleasePart:
		reply.SealedPart, err = k.ReleasePart(identity.ID(kind.ReleasePart.GetCredentialId()), kind.ReleasePart.GetPart(), kind.ReleasePart.GetClientPublic())
	}
	if err != nil {
		return nil, &pool.RefusedError{Text: err.Error()}
	}
	return reply, nil
}
