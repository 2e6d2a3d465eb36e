package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// countsReads is a storage that counts the accounts that are read.
type countsReads struct {
	logical.Storage
	reads atomic.Int64
}

func (c *countsReads) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if strings.HasPrefix(key, prefixAccounts) {
		c.reads.Add(1)
	}
	return c.Storage.Get(ctx, key)
}

func TestListAccounts(t *testing.T) {
	storage := &countsReads{Storage: &logical.InmemStorage{}}
	m := open(t, storage, newFake(t))
	configure(m)
	for i := range 12 {
		alg := []string{"ed25519", "bip340-secp256k1", "ecdsa-p256"}[i%3]
		m.update(fmt.Sprintf("accounts/eu-%02d", i), map[string]any{"algorithm": alg, "metadata": map[string]any{"team": []string{"ops", "dev"}[i%2], "x=y": ""}})
	}
	m.create("us-00", "ed25519")
	m.update("accounts/eu-03/freeze", nil)
	m.must(logical.DeleteOperation, "accounts/eu-04", nil)
	list := func(q map[string]any) ([]string, map[string]any, any) {
		t.Helper()
		d := m.must(logical.ListOperation, "accounts", q)
		keys, _ := d["keys"].([]string)
		info, _ := d["key_info"].(map[string]any)
		return keys, info, d["next_after"]
	}
	storage.reads.Store(0)
	if keys, info, next := list(nil); len(keys) != 13 || info != nil || next != nil {
		t.Errorf("everything: %v %v %v", keys, info, next)
	}
	if keys, _, next := list(map[string]any{"prefix": "eu-", "limit": 5, "after": "eu-02"}); fmt.Sprint(keys) != "[eu-03 eu-04 eu-05 eu-06 eu-07]" || next != "eu-07" {
		t.Errorf("a page: %v %v", keys, next)
	}
	if keys, _, next := list(map[string]any{"prefix": "eu-", "limit": 9, "after": "eu-02"}); len(keys) != 9 || next != nil {
		t.Errorf("the last page, full: %v %v", keys, next)
	}
	if n := storage.reads.Load(); n != 0 {
		t.Errorf("%d accounts were read for names", n)
	}
	for _, c := range []struct {
		query map[string]any
		want  string
	}{
		{map[string]any{"prefix": "us"}, "[us-00]"},
		{map[string]any{"prefix": "a"}, "[]"},
		{map[string]any{"prefix": "eu", "after": "us-00"}, "[]"},
		{map[string]any{"prefix": "us", "after": "eu-03"}, "[us-00]"},
		{map[string]any{"algorithm": "ecdsa-p256"}, "[eu-02 eu-05 eu-08 eu-11]"},
		{map[string]any{"algorithm": "ecdsa-secp256k1"}, "[]"},
		{map[string]any{"state": "frozen"}, "[eu-03]"},
		{map[string]any{"state": "deleted"}, "[eu-04]"},
		{map[string]any{"state": "active", "algorithm": "bip340-secp256k1"}, "[eu-01 eu-07 eu-10]"},
		{map[string]any{"metadata": "team"}, "[eu-00 eu-01 eu-02 eu-03 eu-04 eu-05 eu-06 eu-07 eu-08 eu-09 eu-10 eu-11]"},
		{map[string]any{"metadata": "team=dev", "state": "active", "algorithm": "ed25519"}, "[eu-09]"},
		{map[string]any{"metadata": "team="}, "[]"},
		{map[string]any{"metadata": "x"}, "[]"},
		{map[string]any{"details": true, "prefix": "us"}, "[us-00]"},
	} {
		keys, info, next := list(c.query)
		if fmt.Sprint(keys) != c.want || next != nil {
			t.Errorf("%v: %v %v, want %s", c.query, keys, next, c.want)
		}
		if _, plain := c.query["prefix"]; (!plain || c.query["details"] != nil) && len(info) != len(keys) {
			t.Errorf("%v: told of %d of %d", c.query, len(info), len(keys))
		}
	}
	// Pages by what is looked at, to the end.
	var all []string
	for after, pages := "", 0; ; pages++ {
		storage.reads.Store(0)
		keys, _, next := list(map[string]any{"algorithm": "ecdsa-p256", "limit": 2, "after": after})
		if n := storage.reads.Load(); n > 2 {
			t.Errorf("%d accounts were read for a page of 2", n)
		}
		all = append(all, keys...)
		if next == nil {
			if pages != 6 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		after = next.(string)
	}
	if fmt.Sprint(all) != "[eu-02 eu-05 eu-08 eu-11]" {
		t.Errorf("in pages: %v", all)
	}
	_, info, _ := list(map[string]any{"details": true, "prefix": "eu-03"})
	one, full := info["eu-03"].(map[string]any), m.must(logical.ReadOperation, "accounts/eu-03", nil)
	for _, field := range []string{"id", "algorithm", "threshold", "shares", "state", "public_key_hex", "share_epoch", "last_refresh_time", "metadata"} {
		if fmt.Sprint(one[field]) != fmt.Sprint(full[field]) || one[field] == nil {
			t.Errorf("%s is %v in the list and %v in the account", field, one[field], full[field])
		}
	}
	for field, values := range map[string][]any{
		"state": {"molten", "Active"}, "algorithm": {"rsa"}, "limit": {0, 1001, -1}, "metadata": {"=x", ""},
		"after": {strings.Repeat("x", 129)}, "prefix": {strings.Repeat("x", 129)}, "sort": {"name"},
	} {
		for _, v := range values {
			m.fails(logical.ListOperation, "accounts", map[string]any{field: v}, http.StatusBadRequest, field)
		}
	}
	// One that cannot be read does not hide the others.
	if err := storage.Put(t.Context(), &logical.StorageEntry{Key: prefixAccounts + "eu-05", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	d := m.warns(logical.ListOperation, "accounts", map[string]any{"details": true, "prefix": "eu-0"}, "eu-05")
	if !slices.Contains(d["keys"].([]string), "eu-05") || len(d["keys"].([]string)) != 10 {
		t.Errorf("with details: %v", d["keys"])
	}
	d = m.warns(logical.ListOperation, "accounts", map[string]any{"state": "active"}, "eu-05")
	if slices.Contains(d["keys"].([]string), "eu-05") {
		t.Errorf("with a filter: %v", d["keys"])
	}
}
