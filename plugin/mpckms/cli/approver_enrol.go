package cli

import (
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/keyholder"
)

// invitationDoc is the JSON document of `approver enrol`.
type invitationDoc struct {
	Approver  string `json:"approver"`
	Enrolment string `json:"enrolment"`
	Link      string `json:"link"`
	Expires   string `json:"expires_time"`
}

func (a *app) approverEnrolCommand() *cobra.Command {
	var label string
	var ttl time.Duration
	var code bool
	cmd := &cobra.Command{
		Use:   "enrol NAME",
		Short: "Make a link with which a device becomes an approver's",
		Long: `Make a link with which one device becomes an approver's. The link is a secret until it
has been used: whoever has it first enrols a device. It is opened on the approver's phone, or
given to 'mpckms device enrol' there. Then the code that the device shows is compared, and the
enrolment confirmed with 'mpckms approver confirm'.

In a terminal the link is drawn as a QR code for the phone's camera as well, where phones can
open it, that is where config/ui has a public_url. Who photographs the screen has the secret.
--qr draws it into a file or pipe too, --qr=false never does. With -o json nothing is drawn.`,
		Example: `  mpckms approver enrol alice --label phone
  mpckms approver enrol alice --label laptop --ttl 5m -o json
  mpckms approver enrol alice --label phone --qr=false`,
		Args:              approverArg,
		ValidArgsFunction: a.completeNames(a.approvers),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			body := map[string]any{}
			if label != "" {
				body["label"] = label
			}
			if ttl != 0 {
				body["ttl"] = ttl.String()
			}
			doc := invitationDoc{}
			_, err = c.do(cmd.Context(), request{what: fmt.Sprintf("enrol a device for approver %q", args[0]), capability: capUpdate, path: "approvers/" + args[0] + "/enrol", body: body}, &doc)
			if err != nil {
				return err
			}
			doc.Approver = args[0]
			out, width := a.codeTerminal()
			if !cmd.Flags().Changed("qr") {
				code = out != nil
			}
			if a.output == "json" {
				return a.print(doc, nil)
			}
			return a.printInvitation(&doc, code, out != nil, width)
		},
	}
	cmd.Flags().StringVar(&label, "label", "", "what the device is called until it says itself")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long the link is good, up to 15m (default: the engine's)")
	cmd.Flags().BoolVar(&code, "qr", false, "draw the link as a QR code, or do not (default: where standard output is a terminal)")
	return cmd
}

// printInvitation prints the link, drawn as a code as well where that is wanted and a
// phone can open it, and what to do with it. width is nil where output is no terminal.
func (a *app) printInvitation(doc *invitationDoc, draw, colours bool, width func() int) error {
	var lines []string
	note := ""
	switch {
	case !draw:
	case !phoneLink(doc.Link):
		note = "No QR code: a phone cannot open this link. Set the public_url of config/ui for that, and make another one."
	default:
		var err error
		if lines, err = drawCode(doc.Link, colours); err != nil {
			note = "No QR code: the link does not fit into one."
		} else if takes := codeColumns(lines); width != nil && width() > 0 && width() < takes {
			lines, note = nil, fmt.Sprintf("No QR code: the terminal is too narrow for it, which takes %d columns.", takes)
		}
	}
	err := a.print(doc, func(t *text) {
		t.pairs("", "Approver", doc.Approver, "Enrolment", doc.Enrolment, "Expires", moment(doc.Expires))
		t.blank()
		t.line(doc.Link)
		if note != "" {
			t.blank()
			t.line(note)
		}
		if lines != nil {
			t.blank()
		}
	})
	if err == nil && lines != nil {
		err = a.writeCode(lines)
	}
	if err != nil {
		return err
	}
	return a.print(doc, func(t *text) {
		t.blank()
		secret := "The link is a secret"
		if lines != nil {
			secret = "The link and its code are a secret"
		}
		t.line(secret + " until the device has used it: whoever has it first enrols a device.")
		t.line("Open the link on the approver's phone, or run there: mpckms device enrol 'LINK'. It enrols one device. Then compare")
		t.line("the code that the device shows, and confirm it: mpckms approver confirm " + doc.Approver + " --code CODE")
	})
}

// phoneLink: a phone's browser opens the link, and it is one of an enrolment. The
// engine makes one for mpckms only where config/ui has no public_url.
func phoneLink(link string) bool {
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return false
	}
	_, err = approver.ParseInvitation(link)
	return err == nil
}

func (a *app) approverConfirmCommand() *cobra.Command {
	var enrolment, code string
	cmd := &cobra.Command{
		Use:   "confirm NAME --code CODE",
		Short: "Confirm a device by the code that it shows",
		Long: `Confirm that a device is the approver's: type the code that the device itself shows, as its
owner reads it out. Three wrong codes end the enrolment. Accounts' policies go on as they are:
they hold copies, and a change of policy brings the device into them.

The device of an approver that is an identity is confirmed in a session of that identity:
the command logs in with --authenticator, or one that is known here.`,
		Example: `  mpckms approver confirm alice --code 1234-5678
  mpckms approver confirm ben --code 8765-4321 --authenticator ben`,
		Args:              approverArg,
		ValidArgsFunction: a.completeNames(a.approvers),
		RunE: func(cmd *cobra.Command, args []string) error {
			if code == "" {
				return usagef(cmd, "give --code, as the device shows it")
			}
			what := fmt.Sprintf("confirm a device of approver %q", args[0])
			who, end, err := a.asRequester(cmd, what)
			if err != nil {
				return err
			}
			defer end()
			body := map[string]any{"code": code}
			if enrolment != "" {
				body["enrolment"] = enrolment
			}
			d := &approverDoc{}
			if err := who.Call(cmd.Context(), keyholder.Write, "approvers/"+args[0]+"/confirm", body, d); err != nil {
				return asked(what, err)
			}
			d.normalize(args[0])
			return a.print(d, func(t *text) {
				t.line("The device is confirmed. Its keys count for an account once the account's policy has them: mpckms account policy set")
				t.blank()
				d.write(t)
			})
		},
	}
	cmd.Flags().StringVar(&code, "code", "", "the code that the device shows, 1234-5678")
	cmd.Flags().StringVar(&enrolment, "enrolment", "", "ID of the enrolment, where several wait")
	return cmd
}
