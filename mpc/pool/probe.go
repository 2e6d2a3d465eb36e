package pool

import (
	"context"
	"errors"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Probe starts a node process that does nothing but log in to the token, so
// that no earlier login can hide a wrong PIN. With create.Version > 0 it
// also makes that version of the wrapping key in the token and returns it.
//
// The caller must make sure that only one Probe creates keys at a time.
func (p *Pool) Probe(ctx context.Context, mountID [16]byte, token Token, create KeyRequest) (TokenInfo, *hsm.WrappingKey, error) {
	proc, err := p.launch("probe")
	if err != nil {
		return TokenInfo{}, nil, err
	}
	defer proc.Stop()
	// Tokens count refused PINs, so each time one is tried is worth a line.
	p.cfg.Logger.Named("probe").Info("logging in to a token to try settings out", "module", token.Module, "token", token.Label, "serial", token.Serial)
	reply, err := proc.client.Probe(ctx, &nodepb.ProbeRequest{Token: tokenToWire(token), MountId: mountID[:],
		CreateVersion: create.Version, Suites: suitesToWire(create.Suites)})
	if err != nil {
		if ctx.Err() != nil {
			return TokenInfo{}, nil, ErrHSMUnavailable
		}
		return TokenInfo{}, nil, err
	}
	if err := fromFailure(reply.GetFailure()); err != nil {
		return TokenInfo{}, nil, err
	}
	info := TokenInfo{Label: reply.GetToken().GetLabel(), Serial: reply.GetToken().GetSerial(),
		Manufacturer: reply.GetToken().GetManufacturer(), Model: reply.GetToken().GetModel()}
	if create.Version == 0 {
		return info, nil, nil
	}
	w := reply.GetWrappingKey()
	if w == nil {
		return info, nil, errors.New("the probe made no wrapping key")
	}
	return info, wrappingKeyFromWire(w), nil
}
