package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const (
	accountData = `{"name":"treasury","id":"00112233445566778899aabbccddeeff","algorithm":"ecdsa-secp256k1",
		"threshold":2,"shares":3,"public_key":"-----BEGIN PUBLIC KEY-----\nMFYwEAYH\n-----END PUBLIC KEY-----\n",
		"public_key_hex":"02aabb","chain_code":"0c0c","presign":4,"presignatures":3,"spares_allowed":true,"share_epoch":7,"epoch_id":"ffee","record_hash":"0d0e","wrapping_version":1,"state":"active",
		"created_time":"2026-01-02T03:04:05Z","last_refresh_time":"2026-01-02T03:14:05Z",
		"next_refresh_time":"2026-01-02T03:24:05Z","refresh_period":600,"last_refresh_error":"",
		"metadata":{"team":"payments","desk":"3"},
		"birth_certificate":[{"node":"local-1","signature":"AA=="},{"node":"local-2","signature":"AQ=="}],
		"birth_record_hash":"0a0b"}`
	signData = `{"signature":"MEQ=","signature_hex":"3044","r":"0a","s":"0b","v":1,"digest":"cc",
		"public_key":"02aabb","share_epoch":7,"signers":[{"index":1,"node":"local-3"},{"index":3,"node":"local-1"}],
		"session_id":"dd","attempts":2,"presigned":true}`
	deriveData = `{"derivation_path":"m/0/7","taproot_tweak":"bip86","public_key":"-----BEGIN PUBLIC KEY-----\nMFYwEAYH\n-----END PUBLIC KEY-----\n",
		"public_key_hex":"03ccdd","chain_code":"0e0e"}`
	hsmData = `{"uri":"pkcs11:token=mpc?module-name=softhsm","module":"softhsm","token_label":"mpc","token_serial":"0123",
		"token_manufacturer":"SoftHSM project","token_model":"SoftHSM v2","suite":"hpke-p256","wrapping_version":1,"pin_set":true}`
	node1 = `{"id":"local-1","state":"ready","version":"v0.1.0","pid":41,"identity":"aa","sessions":1,"restarts":0,
		"hsm":"ok","last_error":"","since":"2026-01-02T03:04:05Z","aux_state":"ready","aux_generation":1,
		"aux_progress":100,"aux_peers_ready":2,"aux_peers":2}`
	node2 = `{"id":"local-2","state":"ready","version":"v0.1.0","pid":42,"identity":"bb","sessions":0,"restarts":0,
		"hsm":"ok","last_error":"","since":"2026-01-02T03:04:05Z","aux_state":"generating","aux_generation":0,
		"aux_progress":40,"aux_peers_ready":0,"aux_peers":2}`
	node3 = `{"id":"local-3","state":"restarting","version":"","pid":0,"identity":"cc","sessions":0,"restarts":2,
		"hsm":"HSM unavailable: token not found","last_error":"the node's process ended: signal: killed","since":"2026-01-02T03:05:00Z",
		"aux_state":"none","aux_generation":0,"aux_progress":0,"aux_peers_ready":0,"aux_peers":2}`
	formatsData = `{"signature":"AAEC","signature_hex":"000102","signature_format":"ethereum","r":"00","s":"01","v":1,"digest":"cc",
		"public_key":"02aabb","share_epoch":7,"signers":[{"index":1,"node":"local-3"}],"session_id":"dd","attempts":1,"request_id":"order-7","replayed":true}`
	addressData = `{"derivation_path":"m/0/7","public_key_hex":"03ccdd","addresses":{"ethereum":"0x52908400098527886E0F7030069857D2E4169EE7","cosmos":"osmo1abc"}}`
	jwkData     = `{"jwk":{"kty":"EC","crv":"P-256","x":"AQ","y":"Ag","alg":"ES256","use":"sig","kid":"k"},
		"jwk_json":"{\"alg\":\"ES256\",\"crv\":\"P-256\",\"kid\":\"k\",\"kty\":\"EC\",\"use\":\"sig\",\"x\":\"AQ\",\"y\":\"Ag\"}"}`
	csrData    = `{"csr":"-----BEGIN CERTIFICATE REQUEST-----\nMIHR\n-----END CERTIFICATE REQUEST-----\n","public_key":"02aabb"}`
	healthData = `{"initialized":true,"sealed":false,"standby":false,"version":"1.21.0","cluster_name":"c1"}`
)

// frozenData and deletedData are the account in its other states.
var (
	frozenData = strings.Replace(accountData, `"state":"active"`,
		`"state":"frozen","frozen_time":"2026-01-02T03:20:00Z","frozen_reason":"audit","addresses":{"ethereum":"0x52908400098527886E0F7030069857D2E4169EE7"}`, 1)
	deletedData = strings.Replace(accountData, `"state":"active"`,
		`"state":"deleted","deleted_time":"2026-01-02T03:20:00Z","destroy_time":"2026-02-01T03:20:00Z"`, 1)
)

// engine is a mount with one account and three nodes.
func engine(t *testing.T) *server {
	s := newServer(t)
	s.on("GET sys/health", raw(200, healthData))
	s.on("GET sys/internal/ui/mounts/mpc", data(`{"type":"mpc","path":"mpc/","plugin_version":"","running_plugin_version":"v0.1.0"}`))
	s.on("GET mpc/config/hsm", data(hsmData))
	s.on("LIST mpc/nodes", data(`{"keys":["local-1","local-2","local-3"]}`))
	s.on("GET mpc/nodes/local-1", data(node1))
	s.on("GET mpc/nodes/local-2", data(node2))
	s.on("GET mpc/nodes/local-3", data(node3))
	everything := data(`{"keys":["hot","treasury"],"key_info":{"treasury":` + accountData + `,
		"hot":{"algorithm":"bip340-secp256k1","threshold":3,"shares":5,"state":"active","share_epoch":1}}}`)
	s.on("LIST mpc/accounts", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("state") == "frozen" {
			data(`{"keys":["cold"],"key_info":{"cold":{"algorithm":"ed25519","threshold":2,"shares":3,"state":"frozen"}},"next_after":"cold"}`)(w, r)
			return
		}
		everything(w, r)
	})
	s.on("GET mpc/accounts/treasury", data(accountData))
	s.on("GET mpc/accounts/fresh", fails(404, "there is no account \"fresh\""))
	s.on("PUT mpc/accounts/fresh", data(strings.Replace(accountData, "treasury", "fresh", 1)))
	s.on("PUT mpc/accounts/treasury/refresh", data(accountData))
	s.on("PUT mpc/accounts/treasury", data(accountData))
	s.on("PUT mpc/accounts/treasury/derive", data(deriveData))
	s.on("PUT mpc/nodes/local-1/renew", raw(204, ""))
	s.on("PUT mpc/sign/treasury", data(signData))
	s.on("PUT mpc/verify/treasury", data(`{"valid":true}`))
	s.on("PUT mpc/sign/formats", data(formatsData))
	s.on("PUT mpc/accounts/treasury/freeze", data(frozenData))
	s.on("PUT mpc/accounts/treasury/unfreeze", data(accountData))
	s.on("DELETE mpc/accounts/treasury", data(deletedData))
	s.on("PUT mpc/accounts/treasury/restore", data(accountData))
	s.on("PUT mpc/accounts/treasury/rename", data(strings.Replace(accountData, `"treasury"`, `"vault"`, 1)))
	s.on("PUT mpc/destroy/treasury", raw(204, ""))
	s.on("PUT mpc/accounts/treasury/addresses", data(addressData))
	s.on("GET mpc/accounts/treasury/jwk", data(jwkData))
	s.on("PUT mpc/accounts/treasury/csr", data(csrData))
	return s
}

func TestGolden(t *testing.T) {
	engine(t)
	for _, test := range []struct {
		name string
		args string
	}{
		{"version", "version"},
		{"status", "status"},
		{"account_list", "account list"},
		{"account_show", "account show treasury"},
		{"account_create", "account create fresh --algorithm ecdsa-secp256k1"},
		{"account_set", "account set treasury --presign 4"},
		{"account_derive", "account derive treasury --derivation-path m/0/7 --taproot-tweak bip86"},
		{"account_refresh", "account refresh treasury"},
		{"account_sign", "account sign treasury --input hello"},
		{"account_verify", "account verify treasury --input hello --signature MEQ="},
		{"node_renew", "node renew local-1"},
		{"account_sign_formats", "account sign formats --input hello --format ethereum --request-id order-7"},
		{"account_freeze", "account freeze treasury --reason audit"},
		{"account_unfreeze", "account unfreeze treasury"},
		{"account_delete", "account delete treasury --after 720h"},
		{"account_restore", "account restore treasury"},
		{"account_rename", "account rename treasury vault"},
		{"account_destroy", "account destroy treasury --confirm treasury"},
		{"account_address", "account address treasury --derivation-path m/0/7 --cosmos-prefix osmo"},
		{"account_jwk", "account jwk treasury"},
		{"account_csr", "account csr treasury --common-name www.example.com"},
		{"account_list_filtered", "account list --state frozen --limit 1"},
	} {
		for _, format := range []string{"table", "json"} {
			t.Run(test.name+"/"+format, func(t *testing.T) {
				cfg := Config{Args: append(strings.Fields(test.args), "-o", format), Version: "v1.2.3"}
				res := runConfig(t, cfg)
				res.want(t, 0)
				out := res.stdout
				if format == "json" {
					var doc map[string]any
					if err := json.Unmarshal([]byte(out), &doc); err != nil {
						t.Errorf("stdout is not one JSON document: %v", err)
					}
				}
				// These differ by machine.
				out = maskBuild(out)
				out = strings.ReplaceAll(out, vaultAddr(), "http://vault:8200")
				golden(t, test.name+"."+format, out)
				if strings.ContainsRune(out, '\x1b') {
					t.Error("output that is not for a terminal has escape sequences")
				}
			})
		}
	}
}

func TestEmptyList(t *testing.T) {
	s := engine(t)
	s.on("LIST mpc/accounts", fails(404))
	res := run(t, "account", "list", "-o", "json")
	res.want(t, 0)
	if want := "{\n  \"mount\": \"mpc\",\n  \"accounts\": []\n}\n"; res.stdout != want {
		t.Errorf("got %q, want %q", res.stdout, want)
	}
	if res := run(t, "account", "list"); !strings.Contains(res.stdout, "account create") {
		t.Errorf("an empty list should say what to do: %q", res.stdout)
	}
}

func TestCreateSendsWhatWasAsked(t *testing.T) {
	s := engine(t)
	run(t, "account", "create", "fresh", "--algorithm", "bip340-secp256k1", "--threshold", "3", "--shares", "5",
		"--presign", "0", "--refresh-period", "10m", "--metadata", "team=payments", "--metadata", "eq=a=b").want(t, 0)
	calls := s.called("PUT mpc/accounts/fresh")
	if len(calls) != 1 {
		t.Fatalf("%d requests, want 1", len(calls))
	}
	got, _ := json.Marshal(calls[0].body)
	want := `{"algorithm":"bip340-secp256k1","metadata":{"eq":"a=b","team":"payments"},"presign":0,"refresh_period":"10m","shares":5,"threshold":3}`
	if string(got) != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
}

// Only what was named is sent, so that the rest stays.
func TestSetSendsWhatWasAsked(t *testing.T) {
	s := engine(t)
	for args, want := range map[string]string{
		"--presign 0":                           `{"presign":0}`,
		"--refresh-period 0":                    `{"refresh_period":"0"}`,
		"--metadata a=b --presign 3":            `{"metadata":{"a":"b"},"presign":3}`,
		"--metadata a=b --refresh-period 1h30m": `{"metadata":{"a":"b"},"refresh_period":"1h30m"}`,
	} {
		s.forget()
		run(t, append([]string{"account", "set", "treasury"}, strings.Fields(args)...)...).want(t, 0)
		calls := s.called("PUT mpc/accounts/treasury")
		if len(calls) != 1 {
			t.Fatalf("%s: %d requests, want 1", args, len(calls))
		}
		if got, _ := json.Marshal(calls[0].body); string(got) != want {
			t.Errorf("%s: sent %s, want %s", args, got, want)
		}
	}
	s.forget()
	run(t, "account", "set", "treasury").want(t, 2, "at least one of")
	run(t, "account", "set", "fresh", "--presign", "1").want(t, 1, `cannot show account "fresh"`)
	if n := len(s.called("PUT mpc/accounts/treasury")) + len(s.called("PUT mpc/accounts/fresh")); n != 0 {
		t.Errorf("%d requests were sent that should not", n)
	}
}

// The child that is meant goes with every request that can name one.
func TestChildOfAKey(t *testing.T) {
	s := engine(t)
	child := []string{"--derivation-path", "m/0/7", "--taproot-tweak", "bip86"}
	run(t, append([]string{"account", "sign", "treasury", "--input", "x"}, child...)...).want(t, 0)
	run(t, append([]string{"account", "verify", "treasury", "--input", "x", "--signature", "MEQ="}, child...)...).want(t, 0)
	run(t, append([]string{"account", "derive", "treasury"}, child...)...).want(t, 0)
	for _, path := range []string{"sign/treasury", "verify/treasury", "accounts/treasury/derive"} {
		calls := s.called("PUT mpc/" + path)
		if len(calls) != 1 || calls[0].body["derivation_path"] != "m/0/7" || calls[0].body["taproot_tweak"] != "bip86" {
			t.Errorf("%s: sent %v", path, calls)
		}
	}
	run(t, "node", "renew").want(t, 2, "one node")
	run(t, "node", "renew", "a/b").want(t, 2, "one node")
}

// A write whose answer does not describe the account reads it; a token that
// may not read is no failure of the write.
func TestWriteWithBareAnswer(t *testing.T) {
	s := engine(t)
	written := false
	afterwards := data(accountData)
	s.on("PUT mpc/accounts/fresh", func(w http.ResponseWriter, r *http.Request) {
		written = true
		raw(204, "")(w, r)
	})
	s.on("GET mpc/accounts/fresh", func(w http.ResponseWriter, r *http.Request) {
		if written {
			afterwards(w, r)
			return
		}
		fails(404, "there is no such account")(w, r)
	})
	create := func() result {
		written = false
		return run(t, "account", "create", "fresh", "--algorithm", "x")
	}
	res := create()
	res.want(t, 0)
	if !strings.Contains(res.stdout, "02aabb") {
		t.Errorf("the account was not read: %q", res.stdout)
	}
	afterwards = fails(403, "1 error occurred:\n\t* permission denied\n\n")
	create().want(t, 0, `was created, but the token may not read it`)
	afterwards = fails(400, "broken")
	create().want(t, 1, `account "fresh" was created, but: cannot show`, "broken")
}

// A write to an account that exists would change its settings.
func TestCreateLooksFirst(t *testing.T) {
	s := engine(t)
	s.on("PUT mpc/accounts/treasury", data(accountData))
	res := run(t, "account", "create", "treasury", "--algorithm", "ecdsa-secp256k1")
	res.want(t, 1, `account "treasury" exists already; nothing was changed`, "account show treasury")
	if res.stdout != "" || len(s.called("PUT mpc/accounts/treasury")) != 0 {
		t.Errorf("the account was written; stdout %q", res.stdout)
	}
	// Allowed to create, not to read.
	s.on("GET mpc/accounts/treasury", fails(403, "permission denied"))
	run(t, "account", "create", "treasury", "--algorithm", "ecdsa-secp256k1").want(t, 0)
}

// Servers may list names only: few accounts are read one by one.
func TestListOfNames(t *testing.T) {
	s := engine(t)
	s.on("LIST mpc/accounts", data(`{"keys":["fresh","hidden","treasury"]}`))
	s.on("GET mpc/accounts/hidden", fails(403, "permission denied"))
	res := run(t, "account", "list")
	res.want(t, 0)
	golden(t, "account_list_names.table", res.stdout)

	names := make([]string, maxDetails+1)
	for i := range names {
		names[i] = fmt.Sprintf("a%03d", i)
		s.on("GET mpc/accounts/"+names[i], data(accountData))
	}
	keys, _ := json.Marshal(names)
	s.on("LIST mpc/accounts", data(`{"keys":`+string(keys)+`}`))
	run(t, "account", "list").want(t, 0, "the first 100 accounts")
	if n := len(s.called("GET mpc/accounts/a100")); n != 0 {
		t.Error("more accounts were read than announced")
	}
	if n := len(s.called("GET mpc/accounts/a099")); n != 1 {
		t.Error("an account within the limit was not read")
	}
}

func TestMountFlagAndEnvironment(t *testing.T) {
	s := engine(t)
	s.on("GET team/keys/accounts/a", data(accountData))
	s.on("GET other/accounts/a", data(accountData))
	t.Setenv(envMount, "other/")
	run(t, "account", "show", "a").want(t, 0)
	run(t, "account", "show", "a", "--mount", "/team/keys/").want(t, 0)
	if len(s.called("GET other/accounts/a")) != 1 || len(s.called("GET team/keys/accounts/a")) != 1 {
		t.Errorf("wrong paths: %v", s.calls)
	}
}
