package backend

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// What paths ask of nodes for logins. Nothing here decides whether it may be asked.

// labelEnumeration begins what fakes for unknown authenticators are derived from.
const labelEnumeration = "mpc unknown authenticator v1"

// enumerationKeySize is the length of identityKeysRecord.EnumerationKey.
const enumerationKeySize = 32

// askIdentity sends a request with the mount's identity keys. Where they were
// replaced elsewhere meanwhile and the old envelope does not open any more, it
// reads them anew and asks once more.
func (b *backend) askIdentity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	for again := false; ; again = true {
		keys, err := b.needIdentityKeys(ctx)
		if err != nil {
			return nil, err
		}
		eng, err := b.engine(ctx)
		if err != nil {
			return nil, err
		}
		r.KeysEnvelope = keys.Envelope
		reply, err := eng.Identity(ctx, r)
		if err == nil {
			return reply, nil
		}
		if err = identityError(err); again || ctx.Err() != nil {
			return nil, err
		}
		b.store.logins.drop(keyIdentityKeys)
		if now, readErr := b.store.identityKeys(ctx); readErr != nil || now == nil || string(now.Envelope) == string(keys.Envelope) {
			return nil, err
		}
	}
}

// opaqueRegister answers a registration request (identity.StartRegistration).
func (b *backend) opaqueRegister(ctx context.Context, id identity.ID, request []byte) ([]byte, error) {
	reply, err := b.askIdentity(ctx, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Register{
		Register: &nodepb.OpaqueRegister{CredentialId: id[:], Request: request}}})
	if err != nil {
		return nil, err
	}
	if len(reply.GetResponse()) != identity.RegistrationResponseSize {
		return nil, errIdentityReply
	}
	return reply.GetResponse(), nil
}

// opaqueLogin answers KE1. An empty registration is that of an authenticator which
// does not exist, and gets an answer that looks the same. The session key is the
// caller's to wipe, and nobody's before identity.VerifyKE3.
func (b *backend) opaqueLogin(ctx context.Context, id identity.ID, registration, ke1 []byte) (ke2, clientMAC []byte, sessionKey *secret.Bytes, err error) {
	reply, err := b.askIdentity(ctx, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_Login{
		Login: &nodepb.OpaqueLogin{CredentialId: id[:], Registration: registration, Ke1: ke1}}})
	if err != nil {
		return nil, nil, nil, err
	}
	sessionKey = secret.New(reply.GetSessionKey())
	reply.SessionKey = nil
	if len(reply.GetResponse()) != identity.KE2Size || len(reply.GetClientMac()) != identity.KE3Size || sessionKey.Len() != identity.SessionKeySize {
		sessionKey.Wipe()
		return nil, nil, nil, errIdentityReply
	}
	return reply.GetResponse(), reply.GetClientMac(), sessionKey, nil
}

// makeServerPart draws the part of an authenticator that the server keeps: wrapped,
// for its record, and sealed to the client's public key (X25519, 32 bytes).
func (b *backend) makeServerPart(ctx context.Context, id identity.ID, clientPublic []byte) (wrapped, sealed []byte, err error) {
	reply, err := b.askIdentity(ctx, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_MakePart{
		MakePart: &nodepb.MakeServerPart{CredentialId: id[:], ClientPublic: clientPublic}}})
	if err != nil {
		return nil, nil, err
	}
	if len(reply.GetPart()) == 0 || len(reply.GetSealedPart()) == 0 {
		return nil, nil, errIdentityReply
	}
	return reply.GetPart(), reply.GetSealedPart(), nil
}

// releaseServerPart seals a stored part to the client's public key; for an empty
// one, something that looks the same. That the client may have it is for the caller
// to know.
func (b *backend) releaseServerPart(ctx context.Context, id identity.ID, wrapped, clientPublic []byte) (sealed []byte, err error) {
	reply, err := b.askIdentity(ctx, &nodepb.IdentityRequest{Kind: &nodepb.IdentityRequest_ReleasePart{
		ReleasePart: &nodepb.ReleaseServerPart{CredentialId: id[:], Part: wrapped, ClientPublic: clientPublic}}})
	if err != nil {
		return nil, err
	}
	if len(reply.GetSealedPart()) == 0 {
		return nil, errIdentityReply
	}
	return reply.GetSealedPart(), nil
}

// errIdentityReply: a node of another version, or an ill one.
var errIdentityReply = errors.New("a node answered a login in another form than this version of the plugin knows; see nodes/ for its version")

// identityServerKey returns OPAQUE's server public key, 32 bytes.
func (b *backend) identityServerKey(ctx context.Context) ([]byte, error) {
	r, err := b.needIdentityKeys(ctx)
	if err != nil {
		return nil, err
	}
	return r.PublicKey, nil
}

// fakeLoginID is the login ID that is shown for a name which has no authenticator:
// always the same for a name, and nobody outside can tell it from a real one.
func (b *backend) fakeLoginID(ctx context.Context, name string) (identity.ID, error) {
	out, err := b.fakeBytes(ctx, "login id", name, len(identity.ID{}))
	if err != nil {
		return identity.ID{}, err
	}
	return identity.ID(out), nil
}

// fakeBytes are the bytes that stand for what an authenticator of that name would
// have, if there were one; what says which. Who reads storage can compute them, and
// sees there in any case which authenticators there are.
func (b *backend) fakeBytes(ctx context.Context, what, name string, length int) ([]byte, error) {
	r, err := b.needIdentityKeys(ctx)
	if err != nil {
		return nil, err
	}
	var info []byte
	for _, part := range []string{labelEnumeration, what, name} {
		info = append(binary.BigEndian.AppendUint32(info, uint32(len(part))), part...)
	}
	return hkdf.Key(sha256.New, r.EnumerationKey, nil, string(info), length)
}
