//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	goed25519 "crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mpckms runs a command that must succeed and decodes its document into out,
// which may be nil.
func (e *engine) mpckms(t *testing.T, out any, args ...string) string {
	t.Helper()
	if out != nil {
		args = append(args, "-o", "json")
	}
	r := e.Mpckms(t, args...)
	if r.Code != 0 {
		t.Fatalf("mpckms %v: exit %d: %s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(r.Stdout), out); err != nil {
			t.Fatalf("mpckms %v: %v\n%s", args, err, r.Stdout)
		}
	}
	return r.Stdout
}

// refused runs a command that must fail with that exit code and text.
func (e *engine) refused(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	if r := e.Mpckms(t, args...); r.Code != code || !strings.Contains(r.Stderr, text) {
		t.Errorf("mpckms %v: exit %d, want %d with %q: %s", args, r.Code, code, text, r.Stderr)
	}
}

type cliAccount struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`
	Reason      string            `json:"frozen_reason"`
	Deleted     string            `json:"deleted_time"`
	DestroyTime string            `json:"destroy_time"`
	PublicHex   string            `json:"public_key_hex"`
	PublicKey   string            `json:"public_key"`
	Addresses   map[string]string `json:"addresses"`
}

// TestMpckmsLifecycle takes an account through every state.
func TestMpckmsLifecycle(t *testing.T) {
	e := shared(t)
	var acc cliAccount
	e.mpckms(t, &acc, "account", "create", "life", "--algorithm", bip340, "--metadata", "team=life")
	key := acc.PublicHex

	e.mpckms(t, &acc, "account", "freeze", "life", "--reason", "an audit")
	if acc.State != "frozen" || acc.Reason != "an audit" {
		t.Errorf("frozen: %+v", acc)
	}
	e.refused(t, 1, "status 409", "account", "sign", "life", "--input", "x")
	acc = cliAccount{}
	e.mpckms(t, &acc, "account", "unfreeze", "life")
	if acc.State != "active" || acc.Reason != "" {
		t.Errorf("unfrozen: %+v", acc)
	}
	e.mpckms(t, nil, "account", "sign", "life", "--input", "x")

	e.mpckms(t, &acc, "account", "rename", "life", "life-2")
	if acc.Name != "life-2" || acc.PublicHex != key {
		t.Errorf("renamed: %+v", acc)
	}
	e.refused(t, 1, "life", "account", "show", "life")

	acc = cliAccount{}
	e.mpckms(t, &acc, "account", "delete", "life-2", "--after", "400h")
	if acc.State != "deleted" || acc.Deleted == "" || acc.DestroyTime == "" {
		t.Errorf("deleted: %+v", acc)
	}
	e.refused(t, 1, "status 409", "account", "sign", "life-2", "--input", "x")
	e.refused(t, 1, "status 400", "account", "delete", "life-2", "--after", "1s")
	acc = cliAccount{}
	e.mpckms(t, &acc, "account", "restore", "life-2")
	if acc.State != "active" || acc.DestroyTime != "" || acc.PublicHex != key {
		t.Errorf("restored: %+v", acc)
	}
	e.mpckms(t, nil, "account", "sign", "life-2", "--input", "x")

	e.refused(t, 2, "--confirm life-2", "account", "destroy", "life-2")
	e.refused(t, 2, "nothing was destroyed", "account", "destroy", "life-2", "--confirm", "life")
	e.mpckms(t, nil, "account", "show", "life-2")
	e.mpckms(t, nil, "account", "destroy", "life-2", "--confirm", "life-2")
	e.refused(t, 1, "life-2", "account", "show", "life-2")
}

// TestMpckmsList: filters and pages of the real list.
func TestMpckmsList(t *testing.T) {
	e := shared(t)
	for i := range 5 {
		alg := bip340
		if i > 2 {
			alg = "ed25519"
		}
		e.mpckms(t, nil, "account", "create", fmt.Sprintf("list-%d", i), "--algorithm", alg, "--metadata", fmt.Sprintf("n=%d", i%2))
	}
	e.mpckms(t, nil, "account", "freeze", "list-0")
	defer e.mpckms(t, nil, "account", "unfreeze", "list-0")
	list := func(args ...string) (names []string, next string) {
		t.Helper()
		var doc struct {
			Accounts []struct {
				Name      string `json:"name"`
				Algorithm string `json:"algorithm"`
			} `json:"accounts"`
			Next string `json:"next_after"`
		}
		e.mpckms(t, &doc, append([]string{"account", "list"}, args...)...)
		for _, a := range doc.Accounts {
			names = append(names, a.Name)
			if a.Algorithm == "" {
				t.Errorf("%v: nothing about %s but its name", args, a.Name)
			}
		}
		return names, doc.Next
	}
	for args, want := range map[string]string{
		"--prefix list-":                          "list-0 list-1 list-2 list-3 list-4",
		"--prefix list- --algorithm ed25519":      "list-3 list-4",
		"--prefix list- --state frozen":           "list-0",
		"--prefix list- --metadata n=1":           "list-1 list-3",
		"--prefix list- --metadata m":             "",
		"--prefix list- --after list-2":           "list-3 list-4",
		"--prefix list- --limit 2":                "list-0 list-1",
		"--prefix list- --limit 2 --after list-1": "list-2 list-3",
	} {
		names, next := list(strings.Fields(args)...)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
		if (next != "") != strings.Contains(args, "--limit") {
			t.Errorf("%s: next page after %q", args, next)
		}
	}
}

// TestMpckmsPublic: addresses, JWK and certificate request of real accounts.
func TestMpckmsPublic(t *testing.T) {
	e := shared(t)
	e.mpckms(t, nil, "account", "create", "public-k", "--algorithm", ecdsaCurve)
	e.mpckms(t, nil, "account", "create", "public-p", "--algorithm", "ecdsa-p256", "--wait")
	var address struct {
		Addresses map[string]string `json:"addresses"`
	}
	e.mpckms(t, &address, "account", "address", "public-k", "--derivation-path", "m/0/7", "--cosmos-prefix", "osmo")
	if !strings.HasPrefix(address.Addresses["ethereum"], "0x") || !strings.HasPrefix(address.Addresses["cosmos"], "osmo1") || !strings.HasPrefix(address.Addresses["bitcoin_p2wpkh"], "bc1q") {
		t.Errorf("addresses %v", address.Addresses)
	}
	if out := e.mpckms(t, nil, "account", "address", "public-k"); !strings.Contains(out, "ethereum") {
		t.Errorf("table: %s", out)
	}
	e.refused(t, 1, "status 400", "account", "address", "public-p")

	var key map[string]string
	if err := json.Unmarshal([]byte(e.mpckms(t, nil, "account", "jwk", "public-p")), &key); err != nil || key["crv"] != "P-256" || key["alg"] != "ES256" {
		t.Errorf("jwk %v, %v", key, err)
	}

	file := filepath.Join(t.TempDir(), "web.csr")
	e.mpckms(t, nil, "account", "csr", "public-p", "--common-name", "www.example.com", "--alt-name", "www.example.com", "--country", "DE", "--out", file)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("no PEM: %s", raw)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != "www.example.com" || len(csr.DNSNames) != 1 {
		t.Errorf("%+v, %v", csr, err)
	}
	// From a template: the same names, made by another command.
	if out := e.mpckms(t, nil, "account", "csr", "public-p", "--template", file); !strings.Contains(out, "BEGIN CERTIFICATE REQUEST") {
		t.Errorf("%s", out)
	}
}

type cliSignature struct {
	Signature string `json:"signature"`
	Hex       string `json:"signature_hex"`
	Format    string `json:"signature_format"`
	V         *int   `json:"v"`
	RequestID string `json:"request_id"`
	Replayed  bool   `json:"replayed"`
}

// TestMpckmsFormats: what sign writes in each format, verify takes.
func TestMpckmsFormats(t *testing.T) {
	e := shared(t)
	e.mpckms(t, nil, "account", "create", "formats", "--algorithm", ecdsaCurve, "--wait")
	typed := filepath.Join(t.TempDir(), "typed.json")
	if err := os.WriteFile(typed, []byte(`{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"Mail":[{"name":"contents","type":"string"}]},
		"primaryType":"Mail","domain":{"name":"Ether Mail"},"message":{"contents":"Hello"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte("hello")))
	for _, args := range [][]string{
		{"--input", "hello"},
		{"--input", "hello", "--format", "compact", "--hash", "sha2-512"},
		{"--input", "hello", "--format", "jws"},
		{"--input", "hello", "--format", "ethereum", "--message-type", "eip191"},
		{"--input-file", typed, "--format", "ethereum", "--message-type", "eip712"},
		{"--digest", digest, "--format", "compact"},
		{"--digest", digest + digest, "--hash", "sha2-512"},
	} {
		var s cliSignature
		e.mpckms(t, &s, append([]string{"account", "sign", "formats"}, args...)...)
		want := map[int]string{0: "der"}[strings.Count(strings.Join(args, " "), "--format")]
		for i, a := range args {
			if a == "--format" {
				want = args[i+1]
			}
		}
		if s.Format != want || s.V == nil {
			t.Errorf("%v: %+v", args, s)
		}
		e.mpckms(t, nil, append([]string{"account", "verify", "formats", "--signature", s.Signature}, args...)...)
	}
	e.refused(t, 1, "not valid", "account", "verify", "formats", "--input", "hello", "--signature", base64.StdEncoding.EncodeToString(make([]byte, 64)), "--format", "compact")

	var first, again cliSignature
	e.mpckms(t, &first, "account", "sign", "formats", "--input", "once", "--request-id", "order-7")
	e.mpckms(t, &again, "account", "sign", "formats", "--input", "once", "--request-id", "order-7")
	if first.Replayed || !again.Replayed || first.Hex != again.Hex || again.RequestID != "order-7" {
		t.Errorf("first %+v, again %+v", first, again)
	}
	e.refused(t, 1, "status 409", "account", "sign", "formats", "--input", "twice", "--request-id", "order-7")
}

// TestMpckmsBatch: signatures in order, checked by Go's own library, and errors
// of single items.
func TestMpckmsBatch(t *testing.T) {
	e := shared(t)
	var acc cliAccount
	e.mpckms(t, &acc, "account", "create", "batch", "--algorithm", "ed25519")
	block, _ := pem.Decode([]byte(acc.PublicKey))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	public := parsed.(goed25519.PublicKey)
	var items strings.Builder
	const count = 40 // more than one request
	for i := range count {
		fmt.Fprintf(&items, `{"text":"item %d","reference":"ref %d"}`+"\n", i, i)
	}
	items.WriteString(`{"digest":"00ff","reference":"no digest"}` + "\n")
	file := filepath.Join(t.TempDir(), "items.jsonl")
	if err := os.WriteFile(file, []byte(items.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r := e.Mpckms(t, "account", "sign-batch", "batch", "--file", file, "-o", "json")
	var doc struct {
		Failed  int `json:"failed"`
		Results []struct {
			Reference string        `json:"reference"`
			Error     string        `json:"error"`
			Status    int           `json:"error_status"`
			Signed    *cliSignature `json:"signed"`
		} `json:"results"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil || r.Code != 1 || len(doc.Results) != count+1 || doc.Failed != 1 {
		t.Fatalf("exit %d, %v: %s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	for i, result := range doc.Results[:count] {
		if result.Reference != fmt.Sprintf("ref %d", i) || result.Signed == nil {
			t.Errorf("item %d: %+v", i, result)
			continue
		}
		sig, err := base64.StdEncoding.DecodeString(result.Signed.Signature)
		if err != nil || !goed25519.Verify(public, fmt.Appendf(nil, "item %d", i), sig) {
			t.Errorf("item %d: the signature does not verify", i)
		}
	}
	if bad := doc.Results[count]; bad.Status != 400 || bad.Error == "" || bad.Reference != "no digest" {
		t.Errorf("the bad item: %+v", bad)
	}
}

// TestMpckmsCompletion: names come from the real server, through a real bash.
func TestMpckmsCompletion(t *testing.T) {
	e := shared(t)
	e.create(t, "complete-me", bip340, 2, 3)
	r := e.Mpckms(t, "__complete", "account", "sign", "complete-")
	if !strings.HasPrefix(r.Stdout, "complete-me\n") {
		t.Errorf("%+v", r)
	}
	if r := e.Mpckms(t, "__complete", "node", "renew", ""); !strings.Contains(r.Stdout, "local-1\n") || !strings.Contains(r.Stdout, "local-5\n") {
		t.Errorf("%+v", r)
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	sh := newShell(t, e.Vault)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// What bash-completion has ready for scripts, and what Tab does.
	cmd := exec.CommandContext(ctx, bash, "--norc", "--noprofile", "-c", `
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
__ltrim_colon_completions() { :; }
compopt() { :; }
source <(mpckms completion bash)
COMP_WORDS=(mpckms account show complete-); COMP_CWORD=3; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
__start_mpckms
echo "${COMPREPLY[*]}"`)
	cmd.Env = sh.env
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "complete-me" {
		t.Errorf("%v: %q", err, out)
	}
}

// TestMpckmsProgress: a fresh pool makes auxiliary keys while create waits for
// them, at a terminal with a bar and otherwise with lines.
func TestMpckmsProgress(t *testing.T) {
	v := harness.Shared(t)
	const path = "progress"
	v.Enable(t, path)
	t.Cleanup(func() {
		if err := v.Client.Sys().Unmount(path); err != nil {
			t.Error(err)
		}
	})
	e := &engine{v, path}
	e.write(t, "config/nodes", map[string]any{"local": 2})
	v.ConfigHSM(t, path)
	e.waitNodes(t, 2)
	script, err := exec.LookPath("script") // util-linux: gives a command a terminal
	if err != nil {
		t.Skip("no script here")
	}
	create := []string{"account", "create", "alice", "--algorithm", ecdsaCurve, "--threshold", "2", "--shares", "2", "--mount", path}
	sh := newShell(t, v, "TERM=xterm")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, script, "--quiet", "--return", "--command", "mpckms "+strings.Join(create, " "), "/dev/null")
	cmd.Env = append(sh.env, "SHELL=/bin/sh")
	cmd.Stdin = bytes.NewReader(nil)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %q", err, out.String())
	}
	if !strings.Contains(out.String(), "Public key") || !strings.Contains(out.String(), "Auxiliary keys [") || !strings.HasSuffix(out.String(), "\r\x1b[2K") {
		t.Errorf("shown: %q", out.String())
	}
	for id, n := range e.nodes(t) {
		if n["aux_state"] != "ready" && n["aux_state"] != "renewing" {
			t.Errorf("create has ended, and %s is %v", id, n["aux_state"])
		}
	}
	r := e.Mpckms(t, "account", "create", "bob", "--algorithm", ecdsaCurve, "--threshold", "2", "--shares", "2", "--mount", path, "--wait")
	if r.Code != 0 || strings.Contains(r.Stderr, "\x1b") {
		t.Errorf("%+v", r)
	}
	r = e.Mpckms(t, "rotation", "catch-up", "--all", "--wait", "--mount", path)
	if r.Code != 0 || !strings.Contains(r.Stdout, "finished at") {
		t.Errorf("%+v", r)
	}
}
