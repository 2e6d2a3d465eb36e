//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"rsc.io/qr"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// screens takes pictures of a tab. They are kept in MPC_SCREENSHOTS, where that is
// set.
type screens struct {
	t   *testing.T
	tab context.Context
	dir string
}

func newScreens(t *testing.T, tab context.Context) *screens {
	s := &screens{t: t, tab: tab, dir: os.Getenv("MPC_SCREENSHOTS")}
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	return s
}

func (s *screens) run(actions ...chromedp.Action) {
	s.t.Helper()
	if err := chromedp.Run(s.tab, actions...); err != nil {
		var body string
		_ = chromedp.Run(s.tab, chromedp.Evaluate("document.body.innerText", &body))
		s.t.Fatalf("%v\nthe page says:\n%s", err, body)
	}
}

// shoot takes one picture for each size and colour scheme, of the whole page, and
// looks for what is wider than the screen.
func (s *screens) shoot(name string, sizes ...[2]int64) {
	s.t.Helper()
	if len(sizes) == 0 {
		sizes = [][2]int64{{390, 844}, {1280, 800}}
	}
	for _, size := range sizes {
		for _, scheme := range []string{"light", "dark"} {
			var picture []byte
			var wide bool
			var small []string
			s.run(emulation.SetDeviceMetricsOverride(size[0], size[1], 1, size[0] < 600),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}),
				chromedp.Sleep(100*time.Millisecond),
				chromedp.Evaluate("document.documentElement.scrollWidth > innerWidth", &wide),
				chromedp.Evaluate(`[...document.querySelectorAll("button, summary, input, select")].filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44).map((e) => e.textContent || e.id)`, &small),
				chromedp.ActionFunc(func(ctx context.Context) (err error) {
					picture, err = cdppage.CaptureScreenshot().WithCaptureBeyondViewport(false).Do(ctx)
					return err
				}))
			if wide {
				s.t.Errorf("%s at %d pixels: something is wider than the screen", name, size[0])
			}
			if len(small) > 0 {
				s.t.Errorf("%s at %d pixels: lower than 44 pixels: %q", name, size[0], small)
			}
			file := filepath.Join(s.dir, fmt.Sprintf("%s-%dx%d-%s.png", name, size[0], size[1], scheme))
			if err := os.WriteFile(file, picture, 0o600); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// titled waits until the page's heading is this.
func titled(text string) chromedp.Action {
	return until(fmt.Sprintf("document.querySelector('h1')?.textContent === %q", text))
}

// until waits until an expression holds in the page, also over a change of pages, when
// an evaluation may fail.
func until(expression string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		for {
			var holds bool
			if err := chromedp.Evaluate("Boolean("+expression+")", &holds).Do(ctx); err == nil && holds {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for %s: %w", expression, ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// press presses the button with this label.
func press(label string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		var found bool
		script := fmt.Sprintf("(() => { const b = [...document.querySelectorAll('button')].find((b) => b.checkVisibility() && b.textContent === %q); const can = Boolean(b && !b.disabled); b?.click(); return can; })()", label)
		if err := chromedp.Evaluate(script, &found, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithUserGesture(true) }).Do(ctx); err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("there is no button %q to press", label)
		}
		return nil
	})
}

// shows fails where the page does not show a text.
func shows(text string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		var body string
		if err := chromedp.Evaluate("document.body.innerText", &body).Do(ctx); err != nil {
			return err
		}
		if !strings.Contains(body, text) {
			return fmt.Errorf("the page does not show %q", text)
		}
		return nil
	})
}

// goTo opens an address as if from a new link.
func goTo(url string) chromedp.Action {
	return chromedp.Tasks{chromedp.Navigate("about:blank"), chromedp.Navigate(url)}
}

// enrolDevice enrols the tab's browser with a virtual authenticator.
func (s *screens) enrolDevice(f *fakeApprovals, site string) {
	s.t.Helper()
	var id webauthn.AuthenticatorID
	s.run(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		if err = webauthn.Enable().Do(ctx); err != nil {
			return err
		}
		id, err = webauthn.AddVirtualAuthenticator(&webauthn.VirtualAuthenticatorOptions{Protocol: webauthn.AuthenticatorProtocolCtap2, Ctap2version: webauthn.Ctap2versionCtap21,
			Transport: webauthn.AuthenticatorTransportInternal, HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true}).Do(ctx)
		return err
	}))
	phone := site + "/v1/mpc/ui/phone"
	s.run(goTo(phone), titled("This device is not enrolled"))
	s.shoot("phone-not-enrolled")
	s.run(goTo(phone+"#e="+f.enrolment.String()+"&s="+base64.RawURLEncoding.EncodeToString(f.seed)), titled("Enrol this device"))
	s.shoot("phone-enrol")
	// The authenticator makes the passkey, and the server has to know its key when the
	// page offers it.
	f.mu.Lock()
	f.refuse = func(path string) (int, string) {
		if path == "enrol/finish" {
			return http.StatusForbidden, "not yet"
		}
		return 0, ""
	}
	f.mu.Unlock()
	s.run(press("Enrol this device"), until("document.querySelector('.wrong').textContent === 'Not yet.'"))
	f.mu.Lock()
	f.refuse = nil
	f.mu.Unlock()
	s.run(chromedp.ActionFunc(func(ctx context.Context) error { return webauthn.ClearCredentials(id).Do(ctx) }))
	s.passkeyFirst(f, id, site)
}

// passkeyFirst enrols, and gives the passkey to the server before the offer arrives.
func (s *screens) passkeyFirst(f *fakeApprovals, id webauthn.AuthenticatorID, site string) {
	s.t.Helper()
	f.mu.Lock()
	f.refuse = func(path string) (int, string) {
		if path != "enrol/finish" {
			return 0, ""
		}
		f.refuse = nil
		f.mu.Unlock()
		defer f.mu.Lock()
		var all []*webauthn.Credential
		err := chromedp.Run(s.tab, chromedp.ActionFunc(func(ctx context.Context) (err error) {
			all, err = webauthn.GetCredentials(id).Do(ctx)
			return err
		}))
		if err != nil || len(all) != 1 {
			return http.StatusInternalServerError, fmt.Sprintf("%d credentials, %v", len(all), err)
		}
		private, errKey := base64.StdEncoding.DecodeString(all[0].PrivateKey)
		credential, errID := base64.StdEncoding.DecodeString(all[0].CredentialID)
		if errKey != nil || errID != nil {
			return http.StatusInternalServerError, fmt.Sprint(errKey, errID)
		}
		if err := f.addPasskey(private, credential, site); err != nil {
			return http.StatusInternalServerError, err.Error()
		}
		return 0, ""
	}
	f.mu.Unlock()
	s.run(press("Enrol this device"), titled("Compare this code"))
	f.mu.Lock()
	code := f.code
	f.mu.Unlock()
	s.run(shows(code))
	s.shoot("phone-code")
	f.mu.Lock()
	f.state = "confirmed"
	f.mu.Unlock()
	s.run(titled("This device is enrolled"))
	s.shoot("phone-enrolled")
	s.run(press("Done"), titled("Ready to approve"))
	s.shoot("phone-ready")
}

const typedData = `{"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],"Person":[{"name":"name","type":"string"},{"name":"wallet","type":"address"}],"Payment":[{"name":"from","type":"Person"},{"name":"to","type":"Person[]"},{"name":"amount","type":"uint256"},{"name":"memo","type":"string"}]},"primaryType":"Payment","domain":{"name":"Example Pay","version":"1","chainId":1,"verifyingContract":"0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"},"message":{"from":{"name":"Treasury","wallet":"0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},"to":[{"name":"Bob","wallet":"0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"}],"amount":"250000000000000000","memo":"Invoice 1042"}}`

// TestPages goes through both pages in every state, against an API that package
// approval checks, and takes pictures.
func TestPages(t *testing.T) {
	f := newFakeApprovals(t)
	server := servePages(t, f)
	site := localServer(server)
	browser := harness.StartBrowser(t)
	s := newScreens(t, openTab(t, browser.WebSocket))
	s.enrolDevice(f, site)
	phone := site + "/v1/mpc/ui/phone"

	f.ask("Pay 12,500.00 EUR to Example Supplies GmbH\nIBAN DE02 1203 0000 0000 2020 51\nInvoice 1042", mpc.MessageRaw, mpc.HashSHA256)
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("IBAN DE02 1203"))
	s.shoot("phone-request", [2]int64{390, 844}, [2]int64{1280, 800}, [2]int64{320, 640})
	s.run(press("Approve"), titled("You approved"), shows("1 more approval"))
	s.shoot("phone-approved")
	if len(f.given) != 1 {
		t.Fatalf("%d approvals", len(f.given))
	}

	f.ask(typedData, mpc.MessageEIP712, mpc.HashKeccak256)
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("Invoice 1042"), shows("250000000000000000"))
	s.shoot("phone-typed")
	s.run(press("Refuse"), shows("That cannot be taken back"))
	s.shoot("phone-refuse")
	s.run(press("Yes, refuse"), titled("You refused"))
	s.shoot("phone-refused")

	f.ask("\x01\x02\xff\xfe binary", mpc.MessageRaw, mpc.HashKeccak256)
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("0102fffe"), shows("may be an Ethereum transaction"))
	s.run(press("Approve"), titled("You approved"))
	f.ask("hello "+strings.Repeat("long text ", 200), mpc.MessageEIP191, "")
	s.run(goTo(phone+f.form()), titled("Sign this?"), press("Approve"), shows("Part of the message is not shown yet"))

	f.mu.Lock()
	f.factors = 3
	f.mu.Unlock()
	f.ask(strings.Repeat("\x5a", 32), mpc.MessageDigest, mpc.HashNone)
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("Nobody can see here"), press("Approve"), shows("Enter the one-time code"))
	s.run(chromedp.SendKeys("#totp", "000000"), press("Approve"), until("document.querySelector('.bar .wrong').textContent.includes('2 more tries')"))
	s.shoot("phone-totp")
	s.run(chromedp.SendKeys("#totp", "123456"), press("Approve"), titled("You approved"))
	f.mu.Lock()
	f.factors = 2
	f.mu.Unlock()

	// The camera: a picture of the code, which the page finds and reads.
	f.mu.Lock()
	f.period = time.Minute
	f.mu.Unlock()
	f.ask("seen by the camera", mpc.MessageRaw, mpc.HashSHA256)
	film(t, browser.Camera, phone+f.form())
	s.run(goTo(phone), titled("Ready to approve"), press("Scan a code"), titled("Sign this?"), shows("seen by the camera"))
	film(t, browser.Camera, "https://elsewhere.example/v1/mpc/ui/phone"+f.form())
	s.run(goTo(phone), titled("Ready to approve"), press("Scan a code"), titled("A code of another site"))
	film(t, browser.Camera, "a code of something else")
	s.run(goTo(phone), titled("Ready to approve"), press("Scan a code"), until("document.body.innerText.includes('That is a code of something else')"))
	s.shoot("phone-scan")
	f.mu.Lock()
	f.period = fakePeriod
	f.mu.Unlock()

	f.askPolicy(func(p *approval.Policy) {
		p.Quorum = 1
		p.Approvers = p.Approvers[:2]
		p.Approvers[1].Keys = p.Approvers[1].Keys[:2]
	})
	s.run(goTo(phone+f.form()), titled("Change who approves?"), shows("Approvals needed: 2 → 1"), shows("No longer an approver: Zoë Müller"))
	s.shoot("phone-policy", [2]int64{390, 844}, [2]int64{1280, 1400})
	s.run(press("Approve"), titled("You approved"))

	stale := f.form()
	time.Sleep(2*fakePeriod + 200*time.Millisecond)
	s.run(goTo(phone+stale), titled("Scan the code again"))
	s.shoot("phone-stale")
	f.requester = "entity:0f3c"
	f.ask("mine", mpc.MessageRaw, mpc.HashSHA256)
	s.run(goTo(phone+f.form()), titled("You asked for this yourself"))
	f.requester = ""
	f.ask("soon over", mpc.MessageRaw, mpc.HashSHA256)
	f.mu.Lock()
	f.subject.Expires = time.Now().Add(3 * time.Second).Unix()
	f.mu.Unlock()
	s.run(goTo(phone+f.form()), titled("Expired"))
	s.shoot("phone-expired")
	other := newFakeApprovals(t)
	f.ask("x", mpc.MessageRaw, mpc.HashSHA256)
	f.mu.Lock()
	f.subject.PublicKey[1] ^= 1
	f.mu.Unlock()
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("is not the one that this device knows"), until("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Approve').disabled"))
	s.shoot("phone-other-key")
	f.mu.Lock()
	mount := f.subject.Mount
	f.subject.Mount = other.mount
	f.mu.Unlock()
	s.run(goTo(phone+f.form()), titled("This request cannot be shown"), shows("Nothing was signed"))
	f.mu.Lock()
	f.subject.Mount = mount
	f.mu.Unlock()

	s.show(f, site)
}

// film makes the file that the browser's camera shows, Y4M in grey: a code in the
// middle of a dark picture.
func film(t *testing.T, file, text string) {
	t.Helper()
	const width, height, scale = 640, 480, 6
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	frame := bytes.Repeat([]byte{60}, width*height)
	quiet := 4
	side := (c.Size + 2*quiet) * scale
	if side > height {
		t.Fatalf("the code has %d pixels", side)
	}
	for y := range side {
		for x := range side {
			light := byte(230)
			if c.Black(x/scale-quiet, y/scale-quiet) {
				light = 30
			}
			frame[((height-side)/2+y)*width+(width-side)/2+x] = light
		}
	}
	frame = append(frame, bytes.Repeat([]byte{128}, width*height/2)...) // no colour
	film := []byte(fmt.Sprintf("YUV4MPEG2 W%d H%d F10:1 Ip A1:1 C420jpeg\n", width, height))
	for range 3 {
		film = append(append(film, "FRAME\n"...), frame...)
	}
	if err := os.WriteFile(file, film, 0o600); err != nil {
		t.Fatal(err)
	}
}

// show goes through the page with the code.
func (s *screens) show(f *fakeApprovals, site string) {
	s.t.Helper()
	f.ask("Pay", mpc.MessageRaw, mpc.HashSHA256)
	link := fmt.Sprintf("%s/v1/mpc/ui/show#r=%s&s=%s&c=%d&p=%d", site, f.subject.Request, base64.RawURLEncoding.EncodeToString(f.seed), f.created.UnixMilli(), fakePeriod.Milliseconds())
	s.run(goTo(link), titled("Scan to approve"), until("document.querySelector('.count strong')?.textContent === '0 of 2'"), until("document.querySelector('svg.code path')?.getAttribute('d')"))
	s.shoot("show-pending", [2]int64{390, 844}, [2]int64{1280, 800}, [2]int64{320, 640})
	var first, second string
	s.run(chromedp.Evaluate("document.querySelector('svg.code path').getAttribute('d')", &first), chromedp.Sleep(fakePeriod+500*time.Millisecond), chromedp.Evaluate("document.querySelector('svg.code path').getAttribute('d')", &second))
	if first == second || first == "" {
		s.t.Error("the code does not change")
	}
	f.mu.Lock()
	f.given, f.answered = make([]approval.Given, 1), []map[string]any{{"name": "alice", "decision": "approve"}}
	f.mu.Unlock()
	s.run(until("document.querySelector('.count strong')?.textContent === '1 of 2'"))
	s.shoot("show-half")
	f.mu.Lock()
	f.status = "signed"
	f.mu.Unlock()
	s.run(titled("Signed"))
	s.shoot("show-signed")
	s.run(goTo(strings.Replace(link, "#r=", "#x=", 1)), titled("No code to show"))
}
