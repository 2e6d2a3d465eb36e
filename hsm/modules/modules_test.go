package modules_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm/modules"
)

func TestParse(t *testing.T) {
	got, err := modules.Parse(" softhsm=/usr/lib/a.so;oaep-sha1=for-tests ,, nss-1.0=/opt/b.so;init-args=configDir='sql:/x' a=%2C%3B%25;pin-file=/etc/pin")
	if err != nil {
		t.Fatal(err)
	}
	want := modules.List{
		"softhsm": {Name: "softhsm", Path: "/usr/lib/a.so", AllowSHA1: true},
		"nss-1.0": {Name: "nss-1.0", Path: "/opt/b.so", InitArgs: "configDir='sql:/x' a=,;%", PINFile: "/etc/pin"},
	}
	if len(got) != 2 || got["softhsm"] != want["softhsm"] || got["nss-1.0"] != want["nss-1.0"] {
		t.Errorf("got %+v", got)
	}
	if got.Names() != "nss-1.0, softhsm" {
		t.Errorf("names %q", got.Names())
	}
	if none, err := modules.Parse(""); err != nil || len(none) != 0 || none.Names() != "none" {
		t.Errorf("the empty list: %v, %v", none, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for list, why := range map[string]string{
		"a":                            "form",
		"=/x":                          "form",
		"A=/x":                         "form",
		"a=x.so":                       "absolute",
		"a=/x/../y":                    "dot",
		"a=/x,a=/y":                    "twice",
		"a=/x;pin=1234":                "unknown option",
		"a=/x;pin-file=pin":            "pin-file must be absolute",
		"a=/x;pin-file=/p;pin-file=/q": "twice",
		"a=/x;oaep-sha1=yes":           "for-tests",
		"a=/x;oaep-sha1":               "for-tests",
		"a=/x;init-args=":              "init-args",
		"a=/x;init-args=%zz":           "percent",
		"a=/x;init-args=%00":           "init-args",
		strings.Repeat("a", 20<<10):    "longer",
	} {
		if got, err := modules.Parse(list); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.40q: %v, %v; want %q", list, got, err, why)
		} else if strings.Contains(err.Error(), "1234") {
			t.Errorf("%q: the error repeats a value", list)
		}
	}
}

func TestReadPIN(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) modules.Module {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return modules.Module{Name: "m", PINFile: path}
	}
	for name, content := range map[string]string{"plain": "1234", "newline": "1234\n", "dos": "1234\r\n"} {
		pin, err := file(name, content, 0o600).ReadPIN()
		if err != nil || string(pin.Expose()) != "1234" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if pin, err := file("longest", strings.Repeat("9", 255)+"\n", 0o400).ReadPIN(); err != nil || pin.Len() != 255 {
		t.Errorf("the longest PIN: %v", err)
	}
	for name, m := range map[string]modules.Module{
		"is open to others":   file("open", "1234", 0o640),
		"does not hold one":   file("empty", "\n", 0o600),
		"more than one line":  file("lines", "12\n34", 0o600),
		"does not hold one P": file("long", strings.Repeat("9", 256), 0o600),
		"cannot be opened":    {Name: "m", PINFile: filepath.Join(dir, "nowhere")},
		"not a regular file":  {Name: "m", PINFile: dir},
	} {
		pin, err := m.ReadPIN()
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v, %v", name, pin, err)
		} else if strings.Contains(err.Error(), "1234") {
			t.Errorf("%q: the error holds the PIN", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("softhsm=/usr/lib/a.so,nss=/b.so;init-args=x%2Cy;pin-file=/p")
	f.Add("a=/x;oaep-sha1=for-tests")
	f.Add(",;=%")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := modules.Parse(s)
		if err != nil {
			return
		}
		for name, m := range list {
			if m.Name != name || !filepath.IsAbs(m.Path) || m.PINFile != "" && !filepath.IsAbs(m.PINFile) {
				t.Fatalf("%q gave %+v", s, m)
			}
		}
	})
}
