package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

// mountInfo is what Vault says about the mount.
type mountInfo struct {
	Type           string `json:"type"`
	Version        string `json:"plugin_version"` // that the mount is pinned to
	RunningVersion string `json:"running_plugin_version"`
	RunningSHA256  string `json:"running_sha256"`
}

// catalogInfo is the plugin as it is registered. Vault does not tell the
// environment it was registered with.
type catalogInfo struct {
	Builtin bool   `json:"builtin"`
	Command string `json:"command"`
	SHA256  string `json:"sha256"`
	Version string `json:"version"`
}

// examineMount reports whether the engine's own paths can be asked.
func (x *examination) examineMount() bool {
	a := x.report.In(areaPlugin)
	path := x.client.mount + "/"
	_, err := x.ask(request{sys: true, path: "sys/internal/ui/mounts/" + x.client.mount}, &x.mount)
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusForbidden {
		_, err = x.ask(request{sys: true, path: "sys/mounts/" + x.client.mount}, &x.mount)
	}
	switch {
	case errors.As(err, &r) && (r.said("no secret engine mount") || r.status == http.StatusNotFound):
		a.Problem("mount", "nothing is mounted at "+path, "Enable it: vault secrets enable -path="+x.client.mount+" mpc, or name another one with --mount.")
		x.mount.Type = engineType // what would be looked for in the catalog
		x.examineCatalog()
		return false
	case err != nil:
		skip(a, "mount", err)
		return true // the token may have rights below it all the same
	case x.mount.Type != engineType:
		a.Warn("mount", fmt.Sprintf("%s is of type %q, not %q", path, x.mount.Type, engineType), "Is it the right one? Another is named with --mount. The plugin may also be registered under that name.")
	default:
		a.OK("mount", path+" is enabled")
	}
	x.examineOwnVersion(a)
	return true
}

func (x *examination) examineOwnVersion(a *doctor.Area) {
	own, theirs := strings.TrimPrefix(x.version, "v"), strings.TrimPrefix(x.mount.RunningVersion, "v")
	switch {
	case theirs == "":
		a.Skip("mpckms version", "Vault does not say which version runs")
	case x.version == "dev":
		a.Skip("mpckms version", "this mpckms has no version; the plugin is "+theirs)
	case own != theirs:
		a.Warn("mpckms version", fmt.Sprintf("mpckms is %s, the running plugin %s: one may not know what the other can do", own, theirs), "Install mpckms "+theirs+".")
	default:
		a.OK("mpckms version", own+", as the plugin")
	}
}

func (x *examination) examineCatalog() {
	a := x.report.In(areaPlugin)
	if x.mount.Type == "" {
		a.Skip("registered", "the mount's type is not known")
		return
	}
	r := request{sys: true, path: "sys/plugins/catalog/secret/" + x.mount.Type}
	if version := x.registeredVersion(); version != "" {
		r.query = map[string][]string{"version": {version}}
	}
	const how = "vault plugin register -sha256=… -version=… -command=vault-plugin-secrets-mpc -env=MPC_PKCS11_MODULES=… secret mpc"
	_, err := x.ask(r, &x.catalog)
	switch {
	case missing(err) && x.mount.RunningVersion == "":
		a.Problem("registered", "the catalog has no secrets plugin "+x.mount.Type, how)
		return
	case missing(err):
		a.Problem("registered", fmt.Sprintf("the catalog has no secrets plugin %s %s any more: the mount does not start again", x.mount.Type, x.mount.Version), how)
		return
	case err != nil:
		skip(a, "registered", err)
		return
	}
	a.OK("registered", strings.TrimSpace(fmt.Sprintf("secrets plugin %s %s", x.mount.Type, x.catalog.Version)))
	const reload = "vault plugin reload -type=secret -plugin=mpc ends the old process and starts the registered one; nodes are away for seconds."
	switch {
	case x.mount.RunningVersion == "":
		a.Skip("running version", "Vault does not say which runs")
	case x.catalog.Version != "" && x.mount.RunningVersion != x.catalog.Version:
		a.Warn("running version", fmt.Sprintf("%s runs, and %s is registered for the mount", x.mount.RunningVersion, x.catalog.Version), reload)
	default:
		a.OK("running version", x.mount.RunningVersion)
	}
	switch {
	case x.mount.RunningSHA256 == "" || x.catalog.SHA256 == "":
		a.Skip("running build", "Vault does not say which SHA-256 runs")
	case x.mount.RunningSHA256 != x.catalog.SHA256:
		a.Warn("running build", "what runs has another SHA-256 than what is registered", reload)
	default:
		a.OK("running build", "it has the registered SHA-256")
	}
}

// registeredVersion is the one to look at: the mount's, else the running one,
// else the last of those that there are. Vault answers only to a version.
func (x *examination) registeredVersion() string {
	if x.mount.Version != "" {
		return x.mount.Version
	}
	var all struct {
		Detailed []struct {
			Type    string `json:"type"`
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"detailed"`
	}
	if _, err := x.ask(request{sys: true, path: "sys/plugins/catalog"}, &all); err != nil {
		return "" // the question without a version gets an answer of its own
	}
	version := ""
	for _, p := range all.Detailed {
		if p.Type != "secret" || p.Name != x.mount.Type {
			continue
		}
		if version = p.Version; version == x.mount.RunningVersion {
			break
		}
	}
	return version
}

// examineHost looks at this machine, where it is Vault's.
func (x *examination) examineHost(askUnit bool) {
	x.examinePluginFile()
	x.examineModules()
	x.examineUnit(askUnit)
}

func (x *examination) examinePluginFile() {
	a := x.report.In(areaPlugin)
	path := x.flags.pluginFile
	if path == "" {
		var err error
		if path, err = x.findPluginFile(); err != nil {
			a.Skip("plugin file", brief(err))
			return
		}
	}
	if _, err := os.Stat(path); err == nil {
		x.onHost = true
	}
	doctor.CheckPluginFile(a, path, x.catalog.SHA256)
	if p, err := doctor.FindPlugin(doctor.Proc, path); err == nil {
		x.process, x.onHost = p, true
	}
}

// findPluginFile asks Vault for its plugin folder. A machine without that folder
// is not Vault's.
func (x *examination) findPluginFile() (string, error) {
	const flag = "; --plugin-file names it"
	if x.catalog.Command == "" {
		return "", errors.New("the catalog did not tell its name" + flag)
	}
	var state struct {
		Folder string `json:"plugin_directory"`
	}
	if _, err := x.ask(request{sys: true, path: "sys/config/state/sanitized"}, &state); err != nil || state.Folder == "" {
		return "", errors.New("the token may not ask Vault for its plugin_directory" + flag)
	}
	if info, err := os.Stat(state.Folder); err != nil || !info.IsDir() {
		return "", fmt.Errorf("this is not Vault's host: there is no folder %s here that can be looked into%s", state.Folder, flag)
	}
	return filepath.Join(state.Folder, filepath.Base(x.catalog.Command)), nil
}

func (x *examination) examineModules() {
	a := x.report.In(areaModules)
	l := doctor.ModuleList{Used: x.module, Process: x.process}
	switch {
	case x.flags.modules != "":
		l.Text, l.Source = x.flags.modules, "from --modules"
	case x.process != nil && x.process.Known:
		l.Text, l.Source = x.process.Modules, fmt.Sprintf("of the running plugin, process %d", x.process.PID)
	case x.process != nil:
		a.Skip("module list", fmt.Sprintf("this user may not read the environment of the plugin, process %d: run it as root, or give --modules \"$%s\"", x.process.PID, modules.Variable))
		return
	default:
		a.Skip("module list", fmt.Sprintf("no running plugin is seen here, and Vault does not tell its environment: on Vault's host give --modules \"$%s\"", modules.Variable))
		return
	}
	x.files = doctor.CheckModules(a, l)
}

func (x *examination) examineUnit(askUnit bool) {
	a := x.report.In(areaSystemd)
	var unit *doctor.Unit
	var err error
	switch {
	case x.flags.unitFile != "":
		unit, err = doctor.ReadUnit(x.flags.unitFile)
	case !x.onHost && !askUnit:
		err = errors.New("this is not seen to be Vault's host: --unit or --unit-file looks all the same")
	default:
		unit, err = doctor.AskSystemd(x.ctx, x.flags.unit)
	}
	if err != nil {
		a.Skip("unit", err.Error())
		return
	}
	a.OK("unit", unit.Source)
	doctor.CheckUnit(a, unit, doctor.Needs{Files: x.files, HSM: x.flags.hsmPaths})
}
