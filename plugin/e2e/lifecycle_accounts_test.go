//go:build e2e

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// The life of an account as its operator sees it: frozen, deleted, restored,
// renamed, listed. Each state on the real server, by the real CLI where people use
// that.

// cli runs vault, expects the exit code and returns what it printed.
func (e *engine) cli(t testing.TB, code int, args ...string) string {
	t.Helper()
	r := e.CLI(t, args...)
	if r.Code != code {
		t.Errorf("vault %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// raw sends a request and returns status and body.
func (e *engine) raw(t testing.TB, method, path, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.Addr+"/v1/"+e.path+"/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", e.RootToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return resp.StatusCode, out
}

func TestFrozenAndDeleted(t *testing.T) {
	e := shared(t)
	for _, algorithm := range []string{bip340, ed25519} {
		name := "states-" + algorithm
		key := e.create(t, name, algorithm, 2, 3)["public_key_hex"]
		path := e.path + "/accounts/" + name
		if out := e.cli(t, 0, "write", path+"/freeze", "reason=INC-42: laptop stolen"); !strings.Contains(out, "INC-42") {
			t.Error(out)
		}
		e.refuse(t, "sign/"+name, map[string]any{"input": b64([]byte("x"))}, 409, "has been frozen since", "INC-42", "unfreeze")
		e.cli(t, 0, "write", "-force", path+"/refresh")
		if a := e.read(t, "accounts/"+name); a["state"] != "frozen" || number(t, a["share_epoch"]) != 2 {
			t.Errorf("%s: %v in epoch %v", name, a["state"], a["share_epoch"])
		}
		if out := e.cli(t, 0, "delete", path, "delete_after=200h"); !strings.Contains(out, "deleted") {
			t.Error(out)
		}
		a := e.read(t, "accounts/"+name)
		if wait := timeOf(t, a["destroy_time"]).Sub(timeOf(t, a["deleted_time"])); wait != 200*time.Hour || a["state"] != "deleted" {
			t.Errorf("deleted: %v, for %v", a["state"], wait)
		}
		e.refuse(t, "sign/"+name, map[string]any{"input": b64([]byte("x"))}, 409, "was deleted at", "restore")
		e.refuse(t, "accounts/"+name, map[string]any{"algorithm": algorithm}, 409, "was deleted", "restore")
		e.cli(t, 0, "write", "-force", path+"/restore")
		if a := e.read(t, "accounts/"+name); a["state"] != "frozen" {
			t.Errorf("restored to %v", a["state"])
		}
		e.cli(t, 0, "write", "-force", path+"/unfreeze")
		e.cli(t, 0, "write", path+"/rename", "new_name="+name+"-2")
		if now := e.read(t, "accounts/"+name+"-2")["public_key_hex"]; now != key {
			t.Errorf("renamed, the key is %v", now)
		}
		e.sign(t, name+"-2", []byte("by the new name"))
		e.refuse(t, "sign/"+name, map[string]any{"input": b64([]byte("x"))}, 404, "there is no account")
		// Query parameters: Vault reads no body of a DELETE.
		if status, _ := e.raw(t, "DELETE", "accounts/"+name+"-2?delete_after=300h", ""); status != 200 {
			t.Errorf("DELETE: %d", status)
		}
		if status, answer := e.raw(t, "DELETE", "accounts/"+name+"-2?delete_after=1s", ""); status != 400 || !strings.Contains(fmt.Sprint(answer), "deletion_wait") {
			t.Errorf("DELETE for a second: %d %v", status, answer)
		}
		if status, answer := e.raw(t, "DELETE", "accounts/"+name+"-2", ""); status != 200 || !strings.Contains(fmt.Sprint(answer["warnings"]), "nothing was changed") {
			t.Errorf("DELETE again: %d %v", status, answer["warnings"])
		}
		e.cli(t, 0, "delete", e.path+"/destroy/"+name+"-2")
	}
}

func timeOf(t testing.TB, v any) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, fmt.Sprint(v))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestFreezeWhileSigning: signatures without pause, by several clients. None that
// is asked for after freeze was answered is made.
func TestFreezeWhileSigning(t *testing.T) {
	e := shared(t)
	e.create(t, "busy", bip340, 2, 3)
	var phase atomic.Int64 // odd: freeze was answered, unfreeze not asked for
	var made, refused atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := phase.Load()
				_, err := e.trySign("busy", []byte("x"))
				if phase.Load() != before {
					continue
				}
				switch {
				case err == nil && before%2 == 1:
					t.Error("signed after freeze was answered")
					return
				case err == nil:
					made.Add(1)
				case strings.Contains(err.Error(), "has been frozen"):
					refused.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		before := made.Load()
		e.await(t, 30*time.Second, "signatures", func() bool { return made.Load() > before || t.Failed() })
		e.write(t, "accounts/busy/freeze", nil)
		phase.Add(1)
		before = refused.Load()
		e.await(t, 30*time.Second, "refusals", func() bool { return refused.Load() > before || t.Failed() })
		phase.Add(1)
		e.write(t, "accounts/busy/unfreeze", nil)
	}
	close(stop)
	clients.Wait()
	t.Logf("made %d signatures, refused %d", made.Load(), refused.Load())
}

func TestAccountPages(t *testing.T) {
	e := shared(t)
	for i := range 5 {
		name := fmt.Sprintf("page-%d", i)
		e.create(t, name, []string{ed25519, bip340}[i%2], 2, 3)
		e.write(t, "accounts/"+name, map[string]any{"metadata": map[string]any{"team": []string{"ops", "dev"}[i%2]}})
	}
	e.write(t, "accounts/page-3/freeze", nil)
	list := func(query string, want ...string) (next any) {
		t.Helper()
		var last any
		// The three ways of the API, and the only one of the CLI.
		for _, method := range []string{"LIST", "GET"} {
			q := query
			if method == "GET" {
				q += "&list=true"
			}
			status, answer := e.raw(t, method, "accounts?"+q, "")
			if len(want) == 0 && status == 404 {
				continue
			}
			data, _ := answer["data"].(map[string]any)
			var keys []string
			for _, k := range asList(data["keys"]) {
				keys = append(keys, k.(string))
			}
			if status != 200 || !slices.Equal(keys, want) {
				t.Errorf("%s %s: %d %v, want %v", method, q, status, answer, want)
			}
			last = data["next_after"]
		}
		return last
	}
	list("prefix=page-", "page-0", "page-1", "page-2", "page-3", "page-4")
	if next := list("prefix=page-&limit=2&after=page-0", "page-1", "page-2"); next != "page-2" {
		t.Errorf("next_after: %v", next)
	}
	list("prefix=page-&state=frozen", "page-3")
	list("prefix=page-&metadata=team%3Dops&algorithm="+ed25519, "page-0", "page-2", "page-4")
	// A page on which nothing matches is not the end.
	if next := list("prefix=page-&state=frozen&limit=1"); next != "page-0" {
		t.Errorf("an empty page has next_after %v", next)
	}
	list("prefix=no-such")
	out := e.cli(t, 0, "read", "-format=json", e.path+"/accounts", "list=true", "prefix=page-", "details=true", "limit=1")
	var read struct{ Data map[string]any }
	if err := json.Unmarshal([]byte(out), &read); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, _ := read.Data["key_info"].(map[string]any)
	one, _ := info["page-0"].(map[string]any)
	if one["algorithm"] != ed25519 || one["state"] != "active" || fmt.Sprint(one["metadata"]) != "map[team:ops]" || read.Data["next_after"] != "page-0" {
		t.Errorf("vault read: %v", read.Data)
	}
	for query, text := range map[string]string{
		"state=molten": "active, frozen or deleted", "algorithm=rsa": "is not one of", "limit=0": "limit must be 1 to 1000", "limit=x": "limit",
		"metadata==": "metadata must be", "sort=name": "unknown field sort",
	} {
		if status, answer := e.raw(t, "LIST", "accounts?"+query, ""); status != 400 || !strings.Contains(fmt.Sprint(answer), text) {
			t.Errorf("%s: %d %v", query, status, answer)
		}
	}
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

// TestLifecycleCapabilities: each of these takes the capability that its method
// stands for, on its own path and nowhere else.
func TestLifecycleCapabilities(t *testing.T) {
	e := shared(t)
	e.create(t, "lc-guarded", ed25519, 2, 3)
	as := func(name, rules string) *api.Client {
		t.Helper()
		if err := e.Client.Sys().PutPolicy(name, rules); err != nil {
			t.Fatal(err)
		}
		s, err := e.Client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{name}, NoDefaultPolicy: true, TTL: "10m"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := e.Client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		c.SetToken(s.Auth.ClientToken)
		return c
	}
	guard := as("guard", `path "mpc/accounts/+/freeze" { capabilities = ["update"] }`)
	cleaner := as("cleaner", `path "mpc/accounts/*" { capabilities = ["delete"] }`)
	writer := as("writer", `path "mpc/accounts/+" { capabilities = ["create", "update"] }`)
	try := func(c *api.Client, method, path string) int {
		t.Helper()
		var err error
		if method == "DELETE" {
			_, err = c.Logical().Delete(e.path + "/" + path)
		} else {
			_, err = c.Logical().Write(e.path+"/"+path, map[string]any{})
		}
		if err == nil {
			return 200
		}
		var answer *api.ResponseError
		if !errors.As(err, &answer) {
			t.Fatal(err)
		}
		return answer.StatusCode
	}
	for _, c := range []struct {
		who          *api.Client
		method, path string
		want         int
	}{
		{guard, "PUT", "accounts/lc-guarded/freeze", 200},
		{guard, "PUT", "accounts/lc-guarded/unfreeze", 403},
		{guard, "DELETE", "accounts/lc-guarded", 403},
		{writer, "DELETE", "accounts/lc-guarded", 403},
		{writer, "PUT", "accounts/lc-guarded/freeze", 403},
		{writer, "PUT", "accounts/lc-guarded", 200},
		{cleaner, "PUT", "accounts/lc-guarded", 403},
		{cleaner, "DELETE", "accounts/lc-guarded", 200},
		{cleaner, "PUT", "accounts/lc-guarded/restore", 403},
		{cleaner, "DELETE", "destroy/lc-guarded", 403},
		{writer, "PUT", "config/accounts", 403},
	} {
		if got := try(c.who, c.method, c.path); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
		}
	}
}

// TestDestroyedInTime: a deleted account is destroyed in the background, by a
// server that was started after the deletion, and nothing else is.
func TestDestroyedInTime(t *testing.T) {
	t.Parallel()
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 3)
	for _, name := range []string{"stays", "later", "goes"} {
		e.create(t, name, ed25519, 2, 3)
		e.write(t, "accounts/"+name+"/refresh", nil)
	}
	e.cli(t, 0, "delete", "mpc/accounts/later")
	e.write(t, "config/accounts", map[string]any{"deletion_wait": "1m"})
	e.cli(t, 0, "delete", "mpc/accounts/goes")
	e.Kill9(t)
	e.Restart(t)
	started := time.Now()
	e.waitNodes(t, 3)
	if e.read(t, "accounts/goes")["state"] != "deleted" {
		t.Error("the deletion was lost")
	}
	e.await(t, 12*time.Minute, "destruction of the account", func() bool {
		s, err := e.Client.Logical().Read("mpc/accounts/goes")
		return err == nil && s == nil
	})
	t.Logf("destroyed %v after the start", time.Since(started).Round(time.Second))
	for _, key := range e.RawList(t, "mpc") {
		if key == "accounts/goes" {
			t.Errorf("%s is left", key)
		}
	}
	e.cli(t, 0, "write", "-force", "mpc/accounts/later/restore")
	e.sign(t, "later", []byte("restored"))
	e.sign(t, "stays", []byte("not touched"))
	e.create(t, "goes", bip340, 2, 3) // the name is free
}

// renameAndRemove has the victim killed at each step of a rename and of the
// destruction of an account. After it the account is there once, or gone.
func (k *killer) renameAndRemove(t *testing.T) {
	t.Helper()
	names := []string{"carol", "caroline"}
	key := k.create(t, names[0], bip340, 2, 3)["public_key_hex"]
	whole := func() (here, there string) {
		t.Helper()
		k.await(t, 30*time.Second, "the account under one name", func() bool {
			s, err := k.Client.Logical().List("mpc/accounts")
			if err != nil || s == nil {
				return false
			}
			here = ""
			for _, name := range names {
				a, err := k.Client.Logical().Read("mpc/accounts/" + name)
				if err != nil || (a != nil) != slices.Contains(asList(s.Data["keys"]), any(name)) {
					return false
				}
				if a == nil {
					there = name
					continue
				}
				if here != "" {
					t.Fatalf("the account is there twice: %v", s.Data["keys"])
				}
				if here = name; a.Data["public_key_hex"] != key {
					t.Fatalf("%s has the key %v, it was %v", name, a.Data["public_key_hex"], key)
				}
			}
			return here != ""
		})
		k.await(t, 30*time.Second, "a signature by "+here, func() bool {
			_, err := k.trySign(here, []byte("whole"))
			return err == nil
		})
		return here, there
	}
	for _, step := range renameSteps {
		here, there := whole()
		k.at(t, step, func() {
			// The try before may have got through, or half.
			_ = k.do(t, k.Client, "PUT", "mpc/accounts/"+here+"/rename", map[string]any{"new_name": there})
			here, there = there, here
		})
		whole()
	}
	here, _ := whole()
	id := k.read(t, "accounts/"+here)["id"].(string)
	for i, step := range removeSteps {
		name := here
		if i > 0 {
			name = fmt.Sprintf("removed-%d", i)
			id = k.create(t, name, ed25519, 2, 3)["id"].(string)
		}
		k.at(t, step, func() { _ = k.do(t, k.Client, "DELETE", "mpc/destroy/"+name, nil) })
		k.await(t, 30*time.Second, "the account's end", func() bool {
			a, err := k.Client.Logical().Read("mpc/accounts/" + name)
			return err == nil && a == nil
		})
		k.await(t, 30*time.Second, "the end of its exposures", func() bool {
			return !slices.Contains(k.RawList(t, "mpc"), "exposures/"+id)
		})
	}
}

// TestFrozenEverywhere: freeze, rename and deletion by way of any of three
// servers hold on all of them, and after a failover.
func TestFrozenEverywhere(t *testing.T) {
	c := harness.StartCluster(t, 3)
	c.Enable(t, "mpc")
	leader := &engine{c.Leader(t), "mpc"}
	leader.write(t, "config/nodes", map[string]any{"local": 3})
	leader.ConfigHSM(t, "mpc")
	leader.waitNodes(t, 3)
	key := leader.create(t, "alice", ed25519, 2, 3)["public_key_hex"]
	leader.create(t, "bob", ed25519, 2, 3)
	everywhere := func(name string, status int, text string) {
		t.Helper()
		servers := append(c.Standbys(t), c.Leader(t))
		for _, v := range servers {
			e := &engine{v, "mpc"}
			e.refuse(t, "sign/"+name, map[string]any{"input": b64([]byte("x"))}, status, text)
		}
	}
	for _, v := range c.Standbys(t) {
		e := &engine{v, "mpc"}
		leader.write(t, "accounts/alice/unfreeze", nil)
		leader.sign(t, "alice", []byte("not frozen"))
		e.write(t, "accounts/alice/freeze", map[string]any{"reason": "by way of a standby"})
		everywhere("alice", 409, "by way of a standby")
	}
	standby := &engine{c.Standbys(t)[0], "mpc"}
	standby.write(t, "accounts/alice/rename", map[string]any{"new_name": "alicia"})
	standby.cli(t, 0, "delete", "mpc/accounts/bob")
	everywhere("alicia", 409, "has been frozen")
	everywhere("alice", 404, "there is no account")
	everywhere("bob", 409, "was deleted")

	old, _ := c.KillLeader(t)
	c.AwaitElection(t, old)
	next := &engine{c.Leader(t), "mpc"}
	next.waitNodes(t, 3)
	everywhere("alicia", 409, "has been frozen")
	everywhere("alice", 404, "there is no account")
	everywhere("bob", 409, "was deleted")
	standby = &engine{c.Standbys(t)[0], "mpc"}
	standby.write(t, "accounts/alicia/unfreeze", nil)
	standby.write(t, "accounts/bob/restore", nil)
	next.sign(t, "alicia", []byte("after all of it"))
	next.sign(t, "bob", []byte("after all of it"))
	if now := next.read(t, "accounts/alicia")["public_key_hex"]; now != key {
		t.Errorf("the key is %v, it was %v", now, key)
	}
}
