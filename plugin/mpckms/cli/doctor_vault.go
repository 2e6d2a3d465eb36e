package cli

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

const (
	// oldestMinor is the first version 1.x of Vault whose plugins can be
	// registered with a version and an environment as this one needs.
	oldestMinor = 15
	// Clock differences. Times of the engine are the server's, so a few seconds
	// do no harm; more confuses people, and tokens and certificates.
	clockWarning, clockProblem = 5 * time.Second, time.Minute
	// shortTTL is when a token's end is worth a word.
	shortTTL = time.Hour
)

// examineVault returns why nothing else can be asked, or "".
func (x *examination) examineVault() (why string) {
	a := x.report.In(areaVault)
	status := statusDoc{}
	err := status.askVault(x.ctx, x.client)
	v := status.Vault
	if err != nil && !v.Reachable {
		_, advice, _ := strings.Cut(err.Error(), "\n")
		a.Problem("reachable", brief(err), advice)
		return "Vault is not reachable"
	}
	a.OK("reachable", v.Address)
	x.examineVersion(a, v.Version)
	x.examineClock(a)
	switch {
	case !v.Initialized:
		a.Problem("initialized", "Vault is not initialized", "vault operator init")
		return "Vault is not initialized"
	case v.Sealed:
		a.OK("initialized", "yes")
		a.Problem("unsealed", "Vault is sealed: no keys are used, and all of them are safe", "vault operator unseal")
		return "Vault is sealed"
	}
	a.OK("initialized", "yes")
	a.OK("unsealed", "yes")
	if v.Standby {
		a.OK("role", "standby: it passes requests on to the active server, whose host is another one")
	} else {
		a.OK("role", "active")
	}
	return ""
}

func (x *examination) examineVersion(a *doctor.Area, version string) {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	m, errMajor := strconv.Atoi(major)
	n, errMinor := strconv.Atoi(minor)
	switch {
	case errMajor != nil || errMinor != nil:
		a.Skip("version", fmt.Sprintf("%q is no version that can be compared", version))
	case m < 1 || m == 1 && n < oldestMinor:
		a.Problem("version", fmt.Sprintf("%s is older than 1.%d, which the plugin needs", version, oldestMinor), "Upgrade Vault.")
	default:
		a.OK("version", version)
	}
}

// examineClock compares the clocks by the Date of an answer, which has whole
// seconds.
func (x *examination) examineClock(a *doctor.Area) {
	before := time.Now()
	resp, err := x.vault.WithNamespace("").Logical().ReadRawWithDataWithContext(x.ctx, "sys/seal-status", nil)
	took := time.Since(before)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil || resp == nil {
		a.Skip("clock", "no time came with an answer")
		return
	}
	server, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		a.Skip("clock", "the answer has no Date")
		return
	}
	skew := server.Add(500 * time.Millisecond).Sub(before.Add(took / 2)).Abs()
	says := fmt.Sprintf("server and client differ by about %s", skew.Round(time.Second))
	const mend = "Have both set by NTP: timedatectl, chronyc tracking."
	switch {
	case skew > clockProblem:
		a.Problem("clock", says, mend)
	case skew > clockWarning+took:
		a.Warn("clock", says, mend)
	default:
		a.OK("clock", "server and client agree to some seconds")
	}
}

func (x *examination) examineToken() {
	a := x.report.In(areaToken)
	if !x.hasToken {
		a.Problem("valid", "no token is set", "vault login, or set VAULT_TOKEN.")
		return
	}
	var self struct {
		TTL       seconds  `json:"ttl"`
		Policies  []string `json:"policies"`
		Renewable bool     `json:"renewable"`
	}
	_, err := x.ask(request{sys: true, path: "auth/token/lookup-self"}, &self)
	var r *refusal
	switch {
	case errors.As(err, &r) && r.status == http.StatusForbidden:
		a.Problem("valid", "the token is expired or revoked, or may not look itself up", "vault login")
		return
	case err != nil:
		skip(a, "valid", err)
		return
	}
	a.OK("valid", "policies "+strings.Join(self.Policies, ", "))
	ttl := time.Duration(self.TTL) * time.Second
	switch {
	case slices.Contains(self.Policies, "root"):
		a.Warn("rights", "it is a root token, which may do everything and is worth stealing", "Work with a token of an operator's policy, and revoke this one.")
	case self.TTL != 0 && ttl < shortTTL && !self.Renewable:
		a.Warn("lifetime", fmt.Sprintf("it ends in %s and cannot be renewed", short(ttl)), "vault login")
	case self.TTL != 0:
		a.OK("lifetime", fmt.Sprintf("it ends in %s", short(ttl)))
	default:
		a.OK("lifetime", "it does not end")
	}
	x.examineRights(a)
}

// examineRights asks which of the paths that operators work with the token may
// use. config/ needs sudo besides.
func (x *examination) examineRights(a *doctor.Area) {
	m := x.client.mount + "/"
	needs := []struct {
		path string
		caps []string
	}{
		{m + "accounts", []string{capList}}, {m + "accounts/doctor", []string{capRead}},
		{m + "nodes", []string{capList}}, {m + "nodes/local-1", []string{capRead}},
		{m + "wrapping-keys", []string{capList}},
		{m + "config/hsm", []string{capRead, "sudo"}}, {m + "config/rotation", []string{capRead, "sudo"}},
		{m + "config/recovery", []string{capRead, "sudo"}},
	}
	paths := make([]string, len(needs))
	for i, n := range needs {
		paths[i] = n.path
	}
	var caps map[string][]string
	if _, err := x.ask(request{sys: true, what: "ask for the token's rights", capability: capUpdate, path: "sys/capabilities-self", body: map[string]any{"paths": paths}}, &caps); err != nil {
		skip(a, "rights on "+m, err)
		return
	}
	var lacking, policy []string
	for _, n := range needs {
		for _, c := range n.caps {
			if have := caps[n.path]; !slices.Contains(have, c) && !slices.Contains(have, "root") {
				lacking = append(lacking, n.path)
				policy = append(policy, `path "`+n.path+`" { capabilities = ["`+strings.Join(n.caps, `", "`)+`"] }`)
				break
			}
		}
	}
	if len(lacking) == 0 {
		a.OK("rights on "+m, "it may read settings, nodes, wrapping keys and accounts")
		return
	}
	a.Warn("rights on "+m, "it may not read "+strings.Join(lacking, ", ")+": what stands there is not checked",
		"Where operators use this token, their policy lacks:\n"+strings.Join(policy, "\n"))
}

func (x *examination) examineAudit() {
	a := x.report.In(areaVault)
	var devices map[string]any
	_, err := x.ask(request{sys: true, path: "sys/audit"}, &devices)
	switch {
	case err != nil:
		skip(a, "audit", err)
	case len(devices) == 0:
		a.Warn("audit", "no audit device is enabled: nobody can tell later who has signed what", "vault audit enable file file_path=/var/log/vault/audit.log")
	default:
		a.OK("audit", plural(len(devices), "device"))
	}
}
