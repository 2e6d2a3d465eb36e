package modules

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// Variable is the environment variable that holds the list.
const Variable = "MPC_PKCS11_MODULES"

// Bounds of one entry. The list is the operator's own; they catch mistakes.
const (
	maxName     = 64   // characters
	maxInitArgs = 4096 // bytes, decoded
)

// Keys of an entry's options.
const (
	keyInitArgs = "init-args"
	keyPINFile  = "pin-file"
	keySHA1     = "oaep-sha1"

	// sha1ForTests is the only value of oaep-sha1: whoever sets it has written
	// down what it is for.
	sha1ForTests = "for-tests"
)

// Module is one entry of the list.
type Module struct {
	Name string // what the API calls it
	Path string // of the library, absolute
	// InitArgs is handed to the library when it starts
	// (CK_C_INITIALIZE_ARGS.pReserved), without a NUL; NSS is configured so.
	// Empty: nothing is handed over.
	InitArgs string
	// PINFile is the absolute path of a file with the token's user PIN, for
	// hosts that provide the PIN themselves. Empty: Vault stores the PIN.
	PINFile string
	// AllowSHA1 lets the module make and use RSA-OAEP keys with SHA-1. For
	// tests with SoftHSM 2.6.1, which has no other OAEP.
	AllowSHA1 bool
}

// List is the modules of a host by name.
type List map[string]Module

// Parse reads a list. Entries are separated by commas and have the form
//
//	name=/absolute/path[;init-args=…][;pin-file=/absolute/path][;oaep-sha1=for-tests]
//
// each option at most once. Names have 1 to 64 characters out of a-z, 0-9, dot,
// dash and underscore. In init-args a comma, a semicolon and a percent sign are
// written %2C, %3B and %25, and other bytes may be percent-encoded too; paths
// are taken as they are and cannot contain a comma or semicolon. An empty list
// is valid. An error names the entry and leaves no list.
func Parse(s string) (List, error) {
	list := List{}
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		m, err := parseEntry(entry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Variable, err)
		}
		if _, twice := list[m.Name]; twice {
			return nil, fmt.Errorf("%s: module %s is listed twice", Variable, m.Name)
		}
		list[m.Name] = m
	}
	return list, nil
}

func parseEntry(entry string) (Module, error) {
	head, rest, more := strings.Cut(entry, ";")
	name, path, ok := strings.Cut(head, "=")
	if !ok || !validName(name) {
		// The whole entry may carry a secret in its options; the head does not.
		return Module{}, fmt.Errorf("%q is not of the form name=/absolute/path", head)
	}
	m := Module{Name: name, Path: path}
	if !clean(path) {
		return Module{}, fmt.Errorf("the path of module %s must be absolute, with no dot segments", name)
	}
	seen := map[string]bool{}
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ";")
		key, value, _ := strings.Cut(option, "=")
		if seen[key] {
			return Module{}, fmt.Errorf("module %s has %s twice", name, key)
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
	case keyInitArgs:
		// Path, not query, rules: a plus sign is a plus sign.
		args, err := url.PathUnescape(value)
		if err != nil {
			return fmt.Errorf("%s has a %% that starts no escape; write %%25 for the character", keyInitArgs)
		}
		if args == "" || len(args) > maxInitArgs || strings.ContainsFunc(args, control) {
			return fmt.Errorf("%s takes 1 to %d bytes without control characters", keyInitArgs, maxInitArgs)
		}
		m.InitArgs = args
	case keyPINFile:
		if !clean(value) {
			return fmt.Errorf("%s takes an absolute path with no dot segments", keyPINFile)
		}
		m.PINFile = value
	case keySHA1:
		if value != sha1ForTests {
			return fmt.Errorf("%s takes the value %s only: OAEP with SHA-1 is there for tests with SoftHSM", keySHA1, sha1ForTests)
		}
		m.AllowSHA1 = true
	default:
		return fmt.Errorf("%q is no option; there are %s, %s and %s", key, keyInitArgs, keyPINFile, keySHA1)
	}
	return nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// clean reports whether path is absolute, without dot segments, and has no
// control characters.
func clean(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && !strings.ContainsFunc(path, control)
}

func validName(s string) bool {
	if len(s) < 1 || len(s) > maxName {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// Names lists the names for people: sorted, or "none".
func (l List) Names() string {
	if len(l) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(l)), ", ")
}
