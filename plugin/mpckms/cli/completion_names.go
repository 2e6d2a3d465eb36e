package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/keyholder"
)

// Names that completion offers beside those of accounts and nodes: what the server
// lists for the token, if it may, and what this home knows without asking anybody.

// nameSource offers names that begin as typed.
type nameSource func(ctx context.Context, typed string) []string

// completeNames completes each argument with the names of its place.
func (a *app) completeNames(places ...nameSource) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(places) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return places[len(args)](cmd.Context(), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes a flag with names.
func (a *app) completeFlag(cmd *cobra.Command, flag string, by nameSource) {
	completeBy(cmd, flag, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return by(cmd.Context(), typed), cobra.ShellCompDirectiveNoFileComp
	})
}

func (a *app) identityNames(ctx context.Context, typed string) []string {
	names := a.names(ctx, "identities", typed)
	if home := a.knownHome(); home != nil {
		if bound, err := home.Bindings(); err == nil {
			names = append(names, bound...)
		}
		if known, err := home.Authenticators(); err == nil {
			for _, k := range known {
				names = append(names, k.Identities...)
			}
		}
	}
	return onceEach(names, typed)
}

func (a *app) authenticatorNames(ctx context.Context, typed string) []string {
	names := a.names(ctx, "authenticators", typed)
	if home := a.knownHome(); home != nil {
		if known, err := home.Authenticators(); err == nil {
			for _, k := range known {
				names = append(names, k.Name)
			}
		}
	}
	return onceEach(names, typed)
}

func (a *app) approvers(ctx context.Context, typed string) []string {
	return a.names(ctx, "approvers", typed)
}

func (a *app) requestIDs(ctx context.Context, typed string) []string {
	return a.names(ctx, "requests", typed)
}

// completeAssets completes IDENTITY/ASSET.
func (a *app) completeAssets(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.assetsOf(cmd.Context(), typed)
}

// assetsOf offers identities first, with the slash and no space behind it, and then
// their assets, which are listed for tokens alone: for a session somebody would have to
// log in.
func (a *app) assetsOf(ctx context.Context, typed string) ([]string, cobra.ShellCompDirective) {
	owner, asset, ok := strings.Cut(typed, "/")
	if !ok {
		names := a.identityNames(ctx, typed)
		for i := range names {
			names[i] += "/"
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	if checkName("identity", owner) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := a.names(ctx, "identities/"+owner+"/assets", asset)
	for i := range names {
		names[i] = owner + "/" + names[i]
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// knownHome is this user's folder, or nil: completion makes none.
func (a *app) knownHome() *keyholder.Home {
	if !keyholder.HomeExists(a.homeDir) {
		return nil
	}
	home, err := a.home()
	if err != nil {
		return nil
	}
	return home
}

// onceEach are the names that can be, once each.
func onceEach(names []string, typed string) []string {
	names = slices.DeleteFunc(names, func(name string) bool {
		return checkName("name", name) != nil || !strings.HasPrefix(name, typed)
	})
	slices.Sort(names)
	return slices.Compact(names)
}
