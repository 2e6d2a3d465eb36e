package backend

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// The mount's identity keys are made when the first authenticator is registered or
// looked for, and stay for as long as the mount has a token: every registration
// depends on them. They are sealed as nodes' own keys are, refer to a version of the
// wrapping key as those do, and follow to a new one by the keeper.

// maxIdentityKeysCached: there is one entry.
const maxIdentityKeysCached = 1

// identityKeys returns nil for a mount that has none yet. What it returns is
// shared: nobody changes it.
func (s *store) identityKeys(ctx context.Context) (*identityKeysRecord, error) {
	return s.logins.get(keyIdentityKeys, func() (*identityKeysRecord, bool, error) {
		r := &identityKeysRecord{}
		ok, err := s.get(ctx, keyIdentityKeys, r)
		if err != nil || !ok {
			return nil, false, err
		}
		return r, true, nil
	})
}

// needIdentityKeys returns the mount's identity keys and makes them where there are
// none. Of several that find none at once, one makes them.
func (b *backend) needIdentityKeys(ctx context.Context) (*identityKeysRecord, error) {
	if r, err := b.store.identityKeys(ctx); err != nil || r != nil {
		return r, err
	}
	release, err := b.identityKeysTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	// Nothing that does not exist is cached, so this is what is stored now.
	if r, err := b.store.identityKeys(ctx); err != nil || r != nil {
		return r, err
	}
	return b.makeIdentityKeys(ctx)
}

// identityKeysTurn admits one at a time to the changing of identity keys.
func (b *backend) identityKeysTurn(ctx context.Context) (func(), error) {
	select {
	case b.loginTurn <- struct{}{}:
		return func() { <-b.loginTurn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the mount's identity keys: %w", ctx.Err())
	}
}

// makeIdentityKeys has a node make them and stores them; the caller has the turn.
func (b *backend) makeIdentityKeys(ctx context.Context) (*identityKeysRecord, error) {
	// Registrations depend on keys that were there once: without them nobody gets
	// in, and new ones would hide why.
	if names, err := b.store.list(ctx, prefixAuthentic); err != nil {
		return nil, err
	} else if len(names) > 0 {
		return nil, fmt.Errorf("the stored record %s is missing, and without it none of the %d authenticators opens anything: restore it from a backup of Vault's storage", keyIdentityKeys, len(names))
	}
	newest, eng, err := b.sealingWith(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := eng.Identity(ctx, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Make{Make: &nodepb.MakeIdentityKeys{WrappingVersion: newest}}})
	if err != nil {
		return nil, identityError(err)
	}
	if err := checkIdentityKeys(ctx, eng, reply, newest, nil, nil); err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepIdentityKeysMade); err != nil {
		return nil, err
	}
	enumeration := make([]byte, enumerationKeySize)
	_, _ = rand.Read(enumeration) // never fails: it ends the program instead
	r := &identityKeysRecord{Version: recordVersion, Envelope: reply.GetKeysEnvelope(), PublicKey: reply.GetPublicKey(),
		EnumerationKey: enumeration, Created: b.cfg.now().UTC()}
	if err := b.store.put(ctx, keyIdentityKeys, r); err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepIdentityKeysStored); err != nil {
		return nil, err
	}
	// As it is stored: another process of this mount may have been as fast.
	if r, err = b.store.identityKeys(ctx); err == nil && r == nil {
		err = errors.New("the identity keys that were just stored are not there; repeat the request")
	}
	return r, err
}

// sealingWith returns the version of the wrapping key that is sealed to, and the
// engine.
func (b *backend) sealingWith(ctx context.Context) (uint32, Engine, error) {
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return 0, nil, err
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return 0, nil, err
	}
	newest := ring.newest()
	if newest == nil {
		return 0, nil, pool.ErrNotConfigured
	}
	return newest.KeyVersion, eng, nil
}

// identityDomain is the wrapping domain that the identity keys are sealed in: a node
// of it has made them, and nodes of no other serve logins.
func identityDomain(envelope []byte) string {
	for _, s := range envelopeRefs([][]byte{envelope}).seals {
		return s.domain
	}
	return ""
}

// keepsLogins fails where the nodes that remain could not open the identity keys,
// which stay in the wrapping domain that they were made in.
func (b *backend) keepsLogins(ctx context.Context, after *membership) error {
	r, err := b.store.identityKeys(ctx)
	if err != nil || r == nil {
		return err
	}
	domain := identityDomain(r.Envelope)
	if domain == hsm.DefaultDomain && after.local > 0 || slices.ContainsFunc(after.remote, func(n remoteNodeRecord) bool { return n.Domain == domain }) {
		return nil
	}
	return invalid("the mount's identity keys are sealed in wrapping domain %q, and no node of it would remain, so that nobody could log in any more: nothing was changed; keep a node there", domain)
}

// checkIdentityKeys looks at what a node has sealed, and has a node open it, which
// may be another one. public, where not nil, is what has to be in it, and before the
// envelope that it replaces: the keys stay in the wrapping domain that they were made
// in.
func checkIdentityKeys(ctx context.Context, eng Engine, made *nodepb.IdentityReply, version uint32, public, before []byte) error {
	if public == nil {
		public = made.GetPublicKey()
	}
	if len(public) != 32 || !bytes.Equal(made.GetPublicKey(), public) {
		return errors.New("a node sealed other identity keys than it was asked for; nothing was stored")
	}
	r := envelopeRefs([][]byte{made.GetKeysEnvelope()})
	if r.broken || len(r.seals) != 1 || r.sealed != version {
		return fmt.Errorf("a node sealed the identity keys to other versions of the wrapping key than %d; nothing was stored", version)
	}
	if before != nil {
		if err := sealedOnce(made.GetKeysEnvelope(), identityDomain(before)); err != nil {
			return fmt.Errorf("the identity keys: %w; nothing was stored", err)
		}
	}
	id := identity.ID{0xff}
	probe := secret.New(make([]byte, 32))
	registration, request, err := identity.StartRegistration(probe, id, identity.DefaultKDF())
	if err != nil {
		return err
	}
	registration.Wipe()
	reply, err := eng.Identity(ctx, &nodepb.IdentityRequest{KeysEnvelope: made.GetKeysEnvelope(),
		Kind: &nodepb.IdentityRequest_Register{Register: &nodepb.OpaqueRegister{CredentialId: id[:], Request: request}}})
	if err != nil {
		return fmt.Errorf("the identity keys that were just sealed do not open; nothing was stored: %w", identityError(err))
	}
	// A response ends with the server's public key (RFC 9807, 5.2).
	if got := reply.GetResponse(); len(got) != identity.RegistrationResponseSize || !bytes.Equal(got[32:], public) {
		return errors.New("the identity keys that were just sealed open to others; nothing was stored")
	}
	return nil
}

// rewrapIdentityKeys has the identity keys sealed to the newest version, if they
// are not. The keeper calls it.
func (b *backend) rewrapIdentityKeys(ctx context.Context, ring *keyring) {
	newest := ring.newest()
	c := chore{what: choreIdentityKeys}
	if newest == nil || !b.keeper.ready(c) || b.busy.taken(wrappingBusy) {
		return
	}
	if len(b.store.refs.behind(keyIdentityKeys, newest.KeyVersion)) == 0 {
		return
	}
	b.report(c, b.resealIdentityKeys(ctx, newest.KeyVersion))
}

func (b *backend) resealIdentityKeys(ctx context.Context, version uint32) error {
	release, err := b.identityKeysTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	// As they are in storage, whatever is cached.
	r := &identityKeysRecord{}
	if ok, err := b.store.get(ctx, keyIdentityKeys, r); err != nil || !ok || r.refers().sealed >= version {
		return err
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return err
	}
	reply, err := eng.Identity(ctx, &nodepb.IdentityRequest{KeysEnvelope: r.Envelope,
		Kind: &nodepb.IdentityRequest_Rewrap{Rewrap: &nodepb.RewrapIdentityKeys{WrappingVersion: version}}})
	if err != nil {
		return fmt.Errorf("resealing the identity keys: %w", identityError(err))
	}
	if err := checkIdentityKeys(ctx, eng, reply, version, r.PublicKey, r.Envelope); err != nil {
		return err
	}
	if err := b.step(ctx, stepIdentityKeysRewrapped); err != nil {
		return err
	}
	next := *r
	next.Version, next.Envelope = recordVersion, reply.GetKeysEnvelope()
	if err := b.store.put(ctx, keyIdentityKeys, &next); err != nil {
		return err
	}
	return b.step(ctx, stepIdentityKeysResealed)
}

// removeIdentityKeys removes them at the end of a mount.
func (b *backend) removeIdentityKeys(ctx context.Context) error {
	release, err := b.identityKeysTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	if ok, err := b.store.get(ctx, keyIdentityKeys, &identityKeysRecord{}); err == nil && !ok {
		return nil
	}
	if err := b.store.delete(ctx, keyIdentityKeys); err != nil {
		return err
	}
	return b.step(ctx, stepEndIdentityKeys)
}

// identityError says what a failed call for logins means: the pool's errors are
// about shares where they are not about the token.
func identityError(err error) error {
	var refused *pool.RefusedError
	switch {
	case errors.As(err, &refused):
		return &fault{status: http.StatusBadRequest, msg: "a message of the login protocol is malformed or belongs to another authenticator: " + refused.Text, err: err}
	case errors.Is(err, pool.ErrShareUnusable):
		return fmt.Errorf("the mount's identity keys do not open: restore the record %s from a backup of Vault's storage; accounts are not affected (%v)", keyIdentityKeys, err)
	case errors.Is(err, pool.ErrWrappingKey):
		return fmt.Errorf("opening the mount's identity keys: %w", err)
	}
	return err
}
