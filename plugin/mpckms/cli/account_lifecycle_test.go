package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What each command of an account's life asks the server for.
func TestLifecycleRequests(t *testing.T) {
	s := engine(t)
	for _, test := range []struct{ args, key, body, query string }{
		{"freeze treasury", "PUT mpc/accounts/treasury/freeze", `{}`, ""},
		{"freeze treasury --reason audit", "PUT mpc/accounts/treasury/freeze", `{"reason":"audit"}`, ""},
		{"unfreeze treasury", "PUT mpc/accounts/treasury/unfreeze", `{}`, ""},
		{"delete treasury", "DELETE mpc/accounts/treasury", "null", ""},
		{"delete treasury --after 720h", "DELETE mpc/accounts/treasury", "null", "delete_after=720h"},
		{"restore treasury", "PUT mpc/accounts/treasury/restore", `{}`, ""},
		{"rename treasury vault", "PUT mpc/accounts/treasury/rename", `{"new_name":"vault"}`, ""},
		{"destroy treasury --confirm treasury", "PUT mpc/destroy/treasury", `{}`, ""},
		{"address treasury", "PUT mpc/accounts/treasury/addresses", `{}`, ""},
		{"address treasury --taproot-tweak bip86 --derivation-path m/1 --cosmos-prefix osmo", "PUT mpc/accounts/treasury/addresses",
			`{"cosmos_prefix":"osmo","derivation_path":"m/1","taproot_tweak":"bip86"}`, ""},
		{"jwk treasury --derivation-path m/1", "GET mpc/accounts/treasury/jwk", "null", "derivation_path=m%2F1"},
		{"csr treasury --common-name a --organization b --organizational-unit c --country DE --locality d --province e --alt-name x --alt-name y --ip-san 192.0.2.1 --uri-san https://z",
			"PUT mpc/accounts/treasury/csr", `{"alt_names":["x","y"],"common_name":"a","country":["DE"],"ip_sans":["192.0.2.1"],"locality":["d"],"organization":["b"],"organizational_unit":["c"],"province":["e"],"uri_sans":["https://z"]}`, ""},
	} {
		s.forget()
		run(t, append([]string{"account"}, strings.Fields(test.args)...)...).want(t, 0)
		calls := s.called(test.key)
		if len(calls) != 1 || len(s.calls) != 1 {
			t.Errorf("%s: sent %v", test.args, s.calls)
			continue
		}
		if body, _ := json.Marshal(calls[0].body); string(body) != test.body {
			t.Errorf("%s: sent %s, want %s", test.args, body, test.body)
		}
		if query := calls[0].query.Encode(); query != test.query {
			t.Errorf("%s: query %q, want %q", test.args, query, test.query)
		}
	}
}

func TestLifecycleUsage(t *testing.T) {
	s := engine(t)
	for args, says := range map[string]string{
		"rename treasury":                  "its new one",
		"rename treasury a/b":              "is not an account name",
		"rename a b c":                     "its new one",
		"freeze":                           "which account",
		"delete a/b":                       "is not an account name",
		"destroy treasury":                 "--confirm treasury",
		"destroy treasury --confirm vault": "nothing was destroyed",
		"destroy treasury --confirm=":      "nothing was destroyed",
		"csr treasury":                     "who is the certificate for",
		"csr treasury --template x --common-name y": "give no others",
		"csr treasury --template /nowhere":          "cannot be read",
	} {
		run(t, append([]string{"account"}, strings.Fields(args)...)...).want(t, 2, says)
	}
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}

func TestLifecycleErrors(t *testing.T) {
	s := engine(t)
	s.on("DELETE mpc/accounts/treasury", fails(403, "permission denied"))
	run(t, "account", "delete", "treasury").want(t, 1, `cannot delete account "treasury": permission denied`, `path "mpc/accounts/treasury" { capabilities = ["delete"] }`)
	s.on("DELETE mpc/accounts/treasury", fails(404, `there is no account "treasury"`))
	run(t, "account", "delete", "treasury").want(t, 1, `there is no account "treasury" (status 404)`, "mpckms account list")
	s.on("DELETE mpc/accounts/treasury", fails(500, "boom"))
	run(t, "account", "delete", "treasury").want(t, 1, "boom (status 500)", "doing it again does no harm")
	if n := len(s.called("DELETE mpc/accounts/treasury")); n != 3 {
		t.Errorf("%d requests for three commands: a deletion must not be repeated by itself", n)
	}
	s.on("PUT mpc/destroy/treasury", fails(403, "permission denied"))
	run(t, "account", "destroy", "treasury", "--confirm", "treasury").want(t, 1, `path "mpc/destroy/treasury" { capabilities = ["update", "sudo"] }`)
	s.on("PUT mpc/accounts/treasury/unfreeze", fails(409, "the account is not frozen"))
	run(t, "account", "unfreeze", "treasury").want(t, 1, "the account is not frozen (status 409)")
	s.on("GET mpc/accounts/treasury/jwk", data(`{}`))
	run(t, "account", "jwk", "treasury").want(t, 1, "holds no JWK")
	s.on("PUT mpc/accounts/treasury/csr", data(`{"csr":"hello"}`))
	run(t, "account", "csr", "treasury", "--common-name", "x").want(t, 1, "no certificate request")
}

// An answer without a body: the account is read under its new name.
func TestRenameWithBareAnswer(t *testing.T) {
	s := engine(t)
	s.on("PUT mpc/accounts/treasury/rename", raw(204, ""))
	s.on("GET mpc/accounts/vault", data(strings.Replace(accountData, `"treasury"`, `"vault"`, 1)))
	res := run(t, "account", "rename", "treasury", "vault")
	res.want(t, 0)
	if !strings.Contains(res.stdout, "vault") || len(s.called("GET mpc/accounts/vault")) != 1 {
		t.Errorf("stdout: %s", res.stdout)
	}
}

func TestCSRFiles(t *testing.T) {
	s := engine(t)
	dir := t.TempDir()
	out, template := filepath.Join(dir, "web.csr"), filepath.Join(dir, "old.csr")
	if err := os.WriteFile(template, []byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res := run(t, "account", "csr", "treasury", "--template", template, "--out", out)
	res.want(t, 0)
	if !strings.Contains(res.stdout, out) || strings.Contains(res.stdout, "BEGIN") {
		t.Errorf("stdout: %s", res.stdout)
	}
	if got, err := os.ReadFile(out); err != nil || !strings.Contains(string(got), "MIHR") {
		t.Errorf("the file: %s, %v", got, err)
	}
	if body := s.called("PUT mpc/accounts/treasury/csr")[0].body; !strings.Contains(body["csr"].(string), "AAAA") || len(body) != 1 {
		t.Errorf("sent %v", body)
	}
	s.forget()
	run(t, "account", "csr", "treasury", "--common-name", "x", "--out", out).want(t, 2, "exists already")
	if err := os.WriteFile(template, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "account", "csr", "treasury", "--template", template).want(t, 2, "no certificate request in PEM")
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}

// Without --limit all pages are read, and filters go with every one of them.
func TestListPages(t *testing.T) {
	s := engine(t)
	entry := func(name string) string {
		return `"` + name + `":{"algorithm":"ed25519","state":"active","metadata":{"team":"ops"}}`
	}
	s.on("LIST mpc/accounts", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("after") {
		case "":
			data(`{"keys":["eu-1","eu-2"],"key_info":{`+entry("eu-1")+`,`+entry("eu-2")+`},"next_after":"eu-2"}`)(w, r)
		case "eu-2":
			data(`{"keys":["eu-3"],"key_info":{`+entry("eu-3")+`}}`)(w, r)
		default:
			fails(400, "unexpected page")(w, r)
		}
	})
	res := run(t, "account", "list", "--prefix", "eu-", "--algorithm", "ed25519", "--state", "active", "--metadata", "team=ops", "-o", "json")
	res.want(t, 0)
	var doc accountListDoc
	if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil || len(doc.Accounts) != 3 || doc.NextAfter != "" {
		t.Errorf("%v: %s", err, res.stdout)
	}
	calls := s.called("LIST mpc/accounts")
	if len(calls) != 2 {
		t.Fatalf("%d requests, want 2", len(calls))
	}
	for i, want := range []string{
		"algorithm=ed25519&details=true&limit=1000&list=true&metadata=team%3Dops&prefix=eu-&state=active",
		"after=eu-2&algorithm=ed25519&details=true&limit=1000&list=true&metadata=team%3Dops&prefix=eu-&state=active",
	} {
		if got := calls[i].query.Encode(); got != want {
			t.Errorf("request %d asks for %s\nwant %s", i+1, got, want)
		}
	}

	res = run(t, "account", "list", "--limit", "2")
	res.want(t, 0)
	if !strings.Contains(res.stdout, "There are more: --after eu-2") || strings.Contains(res.stdout, "eu-3") {
		t.Errorf("stdout: %s", res.stdout)
	}
	run(t, "account", "list", "--limit", "0").want(t, 2, "--limit takes 1 to 1000")
	run(t, "account", "list", "--limit", "1001").want(t, 2, "--limit takes 1 to 1000")
}

// A server that ignores filters must not have its list taken for the answer.
func TestListUnfiltered(t *testing.T) {
	s := engine(t)
	for _, args := range []string{"--prefix eu-", "--algorithm ed25519", "--state deleted", "--metadata region", "--metadata team=treasury", "--after hot"} {
		run(t, append([]string{"account", "list"}, strings.Fields(args)...)...).want(t, 1, "does not fit what was asked for")
	}
	run(t, "account", "list", "--prefix", "").want(t, 0)
	s.on("LIST mpc/accounts", fails(404))
	res := run(t, "account", "list", "--state", "deleted")
	res.want(t, 0)
	if res.stdout != "No account fits.\n" {
		t.Errorf("stdout: %q", res.stdout)
	}
	s.on("LIST mpc/accounts", data(`{"keys":["a"],"key_info":{"a":{"algorithm":"x"}},"next_after":"a"}`))
	run(t, "account", "list").want(t, 1, "go in a circle")
}
