package doctor

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseUnit(t *testing.T) {
	u := ParseUnit("x", `
# PrivateDevices=no
[Unit]
PrivateTmp=yes
[Service]
; a comment
PrivateDevices = yes
DeviceAllow=/dev/a rw
DeviceAllow=/dev/b \
  r
ReadWritePaths=/a /b
LimitMEMLOCK=1
[Service]
LimitMEMLOCK=infinity
ReadWritePaths=
ReadWritePaths=/c
nonsense
[Install]
ProtectHome=yes
`)
	if !u.yes("PrivateDevices") || u.yes("PrivateTmp") || u.last("ProtectHome") != "" || u.last("LimitMEMLOCK") != "infinity" ||
		!slices.Equal(u.words("ReadWritePaths"), []string{"/c"}) || !slices.Equal(u.words("DeviceAllow"), []string{"/dev/a", "rw", "/dev/b", "r"}) {
		t.Errorf("%+v", u)
	}
	if got := ParseUnit("x", "[Service]\r\nPrivateDevices=yes\r\n"); !got.yes("PrivateDevices") {
		t.Errorf("%+v", got)
	}
}

func TestReadUnit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vault.service")
	if _, err := ReadUnit(file); err == nil {
		t.Error("a unit that is not there was read")
	}
	write(t, file, "[Service]\nPrivateDevices=yes", 0o644)
	if u, err := ReadUnit(file); err != nil || !u.yes("PrivateDevices") {
		t.Errorf("%+v, %v", u, err)
	}
	write(t, file+".d/20-no.conf", "[Service]\nPrivateDevices=no\n", 0o644)
	write(t, file+".d/10-yes.conf", "[Service]\nPrivateDevices=yes\nProtectHome=yes\n", 0o644)
	write(t, file+".d/90-backup", "[Service]\nPrivateDevices=yes\n", 0o644)
	if u, err := ReadUnit(file); err != nil || u.yes("PrivateDevices") || !u.yes("ProtectHome") {
		t.Errorf("%+v, %v", u, err)
	}
}

// systemctl is asked as it is on the path; a program of that name stands in.
func TestAskSystemd(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	write(t, filepath.Join(dir, "systemctl"), "#!/bin/sh\n[ \"$*\" = \"cat --no-pager -- vault.service\" ] || { echo \"No files found for $4.\" >&2; exit 1; }\nprintf '# /lib/vault.service\\n[Service]\\nPrivateTmp=yes\\n'\n", 0o755)
	if u, err := AskSystemd(t.Context(), "vault.service"); err != nil || !u.yes("PrivateTmp") {
		t.Errorf("%+v, %v", u, err)
	}
	for _, name := range []string{"other.service", "--help"} {
		if u, err := AskSystemd(t.Context(), name); err == nil {
			t.Errorf("%s: %+v", name, u)
		}
	}
	if _, err := AskSystemd(t.Context(), "other.service"); err == nil || !strings.Contains(err.Error(), "No files found for other.service") {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := AskSystemd(t.Context(), "vault.service"); err == nil || !strings.Contains(err.Error(), "--unit-file") {
		t.Error(err)
	}
}

func TestUnitSettings(t *testing.T) {
	known := Needs{Files: []string{"/usr/lib/hsm.so", "/etc/mpc/pin"}, HSM: []string{"/opt/hsm/tokens"}}
	with := func(path string) Needs { return Needs{Files: known.Files, HSM: []string{path}} }
	unknown := Needs{Files: known.Files}
	for _, test := range []struct {
		unit   string
		needs  Needs
		check  string
		result Result
		says   string
		dropIn string
	}{
		{"", known, "PrivateDevices", OK, "not hidden", ""},
		{"PrivateDevices=no", with("/dev/bus/usb"), "PrivateDevices", OK, "not hidden", ""},
		{"PrivateDevices=yes", with("/dev/bus/usb"), "PrivateDevices", Problem, "hides /dev/bus/usb", "PrivateDevices=no"},
		{"PrivateDevices=true", unknown, "PrivateDevices", Warning, "is not known", ""},
		{"PrivateDevices=yes", known, "PrivateDevices", OK, "none was named", ""},

		{"", with("/dev/hsm0"), "DevicePolicy", OK, "not restricted", ""},
		{"DevicePolicy=closed", with("/dev/hsm0"), "DevicePolicy", Problem, "does not name /dev/hsm0", "DeviceAllow=/dev/hsm0 rw"},
		{"DevicePolicy=closed\nDeviceAllow=/dev/hsm0 rw", with("/dev/hsm0"), "DevicePolicy", OK, "allows the devices", ""},
		{"DeviceAllow=/dev/other rw", with("/dev/hsm0"), "DevicePolicy", Problem, "does not name", "DeviceAllow=/dev/hsm0 rw"},
		{"DevicePolicy=strict", unknown, "DevicePolicy", Warning, "not known", ""},

		{"ProtectHome=read-only", with("/home/vault/tokens"), "ProtectHome", OK, "not hidden", ""},
		{"ProtectHome=yes", with("/home/vault/tokens"), "ProtectHome", Problem, "hides /home/vault/tokens", "ProtectHome=no"},
		{"ProtectHome=tmpfs", Needs{Files: []string{"/root/pin"}}, "ProtectHome", Problem, "hides /root/pin", "ProtectHome=no"},
		{"ProtectHome=yes", known, "ProtectHome", OK, "nothing that is needed", ""},
		{"ProtectHome=yes", unknown, "ProtectHome", Warning, "not known", ""},
		{"ProtectHome=yes", with("/homes/x"), "ProtectHome", OK, "nothing that is needed", ""},

		{"PrivateTmp=yes", with("/tmp/tokens"), "PrivateTmp", Problem, "hides /tmp/tokens", "PrivateTmp=no"},
		{"PrivateTmp=yes", known, "PrivateTmp", OK, "nothing that is needed", ""},
		{"PrivateTmp=yes", unknown, "PrivateTmp", Warning, "not known", ""},
		{"", with("/tmp/tokens"), "PrivateTmp", OK, "not hidden", ""},

		{"InaccessiblePaths=-/opt/hsm", known, "InaccessiblePaths", Problem, "/opt/hsm/tokens", "BindPaths=/opt/hsm/tokens"},
		{"TemporaryFileSystem=/etc:ro", known, "InaccessiblePaths", Problem, "/etc/mpc/pin", "BindPaths=/etc/mpc/pin"},
		{"TemporaryFileSystem=/etc\nBindReadOnlyPaths=/etc/mpc", known, "InaccessiblePaths", OK, "not needed", ""},
		{"InaccessiblePaths=/mnt", known, "InaccessiblePaths", OK, "not needed", ""},
		{"InaccessiblePaths=/mnt", unknown, "InaccessiblePaths", Warning, "not known", ""},
		{"", known, "InaccessiblePaths", OK, "", ""},

		{"ProtectSystem=strict", known, "ProtectSystem", Warning, "makes /opt/hsm/tokens read-only", "ReadWritePaths=/opt/hsm/tokens"},
		{"ProtectSystem=strict\nReadWritePaths=-/opt/hsm", known, "ProtectSystem", OK, "leaves writable", ""},
		{"ProtectSystem=strict\nStateDirectory=hsm", with("/var/lib/hsm/tokens"), "ProtectSystem", OK, "leaves writable", ""},
		{"ProtectSystem=strict", with("/dev/hsm0"), "ProtectSystem", OK, "leaves writable", ""},
		{"ProtectSystem=strict", unknown, "ProtectSystem", Warning, "not known", ""},
		{"ProtectSystem=full", known, "ProtectSystem", OK, "leaves writable", ""},
		{"ProtectSystem=full", with("/etc/hsm/tokens"), "ProtectSystem", Warning, "read-only", "ReadWritePaths=/etc/hsm/tokens"},
		{"ProtectSystem=yes", with("/etc/hsm/tokens"), "ProtectSystem", OK, "leaves writable", ""},
		{"", known, "ProtectSystem", OK, "no folder", ""},

		{"MemoryDenyWriteExecute=yes", known, "MemoryDenyWriteExecute", Warning, "at run time", ""},
		{"", known, "MemoryDenyWriteExecute", OK, "off", ""},
		{"LimitMEMLOCK=infinity", known, "LimitMEMLOCK", OK, "can be locked", ""},
		{"LimitMEMLOCK=8M", known, "LimitMEMLOCK", Warning, "swap", "LimitMEMLOCK=infinity"},
		{"", known, "LimitMEMLOCK", Warning, "swap", "LimitMEMLOCK=infinity"},
		{"NoNewPrivileges=yes", known, "NoNewPrivileges", OK, "setuid", ""},
		{"", known, "NoNewPrivileges", OK, "off", ""},

		{"", known, "RestrictAddressFamilies", OK, "off", ""},
		{"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6", known, "RestrictAddressFamilies", OK, "allows", ""},
		{"RestrictAddressFamilies=AF_INET AF_INET6", known, "RestrictAddressFamilies", Problem, "without AF_UNIX", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"},
		{"RestrictAddressFamilies=AF_UNIX", known, "RestrictAddressFamilies", Problem, "network HSM", "RestrictAddressFamilies="},
		{"RestrictAddressFamilies=AF_UNIX AF_INET", known, "RestrictAddressFamilies", Warning, "without AF_INET6", ""},
		{"RestrictAddressFamilies=~AF_UNIX", known, "RestrictAddressFamilies", Problem, "without AF_UNIX", ""},
		{"RestrictAddressFamilies=~AF_PACKET", known, "RestrictAddressFamilies", OK, "allows", ""},
		{"RestrictAddressFamilies=none", known, "RestrictAddressFamilies", Problem, "without AF_UNIX", ""},

		{"", known, "SystemCallFilter", OK, "off", ""},
		{"SystemCallFilter=@system-service\nSystemCallFilter=~@mount", known, "SystemCallFilter", OK, "what the plugin uses", ""},
		{"SystemCallFilter=@system-service\nSystemCallFilter=~@ipc @mount", known, "SystemCallFilter", Warning, "forbids @ipc", "SystemCallFilter=@system-service @ipc @memlock"},
		{"SystemCallFilter=~mlockall:EPERM", known, "SystemCallFilter", Warning, "forbids mlockall", ""},
		{"SystemCallFilter=read write", known, "SystemCallFilter", Warning, "single calls", "SystemCallFilter=@system-service"},
	} {
		name := strings.ReplaceAll(test.unit, "\n", " ") + " " + test.check + " " + string(test.result)
		t.Run(name, func(t *testing.T) {
			r := &Report{}
			CheckUnit(r.In("systemd"), ParseUnit("x", "[Service]\n"+test.unit), test.needs)
			expect(t, r, test.check, test.result, test.says)
			if test.dropIn != "" && !slices.Contains(r.DropIn, test.dropIn) {
				t.Errorf("the drop-in has %q, not %q", r.DropIn, test.dropIn)
			}
			if test.dropIn == "" && test.result == OK && slices.ContainsFunc(r.DropIn, func(l string) bool { return strings.HasPrefix(l, test.check+"=") }) {
				t.Errorf("a drop-in %q for what is fine", r.DropIn)
			}
			for _, f := range r.Findings {
				if f.Area != "systemd" || f.Check == "" {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// What the drop-in says mends what was found: applied, nothing is left.
func TestDropInMends(t *testing.T) {
	bad := "[Service]\nPrivateDevices=yes\nDevicePolicy=closed\nProtectHome=yes\nPrivateTmp=yes\nProtectSystem=strict\nInaccessiblePaths=/opt/hsm\n" +
		"RestrictAddressFamilies=AF_INET\nSystemCallFilter=~@ipc\n"
	needs := Needs{Files: []string{"/home/x/lib.so"}, HSM: []string{"/dev/hsm0", "/tmp/tokens", "/opt/hsm"}}
	r := &Report{}
	CheckUnit(r.In("systemd"), ParseUnit("x", bad), needs)
	if n := r.Count(Problem); n != 6 {
		t.Errorf("%d problems: %+v", n, r.Findings)
	}
	mended := &Report{}
	CheckUnit(mended.In("systemd"), ParseUnit("x", bad+"[Service]\n"+strings.Join(r.DropIn, "\n")), needs)
	for _, f := range mended.Findings {
		if f.Result == Problem {
			t.Errorf("still: %+v", f)
		}
	}
	if n := mended.Count(OK) + mended.Count(Warning); n != len(mended.Findings) {
		t.Errorf("%+v", mended.Findings)
	}
}
