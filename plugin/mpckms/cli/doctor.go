package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

// doctorDoc is the JSON document of `doctor`. It is printed also where there
// are problems.
type doctorDoc struct {
	Problems   int              `json:"problems"`
	Warnings   int              `json:"warnings"`
	NotChecked int              `json:"not_checked"`
	Checks     []doctor.Finding `json:"checks"`
	// DropIn is text for a drop-in of Vault's unit; empty where none is needed.
	DropIn string `json:"drop_in"`
}

// doctorFlags say what cannot be asked for.
type doctorFlags struct {
	pluginFile, modules, unit, unitFile string
	hsmPaths                            []string
}

// Areas of findings, in the order they are looked at.
const (
	areaVault    = "Vault"
	areaToken    = "token"
	areaPlugin   = "plugin"
	areaHSM      = "HSM"
	areaNodes    = "nodes"
	areaRotation = "rotation"
	areaRecovery = "recovery"
	areaModules  = "modules"
	areaSystemd  = "systemd"
	// areaApprovals and areaIdentities stand with their checks.
)

// examination is one run of doctor.
type examination struct {
	*app
	*client
	ctx    context.Context
	flags  doctorFlags
	report doctor.Report
	// said are the warnings of the last answer.
	said []string

	mount   mountInfo
	catalog catalogInfo
	module  string // that the mount uses, if known
	process *doctor.Process
	onHost  bool // this is Vault's host
	files   []string
}

func (a *app) doctorCommand() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, and say how to mend it",
		Long: `Check Vault, the token, the plugin, the HSM, nodes, rotation, recovery, logins
and approvals, and on Vault's host the plugin's file, the PKCS#11 modules and the systemd unit. Nothing
is changed. Each check ends with ok, warning, problem, or not checked and why.

On Vault's host run it as root: it then sees the module list and the file system
as the running plugin does. The exit code is 1 where there are problems.`,
		Example: `  mpckms doctor
  sudo -E mpckms doctor --hsm-path /dev/bus/usb
  mpckms doctor --modules "$MPC_PKCS11_MODULES" --unit-file /etc/systemd/system/vault.service`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, path := range f.hsmPaths {
				if !strings.HasPrefix(path, "/") {
					return usagef(cmd, "--hsm-path takes absolute paths, not %q", path)
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			c.vault.SetMaxRetries(0) // what answers at the second attempt is worth knowing
			x := &examination{app: a, client: c, ctx: cmd.Context(), flags: f}
			c.warn = func(s string) { x.said = append(x.said, s) }
			x.examine(cmd.Flags().Changed("unit"))
			if err := cmd.Context().Err(); err != nil {
				return &refusal{what: "the checks were not finished", cause: err}
			}
			doc := x.doc()
			if err := a.print(doc, doc.write); err != nil {
				return err
			}
			if doc.Problems > 0 {
				return &refusal{what: fmt.Sprintf("%s; the output says how to mend them", plural(doc.Problems, "problem"))}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.pluginFile, "plugin-file", "", "the plugin's file on this machine (default: found in plugin_directory, where that is readable)")
	flags.StringVar(&f.modules, "modules", "", "the list in MPC_PKCS11_MODULES (default: that of the running plugin, where it can be read)")
	flags.StringArrayVar(&f.hsmPaths, "hsm-path", nil, "a device or folder that the HSM's library needs, such as /dev/bus/usb; may be repeated")
	flags.StringVar(&f.unit, "unit", "vault.service", "Vault's systemd unit")
	flags.StringVar(&f.unitFile, "unit-file", "", "the unit's file, with its drop-ins in FILE.d, instead of asking systemd")
	cmd.MarkFlagsMutuallyExclusive("unit", "unit-file")
	return cmd
}

// examine makes all checks, one area after the other. What the server cannot be
// asked does not keep the host from being looked at.
func (x *examination) examine(askUnit bool) {
	if why := x.examineVault(); why != "" {
		for _, area := range []string{areaToken, areaPlugin, areaHSM, areaNodes, areaRotation, areaRecovery, areaIdentities, areaApprovals} {
			x.report.In(area).Skip("all", why)
		}
	} else {
		x.examineToken()
		if x.examineMount() {
			x.examineCatalog()
			x.examineEngine()
		} else {
			for _, area := range []string{areaHSM, areaNodes, areaRotation, areaRecovery, areaIdentities, areaApprovals} {
				x.report.In(area).Skip("all", "the engine was not found")
			}
		}
		x.examineAudit()
	}
	x.examineHost(askUnit)
}

func (x *examination) examineEngine() {
	configured := x.examineHSM()
	x.examineNodes(configured)
	x.examineRotation()
	x.examineWrappingKeys()
	x.examineAccounts()
	x.examineRecovery()
	x.examineLogins()
	x.examineApprovals()
}

// ask reads a path and forgets earlier warnings.
func (x *examination) ask(r request, out any) (bool, error) {
	x.said = nil
	if r.capability == "" {
		r.capability = capRead
	}
	if r.what == "" {
		r.what = "read " + r.path
	}
	return x.do(x.ctx, r, out)
}

// skip says why a check was not made: never ok because of a missing right.
func skip(a *doctor.Area, check string, err error) {
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusForbidden && r.denied() {
		a.Skip(check, fmt.Sprintf("the token may not %s %s", r.req.capability, r.path))
		return
	}
	a.Skip(check, brief(err))
}

// missing reports whether an answer says that there is nothing at a path.
func missing(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusNotFound && !r.noRoute() && !r.unsupportedPath()
}

func (x *examination) doc() doctorDoc {
	doc := doctorDoc{
		Problems: x.report.Count(doctor.Problem), Warnings: x.report.Count(doctor.Warning),
		NotChecked: x.report.Count(doctor.NotChecked), Checks: x.report.ByArea(),
	}
	if len(x.report.DropIn) > 0 {
		doc.DropIn = "# /etc/systemd/system/" + x.flags.unit + ".d/mpc-hsm.conf\n[Service]\n" + strings.Join(x.report.DropIn, "\n") + "\n"
	}
	return doc
}

func (doc doctorDoc) write(t *text) {
	var area string
	var rows [][]string
	flush := func() {
		if len(rows) > 0 {
			t.line(area)
			t.rows("  ", rows)
			rows = nil
		}
	}
	for _, f := range doc.Checks {
		if f.Area != area {
			flush()
			area = f.Area
		}
		rows = append(rows, []string{string(f.Result), f.Check, f.Says})
	}
	flush()
	first := true
	for _, f := range doc.Checks {
		if f.Mend == "" {
			continue
		}
		if first {
			t.blank()
			t.line("To mend")
			first = false
		}
		t.line(fmt.Sprintf("  %s, %s (%s)", f.Area, f.Check, f.Result))
		for line := range strings.Lines(f.Mend) {
			t.line("    " + strings.TrimRight(line, "\n"))
		}
	}
	if doc.DropIn != "" {
		t.blank()
		t.line("A drop-in for Vault's unit; then: systemctl daemon-reload && systemctl restart vault")
		t.block(doc.DropIn)
	}
	t.blank()
	t.line(fmt.Sprintf("%s, %s, %d not checked, %d ok", plural(doc.Problems, "problem"), plural(doc.Warnings, "warning"), doc.NotChecked,
		len(doc.Checks)-doc.Problems-doc.Warnings-doc.NotChecked))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
