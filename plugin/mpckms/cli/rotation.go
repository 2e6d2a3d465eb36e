package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) rotationCommand() *cobra.Command {
	cmd := group("rotation", "How far refreshes and rewraps are")
	cmd.AddCommand(a.rotationStatusCommand(), a.rotationCatchUpCommand())
	return cmd
}

// rotationDoc is the JSON document of `rotation status`: clocks in seconds,
// counters since the server became active.
type rotationDoc struct {
	RefreshPeriod     seconds        `json:"refresh_period"`
	IdleRefreshPeriod seconds        `json:"idle_refresh_period"`
	RewrapPeriod      seconds        `json:"rewrap_period"`
	RetireAfter       seconds        `json:"retire_after"`
	AuxPeriod         seconds        `json:"aux_period"`
	Concurrency       int            `json:"concurrency"`
	Rate              int            `json:"rate"` // refreshes begun per second
	Accounts          int            `json:"accounts"`
	Due               int            `json:"due_now"`
	Running           int            `json:"running"`
	Waiting           int            `json:"waiting_in_backoff"`
	Refreshed         uint64         `json:"refreshed_total"`
	Failed            uint64         `json:"failed_total"`
	Oldest            string         `json:"oldest_shares_time"`
	NextRewrap        string         `json:"next_rewrap"`
	LastError         rotationError  `json:"last_error"`
	Rewrap            rewrapProgress `json:"rewrap"`
	CatchUp           catchUp        `json:"catch_up"`
}

// rotationError is empty where nothing failed.
type rotationError struct {
	Account string `json:"account,omitempty"`
	What    string `json:"what,omitempty"` // where no account is to blame
	Time    string `json:"time,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (e rotationError) String() string {
	if e.Error == "" {
		return ""
	}
	return strings.Join(strings.Fields(e.Account+" "+e.What+" at "+moment(e.Time)), " ") + ": " + e.Error
}

type rewrapProgress struct {
	Version   uint64        `json:"version"` // the newest of the wrapping key
	Done      int           `json:"done"`
	Total     int           `json:"total"`
	Rewrapped uint64        `json:"rewrapped_total"`
	Failed    uint64        `json:"failed_total"`
	LastError rotationError `json:"last_error"`
}

// catchUp is the state of the last catch-up, and the JSON document of `rotation
// catch-up`.
type catchUp struct {
	Remaining int    `json:"remaining"`
	Started   string `json:"started_time"`
	Finished  string `json:"finished_time"`
}

func (c catchUp) String() string {
	switch {
	case c.Started == "":
		return ""
	case c.Finished != "":
		return "finished at " + moment(c.Finished)
	}
	return fmt.Sprintf("%d accounts remain, since %s", c.Remaining, moment(c.Started))
}

// every describes a clock; 0 stops it.
func every(period seconds) string {
	if period == 0 {
		return "never by itself"
	}
	return "every " + period.String()
}

func (d rotationDoc) write(t *text) {
	idle := ""
	if d.IdleRefreshPeriod != 0 {
		idle = every(d.IdleRefreshPeriod)
	}
	t.line("Clocks")
	t.pairs("  ",
		"Shares", fmt.Sprintf("%s, %d at once, %d per second", every(d.RefreshPeriod), d.Concurrency, d.Rate),
		"Shares of idle accounts", idle,
		"Wrapping key", every(d.RewrapPeriod),
		"Next wrapping key", moment(d.NextRewrap),
		"Old wrapping keys", "destroyed after "+d.RetireAfter.String(),
		"Auxiliary keys", every(d.AuxPeriod))
	r := d.Rewrap
	t.blank()
	t.table("", []string{"", "DONE", "FAILED", "NOW"}, [][]string{
		{"Refreshes", fmt.Sprint(d.Refreshed), fmt.Sprint(d.Failed),
			fmt.Sprintf("%d due, %d running, %d waiting after a failure, of %d accounts", d.Due, d.Running, d.Waiting, d.Accounts)},
		{"Rewraps", fmt.Sprint(r.Rewrapped), fmt.Sprint(r.Failed),
			fmt.Sprintf("%d of %d accounts sealed to version %d", r.Done, r.Total, r.Version)},
	})
	t.blank()
	t.pairs("", "Oldest shares", moment(d.Oldest), "Catch-up", d.CatchUp.String(),
		"Last failed refresh", d.LastError.String(), "Last failed rewrap", r.LastError.String())
}

func (a *app) rotationStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show clocks, progress and the last errors",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := rotationDoc{}
			if _, err := c.do(cmd.Context(), request{what: "read the rotation", capability: capRead, path: "config/rotation"}, &doc); err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
}

func (a *app) rotationCatchUpCommand() *cobra.Command {
	var all bool
	var end follow
	cmd := &cobra.Command{
		Use:   "catch-up [--all] [--wait]",
		Short: "Refresh what is due, as fast as the nodes can",
		Long: `Refresh what is due, as fast as the nodes can: after nodes or the HSM were away.
With --all every account, due or not: after a restore of Vault's storage, when
shares may have been seen, or to give accounts new recovery recipients.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var doc catchUp
			if _, err := c.do(cmd.Context(), request{what: "catch up with refreshes", capability: capUpdate, path: "rotation/catch-up", body: map[string]any{"all": all}}, &doc); err != nil {
				return err
			}
			var ended error
			if end.stays(a) {
				doc, ended = a.awaitCatchUp(cmd.Context(), c, doc)
				ended = end.end(a, ended, "The catch-up has begun")
			}
			err = a.print(doc, func(t *text) {
				t.pairs("", "Catch-up", doc.String())
				if doc.Finished == "" {
					t.line("'mpckms rotation status' shows how far it is.")
				}
			})
			return errors.Join(err, ended)
		},
	}
	end.register(cmd, "the catch-up has ended")
	cmd.Flags().BoolVar(&all, "all", false, "refresh every account, due or not")
	return cmd
}
