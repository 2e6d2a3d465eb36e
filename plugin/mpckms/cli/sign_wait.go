package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// signWaiting sends req until it is answered with anything but "auxiliary keys
// are still being made", for at most timeout. The server waits within its own
// deadline each time, so trying again at once costs nothing.
func (a *app) signWaiting(ctx context.Context, c *client, req request, doc *signDoc, timeout time.Duration, noWait bool) error {
	waitCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	progress := &progressLine{app: a, client: c}
	var pending *refusal
	for {
		found, err := a.signOnce(waitCtx, c, req, doc, progress, noWait)
		if err == nil && !found {
			return &refusal{what: "cannot " + req.what, cause: errors.New("the answer holds no signature"), client: c, req: req}
		}
		if err == nil {
			return nil
		}
		var r *refusal
		if !errors.As(err, &r) {
			return err
		}
		if auxiliaryKeysPending(r) {
			pending = r
			r.advice = waitAdvice
			if noWait {
				return r
			}
			if !progress.shown {
				a.note("Waiting up to %s: %s", timeout, strings.Join(r.messages, "; "))
				progress.shown = true
			}
		} else if pending == nil || waitCtx.Err() == nil || ctx.Err() != nil {
			return r
		}
		// Here keys were pending at the last answer.
		select {
		case <-ctx.Done():
			r.cause = ctx.Err()
			return r
		case <-waitCtx.Done():
			return &refusal{
				what:   fmt.Sprintf("no signature within %s", timeout),
				status: pending.status, messages: pending.messages, client: c, req: req, advice: waitAdvice,
			}
		case <-time.After(a.retryPause):
		}
	}
}

const waitAdvice = "The account and its key are safe. Nodes make auxiliary keys once after they start; 'mpckms status'\n" +
	"shows how far they are. Try again later, or wait longer with --timeout 10m."

// signOnce sends req once and shows the nodes' progress while it is pending.
func (a *app) signOnce(ctx context.Context, c *client, req request, doc *signDoc, progress *progressLine, quiet bool) (bool, error) {
	if quiet {
		return c.do(ctx, req, doc)
	}
	watchCtx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		progress.watch(watchCtx)
	}()
	found, err := c.do(ctx, req, doc)
	stop()
	<-done
	return found, err
}

// auxiliaryKeysPending tells this 409 from others (a frozen account, a
// concurrent change), which waiting does not help. The engine's text for it
// always names what is missing.
func auxiliaryKeysPending(r *refusal) bool {
	return r.status == http.StatusConflict && r.said("auxiliary key")
}

// progressLine reports how far auxiliary keys are whenever that changes. Only
// one goroutine at a time uses it: watch, or signWaiting between its calls.
type progressLine struct {
	app    *app
	client *client
	shown  bool
	last   string
	denied bool // the token may not read nodes/
}

// watch runs until ctx ends. It prints nothing where every node is ready, so
// that signatures that need no auxiliary keys stay quiet.
func (p *progressLine) watch(ctx context.Context) {
	for !p.denied {
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.app.progressPause):
		}
		// Only a report: its warnings and errors are not the caller's.
		quiet := *p.client
		quiet.warn = func(string) {}
		nodes, err := quiet.nodes(ctx)
		if err != nil {
			var r *refusal
			p.denied = errors.As(err, &r) && r.status >= 400 && r.status < 500
			continue
		}
		if line := auxProgress(nodes); line != "" && line != p.last {
			p.last, p.shown = line, true
			p.app.note("Auxiliary keys: %s", line)
		}
	}
}

// auxProgress is "local-1 40 %, local-2 ready", or "" when all are ready.
func auxProgress(nodes []node) string {
	parts, waiting := make([]string, len(nodes)), false
	for i, n := range nodes {
		if n.AuxState == auxReady {
			parts[i] = n.ID + " ready"
			continue
		}
		waiting = true
		parts[i] = fmt.Sprintf("%s %d %%", n.ID, n.AuxProgress)
	}
	if !waiting {
		return ""
	}
	return strings.Join(parts, ", ")
}
