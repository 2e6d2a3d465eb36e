package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/mpc/daemon"
)

func port(address string) string {
	if _, p, err := net.SplitHostPort(address); err == nil {
		return ":" + p
	}
	return ""
}

// show writes v as JSON, or has text write it for people.
func (n *nodeCommands) show(asJSON bool, v any, text func(w *tabwriter.Writer)) error {
	if asJSON {
		e := json.NewEncoder(n.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(n.out, 0, 0, 2, ' ', 0)
	text(w)
	return w.Flush()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (n *nodeCommands) statusCommand() *cobra.Command {
	var asJSON, running bool
	c := &cobra.Command{
		Use: "status", Short: "Show the running node", Args: exactly(),
		Long:    "Show the running node. The exit code is 0 when it is ready: the token answers, and a\ncoordinator is enrolled and attached; 5 when it is not; 1 when it does not run. With --running it is 0\nwhether it is ready or not.",
		Example: `  vault-plugin-secrets-mpc node status --config ` + defaultConfig,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			st, err := daemon.ReadStatus(cmd.Context(), s)
			if err != nil {
				return err
			}
			err = n.show(asJSON, st, func(w *tabwriter.Writer) {
				for _, row := range [][2]string{
					{"node", st.Node}, {"version", st.Version}, {"pid", fmt.Sprint(st.PID)}, {"address", st.Listen},
					{"domain", st.Domain}, {"region", st.Region}, {"zone", st.Zone}, {"identity", st.Identity}, {"pin", st.Pin},
					{"certificate", "until " + st.CertificateExpires.UTC().Format(time.RFC3339)}, {"hsm", st.HSM},
					{"enrolled", yes(st.Enrolled)}, {"coordinator", st.Coordinator}, {"mount", st.MountID}, {"attached", yes(st.Attached)},
					{"draining", yes(st.Draining)}, {"sessions", fmt.Sprint(st.Sessions)}, {"peers", fmt.Sprint(len(st.Peers))},
					{"floor", fmt.Sprintf("%d accounts", st.FloorAccounts)},
				} {
					if row[1] != "" {
						fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
					}
				}
			})
			if why := st.NotReady(); err == nil && why != "" && !running {
				return coded{fmt.Errorf("not ready: %s", why), daemon.ExitNotReady}
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	c.Flags().BoolVar(&running, "running", false, "ask only whether it runs")
	return c
}

// besidesSets keeps a reader of the host's pins from taking them for all: sets come
// with the coordinator's requests, and the host keeps only which was the newest.
const besidesSets = "Nodes that the authority's newest recipient set names are peers as well, and are not listed\nhere: `vault read mpc/config/recovery` shows it. Only a newer one without such a node ends that."

func (n *nodeCommands) peersCommand() *cobra.Command {
	peers := &cobra.Command{
		Use: "peers", Short: "The nodes that this one works with",
		Long: `A node works with peers only whose identity its own host has pinned: those that came with
the enrolment, those that this command adds, those in node.hcl (which win), and those
that a recipient set names which the authority has signed. Changes count at once.`,
		Example: `  vault-plugin-secrets-mpc node peers list
  vault-plugin-secrets-mpc node peers add local-6 5f0c…e1
  vault-plugin-secrets-mpc node peers remove local-6`,
		RunE: func(*cobra.Command, []string) error { return usage("say what to do: add, remove or list; see --help") },
	}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "Show who is pinned", Args: exactly(),
		Long: "Show who is pinned on this host. " + besidesSets,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			all, err := daemon.ListPeers(s)
			if err != nil {
				return err
			}
			if !asJSON {
				fmt.Fprintln(cmd.ErrOrStderr(), besidesSets)
			}
			return n.show(asJSON, all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NAME\tIDENTITY\tFROM")
				for _, p := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Identity, p.Source)
				}
			})
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	add := &cobra.Command{
		Use: "add NAME IDENTITY", Short: "Pin a peer", Args: exactly("NAME", "IDENTITY"),
		Example: `  vault-plugin-secrets-mpc node peers add local-6 $(vault read -field=identity mpc/nodes/local-6)`,
		Long:    "Pin a peer's identity, 64 hex digits. Take it from somebody you trust: whoever has it can\nplay that node's part.",
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			return daemon.AddPeer(s, args[0], strings.TrimSpace(args[1]))
		},
	}
	remove := &cobra.Command{
		Use: "remove NAME", Short: "End a peer's pin", Args: exactly("NAME"),
		Long:    "End a peer's pin. Accounts that need it are no longer served with this node, unless the newest\nrecipient set that the authority has signed names it: then sign one without it.",
		Example: `  vault-plugin-secrets-mpc node peers remove local-6`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			if err := daemon.RemovePeer(s, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "This host does not pin %s. %s\n", args[0], besidesSets)
			return nil
		},
	}
	peers.AddCommand(list, add, remove)
	return peers
}

func (n *nodeCommands) floorCommand() *cobra.Command {
	floor := &cobra.Command{
		Use: "floor", Short: "What the node remembers of accounts, below which it does not go",
		Long: `For every account that the node has worked with, the floor remembers the epoch, its record
and whether it had a policy. What is older, or contradicts that, is refused: so storage
that was set back, by a fault or on purpose, cannot bring back old shares or an old
policy. After Vault was restored from a backup, the operator of this host can lower it.`,
		Example: `  vault-plugin-secrets-mpc node floor list
  vault-plugin-secrets-mpc node floor lower 0f8e2a7c5d1b4e6f9a3c2b1d0e4f5a6b --epoch 7`,
		RunE: func(*cobra.Command, []string) error { return usage("say what to do: list, lower or new; see --help") },
	}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "Show the floor", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			all, err := daemon.ListFloor(cmd.Context(), s)
			if err != nil {
				return err
			}
			return n.show(asJSON, all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ACCOUNT\tEPOCH\tRECORD\tPOLICY\tSINCE\tLOWERED")
				for _, a := range all {
					record := "any"
					if len(a.Record) > 16 {
						record = a.Record[:16] + "…"
					}
					policy := "no"
					if a.Policy {
						policy = "demanded"
					}
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", a.Account, a.Epoch, record, policy, a.Time.UTC().Format(time.RFC3339), yes(a.Lowered))
				}
			})
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	var epoch uint64
	lower := &cobra.Command{
		Use: "lower ACCOUNT", Short: "Let the node work with an older state of an account", Args: exactly("ACCOUNT"),
		Long: `Lower an account's floor to --epoch, of which any record and any policy will do then, or
have the node forget the account with --epoch 0. Do it only where you know
why Vault's storage is older than this node: afterwards the old policy of that epoch
counts, and shares that were given out in it work together again.`,
		Example: `  vault-plugin-secrets-mpc node floor lower 0f8e2a7c5d1b4e6f9a3c2b1d0e4f5a6b --epoch 7`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("epoch") {
				return usage("say to which epoch, with --epoch: the share_epoch of the account at Vault. Nothing was lowered; --epoch 0 forgets the account, and any epoch counts then")
			}
			if err := daemon.LowerFloor(cmd.Context(), s, strings.ToLower(args[0]), epoch); err != nil {
				return err
			}
			if epoch == 0 {
				fmt.Fprintf(n.out, "The node has forgotten account %s: the next record of it counts, whatever its epoch.\n", args[0])
			} else {
				fmt.Fprintf(n.out, "The floor of account %s is epoch %d now, with any record and any policy.\n", args[0], epoch)
			}
			return nil
		},
	}
	lower.Flags().Uint64Var(&epoch, "epoch", 0, "the epoch to lower to, required; 0 forgets the account")
	fresh := &cobra.Command{
		Use: "new", Short: "Begin with an empty floor where the file is gone", Args: exactly(),
		Long:    "Make an empty floor in place of one that was lost. A node without one takes any state of\nevery account until it has worked with it once; so restore a backup of this host rather.",
		Example: `  vault-plugin-secrets-mpc node floor new`,
		RunE: func(*cobra.Command, []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			return daemon.NewFloor(s)
		},
	}
	floor.AddCommand(list, lower, fresh)
	return floor
}
