package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// envMount sets the default of --mount.
const envMount = "MPCKMS_MOUNT"

const rootLong = `mpckms works with threshold keys kept by the MPC secrets engine of Vault or
OpenBao: it creates accounts, signs with them and shows the state of the nodes.
It also opens identities, people's secrets and the custody keys of accounts: these
are encrypted and decrypted on this machine, and logging in needs no Vault token.

It finds the server as the vault CLI does: VAULT_ADDR, VAULT_TOKEN or the token
left by "vault login", VAULT_NAMESPACE, VAULT_CACERT, VAULT_CLIENT_TIMEOUT.

Exit codes: 0 done; 1 the server or the network refused, or the answer is no
(invalid signature, untrusted file, engine not ready); 2 wrong usage or local settings.`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "mpckms",
		Short: "Threshold keys in Vault: accounts, signatures, nodes",
		Long:  rootLong,
		Example: `  mpckms status
  mpckms account create treasury --algorithm bip340-secp256k1
  mpckms account sign treasury --input "hello"
  mpckms login acme --authenticator ada --kind password
  mpckms secret show acme/dns`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if strings.HasPrefix(cmd.Name(), cobra.ShellCompRequestCmd) {
				return nil // silent, whatever is wrong
			}
			return a.checkGlobals()
		},
	}
	mount := os.Getenv(envMount)
	if mount == "" {
		mount = "mpc"
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.mount, "mount", mount, "where the engine is mounted (env "+envMount+")")
	flags.StringVarP(&a.output, "output", "o", "table", "output format: table or json")
	complete(root, "output", "table", "json")
	a.holderFlags(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef(cmd, "%v", err)
	})
	root.AddCommand(a.versionCommand(), a.statusCommand(), a.accountCommand(), a.signCommand(), a.nodeCommand(), a.requestCommand(), a.approverCommand(),
		a.authenticatorCommand(), a.loginCommand(), a.identityCommand(), a.secretCommand(), a.deviceCommand(),
		a.wrappingKeyCommand(), a.rotationCommand(), a.authorityCommand(), a.recoveryCommand(), a.doctorCommand())
	root.SetIn(a.stdin)
	root.SetOut(a.stdout) // before the scripts' commands are made, which keep it
	root.SetErr(a.stderr)
	strictCompletion(root)
	return root
}

// strictCompletion has cobra's command for shells' scripts treat a wrong word as
// the other groups of commands do.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			like := group(cmd.Use, cmd.Short)
			cmd.Args, cmd.RunE = like.Args, like.RunE
		}
	}
}

func (a *app) checkGlobals() error {
	if a.output != "table" && a.output != "json" {
		return fmt.Errorf("unknown output format %q: use -o table or -o json", a.output)
	}
	mount := strings.Trim(a.mount, "/")
	for part := range strings.SplitSeq(mount, "/") {
		if !validName(part) {
			return fmt.Errorf("%q is not a mount path: --mount (or %s) takes letters, digits, '_', '-' and '.', with '/' between parts", a.mount, envMount)
		}
	}
	a.mount = mount
	return nil
}

// validName reports whether s is a name Vault's generic name pattern accepts:
// letters, digits and '_', with '-' and '.' inside. Anything else could
// address another path.
func validName(s string) bool {
	word := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	if s == "" || !word(s[0]) || !word(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !word(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return true
}

// usageError is an error in how a command was called.
type usageError struct{ problem, command string }

func (e *usageError) Error() string {
	return e.problem + "\nRun '" + e.command + " --help' for its usage."
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), cmd.CommandPath()}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef(cmd, "unexpected argument %q", args[0])
	}
	return nil
}

// accountArg takes exactly one account name.
func accountArg(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usagef(cmd, "which account? Give its name")
	case len(args) > 1:
		return usagef(cmd, "one account name expected, unexpected argument %q", args[1])
	case !validName(args[0]):
		return usagef(cmd, "%q is not an account name: use up to 128 letters, digits, dots, dashes and underscores, with a letter or digit at both ends", args[0])
	}
	return nil
}

// oneArg takes exactly one argument, described for who forgets it.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef(cmd, "give %s, and nothing else", what)
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			cmd.SuggestionsMinimumDistance = min(2, len(args[0])/2) // letters that differ
			if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
				return usagef(cmd, "unknown command %q, did you mean %s?", args[0], strings.Join(like, " or "))
			}
			return usagef(cmd, "unknown command %q", args[0])
		},
	}
}
