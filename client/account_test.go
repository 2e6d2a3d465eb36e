package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// alice is an account as the engine sends it.
func alice(more map[string]any) map[string]any {
	a := map[string]any{
		"name": "alice", "id": "0a", "algorithm": "ecdsa-secp256k1", "threshold": 2, "shares": 3,
		"public_key": "-----BEGIN PUBLIC KEY-----\n", "public_key_hex": "02ff", "chain_code": "c0de", "state": "active",
		"presign": 4, "presignatures": 0, "share_epoch": uint64(1) << 60, "wrapping_version": 3,
		"created_time": "2026-01-02T03:04:05Z", "last_refresh_time": "2026-01-02T04:04:05.5Z", "next_refresh_time": "2026-01-02T06:04:05+01:00",
		"refresh_period": 600, "last_refresh_error": "", "last_rewrap_time": "", "next_rewrap_time": nil, "last_rewrap_error": "",
		"metadata": map[string]string{"team": "ops"}, "recovery_recipients": []string{"carol"}, "recipients_current": true,
		"addresses": map[string]string{"ethereum": "0xabc"},
	}
	maps.Copy(a, more)
	return a
}

func TestAccountIsDecoded(t *testing.T) {
	c, f := start(t, answering(alice(map[string]any{
		"frozen_time": "2026-02-01T00:00:00Z", "frozen_reason": "audit", "deleted_time": "2026-02-02T00:00:00Z", "destroy_time": "2026-02-09T00:00:00Z",
		"a_field_of_later": []int{1},
	})))
	got := must[*Account](t)(c.Account(context.Background(), "alice"))
	zero := 0
	at := func(s string) time.Time {
		t.Helper()
		return must[time.Time](t)(time.Parse(time.RFC3339Nano, s)).UTC()
	}
	want := &Account{
		Name: "alice", ID: "0a", Algorithm: ECDSASecp256k1, Threshold: 2, Shares: 3, PublicKey: []byte{2, 255}, PublicKeyPEM: "-----BEGIN PUBLIC KEY-----\n",
		ChainCode: []byte{0xc0, 0xde}, State: StateActive, FrozenTime: at("2026-02-01T00:00:00Z"), FrozenReason: "audit",
		DeletedTime: at("2026-02-02T00:00:00Z"), DestroyTime: at("2026-02-09T00:00:00Z"), Metadata: map[string]string{"team": "ops"},
		Presign: 4, Presignatures: &zero, Addresses: map[AddressKind]string{AddressEthereum: "0xabc"}, ShareEpoch: 1 << 60, WrappingVersion: 3,
		CreatedTime: at("2026-01-02T03:04:05Z"), LastRefreshTime: at("2026-01-02T04:04:05.5Z"), NextRefreshTime: at("2026-01-02T05:04:05Z"),
		RefreshPeriod: 10 * time.Minute, RecoveryRecipients: []string{"carol"}, RecipientsCurrent: true, Warnings: []string{"a word"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	f.expect("GET", "team/mpc/accounts/alice", nil, nil)
}

func TestValuesAreChecked(t *testing.T) {
	for field, bad := range map[string]any{
		"public_key_hex": "xyz", "created_time": "yesterday", "refresh_period": "soon", "share_epoch": -1, "chain_code": 5,
	} {
		c, _ := start(t, answering(alice(map[string]any{field: bad})))
		if a, err := c.Account(context.Background(), "alice"); err == nil {
			t.Errorf("%s = %v gives %+v", field, bad, a)
		}
	}
	c, _ := start(t, answering(alice(map[string]any{"refresh_period": "1h30m"})))
	if a := must[*Account](t)(c.Account(context.Background(), "alice")); a.RefreshPeriod != 90*time.Minute {
		t.Errorf("refresh period %v", a.RefreshPeriod)
	}
}

// TestRequests: what each method sends. The answers are an account each time.
func TestRequests(t *testing.T) {
	ctx, period, none := context.Background(), 90*time.Second, 0
	deleted := map[string]any{"state": "deleted", "destroy_time": "2026-02-09T00:00:00Z"}
	tests := []struct {
		name   string
		call   func(c *Client) (*Account, error)
		method string
		path   string
		body   map[string]any
		query  map[string]any
	}{
		{"create", func(c *Client) (*Account, error) {
			return c.CreateAccount(ctx, "alice", CreateOptions{Algorithm: ECDSAP256})
		}, "PUT", "accounts/alice", map[string]any{"algorithm": "ecdsa-p256"}, nil},
		{"create with everything", func(c *Client) (*Account, error) {
			return c.CreateAccount(ctx, "alice", CreateOptions{Algorithm: ECDSAP256, Threshold: 3, Shares: 5, RefreshPeriod: 1500 * time.Millisecond, Presign: 2, Metadata: map[string]string{"a": "b"}})
		}, "PUT", "accounts/alice", map[string]any{"algorithm": "ecdsa-p256", "threshold": 3.0, "shares": 5.0, "refresh_period": "2s", "presign": 2.0, "metadata": map[string]any{"a": "b"}}, nil},
		{"update", func(c *Client) (*Account, error) {
			return c.UpdateAccount(ctx, "alice", Settings{RefreshPeriod: &period, Presign: &none, Metadata: map[string]string{}})
		}, "PUT", "accounts/alice", map[string]any{"refresh_period": "90s", "presign": 0.0, "metadata": map[string]any{}}, nil},
		{"refresh", func(c *Client) (*Account, error) { return c.Refresh(ctx, "alice") }, "PUT", "accounts/alice/refresh", nil, nil},
		{"freeze", func(c *Client) (*Account, error) { return c.Freeze(ctx, "alice", "audit") }, "PUT", "accounts/alice/freeze", map[string]any{"reason": "audit"}, nil},
		{"freeze without a reason", func(c *Client) (*Account, error) { return c.Freeze(ctx, "alice", "") }, "PUT", "accounts/alice/freeze", nil, nil},
		{"unfreeze", func(c *Client) (*Account, error) { return c.Unfreeze(ctx, "alice") }, "PUT", "accounts/alice/unfreeze", nil, nil},
		{"delete", func(c *Client) (*Account, error) { return c.Delete(ctx, "alice", DeleteOptions{}) }, "DELETE", "accounts/alice", nil, nil},
		{"delete later", func(c *Client) (*Account, error) {
			return c.Delete(ctx, "alice", DeleteOptions{After: 240 * time.Hour})
		}, "DELETE", "accounts/alice", nil, map[string]any{"delete_after": "864000s"}},
		{"restore", func(c *Client) (*Account, error) { return c.Restore(ctx, "alice") }, "PUT", "accounts/alice/restore", nil, nil},
		{"rename", func(c *Client) (*Account, error) { return c.Rename(ctx, "alice", "bob") }, "PUT", "accounts/alice/rename", map[string]any{"new_name": "bob"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, f := start(t, answering(alice(deleted)))
			if a := must[*Account](t)(tt.call(c)); a.Name != "alice" || a.State != StateDeleted {
				t.Errorf("%+v", a)
			}
			f.expect(tt.method, "team/mpc/"+tt.path, tt.body, tt.query)
		})
	}
}

// TestDeleteReadsWhatItWasNotTold: an answer without the account.
func TestDeleteReadsWhatItWasNotTold(t *testing.T) {
	c, f := start(t, func(r request) reply {
		if r.method == "DELETE" {
			return reply{status: 204, raw: " "}
		}
		return reply{data: alice(map[string]any{"state": "deleted", "destroy_time": "2026-02-09T00:00:00Z"})}
	})
	a := must[*Account](t)(c.Delete(context.Background(), "alice", DeleteOptions{}))
	if a.State != StateDeleted || a.DestroyTime.IsZero() || len(f.requests()) != 2 {
		t.Errorf("%+v after %v", a, f.requests())
	}
}

// names collects a listing.
func names(t *testing.T, c *Client, filter Filter) (out []string, err error) {
	t.Helper()
	for a, err := range c.Accounts(context.Background(), filter) {
		if err != nil {
			return out, err
		}
		out = append(out, a.Name)
	}
	return out, nil
}

// paged serves accounts 000… in pages, as the engine would.
func paged(count int) func(request) reply {
	return func(r request) reply {
		var keys []string
		info := map[string]any{}
		limit := 1000
		_, _ = fmt.Sscan(r.query["limit"], &limit)
		for i := range count {
			name := fmt.Sprintf("%05d", i)
			if name <= r.query["after"] {
				continue
			}
			if len(keys) == limit {
				return reply{data: map[string]any{"keys": keys, "key_info": info, "next_after": keys[limit-1]}}
			}
			keys = append(keys, name)
			info[name] = map[string]any{"id": "1", "algorithm": "ed25519", "state": "active", "public_key_hex": strings.Repeat("ab", 32), "share_epoch": 7, "last_refresh_time": "2026-01-02T03:04:05Z", "metadata": map[string]string{"team": "ops"}}
		}
		if keys == nil {
			return reply{status: 404}
		}
		return reply{data: map[string]any{"keys": keys, "key_info": info}}
	}
}

func TestAccountsGoesThroughAllPages(t *testing.T) {
	for _, count := range []int{0, 1, 499, 500, 501, 1500} {
		c, f := start(t, paged(count))
		got, err := names(t, c, Filter{})
		if err != nil || len(got) != count || !slices.IsSorted(got) {
			t.Errorf("%d accounts: %d, %v", count, len(got), err)
		}
		if pages := max(1, (count+499)/500); len(f.requests()) != pages {
			t.Errorf("%d accounts: %d requests", count, len(f.requests()))
		}
	}
}

func TestAccountsStopsWithTheLoop(t *testing.T) {
	c, f := start(t, paged(100))
	for a, err := range c.Accounts(context.Background(), Filter{Details: true, PageSize: 10}) {
		if err != nil || a.Algorithm != Ed25519 || a.ShareEpoch != 7 || len(a.PublicKey) != 32 || a.Metadata["team"] != "ops" || a.LastRefreshTime.IsZero() {
			t.Fatalf("%+v, %v", a, err)
		}
		break
	}
	f.expect("GET", "team/mpc/accounts", nil, map[string]any{"list": "true", "limit": "10", "details": "true"})
}

func TestAccountsSendsItsFilter(t *testing.T) {
	c, f := start(t, answering(nil))
	if got, err := names(t, c, Filter{Prefix: "a", Algorithm: Ed25519, State: StateFrozen, Metadata: "team=ops"}); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	f.expect("GET", "team/mpc/accounts", nil, map[string]any{"list": "true", "limit": "500", "prefix": "a", "algorithm": "ed25519", "state": "frozen", "metadata": "team=ops"})
}

func TestAccountsDoesNotBelieveEverything(t *testing.T) {
	all := answering(map[string]any{"keys": []string{"a", "b"}})
	tests := []struct {
		name    string
		handler func(request) reply
		filter  Filter
		says    string
	}{
		{"a filter that is ignored", all, Filter{State: StateFrozen}, "ignores filters"},
		{"a prefix that is ignored", all, Filter{Prefix: "a"}, "ignores filters"},
		{"details that are missing", all, Filter{Details: true}, "ignores filters"},
		{"pages without end", answering(map[string]any{"keys": []string{"a"}, "next_after": "a"}), Filter{}, "do not go on"},
		{"no mount", func(request) reply { return reply{status: 404, errors: []string{"no handler for route"}} }, Filter{}, "no handler"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := start(t, tt.handler)
			if _, err := names(t, c, tt.filter); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v", err)
			}
		})
	}
	c, _ := start(t, all)
	if got, err := names(t, c, Filter{}); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("an older engine: %v, %v", got, err)
	}
}

func TestKeys(t *testing.T) {
	ctx := context.Background()
	t.Run("derive", func(t *testing.T) {
		c, f := start(t, answering(map[string]any{"public_key": "PEM", "public_key_hex": "02ab", "chain_code": "cc", "derivation_path": "m/0/7", "taproot_tweak": "", "addresses": map[string]string{"ethereum": "0x1"}}))
		got := must[*DerivedKey](t)(c.Derive(ctx, "alice", Key{DerivationPath: "m/0/7"}))
		if !bytes.Equal(got.PublicKey, []byte{2, 0xab}) || got.DerivationPath != "m/0/7" || got.Addresses[AddressEthereum] != "0x1" {
			t.Errorf("%+v", got)
		}
		f.expect("PUT", "team/mpc/accounts/alice/derive", map[string]any{"derivation_path": "m/0/7"}, nil)
	})
	t.Run("addresses", func(t *testing.T) {
		c, f := start(t, answering(map[string]any{"addresses": map[string]string{"bitcoin_p2tr": "bc1p"}, "taproot_tweak": "bip86"}))
		got := must[*Addresses](t)(c.Addresses(ctx, "alice", AddressOptions{Key: Key{"m/1", "bip86"}, CosmosPrefix: "osmo"}))
		if got.ByKind[AddressBitcoinP2TR] != "bc1p" || got.TaprootTweak != "bip86" {
			t.Errorf("%+v", got)
		}
		f.expect("PUT", "team/mpc/accounts/alice/addresses", map[string]any{"derivation_path": "m/1", "taproot_tweak": "bip86", "cosmos_prefix": "osmo"}, nil)
	})
	t.Run("JWK", func(t *testing.T) {
		text := `{"alg":"ES256","crv":"P-256","kid":"k","kty":"EC","use":"sig","x":"AA","y":"BB"}`
		c, f := start(t, answering(map[string]any{"jwk": map[string]any{"kty": "EC"}, "jwk_json": text}))
		got := must[*JWK](t)(c.JWK(ctx, "alice", "m/1"))
		if want := (&JWK{"EC", "P-256", "AA", "BB", "ES256", "sig", "k", []byte(text)}); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v", got)
		}
		f.expect("GET", "team/mpc/accounts/alice/jwk", nil, map[string]any{"derivation_path": "m/1"})
	})
	t.Run("CSR", func(t *testing.T) {
		c, f := start(t, answering(map[string]any{"csr": "-----BEGIN CERTIFICATE REQUEST-----\n", "public_key": "PEM"}))
		got := must[*CSR](t)(c.CSR(ctx, "alice", CSRRequest{CommonName: "a", AltNames: []string{"a.example"}, Organization: []string{"A, Inc."}}))
		if string(got.PEM) != "-----BEGIN CERTIFICATE REQUEST-----\n" || got.PublicKeyPEM != "PEM" || len(got.Warnings) != 1 {
			t.Errorf("%+v", got)
		}
		f.expect("PUT", "team/mpc/accounts/alice/csr", map[string]any{"common_name": "a", "alt_names": []any{"a.example"}, "organization": []any{"A, Inc."}}, nil)
	})
	t.Run("answers without", func(t *testing.T) {
		c, _ := start(t, answering(map[string]any{"other": 1}))
		_, derive := c.Derive(ctx, "alice", Key{})
		_, addresses := c.Addresses(ctx, "alice", AddressOptions{})
		_, jwk := c.JWK(ctx, "alice", "")
		_, csr := c.CSR(ctx, "alice", CSRRequest{})
		_, verify := c.Verify(ctx, "alice", VerifyRequest{})
		for i, err := range []error{derive, addresses, jwk, csr, verify} {
			if err == nil || errors.As(err, new(*Error)) {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}
