//go:build e2e

package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

const remoteDocument = "docs/remote-nodes.md"

var remotePromises = promises{ // read only
	"./on eu check":                              `(?s)ok +eu/node.hcl.*ok +token hsm-eu`,
	"mpckms recovery set set-1.json":             `(?s)Domain ap +ap-1.*Domain eu +eu-1.*Domain us +us-1`,
	"vault write mpc/config/nodes/eu-1":          `(?s)coordinator_pin.*identity +[0-9a-f]{64}\n.*region +eu`,
	"vault write mpc/config/nodes/ap-1 address":  `(?s)^[^!]*identity +[0-9a-f]{64}\n`, // nobody has to be told
	"vault write mpc/config/nodes local=0":       `(?s)local +0\n.*remote +\[ap-1 eu-1 us-1\]`,
	"./on eu status":                             `(?s)hsm +ok\nenrolled +yes.*attached +yes`,
	"vault read -format=json -field=placement":   `(?s)"region_compromise": "safe".*"region_loss": "survives".*"regions": 3`,
	`mpckms account sign gold --input "pay 6`:    `Signers +(eu|ap)-1 \(share \d\), (eu|ap)-1 \(share \d\)`,
	"! vault write -f mpc/accounts/gold/refresh": `2 of 3 nodes are ready, 3 are needed; not ready: us-1`,
	"vault write mpc/config/nodes/eu-2":          `accept_on +\[ap-1 eu-1 us-1\]`,
	"./on us peers list":                         `(?s)eu-1 +[0-9a-f]{64} +enrolment\neu-2 +[0-9a-f]{64} +command`,
	"mpckms recovery set set-2.json":             `Domain us-new +us-2`,
	"vault write -format=json mpc/accounts/gold": `(?s)"most_in_region": 1.*"region_compromise": "safe"`,
	"vault write -f mpc/wrapping-keys/rotate":    `domains +\[ap eu us-new\]`,
	`mpckms account sign gold --input "pay 7`:    `Signers +(eu-2|us-2|ap-1) \(share \d\), (eu-2|us-2|ap-1) \(share \d\)`,
	`! mpckms account sign gold --input "pay 8`:  `refused by this node's floor.*node floor lower [0-9a-f]{32}`,
	"./on eu2 floor list":                        `(?s)ACCOUNT +EPOCH.*\n[0-9a-f]{32} +\d+`,
	"for h in eu2 new ap":                        `(?s)(The floor of account [0-9a-f]{32} is epoch \d+ now, with any record and any policy\.\n){3}`,
	"vault write -f mpc/recovery/restored":       `accounts_affected +1`,
	`mpckms account sign gold --input "pay 8`:    `Signers +(eu-2|us-2|ap-1) \(share \d\)`,
}

// TestRemoteDocument runs the commands of docs/remote-nodes.md in order, on a Vault
// whose host has no token: three regions, and what becomes of them.
func TestRemoteDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	sh := newShell(t, v)
	sh.dir = t.TempDir()
	bin := t.TempDir()
	link(t, filepath.Join(harness.PluginDir, "vault-plugin-secrets-mpc"), filepath.Join(bin, "vault-plugin-secrets-mpc"))
	sh.env[0] = "PATH=" + bin + ":" + strings.TrimPrefix(sh.env[0], "PATH=")
	replace := []string{"/usr/lib/softhsm/libsofthsm2.so", v.Token.Module, "./on $h serve", "setsid ./on $h serve"}
	for _, host := range []string{"us", "eu2", "new", "ap"} { // the loop has the others
		replace = append(replace, "./on "+host+" serve", "setsid ./on "+host+" serve")
	}
	for i, port := range freeAddresses(t, 5) {
		replace = append(replace, []string{"8310", "8320", "8330", "8311", "8321"}[i], port)
	}
	here := strings.NewReplacer(replace...)
	adopted := map[int]bool{}
	key := ""
	then := func(command, out string) {
		switch {
		case strings.Contains(command, " serve >"):
			for _, file := range list(t, filepath.Join(sh.dir, "*", "pid")) {
				if pid := readNumber(t, file); !adopted[pid] {
					harness.Adopt(t, pid)
					adopted[pid] = true
				}
			}
		case strings.HasPrefix(command, "vault write mpc/config/nodes local=0"), strings.HasPrefix(command, "vault operator raft snapshot restore"):
			e.waitNodes(t, 3)
		case strings.HasPrefix(command, "vault write mpc/accounts/gold algorithm"):
			key = fmt.Sprint(e.read(t, "accounts/gold")["public_key_hex"])
		}
		if m := regexp.MustCompile(`(?m)^Signature +(\S+)$`).FindStringSubmatch(out); m != nil {
			input := []byte(regexp.MustCompile(`--input "(.*)"`).FindStringSubmatch(command)[1])
			if got := e.write(t, "verify/gold", map[string]any{"input": b64(input), "signature": m[1]}); got["valid"] != true {
				t.Errorf("$ %s\nthe signature is not good", command)
			}
			if now := fmt.Sprint(e.read(t, "accounts/gold")["public_key_hex"]); now != key || key == "" {
				t.Errorf("$ %s\nthe account has the key %s, it was %s", command, now, key)
			}
		}
	}
	sh.runDocument(t, remoteDocument, remotePromises, func(command string) (string, string) { return here.Replace(command), "" }, then)

	// Node keys have followed the new version of the wrapping key.
	versions, err := e.Client.Logical().List(e.path + "/wrapping-keys")
	if err != nil || versions == nil {
		t.Fatalf("list wrapping-keys: %v", err)
	}
	newest := len(versions.Data["keys"].([]any))
	e.await(t, time.Minute, "old wrapping keys without node keys", func() bool {
		left := 0
		for version := 1; version < newest; version++ {
			references, _ := e.read(t, fmt.Sprint("wrapping-keys/", version))["references"].(map[string]any)
			left += integer(references, "node_keys")
		}
		return left == 0
	})
	checkOneDomainEach(t, e, "gold", "eu", "us-new", "ap")
	checkNoSecrets(t, e, sh.dir)
}

// checkOneDomainEach: the shares of an account live in each of the domains once.
func checkOneDomainEach(t *testing.T, e *engine, name string, domains ...string) {
	t.Helper()
	placement, _ := e.read(t, "accounts/"+name)["placement"].(map[string]any)
	homes, _ := placement["homes"].([]any)
	var got []string
	for _, h := range homes {
		home, _ := h.(map[string]any)
		got = append(got, text(home, "domain"))
	}
	slices.Sort(got)
	slices.Sort(domains)
	if !slices.Equal(got, domains) {
		t.Errorf("the shares of %s live in %v, want %v", name, got, domains)
	}
}

// checkNoSecrets: PINs, enrolment tokens and the passphrase are in no log and not in
// Vault's storage, and PINs in no file but their own.
func checkNoSecrets(t *testing.T, e *engine, dir string) {
	t.Helper()
	where := map[string][]byte{"Vault's log": e.Log(t)}
	for _, key := range e.RawList(t, e.path) {
		where[key] = e.RawRead(t, e.path, key)
	}
	for _, pattern := range []string{"*/log", "*/about", "*/node.hcl", "*/state/*", "*/state/.*"} {
		for _, file := range list(t, filepath.Join(dir, pattern)) {
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				where[file] = raw
			}
		}
	}
	secrets := list(t, filepath.Join(dir, "*", "pin"))
	if len(secrets) != 4 {
		t.Errorf("%d PINs, want 4", len(secrets))
	}
	secrets = append(append(secrets, list(t, filepath.Join(dir, "*", "token"))...), filepath.Join(dir, "passphrase"))
	for _, file := range secrets {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range where {
			if bytes.Contains(content, bytes.TrimSpace(raw)) {
				t.Errorf("%s has what is in %s", name, file)
			}
		}
	}
}

// TestRemoteDocumentPlacement: the table of what a placement is worth says what the
// plan gives.
func TestRemoteDocumentPlacement(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) of (\d+) \| (\d+) \| ([^|]+) \| ([^|]+) \|$`)
	rows := row.FindAllStringSubmatch(readDocument(t, remoteDocument), -1)
	if len(rows) < 8 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, m := range rows {
		regions, threshold, shares := atoi(t, m[1]), atoi(t, m[2]), atoi(t, m[3])
		var sites []mpc.Site
		for r := range regions {
			sites = append(sites, mpc.Site{Home: mpc.Home{Domain: fmt.Sprint("d", r), Region: fmt.Sprint("r", r)}, Nodes: shares})
		}
		homes, err := mpc.PlanHomes(threshold, shares, sites)
		if err != nil {
			t.Fatal(err)
		}
		g := mpc.GuaranteeOf(threshold, homes)
		compromise, loss := "t shares in one region", "stops signing"
		if g.RegionCompromise {
			compromise = "safe"
		}
		if g.RegionLoss {
			loss = "survives"
		}
		if atoi(t, m[4]) != g.MostInRegion || m[5] != compromise || m[6] != loss {
			t.Errorf("%s\nshould say %d, %s, %s", m[0], g.MostInRegion, compromise, loss)
		}
	}
}

// TestRemoteDocumentKeys: the table of node.hcl has every key, and so has the file
// that is deployed.
func TestRemoteDocumentKeys(t *testing.T) {
	document := readDocument(t, remoteDocument)
	deployed := readDocument(t, "scripts/deploy/node.hcl")
	for block, text := range map[string]string{
		"": "zzz = 1", "hsm": "hsm {\n zzz = 1\n}", "tls": "tls {\n zzz = 1\n}", "telemetry": "telemetry {\n zzz = 1\n}",
		"switches": "switches {\n zzz = true\n}", "peer": "peer \"a\" {\n zzz = 1\n}",
	} {
		file := filepath.Join(t.TempDir(), "node.hcl")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(filepath.Join(harness.PluginDir, "vault-plugin-secrets-mpc"), "node", "check", "--config", file).CombinedOutput()
		_, names, ok := strings.Cut(string(out), "there are ")
		if err == nil || !ok {
			t.Fatalf("an unknown key in %q: %v: %s", block, err, out)
		}
		for _, key := range strings.Split(strings.TrimSpace(names), ", ") {
			if key == "peer" {
				key = `peer "`
			}
			if !strings.Contains(document, "`"+key) {
				t.Errorf("%s does not have %s of %q", remoteDocument, key, block)
			}
			if !strings.Contains(deployed, key) {
				t.Errorf("scripts/deploy/node.hcl does not have %s of %q", key, block)
			}
		}
	}
}

// TestRemoteDocumentMetrics: every metric of a node is in the document, and no other.
func TestRemoteDocumentMetrics(t *testing.T) {
	names := func(text string) []string {
		all := regexp.MustCompile("[\"`](mpc_node_[a-z_]+)[\"`]").FindAllStringSubmatch(text, -1)
		var out []string
		for _, m := range all {
			out = append(out, m[1])
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	made, told := names(readDocument(t, "mpc/daemon/telemetry.go")), names(readDocument(t, remoteDocument))
	if len(made) < 10 || !slices.Equal(made, told) {
		t.Errorf("nodes have the metrics\n%v\nand the document\n%v", made, told)
	}
}

func readDocument(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func list(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func readNumber(t *testing.T, file string) int {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return atoi(t, string(raw))
}

// freeAddresses returns ports of the loopback that nobody listened on just now.
func freeAddresses(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // it was only asked for its port
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}
