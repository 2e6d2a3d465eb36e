package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// forgottenDoc is the JSON document of commands that forget something here.
type forgottenDoc struct {
	Name      string `json:"name"`
	Forgotten bool   `json:"forgotten"`
}

const forgetLong = `
What is forgotten here is believed as it is shown at the next contact, as at the first
one. Do that when you know why the server shows an older or another state: Vault was
restored from a backup, or somebody has deleted it and made it anew. Nothing on the
server is changed.`

func (a *app) identityForgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "forget IDENTITY",
		Short:             "Forget the state of an identity that this home has seen",
		Long:              "Forget which state of an identity, and of its assets, this home has seen." + "\n" + forgetLong,
		Example:           `  mpckms identity forget acme`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(_ *cobra.Command, args []string) error {
			home, err := a.home()
			if err == nil {
				err = errors.Join(home.ForgetPin(args[0]), home.ForgetAssets(args[0]))
			}
			if err != nil {
				return err
			}
			return a.forgotten(args[0])
		},
	}
}

func (a *app) secretForgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "forget IDENTITY/ASSET",
		Short:             "Forget the state of an asset that this home has seen",
		Long:              "Forget which state of an asset this home has seen." + "\n" + forgetLong,
		Example:           `  mpckms secret forget acme/dns`,
		Args:              assetArg,
		ValidArgsFunction: a.completeAssets,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, asset, err := assetName(cmd, args[0])
			if err != nil {
				return err
			}
			home, err := a.home()
			if err == nil {
				err = home.ForgetAssetPin(name, asset)
			}
			if err != nil {
				return err
			}
			return a.forgotten(args[0])
		},
	}
}

func (a *app) forgotten(name string) error {
	return a.print(forgottenDoc{name, true}, func(t *text) {
		t.line(fmt.Sprintf("What this home had seen of %q is forgotten.", name))
	})
}
