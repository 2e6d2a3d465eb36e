package backend

import "github.com/hashicorp/vault/sdk/framework"

// pathApproveEnrol is what a device calls that is being enrolled.
func (b *backend) pathApproveEnrol() []*framework.Path { return nil }
