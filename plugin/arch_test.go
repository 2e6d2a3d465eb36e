package plugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "vault-plugin-secrets-mpc"

// arrows says which packages of ours each package may import; secret, a leaf,
// is open to all. Dependencies point one way:
//
//	plugin → backend → {rotation, mpc/pool, hsm};  mpc/node → {mpc, hsm}
//
// A new package needs a row here, and so a thought about where it stands.
var arrows = map[string][]string{
	"secret": {},

	"mpc":          {"mpc/eip712"},
	"mpc/eip712":   {},
	"mpc/handler":  {"mpc"},
	"mpc/curve":    {"mpc"},
	"mpc/frost":    {"mpc", "mpc/curve", "mpc/handler"},
	"mpc/cmp":      {"mpc", "mpc/curve", "mpc/handler", "mpc/verify"},
	"mpc/derive":   {"mpc"},
	"mpc/session":  {"mpc"},
	"mpc/mpctest":  {"mpc", "mpc/session"},
	"mpc/verify":   {"mpc", "mpc/derive"},
	"mpc/nodepb":   {},
	"mpc/nodelink": {"mpc", "mpc/nodepb"},
	// The owner's client links it too: no token, no network, no protocol.
	"mpc/custody": {"mpc", "hsm"},
	// Nodes, coordinator and approvers' devices: what is approved, and by whom.
	"mpc/approval":              {"mpc"},
	"mpc/approval/approvaltest": {"mpc/approval"},
	// The pages for approvers, as files.
	"ui":       {},
	"mpc/node": {"mpc", "mpc/approval", "mpc/cmp", "mpc/custody", "mpc/derive", "mpc/frost", "mpc/nodepb", "mpc/session", "hsm", "hsm/modules", "hsm/pkcs11", "identity", "recovery"},
	// A node on a host of its own: what outlives the node, and who may speak to it.
	"mpc/daemon": {"mpc", "mpc/node", "mpc/nodelink", "mpc/nodepb", "hsm", "hsm/modules", "hsm/pkcs11"},
	// The pool never imports a node or the token: it holds ciphertext only.
	"mpc/pool": {"mpc", "mpc/custody", "mpc/derive", "mpc/nodelink", "mpc/nodepb", "mpc/verify", "hsm", "recovery"},

	"hsm":         {},
	"hsm/modules": {},
	"hsm/pkcs11":  {"hsm"},
	"hsm/hsmtest": {"hsm"},

	"recovery": {"mpc", "mpc/frost", "hsm"},

	"address": {"mpc"},
	"jwk":     {"mpc"},

	// Both ends of an identity: no I/O, no Vault, no token.
	"identity": {},
	// The client's end: it speaks to whatever sends its requests, and knows keys
	// in tokens by an interface only.
	"keyholder": {"identity"},
	// An approver's device: its keys, and what it signs after its person has looked.
	"approver": {"mpc", "mpc/approval"},

	"rotation": {},
	"backend":  {"rotation", "identity", "address", "jwk", "mpc", "mpc/approval", "mpc/custody", "mpc/derive", "mpc/nodepb", "mpc/pool", "mpc/verify", "hsm", "hsm/modules", "recovery", "ui"},

	// The client knows the engine by its API only, as its users do.
	"client":      {},
	"examples/go": {"client"},

	"plugin/vault-plugin-secrets-mpc": {"backend", "hsm", "hsm/modules", "hsm/pkcs11", "mpc", "mpc/daemon", "mpc/nodepb", "mpc/node", "mpc/nodelink", "mpc/pool"},
	// The process alone brings a person's smart card and the commands together.
	"plugin/mpckms":        {"hsm/pkcs11", "keyholder", "plugin/mpckms/cli"},
	"plugin/mpckms/cli":    {"approver", "hsm/modules", "identity", "keyholder", "mpc", "mpc/approval", "mpc/custody", "mpc/derive", "mpc/verify", "plugin/mpckms/doctor", "recovery"},
	"plugin/mpckms/doctor": {"hsm/modules"},
	"plugin/e2e":           {},
	"plugin/e2e/netlab":    {},
	"scripts/vulncheck":    {},
}

// importers says which of our packages alone may import a library. Packages
// are named by prefix on both sides.
var importers = []struct {
	library string
	by      []string
	why     string
}{
	{"github.com/miekg/pkcs11", []string{"hsm/pkcs11", "hsm/hsmtest"}, "cgo and the token stay in one place"},
	{"github.com/ThalesGroup/crypto11", []string{"hsm/pkcs11"}, "it finalises the library when its last context goes; hsm/pkcs11 keeps it in check"},
	{"github.com/hashicorp/vault/sdk", []string{"backend", "plugin"}, "the rest must not know that Vault is its host"},
	{"github.com/bytemare", []string{"identity"}, "logins are OPAQUE in one suite, chosen in one place"},
	{"github.com/hashicorp/hcl", []string{"mpc/daemon"}, "one file of ours is HCL, and it is read strictly"},
	{"go.etcd.io/bbolt", []string{"mpc/daemon"}, "nothing else of ours keeps a database"},
	{"github.com/taurusgroup/multi-party-sig", []string{"mpc/handler", "mpc/curve", "mpc/frost", "mpc/cmp"}, "the protocol library is used through adapters only"},
}

// unreachable says what a package must not link, over any number of imports.
var unreachable = []struct {
	from, what []string
	why        string
}{
	{
		[]string{"backend", "client", "keyholder", "mpc/pool", "plugin/mpckms/cli", "rotation"},
		[]string{module + "/hsm/pkcs11", module + "/mpc/node", "github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11"},
		"only nodes open the token, and a person's own program the person's",
	},
	{
		[]string{"plugin/mpckms"},
		[]string{module + "/mpc/node"},
		"a person's program holds no share",
	},
	{
		[]string{""},
		[]string{"github.com/taurusgroup/multi-party-sig/protocols/doerner"},
		"it has a known vulnerability, and scripts/vulncheck/allow.txt counts on its absence",
	},
	{
		[]string{""},
		[]string{"github.com/hashicorp/vault/vault", "github.com/hashicorp/vault/command", "github.com/hashicorp/vault/builtin"},
		"Vault itself is BUSL-1.1: it is run, never linked",
	},
}

// listed is what `go list` says about one package.
type listed struct {
	ImportPath string
	Doc        string // first sentence of the package comment
	GoFiles    []string
	CgoFiles   []string
	Imports    []string // of the package itself, not of its tests
	Deps       []string
}

// name is the import path below the module.
func (p listed) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// listModule lists every package with cgo on and the e2e tag set, so that the
// largest set of files counts. -e: a package that does not build is judged by
// its imports all the same, and fails where it is built.
func listModule(t *testing.T) []listed {
	t.Helper()
	trackSources(t)
	cmd := exec.Command("go", "list", "-e", "-tags", "e2e", "-json=ImportPath,Doc,GoFiles,CgoFiles,Imports,Deps", module+"/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("reading go list's output: %v", err)
		}
		if len(p.GoFiles)+len(p.CgoFiles) > 0 { // not a folder with tests only, such as this one
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages: the test looks at the wrong place", len(all))
	}
	return all
}

// trackSources reads every source folder. The Go command caches test results
// by the files and folders a test itself opened; without this, a pass would be
// remembered past the import that breaks it.
func trackSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// within reports whether a package path is prefix or lies below it; every
// path lies below the empty prefix.
func within(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

func TestDependencyArrows(t *testing.T) {
	packages := listModule(t)
	for _, fault := range arrowFaults(packages) {
		t.Error(fault)
	}
	for _, fault := range libraryFaults(packages) {
		t.Error(fault)
	}
}

// arrowFaults checks imports among our own packages. Once every row of the
// table has its package, arrows that nobody uses are faults, too: a table
// wider than the code hides the next wrong import.
func arrowFaults(packages []listed) []string {
	var faults []string
	used := map[string]bool{}
	rows := map[string]bool{}
	for _, p := range packages {
		allowed, known := arrows[p.name()]
		if !known {
			faults = append(faults, p.name()+": has no row in the table of arrows; add one, and say in its package comment where its border is")
			continue
		}
		rows[p.name()] = true
		for _, path := range p.Imports {
			target, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			used[p.name()+" → "+target] = true
			if target != "secret" && !slices.Contains(allowed, target) {
				faults = append(faults, p.name()+" → "+target+": not an arrow of the design; move the code, or declare a small interface where it is used")
			}
		}
	}
	if len(rows) < len(arrows) {
		return faults
	}
	for from, targets := range arrows {
		for _, target := range targets {
			if arrow := from + " → " + target; !used[arrow] {
				faults = append(faults, arrow+": nothing uses this arrow any more; remove it from the table")
			}
		}
	}
	slices.Sort(faults)
	return faults
}

// libraryFaults checks imports of other modules, and reachability.
func libraryFaults(packages []listed) []string {
	var faults []string
	for _, p := range packages {
		for _, rule := range importers {
			if slices.ContainsFunc(rule.by, func(by string) bool { return within(p.name(), by) }) {
				continue
			}
			for _, path := range p.Imports {
				if within(path, rule.library) {
					faults = append(faults, p.name()+" imports "+path+": "+rule.why)
				}
			}
		}
		for _, rule := range unreachable {
			if !slices.Contains(rule.from, p.name()) && !slices.Contains(rule.from, "") {
				continue
			}
			for _, dep := range p.Deps {
				if slices.ContainsFunc(rule.what, func(what string) bool { return within(dep, what) }) {
					faults = append(faults, p.name()+" links "+dep+": "+rule.why)
				}
			}
		}
	}
	return faults
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range listModule(t) {
		if !strings.HasPrefix(p.Doc, "Package ") && !strings.HasPrefix(p.Doc, "Command ") {
			t.Errorf("%s: no package comment that starts with Package or Command: say what it is for and where its border is", p.name())
		}
	}
}

// TestWrongArrowsAreFound makes sure that the checks above can fail.
func TestWrongArrowsAreFound(t *testing.T) {
	own := func(names ...string) (paths []string) {
		for _, n := range names {
			paths = append(paths, module+"/"+n)
		}
		return paths
	}
	complete := func() (all []listed) {
		for name, targets := range arrows {
			all = append(all, listed{ImportPath: module + "/" + name, Imports: own(targets...)})
		}
		return all
	}
	tests := []struct {
		name     string
		packages []listed
		says     string // empty: no fault
	}{
		{"the table itself", complete(), ""},
		{"anyone may import secret", []listed{{ImportPath: module + "/mpc", Imports: own("secret")}}, ""},
		{"against the arrow", []listed{{ImportPath: module + "/mpc", Imports: own("backend")}}, "mpc → backend"},
		{"pool to node", []listed{{ImportPath: module + "/mpc/pool", Imports: own("mpc/node")}}, "mpc/pool → mpc/node"},
		{"unknown package", []listed{{ImportPath: module + "/util"}}, "util: has no row"},
		{"unused arrow", unusedArrow(complete()), "nothing uses this arrow"},
		{"SDK in the wrong place", []listed{{ImportPath: module + "/rotation", Imports: []string{"github.com/hashicorp/vault/sdk/logical"}}}, "rotation imports"},
		{"SDK in backend", []listed{{ImportPath: module + "/backend", Imports: []string{"github.com/hashicorp/vault/sdk/logical"}}}, ""},
		{"protocol library in a node", []listed{{ImportPath: module + "/mpc/node", Imports: []string{"github.com/taurusgroup/multi-party-sig/pkg/party"}}}, "mpc/node imports"},
		{"token reachable from the commands", []listed{{ImportPath: module + "/plugin/mpckms/cli", Deps: []string{"fmt", "github.com/miekg/pkcs11"}}}, "plugin/mpckms/cli links"},
		{"a node in the CLI", []listed{{ImportPath: module + "/plugin/mpckms", Deps: []string{module + "/mpc/node"}}}, "plugin/mpckms links"},
		{"similar name", []listed{{ImportPath: module + "/plugin/mpckms/cli", Deps: []string{"github.com/miekg/pkcs11uri"}}}, ""},
		{"doerner anywhere", []listed{{ImportPath: module + "/mpc/cmp", Deps: []string{"github.com/taurusgroup/multi-party-sig/protocols/doerner/keygen"}}}, "mpc/cmp links"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			faults := append(arrowFaults(tt.packages), libraryFaults(tt.packages)...)
			if tt.says == "" && len(faults) > 0 {
				t.Errorf("faults where there are none: %q", faults)
			}
			if tt.says != "" && !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, tt.says) }) {
				t.Errorf("faults %q do not say %q", faults, tt.says)
			}
		})
	}
}

// unusedArrow drops the imports of backend.
func unusedArrow(all []listed) []listed {
	for i := range all {
		if all[i].name() == "backend" {
			all[i].Imports = nil
		}
	}
	return all
}
