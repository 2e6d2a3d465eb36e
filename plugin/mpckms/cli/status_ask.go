package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"
)

// engineType is the name the plugin is registered under in Vault's catalog.
const engineType = "mpc"

func (doc *statusDoc) askVault(ctx context.Context, c *client) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// sys/health exists in the root namespace only, and needs no token.
	health, err := c.vault.WithNamespace("").Sys().HealthWithContext(ctx)
	r := &refusal{what: "Vault cannot be used", client: c}
	var vaultErr *api.ResponseError
	var syntaxErr *json.SyntaxError
	var typeErr *json.UnmarshalTypeError
	switch {
	case errors.As(err, &vaultErr):
		r.status, r.messages = vaultErr.StatusCode, vaultErr.Errors
		if vaultErr.RawError || r.status == http.StatusNotFound {
			r.cause = errNotVault
		}
		return r
	case errors.As(err, &syntaxErr), errors.As(err, &typeErr), errors.Is(err, io.EOF), err == nil && health.Version == "":
		r.cause = errNotVault
		return r
	case err != nil:
		r.cause = err
		return r
	}
	doc.Vault = vaultStatus{
		Address: c.address, Reachable: true,
		Initialized: health.Initialized, Sealed: health.Sealed,
		Standby: health.Standby || health.PerformanceStandby,
		Version: health.Version, ClusterName: health.ClusterName,
	}
	switch {
	case !health.Initialized:
		r.cause, r.advice = errors.New("it is not initialized"), "Initialize it with 'vault operator init'."
		return r
	case health.Sealed:
		r.status, r.messages = http.StatusServiceUnavailable, []string{"Vault is sealed"}
		return r
	}
	return nil
}

// askMount asks first where every token with any right on the mount may, then
// where operators may.
func (doc *statusDoc) askMount(ctx context.Context, c *client) error {
	var info struct {
		Type    string `json:"type"`
		Version string `json:"plugin_version"`
		Running string `json:"running_plugin_version"`
		Path    string `json:"path"`
	}
	var r *refusal
	_, err := c.do(ctx, request{
		what: "look at the mount", capability: capRead, sys: true, path: "sys/internal/ui/mounts/" + c.mount,
	}, &info)
	if errors.As(err, &r) && r.status == http.StatusForbidden {
		_, err = c.do(ctx, request{
			what: "look at the mount", capability: capRead, sys: true, path: "sys/mounts/" + c.mount,
		}, &info)
	}
	yes, no := true, false
	switch {
	case err == nil:
		doc.Mount.Present, doc.Mount.Type = &yes, info.Type
		if doc.Mount.PluginVersion = info.Running; info.Running == "" {
			doc.Mount.PluginVersion = info.Version
		}
		if info.Type != engineType {
			// An operator may have registered the plugin under another name.
			doc.problem(fmt.Sprintf("the mount's type is %q, expected %q: is this the right mount?", info.Type, engineType))
		}
		return nil
	case errors.As(err, &r) && (r.said("no secret engine mount") || r.status == http.StatusNotFound):
		doc.Mount.Present = &no
		r.what, r.status, r.messages = "cannot use the engine", http.StatusNotFound, []string{"no handler for route"}
		return r
	case errors.As(err, &r) && r.status == http.StatusForbidden:
		if !c.hasToken {
			return r
		}
		doc.problem("the token may not see whether something is mounted at " + doc.Mount.Path)
		return nil
	}
	return err
}

func (doc *statusDoc) askHSM(ctx context.Context, c *client) error {
	found, err := c.do(ctx, request{
		what: "read the HSM's configuration", capability: capRead, path: "config/hsm",
	}, &doc.HSM)
	var r *refusal
	switch {
	case errors.As(err, &r) && r.status == http.StatusForbidden:
		// config/ is for operators; the nodes say whether the HSM works.
		return nil
	case errors.As(err, &r) && r.status == http.StatusNotFound && !r.noRoute() && !r.unsupportedPath():
	case err != nil:
		return err
	}
	configured := err == nil && found && doc.HSM.URI != ""
	doc.HSM.Configured = &configured
	return nil
}

// askNodes also says that an HSM is missing: nodes on other hosts need none here.
func (doc *statusDoc) askNodes(ctx context.Context, c *client) error {
	without := doc.HSM.Configured != nil && !*doc.HSM.Configured
	nodes, err := c.nodes(ctx)
	var r *refusal
	switch {
	case without && (err == nil && len(nodes) == 0 || errors.As(err, &r) && r.status == http.StatusBadRequest):
		doc.problem(fmt.Sprintf("no HSM is configured: vault write %s/config/hsm uri='pkcs11:token=…?module-name=…' pin=-", c.mount))
		return nil
	case err != nil:
		return err
	}
	doc.Nodes = nodes
	return nil
}

// unconfigured reports whether there is no token to work with.
func (doc statusDoc) unconfigured() bool {
	return doc.HSM.Configured != nil && !*doc.HSM.Configured && len(doc.Nodes) == 0
}

// judge decides Ready and names what is wrong with nodes.
func (doc *statusDoc) judge() {
	working, waiting := 0, 0
	for _, n := range doc.Nodes {
		switch {
		case n.working():
			working++
		case n.Remote && n.State == nodeRestarting:
			doc.problem(fmt.Sprintf("node %s cannot be reached: on its host, look at `vault-plugin-secrets-mpc node status` and its log", n.ID))
		case n.State != nodeReady:
			doc.problem(fmt.Sprintf("node %s is %s", n.ID, n.State))
		default:
			doc.problem(fmt.Sprintf("node %s cannot use the HSM: %s", n.ID, n.HSM))
		}
		if !n.hasAux() {
			waiting++
		}
	}
	if working < minWorking && !doc.unconfigured() {
		doc.problem(fmt.Sprintf("%d of %d nodes work, a signature needs at least %d", working, len(doc.Nodes), minWorking))
	}
	if waiting > 0 {
		doc.problem(fmt.Sprintf("%d of %d nodes are still making auxiliary keys: ECDSA signatures may have to wait", waiting, len(doc.Nodes)))
	}
	doc.Ready = working >= minWorking && !doc.unconfigured()
}

func (doc statusDoc) write(t *text) {
	t.line("Vault")
	t.pairs("  ", "Address", doc.Vault.Address, "State", doc.Vault.state(), "Version", doc.Vault.Version, "Cluster", doc.Vault.ClusterName)
	t.line("Mount")
	t.pairs("  ", "Path", doc.Mount.Path, "State", doc.Mount.state(), "Type", doc.Mount.Type, "Plugin version", doc.Mount.PluginVersion)
	t.line("HSM")
	h := doc.HSM
	t.pairs("  ", "State", doc.hsmState(), "URI", h.URI, "Module", h.Module,
		"Token", strings.TrimSpace(h.TokenLabel+" "+parenthesized(h.TokenSerial)),
		"Device", strings.TrimSpace(h.TokenManufacturer+" "+h.TokenModel),
		"Sealing suite", h.Suite, "Wrapping version", count64(uint64(h.WrappingVersion)))
	doc.People.write(t)
	if len(doc.Nodes) > 0 {
		t.blank()
		nodeTable(t, doc.Nodes)
	}
	if len(doc.Problems) > 0 {
		t.blank()
		t.line("To look at")
		for _, p := range doc.Problems {
			t.line("  - " + p)
		}
	}
}

func (v vaultStatus) state() string {
	switch {
	case !v.Reachable:
		return "not reachable"
	case !v.Initialized:
		return "not initialized"
	case v.Sealed:
		return "sealed"
	case v.Standby:
		return "unsealed, standby"
	}
	return "unsealed, active"
}

func (m mountStatus) state() string {
	switch {
	case m.Present == nil:
		return "unknown"
	case *m.Present:
		return "enabled"
	}
	return "not enabled"
}

func (doc statusDoc) hsmState() string {
	h := doc.HSM
	switch {
	case h.Configured == nil && len(doc.Nodes) > 0:
		return "configuration not readable with this token"
	case h.Configured == nil:
		return "unknown"
	case doc.unconfigured():
		return "not configured"
	case !*h.Configured:
		return "none here, nodes on other hosts have their own"
	case !h.PINSet:
		return "configured, no PIN set"
	}
	return "configured"
}

func parenthesized(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}
