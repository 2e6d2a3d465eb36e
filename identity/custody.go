package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/secret"
)

// NewCustodyKey draws the custody key of an account: the public half is an
// uncompressed P-256 point, 65 bytes, the private half a scalar, 32 bytes.
func NewCustodyKey() (public []byte, private *secret.Bytes, err error) {
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return k.PublicKey().Bytes(), secret.New(k.Bytes()), nil
}

// custodyPair reports whether private is the private half of public.
func custodyPair(public []byte, private *secret.Bytes) bool {
	k, err := ecdh.P256().NewPrivateKey(private.Expose())
	return err == nil && bytes.Equal(k.PublicKey().Bytes(), public)
}

// checkKind holds the rules of the two kinds.
func (a *Asset) checkKind() error {
	switch a.Kind {
	case SecretAsset:
		if a.Account != "" {
			return invalid("asset %s is a secret and names an account", a.Name)
		}
		for _, k := range a.Keys {
			if len(k.Public) != 0 && len(k.Public) != 65 {
				return invalid("the public half of key %s of asset %s has %d bytes", k.Name, a.Name, len(k.Public))
			}
		}
		return nil
	case AccountAsset:
		// Empty until the account has been made: the custody key is stored first.
		if a.Account != "" {
			if _, err := ParseID(a.Account); err != nil {
				return err
			}
		}
		return a.checkCustodyKeys()
	}
	return invalid("asset %s is of a kind that is not known", a.Name)
}

func (a *Asset) checkCustodyKeys() error {
	if a.Key(CustodyKey) == nil || len(a.Keys) > 2 || len(a.Keys) == 2 && a.Key(NextCustodyKey) == nil {
		return invalid("asset %s of kind %s must have the key %q, may have %q, and no other", a.Name, a.Kind, CustodyKey, NextCustodyKey)
	}
	for _, k := range a.Keys {
		if _, err := ecdh.P256().NewPublicKey(k.Public); err != nil || len(k.Public) != 65 || len(k.Value) != WrappedOverhead+32 {
			return invalid("the key %s of asset %s is not a P-256 key with its public half", k.Name, a.Name)
		}
	}
	if len(a.Keys) == 2 && bytes.Equal(a.Keys[0].Public, a.Keys[1].Public) {
		return invalid("the custody key of asset %s is to be replaced by itself", a.Name)
	}
	return nil
}

// ErrCustody: a server-trusting authenticator would open a custody key, and the
// owner has not said that it may.
var ErrCustody = errors.New("identity: a server-trusting authenticator would open a custody key: the server alone could sign")

// CheckCustody fails with ErrCustody if a server-trusting grant that does not
// allow it opens one of the roles. It is asked before a custody key is sealed to
// them, and before such a grant is made for roles that hold one.
func CheckCustody(m *Manifest, roles []string) error {
	for _, g := range m.Grants {
		if !g.ServerTrusting || g.Custody {
			continue
		}
		for _, s := range g.Sealed {
			if slices.Contains(roles, s.Role) {
				return fmt.Errorf("authenticator %s opens role %s, which holds a custody key (of %s): %w", g.Name, s.Role, strings.Join(roles, ", "), ErrCustody)
			}
		}
	}
	return nil
}
