package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// algorithms are those of the engine of the same version; another one may know
// others, so the server decides.
const algorithms = "bip340-secp256k1, ed25519, ecdsa-secp256k1 or ecdsa-p256"

const presignUsage = "presignatures to keep ready, which make ECDSA signatures fast; they cost seconds of CPU each"

func (a *app) accountCreateCommand() *cobra.Command {
	var (
		algorithm, refreshPeriod   string
		threshold, shares, presign int
		metadata, roles            []string
		custodyIn                  string
		aux                        follow
		policy                     policyFlags
	)
	cmd := &cobra.Command{
		Use:   "create NAME --algorithm ALGORITHM",
		Short: "Create an account: nodes generate its key, which never exists as a whole",
		Long: `Create an account. Its nodes generate the shares of a key that never exists as a
whole. ECDSA accounts sign once the nodes have their auxiliary keys, which they
make after they start: on a terminal, create shows how far they are.

With --approver the account signs only what so many of them approve ('mpckms account policy
--help'): that is in force from its first signature on.

With --custody the account signs only with the help of somebody who opens the custody
key, which is made here and stored encrypted in an identity, for its roles. The command
then logs in, besides using the Vault token; run again after an error, it goes on.`,
		Example: `  mpckms account create treasury --algorithm bip340-secp256k1
  mpckms account create solana --algorithm ed25519 --threshold 3 --shares 5
  mpckms account create hot --algorithm ecdsa-secp256k1 --threshold 2 --shares 3 \
      --presign 8 --refresh-period 10m --metadata team=payments
  mpckms account create gold --algorithm ed25519 --custody acme/gold --role treasury
  mpckms account create vault --algorithm ed25519 --approver alice --approver ben --quorum 1`,
		Args: accountArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if algorithm == "" {
				return usagef(cmd, "--algorithm is needed: "+algorithms)
			}
			meta, err := parseMetadata(metadata)
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			body := map[string]any{"algorithm": algorithm, "threshold": threshold, "shares": shares}
			if refreshPeriod != "" {
				body["refresh_period"] = refreshPeriod
			}
			if cmd.Flags().Changed("presign") {
				body["presign"] = presign
			}
			if len(meta) > 0 {
				body["metadata"] = meta
			}
			if err := policy.put(cmd, body); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if custodyIn == "" && len(roles) > 0 {
				return usagef(cmd, "--role goes with --custody")
			}
			if err := a.createAccount(cmd, c, args[0], custodyIn, roles, body); err != nil {
				return err
			}
			if !strings.HasPrefix(algorithm, ecdsaPrefix) || !aux.stays(a) {
				return nil
			}
			err = a.awaitAuxiliary(cmd.Context(), c)
			return aux.end(a, err, fmt.Sprintf("Account %q is created, and the nodes go on making auxiliary keys", args[0]))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&algorithm, "algorithm", "", "signature scheme and curve: "+algorithms)
	aux.register(cmd, "the nodes have their auxiliary keys, which ECDSA needs")
	complete(cmd, "algorithm", algorithmChoices...)
	flags.IntVar(&threshold, "threshold", 2, "nodes needed for a signature")
	flags.IntVar(&shares, "shares", 3, "shares the key consists of")
	flags.IntVar(&presign, "presign", 0, presignUsage)
	flags.StringVar(&refreshPeriod, "refresh-period", "", "time between share refreshes, such as 10m (default: the mount's)")
	flags.StringArrayVar(&metadata, "metadata", nil, "a note as key=value; may be repeated")
	flags.StringVar(&custodyIn, "custody", "", "sign only with a custody key, made now and stored as IDENTITY/ASSET")
	completeBy(cmd, "custody", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.assetsOf(cmd.Context(), typed)
	})
	flags.StringArrayVar(&roles, "role", nil, "with --custody: a role that may use the key; may be repeated")
	policy.add(a, cmd)
	flags.BoolVar(&a.acceptNodes, "accept-nodes", false, acceptNodesUsage)
	return cmd
}

func (a *app) createAccount(cmd *cobra.Command, c *client, name, custodyIn string, roles []string, body map[string]any) error {
	if custodyIn != "" {
		acc, err := a.custodyCreate(cmd, c, name, custodyIn, roles, body)
		if err != nil {
			return err
		}
		return a.print(acc, acc.write)
	}
	if err := c.refuseExisting(cmd.Context(), name); err != nil {
		return err
	}
	acc := &account{Name: name}
	_, err := c.do(cmd.Context(), request{
		what:       fmt.Sprintf("create account %q", name),
		capability: capCreate, path: "accounts/" + name, body: body, account: name,
	}, acc)
	if err != nil {
		return err
	}
	if acc, err = a.afterWrite(cmd.Context(), c, acc, "created"); err != nil {
		return err
	}
	return a.print(acc, acc.write)
}

// refuseExisting looks first, because a write to an account that exists changes
// its settings and would look like a new account. A token that may create but
// not read passes: without "update" as well, Vault refuses the write.
func (c *client) refuseExisting(ctx context.Context, name string) error {
	_, err := c.readAccount(ctx, name)
	var r *refusal
	if errors.As(err, &r) && (r.status == http.StatusForbidden || r.status == http.StatusNotFound && !r.noRoute() && !r.unsupportedPath()) {
		return nil
	}
	if r != nil {
		r.what = fmt.Sprintf("cannot create account %q", name)
	}
	if err != nil {
		return err
	}
	return &refusal{
		what:   fmt.Sprintf("account %q exists already; nothing was changed", name),
		advice: "Look at it with 'mpckms account show " + name + "', or choose another name.",
	}
}

func parseMetadata(pairs []string) (map[string]string, error) {
	meta := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--metadata takes key=value, not %q", pair)
		}
		if _, twice := meta[k]; twice {
			return nil, fmt.Errorf("--metadata gives %q twice", k)
		}
		meta[k] = v
	}
	return meta, nil
}
