package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/keyholder"
)

// waitPoll is how long one request to wait stays open at most, in seconds; the engine
// allows no more.
const waitPoll = 5

func (a *app) requestWaitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait REQUEST",
		Short: "Wait until a request has ended, and show its result",
		Long: `Wait until a request has ended, and show its result: for a signature, the signature. The
exit code is 0 where it was signed (a changed policy: where it is in force), and 1 where it
was refused, has expired, was cancelled, has failed or is held, or time is over before.

A request of an account with custody is approved and not done by itself: its owner signs
with 'mpckms sign', the same input and --request or --request-id, or agrees to a changed
policy with 'mpckms account refresh NAME --request REQUEST'. A signature that is held,
because its account was frozen when it was approved, goes on the same way once that is
over.`,
		Example: `  mpckms request wait 5f0e…9a
  mpckms request wait 5f0e…9a --timeout 1h -o json`,
		Args:              requestArg,
		ValidArgsFunction: a.completeNames(a.requestIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usagef(cmd, "--timeout must be longer than 0")
			}
			who, end, err := a.asRequester(cmd, "wait for the request")
			if err != nil {
				return err
			}
			defer end()
			d, err := a.awaitRequest(cmd.Context(), who, args[0], timeout, func(*requestDoc) {})
			if err != nil {
				return err
			}
			if err := a.printRequest(d); err != nil {
				return err
			}
			return requestEnd(d)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this long")
	return cmd
}

// awaitRequest polls until the request has ended or is held, or, of an account with
// custody, is approved. seen is called with every answer.
func (a *app) awaitRequest(ctx context.Context, who requester, id string, timeout time.Duration, seen func(*requestDoc)) (*requestDoc, error) {
	const what = "wait for the request"
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stay := map[string]any{"timeout": waitPoll}
	for {
		begun := time.Now()
		d := &requestDoc{}
		err := who.Call(ctx, keyholder.Write, "requests/"+id+"/wait", stay, d)
		switch {
		case err != nil && expired(ctx) || ctx.Err() == context.DeadlineExceeded:
			return nil, &refusal{what: fmt.Sprintf("the request has not ended within %s", short(timeout)), advice: "It goes on without anybody waiting: 'mpckms request wait " + id + "' waits again."}
		case err != nil:
			return nil, asked(what, err)
		}
		d.Request = id
		seen(d)
		if d.ended() || d.byOwner() || d.held() {
			return d, nil
		}
		// An engine that answers at once is not asked again at once.
		if pause := a.retryPause - time.Since(begun); pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
}

// requestEnd is nil where the request came to what was asked for.
func requestEnd(d *requestDoc) error {
	if d.State == "signed" || d.byOwner() {
		return nil
	}
	reason := ""
	if d.Reason != "" {
		reason = ": " + d.Reason
	}
	if d.held() {
		return &refusal{what: fmt.Sprintf("request %s is approved and held%s; nothing was signed", d.Request, reason),
			advice: "It does not go on by itself. Once the account signs again, and until " + moment(d.Expires) + ", whoever asked has it signed by the same command\n" +
				"again with '--request " + d.Request + "' (or the --request-id that it had)."}
	}
	if d.State == "failed" {
		return &refusal{what: fmt.Sprintf("request %s has failed%s; nothing was signed", d.Request, reason), advice: "It has ended for good. Once its reason is gone, ask anew, with another request ID."}
	}
	return &refusal{what: fmt.Sprintf("request %s is %s%s; nothing was signed", d.Request, d.State, reason)}
}
