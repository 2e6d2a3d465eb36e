package cli

import (
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

// finds returns the findings of a check; there may be none.
func finds(doc doctorDoc, area, check string) (found []doctor.Finding) {
	for _, f := range doc.Checks {
		if f.Area == area && f.Check == check {
			found = append(found, f)
		}
	}
	return found
}

// Policies that can be kept, and those that cannot.
func TestDoctorPolicies(t *testing.T) {
	const page = "https://vault.example.com"
	person := func(name string, checked string, kinds ...string) string {
		var keys []string
		for _, k := range kinds {
			keys = append(keys, fmt.Sprintf(`{"key_id":"%s-%s","kind":"%s","name":"phone","rp_id":"vault.example.com","origins":["%s"]}`, name, k, k, page))
		}
		return fmt.Sprintf(`{"name":"%s","id":"id-%s","requesters":["none"],"keys":[%s],"checked":[%s]}`, name, name, strings.Join(keys, ","), checked)
	}
	policy := func(quorum, factors, signature int, people ...string) string {
		return fmt.Sprintf(`{"name":"gold","required":true,"quorum":%d,"factors":%d,"signature_factors":%d,"approvers":[%s]}`, quorum, factors, signature, strings.Join(people, ","))
	}
	approverOf := func(name, identity, totp string, kinds ...string) string {
		var keys []string
		for _, k := range kinds {
			keys = append(keys, fmt.Sprintf(`{"key_id":"%s-%s","kind":"%s","name":"phone","checked_by":"nodes"}`, name, k, k))
		}
		return fmt.Sprintf(`{"name":"%s","id":"id-%s","identity":"%s","factors":[%s],"totp":{"state":"%s"}}`, name, name, identity, strings.Join(keys, ","), totp)
	}
	two := policy(2, 2, 1, person("ada", `"totp"`, "device", "certificate"), person("ben", `"totp"`, "device"))
	whole := map[string]string{"ada": approverOf("ada", "", "confirmed", "device", "certificate"), "ben": approverOf("ben", "", "confirmed", "device")}
	for _, test := range []struct {
		name, policy string
		here         map[string]string // approvers of the directory
		ui           string
		check        string
		result       doctor.Result // "" for no finding
		says         string
	}{
		{"good", two, whole, "", "policies", doctor.OK, "none of 1 account with a policy lacks"},
		{"good, no warning", two, whole, "", "former approvers", "", ""},
		{"good, no passkeys", two, whole, "", "passkeys", "", ""},
		{"a one-time code deleted", two, map[string]string{"ada": whole["ada"], "ben": approverOf("ben", "", "none", "device")}, "", "policies", doctor.Problem, "gold (1 of 2)"},
		{"a one-time code not confirmed", two, map[string]string{"ada": whole["ada"], "ben": approverOf("ben", "", "unconfirmed", "device")}, "", "policies", doctor.Problem, "signs nothing"},
		{"deleted, who needed a code", two, map[string]string{"ada": whole["ada"]}, "", "policies", doctor.Problem, "gold (1 of 2)"},
		{"deleted, whose keys suffice", two, map[string]string{"ben": whole["ben"]}, "", "policies", doctor.OK, ""},
		{"deleted, and counted on", two, map[string]string{"ben": whole["ben"]}, "", "former approvers", doctor.Warning, "account policy set"},
		{"another of the name", two, map[string]string{"ben": whole["ben"], "ada": strings.Replace(whole["ada"], "id-ada", "id-new", 1)}, "", "former approvers", doctor.Warning, "gold"},
		{"a key deleted", two, map[string]string{"ada": approverOf("ada", "", "confirmed", "device"), "ben": whole["ben"]}, "", "former approvers", doctor.Warning, "gold"},
		{"login", policy(1, 2, 1, person("ada", `"login"`, "device")), map[string]string{"ada": approverOf("ada", "ada", "none", "device")}, "", "policies", doctor.OK, ""},
		{"login, the identity gone", policy(1, 2, 1, person("ada", `"login"`, "device")), map[string]string{"ada": approverOf("ada", "", "none", "device")}, "", "policies", doctor.Problem, "identities behind"},
		{"a quorum left", policy(1, 2, 1, person("ada", `"totp"`, "device"), person("ben", `"totp"`, "device")), map[string]string{"ben": whole["ben"]}, "", "policies", doctor.OK, ""},
		{"too few signatures", policy(1, 2, 2, person("ben", `"totp"`, "device")), whole, "", "policies", doctor.Problem, "gold (0 of 1)"},
		{"passkeys", policy(1, 2, 2, person("ada", ``, "device", "passkey")), nil, page, "policies", doctor.OK, ""},
		{"passkeys, on their page", policy(1, 2, 2, person("ada", ``, "device", "passkey")), nil, page, "passkeys", "", ""},
		{"passkeys without a page", policy(1, 2, 2, person("ada", ``, "device", "passkey")), nil, "", "policies", doctor.Problem, "gold (0 of 1)"},
		{"passkeys without a page, said", policy(1, 2, 2, person("ada", ``, "device", "passkey")), nil, "", "passkeys", doctor.Warning, "vault write mpc/config/ui"},
		{"passkeys of another page", policy(1, 2, 1, person("ada", `"totp"`, "device", "passkey")), map[string]string{"ada": approverOf("ada", "", "confirmed", "device", "passkey")}, "https://other.example.com", "passkeys", doctor.Warning, "gold"},
		{"passkeys of another page, not needed", policy(1, 2, 1, person("ada", `"totp"`, "device", "passkey")), map[string]string{"ada": approverOf("ada", "", "confirmed", "device", "passkey")}, "https://other.example.com", "policies", doctor.OK, ""},
		{"passkeys, the page unknown", policy(1, 2, 2, person("ada", ``, "device", "passkey")), nil, "denied", "policies", doctor.OK, ""},
		{"no policies", `{"name":"gold","required":false}`, nil, "", "policies", doctor.OK, "no account looked at has one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy(t)
			s.on("LIST mpc/accounts", data(`{"keys":["gold"]}`))
			s.on("GET mpc/accounts/gold", data(soon(accountData)))
			s.on("GET mpc/accounts/gold/policy", data(test.policy))
			s.on("GET mpc/config/ui", data(`{"public_url":"`+test.ui+`","rp_id":"","origins":[]}`))
			if test.ui == "denied" {
				s.on("GET mpc/config/ui", fails(403, "permission denied"))
			}
			var names []string
			for name, approver := range test.here {
				names = append(names, `"`+name+`"`)
				s.on("GET mpc/approvers/"+name, data(approver))
			}
			s.on("LIST mpc/approvers", data(`{"keys":[`+strings.Join(names, ",")+`]}`))
			_, doc := examineWith(t)
			found := finds(doc, areaApprovals, test.check)
			switch {
			case test.result == "" && len(found) > 0:
				t.Errorf("%+v", found)
			case test.result != "" && (len(found) != 1 || found[0].Result != test.result || !strings.Contains(found[0].Says+"\n"+found[0].Mend, test.says)):
				t.Errorf("%+v\nwant %s with %q", found, test.result, test.says)
			}
			if calls := s.called("LIST mpc/accounts"); calls[len(calls)-1].query.Get("policy") != "true" {
				t.Errorf("%+v", calls)
			}
		})
	}
	s := healthy(t)
	s.on("LIST mpc/accounts", data(`{"keys":["treasury"],"next_after":"treasury"}`))
	_, doc := examineWith(t)
	if f := finding(t, doc, areaApprovals, "further policies"); f.Result != doctor.NotChecked {
		t.Errorf("%+v", f)
	}
	for name, key := range map[string]string{"accounts": "LIST mpc/accounts", "a policy": "GET mpc/accounts/gold/policy", "approvers": "LIST mpc/approvers", "an approver": "GET mpc/approvers/ada"} {
		s := healthy(t)
		s.on("LIST mpc/accounts", data(`{"keys":["gold"]}`))
		s.on("GET mpc/accounts/gold", data(soon(accountData)))
		s.on("GET mpc/accounts/gold/policy", data(two))
		s.on("LIST mpc/approvers", data(`{"keys":["ada"]}`))
		s.on("GET mpc/approvers/ada", data(whole["ada"]))
		s.on(key, fails(403, "permission denied"))
		_, doc := examineWith(t)
		if f := finding(t, doc, areaApprovals, "policies"); f.Result != doctor.NotChecked || !strings.Contains(f.Says, "the token may not") {
			t.Errorf("%s hidden: %+v", name, f)
		}
	}
}

// Logins need identity keys.
func TestDoctorLogins(t *testing.T) {
	keys := func(identity int, complete bool) string {
		return fmt.Sprintf(`{"keys":["1","2"],"key_info":{"1":{"state":"destroyed","references":{"complete":false}},"2":{"state":"live","references":{"identity_keys":%d,"complete":%v}}}}`, identity, complete)
	}
	for _, test := range []struct {
		name, authenticators, keys string
		result                     doctor.Result
		says                       string
	}{
		{"nobody", `{"keys":[]}`, keys(0, true), doctor.OK, "nobody logs in"},
		{"good", `{"keys":["ada","ben"]}`, keys(1, false), doctor.OK, "2 authenticators"},
		{"counting", `{"keys":["ada"]}`, keys(0, false), doctor.NotChecked, "still counts"},
		{"lost", `{"keys":["ada"]}`, keys(0, true), doctor.Problem, "backup"},
		{"unreadable", `{"keys":["ada"]}`, `{"keys":["1"],"key_info":{"1":[]}}`, doctor.NotChecked, "cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy(t)
			s.on("LIST mpc/authenticators", data(test.authenticators))
			s.on("LIST mpc/wrapping-keys", data(test.keys))
			_, doc := examineWith(t)
			if f := finding(t, doc, areaIdentities, "logins"); f.Result != test.result || !strings.Contains(f.Says+"\n"+f.Mend, test.says) {
				t.Errorf("%+v, want %s with %q", f, test.result, test.says)
			}
		})
	}
	for _, key := range []string{"LIST mpc/authenticators", "LIST mpc/wrapping-keys"} {
		s := healthy(t)
		s.on("LIST mpc/authenticators", data(`{"keys":["ada"]}`))
		s.on(key, fails(403, "permission denied"))
		_, doc := examineWith(t)
		if f := finding(t, doc, areaIdentities, "logins"); f.Result != doctor.NotChecked {
			t.Errorf("%s hidden: %+v", key, f)
		}
	}
}
