//go:build e2e

package e2e_test

import (
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents lists every Markdown document of the repository by its path in it.
func documents(t testing.TB) (all []string) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "node_modules" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			name, err := filepath.Rel(repository, path)
			all = append(all, name)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 6 {
		t.Fatalf("%d documents: the test looks at the wrong place", len(all))
	}
	return all
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan    = regexp.MustCompile("`[^`\n]*`")
	// linked are inline links and pictures, reference definitions, and HTML's.
	linked  = regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)|(?m:^\[[^\]]+\]:\s*(\S+))|(?:src|href|srcset)="([^"]+)"`)
	heading = regexp.MustCompile(`(?m)^#{1,6}\s+(.+?)\s*#*$`)
)

// anchors are what GitHub makes of a document's headings: lower case, letters,
// digits, "-" and "_" kept, spaces turned into "-", and a number on repeats.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fencedBlock.ReplaceAllString(text, ""), -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		title = strings.ToLower(strings.NewReplacer("`", "", "*", "").Replace(title))
		title = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`).ReplaceAllString(title, "")
		id := strings.ReplaceAll(title, " ", "-")
		for k, base := 1, id; out[id]; k++ {
			id = base + "-" + string(rune('0'+k))
		}
		out[id] = true
	}
	for _, m := range regexp.MustCompile(`<a (?:id|name)="([^"]+)"`).FindAllStringSubmatch(text, -1) {
		out[m[1]] = true
	}
	return out
}

// deadLinks are the relative links of a document that lead nowhere.
func deadLinks(t testing.TB, document string) (dead []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, document))
	if err != nil {
		t.Fatal(err)
	}
	text := codeSpan.ReplaceAllString(fencedBlock.ReplaceAllString(string(raw), ""), "")
	for _, m := range linked.FindAllStringSubmatch(text, -1) {
		target := m[1] + m[2] + m[3]
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		name, anchor, _ := strings.Cut(target, "#")
		path := filepath.Join(repository, document)
		if name != "" {
			path = filepath.Join(filepath.Dir(path), name)
		}
		if inside, err := filepath.Rel(repository, path); err != nil || strings.HasPrefix(inside, "..") {
			dead = append(dead, target+" (outside of the repository)")
			continue
		}
		other, err := os.ReadFile(path)
		info, missing := os.Stat(path)
		switch {
		case missing != nil, err != nil && !info.IsDir():
			dead = append(dead, target)
		case anchor != "" && !anchors(string(other))[anchor]:
			dead = append(dead, target+" (no such heading)")
		}
	}
	return dead
}

// TestLinks: relative links of every document lead to files and headings that
// exist.
func TestLinks(t *testing.T) {
	for _, document := range documents(t) {
		for _, target := range deadLinks(t, document) {
			t.Errorf("%s: %s", document, target)
		}
	}
	// The check can fail.
	got := anchors("# A `b` and, c\n\n```\n# no heading\n```\n## Twice\n## Twice\n")
	for id, want := range map[string]bool{"a-b-and-c": true, "twice": true, "twice-1": true, "no-heading": false, "c": false} {
		if got[id] != want {
			t.Errorf("anchor %q: %v", id, got[id])
		}
	}
}

// TestPictures: every SVG is well-formed, needs nothing from elsewhere, says
// what it shows to those who cannot see it, and is used.
func TestPictures(t *testing.T) {
	pictures, err := filepath.Glob(filepath.Join(repository, "docs", "*.svg"))
	if err != nil || len(pictures) == 0 {
		t.Fatalf("no pictures in docs: %v", err)
	}
	var text strings.Builder
	for _, document := range documents(t) {
		raw, err := os.ReadFile(filepath.Join(repository, document))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(raw)
	}
	for _, picture := range pictures {
		name := filepath.Base(picture)
		raw, err := os.ReadFile(picture)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		dec := xml.NewDecoder(strings.NewReader(string(raw)))
		dec.Strict = true
		for {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s is not well-formed: %v", name, err)
			}
			element, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			seen[element.Name.Local]++
			for _, a := range element.Attr {
				if a.Name.Local == "href" && !strings.HasPrefix(a.Value, "#") || strings.Contains(a.Value, "url(http") {
					t.Errorf("%s refers to %s", name, a.Value)
				}
			}
		}
		if seen["svg"] != 1 || seen["title"] == 0 || seen["desc"] == 0 || seen["script"] > 0 || seen["image"] > 0 {
			t.Errorf("%s: elements %v; want one svg with title and desc, without script and image", name, seen)
		}
		if strings.Contains(string(raw), "@import") || strings.Contains(string(raw), "@font-face") {
			t.Errorf("%s loads a font", name)
		}
		if !strings.Contains(text.String(), name) {
			t.Errorf("no document shows %s", name)
		}
	}
}
