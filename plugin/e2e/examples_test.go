//go:build e2e

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// needsNode skips a test where node is missing: unlike SoftHSM it is not what the
// engine needs, and CI has it.
func needsNode(t *testing.T) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("NOT CHECKED: there is no %s on PATH, so examples/ethers was not run: install Node.js 18 or newer to check it", program)
		}
	}
}

// TestExampleGo and those below run the commands of a README under examples/ as
// written.
func TestExampleGo(t *testing.T) {
	e := shared(t)
	newShell(t, e.Vault, goEnv(t)...).runDocument(t, "examples/go/README.md", promises{
		"go run ./examples/go":      `(?s)^account    go-demo, ecdsa-p256, 2 of 3\nsignature  M.*signed by  local-\d with share \d\n.*repeated   replayed=true\nverified `,
		"go doc ./client":           `package client`,
		"go doc ./client.Client.Si": `crypto\.Signer`,
	}, nil, nil)
}

func TestExamplePython(t *testing.T) {
	e := shared(t)
	newShell(t, e.Vault).runDocument(t, "examples/python/README.md", promises{
		`python3 examples/python/sign.py python-demo "`: `(?s)^account    python-demo, ed25519, 2 of 3\n.*repeated   the same signature\nverified `,
		`python3 examples/python/sign.py python-eth`:    `(?s)^account    python-ethereum, ecdsa-secp256k1, 2 of 3\n.*signature  M.*verified `,
	}, nil, nil)
	s := newShell(t, e.Vault, "VAULT_TOKEN=hvs.nobody")
	if out := s.run(t, "! python3 examples/python/sign.py python-demo x", ""); !strings.Contains(out, "status 403") || strings.Contains(out, "Traceback") {
		t.Errorf("with a wrong token:\n%s", out)
	}
}

func TestExampleCurl(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	newShell(t, e.Vault).runDocument(t, "examples/curl/README.md", promises{
		"examples/curl/sign.sh": `(?s)^account    curl-demo\nsignature  M\S+\nopenssl    Verified OK\n$`,
		`curl --fail --silent --show-error -H @<(echo "X-Vault-Token: $VAULT_TOKEN") -d '{"algorithm`: `"name":"curl-by-hand"`,
		`curl --fail --silent --show-error -H @<(echo "X-Vault-Token: $VAULT_TOKEN") -d '{"input`:     `"request_id":"order-4711".*"signature":"`,
	}, nil, nil)
	s := newShell(t, e.Vault, "VAULT_TOKEN=hvs.nobody")
	if out := s.run(t, "! examples/curl/sign.sh curl-demo x", ""); !strings.Contains(out, "status 403") {
		t.Errorf("with a wrong token:\n%s", out)
	}
}

func TestExampleEthers(t *testing.T) {
	needsNode(t)
	e := shared(t)
	// A copy: node_modules does not belong into the checkout.
	dir := t.TempDir()
	source := filepath.Join(repository, "examples", "ethers")
	files, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "examples", "ethers")
	if err := os.MkdirAll(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.IsDir() {
			continue // node_modules of somebody who tried it in place
		}
		text, err := os.ReadFile(filepath.Join(source, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, f.Name()), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newShell(t, e.Vault, npmEnv(t)...)
	s.dir = dir
	three := `(?s)^address     (0x[0-9a-fA-F]{40})\ntransaction signed by 0x.*\nraw         0x02f8[0-9a-f]+\nmessage     signed by 0x.*\ntyped data  signed by 0x[0-9a-fA-F]{40}\n$`
	addresses := map[string]bool{}
	s.runDocument(t, "examples/ethers/README.md", promises{
		"npm --prefix examples/ethers ci":                                 `added \d+ packages`,
		"vault write mpc/accounts/ethers-demo":                            `ecdsa-secp256k1`,
		"node examples/ethers/sign-transaction.mjs ethers-demo":           three,
		"node examples/ethers/sign-transaction.mjs ethers-demo m/44/60/0": three,
		"npm --prefix examples/ethers test":                               `# fail 0\n`,
	}, nil, func(command, out string) {
		if strings.HasPrefix(command, "node ") {
			address, _, _ := strings.Cut(strings.TrimPrefix(out, "address     "), "\n")
			addresses[address] = true
		}
	})
	if len(addresses) != 2 {
		t.Errorf("the account and its child have the addresses %v", addresses)
	}
}

// npmEnv keeps npm's cache from run to run, outside of the checkout, and the
// settings by which npm reaches a registry here.
func npmEnv(t testing.TB) []string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"npm_config_cache=" + filepath.Join(cache, "vault-plugin-secrets-mpc", "npm"), "npm_config_update_notifier=false"}
	if home, err := os.UserHomeDir(); err == nil {
		env = append(env, "npm_config_userconfig="+filepath.Join(home, ".npmrc"))
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch lower := strings.ToLower(name); {
		case strings.HasPrefix(lower, "npm_config_"), strings.HasSuffix(lower, "_proxy"), name == "NODE_EXTRA_CA_CERTS":
			env = append(env, kv)
		}
	}
	return env
}

// TestEveryExampleIsTested: a folder under examples/ has a README and a test.
func TestEveryExampleIsTested(t *testing.T) {
	tested := map[string]bool{"go": true, "python": true, "curl": true, "ethers": true}
	folders, err := os.ReadDir(filepath.Join(repository, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if !tested[f.Name()] {
			t.Errorf("examples/%s: no test runs it", f.Name())
		}
		if len(console(t, "examples/"+f.Name()+"/README.md")) == 0 {
			t.Errorf("examples/%s/README.md: no command", f.Name())
		}
	}
	lock, err := os.ReadFile(filepath.Join(repository, "examples", "ethers", "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error(`examples/ethers/package-lock.json names a registry: npm install --omit-lockfile-registry-resolved`)
	}
}
