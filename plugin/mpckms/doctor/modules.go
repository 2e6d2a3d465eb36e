package doctor

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"vault-plugin-secrets-mpc/hsm/modules"
)

// entryPoint is the one function that every PKCS#11 library exports (PKCS#11
// v2.40 §5.4, C_GetFunctionList).
const entryPoint = "C_GetFunctionList"

// ModuleList is a host's list of modules and what is known beside it.
type ModuleList struct {
	Text   string // as in the environment
	Source string // where it was read, for people
	// Used is the module that the mount's configuration names; empty: not known.
	Used string
	// Process is the running plugin; nil where none is seen.
	Process *Process
}

// CheckModules checks the list by the rules of package hsm/modules, and the
// files that it names. It returns the paths of these files.
func CheckModules(a *Area, l ModuleList) (paths []string) {
	list, err := modules.Parse(l.Text)
	switch {
	case err != nil:
		a.Problem("module list", fmt.Sprintf("%v (%s)", err, l.Source), "Correct it, register the plugin with the right -env="+modules.Variable+"=… and reload it. No token is used meanwhile.")
		return nil
	case len(list) == 0:
		a.Problem("module list", "it is empty ("+l.Source+")", "Register the plugin with -env="+modules.Variable+"=NAME=/path/to/library.so and reload it.")
		return nil
	}
	if _, there := list[l.Used]; l.Used != "" && !there {
		a.Problem("module list", fmt.Sprintf("the mount uses module %q, and the list has %s (%s)", l.Used, list.Names(), l.Source),
			"Put the module on the list, or write config/hsm with a name that is on it.")
	} else {
		a.OK("module list", list.Names()+" ("+l.Source+")")
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		m := list[name]
		paths = append(paths, m.Path)
		checkLibrary(a, m, l.Process)
		if m.PINFile != "" {
			paths = append(paths, m.PINFile)
			checkPINFile(a, m, l.Process)
		}
	}
	return paths
}

// seen checks that a file is there, for Vault too.
func seen(a *Area, check, what, path string, p *Process) (fs.FileInfo, bool) {
	info, err := os.Stat(filepath.Clean(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.Problem(check, what+" "+path+" is not there", "Install it, or correct the path in "+modules.Variable+".")
		return nil, false
	case errors.Is(err, fs.ErrPermission):
		a.Skip(check, "this user may not look at "+path)
		return nil, false
	case err != nil:
		a.Problem(check, err.Error(), "Correct the path in "+modules.Variable+".")
		return nil, false
	}
	if hidden, known := p.hides(path); known && hidden {
		a.Problem(check, fmt.Sprintf("%s %s is on the host, but hidden from the plugin (process %d)", what, path, p.PID),
			"A setting of Vault's unit hides it; see the findings about systemd. Or put it into a folder that Vault sees.")
		return nil, false
	}
	return info, true
}

func checkLibrary(a *Area, m modules.Module, p *Process) {
	check := "module " + m.Name
	info, ok := seen(a, check, "library", m.Path, p)
	if !ok {
		return
	}
	switch {
	case !info.Mode().IsRegular():
		a.Problem(check, m.Path+" is not a file", "Name the library itself in "+modules.Variable+".")
		return
	case info.Mode().Perm()&0o002 != 0:
		a.Problem(check, fmt.Sprintf("every user of this host can change %s (mode %04o), and with it what runs in the nodes", m.Path, info.Mode().Perm()), "chmod go-w "+m.Path)
		return
	case p != nil && !readable(info, p.UID):
		a.Problem(check, fmt.Sprintf("%s cannot be read by Vault's user, uid %d (mode %04o)", m.Path, p.UID, info.Mode().Perm()), "chmod a+r "+m.Path)
		return
	}
	f, err := elf.Open(m.Path)
	var notELF *elf.FormatError
	switch {
	case errors.Is(err, fs.ErrPermission):
		a.Skip(check, "this user may not read "+m.Path)
		return
	case errors.As(err, &notELF), err != nil:
		a.Problem(check, m.Path+" is no ELF file, so no library of this system", "Name the vendor's PKCS#11 library for Linux, a file that ends in .so.")
		return
	}
	defer f.Close()
	switch symbols, err := f.DynamicSymbols(); {
	case f.Type != elf.ET_DYN:
		a.Problem(check, m.Path+" is a program, not a shared library", "Name the vendor's PKCS#11 library.")
	case !fits(f.Machine):
		a.Problem(check, fmt.Sprintf("%s is for another processor (%v; this is %s)", m.Path, f.Machine, runtime.GOARCH), "Install the library for this host's architecture.")
	case err != nil || !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == entryPoint && s.Section != elf.SHN_UNDEF }):
		a.Problem(check, m.Path+" has no "+entryPoint+": it is no PKCS#11 library", "Name the vendor's PKCS#11 library; others of its libraries do not serve.")
	default:
		a.OK(check, m.Path+seenBy(p))
	}
}

func seenBy(p *Process) string {
	if p == nil {
		return " (whether Vault's unit hides it was not seen: no plugin process)"
	}
	return ""
}

// fits reports whether a library is for this machine, where that is known.
func fits(m elf.Machine) bool {
	want, known := map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "arm": elf.EM_ARM,
		"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "riscv64": elf.EM_RISCV,
	}[runtime.GOARCH]
	return !known || m == want
}

// readable reports whether a user may read a file, as far as owner and others
// tell; groups are given the benefit of the doubt.
func readable(info fs.FileInfo, uid uint32) bool {
	owner, known := ownerOf(info)
	perm := info.Mode().Perm()
	switch {
	case uid == 0 || !known:
		return true
	case owner == uid:
		return perm&0o400 != 0
	}
	return perm&0o044 != 0
}

func checkPINFile(a *Area, m modules.Module, p *Process) {
	check := "PIN file of " + m.Name
	info, ok := seen(a, check, "PIN file", m.PINFile, p)
	if !ok {
		return
	}
	owner, known := ownerOf(info)
	switch {
	case !info.Mode().IsRegular():
		a.Problem(check, m.PINFile+" is not a regular file", "Put the PIN into a file of its own.")
	case info.Mode().Perm()&0o077 != 0:
		a.Problem(check, fmt.Sprintf("others than its owner may use %s (mode %04o): nodes do not take it", m.PINFile, info.Mode().Perm()),
			"chmod 0600 "+m.PINFile+"\nand change the PIN if somebody may have read it.")
	case p != nil && known && owner != p.UID && p.UID != 0:
		a.Problem(check, fmt.Sprintf("%s belongs to uid %d, and Vault runs as uid %d, which cannot read it", m.PINFile, owner, p.UID), fmt.Sprintf("chown %d %s", p.UID, m.PINFile))
	case info.Size() == 0:
		a.Problem(check, m.PINFile+" is empty", "Write the token's user PIN into it, one line.")
	case info.Size() > modules.MaxPIN+2:
		a.Problem(check, fmt.Sprintf("%s is longer than any PIN", m.PINFile), "Write the token's user PIN into it, one line and nothing else.")
	case p == nil:
		a.Warn(check, m.PINFile+" is for its owner only; whether that is Vault's user was not seen: no plugin process", "Make sure that Vault's user owns it.")
	default:
		a.OK(check, m.PINFile+" is for its owner only")
	}
}
