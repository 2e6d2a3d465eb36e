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

var identitiesPromises = promises{ // read only
	`printf 'dns-api-token'`:                             `acme/dns`,
	`mpckms --home ada identity create`:                  `(?s)acme.*organization.*full +owner, treasury, web.*staff +web`,
	`mpckms --home ada identity show`:                    `(?s)active.*ada +password.*ada-key +key-file.*ben +key-file +staff`,
	`mpckms --home ben login acme`:                       `(?s)acme.*staff`,
	`env -u VAULT_TOKEN mpckms --home laptop login`:      `(?s)acme.*full.*safe +secret +treasury +yes`,
	`env -u VAULT_TOKEN mpckms --home laptop identity`:   `(?s)ID .*ada +password`,
	`mpckms --home ada login --authenticator ada-cert`:   `(?s)certificate.*no identity yet`,
	`mpckms --home ben secret show acme/dns`:             `^(dns-api-token|new-dns-token)\n$`,
	`! mpckms --home ben secret show acme/safe`:          `treasury`,
	`mpckms --home ada account create gold`:              `(?s)Custody +acme/gold`,
	`env -u VAULT_TOKEN mpckms --home ada account sign`:  `(?s)Signature .*Signers +local-\d \(share \d\), local-\d`,
	`! mpckms --home ben account sign gold`:              `(?s)Error:.*gold`,
	`env -u VAULT_TOKEN mpckms --home ada account refre`: `Share epoch +2`,
	`VAULT_ADDR=http://127.0.0.1:1 mpckms --home ben`:    `^dns-api-token\n$`,
	`mpckms --home ben device list`:                      `acme`,
	`! mpckms --home ada login acme`:                     `reported lost`,
	`! mpckms --home ben login acme`:                     `frozen`,
	`mpckms --home ada authenticator change`:             `(?s)was changed.*device sync`,
	`mpckms --home ada identity rotate`:                  `(?s)are new.*New role keys +3.*custody keys +0`,
	`mpckms --home drawer identity reset`:                `(?s)opens nothing.*acme/dns.*acme/safe`,
	`env -u VAULT_TOKEN mpckms --home drawer account`:    `(?s)Signature .*Signers +local-\d`,
}

// TestIdentitiesDocument runs the commands of docs/identities.md in order: three
// people with a home each, on a Vault of their own.
func TestIdentitiesDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 3)
	sh := newShell(t, v)
	sh.dir = t.TempDir()
	var signature string
	sh.runDocument(t, "docs/identities.md", identitiesPromises, nil, func(command, out string) {
		if m := regexp.MustCompile(`(?m)^Signature +(\S+)$`).FindStringSubmatch(out); m != nil {
			signature = m[1]
		}
		if strings.Contains(command, "account sign gold") && signature != "" {
			got := e.write(t, "verify/gold", map[string]any{"input": "cGF5IDUgdG8gYm9i", "signature": signature})
			if got["valid"] != true {
				t.Errorf("$ %s\nthe signature is not good", command)
			}
			signature = ""
		}
	})
	// What the people kept for themselves was never in Vault's log or storage.
	password, err := os.ReadFile(filepath.Join(sh.dir, "ada", "password"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{strings.TrimSpace(string(password)), "dns-api-token", "new-dns-token", "safe 4-8-15"}
	for _, s := range secrets {
		if strings.Contains(string(v.Log(t)), s) {
			t.Errorf("Vault's log has %q", s)
		}
	}
	for _, key := range v.RawList(t, "mpc") {
		raw := string(v.RawRead(t, "mpc", key))
		for _, s := range secrets {
			if strings.Contains(raw, s) {
				t.Errorf("%s has %q", key, s)
			}
		}
	}
}
