//go:build e2e

package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

var readmePromises = promises{ // read only
	`vault write mpc/config/hsm`:                          `(?m)^pin_set +true$`,
	`vault list mpc/nodes`:                                `(?s)local-1.*local-5`,
	`mpckms account show treasury`:                        `(?s)Share epoch +1\n.*BEGIN PUBLIC KEY`,
	`vault write mpc/sign/treasury input=`:                `(?m)^signers .*index:\d node:local-\d.*index:\d node:local-\d`,
	`vault write mpc/verify/treasury input=`:              `(?m)^valid +true$`,
	`mpckms account address payments`:                     `(?s)bitcoin_p2wpkh +bc1q.*cosmos +cosmos1.*ethereum +0x[0-9a-fA-F]{40}`,
	`vault write mpc/accounts/treasury/addresses`:         `(?s)bitcoin_p2tr:bc1p.*taproot_tweak +bip86`,
	`mpckms status`:                                       `(?s)demo.*local-5 +ready`,
	`mpckms account sign payments`:                        `(?s)Signature +M.*Signers +local-\d \(share \d\), local-\d \(share \d\)`,
	`vault write mpc/accounts/payments presign=2`:         `(?m)^presign +2$`,
	`vault read -field=presignatures mpc/accounts/paymen`: `^\d+\n$`,
	`vault write mpc/sign/payments message_type=eip191`:   `(?s)request_id +invoice-4711.*signature_format +ethereum`,
	`vault write -format=json mpc/sign/treasury batch`:    `(?s)"reference": "first".*"reference": "second"`,
	`vault write -field=csr mpc/accounts/web/csr`:         `(?is)verify OK.*www\.example\.com`,
	`vault read -field=jwk_json mpc/accounts/web/jwk`:     `"crv":"Ed25519"`,
	`vault write mpc/sign/web input=`:                     `(?m)^signature +[A-Za-z0-9_-]{86}$`,
	`vault write mpc/accounts/payments/freeze`:            `(?s)frozen_reason +laptop lost.*state +frozen`,
	`mpckms account list --state frozen`:                  `payments`,
	`vault write -f mpc/accounts/payments/unfreeze`:       `(?m)^state +active$`,
	`vault delete mpc/accounts/web`:                       `Success|deleted`,
	`vault write -f mpc/accounts/web/restore`:             `(?m)^state +active$`,
	`vault write -f mpc/accounts/treasury/refresh`:        `(?m)^share_epoch +2$`,
	`vault read -field=share_epoch mpc/accounts/treasury`: `^2\n$`,
	`vault write -f mpc/wrapping-keys/rotate`:             `(?m)^version +2$`,
	`mpckms rotation status`:                              `sealed to version 2`,
	`env -u VAULT_TOKEN mpckms secret show ada/dns`:       `^dns-api-token\n$`,
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
	// The same request_id twice: one signature, and the second answer says so.
	var answers []string
	sh.runDocument(t, "README.md", readmePromises, nil, func(command, out string) {
		if strings.Contains(command, "request_id=") {
			answers = append(answers, out)
		}
	})
	signature := regexp.MustCompile(`(?m)^signature +(\S+)$`)
	if len(answers) != 2 {
		t.Errorf("%d commands with a request_id, want 2", len(answers))
	} else if first, second := signature.FindString(answers[0]), signature.FindString(answers[1]); first == "" || first != second ||
		!regexp.MustCompile(`(?m)^replayed +true$`).MatchString(answers[1]) {
		t.Errorf("two requests with one request_id:\n%s\n%s", answers[0], answers[1])
	}
	if s, _ := v.Client.Logical().Read("mpc/accounts/treasury"); s != nil {
		t.Error("the destroyed account is still there")
	}
}
