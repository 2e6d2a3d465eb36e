package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/plugin/mpckms/cli"
)

// tokenTimeout bounds one operation of a token: smart cards are slow, and some
// want to be touched.
const tokenTimeout = 30 * time.Second

// tokenKey is a person's key, with the token that was opened for it.
type tokenKey struct {
	*pkcs11.PersonKey
	token *pkcs11.Token
}

var _ keyholder.CertificateKey = tokenKey{}

// Close implements keyholder.CertificateKey.
func (k tokenKey) Close() error { return k.token.Close() }

// openToken logs in to a token for one use of a key in it. The PIN is tried once.
func openToken(ctx context.Context, name cli.TokenKey) (keyholder.CertificateKey, error) {
	pin, err := name.PIN(ctx)
	if err != nil {
		return nil, err
	}
	defer pin.Wipe()
	t, err := pkcs11.Open(ctx, pkcs11.Config{
		Module: name.Module.Path, InitArgs: name.Module.InitArgs, Label: name.TokenLabel, Serial: name.Serial,
		PIN: pin, Sessions: 1, Timeout: tokenTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("the token cannot be opened: %w", err)
	}
	k, err := t.PersonKey(ctx, name.Label, name.ID)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return tokenKey{k, t}, nil
}
