//go:build e2e

package e2e_test

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestHelpExamples runs every command of every path's help as it is written, on
// a mount called mpc whose token is called prod. A path that is new is picked up
// by itself; what its examples need goes into one of the tables below.

// lateExamples are run after those of all other paths, lowest number first: what
// changes the mount for good, or removes what other examples use.
var lateExamples = map[string]int{ // read only
	"nodes/:id/renew":       1, // the processor is busy with it
	"config/authority":      1,
	"config/recovery":       2,
	"recovery/export/:name": 3,
	"recovery/target":       4,
	"recovery/import/:name": 5,
	"recovery/restored":     6,
	"accounts/:name/rename": 7,
	"config/nodes":          8,
	"destroy/:name":         9,
	"destroy/wrapping-keys": 10,
}

// prerequisites are run before the command that begins so. Accounts need none:
// before the commands of each path alice (bip340-secp256k1), bob
// (ecdsa-secp256k1) and web (ecdsa-p256) are there and active. Nor do identities:
// before those of a path about them there are the authenticator alice-password,
// the identity alice with the asset mail, and a bound device.
var prerequisites = map[string]string{ // read only
	"vault write mpc/config/coordinator certificate":     "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout mpc.key -subj /CN=mpc -addext extendedKeyUsage=clientAuth -days 30 -out mpc.crt",
	"vault write mpc/accounts/web/csr csr=@template.csr": "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout template.key -subj /CN=www.example.com -out template.csr",
	"vault read mpc/accounts list=true state=frozen":     "vault write mpc/accounts/zoe algorithm=ed25519 metadata=team=ops; vault write -force mpc/accounts/zoe/freeze",
	"vault write -force mpc/accounts/alice/restore":      "vault delete mpc/accounts/alice",
	"vault write -force mpc/accounts/alice/unfreeze":     "vault write -force mpc/accounts/alice/freeze",
	"vault read mpc/wrapping-keys/3":                     "vault write -force mpc/wrapping-keys/rotate; vault write -force mpc/wrapping-keys/rotate",
	"vault write mpc/config/authority":                   "umask 077; printf 'correct horse battery\\n' > passphrase; mpckms authority init --out authority.key --passphrase-file passphrase",
	"vault write mpc/config/recovery": `for who in alice bob carol; do mpckms recovery keygen --name $who --out $who.key --passphrase-file passphrase; done;
		mpckms authority sign-set alice.key.pub bob.key.pub carol.key.pub --serial 1 --key authority.key --out recipients.json --yes --passphrase-file passphrase`,
	"vault read -field=bundle mpc/recovery/export/treasury": "vault write mpc/accounts/treasury algorithm=bip340-secp256k1",
	"mpckms recovery import treasury": `mpckms authority sign-target target.json --key authority.key --out target.signed.json --yes --passphrase-file passphrase;
		for who in alice carol; do mpckms recovery deal --key $who.key --bundle treasury.bundle --target target.signed.json --authority authority.key.pub --out $who.deal --passphrase-file passphrase; done`,
	"vault write mpc/accounts/alice/rename": "vault delete mpc/destroy/treasury",
	"vault write -force mpc/destroy/wrapping-keys": `for name in $(vault list -format=json mpc/accounts | tr -d '[]",'); do vault delete mpc/destroy/$name; done;
		vault delete mpc/identities/alice; vault delete mpc/authenticators/alice-password`,
	"vault list mpc/config/identities/oidc":                    "vault write mpc/config/identities/oidc/corp issuer=https://id.example.com client_id=mpc",
	"vault delete mpc/authenticators/alice-password":           "vault delete mpc/identities/alice",
	"vault write -force mpc/authenticators/alice-password/fou": "vault write mpc/authenticators/alice-password/lost reason=misplaced",
	"vault write -force mpc/identities/alice/unfreeze":         "vault write mpc/identities/alice/freeze reason=misplaced",
	"vault read mpc/accounts list=true policy=true":            "vault write mpc/accounts/zora algorithm=ed25519 approvers=ann",
	"vault list -detailed mpc/approvers/alice/enrolments":      "vault write mpc/approvers/alice/enrol label=phone",
}

// aftermaths are run after the command that begins so.
var aftermaths = map[string]string{ // read only
	"vault write mpc/accounts/bob presign=8": "vault write mpc/accounts/bob presign=0", // each takes seconds of processor time
	// The next example takes nodes away again, and SoftHSM loses its token when a process ends in the middle of a login.
	"vault write mpc/config/nodes local=7": `for n in 4 5 6 7; do for try in $(seq 200); do [ "$(vault read -field=state mpc/nodes/local-$n)" = ready ] && break; sleep 0.3; done; done`,
}

// notHere are examples that cannot be run, and why.
var notHere = map[string]string{ // read only
	// TestCustody does these, with a client that holds the custody key.
	"vault write mpc/accounts/carol algorithm=ed25519 custody_identity": "the asset is a client's to write",
	"mpckms account sign carol":                                         "carol's custody key is a client's",
	"mpckms account refresh carol":                                      "carol's custody key is a client's",
	"mpckms account policy set carol":                                   "carol's custody key is a client's",
	"vault write mpc/custody/carol/":                                    "releases are made by a client that has the custody key",
	// TestIdentitiesDocument, TestAuthenticators and TestChangeAuthenticator do these, with files in place of
	// a terminal.
	"mpckms authenticator create": "it asks on a terminal",
	"mpckms authenticator change": "it asks on a terminal",
	"mpckms device bind":          "it asks on a terminal",
	"mpckms identity create":      "it asks on a terminal",
	"mpckms login":                "it asks on a terminal",
	"mpckms secret put":           "it asks on a terminal",
	// TestApprovalsDocument, TestApprovers, TestApprovals, TestDeviceApprovals, TestRequestsOutliveTheServer and
	// TestBrowser do these, with people who ask and devices that answer.
	"vault write mpc/accounts/alice/policy":        "alice would have a policy for good",
	"vault write mpc/sign/treasury":                "it takes somebody with an entity",
	"vault list mpc/requests":                      "the request is somebody's with an entity",
	"vault read mpc/requests":                      "the request is somebody's with an entity",
	"vault write mpc/requests/":                    "the request is somebody's with an entity",
	"vault write -force mpc/requests/":             "the request is somebody's with an entity",
	"vault write mpc/approve/progress":             "the proof is a display's",
	"mpckms device enrol":                          "the link is a new one each time",
	"mpckms device show":                           "the link is a new one each time",
	"mpckms device approve":                        "the link is a new one each time",
	"mpckms device refuse":                         "the link is a new one each time",
	"vault write mpc/approvers/alice/confirm":      "the device computes the code",
	"mpckms approver confirm":                      "the device computes the code",
	"vault write mpc/approvers/alice/totp/confirm": "the code is of the moment",
	"vault delete mpc/approvers/alice/factors/":    "the key has another ID each time",
	// TestRemoteDocument and TestRemoteNodesOnly do these, with node daemons.
	"vault write mpc/accounts/dave algorithm=ed25519 domains=eu,us": "it takes nodes on other hosts",
	"vault write mpc/accounts/alice/move domains=eu,us":             "it takes nodes on other hosts",
	"vault-plugin-secrets-mpc node enrol":                           "it takes a node's host",
	"vault write mpc/config/nodes/eu-1":                             "it takes a node on another host",
	"vault delete mpc/config/nodes/eu-1":                            "it takes a node on another host",
	// TestCoordinator in backend does this, once the engine has made one.
	"vault write -force mpc/config/coordinator": "it is made for the first node on another host",
}

// helpOf returns the examples in a path's help.
func helpOf(t *testing.T, e *engine, path string) (examples []string) {
	t.Helper()
	out := e.CLI(t, "path-help", strings.TrimSuffix("mpc/"+path, "/"))
	if out.Code != 0 {
		t.Fatalf("path-help %s: %+v", path, out)
	}
	for _, m := range regexp.MustCompile(`(?m)^ +\$ (.+)$`).FindAllStringSubmatch(out.Stdout, -1) {
		examples = append(examples, m[1])
	}
	if len(examples) == 0 {
		t.Errorf("the help of mpc/%s has no example:\n%s", path, out.Stdout)
	}
	return examples
}

// helpedPaths lists the paths of a mount as its help has them, in the order in
// which their examples are run.
func helpedPaths(t *testing.T, e *engine) (paths []string) {
	t.Helper()
	root := e.CLI(t, "path-help", "mpc").Stdout
	for _, m := range regexp.MustCompile(`(?m)^    \^(.+)\$$`).FindAllStringSubmatch(root, -1) {
		path := strings.TrimSuffix(m[1], "?")
		paths = append(paths, regexp.MustCompile(`\(\?P<(\w+)>[^)]*\)`).ReplaceAllString(path, ":$1"))
	}
	slices.SortStableFunc(paths, func(a, b string) int {
		return cmp.Or(cmp.Compare(lateExamples[a], lateExamples[b]), cmp.Compare(a, b))
	})
	if len(paths) < 30 {
		t.Fatalf("the mount's help lists %d paths: %q", len(paths), paths)
	}
	for late := range lateExamples {
		if !slices.Contains(paths, late) {
			t.Errorf("lateExamples: there is no path %s", late)
		}
	}
	return paths
}

func TestHelpExamples(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	token := v.AddToken(t, "prod")
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	sh := newShell(t, v)
	sh.dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(sh.dir, "pin-file"), []byte(token.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	// With fewer nodes the auxiliary keys are there sooner.
	e.write(t, "config/nodes", map[string]any{"local": 3, "session_timeout": "60s"})
	run := examples{sh: sh, used: map[string]bool{}}
	for _, command := range helpOf(t, e, "") {
		run.one(t, command)
	}
	e.waitNodes(t, 3)
	e.waitAuxiliary(t)
	for _, path := range helpedPaths(t, e) {
		if path == ":path" || path == "(:path" {
			continue // answers what is no path
		}
		e.ensureAccounts(t, path)
		e.ensureIdentity(t, sh, path)
		ensureApprovers(t, sh, path)
		help := regexp.MustCompile(`:\w+`).ReplaceAllString(path, "1") // fits names, IDs and versions
		for _, command := range helpOf(t, e, help) {
			run.one(t, command)
		}
		switch path {
		case "config/recovery":
			e.awaitCaughtUp(t)
		case "nodes/:id/renew":
			e.await(t, 5*time.Minute, "new auxiliary keys", func() bool {
				return number(t, e.nodes(t)["local-2"]["aux_generation"]) > 1
			})
		}
	}
	for _, table := range []map[string]string{prerequisites, aftermaths, notHere} {
		for beginning := range table {
			if !run.used[beginning] {
				t.Errorf("no help has an example %q any more: remove it from its table", beginning)
			}
		}
	}
	if run.count < 60 {
		t.Errorf("%d examples were run", run.count)
	}
}

// examples runs commands and remembers which entries of the tables were needed.
type examples struct {
	sh    shell
	used  map[string]bool
	count int
}

func (x *examples) one(t *testing.T, command string) {
	t.Helper()
	if x.find(notHere, command) != "" {
		return
	}
	before, after := x.find(prerequisites, command), x.find(aftermaths, command)
	x.count++
	t.Run(command, func(t *testing.T) {
		for _, line := range []string{before, command, after} {
			if line == "" {
				continue
			}
			started := time.Now()
			out := x.sh.run(t, line, "")
			if strings.Contains(out, "Endpoint ignored") {
				t.Errorf("$ %s\nsends what is not taken:\n%s", line, out)
			}
			t.Logf("%6.2f s", time.Since(started).Seconds())
		}
	})
}

func (x *examples) find(table map[string]string, command string) string {
	for beginning, value := range table {
		if strings.HasPrefix(command, beginning) {
			x.used[beginning] = true
			return value
		}
	}
	return ""
}

// ensureAccounts makes alice, bob and web what every example may count on.
func (e *engine) ensureAccounts(t *testing.T, path string) {
	t.Helper()
	if path == "config/hsm" || path == "destroy/wrapping-keys" {
		return
	}
	for name, algorithm := range map[string]string{"alice": bip340, "bob": ecdsaCurve, "web": ecdsaP256} {
		s, err := e.Client.Logical().Read("mpc/accounts/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if s == nil {
			e.create(t, name, algorithm, 2, 3)
			continue
		}
		if s.Data["state"] == "deleted" {
			e.write(t, "accounts/"+name+"/restore", nil)
		}
		e.write(t, "accounts/"+name+"/unfreeze", nil)
	}
}

// ensureIdentity makes the identity alice what examples about identities may count
// on.
func (e *engine) ensureIdentity(t *testing.T, sh shell, path string) {
	t.Helper()
	if !strings.HasPrefix(path, "authenticators") && !strings.HasPrefix(path, "identities") && path != "destroy/wrapping-keys" {
		return
	}
	sh.run(t, `umask 077; printf 'a river of stars\n' > identity.pass
export MPCKMS_HOME=$PWD/home
vault read mpc/authenticators/alice-password > /dev/null 2>&1 || { rm -rf home; mpckms authenticator create alice-password --kind password --passphrase-file identity.pass; }
vault write -force mpc/authenticators/alice-password/found > /dev/null 2>&1 || true
vault write -force mpc/identities/alice/unfreeze > /dev/null 2>&1 || true
vault read mpc/identities/alice > /dev/null 2>&1 || { mpckms identity forget alice > /dev/null 2>&1 || true; mpckms identity create alice --kind person --authenticator alice-password --passphrase-file identity.pass; }
vault read mpc/identities/alice/assets/mail > /dev/null 2>&1 || { mpckms secret forget alice/mail > /dev/null 2>&1 || true; printf secret | mpckms secret put alice/mail --role owner --file - --passphrase-file identity.pass; }
vault read mpc/authenticators/alice-password/devices/00112233445566778899aabbccddeeff > /dev/null 2>&1 || vault write mpc/authenticators/alice-password/devices device=00112233445566778899aabbccddeeff identity=alice label=laptop`, "")
}

// ensureApprovers makes the approver alice, who has nothing, and ann, ben, carl and dora,
// who have what a policy asks for: a device's key and a certificate's.
func ensureApprovers(t *testing.T, sh shell, path string) {
	t.Helper()
	switch {
	case strings.HasPrefix(path, "approvers"):
		sh.run(t, `vault read mpc/approvers/alice > /dev/null 2>&1 || vault write mpc/approvers/alice no_entity=true`, "")
	case path == "accounts/":
		sh.run(t, `umask 077
for p in ann ben carl dora; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=$p" -keyout $p.card.key -out $p.card.pem
  vault write mpc/approvers/$p no_entity=true
  env -u VAULT_TOKEN mpckms --home device-$p device enrol "$(vault write -field=link mpc/approvers/$p/enrol label=laptop)" --name laptop --certificate $p.card.pem --key $p.card.key > $p.enrolled
  mpckms approver confirm $p --code "$(grep -oE '[0-9]{4}-[0-9]{4}' $p.enrolled | head -1)"
done`, "")
	}
}
