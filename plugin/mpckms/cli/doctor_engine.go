package cli

import (
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

const (
	// maxLiveVersions is how many versions of the wrapping key the engine keeps
	// before it makes no more; manyVersions is when to say so.
	maxLiveVersions, manyVersions = 64, 48
	// overdueAfter is how long after its time a refresh, or a node's new
	// auxiliary keys, are still on their way.
	overdueAfter = 10 * time.Minute
	// maxExamined is how many accounts are read one by one.
	maxExamined = 100
)

// examineHSM reports whether a token is configured, as far as is known.
func (x *examination) examineHSM() bool {
	a := x.report.In(areaHSM)
	var conf struct {
		hsmStatus
		Source  string `json:"pin_source"`
		Refused string `json:"pin_refused"`
	}
	found, err := x.ask(request{path: "config/hsm"}, &conf)
	switch {
	case missing(err), err == nil && (!found || conf.URI == ""):
		var pool struct {
			Remote []string `json:"remote"`
		}
		if _, err := x.ask(request{path: "config/nodes"}, &pool); err == nil && len(pool.Remote) > 0 {
			a.OK("configured", "none here: nodes on other hosts have tokens of their own")
			return true
		}
		a.Problem("configured", "no HSM is configured", fmt.Sprintf("vault write %s/config/hsm uri='pkcs11:token=…?module-name=…' pin=-", x.client.mount))
		return false
	case err != nil:
		skip(a, "configured", err)
		return true
	}
	x.module = conf.Module
	a.OK("configured", strings.TrimSpace(fmt.Sprintf("token %s %s of %s %s, module %s", conf.TokenLabel, parenthesized(conf.TokenSerial), conf.TokenManufacturer, conf.TokenModel, conf.Module)))
	switch {
	case conf.Refused != "":
		a.Problem("PIN", "the token has refused it, and no node tries it again: "+conf.Refused,
			fmt.Sprintf("Find out the right PIN, and whether the token is locked; then: vault write %s/config/hsm pin=-", x.client.mount))
	case conf.Source == "host":
		a.OK("PIN", "each node's host provides it")
	case !conf.PINSet:
		a.Problem("PIN", "no PIN is stored", fmt.Sprintf("vault write %s/config/hsm pin=-", x.client.mount))
	default:
		a.OK("PIN", "stored in Vault, not refused")
	}
	return true
}

func (x *examination) examineNodes(configured bool) {
	a := x.report.In(areaNodes)
	if !configured {
		a.Skip("all", "nodes start once an HSM is configured")
		return
	}
	x.said = nil
	nodes, err := x.nodes(x.ctx)
	if err != nil {
		skip(a, "all", err)
		return
	}
	working := 0
	for _, n := range nodes {
		if n.working() {
			working++
		}
		x.examineNode(a, n)
	}
	says := fmt.Sprintf("%d of %d work", working, len(nodes))
	switch {
	case working < minWorking:
		a.Problem("together", fmt.Sprintf("%s, a signature needs at least %d", says, minWorking), "Mend the nodes; Vault's log says more. Keys and shares are safe meanwhile.")
	case working < len(nodes):
		a.Warn("together", says+": accounts with shares on the others cannot be refreshed", "Mend the nodes that do not.")
	default:
		a.OK("together", says)
	}
}

func (x *examination) examineNode(a *doctor.Area, n node) {
	last := ""
	if n.LastError != "" {
		last = "; last error: " + n.LastError
	}
	switch {
	case n.State == "failed":
		a.Problem(n.ID, "it has failed and is not started again by itself"+last, "Correct what the error names (mostly config/hsm or the module list), then write config/hsm again.")
	case n.Remote && n.State == nodeRestarting:
		a.Problem(n.ID, "it cannot be reached"+last, "On its host: vault-plugin-secrets-mpc node status, and its log. It is dialled again by itself, and signing goes on where threshold shares have a node.")
	case n.State != nodeReady:
		a.Problem(n.ID, "it is "+n.State+last, "It is tried again by itself. If that persists, see Vault's log.")
	case !n.working():
		a.Problem(n.ID, "it cannot use the HSM: "+n.HSM+last, "Is the token there, and reachable from the node's host? Nodes log in again by themselves.")
	case n.Restarts > 0:
		a.Warn(n.ID, fmt.Sprintf("ready since %s, after %s%s", moment(n.Since), plural(n.Restarts, "restart"), last), "Vault's log says why it ended.")
	case n.Version != "" && x.mount.RunningVersion != "" && strings.TrimPrefix(n.Version, "v") != strings.TrimPrefix(x.mount.RunningVersion, "v"):
		a.Warn(n.ID, fmt.Sprintf("it is of version %s, the plugin of %s", n.Version, x.mount.RunningVersion), "Reload the plugin: vault plugin reload -type=secret -plugin=mpc")
	default:
		a.OK(n.ID, "ready, HSM ok")
	}
	if !n.working() {
		return
	}
	due, err := time.Parse(time.RFC3339, n.AuxNextDue)
	switch {
	case !n.hasAux():
		a.Warn(n.ID+" auxiliary keys", n.aux()+": ECDSA signatures wait for them", "They are made by themselves after a start; 'mpckms status' shows how far they are.")
	case n.AuxNextDue != "" && err == nil && time.Since(due) > overdueAfter:
		a.Warn(n.ID+" auxiliary keys", "new ones were due at "+moment(n.AuxNextDue), "All nodes must be ready for that. If it persists, see Vault's log, or 'mpckms node renew "+n.ID+"'.")
	default:
		a.OK(n.ID+" auxiliary keys", n.AuxState)
	}
}

func (x *examination) examineRotation() {
	a := x.report.In(areaRotation)
	doc := rotationDoc{}
	if _, err := x.ask(request{path: "config/rotation"}, &doc); err != nil {
		skip(a, "refreshes", err)
		return
	}
	for _, said := range x.said {
		a.Warn("settings", said, "")
	}
	const more = "'mpckms rotation status' and Vault's log say more; shares stay good, they only become older."
	switch {
	case doc.Waiting > 0:
		a.Problem("refreshes", fmt.Sprintf("%s after a failed refresh; last: %s", waitAgain(doc.Waiting), doc.LastError), more)
	case doc.LastError.Error != "":
		a.Warn("refreshes", fmt.Sprintf("%d of %d failed since the server became active; last: %s", doc.Failed, doc.Failed+doc.Refreshed, doc.LastError), more)
	default:
		a.OK("refreshes", fmt.Sprintf("%d done, none failed, %d due now", doc.Refreshed, doc.Due))
	}
	r := doc.Rewrap
	switch {
	case r.LastError.Error != "":
		a.Warn("rewraps", r.LastError.String(), more)
	case r.Done < r.Total:
		a.OK("rewraps", fmt.Sprintf("on their way: %d of %d accounts are sealed to version %d", r.Done, r.Total, r.Version))
	default:
		a.OK("rewraps", fmt.Sprintf("all of %d accounts are sealed to version %d", r.Total, r.Version))
	}
}

func waitAgain(n int) string {
	if n == 1 {
		return "1 account waits"
	}
	return fmt.Sprintf("%d accounts wait", n)
}

func (x *examination) examineWrappingKeys() {
	a := x.report.In(areaRotation)
	x.said = nil
	found, err := x.list(x.ctx, "list the wrapping keys", "wrapping-keys")
	if err != nil {
		skip(a, "wrapping keys", err)
		return
	}
	kept := 0
	for _, key := range found.Keys {
		var k wrappingKey
		if err := decodeInfo(found.KeyInfo[key], &k); err != nil {
			a.Skip("wrapping keys", "what the list says about version "+key+" cannot be read")
			return
		}
		if k.State != "destroyed" {
			kept++
		}
	}
	says := fmt.Sprintf("%d of at most %d versions are kept", kept, maxLiveVersions)
	const mend = "Old versions go when nothing refers to them and retire_after has passed: see what holds them with\n'mpckms wrapping-key list', mend failing rewraps, lower retire_after or raise rewrap_period."
	switch {
	case kept >= maxLiveVersions:
		a.Problem("wrapping keys", says+": no new version is made, rewrapping is paused", mend)
	case kept >= manyVersions:
		a.Warn("wrapping keys", says, mend)
	default:
		a.OK("wrapping keys", says)
	}
}

// examineAccounts reads some accounts: what is wrong with single ones stands
// nowhere else.
func (x *examination) examineAccounts() {
	a := x.report.In(areaRotation)
	x.said = nil
	found, err := x.page(x.ctx, "list accounts", "accounts", map[string][]string{"limit": {fmt.Sprint(maxExamined)}})
	if err != nil {
		skip(a, "accounts", err)
		return
	}
	var overdue, failing, guarded, stale []string
	read := 0
	for _, name := range found.Keys[:min(len(found.Keys), maxExamined)] {
		if !validName(name) {
			continue
		}
		acc, err := x.readAccount(x.ctx, name)
		if missing(err) {
			continue // gone since the list was made
		}
		if err != nil {
			skip(a, "accounts", err)
			return
		}
		read++
		next, err := time.Parse(time.RFC3339, acc.NextRefresh)
		if err == nil && time.Since(next) > overdueAfter {
			overdue = append(overdue, name)
		}
		if acc.LastRefreshError != "" {
			failing = append(failing, name)
		}
		if acc.SparesAllowed != nil && !*acc.SparesAllowed {
			guarded = append(guarded, name)
		}
		if acc.RecipientsCurrent != nil && !*acc.RecipientsCurrent {
			stale = append(stale, name)
		}
	}
	of := fmt.Sprintf(" of %s looked at", plural(read, "account"))
	judge := func(check string, names []string, add func(check, says, mend string), good, bad, mend string) {
		if len(names) == 0 {
			a.OK(check, good+of)
			return
		}
		shown := names[:min(len(names), 5)]
		says := fmt.Sprintf("%d%s %s: %s", len(names), of, bad, strings.Join(shown, ", "))
		if len(shown) < len(names) {
			says += ", …"
		}
		add(check, says, mend)
	}
	judge("overdue accounts", overdue, a.Warn, "none", "should have new shares by now", "mpckms rotation catch-up; if they stay overdue, raise rate and concurrency in config/rotation.")
	judge("failing accounts", failing, a.Problem, "none", "could not be refreshed", "'mpckms account show NAME' says why.")
	judge("restored storage", guarded, a.Warn, "no restore is pending for any", "use no spare nodes, since storage was restored or may have been",
		"It ends with each account's next refresh: mpckms rotation catch-up --all")
	judge("recipients", stale, a.Warn, "none is behind the recipients in force, out", "are sealed to other recovery recipients than those in force", "Their next refresh changes that: mpckms rotation catch-up --all")
}

func (x *examination) examineRecovery() {
	a := x.report.In(areaRecovery)
	var set struct {
		Recipients []string `json:"recipients"`
	}
	_, err := x.ask(request{path: "config/recovery"}, &set)
	switch {
	case missing(err), err == nil && len(set.Recipients) == 0:
		a.Warn("custodians", "there are none: who loses the HSM loses every account", "docs/recovery.md: mpckms authority init, recovery keygen, authority sign-set, recovery set")
	case err != nil:
		skip(a, "custodians", err)
	default:
		a.OK("custodians", strings.Join(set.Recipients, ", "))
	}
}
