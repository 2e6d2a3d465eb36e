package node

import (
	"context"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// Token is what a node needs of its PKCS#11 token; *pkcs11.Token is one.
type Token interface {
	hsm.PrivateKeys
	Info() pkcs11.TokenInfo
	GenerateWrappingKey(ctx context.Context, r pkcs11.KeyRequest) (hsm.WrappingKey, error)
	DestroyWrappingKey(ctx context.Context, id []byte) error
	FindByLabel(ctx context.Context, label string) ([]pkcs11.KeyObject, error)
	Bind(ctx context.Context, key hsm.WrappingKey) error
	Close() error
}

// openToken finds the module in this host's own list and logs in, with the PIN
// that the list names or else the one in the request, which it wipes. The
// coordinator names modules and never paths: a path is code that runs here.
func (n *Node) openToken(ctx context.Context, t *nodepb.Token) (Token, error) {
	pin := secret.New(t.GetPin())
	defer func() { pin.Wipe() }()
	list, err := modules.Parse(n.cfg.Modules)
	if err != nil {
		return nil, fmt.Errorf("%w: the list of modules of this node's host is broken: %w", pkcs11.ErrModule, err)
	}
	m, ok := list[t.GetModule()]
	if !ok {
		return nil, fmt.Errorf("%w: %q is not on the list of this node's host (%s)", pkcs11.ErrModule, t.GetModule(), list.Names())
	}
	if m.PINFile != "" {
		if pin.Len() > 0 {
			return nil, fmt.Errorf("%w: it was not tried, because the node's host provides the PIN of module %s", pkcs11.ErrPINIncorrect, m.Name)
		}
		if pin, err = m.ReadPIN(); err != nil {
			return nil, fmt.Errorf("%w: %w", pkcs11.ErrModule, err) // no login was tried
		}
	}
	return n.cfg.OpenToken(ctx, pkcs11.Config{
		Module:    m.Path,
		InitArgs:  m.InitArgs,
		AllowSHA1: m.AllowSHA1,
		Label:     t.GetLabel(),
		Serial:    t.GetSerial(),
		PIN:       pin,
	})
}

func tokenInfo(t Token) *nodepb.TokenInfo {
	i := t.Info()
	return &nodepb.TokenInfo{Label: i.Label, Serial: i.Serial, Manufacturer: i.Manufacturer, Model: i.Model}
}

func wrappingKeyToWire(k hsm.WrappingKey) *nodepb.WrappingKey {
	return &nodepb.WrappingKey{Domain: k.Domain, Version: k.Version, Suite: uint32(k.Suite),
		Id: k.ID, PublicKey: k.PublicKey, Label: k.Label}
}

func wrappingKeyFromWire(w *nodepb.WrappingKey) hsm.WrappingKey {
	return hsm.WrappingKey{Domain: w.GetDomain(), Version: w.GetVersion(), Suite: hsm.Suite(w.GetSuite()),
		ID: w.GetId(), PublicKey: w.GetPublicKey(), Label: w.GetLabel()}
}

func suitesFromWire(in []uint32) []hsm.Suite {
	out := make([]hsm.Suite, 0, len(in))
	for _, s := range in {
		out = append(out, hsm.Suite(min(s, 255)))
	}
	return out
}
