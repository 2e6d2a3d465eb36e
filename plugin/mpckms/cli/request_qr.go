package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/secret"
)

// movingCode derives the forms of a request's code by itself, of a seed that is
// fetched once.
type movingCode struct {
	request approval.ID
	seed    *secret.Bytes // the caller wipes it
	created time.Time     // by this machine's clock
	period  time.Duration
	base    string
	display string
}

// fetchCode gets what the code is made of. The server's clock says when periods begin.
func fetchCode(ctx context.Context, who requester, id string) (*movingCode, error) {
	const what = "show the code of the request"
	var in struct {
		Seed    []byte `json:"seed"`
		Period  int64  `json:"period_ms"`
		Created int64  `json:"created_unix_ms"`
		Now     int64  `json:"server_unix_ms"`
		Base    string `json:"link_base"`
		Display string `json:"display_url"`
	}
	asking := time.Now()
	err := who.Call(ctx, keyholder.Write, "requests/"+id+"/code", nil, &in)
	answered := time.Now()
	if err != nil {
		return nil, asked(what, err)
	}
	m := &movingCode{seed: secret.New(in.Seed), period: time.Duration(in.Period) * time.Millisecond, base: in.Base, display: in.Display}
	if m.request, err = approval.ParseID(id); err == nil && (m.seed.Len() != approval.SeedSize || m.period < time.Second || m.base == "") {
		err = errors.New("the answer does not have the expected form")
	}
	if err != nil {
		m.seed.Wipe()
		return nil, &refusal{what: "cannot " + what, cause: err}
	}
	// The answer was made somewhere between the two.
	ahead := time.UnixMilli(in.Now).Sub(asking.Add(answered.Sub(asking) / 2))
	m.created = time.UnixMilli(in.Created).Add(-ahead)
	return m, nil
}

// at is the link that is shown at a time, and when the next one is.
func (m *movingCode) at(now time.Time) (link string, next time.Time) {
	n := approval.Period(m.created, now, m.period)
	return approval.Link(m.base, m.request, approval.FormAt(m.seed.Expose(), m.request, n)), m.created.Add(time.Duration(n+1) * m.period)
}

func (a *app) requestQRCommand() *cobra.Command {
	var once, link bool
	cmd := &cobra.Command{
		Use:   "qr REQUEST",
		Short: "Show a request's moving code, for approvers' devices to scan",
		Long: `Show the code of a request in the terminal, drawn anew every few seconds, until the
request has ended. A device that scans it, or is given its link, sees the request; only the
present code and the one before are taken, each once by a device. That shows that whoever
approves has seen this display a moment ago, or was told by somebody who has.

--once prints one code and its link and ends, --link only the link: for scripts, and where
there is no terminal. The link is good for two periods.`,
		Example: `  mpckms request qr 5f0e…9a
  mpckms request qr 5f0e…9a --once
  mpckms request qr 5f0e…9a --link`,
		Args:              requestArg,
		ValidArgsFunction: a.completeNames(a.requestIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, width := a.codeTerminal()
			if out == nil && !once && !link {
				return usagef(cmd, "standard output is no terminal, so that no moving code can be shown on it: use --once or --link")
			}
			who, end, err := a.asRequester(cmd, "show the code of the request")
			if err != nil {
				return err
			}
			defer end()
			m, err := fetchCode(cmd.Context(), who, args[0])
			if err != nil {
				return err
			}
			defer m.seed.Wipe()
			if once || link {
				return a.printCode(m, link, out != nil)
			}
			d, err := a.showCode(cmd.Context(), who, m, out, width)
			if err != nil {
				return err
			}
			if err := a.printRequest(d); err != nil {
				return err
			}
			return requestEnd(d)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print the present code and its link, and end")
	cmd.Flags().BoolVar(&link, "link", false, "print the present link only, and end")
	cmd.MarkFlagsMutuallyExclusive("once", "link")
	return cmd
}

// codeTerminal is standard output where a code can be drawn over on it, and its width.
func (a *app) codeTerminal() (io.Writer, func() int) {
	f, ok := a.stdout.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return nil, nil
	}
	return f, func() int {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0
		}
		return columns
	}
}

// printCode prints the present form.
func (a *app) printCode(m *movingCode, linkOnly, colours bool) error {
	link, next := m.at(time.Now())
	doc := struct {
		Request    string `json:"request"`
		Link       string `json:"link"`
		DisplayURL string `json:"display_url,omitempty"`
		ValidUntil string `json:"valid_until"`
	}{m.request.String(), link, m.display, next.Add(m.period).UTC().Format(time.RFC3339)}
	if linkOnly || a.output == "json" {
		return a.print(doc, func(t *text) { t.line(link) })
	}
	lines, err := drawCode(link, colours)
	if err != nil {
		return &refusal{what: "the code cannot be drawn", cause: err}
	}
	return a.writeCode(append(lines, clean(link)))
}

// writeCode prints the lines of a code as they are; nothing of a server is in them
// that was not cleaned.
func (a *app) writeCode(lines []string) error {
	if _, err := io.WriteString(a.stdout, strings.Join(lines, "\n")+"\n"); err != nil {
		return &refusal{what: "the code could not be written to standard output", cause: err}
	}
	return nil
}

// showCode draws the code until the request has ended, and returns it then. A
// goroutine waits for the request meanwhile; it has ended when showCode returns.
func (a *app) showCode(parent context.Context, who requester, m *movingCode, out io.Writer, width func() int) (*requestDoc, error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	type end struct {
		d   *requestDoc
		err error
	}
	seen, ended := make(chan *requestDoc, 1), make(chan end, 1)
	see := func(d *requestDoc) {
		select {
		case <-seen: // an older one that was not drawn
		default:
		}
		seen <- d
	}
	go func() {
		// Waiting answers after seconds only, unless something changes.
		if d, err := readRequest(ctx, who, "show the request", m.request.String()); err == nil {
			see(d)
		}
		d, err := a.awaitRequest(ctx, who, m.request.String(), approval.MaxExpiry, see)
		ended <- end{d, err}
	}()
	s := &codeScreen{out: out, width: width}
	defer s.clear()
	var last *requestDoc
	for {
		link, next := m.at(time.Now())
		if err := s.draw(link, m, last, time.Now()); err != nil {
			cancel()
			<-ended
			return nil, err
		}
		// Once a second at least, for the time that is left.
		select {
		case last = <-seen:
		case e := <-ended:
			if e.err != nil && errors.Is(parent.Err(), context.Canceled) {
				return nil, &refusal{what: "the display of the code was interrupted; request " + m.request.String() + " stays open",
					advice: "'mpckms request qr " + m.request.String() + "' shows its code again, 'mpckms request cancel " + m.request.String() + "' ends it."}
			}
			return e.d, e.err
		case <-time.After(min(max(time.Until(next), 10*time.Millisecond), time.Second)):
		}
	}
}

// codeScreen is the part of the terminal that the code is on.
type codeScreen struct {
	out   io.Writer
	width func() int
	lines int // that are on it now
}

func (s *codeScreen) draw(link string, m *movingCode, d *requestDoc, now time.Time) error {
	lines, err := drawCode(link, true)
	if err != nil {
		return &refusal{what: "the code cannot be drawn", cause: err}
	}
	if columns, takes := s.width(), codeColumns(lines); columns > 0 && columns < takes {
		lines = []string{fmt.Sprintf("The terminal is too narrow for the code, which takes %d columns.", takes)}
	}
	lines = append(lines, codeState(m, d, now)...)
	var b strings.Builder
	s.home(&b)
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	s.lines = len(lines)
	_, err = io.WriteString(s.out, b.String())
	if err != nil {
		return &refusal{what: "the code could not be written to standard output", cause: err}
	}
	return nil
}

// codeState is what stands below the code.
func codeState(m *movingCode, d *requestDoc, now time.Time) []string {
	lines := []string{"Request " + m.request.String()}
	if d != nil {
		left := ""
		if end, err := time.Parse(time.RFC3339, d.Expires); err == nil {
			left = ", " + short(max(end.Sub(now).Truncate(time.Second), 0)) + " left"
		}
		lines = append(lines, clean(fmt.Sprintf("%s: approvals %d of %d%s", d.State, d.Approvals, d.Quorum, left)))
	}
	return append(lines, "Scan it with an approver's device. Ctrl-C ends the display, and not the request.")
}

// home goes back to where the code began.
func (s *codeScreen) home(b *strings.Builder) {
	if s.lines > 0 {
		fmt.Fprintf(b, "\x1b[%dA\r", s.lines)
	}
}

// clear takes the code off the terminal.
func (s *codeScreen) clear() {
	if s.lines == 0 {
		return
	}
	var b strings.Builder
	s.home(&b)
	b.WriteString("\x1b[J")
	s.lines = 0
	_, _ = io.WriteString(s.out, b.String())
}
