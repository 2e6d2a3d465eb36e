package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completionTimeout bounds what the shell waits for names.
const completionTimeout = 2 * time.Second

// formatJWS is the one format whose signatures are in base64url.
const formatJWS = "jws"

// What completion offers, each with what it is behind a tab. These are those of
// the engine of the same version; commands take others as well.
var (
	algorithmChoices = []string{"bip340-secp256k1\tSchnorr signatures of Taproot", "ed25519\tEdDSA", "ecdsa-secp256k1\tEthereum, Bitcoin, Cosmos", "ecdsa-p256\tTLS, JWT, passkeys"}
	hashes           = []string{"sha2-256", "sha2-384", "sha2-512", "keccak-256", "sha-256d\tSHA-256 twice, as Bitcoin does"}
	formats          = []string{"der\tASN.1, for ECDSA", "compact\tr and s, 64 bytes", "ethereum\tr, s and v, 65 bytes", formatJWS + "\tbase64url, RFC 7515"}
	states           = []string{"active", "frozen", "deleted"}
)

// complete offers fixed values of a flag.
func complete(cmd *cobra.Command, flag string, choices ...string) {
	completeBy(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return choices, cobra.ShellCompDirectiveNoFileComp
	})
}

func completeBy(cmd *cobra.Command, flag string, by func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)) {
	// The only error is a flag that there is not: a slip that tests would see.
	if err := cmd.RegisterFlagCompletionFunc(flag, by); err != nil {
		panic("mpckms: " + err.Error())
	}
}

// accountNames completes the first argument with the mount's accounts.
func (a *app) accountNames(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd.Context(), "accounts", typed), cobra.ShellCompDirectiveNoFileComp
}

// nodeIDs completes the first argument with the mount's nodes.
func (a *app) nodeIDs(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd.Context(), "nodes", typed), cobra.ShellCompDirectiveNoFileComp
}

// names lists what a path of the mount holds. It is silent: somebody is typing,
// and whatever is wrong the command itself will say.
func (a *app) names(ctx context.Context, path, typed string) []string {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	if a.checkGlobals() != nil {
		return nil
	}
	c, err := a.connect()
	if err != nil {
		return nil
	}
	c.warn = func(string) {}
	c.vault.SetMaxRetries(0)
	found, err := c.list(ctx, "complete", path)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(found.Keys, func(name string) bool {
		return !validName(name) || !strings.HasPrefix(name, typed)
	})
}
