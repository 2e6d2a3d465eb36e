package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
)

// identityArg takes exactly one name of an identity.
func identityArg(cmd *cobra.Command, args []string) error {
	return namesArg("identity")(cmd, args)
}

// namesArg takes names of these things, in this order.
func namesArg(things ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(things) {
			return usagef(cmd, "give the name of the %s, and nothing else", strings.Join(things, ", the "))
		}
		for i, name := range args {
			if err := checkName(things[i], name); err != nil {
				return usagef(cmd, "%v", err)
			}
		}
		return nil
	}
}

// checkName is identity.CheckName in a user's words.
func checkName(what, name string) error {
	if err := identity.CheckName(what, name); err != nil {
		return &nameError{what, name}
	}
	return nil
}

type nameError struct{ what, name string }

func (e *nameError) Error() string {
	article := "a"
	if strings.ContainsRune("aeiou", rune(e.what[0])) {
		article = "an"
	}
	return quote(e.name) + " is not the name of " + article + " " + e.what + ": use 1 to 64 lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends"
}

// assetName splits IDENTITY/ASSET.
func assetName(cmd *cobra.Command, s string) (identityName, asset string, err error) {
	identityName, asset, ok := strings.Cut(s, "/")
	if !ok {
		return "", "", usagef(cmd, "give an asset as IDENTITY/ASSET, not %q", s)
	}
	if err = checkName("identity", identityName); err == nil {
		err = checkName("asset", asset)
	}
	if err != nil {
		return "", "", usagef(cmd, "%v", err)
	}
	return identityName, asset, nil
}

// assetArg takes exactly one IDENTITY/ASSET.
func assetArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(cmd, "give one asset as IDENTITY/ASSET")
	}
	_, _, err := assetName(cmd, args[0])
	return err
}

// parseLevels reads --level NAME=ROLE,ROLE flags; trusting names those that
// server-trusting authenticators may have.
func parseLevels(cmd *cobra.Command, flags, trusting []string) ([]identity.Level, error) {
	var levels []identity.Level
	for _, flag := range flags {
		name, roles, ok := strings.Cut(flag, "=")
		if !ok {
			return nil, usagef(cmd, "--level takes NAME=ROLE,ROLE, not %q", flag)
		}
		l := identity.Level{Name: name, Roles: strings.Split(roles, ",")}
		if err := checkLevel(cmd, l); err != nil {
			return nil, err
		}
		levels = append(levels, l)
	}
	for _, name := range trusting {
		found := false
		for i := range levels {
			if levels[i].Name == name {
				levels[i].ServerTrusting, found = true, true
			}
		}
		if !found {
			return nil, usagef(cmd, "--server-trusting names level %q, which no --level makes", name)
		}
	}
	return levels, nil
}

func checkLevel(cmd *cobra.Command, l identity.Level) error {
	if err := checkName("level", l.Name); err != nil {
		return usagef(cmd, "%v", err)
	}
	if err := checkRoles(l.Roles); err != nil {
		return usagef(cmd, "%v", err)
	}
	return nil
}

// checkRoles says what is wrong with the first name that no role can have.
func checkRoles(names []string) error {
	for _, name := range names {
		if err := checkName("role", name); err != nil {
			return err
		}
	}
	return nil
}
