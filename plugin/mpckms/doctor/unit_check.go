package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// Needs are the files that modules work with.
type Needs struct {
	// Files are libraries and PIN files, from the module list.
	Files []string
	// HSM are devices and folders that the modules use, as the operator named
	// them; nobody else knows. Empty: not known.
	HSM []string
}

func (n Needs) all() []string { return append(slices.Clone(n.Files), n.HSM...) }

// CheckUnit looks for settings of Vault's unit that keep plugins from their HSM.
// Where it is known which files are needed, a setting that hides one is a
// problem and one that hides none is fine; else it is a warning.
func CheckUnit(a *Area, u *Unit, n Needs) {
	checkDevices(a, u, n)
	hiding(a, u, n, "ProtectHome", []string{"/home", "/root", "/run/user"}, "yes", "tmpfs", "true", "1", "on", "y", "t")
	hiding(a, u, n, "PrivateTmp", []string{"/tmp", "/var/tmp"}, "yes", "disconnected", "true", "1", "on", "y", "t")
	checkInaccessible(a, u, n)
	checkReadOnly(a, u, n)
	checkMemory(a, u)
	checkFamilies(a, u)
	checkCalls(a, u)
}

func list(paths []string) string { return strings.Join(paths, ", ") }

// checkDevices is about /dev: PrivateDevices leaves pseudo-devices only, and
// DevicePolicy what DeviceAllow names (systemd.resource-control(5)).
func checkDevices(a *Area, u *Unit, n Needs) {
	devices := below(n.HSM, "/dev")
	mend := "If the HSM is a USB or PCI device, add this to a drop-in:\n  PrivateDevices=no\n  DeviceAllow=/dev/… rw"
	switch {
	case !u.yes("PrivateDevices"):
		a.OK("PrivateDevices", "devices are not hidden")
	case len(devices) > 0:
		a.Problem("PrivateDevices", "it hides "+list(devices)+" from Vault and the nodes", "PrivateDevices=no in a drop-in.")
		a.dropIn("PrivateDevices=no")
	case len(n.HSM) == 0:
		a.Warn("PrivateDevices", "it hides every device; whether the HSM is one is not known (--hsm-path names what it needs)", mend)
	default:
		a.OK("PrivateDevices", "it hides devices, and none was named with --hsm-path")
	}
	policy := strings.ToLower(u.last("DevicePolicy"))
	var refused []string
	for _, d := range devices {
		if !slices.ContainsFunc(u.values["DeviceAllow"], func(v string) bool {
			fields := strings.Fields(v)
			return len(fields) > 0 && len(below([]string{d}, fields[0])) > 0
		}) {
			refused = append(refused, d)
		}
	}
	switch {
	case policy != "closed" && policy != "strict" && len(u.values["DeviceAllow"]) == 0:
		a.OK("DevicePolicy", "devices are not restricted")
	case len(refused) > 0:
		a.Problem("DevicePolicy", "DeviceAllow does not name "+list(refused), "DeviceAllow for it in a drop-in.")
		for _, d := range refused {
			a.dropIn("DeviceAllow=" + d + " rw")
		}
	case len(n.HSM) == 0 && len(u.values["DeviceAllow"]) == 0:
		a.Warn("DevicePolicy", policy+" lets Vault open no HSM device; whether it needs one is not known (--hsm-path)", mend)
	default:
		a.OK("DevicePolicy", "it allows the devices that were named")
	}
}

// hiding is about a setting that takes folders away from Vault's sight.
func hiding(a *Area, u *Unit, n Needs, setting string, folders []string, hides ...string) {
	value := strings.ToLower(u.last(setting))
	hidden := below(n.all(), folders...)
	switch {
	case !slices.Contains(hides, value):
		a.OK(setting, list(folders)+" are not hidden")
	case len(hidden) > 0:
		a.Problem(setting, "it hides "+list(hidden)+" from Vault and the nodes", "Move the files elsewhere, such as below /etc or /var/lib, or "+setting+"=no in a drop-in.")
		a.dropIn(setting + "=no")
	case len(n.HSM) == 0:
		a.Warn(setting, "it hides "+list(folders)+"; whether the HSM's library keeps files there (tokens of SoftHSM, a client's configuration) is not known (--hsm-path)",
			"If it does: "+setting+"=no in a drop-in, or move the files.")
	default:
		a.OK(setting, "it hides "+list(folders)+", and nothing that is needed lies there")
	}
}

func checkInaccessible(a *Area, u *Unit, n Needs) {
	const check = "InaccessiblePaths"
	var folders []string
	for _, setting := range []string{"InaccessiblePaths", "TemporaryFileSystem"} {
		for _, word := range u.words(setting) {
			folder, _, _ := strings.Cut(word, ":")
			folders = append(folders, folder)
		}
	}
	hidden := except(below(n.all(), folders...), below(n.all(), u.words("BindPaths")...))
	hidden = except(hidden, below(n.all(), u.words("BindReadOnlyPaths")...))
	switch {
	case len(folders) == 0:
		a.OK(check, "no folder is taken away")
	case len(hidden) > 0:
		a.Problem(check, "InaccessiblePaths or TemporaryFileSystem hides "+list(hidden), "BindPaths for it in a drop-in, or another folder.")
		for _, p := range hidden {
			a.dropIn("BindPaths=" + p)
		}
	case len(n.HSM) == 0:
		a.Warn(check, "it hides "+list(folders)+"; whether the HSM's library needs them is not known (--hsm-path)", "")
	default:
		a.OK(check, "what it hides is not needed")
	}
}

// checkReadOnly: libraries that keep tokens in files (SoftHSM, NSS) write there.
func checkReadOnly(a *Area, u *Unit, n Needs) {
	const check = "ProtectSystem"
	value := strings.ToLower(u.last("ProtectSystem"))
	var frozen []string
	switch value {
	case "strict":
		frozen = except(n.HSM, below(n.HSM, "/dev", "/proc", "/sys"))
	case "full":
		frozen = below(n.HSM, "/usr", "/boot", "/efi", "/etc")
	case "yes", "true", "1", "on", "y", "t":
		frozen = below(n.HSM, "/usr", "/boot", "/efi")
	default:
		a.OK(check, "no folder is made read-only")
		return
	}
	open := u.words("ReadWritePaths")
	for setting, base := range map[string]string{"StateDirectory": "/var/lib/", "RuntimeDirectory": "/run/", "CacheDirectory": "/var/cache/", "LogsDirectory": "/var/log/"} {
		for _, dir := range u.words(setting) {
			name, _, _ := strings.Cut(dir, ":")
			open = append(open, base+name)
		}
	}
	frozen = except(frozen, below(frozen, open...))
	switch {
	case len(frozen) > 0:
		a.Warn(check, fmt.Sprintf("%s makes %s read-only; SoftHSM and NSS write to their token folders", value, list(frozen)), "If the library writes there: ReadWritePaths in a drop-in.")
		a.dropIn("ReadWritePaths=" + strings.Join(frozen, " "))
	case value == "strict" && len(n.HSM) == 0:
		a.Warn(check, "strict makes all but "+list(append([]string{"/dev", "/proc", "/sys"}, open...))+" read-only; whether the HSM's library writes elsewhere is not known (--hsm-path)",
			"If it does: ReadWritePaths=… in a drop-in.")
	default:
		a.OK(check, value+" leaves writable what was named")
	}
}

func checkMemory(a *Area, u *Unit) {
	if u.yes("MemoryDenyWriteExecute") {
		a.Warn("MemoryDenyWriteExecute", "some vendors' libraries make code at run time and cannot be loaded with it", "If the module fails to load: MemoryDenyWriteExecute=no in a drop-in.")
	} else {
		a.OK("MemoryDenyWriteExecute", "off")
	}
	switch limit := u.last("LimitMEMLOCK"); limit {
	case "infinity", "infinity:infinity":
		a.OK("LimitMEMLOCK", "memory with keys can be locked")
	default:
		a.Warn("LimitMEMLOCK", fmt.Sprintf("it is %q, not infinity: memory with shares and keys may be written to swap", limit), "LimitMEMLOCK=infinity in a drop-in, or a host without swap.")
		a.dropIn("LimitMEMLOCK=infinity")
	}
	if u.yes("NoNewPrivileges") {
		a.OK("NoNewPrivileges", "on: programs of the HSM's library that are setuid or have file capabilities run without these")
	} else {
		a.OK("NoNewPrivileges", "off")
	}
}

// checkFamilies: Vault talks to plugins, and these to their nodes, over Unix
// sockets; a network HSM is reached over IP.
func checkFamilies(a *Area, u *Unit) {
	const check = "RestrictAddressFamilies"
	var missing []string
	for _, family := range []string{"AF_UNIX", "AF_INET", "AF_INET6"} {
		if !u.allows(check, family) {
			missing = append(missing, family)
		}
	}
	switch {
	case len(u.words(check)) == 0:
		a.OK(check, "off")
	case slices.Contains(missing, "AF_UNIX"):
		a.Problem(check, "without AF_UNIX Vault cannot talk to plugins, nor these to their nodes", "AF_UNIX AF_INET AF_INET6 in a drop-in.")
	case slices.Contains(missing, "AF_INET") && slices.Contains(missing, "AF_INET6"):
		a.Problem(check, "without AF_INET and AF_INET6 neither Vault nor a network HSM is reached", "AF_UNIX AF_INET AF_INET6 in a drop-in.")
	case len(missing) > 0:
		a.Warn(check, "without "+list(missing)+" an HSM with such an address is not reached", "If the HSM has one: add it in a drop-in.")
	default:
		a.OK(check, "it allows AF_UNIX, AF_INET and AF_INET6")
	}
	if len(missing) > 0 {
		a.dropIn(check+"=", check+"=AF_UNIX AF_INET AF_INET6")
	}
}

// checkCalls: what the plugin itself does is in @system-service; PKCS#11
// libraries use shared memory and semaphores, which are in @ipc, a part of it.
func checkCalls(a *Area, u *Unit) {
	const check = "SystemCallFilter"
	words := u.words(check)
	var denied []string
	allowList := len(words) > 0 && !strings.HasPrefix(words[0], "~")
	for _, value := range u.values[check] {
		if rest, ok := strings.CutPrefix(value, "~"); ok {
			for _, word := range strings.Fields(rest) {
				word, _, _ = strings.Cut(word, ":")
				if slices.Contains([]string{"@system-service", "@ipc", "@memlock", "@process", "@io-event", "@network-io", "@file-system", "mlock", "mlockall", "mlock2", "prctl", "clone", "clone3", "execve", "kill", "shmget", "shmat", "semget", "semop"}, word) {
					denied = append(denied, word)
				}
			}
		}
	}
	switch {
	case len(words) == 0:
		a.OK(check, "off")
	case allowList && !slices.Contains(words, "@system-service") && !slices.Contains(words, "@default"):
		a.Warn(check, "it allows single calls; the plugin, its nodes and the HSM's library need those of @system-service", "SystemCallFilter=@system-service in a drop-in.")
		a.dropIn(check + "=@system-service")
	case len(denied) > 0:
		a.Warn(check, "it forbids "+list(denied)+", which the plugin or PKCS#11 libraries use", "SystemCallFilter=@system-service @ipc @memlock in a drop-in.")
		a.dropIn(check + "=@system-service @ipc @memlock")
	default:
		a.OK(check, "it allows what the plugin uses")
	}
}
