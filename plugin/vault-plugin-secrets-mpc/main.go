// Command vault-plugin-secrets-mpc is the Vault secrets engine and, with the
// argument "node", one of its MPC nodes. Vault starts the engine, one process
// per mount; the engine starts nodes by executing itself. With "node serve" and
// the commands beside it, it is a node on a host of its own.
//
// Border: wiring only. Every decision is made in backend, mpc/pool, mpc/node and
// mpc/daemon.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	vaultplugin "github.com/hashicorp/vault/sdk/plugin"

	"vault-plugin-secrets-mpc/backend"
	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// version is set by the linker: semantic version without "v".
var version = "0.1.0"

// aboutProgram is for people who run the program by hand.
const aboutProgram = "This is a Vault plugin; Vault starts it. Register it with `vault plugin register` (see the README).\nA node on a host of its own is run with `vault-plugin-secrets-mpc node serve`; see `vault-plugin-secrets-mpc node --help`."

func main() {
	switch {
	case len(os.Args) == 2 && (os.Args[1] == "-h" || os.Args[1] == "-help" || os.Args[1] == "--help"):
		fmt.Println(aboutProgram)
	case len(os.Args) == 1 || strings.HasPrefix(os.Args[1], "-"):
		// Vault may pass flags of its own (-ca-cert, …); none is needed.
		os.Exit(serve())
	case os.Args[1] == "node" && len(os.Args) == 2:
		os.Exit(serveNode())
	case os.Args[1] == "node":
		os.Exit(nodeCommand(os.Args[2:], os.Stdout, os.Stderr))
	case os.Args[1] == "version":
		fmt.Println(version)
	default:
		fmt.Fprintln(os.Stderr, aboutProgram)
		os.Exit(2)
	}
}

// serve runs the secrets engine of one mount.
func serve() int {
	logger := newLogger("")
	harden(logger)
	go exitWithVault(os.Getppid())
	err := vaultplugin.Serve(&vaultplugin.ServeOpts{
		Logger: logger,
		BackendFactoryFunc: backend.Factory(withFaults(backend.Config{
			Version:   "v" + version,
			Modules:   os.Getenv(modules.Variable),
			Authority: os.Getenv(node.AuthorityVariable),
			Enroller:  enroller{},
			// Set where this program cannot load a token's module.
			NoLocalNodes: noLocalNodes(),
			NewEngine: func(c backend.EngineConfig) backend.Engine {
				return pool.New(pool.Config{
					Store: c.Store, Logger: c.Logger, Env: nodeEnv(os.Environ()),
					OnPresignatureUsed: c.OnPresignatureUsed, OnPINRefused: c.OnPINRefused,
				})
			},
		})),
	})
	// Vault may end the engine without calling Clean: nodes end all the same,
	// because the pipe they inherited closes with this process.
	if err != nil {
		logger.Error("the plugin cannot be served", "error", err)
		return 1
	}
	return 0
}

// noLocalNodes says why this program runs no nodes on this host; empty where it can.
func noLocalNodes() string {
	if pkcs11.Available {
		return ""
	}
	return "this build of the plugin was made without cgo and cannot load a PKCS#11 module"
}

// exitWithVault ends this process when its parent changes: a Vault that was
// killed leaves the plugin running otherwise, logged in to the HSM. The nodes
// end with this process, because their pipe closes.
func exitWithVault(parent int) {
	for os.Getppid() == parent {
		time.Sleep(100 * time.Millisecond)
	}
	os.Exit(0)
}

// nodeEnv is the environment of local nodes: what finding programs, temporary
// files and the HSM needs, and what the operator names in MPC_NODE_ENV.
func nodeEnv(environ []string) []string {
	allowed := map[string]bool{"PATH": true, "HOME": true, "TMPDIR": true, "LD_LIBRARY_PATH": true,
		"SOFTHSM2_CONF": true, modules.Variable: true, node.AuthorityVariable: true}
	for _, kv := range environ {
		if list, ok := strings.CutPrefix(kv, "MPC_NODE_ENV="); ok {
			for name := range strings.SplitSeq(list, ",") {
				if name = strings.TrimSpace(name); allowedByOperator(name) {
					allowed[name] = true
				}
			}
		}
	}
	var out []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); allowed[name] {
			out = append(out, kv)
		}
	}
	return out
}

// allowedByOperator refuses names that would break or subvert a node.
func allowedByOperator(name string) bool {
	return name != "" && !strings.HasPrefix(name, "PLUGIN_") && !strings.HasPrefix(name, "VAULT_") &&
		!strings.HasPrefix(name, "LD_PRELOAD") && !strings.HasPrefix(name, "GODEBUG")
}

// newLogger writes the JSON lines that the parent process turns into its log.
func newLogger(name string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.Info, Output: os.Stderr, JSONFormat: true})
}
