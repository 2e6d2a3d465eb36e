package modules_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vault-plugin-secrets-mpc/hsm/modules"
)

func TestParse(t *testing.T) {
	const nss = "configDir='sql:/x,y;z' certPrefix='' flags=100%+"
	for _, test := range []struct {
		list string
		want modules.List
		name string
	}{
		{"", modules.List{}, "none"},
		{" , ,", modules.List{}, "none"},
		{"softhsm=/usr/lib/softhsm/libsofthsm2.so", modules.List{"softhsm": {Name: "softhsm", Path: "/usr/lib/softhsm/libsofthsm2.so"}}, "softhsm"},
		// The form of earlier versions, spaces and all; a percent sign in a
		// path always was itself.
		{"b=/b.so, a.1=/opt/100%/a=b.so", modules.List{"a.1": {Name: "a.1", Path: "/opt/100%/a=b.so"}, "b": {Name: "b", Path: "/b.so"}}, "a.1, b"},
		{"nss=/n.so;init-args=configDir='sql:/x%2Cy%3bz' certPrefix='' flags=100%25+", modules.List{"nss": {Name: "nss", Path: "/n.so", InitArgs: nss}}, "nss"},
		{"s=/s.so;oaep-sha1=for-tests;pin-file=/run/pin;init-args=a=b,t=/t.so", modules.List{
			"s": {Name: "s", Path: "/s.so", InitArgs: "a=b", PINFile: "/run/pin", AllowSHA1: true},
			"t": {Name: "t", Path: "/t.so"},
		}, "s, t"},
	} {
		got, err := modules.Parse(test.list)
		if err != nil || !maps.Equal(got, test.want) {
			t.Errorf("%q: %+v, %v", test.list, got, err)
		}
		if got.Names() != test.name {
			t.Errorf("%q: names %q", test.list, got.Names())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for list, says := range map[string]string{
		"softhsm":                          "form",
		"=/a.so":                           "form",
		"Soft=/a.so":                       "form",
		strings.Repeat("a", 65) + "=/a.so": "form",
		"a=":                               "absolute",
		"a=lib.so":                         "absolute",
		"a=/x/../a.so":                     "absolute",
		"a=/x\n.so":                        "absolute",
		"a=/a.so,a=/a.so":                  "twice",
		"a=/a.so;":                         "no option",
		"a=/a.so;slot=1":                   "no option",
		"a=/a.so;pin=1234":                 "no option",
		"a=/a.so;pin-file=pin":             "pin-file",
		"a=/a.so;pin-file=":                "pin-file",
		"a=/a.so;pin-file=/p;pin-file=/p":  "twice",
		"a=/a.so;init-args=":               "init-args",
		"a=/a.so;init-args=%":              "%25",
		"a=/a.so;init-args=%zz":            "%25",
		"a=/a.so;init-args=x%00y":          "control",
		"a=/a.so;init-args=" + strings.Repeat("x", 4097): "4096",
		"a=/a.so;oaep-sha1":      "for-tests",
		"a=/a.so;oaep-sha1=true": "for-tests",
	} {
		got, err := modules.Parse(list)
		if err == nil || got != nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), modules.Variable) {
			t.Errorf("%q: %+v, %v", list, got, err)
		}
	}
	// An option that was pasted wrongly may be a secret.
	if _, err := modules.Parse("a=x;pin=4711"); err == nil || strings.Contains(err.Error(), "4711") {
		t.Errorf("the error repeats a PIN: %v", err)
	}
}

func TestReadPIN(t *testing.T) {
	dir := t.TempDir()
	file := func(content string, mode os.FileMode) modules.Module {
		path := filepath.Join(dir, "pin")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return modules.Module{Name: "m", PINFile: path}
	}
	long := strings.Repeat("p", modules.MaxPIN)
	for content, want := range map[string]string{
		"4321": "4321", "4321\n": "4321", "4321\r\n": "4321", " 43 21 \n": " 43 21 ", long: long, long + "\r\n": long,
	} {
		pin, err := file(content, 0o600).ReadPIN()
		if err != nil || string(pin.Expose()) != want {
			t.Errorf("%q: %v", content, err)
		}
	}
	for _, content := range []string{"", "\n", "4321\n\n", "4321\n5678", "43\x0021", long + "p", long + "p\n", strings.Repeat(long, 9)} {
		pin, err := file(content, 0o600).ReadPIN()
		if !errors.Is(err, modules.ErrPINFile) || pin != nil || strings.Contains(err.Error(), "43") {
			t.Errorf("%q: %v", content, err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o610, 0o666} {
		if _, err := file("4321", mode).ReadPIN(); !errors.Is(err, modules.ErrPINFile) || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := file("4321", 0o400).ReadPIN(); err != nil {
		t.Error(err)
	}

	link := filepath.Join(dir, "link") // as orchestrators mount secrets
	if err := os.Symlink("pin", link); err != nil {
		t.Fatal(err)
	}
	if pin, err := (modules.Module{PINFile: link}).ReadPIN(); err != nil || string(pin.Expose()) != "4321" {
		t.Error(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range []modules.Module{{}, {PINFile: pipe}, {PINFile: dir}, {PINFile: filepath.Join(dir, "none")}} {
		if _, err := m.ReadPIN(); !errors.Is(err, modules.ErrPINFile) {
			t.Errorf("%q: %v", m.PINFile, err)
		}
	}
}

// FuzzParse: no input crashes, and whatever is accepted obeys the rules that
// the rest of the program counts on.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "softhsm=/usr/lib/softhsm/libsofthsm2.so", "a=/a.so,b=/b.so",
		"nss=/n.so;init-args=configDir='sql:/x%2Cy' flags=;pin-file=/p;oaep-sha1=for-tests", "a=/a;b;c=;=,,=", "a=/a.so;init-args=%ff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := modules.Parse(s)
		if err != nil {
			if list != nil {
				t.Fatal("a list with an error")
			}
			return
		}
		for name, m := range list {
			if m.Name != name || name == "" || strings.ContainsAny(name, "=,; /\n") {
				t.Fatalf("name %q", name)
			}
			if !filepath.IsAbs(m.Path) || strings.ContainsAny(m.Path, ",;\x00\n") {
				t.Fatalf("path %q", m.Path)
			}
			if strings.ContainsRune(m.InitArgs, 0) || m.PINFile != "" && !filepath.IsAbs(m.PINFile) {
				t.Fatalf("%+v", m)
			}
		}
		if list.Names() == "" {
			t.Fatal("no names")
		}
	})
}
