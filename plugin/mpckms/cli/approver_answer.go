package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// deviceFlags are those of everything that opens a request.
type deviceFlags struct {
	device        string
	acceptAccount bool
}

func (f *deviceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.device, "device", "", "which of the approver's devices of this home (default: the only one)")
	cmd.Flags().BoolVar(&f.acceptAccount, "accept-account", false, "the account goes under another name than this device has seen, and that is right")
}

// openedRequest is a request on this device.
type openedRequest struct {
	*approver.Request
	server approvalServer
	ring   keyholder.Keyring
}

// openRequest opens the request of a link and remembers the account.
func (a *app) openRequest(ctx context.Context, what, link string, f *deviceFlags) (*openedRequest, error) {
	d, home, err := a.approverDevice(f.device)
	if err != nil {
		return nil, err
	}
	s, err := a.approvalServer(what)
	if err != nil {
		return nil, err
	}
	ring := deviceKeyring(home, d.FileKeyring)
	r, err := d.Open(ctx, s, ring, approver.Opening{Link: link, AcceptAccount: f.acceptAccount}, time.Now())
	if err != nil {
		err = failedTo(what, err)
		var mine *refusal
		if errors.As(err, &mine) && errors.Is(err, approver.ErrAccount) && !errors.Is(err, approver.ErrHostile) {
			mine.advice = "Nothing was signed. If the account was renamed, or made anew, say so with --accept-account; if you know of nothing\n" +
				"like that, somebody may want you to approve for another account than you think."
		}
		return nil, err
	}
	if err := home.SetApproverDevice(d.Name, d); err != nil {
		return nil, err
	}
	return &openedRequest{r, s, ring}, nil
}

// linkArg takes a link, or what stands behind its "#".
func linkArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(cmd, "give the link of the code, in quotes, and nothing else")
	}
	if _, _, err := approval.ParseLink(args[0]); err != nil {
		return usagef(cmd, "this is no link of a request's code: it ends with #r=…&f=…; quote it, since the shell takes & and # for itself")
	}
	return nil
}

func (a *app) deviceShowCommand() *cobra.Command {
	var f deviceFlags
	cmd := &cobra.Command{
		Use:   "show LINK",
		Short: "Show the request that a code leads to",
		Long: `Show the request whose code was scanned, after checking that it fits what this device
knows. LINK is what the code says, or what stands behind its "#". A device may use each code
once: to answer afterwards, take the next one that is shown.`,
		Example: `  mpckms device show "https://vault.example.com/v1/mpc/ui/phone#r=…&f=…"
  mpckms device show "r=…&f=…"`,
		Args: linkArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.openRequest(cmd.Context(), "show the request", args[0], &f)
			if err != nil {
				return err
			}
			doc := openedDocOf(r.Request, time.Now())
			return a.print(doc, doc.write)
		},
	}
	f.add(cmd)
	return cmd
}

// answerFlags are those of `device approve`.
type answerFlags struct {
	deviceFlags
	certificate certificateFlags
	totpFile    string
	login, yes  bool
}

func (a *app) deviceApproveCommand() *cobra.Command {
	var f answerFlags
	cmd := &cobra.Command{
		Use:   "approve LINK",
		Short: "Approve the request that a code leads to, after seeing what it is",
		Long: `Show the request whose code was scanned, ask, and approve it with the device's key and
as many further kinds of factors as the account's policy asks for: a one-time code (asked for,
or --totp-file), a certificate (--certificate and --key, or --token), a login as the identity
that the approver is (--login). What is signed is put together here, of what is shown.

--yes asks nothing: it is for machines that have checked the message elsewhere.`,
		Example: `  mpckms device approve "https://vault.example.com/v1/mpc/ui/phone#r=…&f=…"
  mpckms device approve "$LINK" --certificate ada.pem --key ada.key
  mpckms device approve "$LINK" --totp-file code --yes -o json`,
		Args: linkArg,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if !f.yes && !a.interactive() {
				return usagef(cmd, "there is no terminal to ask on: with --yes the request is approved without a question")
			}
			code := ""
			if f.totpFile != "" {
				if code, err = firstLine(f.totpFile); err != nil {
					return fmt.Errorf("the one-time code cannot be read, and nothing was sent: %w", err)
				}
			}
			certificate, err := f.certificate.open(cmd, a)
			if err != nil {
				return failedTo("use the certificate", err)
			}
			defer func() { err = errors.Join(err, certificate.close()) }()
			return a.approve(cmd, args[0], &f, approver.Factors{Certificate: certificate.factor(), TOTP: code})
		},
	}
	f.deviceFlags.add(cmd)
	f.certificate.add(cmd)
	cmd.Flags().StringVar(&f.totpFile, "totp-file", "", "read the one-time code from the first line of this file instead of asking")
	cmd.Flags().BoolVar(&f.login, "login", false, "log in with an authenticator of the approver's identity, as a further factor")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "approve without asking")
	return cmd
}

func firstLine(path string) (string, error) {
	raw, err := readFile(path, 1024)
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimSpace(line), err
}

// approve shows, asks and approves.
func (a *app) approve(cmd *cobra.Command, link string, f *answerFlags, factors approver.Factors) error {
	ctx, what := cmd.Context(), "approve the request"
	r, err := a.openRequest(ctx, what, link, &f.deviceFlags)
	if err != nil {
		return err
	}
	doc := openedDocOf(r.Request, time.Now())
	var t text
	doc.write(&t)
	prompter{a}.Show(t.b.String())
	factors.LoggedIn = f.login
	prompted := a.wantsCode(r, &factors)
	kinds := factors.Kinds()
	if prompted {
		kinds = append(kinds, approval.TOTP)
	}
	if err := r.Enough(kinds); err != nil {
		return &refusal{what: "nothing was signed", cause: err, advice: "See 'mpckms device approve --help' for how each kind is given. Factors are enrolled with 'mpckms approver enrol' and\n" +
			"'mpckms approver totp', and count once the account's policy has them ('mpckms account policy set')."}
	}
	if !f.yes {
		answer, err := (prompter{a}).Ask(ctx, `Type "approve" to approve, "refuse" to refuse; anything else leaves it open`)
		if err != nil {
			return err
		}
		switch answer {
		case "approve":
		case "refuse":
			return a.finishAnswer(doc, "refused")(r.Refuse(ctx, r.server, r.ring, time.Now()))
		default:
			return &refusal{what: "the request was neither approved nor refused: it stays open", advice: "To answer it, take the code that is shown now."}
		}
	}
	if f.login {
		if err := a.noteLogin(cmd, r); err != nil {
			return err
		}
	}
	for try := 1; ; try++ {
		if prompted {
			if factors.TOTP, err = (prompter{a}).Ask(ctx, "One-time code"); err != nil {
				return err
			}
		}
		out, err := r.Approve(ctx, r.server, r.ring, factors, time.Now())
		var mine *refusal
		if prompted && try < 3 && errors.As(err, &mine) && mine.status == http.StatusForbidden && !mine.said("anew") && !mine.said("scan") {
			a.note("%s", strings.Join(mine.messages, "; "))
			continue
		}
		return a.finishAnswer(doc, "approved")(out, err)
	}
}

// wantsCode says that a one-time code is to be asked for: the policy takes one, none
// was given, and without it there are too few kinds.
func (a *app) wantsCode(r *openedRequest, f *approver.Factors) bool {
	return f.TOTP == "" && r.Enough(f.Kinds()) != nil && slices.Contains(r.Me.Checked, approval.TOTP) && a.interactive()
}

// noteLogin logs in as the approver's identity and says so for this request.
func (a *app) noteLogin(cmd *cobra.Command, r *openedRequest) error {
	s, _, err := a.logIn(cmd, "")
	if err != nil {
		return err
	}
	defer a.endSession(s)
	id := r.Subject.Request.String()
	return refusedBy("log in for the request", s.Call(cmd.Context(), keyholder.Write, "requests/"+id+"/login", map[string]any{}, nil))
}

// finishAnswer prints what came of an answer.
func (a *app) finishAnswer(doc *openedDoc, done string) func(*approver.Outcome, error) error {
	return func(out *approver.Outcome, err error) error {
		if err != nil {
			return failedTo("answer the request", err)
		}
		doc.Decision, doc.Outcome = done, out
		return a.print(doc, func(t *text) {
			t.line(fmt.Sprintf("Request %s was %s by you. Its state: %s, approvals %d of %d.", doc.Request, done, out.State, out.Approvals, out.Quorum))
		})
	}
}

func (a *app) deviceRefuseCommand() *cobra.Command {
	var f deviceFlags
	cmd := &cobra.Command{
		Use:   "refuse LINK",
		Short: "Refuse the request that a code leads to",
		Long: `Refuse the request whose code was scanned, with the device's key alone. A request ends
as soon as so many have refused that the rest cannot make the quorum.`,
		Example: `  mpckms device refuse "https://vault.example.com/v1/mpc/ui/phone#r=…&f=…"`,
		Args:    linkArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.openRequest(cmd.Context(), "refuse the request", args[0], &f)
			if err != nil {
				return err
			}
			doc := openedDocOf(r.Request, time.Now())
			return a.finishAnswer(doc, "refused")(r.Refuse(cmd.Context(), r.server, r.ring, time.Now()))
		},
	}
	f.add(cmd)
	return cmd
}
