//go:build e2e

package e2e_test

import (
	cryptoed25519 "crypto/ed25519"
	"encoding/hex"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/recovery"
)

// withoutCgo builds the plugin as an organization does whose Vault has no token.
func withoutCgo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version="+strings.TrimPrefix(harness.PluginVersion, "v"),
		"-o", filepath.Join(dir, "vault-plugin-secrets-mpc"), "vault-plugin-secrets-mpc/plugin/vault-plugin-secrets-mpc")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building without cgo: %v\n%s", err, out)
	}
	return dir
}

// enrols starts a node daemon, enrols it as operators do, and has the nodes before it
// accept it.
func enrols(t *testing.T, e *engine, before []*e2e.Remote, opts e2e.RemoteOptions) (*e2e.Remote, map[string]any) {
	t.Helper()
	r := harness.NewRemote(t, opts)
	token := r.Enrol(t)
	r.Start(t)
	answer := e.write(t, "config/nodes/"+r.Name, map[string]any{"address": r.Address, "token": token})
	if on, _ := answer["accept_on"].([]any); len(on) > 0 {
		for _, other := range before {
			if got := other.RunLine(t, text(answer, "accept_command")); got.Code != 0 {
				t.Fatalf("accepting %s on %s: %s", r.Name, other.Name, got.Stderr)
			}
		}
	}
	return r, answer
}

// TestRemoteNodesOnly: a Vault without a token, whose plugin cannot even load one, and
// nodes with tokens of their own: enrolment, keys, refresh, placement, a move to
// another HSM, and the way out.
func TestRemoteNodesOnly(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{PluginDir: withoutCgo(t)})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.refuse(t, "config/hsm", map[string]any{"uri": v.Token.URI(), "pin": v.Token.PIN}, http.StatusBadRequest, "made without cgo")
	e.refuse(t, "config/nodes", map[string]any{"local": 3}, http.StatusBadRequest, "made without cgo", "register the build with cgo")
	e.refuse(t, "accounts/alice", map[string]any{"algorithm": "ed25519"}, http.StatusBadRequest, "there are 0")
	if got := e.read(t, "config/nodes"); number(t, got["local"]) != 0 {
		t.Errorf("config/nodes: %v", got)
	}

	// Nodes pin the authority when they are enrolled.
	public, authority, err := cryptoed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	e.write(t, "config/authority", map[string]any{"public_key": hex.EncodeToString(public)})

	nodes := map[string]*e2e.Remote{}
	var all []*e2e.Remote
	tokens := map[string]*e2e.Token{}
	add := func(name, region string) map[string]any {
		if tokens[region] == nil {
			token := harness.NewToken(t, region)
			tokens[region] = &token
		}
		r, answer := enrols(t, e, all, e2e.RemoteOptions{Name: name, Region: region, Domain: region, Token: tokens[region]})
		nodes[name], all = r, append(all, r)
		return answer
	}
	first := add("eu-1", "eu")
	if text(first, "domain") != "eu" || text(first, "region") != "eu" || len(text(first, "identity")) != 64 || len(text(first, "coordinator_pin")) != 64 {
		t.Errorf("the answer to an enrolment: %v", first)
	}
	if s, err := e.Client.Logical().List("mpc/wrapping-keys"); err != nil || s == nil {
		t.Errorf("the first domain has no wrapping key: %v, %v", s, err)
	}
	add("us-1", "us")
	add("us-2", "us")
	add("ap-1", "ap")
	e.waitNodes(t, 4)

	created := e.create(t, "alice", "ed25519", 2, 3)
	p, _ := created["placement"].(map[string]any)
	if number(t, p["regions"]) != 3 || text(p, "region_compromise") != "safe" || text(p, "region_loss") != "survives" || text(p, "domain_compromise") != "safe" {
		t.Errorf("placement: %v", p)
	}
	message := []byte("over three hosts")
	e.check(t, "alice", message, e.sign(t, "alice", message))
	e.write(t, "accounts/alice/refresh", nil)
	e.check(t, "alice", message, e.sign(t, "alice", message))
	if got := e.read(t, "nodes/us-1"); got["remote"] != true || text(got, "domain") != "us" || text(got, "address") != nodes["us-1"].Address {
		t.Errorf("nodes/us-1: %v", got)
	}
	checkRefusal(t, "delete config/nodes/ap-1", drop(e, "config/nodes/ap-1"), http.StatusBadRequest, `wrapping domain "ap"`)

	// A new HSM: shares go from ap to sa, once the authority has named its node.
	add("sa-1", "sa")
	e.waitNodes(t, 5)
	domains := map[string]any{"domains": "eu,us,sa"}
	e.refuse(t, "accounts/alice/move", domains, http.StatusBadRequest, "it names none for sa")
	names(t, e, authority, all)
	e.waitNodes(t, 5)
	// The new set has the account refreshed, which may be under way.
	var moved map[string]any
	e.await(t, 20*time.Second, "move", func() bool {
		s, err := e.Client.Logical().Write("mpc/accounts/alice/move", domains)
		if err != nil && !strings.Contains(err.Error(), "is being refreshed") {
			t.Fatal(err)
		}
		if err == nil {
			moved = s.Data
		}
		return err == nil
	})
	where := homes(moved)
	if !slices.Equal(where, []string{"eu", "sa", "us"}) || moved["public_key_hex"] != created["public_key_hex"] {
		t.Errorf("after the move shares live in %v", where)
	}
	e.check(t, "alice", message, e.sign(t, "alice", message))
	if err := drop(e, "config/nodes/ap-1"); err != nil {
		t.Errorf("removing a node without shares: %v", err)
	}
	nodes["ap-1"].Kill9(t)
	e.waitNodes(t, 4)
	e.check(t, "alice", message, e.sign(t, "alice", message))
	e.write(t, "accounts/alice/refresh", nil)

	// One region dies: the account signs on, and says at create what is left.
	nodes["sa-1"].Kill9(t)
	e.await(t, 20*time.Second, "sa-1 seen as away", func() bool { return text(e.nodes(t)["sa-1"], "state") != "ready" })
	e.check(t, "alice", message, e.sign(t, "alice", message))

	// A token is used up by its enrolment, and a node's word is its token's.
	var other string
	for _, word := range strings.Fields(nodes["eu-1"].Run(t, "enrol", "--again").Stdout) {
		if strings.HasPrefix(word, "mpcnode1.") {
			other = word
		}
	}
	e.refuse(t, "config/nodes/eu-2", map[string]any{"address": nodes["eu-1"].Address, "token": other}, http.StatusBadRequest, `of node "eu-1"`)
	e.refuse(t, "config/nodes/eu-1", map[string]any{"address": "127.0.0.1:1", "token": other}, http.StatusBadRequest, "can be used still")
	e.refuse(t, "config/nodes/eu-1", map[string]any{"address": nodes["us-1"].Address, "token": other}, http.StatusBadRequest, "do not go on")
	e.write(t, "config/nodes/eu-1", map[string]any{"address": nodes["eu-1"].Address, "token": other}) // once more
	e.refuse(t, "config/nodes/eu-1", map[string]any{"address": nodes["eu-1"].Address, "token": other}, http.StatusBadRequest, "the node refused")
	for _, key := range v.RawList(t, "mpc") {
		for _, r := range all {
			if strings.Contains(string(v.RawRead(t, "mpc", key)), r.Token.PIN) {
				t.Errorf("%s holds the PIN of %s", key, r.Name)
			}
		}
	}
}

// names has the authority sign for the nodes.
func names(t *testing.T, e *engine, authority cryptoed25519.PrivateKey, nodes []*e2e.Remote) {
	t.Helper()
	var domains []recovery.Domain
	for _, r := range nodes {
		i := slices.IndexFunc(domains, func(d recovery.Domain) bool { return d.Name == r.Domain })
		if i < 0 {
			domains, i = append(domains, recovery.Domain{Name: r.Domain}), len(domains)
		}
		domains[i].Nodes = append(domains[i].Nodes, recovery.DomainNode{ID: r.Name, Identity: text(e.read(t, "config/nodes/"+r.Name), "identity")})
	}
	set, err := recovery.NewDomainSet(1, nil, domains)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := set.Sign(authority)
	if err != nil {
		t.Fatal(err)
	}
	e.write(t, "config/recovery", map[string]any{"set": string(signed)})
}

// drop deletes a path.
func drop(e *engine, path string) error {
	_, err := e.Client.Logical().Delete(e.path + "/" + path)
	return err
}

// homes returns the domains of an account's shares, in order of names.
func homes(answer map[string]any) []string {
	p, _ := answer["placement"].(map[string]any)
	list, _ := p["homes"].([]any)
	var out []string
	for _, h := range list {
		fields, _ := h.(map[string]any)
		out = append(out, text(fields, "domain"))
	}
	slices.Sort(out)
	return out
}
