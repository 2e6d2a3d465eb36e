package doctor

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// softhsm finds a real PKCS#11 library, and the C library, which is none.
func library(t *testing.T, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[0]
		}
	}
	t.Skipf("none of %v here", patterns)
	return ""
}

func softhsm(t *testing.T) string {
	return library(t, "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
}

func checkModules(l ModuleList) (*Report, []string) {
	r := &Report{}
	l.Source = "test"
	return r, CheckModules(r.In("modules"), l)
}

func TestModuleListText(t *testing.T) {
	for text, says := range map[string]string{
		"":               "it is empty",
		"nonsense":       "not of the form",
		"a=/a.so;slot=1": "is no option",
		"a=relative.so":  "absolute",
	} {
		r, paths := checkModules(ModuleList{Text: text})
		expect(t, r, "module list", Problem, says)
		if len(paths) != 0 {
			t.Errorf("%q: %v", text, paths)
		}
	}
	r, _ := checkModules(ModuleList{Text: "a=/nowhere/a.so", Used: "b"})
	expect(t, r, "module list", Problem, `module "b"`)
	r, _ = checkModules(ModuleList{Text: "a=/nowhere/a.so", Used: "a"})
	expect(t, r, "module list", OK, "a (test)")
}

func TestLibraries(t *testing.T) {
	dir, so := t.TempDir(), softhsm(t)
	libc := library(t, "/lib/*/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6")
	raw, err := os.ReadFile(so)
	if err != nil {
		t.Fatal(err)
	}
	mine := func(name string, mode os.FileMode) string {
		return write(t, filepath.Join(dir, name), string(raw), mode)
	}
	foreign := write(t, filepath.Join(dir, "foreign.so"), otherMachine(t, raw), 0o644)
	for _, test := range []struct {
		name, path string
		result     Result
		says       string
	}{
		{"SoftHSM", so, OK, so},
		{"missing", "/nowhere/x.so", Problem, "is not there"},
		{"a folder", dir, Problem, "not a file"},
		{"text", write(t, filepath.Join(dir, "text.so"), "INPUT(x.so)", 0o644), Problem, "no ELF file"},
		{"another library", libc, Problem, "no C_GetFunctionList"},
		{"another processor", foreign, Problem, "another processor"},
		{"for everybody", mine("open.so", 0o666), Problem, "can change"},
		{"below a file", so + "/x.so", Problem, "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, paths := checkModules(ModuleList{Text: "m=" + test.path})
			expect(t, r, "module m", test.result, test.says)
			if len(paths) != 1 || paths[0] != test.path {
				t.Errorf("paths %v", paths)
			}
		})
	}

	// Vault runs as another user, and sees what its unit lets it see.
	exe := write(t, filepath.Join(dir, "plugin"), "x", 0o755)
	private := mine("private.so", 0o600)
	find := func(seen ...string) *Process {
		p, err := FindPlugin(proc(t, 7, exe, "", "107", seen...), exe)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	r, _ := checkModules(ModuleList{Text: "m=" + private, Process: find(private)})
	if os.Geteuid() != 107 {
		expect(t, r, "module m", Problem, "cannot be read by Vault's user, uid 107")
	}
	r, _ = checkModules(ModuleList{Text: "m=" + so, Process: find(so)})
	expect(t, r, "module m", OK, so)
	r, _ = checkModules(ModuleList{Text: "m=" + so, Process: find()})
	expect(t, r, "module m", Problem, "hidden from the plugin (process 7)")
	gone := find(so)
	gone.Root += "x" // the process has ended
	r, _ = checkModules(ModuleList{Text: "m=" + so, Process: gone})
	expect(t, r, "module m", OK, so)
}

// otherMachine changes the e_machine of an ELF file (16 bits at offset 18).
func otherMachine(t *testing.T, raw []byte) string {
	t.Helper()
	other := append([]byte(nil), raw...)
	m := elf.EM_SPARCV9
	binary.LittleEndian.PutUint16(other[18:], uint16(m))
	return string(other)
}

func TestPINFiles(t *testing.T) {
	dir, so := t.TempDir(), softhsm(t)
	exe := write(t, filepath.Join(dir, "plugin"), "x", 0o755)
	pin := func(name, content string, mode os.FileMode) string {
		return write(t, filepath.Join(dir, name), content, mode)
	}
	self, err := FindPlugin(Proc, mustExecutable(t))
	if err != nil {
		t.Skip("no /proc here")
	}
	good := pin("good", "1234\n", 0o600)
	long := make([]byte, 300)
	for _, test := range []struct {
		name, path string
		process    *Process
		result     Result
		says       string
	}{
		{"for its owner", good, self, OK, "for its owner only"},
		{"process not seen", good, nil, Warning, "no plugin process"},
		{"missing", filepath.Join(dir, "none"), self, Problem, "is not there"},
		{"for the group", pin("group", "1234", 0o640), self, Problem, "mode 0640"},
		{"empty", pin("empty", "", 0o600), self, Problem, "is empty"},
		{"too long", pin("long", string(long), 0o600), self, Problem, "longer than any PIN"},
		{"a folder", dir, self, Problem, "not a regular file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, paths := checkModules(ModuleList{Text: "m=" + so + ";pin-file=" + test.path, Process: test.process})
			expect(t, r, "PIN file of m", test.result, test.says)
			if len(paths) != 2 {
				t.Errorf("paths %v", paths)
			}
		})
	}
	other, err := FindPlugin(proc(t, 7, exe, "", "54321", so, good), exe)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := checkModules(ModuleList{Text: "m=" + so + ";pin-file=" + good, Process: other})
	expect(t, r, "PIN file of m", Problem, "chown 54321")
}

func mustExecutable(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}
