package ui

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// names are all files that browsers can ask for.
func names(t *testing.T) (all []string) {
	t.Helper()
	err := fs.WalkDir(Files, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "LICENSE") {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(file, "src/"), "third_party/")
		all = append(all, strings.TrimSuffix(name, ".html"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 12 {
		t.Fatalf("%d files: the test looks at the wrong place", len(all))
	}
	return all
}

func TestEveryFileIsServedWithItsType(t *testing.T) {
	want := map[string]string{
		"": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	for _, name := range names(t) {
		body, contentType, ok := Page(name)
		if !ok || len(body) == 0 || contentType != want[path.Ext(name)] {
			t.Errorf("%s: served %v, %d bytes, type %q, want %q", name, ok, len(body), contentType, want[path.Ext(name)])
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	for _, name := range []string{
		"", ".", "/", "show.html", "phone.html", "nothing", "nothing.js", "src/show.js", "../ui.go", "./show", "show/", "qr/../show", "qr/LICENSE", "qr",
		"qr/../../ui.go", "third_party/qr/index.js", "qr//index.js", "README.md", "show\x00", "Show",
	} {
		if _, _, ok := Page(name); ok {
			t.Errorf("%q is served", name)
		}
	}
}

// TestPagesAreSelfContained: the policy would stop most of this in a browser; here
// it is found before one runs.
func TestPagesAreSelfContained(t *testing.T) {
	for _, name := range []string{Show, Phone} {
		body, _, _ := Page(name)
		html := string(body)
		meta := `<meta http-equiv="Content-Security-Policy" content="` + Policy + `">`
		if !strings.Contains(html, meta) {
			t.Errorf("%s: does not have %s", name, meta)
		}
		if at := strings.Index(html, "<script"); at < strings.Index(html, meta) {
			t.Errorf("%s: a script stands before the policy", name)
		}
		for _, script := range regexp.MustCompile(`(?s)<script([^>]*)>(.*?)</script>`).FindAllStringSubmatch(html, -1) {
			if !strings.Contains(script[1], "src=") || script[2] != "" {
				t.Errorf("%s: a script inside the page: %s", name, script[0])
			}
		}
		if found := regexp.MustCompile(`(?i)<style|\sstyle=|\son\w+=|javascript:|<iframe|<base`).FindString(html); found != "" {
			t.Errorf("%s: has %q", name, found)
		}
		for _, ref := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(html, -1) {
			if _, _, ok := Page(ref[1]); !ok {
				t.Errorf("%s: refers to %q, which is not served beside it", name, ref[1])
			}
		}
	}
}

// TestScriptsAreSelfContained: what our scripts import is served beside them, and
// nothing makes code or markup from text.
func TestScriptsAreSelfContained(t *testing.T) {
	imports := regexp.MustCompile(`(?:from|import) ?\(?"([^"]+)"`)
	forbidden := regexp.MustCompile(`\binnerHTML\b|\bouterHTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|document\.cookie|https?://[a-z]+\.[a-z]`)
	found := 0
	for _, name := range names(t) {
		if path.Ext(name) != ".js" {
			continue
		}
		body, _, _ := Page(name)
		for _, m := range imports.FindAllStringSubmatch(string(body), -1) {
			found++
			file := path.Join(path.Dir(name), m[1])
			if _, _, ok := Page(file); !ok || !strings.HasPrefix(m[1], "./") {
				t.Errorf("%s: imports %q, which is not served", name, m[1])
			}
		}
		if strings.HasPrefix(name, "qr/") {
			continue
		}
		// The one address that is a name.
		if bad := forbidden.FindString(strings.ReplaceAll(string(body), "http://www.w3.org/2000/svg", "")); bad != "" {
			t.Errorf("%s: has %q", name, bad)
		}
	}
	if found < 20 {
		t.Errorf("%d imports found: the test looks for the wrong thing", found)
	}
	style, _, _ := Page("app.css")
	if bad := regexp.MustCompile(`url\(|@import`).Find(style); bad != nil {
		t.Errorf("app.css: has %q", bad)
	}
}

func TestThirdPartyCodeIsUnchanged(t *testing.T) {
	readme, err := os.ReadFile("third_party/README.md")
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ +([0-9a-f]{64})  (qr/\S+)$`).FindAllStringSubmatch(string(readme), -1) {
		sums[m[2]] = m[1]
	}
	files, err := os.ReadDir("third_party/qr")
	if err != nil || len(files) != len(sums) || len(sums) != 4 {
		t.Fatalf("%d files, %d checksums, %v", len(files), len(sums), err)
	}
	for _, f := range files {
		body, err := Files.ReadFile("third_party/qr/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(body)); got != sums["qr/"+f.Name()] {
			t.Errorf("qr/%s has changed: %s", f.Name(), got)
		}
	}
}

// TestSize keeps what a phone has to fetch small. Vault does not compress it.
func TestSize(t *testing.T) {
	own, all := 0, 0
	for _, name := range names(t) {
		body, _, _ := Page(name)
		all += len(body)
		if !strings.HasPrefix(name, "qr/") {
			own += len(body)
		}
	}
	t.Logf("%d bytes of our own, %d bytes with the QR library", own, all)
	if own > 120<<10 || all > 320<<10 {
		t.Errorf("%d bytes of our own, %d bytes in all", own, all)
	}
}
