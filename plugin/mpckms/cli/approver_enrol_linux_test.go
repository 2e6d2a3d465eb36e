package cli

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// phoneInvitation is a link as the engine makes it where config/ui has a public_url.
func (d *approvalDesk) phoneInvitation() string {
	return "https://vault.example.com:8200/v1/mpc/ui/phone#e=" + d.enrolment.String() + "&s=" + base64.RawURLEncoding.EncodeToString([]byte("the secret of the link, 32 bytes"))
}

func (d *approvalDesk) invites(link string) {
	d.on("PUT mpc/approvers/alice/enrol", data(`{"enrolment":"`+d.enrolment.String()+`","link":"`+link+`","expires_time":"2026-01-02T03:14:05Z"}`))
}

// enrolOn runs `approver enrol` with a terminal as standard output.
func enrolOn(t *testing.T, columns uint16, more ...string) (shown string) {
	t.Helper()
	s := newScreen(t, columns)
	var errs lockedBuffer
	code := Run(t.Context(), Config{Args: append([]string{"approver", "enrol", "alice"}, more...), Stdout: s.tty, Stderr: &errs,
		StoredToken: func() (string, error) { return "", nil }, retryPause: time.Millisecond, progressPause: time.Millisecond})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if err := s.tty.Close(); err != nil {
		t.Fatal(err)
	}
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.b.String(), "\r\n", "\n")
}

// asPlain turns the coloured code of a terminal into blocks for light modules.
func asPlain(shown string) string {
	var out strings.Builder
	swap := strings.NewReplacer(blackOnWhite, "", plainColours, "", "█", " ", " ", "█", "▀", "▄", "▄", "▀")
	for line := range strings.Lines(shown) {
		if strings.HasPrefix(line, blackOnWhite) {
			out.WriteString(swap.Replace(line))
		}
	}
	return out.String()
}

// TestInvitationCode: the link is drawn for a phone's camera where a phone can open
// it, and the secret in it is said to be one.
func TestInvitationCode(t *testing.T) {
	d := newApprovalDesk(t)
	link := d.phoneInvitation()
	d.invites(link)
	const secretSaid = "The link and its code are a secret until the device has used it"

	shown := enrolOn(t, 120)
	if got := readBlocks(t, asPlain(shown)); got != link {
		t.Errorf("the code on the terminal reads as %q, want %q", got, link)
	}
	if !strings.Contains(shown, link+"\n") || !strings.Contains(shown, secretSaid) {
		t.Errorf("link or warning is missing:\n%s", shown)
	}
	for name, shown := range map[string]string{
		"--qr=false": enrolOn(t, 120, "--qr=false"),
		"-o json":    enrolOn(t, 120, "-o", "json"),
		"both":       enrolOn(t, 120, "-o", "json", "--qr"),
		"narrow":     enrolOn(t, 40),
	} {
		if strings.ContainsAny(shown, "█▀▄\x1b") || !strings.Contains(shown, d.enrolment.String()) {
			t.Errorf("%s:\n%s", name, shown)
		}
		if said := strings.Contains(shown, "too narrow"); said != (name == "narrow") {
			t.Errorf("%s: said to be too narrow: %v", name, said)
		}
	}

	// Without a terminal only where asked for, and then without colours.
	res := run(t, "approver", "enrol", "alice")
	res.want(t, 0)
	if strings.ContainsAny(res.stdout, "█▀▄\x1b") || !strings.Contains(res.stdout, "The link is a secret") {
		t.Errorf("a pipe got a code:\n%s", res.stdout)
	}
	res = run(t, "approver", "enrol", "alice", "--qr")
	res.want(t, 0)
	if got := readBlocks(t, res.stdout); got != link || strings.Contains(res.stdout, "\x1b") || !strings.Contains(res.stdout, secretSaid) {
		t.Errorf("the code in the pipe reads as %q, want %q", got, link)
	}

	// What a phone cannot open, or what is no link of an enrolment, is not drawn.
	for _, other := range []string{d.invitation(), "https://vault.example.com/v1/mpc/ui/phone", "javascript:1#e=" + d.enrolment.String() + "&s=AAAA", "https:///x#e=" + d.enrolment.String() + "&s=AAAA"} {
		d.invites(other)
		shown := enrolOn(t, 120)
		if strings.ContainsAny(shown, "█▀▄\x1b") || !strings.Contains(shown, "No QR code: a phone cannot open this link") || !strings.Contains(shown, other) {
			t.Errorf("%s:\n%s", other, shown)
		}
	}
}
