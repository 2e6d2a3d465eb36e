package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// systemctlTimeout bounds the call of systemctl, which may wait for a bus.
const systemctlTimeout = 5 * time.Second

// Unit is what the [Service] sections of a unit and its drop-ins set, by name
// and in order.
type Unit struct {
	Source string
	values map[string][]string
}

// ParseUnit reads a unit's text, or several one after the other, as `systemctl
// cat` prints a unit with its drop-ins (systemd.syntax(7): comments, sections,
// lines continued by a backslash). An empty value forgets what was set before.
func ParseUnit(source, text string) *Unit {
	u := &Unit{Source: source, values: map[string][]string{}}
	section := ""
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = line
		case section == "[Service]":
			name, value, ok := strings.Cut(line, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			switch {
			case !ok:
			case value == "":
				delete(u.values, name)
			default:
				u.values[name] = append(u.values[name], value)
			}
		}
	}
	return u
}

// ReadUnit reads a unit's file and the drop-ins in the folder beside it.
func ReadUnit(file string) (*Unit, error) {
	file = filepath.Clean(file)
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dropIns, err := os.ReadDir(file + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range dropIns { // in the order of their names, as systemd does
		if filepath.Ext(d.Name()) != ".conf" {
			continue
		}
		more, err := os.ReadFile(filepath.Join(file+".d", filepath.Base(d.Name())))
		if err != nil {
			return nil, err
		}
		raw = append(append(raw, '\n'), more...)
	}
	return ParseUnit(file, string(raw)), nil
}

// AskSystemd has systemctl print a unit of this machine.
func AskSystemd(ctx context.Context, name string) (*Unit, error) {
	if strings.HasPrefix(name, "-") {
		return nil, fmt.Errorf("%q is no unit", name)
	}
	systemctl, err := exec.LookPath("systemctl")
	if err != nil {
		return nil, errors.New("there is no systemctl here; --unit-file takes the unit's file")
	}
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, systemctl, "cat", "--no-pager", "--", name)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		if first == "" {
			first = err.Error()
		}
		return nil, fmt.Errorf("systemctl cat %s: %s; --unit-file takes the unit's file", name, first)
	}
	return ParseUnit(name, out.String()), nil
}

// last is a setting that has one value.
func (u *Unit) last(name string) string {
	all := u.values[name]
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// words are all words of a setting that is a list.
func (u *Unit) words(name string) []string {
	var words []string
	for _, value := range u.values[name] {
		words = append(words, strings.Fields(value)...)
	}
	return words
}

// yes reports whether a setting is a Boolean that is on (systemd.syntax(7)).
func (u *Unit) yes(name string) bool {
	return slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(u.last(name)))
}

// allows interprets a list that is one of what is allowed, or, where it begins
// with ~, of what is not (systemd.exec(5), RestrictAddressFamilies).
func (u *Unit) allows(list, word string) bool {
	words := u.words(list)
	if len(words) == 0 {
		return true
	}
	if rest, deny := strings.CutPrefix(words[0], "~"); deny {
		return rest != word && !slices.Contains(words[1:], word)
	}
	return slices.Contains(words, word)
}

// below returns those paths that are one of the folders or lie below one.
func below(paths []string, folders ...string) []string {
	var in []string
	for _, p := range paths {
		for _, f := range folders {
			// Settings may have a prefix that says how errors are taken.
			f = strings.TrimRight(strings.TrimLeft(f, "-+"), "/")
			if f != "" && (p == f || strings.HasPrefix(p, f+"/")) {
				in = append(in, p)
				break
			}
		}
	}
	return in
}

// except returns the paths that are not in out.
func except(paths, out []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return slices.Contains(out, p) })
}
