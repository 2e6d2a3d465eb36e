package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// signWaiting sends req until it is answered with anything but "auxiliary keys
// are still being made", for at most timeout. The server waits within its own
// deadline each time, so trying again at once costs nothing.
func (a *app) signWaiting(ctx context.Context, c *client, req request, doc any, timeout time.Duration, noWait bool) error {
	defer a.bar.clear()
	waitCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	progress := &progressLine{app: a, client: c, account: req.account}
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
		switch {
		case auxiliaryKeysPending(r):
			pending = r
			progress.needed = true
			r.advice = waitAdvice
			if noWait {
				return r
			}
			if !progress.shown {
				a.note("Waiting up to %s: %s", timeout, strings.Join(r.messages, "; "))
				progress.shown = true
			}
		case ctx.Err() == nil && r.timedOut() && expired(waitCtx):
			return gaveUp(r, pending, progress.last, timeout)
		default:
			return r
		}
		select {
		case <-ctx.Done():
			r.cause = ctx.Err()
			return r
		case <-waitCtx.Done():
			return gaveUp(r, pending, progress.last, timeout)
		case <-time.After(a.retryPause):
		}
	}
}

const waitAdvice = "The account and its key are safe. Nodes make auxiliary keys once after they start; 'mpckms status'\n" +
	"shows how far they are. Try again later, or wait longer with --timeout 10m."

// expired reports whether ctx is at its deadline. A dialer or socket that was
// given the deadline may see it a moment before ctx itself does.
func expired(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < 100*time.Millisecond
}

// gaveUp is the error for a wait that ended without a signature: r ended it,
// pending is the last answer that named missing keys, progress what the nodes
// last said; both may be missing.
func gaveUp(r, pending *refusal, progress string, timeout time.Duration) *refusal {
	end := &refusal{
		what:   fmt.Sprintf("no signature within %s", timeout),
		client: r.client, req: r.req, path: r.path,
	}
	switch {
	case pending != nil:
		end.status, end.messages, end.advice = pending.status, pending.messages, waitAdvice
	case progress != "":
		end.status, end.messages, end.advice = http.StatusConflict, []string{"auxiliary keys are still being made (" + progress + ")"}, waitAdvice
	default:
		end.cause = context.DeadlineExceeded
	}
	return end
}

// signOnce sends req once and shows the nodes' progress while it is pending.
func (a *app) signOnce(ctx context.Context, c *client, req request, doc any, progress *progressLine, quiet bool) (bool, error) {
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
// begins with these words; further on others may have them too, in the reason
// of a freeze.
func auxiliaryKeysPending(r *refusal) bool {
	return r.status == http.StatusConflict && slices.ContainsFunc(r.messages, func(m string) bool { return strings.HasPrefix(m, auxiliaryKeyWords) })
}

const auxiliaryKeyWords = "auxiliary keys are still being made"

// ecdsaPrefix starts the names of the algorithms that need auxiliary keys.
const ecdsaPrefix = "ecdsa-"

// progressLine reports how far auxiliary keys are whenever that changes. Only
// one goroutine at a time uses it: watch, or signWaiting between its calls.
type progressLine struct {
	app    *app
	client *client
	// account is asked for its algorithm before anything is shown, unless
	// needed is already known.
	account string
	needed  bool // the signature needs auxiliary keys
	stopped bool // it does not, or the token may not read nodes/
	shown   bool
	last    string
}

// watch runs until ctx ends. It prints nothing where every node is ready or the
// account needs no auxiliary keys.
func (p *progressLine) watch(ctx context.Context) {
	for !p.stopped {
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.app.progressPause):
		}
		// Only a report: its warnings and errors are not the caller's.
		quiet := *p.client
		quiet.warn = func(string) {}
		if !p.needed {
			acc, err := quiet.readAccount(ctx, p.account)
			if err != nil {
				return // a 409 may still tell
			}
			p.needed = strings.HasPrefix(acc.Algorithm, ecdsaPrefix)
			if p.stopped = !p.needed; p.stopped {
				return
			}
		}
		nodes, err := quiet.nodes(ctx)
		if err != nil {
			var r *refusal
			p.stopped = errors.As(err, &r) && r.status >= 400 && r.status < 500
			continue
		}
		if line := auxProgress(nodes); line != "" && line != p.last {
			p.last, p.shown = line, true
			p.app.showAuxiliary(nodes, line)
		}
	}
}

// showAuxiliary draws how far all nodes are, or writes it where no bar can be
// drawn.
func (a *app) showAuxiliary(nodes []node, line string) {
	if a.bar.shown() {
		a.bar.draw(auxBar, auxPercent(nodes), 100, line)
		return
	}
	a.note("%s: %s", auxBar, line)
}

// auxBar is what the bar of auxiliary keys is called.
const auxBar = "Auxiliary keys"

// auxPercent is how far the nodes are together.
func auxPercent(nodes []node) int {
	sum := 0
	for _, n := range nodes {
		if n.hasAux() {
			sum += 100
		} else {
			sum += min(max(n.AuxProgress, 0), 99) // 100 is for those that are ready
		}
	}
	return sum / max(len(nodes), 1)
}

// auxProgress is "local-1 40 %, local-2 ready", or "" when all are ready.
func auxProgress(nodes []node) string {
	parts, waiting := make([]string, len(nodes)), false
	for i, n := range nodes {
		if n.hasAux() {
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
