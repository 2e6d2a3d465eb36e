package backend

import (
	"context"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/pool"
)

func isWrappingDomain(d string) bool { return !strings.Contains(d, ":") }

func domainOf(n pool.NodeStatus) string {
	if n.Domain == "" {
		return hsm.DefaultDomain
	}
	return n.Domain
}

func (b *backend) adoptDomain(ctx context.Context, domain string) error { return nil }

type sinceV6 struct{ sinceV5 }
