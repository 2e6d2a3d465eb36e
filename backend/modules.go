package backend

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// modulesVariable is the environment variable in which a host lists the
// PKCS#11 modules that the API may name. The API itself never takes a path: a
// module is code that runs on this host.
const modulesVariable = "MPC_PKCS11_MODULES"

// ParseModules reads a module list, "name=path,name=path", into paths by name.
// Names have 1 to 64 characters out of a-z, 0-9, dot, dash and underscore;
// paths are absolute. An empty list is valid.
func ParseModules(list string) (map[string]string, error) {
	modules := map[string]string{}
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, path, ok := strings.Cut(entry, "=")
		switch {
		case !ok || !validModuleName(name):
			return nil, fmt.Errorf("%s: %q is not of the form name=/absolute/path", modulesVariable, entry)
		case !filepath.IsAbs(path) || filepath.Clean(path) != path:
			return nil, fmt.Errorf("%s: the path of module %s must be absolute, with no dot segments", modulesVariable, name)
		case modules[name] != "":
			return nil, fmt.Errorf("%s: module %s is listed twice", modulesVariable, name)
		}
		modules[name] = path
	}
	return modules, nil
}

func validModuleName(s string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// moduleNames lists names for people.
func moduleNames(modules map[string]string) string {
	if len(modules) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(modules)), ", ")
}
