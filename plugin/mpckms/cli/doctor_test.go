package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

const catalogSum = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"

// healthy is a mount that doctor has nothing to say about, seen from a machine
// that is not Vault's.
func healthy(t *testing.T) *server {
	s := engine(t)
	s.on("GET sys/seal-status", data(`{"sealed":false}`))
	s.on("GET auth/token/lookup-self", data(`{"ttl":86400,"policies":["default","operator"],"renewable":true}`))
	s.on("PUT sys/capabilities-self", data(`{"mpc/accounts":["list"],"mpc/accounts/doctor":["read","update"],"mpc/nodes":["list"],"mpc/nodes/local-1":["read"],
		"mpc/wrapping-keys":["list"],"mpc/config/hsm":["read","sudo"],"mpc/config/rotation":["read","sudo"],"mpc/config/recovery":["read","sudo"]}`))
	s.on("GET sys/internal/ui/mounts/mpc", data(`{"type":"mpc","plugin_version":"v0.1.0","running_plugin_version":"v0.1.0","running_sha256":"`+catalogSum+`"}`))
	s.on("GET sys/plugins/catalog/secret/mpc", data(`{"builtin":false,"command":"vault-plugin-secrets-mpc","name":"mpc","sha256":"`+catalogSum+`","version":"v0.1.0"}`))
	s.on("GET sys/config/state/sanitized", data(`{"plugin_directory":"/nowhere/plugins"}`))
	s.on("GET sys/audit", data(`{"file/":{"type":"file"}}`))
	s.on("LIST mpc/nodes", data(`{"keys":["local-1","local-2"]}`))
	s.on("GET mpc/nodes/local-2", data(strings.Replace(node1, "local-1", "local-2", 1)))
	s.on("GET mpc/config/rotation", data(`{"refresh_period":600,"accounts":2,"refreshed_total":7,"last_error":{},"rewrap":{"version":3,"done":2,"total":2,"last_error":{}},"catch_up":{}}`))
	s.on("LIST mpc/wrapping-keys", data(wrappingList))
	s.on("LIST mpc/accounts", data(`{"keys":["treasury"]}`))
	s.on("GET mpc/accounts/treasury", data(soon(accountData)))
	s.on("GET mpc/config/recovery", data(`{"serial":1,"recipients":["alice","bob","carol"]}`))
	s.on("GET mpc/config/ui", data(`{"public_url":"","rp_id":"","origins":[],"qr_period":2}`))
	s.on("GET mpc/accounts/treasury/policy", data(`{"name":"treasury","required":false}`))
	s.on("LIST mpc/authenticators", data(`{"keys":[]}`))
	return s
}

// soon is an account whose next refresh is not overdue.
func soon(account string) string {
	return strings.Replace(account, "2026-01-02T03:24:05Z", time.Now().Add(time.Minute).UTC().Format(time.RFC3339), 1)
}

func examineWith(t *testing.T, args ...string) (result, doctorDoc) {
	t.Helper()
	res := runConfig(t, Config{Args: append([]string{"doctor", "-o", "json"}, args...), Version: "0.1.0"})
	var doc doctorDoc
	if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil {
		t.Fatalf("%v: %s%s", err, res.stdout, res.stderr)
	}
	code := 0
	if doc.Problems > 0 {
		code = 1
	}
	if res.code != code {
		t.Errorf("exit code %d with %d problems", res.code, doc.Problems)
	}
	return res, doc
}

func finding(t *testing.T, doc doctorDoc, area, check string) doctor.Finding {
	t.Helper()
	var found []doctor.Finding
	for _, f := range doc.Checks {
		if f.Area == area && f.Check == check {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d findings of %s, %s", len(found), area, check)
	}
	return found[0]
}

func TestDoctorHealthy(t *testing.T) {
	healthy(t)
	_, doc := examineWith(t)
	if doc.Problems != 0 || doc.Warnings != 0 || doc.DropIn != "" {
		t.Errorf("%+v", doc)
	}
	for _, f := range doc.Checks {
		if f.Result != doctor.OK && !(f.Result == doctor.NotChecked && (f.Area == areaModules || f.Area == areaSystemd || f.Check == "plugin file")) {
			t.Errorf("%+v", f)
		}
	}
	for _, format := range []string{"table", "json"} {
		res := runConfig(t, Config{Args: []string{"doctor", "-o", format}, Version: "0.1.0"})
		res.want(t, 0)
		out := strings.ReplaceAll(res.stdout, vaultAddr(), "http://vault:8200")
		golden(t, "doctor."+format, out)
	}
}

// Each thing broken alone: doctor says that, and in words that mend it.
func TestDoctorFinds(t *testing.T) {
	node := func(change ...string) http.HandlerFunc {
		return data(strings.NewReplacer(append(change, "local-1", "local-2")...).Replace(node1))
	}
	hsm := func(change ...string) http.HandlerFunc { return data(strings.NewReplacer(change...).Replace(hsmData)) }
	account := func(change ...string) http.HandlerFunc {
		return data(strings.NewReplacer(change...).Replace(soon(accountData)))
	}
	denied := fails(403, "permission denied")
	gone := fails(404)
	ago := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	at := func(d time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(d).UTC().Format(http.TimeFormat))
			data(`{"sealed":false}`)(w, r)
		}
	}
	versions := func(n int) http.HandlerFunc {
		keys, info := make([]string, n), make([]string, n)
		for i := range n {
			keys[i], info[i] = fmt.Sprintf("%q", fmt.Sprint(i+1)), fmt.Sprintf(`"%d":{"state":"retired"}`, i+1)
		}
		return data(`{"keys":[` + strings.Join(keys, ",") + `],"key_info":{` + strings.Join(info, ",") + `}}`)
	}
	for _, test := range []struct {
		name, key   string
		answer      http.HandlerFunc
		area, check string
		result      doctor.Result
		says        string
	}{
		{"not initialized", "GET sys/health", raw(200, `{"initialized":false,"sealed":true,"version":"1.21.0"}`), areaVault, "initialized", doctor.Problem, "vault operator init"},
		{"sealed", "GET sys/health", raw(200, `{"initialized":true,"sealed":true,"version":"1.21.0"}`), areaVault, "unsealed", doctor.Problem, "vault operator unseal"},
		{"not Vault", "GET sys/health", raw(200, `<html>`), areaVault, "reachable", doctor.Problem, "VAULT_ADDR"},
		{"standby", "GET sys/health", raw(200, `{"initialized":true,"standby":true,"version":"1.21.0"}`), areaVault, "role", doctor.OK, "standby"},
		{"old", "GET sys/health", raw(200, `{"initialized":true,"version":"1.14.9+ent"}`), areaVault, "version", doctor.Problem, "older than 1.15"},
		{"other kind of version", "GET sys/health", raw(200, `{"initialized":true,"version":"main"}`), areaVault, "version", doctor.NotChecked, "main"},
		{"OpenBao", "GET sys/health", raw(200, `{"initialized":true,"version":"2.3.1"}`), areaVault, "version", doctor.OK, "2.3.1"},
		{"clock ahead", "GET sys/seal-status", at(2 * time.Hour), areaVault, "clock", doctor.Problem, "about 2h0m"},
		{"clock behind", "GET sys/seal-status", at(-20 * time.Second), areaVault, "clock", doctor.Warning, "NTP"},
		{"no clock", "GET sys/seal-status", fails(500), areaVault, "clock", doctor.NotChecked, "no time"},
		{"no audit", "GET sys/audit", data(`{}`), areaVault, "audit", doctor.Warning, "vault audit enable"},
		{"audit denied", "GET sys/audit", denied, areaVault, "audit", doctor.NotChecked, "may not read sys/audit"},

		{"dead token", "GET auth/token/lookup-self", denied, areaToken, "valid", doctor.Problem, "vault login"},
		{"root token", "GET auth/token/lookup-self", data(`{"ttl":0,"policies":["root"]}`), areaToken, "rights", doctor.Warning, "root token"},
		{"short token", "GET auth/token/lookup-self", data(`{"ttl":60,"policies":["p"],"renewable":false}`), areaToken, "lifetime", doctor.Warning, "ends in 1m"},
		{"endless token", "GET auth/token/lookup-self", data(`{"ttl":0,"policies":["p"]}`), areaToken, "lifetime", doctor.OK, "does not end"},
		{"few rights", "PUT sys/capabilities-self", data(`{"mpc/config/hsm":["read"]}`), areaToken, "rights on mpc/", doctor.Warning, `path "mpc/config/hsm" { capabilities = ["read", "sudo"] }`},
		{"rights unknown", "PUT sys/capabilities-self", denied, areaToken, "rights on mpc/", doctor.NotChecked, "sys/capabilities-self"},

		{"no mount", "GET sys/internal/ui/mounts/mpc", fails(400, "no secret engine mount at mpc/"), areaPlugin, "mount", doctor.Problem, "vault secrets enable -path=mpc mpc"},
		{"other engine", "GET sys/internal/ui/mounts/mpc", data(`{"type":"kv","running_plugin_version":"v0.1.0"}`), areaPlugin, "mount", doctor.Warning, `of type "kv"`},
		{"not registered", "GET sys/plugins/catalog/secret/mpc", gone, areaPlugin, "registered", doctor.Problem, "vault plugin register"},
		{"catalog denied", "GET sys/plugins/catalog/secret/mpc", denied, areaPlugin, "registered", doctor.NotChecked, "may not read"},
		{"other build registered", "GET sys/plugins/catalog/secret/mpc", data(`{"command":"x","sha256":"00","version":"v0.1.0"}`), areaPlugin, "running build", doctor.Warning, "vault plugin reload"},
		{"other version registered", "GET sys/plugins/catalog/secret/mpc", data(`{"command":"x","sha256":"` + catalogSum + `","version":"v0.2.0"}`), areaPlugin, "running version", doctor.Warning, "v0.1.0 runs"},
		{"other mpckms", "GET sys/internal/ui/mounts/mpc", data(`{"type":"mpc","running_plugin_version":"v0.9.0"}`), areaPlugin, "mpckms version", doctor.Warning, "Install mpckms 0.9.0"},
		{"build unknown", "GET sys/internal/ui/mounts/mpc", data(`{"type":"mpc"}`), areaPlugin, "running build", doctor.NotChecked, "does not say"},
		{"folder elsewhere", "GET sys/config/state/sanitized", data(`{"plugin_directory":"/nowhere"}`), areaPlugin, "plugin file", doctor.NotChecked, "not Vault's host"},
		{"folder unknown", "GET sys/config/state/sanitized", denied, areaPlugin, "plugin file", doctor.NotChecked, "--plugin-file"},

		{"no HSM", "GET mpc/config/hsm", gone, areaHSM, "configured", doctor.Problem, "vault write mpc/config/hsm"},
		{"HSM denied", "GET mpc/config/hsm", denied, areaHSM, "configured", doctor.NotChecked, "may not read mpc/config/hsm"},
		{"PIN refused", "GET mpc/config/hsm", hsm(`"pin_set":true`, `"pin_set":true,"pin_refused":"the token refused the PIN (2026-01-02T03:04:05Z)"`), areaHSM, "PIN", doctor.Problem, "pin=-"},
		{"no PIN", "GET mpc/config/hsm", hsm(`"pin_set":true`, `"pin_set":false`), areaHSM, "PIN", doctor.Problem, "no PIN is stored"},
		{"host's PIN", "GET mpc/config/hsm", hsm(`"pin_set":true`, `"pin_set":false,"pin_source":"host"`), areaHSM, "PIN", doctor.OK, "host provides"},

		{"failed node", "GET mpc/nodes/local-2", node(`"ready"`, `"failed"`, `"last_error":""`, `"last_error":"no such token"`), areaNodes, "local-2", doctor.Problem, "no such token"},
		{"restarting node", "GET mpc/nodes/local-2", node(`"state":"ready"`, `"state":"restarting"`), areaNodes, "local-2", doctor.Problem, "it is restarting"},
		{"node without HSM", "GET mpc/nodes/local-2", node(`"ok"`, `"not connected"`), areaNodes, "local-2", doctor.Problem, "cannot use the HSM: not connected"},
		{"too few nodes", "GET mpc/nodes/local-2", node(`"ok"`, `"not connected"`), areaNodes, "together", doctor.Problem, "1 of 2 work"},
		{"restarted node", "GET mpc/nodes/local-2", node(`"restarts":0`, `"restarts":3`, `"last_error":""`, `"last_error":"killed"`), areaNodes, "local-2", doctor.Warning, "after 3 restarts; last error: killed"},
		{"old node", "GET mpc/nodes/local-2", node(`"v0.1.0"`, `"v0.0.9"`), areaNodes, "local-2", doctor.Warning, "version v0.0.9"},
		{"no auxiliary keys", "GET mpc/nodes/local-2", node(`"aux_state":"ready"`, `"aux_state":"generating"`, `100`, `40`), areaNodes, "local-2 auxiliary keys", doctor.Warning, "generating 40 %"},
		{"old auxiliary keys", "GET mpc/nodes/local-2", node(`"aux_generation":1`, `"aux_generation":1,"aux_next_due":"`+ago+`"`), areaNodes, "local-2 auxiliary keys", doctor.Warning, "were due at"},
		{"nodes denied", "LIST mpc/nodes", denied, areaNodes, "all", doctor.NotChecked, "may not list mpc/nodes"},

		{"failing refreshes", "GET mpc/config/rotation", data(rotationData), areaRotation, "refreshes", doctor.Problem, "HSM unavailable"},
		{"failing rewraps", "GET mpc/config/rotation", data(rotationData), areaRotation, "rewraps", doctor.Warning, "the token is away"},
		{"a failed refresh", "GET mpc/config/rotation", data(strings.Replace(rotationData, `"waiting_in_backoff":1`, `"waiting_in_backoff":0`, 1)), areaRotation, "refreshes", doctor.Warning, "2 of 1236 failed"},
		{"the engine's own warning", "GET mpc/config/rotation", raw(200, `{"data":{"last_error":{},"rewrap":{"last_error":{}}},"warnings":["aux_period is 0"]}`), areaRotation, "settings", doctor.Warning, "aux_period is 0"},
		{"rotation denied", "GET mpc/config/rotation", denied, areaRotation, "refreshes", doctor.NotChecked, "may not read"},
		{"many versions", "LIST mpc/wrapping-keys", versions(50), areaRotation, "wrapping keys", doctor.Warning, "50 of at most 64"},
		{"too many versions", "LIST mpc/wrapping-keys", versions(64), areaRotation, "wrapping keys", doctor.Problem, "rewrapping is paused"},
		{"versions denied", "LIST mpc/wrapping-keys", denied, areaRotation, "wrapping keys", doctor.NotChecked, "may not list"},
		{"overdue account", "GET mpc/accounts/treasury", data(strings.Replace(accountData, "2026-01-02T03:24:05Z", ago, 1)), areaRotation, "overdue accounts", doctor.Warning, "treasury"},
		{"failing account", "GET mpc/accounts/treasury", account(`"last_refresh_error":""`, `"last_refresh_error":"no node"`), areaRotation, "failing accounts", doctor.Problem, "treasury"},
		{"restored storage", "GET mpc/accounts/treasury", account(`"spares_allowed":true`, `"spares_allowed":false`), areaRotation, "restored storage", doctor.Warning, "rotation catch-up --all"},
		{"old recipients", "GET mpc/accounts/treasury", account(`"state":"active"`, `"state":"active","recipients_current":false`), areaRotation, "recipients", doctor.Warning, "treasury"},
		{"accounts denied", "LIST mpc/accounts", denied, areaRotation, "accounts", doctor.NotChecked, "may not list"},
		{"account denied", "GET mpc/accounts/treasury", denied, areaRotation, "accounts", doctor.NotChecked, "may not read"},

		{"no custodians", "GET mpc/config/recovery", gone, areaRecovery, "custodians", doctor.Warning, "docs/recovery.md"},
		{"custodians denied", "GET mpc/config/recovery", denied, areaRecovery, "custodians", doctor.NotChecked, "may not read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy(t)
			s.on(test.key, test.answer)
			_, doc := examineWith(t)
			f := finding(t, doc, test.area, test.check)
			if f.Result != test.result || !strings.Contains(f.Says+"\n"+f.Mend, test.says) {
				t.Errorf("%s: %s\n%s\nwant %s with %q", f.Result, f.Says, f.Mend, test.result, test.says)
			}
			if f.Mend == "" && f.Result == doctor.Problem {
				t.Error("a problem without a way to mend it")
			}
		})
	}
}

// Where Vault cannot be asked, nothing of it is ok, and the host is looked at.
func TestDoctorWithoutVault(t *testing.T) {
	s := healthy(t)
	s.Close()
	file := filepath.Join(t.TempDir(), "vault.service")
	if err := os.WriteFile(file, []byte("[Service]\nPrivateDevices=yes\nLimitMEMLOCK=infinity\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, doc := examineWith(t, "--unit-file", file, "--hsm-path", "/dev/hsm0", "--modules", "m=/nowhere/m.so")
	if f := finding(t, doc, areaVault, "reachable"); f.Result != doctor.Problem || !strings.Contains(f.Mend, "Is Vault running") {
		t.Errorf("%+v", f)
	}
	for _, area := range []string{areaToken, areaPlugin, areaHSM, areaNodes, areaRotation, areaRecovery, areaApprovals} {
		if f := finding(t, doc, area, "all"); f.Result != doctor.NotChecked {
			t.Errorf("%+v", f)
		}
	}
	if f := finding(t, doc, areaModules, "module m"); f.Result != doctor.Problem {
		t.Errorf("%+v", f)
	}
	if f := finding(t, doc, areaSystemd, "PrivateDevices"); f.Result != doctor.Problem {
		t.Errorf("%+v", f)
	}
	if want := "# /etc/systemd/system/vault.service.d/mpc-hsm.conf\n[Service]\nPrivateDevices=no\n"; doc.DropIn != want {
		t.Errorf("drop-in %q", doc.DropIn)
	}
	res.want(t, 1, "3 problems")
	table := run(t, "doctor", "--unit-file", file, "--hsm-path", "/dev/hsm0")
	for _, want := range []string{"To mend", "systemctl daemon-reload", "[Service]\nPrivateDevices=no", "2 problems, 0 warnings"} {
		if !strings.Contains(table.stdout, want) {
			t.Errorf("%q is missing:\n%s", want, table.stdout)
		}
	}
	run(t, "doctor", "--hsm-path", "dev").want(t, 2, "absolute")
	run(t, "doctor", "--unit", "a", "--unit-file", "b").want(t, 2, "unit")
}

// The plugin's file on Vault's host is found through Vault, or named.
func TestDoctorPluginFile(t *testing.T) {
	s := healthy(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "vault-plugin-secrets-mpc")
	s.on("GET sys/config/state/sanitized", data(`{"plugin_directory":"`+dir+`"}`))
	check := func(result doctor.Result, says string, args ...string) {
		t.Helper()
		_, doc := examineWith(t, args...)
		if f := finding(t, doc, areaPlugin, "plugin file"); f.Result != result || !strings.Contains(f.Says, says) {
			t.Errorf("%+v, want %s with %q", f, result, says)
		}
	}
	check(doctor.Problem, "is not there")
	for content, result := range map[string]doctor.Result{"hello world": doctor.OK, "hello World": doctor.Problem} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o755); err != nil {
			t.Fatal(err)
		}
		check(result, "registered")
		check(result, "registered", "--plugin-file", file)
	}
	check(doctor.Problem, "is not there", "--plugin-file", file+"x")
}

// A mount that is pinned to no version, or is not there: Vault answers for a
// plugin only when asked by version.
func TestDoctorFindsTheVersion(t *testing.T) {
	for running, want := range map[string]string{"v0.1.0": "v0.1.0", "": "v0.2.0"} {
		s := healthy(t)
		s.on("GET sys/internal/ui/mounts/mpc", data(`{"type":"mpc","running_plugin_version":"`+running+`"}`))
		s.on("GET sys/plugins/catalog", data(`{"detailed":[{"type":"auth","name":"mpc","version":"v9"},{"type":"secret","name":"mpc","version":"v0.1.0"},
			{"type":"secret","name":"mpc","version":"v0.2.0"},{"type":"secret","name":"other","version":"v9"}]}`))
		examineWith(t)
		calls := s.called("GET sys/plugins/catalog/secret/mpc")
		if len(calls) != 1 || calls[0].query.Get("version") != want {
			t.Errorf("%q runs: asked for %v, want %s", running, calls, want)
		}
	}
}

func TestDoctorWithoutToken(t *testing.T) {
	s := healthy(t)
	t.Setenv("VAULT_TOKEN", "")
	_, doc := examineWith(t)
	if f := finding(t, doc, areaToken, "valid"); f.Result != doctor.Problem || !strings.Contains(f.Mend, "vault login") {
		t.Errorf("%+v", f)
	}
	if n := len(s.called("GET auth/token/lookup-self")); n != 0 {
		t.Error("a token that there is not was looked up")
	}
}
