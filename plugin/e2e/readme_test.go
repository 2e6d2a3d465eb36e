//go:build e2e

package e2e_test

import (
	"os"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

var readmePromises = promises{ // read only
	`vault read mpc/config/hsm`:                           `(?m)^pin_set +true$`,
	`vault list mpc/nodes`:                                `(?s)local-1.*local-5`,
	`vault list mpc/accounts`:                             `(?s)payments.*treasury`,
	`vault read mpc/accounts/treasury`:                    `(?s)BEGIN PUBLIC KEY.*share_epoch +1\n`,
	`vault write mpc/sign/treasury input=`:                `(?m)^signers .*index:\d node:local-\d.*index:\d node:local-\d`,
	`vault write mpc/verify/treasury input=`:              `(?m)^valid +true$`,
	`vault read mpc/nodes/local-1`:                        `(?s)aux_progress +\d+.*state +ready`,
	`mpckms status`:                                       `(?s)demo.*local-5 +ready`,
	`mpckms account sign payments`:                        `(?s)Signature +M.*Signers +local-\d \(share \d\), local-\d \(share \d\)`,
	`vault write mpc/accounts/payments presign=2`:         `(?m)^presign +2$`,
	`vault read -field=presignatures mpc/accounts/paymen`: `^\d+\n$`,
	`vault write mpc/accounts/treasury/derive`:            `(?s)BEGIN PUBLIC KEY.*public_key_hex +[0-9a-f]{64}`,
	`mpckms account derive payments`:                      `(?m)^Public key +0[23][0-9a-f]{64}$`,
	`vault write -f mpc/accounts/treasury/refresh`:        `(?m)^share_epoch +2$`,
	`vault write mpc/config/rotation refresh_period=5m`:   `(?s)aux_period +2h.*refresh_period +5m\n`,
	`vault read -field=share_epoch mpc/accounts/treasury`: `^2\n$`,
	`vault write -f mpc/wrapping-keys/rotate`:             `(?m)^version +2$`,
	`mpckms wrapping-key list`:                            `2 +live, newest`,
	`mpckms rotation status`:                              `sealed to version 2`,
	`vault delete mpc/destroy/treasury`:                   `Success`,
}

// TestReadmeCommands runs every command of the README's console blocks in
// order, on a fresh Vault.
func TestReadmeCommands(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	token := v.AddToken(t, "demo")
	v.Enable(t, "mpc")
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(token.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := newShell(t, v, "HSM_PIN_FILE="+pin) // as `make dev` sets it; see TestDevServer
	sh.runDocument(t, "README.md", readmePromises, nil, nil)
	if s, _ := v.Client.Logical().Read("mpc/accounts/treasury"); s != nil {
		t.Error("the destroyed account is still there")
	}
}
