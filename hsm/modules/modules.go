// Package modules reads the list of PKCS#11 modules that a host allows.
//
// A module is code that runs in the process which loads it, so no request may
// name its path: the operator of the host lists modules by name, in an
// environment variable, and requests name names. The list also holds what else
// only the host may decide: initialisation arguments, a file with the PIN, and
// concessions for tests.
//
// Border: it parses, and reads the PIN file. It loads nothing.
package modules

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/secret"
)

// Variable is the environment variable that holds a host's list.
const Variable = "MPC_PKCS11_MODULES"

// Bounds of a list, in bytes and entries.
const (
	maxList    = 16 << 10
	maxModules = 64
	maxName    = 64
	maxArgs    = 1024
	maxPIN     = 255
)

// testsOnly is the one value of oaep-sha1.
const testsOnly = "for-tests"

// Module is one entry of the list.
type Module struct {
	Name string
	// Path of the library, absolute.
	Path string
	// InitArgs is handed to C_Initialize in CK_C_INITIALIZE_ARGS.pReserved;
	// NSS softokn needs it. Empty for most modules.
	InitArgs string
	// PINFile, where not empty, is a file of this host that holds the PIN:
	// nodes read it at each login, and nobody else provides one.
	PINFile string
	// AllowSHA1 allows RSA-OAEP with SHA-1, for tests with SoftHSM 2.6, which
	// has no other.
	AllowSHA1 bool
}

// List holds modules by name.
type List map[string]Module

// Parse reads a list: entries between commas, each name=/absolute/path and then
// options, ;key=value. Options are init-args, pin-file and oaep-sha1=for-tests;
// their values are percent-encoded where they hold a comma, a semicolon or a
// percent sign. Names have 1 to 64 characters out of a-z, 0-9, dot, dash and
// underscore. The empty list is valid.
func Parse(s string) (List, error) {
	if len(s) > maxList {
		return nil, fmt.Errorf("%s: longer than %d bytes", Variable, maxList)
	}
	list := List{}
	for entry := range strings.SplitSeq(s, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		m, err := parseEntry(entry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Variable, err)
		}
		if _, twice := list[m.Name]; twice {
			return nil, fmt.Errorf("%s: module %s is listed twice", Variable, m.Name)
		}
		if list[m.Name] = m; len(list) > maxModules {
			return nil, fmt.Errorf("%s: more than %d modules", Variable, maxModules)
		}
	}
	return list, nil
}

func parseEntry(entry string) (Module, error) {
	parts := strings.Split(entry, ";")
	name, path, ok := strings.Cut(parts[0], "=")
	if !ok || !validName(name) {
		return Module{}, fmt.Errorf("%q is not of the form name=/absolute/path", parts[0])
	}
	m := Module{Name: name, Path: path}
	if err := checkPath(path); err != nil {
		return Module{}, fmt.Errorf("the path of module %s %w", name, err)
	}
	seen := map[string]bool{}
	for _, option := range parts[1:] {
		key, raw, _ := strings.Cut(option, "=")
		value, err := url.PathUnescape(raw)
		if err != nil {
			return Module{}, fmt.Errorf("module %s: option %s has a broken percent-encoding", name, key)
		}
		if seen[key] {
			return Module{}, fmt.Errorf("module %s: option %s appears twice", name, key)
		}
		seen[key] = true
		if err := m.set(key, value); err != nil {
			return Module{}, fmt.Errorf("module %s: %w", name, err)
		}
	}
	return m, nil
}

func (m *Module) set(key, value string) error {
	switch key {
	case "init-args":
		if value == "" || len(value) > maxArgs || strings.ContainsRune(value, 0) {
			return fmt.Errorf("init-args has 1 to %d bytes, none of them zero", maxArgs)
		}
		m.InitArgs = value
	case "pin-file":
		if err := checkPath(value); err != nil {
			return fmt.Errorf("pin-file %w", err)
		}
		m.PINFile = value
	case "oaep-sha1":
		if value != testsOnly {
			return fmt.Errorf("oaep-sha1 allows a hash that is only good enough for tests: say so with oaep-sha1=%s, or leave it out", testsOnly)
		}
		m.AllowSHA1 = true
	default:
		// The value is not repeated: it may be a PIN in the wrong place.
		return fmt.Errorf("unknown option %q; there are init-args, pin-file and oaep-sha1", key)
	}
	return nil
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		return errors.New("must be absolute, with no dot segments")
	}
	return nil
}

func validName(s string) bool {
	return len(s) >= 1 && len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// Names lists the names for people.
func (l List) Names() string {
	if len(l) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(l)), ", ")
}

// ReadPIN reads the PIN file: one line of 1 to 255 bytes, with or without its
// newline. Only its owner may have access to the file.
func (m Module) ReadPIN() (*secret.Bytes, error) {
	f, err := os.Open(m.PINFile)
	if err != nil {
		return nil, fmt.Errorf("the PIN file of module %s cannot be opened: %w", m.Name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("the PIN file of module %s: %w", m.Name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", m.PINFile)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s is open to others than its owner (mode %04o), so its PIN is not used: chmod 0400", m.PINFile, info.Mode().Perm())
	}
	buffer := make([]byte, maxPIN+2)
	defer secret.Wipe(buffer)
	n, err := io.ReadFull(f, buffer)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading %s: %w", m.PINFile, err)
	}
	line := buffer[:n]
	for n > 0 && (line[n-1] == '\n' || line[n-1] == '\r') {
		n--
	}
	if n == 0 || n > maxPIN {
		return nil, fmt.Errorf("%s does not hold one PIN of 1 to %d bytes", m.PINFile, maxPIN)
	}
	for _, c := range line[:n] {
		if c == '\n' || c == 0 {
			return nil, fmt.Errorf("%s holds more than one line", m.PINFile)
		}
	}
	return secret.Copy(line[:n]), nil
}
