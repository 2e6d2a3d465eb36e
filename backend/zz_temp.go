package backend

import "context"

func (b *backend) adoptDomain(ctx context.Context, domain string) error {
	return b.joinDomain(ctx, domain)
}
