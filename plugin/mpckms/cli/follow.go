package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// follow says whether a command stays until what it began in the background is
// done. On a terminal it does, with a bar; Ctrl-C ends the looking only. A
// script says what it wants.
type follow struct{ wait, noWait bool }

func (f *follow) register(cmd *cobra.Command, until string) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until "+until+" (default on a terminal)")
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait for that")
	cmd.MarkFlagsMutuallyExclusive("wait", "no-wait")
}

// stays reports whether the command waits.
func (f *follow) stays(a *app) bool { return f.wait || !f.noWait && a.bar.shown() }

// end is the error of a command that looked on and could not to the end: none
// where it was not asked to, since what it did is done.
func (f *follow) end(a *app, err error, done string) error {
	a.bar.clear()
	if err == nil {
		return nil
	}
	if !f.wait {
		a.note("%s; how far it is cannot be shown any longer: %s", done, brief(err))
		return nil
	}
	var r *refusal
	if errors.As(err, &r) {
		r.advice = done + "; it goes on without mpckms."
		return r
	}
	return err
}

// awaitAuxiliary returns when every node has its auxiliary keys.
func (a *app) awaitAuxiliary(ctx context.Context, c *client) error {
	quiet := *c
	quiet.warn = func(string) {}
	for last := ""; ; {
		nodes, err := quiet.nodes(ctx)
		if err != nil {
			return err
		}
		line := auxProgress(nodes)
		if line == "" {
			return nil
		}
		if line != last {
			last = line
			a.showAuxiliary(nodes, line)
		}
		if err := a.pause(ctx, "waiting for auxiliary keys"); err != nil {
			return err
		}
	}
}

// awaitCatchUp returns the catch-up's state when it has ended.
func (a *app) awaitCatchUp(ctx context.Context, c *client, begun catchUp) (catchUp, error) {
	quiet := *c
	quiet.warn = func(string) {}
	total, last := begun.Remaining, -1
	for now := begun; ; {
		if now.Finished != "" || now.Started != begun.Started { // another one has taken its place
			return now, nil
		}
		if total = max(total, now.Remaining); now.Remaining != last {
			last = now.Remaining
			done := total - now.Remaining
			if a.bar.shown() {
				a.bar.draw("Catch-up", done, total, fmt.Sprintf("%d of %d accounts", done, total))
			} else {
				a.note("Catch-up: %d of %d accounts", done, total)
			}
		}
		if err := a.pause(ctx, "waiting for the catch-up"); err != nil {
			return now, err
		}
		var doc rotationDoc
		if _, err := quiet.do(ctx, request{what: "read the rotation", capability: capRead, path: "config/rotation"}, &doc); err != nil {
			return now, err
		}
		now = doc.CatchUp
	}
}

// pause waits between two looks.
func (a *app) pause(ctx context.Context, what string) error {
	select {
	case <-ctx.Done():
		return &refusal{what: what, cause: ctx.Err()}
	case <-time.After(a.progressPause):
		return nil
	}
}
