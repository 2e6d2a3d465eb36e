package keyholder

import (
	"context"
	"strings"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

type phoneSource struct{ asker }

// Phone asks for the one-time code that the server sends to the phone, and for
// the PIN where the authenticator has one.
func Phone(p Prompter) Source { return phoneSource{asker{p}} }

func (phoneSource) Method() identity.Method { return identity.Phone }

func (s phoneSource) New(ctx context.Context, n *Registering) (*secret.Bytes, error) {
	return s.newPIN(ctx, n)
}

func (s phoneSource) Get(ctx context.Context, c *Challenge) (*Answer, error) {
	code, err := s.p.Ask(ctx, "Code that was sent to the phone of "+c.Name)
	if err != nil {
		return nil, err
	}
	pin, err := s.pin(ctx, c)
	return &Answer{Information: pin, Code: strings.TrimSpace(code)}, err
}

// newPIN asks for a new PIN; nil if the authenticator is to have none.
func (a asker) newPIN(ctx context.Context, n *Registering) (*secret.Bytes, error) {
	if !n.PIN {
		return nil, nil
	}
	return a.fresh(ctx, Question{Topic: TopicPIN, Text: "New PIN of " + n.Name, Fresh: true}, minPIN)
}

// pin asks for the PIN; nil if the authenticator has none.
func (a asker) pin(ctx context.Context, c *Challenge) (*secret.Bytes, error) {
	if !c.PIN {
		return nil, nil
	}
	return a.Ask(ctx, Question{Topic: TopicPIN, Text: "PIN of " + c.Name})
}
