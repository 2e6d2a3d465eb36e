package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// one returns the finding of a check, of which there must be one.
func one(t *testing.T, r *Report, check string) Finding {
	t.Helper()
	var found []Finding
	for _, f := range r.Findings {
		if f.Check == check {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d findings of %q in %+v", len(found), check, r.Findings)
	}
	if found[0].Result != OK && found[0].Says == "" {
		t.Errorf("%+v says nothing", found[0])
	}
	return found[0]
}

func expect(t *testing.T, r *Report, check string, result Result, says string) {
	t.Helper()
	f := one(t, r, check)
	if f.Result != result || !strings.Contains(f.Says+"\n"+f.Mend, says) {
		t.Errorf("%s: %s: %s\n%s\nwant %s with %q", f.Check, f.Result, f.Says, f.Mend, result, says)
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

func TestPluginFile(t *testing.T) {
	dir := t.TempDir()
	const sum = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9" // of the text below
	good := write(t, filepath.Join(dir, "good"), "hello world", 0o755)
	for _, test := range []struct {
		name, path, sum string
		result          Result
		says            string
	}{
		{"as registered", good, sum, OK, "registered SHA-256"},
		{"changed", write(t, filepath.Join(dir, "changed"), "hello World", 0o755), sum, Problem, "was changed after it was registered"},
		{"missing", filepath.Join(dir, "missing"), sum, Problem, "is not there"},
		{"a folder", dir, sum, Problem, "not a regular file"},
		{"not executable", write(t, filepath.Join(dir, "plain"), "hello world", 0o644), sum, Problem, "chmod 0755"},
		{"for everybody", write(t, filepath.Join(dir, "open"), "hello world", 0o777), sum, Problem, "can be written by other users"},
		{"sum not known", good, "", NotChecked, "not known"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &Report{}
			CheckPluginFile(r.In("plugin"), test.path, test.sum)
			expect(t, r, "plugin file", test.result, test.says)
		})
	}
}

// proc makes a tree like /proc with one process.
func proc(t *testing.T, pid int, exe, environ, uid string, seen ...string) string {
	t.Helper()
	dir := t.TempDir()
	p := filepath.Join(dir, fmt.Sprint(pid))
	write(t, filepath.Join(p, "environ"), environ, 0o400)
	write(t, filepath.Join(p, "status"), "Name:\tx\nUid:\t0\t"+uid+"\t0\t0\n", 0o444)
	for _, path := range seen {
		write(t, filepath.Join(p, "root", path), "", 0o600)
	}
	if err := os.MkdirAll(filepath.Join(p, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(p, "exe")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "999999", "status"), "", 0o444) // another one, without a program
	write(t, filepath.Join(dir, "uptime"), "1", 0o444)
	return dir
}

func TestFindPlugin(t *testing.T) {
	exe := write(t, filepath.Join(t.TempDir(), "plugin"), "x", 0o755)
	tree := proc(t, 41, exe, "VAULT_TOKEN=hvs.secret\x00MPC_PKCS11_MODULES=a=/a.so\x00X=", "107")
	p, err := FindPlugin(tree, exe)
	if err != nil || p.PID != 41 || p.UID != 107 || p.Modules != "a=/a.so" || !p.Known || !p.Set {
		t.Errorf("%+v, %v", p, err)
	}
	// The file was replaced while it runs.
	if p, err := FindPlugin(proc(t, 41, exe+" (deleted)", "", "0"), exe); err != nil || p.Set || !p.Known {
		t.Errorf("%+v, %v", p, err)
	}
	if err := os.Remove(filepath.Join(tree, "41", "environ")); err != nil { // stands for one that may not be read
		t.Fatal(err)
	}
	if p, err := FindPlugin(tree, exe); err != nil || p.Known || p.Set {
		t.Errorf("%+v, %v", p, err)
	}
	for _, test := range []struct{ tree, exe string }{{tree, exe + "x"}, {filepath.Join(tree, "none"), exe}, {proc(t, 41, exe, "", "nobody"), exe}} {
		if p, err := FindPlugin(test.tree, test.exe); err == nil {
			t.Errorf("%+v", p)
		}
	}
}

// FindPlugin on this machine's own /proc finds this very process.
func TestFindItself(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(Proc + "/self/exe"); err != nil {
		t.Skip("no /proc here")
	}
	p, err := FindPlugin(Proc, self)
	if err != nil || p.PID != os.Getpid() || p.UID != uint32(os.Geteuid()) || !p.Known {
		t.Errorf("%+v, %v", p, err)
	}
	if hidden, known := p.hides(self); hidden || !known {
		t.Errorf("%s: hidden %v, known %v", self, hidden, known)
	}
}
