package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) wrappingKeyCommand() *cobra.Command {
	cmd := group("wrapping-key", "The versions of the wrapping key in the HSM")
	cmd.AddCommand(a.wrappingKeyListCommand(), a.wrappingKeyRotateCommand())
	return cmd
}

// wrappingDoc is one row of `wrapping-key list`.
type wrappingDoc struct {
	Version    uint64 `json:"version"`
	State      string `json:"state"`
	Newest     bool   `json:"newest"`
	Suite      string `json:"suite"`
	Created    string `json:"created_time"`
	References struct {
		Accounts int  `json:"accounts"`
		NodeKeys int  `json:"node_keys"`
		Complete bool `json:"complete"`
	} `json:"references"`
}

func (a *app) wrappingKeyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the versions and what refers to them",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.list(cmd.Context(), "list the versions of the wrapping key", "wrapping-keys")
			if err != nil {
				return err
			}
			docs := []wrappingDoc{}
			for _, key := range list.Keys {
				var d wrappingDoc
				if err := json.Unmarshal(list.KeyInfo[key], &d); err != nil {
					return &refusal{what: "the answer cannot be read", cause: err}
				}
				if d.Version, err = strconv.ParseUint(key, 10, 32); err != nil {
					return &refusal{what: "the answer cannot be read", cause: err}
				}
				docs = append(docs, d)
			}
			slices.SortFunc(docs, func(x, y wrappingDoc) int { return int(x.Version) - int(y.Version) })
			return a.print(docs, func(t *text) {
				rows := [][]string{}
				for _, d := range docs {
					accounts, nodes := fmt.Sprint(d.References.Accounts), fmt.Sprint(d.References.NodeKeys)
					if !d.References.Complete {
						accounts, nodes = accounts+"+", nodes+"+"
					}
					state := d.State
					if d.Newest {
						state += ", newest"
					}
					rows = append(rows, []string{fmt.Sprint(d.Version), state, d.Suite, accounts, nodes, d.Created})
				}
				t.table("", []string{"VERSION", "STATE", "SUITE", "ACCOUNTS", "NODE KEYS", "CREATED"}, rows)
			})
		},
	}
}

func (a *app) wrappingKeyRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Make a new version now; accounts follow in the background",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc struct {
				Version uint64 `json:"version"`
				Suite   string `json:"suite"`
				Label   string `json:"label"`
			}
			_, err = c.do(cmd.Context(), request{what: "make a new version of the wrapping key", capability: capUpdate, path: "wrapping-keys/rotate", body: struct{}{}}, &doc)
			if err != nil {
				return err
			}
			return a.print(doc, func(t *text) {
				t.pairs("", "Version", fmt.Sprint(doc.Version), "Suite", doc.Suite, "Label", doc.Label)
				t.line("Accounts follow in the background: 'mpckms rotation status' shows how far they are.")
			})
		},
	}
}

func (a *app) rotationCommand() *cobra.Command {
	cmd := group("rotation", "How far refreshes and rewraps are")
	cmd.AddCommand(a.rotationStatusCommand(), a.rotationCatchUpCommand())
	return cmd
}

// rotationDoc is the JSON document of `rotation status`.
type rotationDoc struct {
	RefreshPeriod int64  `json:"refresh_period"`
	RewrapPeriod  int64  `json:"rewrap_period"`
	RetireAfter   int64  `json:"retire_after"`
	AuxPeriod     int64  `json:"aux_period"`
	Rate          int    `json:"rate"`
	Accounts      int    `json:"accounts"`
	Due           int    `json:"due_now"`
	Running       int    `json:"running"`
	Waiting       int    `json:"waiting_in_backoff"`
	Refreshed     int64  `json:"refreshed_total"`
	Failed        int64  `json:"failed_total"`
	Oldest        string `json:"oldest_shares_time"`
	NextRewrap    string `json:"next_rewrap"`
	LastError     struct {
		Account string `json:"account,omitempty"`
		Time    string `json:"time,omitempty"`
		Error   string `json:"error,omitempty"`
	} `json:"last_error"`
	Rewrap struct {
		Version uint64 `json:"version"`
		Done    int    `json:"done"`
		Total   int    `json:"total"`
	} `json:"rewrap"`
	CatchUp struct {
		Remaining int    `json:"remaining"`
		Started   string `json:"started_time"`
		Finished  string `json:"finished_time"`
	} `json:"catch_up"`
}

func (d *rotationDoc) write(t *text) {
	period := func(seconds int64) string {
		if seconds == 0 {
			return "never by itself"
		}
		return "every " + (time.Duration(seconds) * time.Second).String()
	}
	t.pairs("", "Refresh", fmt.Sprintf("%s, at most %d per second", period(d.RefreshPeriod), d.Rate),
		"Wrapping key", fmt.Sprintf("%s, next %s; kept for %v", period(d.RewrapPeriod), dash(d.NextRewrap), time.Duration(d.RetireAfter)*time.Second),
		"Accounts", fmt.Sprintf("%d, due now %d, on their way %d, waiting after a failure %d", d.Accounts, d.Due, d.Running, d.Waiting),
		"Refreshed", fmt.Sprintf("%d, failed %d, oldest shares of %s", d.Refreshed, d.Failed, dash(d.Oldest)),
		"Rewrapped", fmt.Sprintf("%d of %d accounts are sealed to version %d", d.Rewrap.Done, d.Rewrap.Total, d.Rewrap.Version))
	if d.CatchUp.Started != "" {
		state := fmt.Sprintf("%d accounts remain, since %s", d.CatchUp.Remaining, d.CatchUp.Started)
		if d.CatchUp.Finished != "" {
			state = "finished at " + d.CatchUp.Finished
		}
		t.pairs("", "Catch-up", state)
	}
	if d.LastError.Error != "" {
		t.pairs("", "Last error", fmt.Sprintf("%s at %s: %s", d.LastError.Account, d.LastError.Time, d.LastError.Error))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) rotationStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show clocks, progress and the last error",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := &rotationDoc{}
			if _, err := c.do(cmd.Context(), request{what: "read the rotation", capability: capRead, path: "config/rotation"}, doc); err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
}

func (a *app) rotationCatchUpCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "catch-up [--all]",
		Short: "Refresh what is due, as fast as the nodes can",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if _, err := c.do(cmd.Context(), request{what: "catch up with refreshes", capability: capUpdate, path: "rotation/catch-up", body: map[string]any{"all": all}}, nil); err != nil {
				return err
			}
			doc := map[string]bool{"started": true}
			return a.print(doc, func(t *text) { t.line("Started: 'mpckms rotation status' shows how far it is.") })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "refresh every account, due or not")
	return cmd
}
