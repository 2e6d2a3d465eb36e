//go:build e2e

package e2e_test

import (
	"os"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

var approvalsPromises = promises{ // read only
	`mpckms approver enrol ada`:                                        `https://vault\.example\.com:8200/v1/mpc/ui/phone#e=`,
	`VAULT_TOKEN=$(cat carol/token) vault write -f -field=display_url`: `^https://vault\.example\.com:8200/v1/mpc/ui/show#r=`,
	`mpckms approver list`:                                             `(?s)ada.*ben`,
	`mpckms account policy show safe`:                                  `(?s)Approvals +\d of 2.*ada +certificate.*nodes`,
	`VAULT_TOKEN=$(cat carol/token) mpckms account sign safe`:          `(?s)State +pending.*Approvals +0 of \d`,
	`VAULT_TOKEN=$(cat carol/token) mpckms request list`:               `safe +sign +pending +0/2`,
	`VAULT_TOKEN=$(cat carol/token) mpckms request show`:               `(?s)pending.*1 of 2.*ada +approve`,
	`VAULT_TOKEN=$(cat carol/token) mpckms request wait`:               `(?s)State +signed`,
	`! VAULT_TOKEN=$(cat carol/token) mpckms request wait`:             `refused`,
	`! vault write mpc/sign/safe`:                                      `no Vault entity`,
	`! vault write mpc/accounts/safe/csr`:                              `(?i)approv`,
	`! env -u VAULT_TOKEN mpckms --home ada device approve`:            `(?i)answered`,
	`env -u VAULT_TOKEN mpckms --home ben device refuse`:               `refused`,
}

// TestApprovalsDocument runs the commands of docs/approvals.md in order: an operator,
// one who asks, and two who approve.
func TestApprovalsDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	enable(t, v, "mpc", 3)
	sh := newShell(t, v)
	sh.dir = t.TempDir()
	policies, err := filepath.Abs(filepath.Join(repository, "docs", "policies"))
	if err == nil {
		err = os.Symlink(policies, filepath.Join(sh.dir, "policies"))
	}
	if err != nil {
		t.Fatal(err)
	}
	sh.runDocument(t, "docs/approvals.md", approvalsPromises, nil, func(string, string) {})
}
