package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// defaultKey is the key of an asset that has only one.
const defaultKey = "value"

func (a *app) secretCommand() *cobra.Command {
	cmd := group("secret", "Put, show, list and delete the secrets of an identity")
	cmd.AddCommand(a.secretPutCommand(), a.secretShowCommand(), a.secretListCommand(), a.secretForgetCommand(), a.secretDeleteCommand())
	return cmd
}

// assetDoc is the JSON document of an asset.
type assetDoc struct {
	Asset      string        `json:"asset"` // IDENTITY/NAME
	Kind       string        `json:"kind"`
	Generation uint64        `json:"generation"`
	Changed    string        `json:"changed_time"`
	Note       string        `json:"note,omitempty"`
	Account    string        `json:"account,omitempty"` // ID
	Keys       []assetKeyDoc `json:"keys"`
}

type assetKeyDoc struct {
	Name       string   `json:"name"`
	Generation uint64   `json:"generation"`
	Roles      []string `json:"roles"`
	Opens      bool     `json:"opens"` // for who is logged in
}

func (h *holder) describe(x *identity.Asset) assetDoc {
	doc := assetDoc{Asset: h.name + "/" + x.Name, Kind: string(x.Kind), Generation: x.Generation,
		Changed: x.Time.UTC().Format(time.RFC3339), Note: x.Note, Account: x.Account}
	for i := range x.Keys {
		k := &x.Keys[i]
		roles := k.Roles()
		opens := slices.ContainsFunc(roles, func(role string) bool { return h.opened.Roles[role] != nil })
		doc.Keys = append(doc.Keys, assetKeyDoc{k.Name, k.Generation, roles, opens})
	}
	return doc
}

func (doc assetDoc) write(t *text) {
	t.pairs("", "Asset", doc.Asset, "Kind", doc.Kind, "Account", doc.Account, "Generation", count64(doc.Generation),
		"Last change", doc.Changed, "Note", doc.Note)
	t.blank()
	var rows [][]string
	for _, k := range doc.Keys {
		rows = append(rows, []string{k.Name, count64(k.Generation), strings.Join(k.Roles, ", "), yesNo(k.Opens)})
	}
	t.table("", []string{"KEY", "GENERATION", "FOR ROLES", "OPENS FOR YOU"}, rows)
}

// secretListDoc is the JSON document of `secret list`.
type secretListDoc struct {
	Identity string     `json:"identity"`
	Assets   []assetDoc `json:"assets"`
}

func (a *app) secretListCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "list IDENTITY",
		Short:             "List the assets of an identity, and which open for you",
		Example:           `  mpckms secret list acme`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.enter(cmd, args[0])
			if err != nil {
				return err
			}
			defer a.leave(h)
			names, err := h.assetNames(cmd.Context())
			if err != nil {
				return err
			}
			doc := secretListDoc{Identity: args[0], Assets: []assetDoc{}}
			for _, name := range names {
				x, _, err := h.asset(cmd.Context(), name)
				if err != nil {
					return err
				}
				doc.Assets = append(doc.Assets, h.describe(x))
			}
			return a.print(doc, doc.write)
		},
	}
}

func (doc secretListDoc) write(t *text) {
	if len(doc.Assets) == 0 {
		t.line("No assets. Store one with 'mpckms secret put " + doc.Identity + "/NAME'.")
		return
	}
	var rows [][]string
	for _, x := range doc.Assets {
		for _, k := range x.Keys {
			rows = append(rows, []string{x.Asset, x.Kind, k.Name, strings.Join(k.Roles, ", "), yesNo(k.Opens), x.Changed})
		}
	}
	t.table("", []string{"ASSET", "KIND", "KEY", "FOR ROLES", "OPENS FOR YOU", "LAST CHANGE"}, rows)
}

func (a *app) secretDeleteCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:   "delete IDENTITY/ASSET --confirm IDENTITY/ASSET",
		Short: "Delete an asset, for good",
		Long: `Delete an asset with all of its keys. It is refused for the custody key of an account
that exists.`,
		Example:           `  mpckms secret delete acme/dns --confirm acme/dns`,
		Args:              assetArg,
		ValidArgsFunction: a.completeAssets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return usagef(cmd, "give the asset's name, IDENTITY/ASSET, once more with --confirm: nothing was deleted")
			}
			name, asset, err := assetName(cmd, args[0])
			if err != nil {
				return err
			}
			h, err := a.enter(cmd, name)
			if err != nil {
				return err
			}
			defer a.leave(h)
			if err := h.Call(cmd.Context(), keyholder.Delete, h.assetPath(asset), nil, nil); err != nil {
				return refusedBy("delete "+quote(args[0]), err)
			}
			if err := h.memory.ForgetAssetPin(name, asset); err != nil {
				return refusedBy("forget "+quote(args[0]), err)
			}
			doc := deletedDoc{Name: args[0], Deleted: true}
			return a.print(doc, func(t *text) { t.line(fmt.Sprintf("%s is gone.", quote(args[0]))) })
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the asset's name once more")
	return cmd
}
