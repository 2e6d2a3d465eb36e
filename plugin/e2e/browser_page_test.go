//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	_ "image/png" // screenshots are PNG
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// page is one tab in a browser context of its own: it shares neither storage nor
// cookies with another one, as if it were on another machine.
type page struct {
	ctx           context.Context
	name          string
	context       cdp.BrowserContextID
	authenticator webauthn.AuthenticatorID
}

const (
	pageTimeout  = 30 * time.Second
	browserTests = 10 * time.Minute
)

// newDesk opens the tab of whoever asks, on a desktop's screen.
func newDesk(t *testing.T, b *e2e.Browser, name string) *page {
	t.Helper()
	return newPage(t, b, name, emulation.SetDeviceMetricsOverride(1280, 800, 1, false))
}

// newPhone opens the tab of an approver: a phone's screen, touch, and an
// authenticator in the phone that verifies its user.
func newPhone(t *testing.T, b *e2e.Browser, name string) *page {
	t.Helper()
	p := newPage(t, b, name, emulation.SetDeviceMetricsOverride(390, 844, 2, true), emulation.SetTouchEmulationEnabled(true), webauthn.Enable())
	p.run(t, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		p.authenticator, err = webauthn.AddVirtualAuthenticator(&webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Ctap2version: webauthn.Ctap2versionCtap21, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
		}).Do(ctx)
		return err
	}))
	return p
}

func newPage(t *testing.T, b *e2e.Browser, name string, first ...chromedp.Action) *page {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), browserTests) // outlives the test: see below
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewRemoteAllocator(ctx, b.WebSocket, chromedp.NoModifyURL)
	t.Cleanup(cancel)
	// The protocol of a newer browser has values that the library does not know, of
	// events that nobody here looks at.
	quiet := func(string, ...any) {}
	browser, cancel := chromedp.NewContext(ctx, chromedp.WithErrorf(quiet), chromedp.WithLogf(quiet))
	t.Cleanup(cancel)
	if err := chromedp.Run(browser); err != nil {
		t.Fatalf("reaching the browser: %v", err)
	}
	// A browser context begins without a window, so its first tab needs one.
	ex := cdp.WithExecutor(browser, chromedp.FromContext(browser).Browser)
	separate, err := target.CreateBrowserContext().WithDisposeOnDetach(true).Do(ex)
	if err != nil {
		t.Fatal(err)
	}
	id, err := target.CreateTarget("about:blank").WithBrowserContextID(separate).WithNewWindow(true).Do(ex)
	if err != nil {
		t.Fatal(err)
	}
	tab, cancel := chromedp.NewContext(browser, chromedp.WithTargetID(id))
	t.Cleanup(cancel)
	p := &page{ctx: tab, name: name, context: separate}
	p.run(t, first...)
	t.Cleanup(func() {
		if t.Failed() {
			p.tellFailure(t)
		}
	})
	return p
}

// run does something with the page.
func (p *page) run(t testing.TB, actions ...chromedp.Action) {
	t.Helper()
	if err := p.try(actions...); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}

func (p *page) try(actions ...chromedp.Action) error {
	// The first Run makes the tab, which then lives as long as the context it got.
	if chromedp.FromContext(p.ctx).Target == nil {
		if err := chromedp.Run(p.ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, pageTimeout)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// open loads an address from nothing, also where only what is behind "#" is new.
func (p *page) open(t testing.TB, url string) {
	t.Helper()
	p.run(t, chromedp.Navigate("about:blank"), chromedp.Navigate(url))
}

// follow changes what is behind "#", as a scanned link does on a page that is open.
func (p *page) follow(t testing.TB, link string) {
	t.Helper()
	_, behind, ok := strings.Cut(link, "#")
	if !ok {
		t.Fatalf("%s: nothing behind # in %q", p.name, link)
	}
	p.run(t, chromedp.Evaluate(fmt.Sprintf("location.hash = %q", behind), nil))
}

// text is what a person can read on the page.
func (p *page) text(t testing.TB) string {
	t.Helper()
	var s string
	p.run(t, chromedp.Evaluate("document.body ? document.body.innerText : ''", &s))
	return s
}

// waitText waits until the page says all of it, and returns the page's text.
func (p *page) waitText(t testing.TB, texts ...string) string {
	t.Helper()
	for end := time.Now().Add(pageTimeout); ; time.Sleep(100 * time.Millisecond) {
		said, missing := p.text(t), ""
		for _, text := range texts {
			if !strings.Contains(said, text) {
				missing = text
			}
		}
		if missing == "" {
			return said
		}
		if time.Now().After(end) {
			t.Fatalf("%s: the page does not say %q, but:\n%s", p.name, missing, said)
		}
	}
}

// click presses the button with this label, with the mouse: it has to be visible.
func (p *page) click(t testing.TB, label string) {
	t.Helper()
	p.run(t, chromedp.Click(fmt.Sprintf("//button[normalize-space(.)=%q]", label), chromedp.BySearch, chromedp.NodeVisible, chromedp.NodeEnabled))
}

// fill types into the field with this ID.
func (p *page) fill(t testing.TB, id, value string) {
	t.Helper()
	p.run(t, chromedp.Focus("#"+id, chromedp.ByQuery), chromedp.Evaluate(fmt.Sprintf("document.getElementById(%q).select()", id), nil), input.InsertText(value))
}

// eval runs a script, which may return a promise, and stores what comes out.
func (p *page) eval(t testing.TB, script string, out any) {
	t.Helper()
	p.run(t, awaited(script, out))
}

// seen takes a picture of the window and keeps it as an artefact.
func (p *page) seen(t testing.TB, name string) []byte {
	t.Helper()
	var shot []byte
	p.run(t, chromedp.CaptureScreenshot(&shot))
	keepPicture(t, p.name+"-"+name, shot)
	return shot
}

// seenWhole is seen with the whole page, also what is below the window's edge.
func (p *page) seenWhole(t testing.TB, name string) {
	t.Helper()
	var shot []byte
	p.run(t, chromedp.FullScreenshot(&shot, 100))
	keepPicture(t, p.name+"-"+name, shot)
}

// keepPicture writes an artefact to MPC_SCREENSHOTS, or to a folder that goes with the
// test.
func keepPicture(t testing.TB, name string, shot []byte) {
	t.Helper()
	dir := os.Getenv("MPC_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), shot, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tellFailure says how the page looked when the test failed.
func (p *page) tellFailure(t testing.TB) {
	var shot []byte
	var said, where string
	if err := p.try(chromedp.Location(&where), chromedp.Evaluate("document.body ? document.body.innerText : ''", &said), chromedp.CaptureScreenshot(&shot)); err != nil {
		t.Logf("%s: the page cannot be asked any more: %v", p.name, err)
		return
	}
	where, _, _ = strings.Cut(where, "#")
	t.Logf("%s at %s says:\n%s", p.name, where, said)
	keepPicture(t, p.name+"-failed", shot)
}

// readQR reads the QR code in a picture of a screen.
func readQR(shot []byte) (string, error) {
	picture, _, err := image.Decode(bytes.NewReader(shot))
	if err != nil {
		return "", err
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(picture)
	if err != nil {
		return "", err
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		return "", err
	}
	return result.GetText(), nil
}

// scan reads the code that the page shows, as a camera would.
func (p *page) scan(t testing.TB, name string) string {
	t.Helper()
	var err error
	for end := time.Now().Add(pageTimeout); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		shot := p.seen(t, name)
		var text string
		if text, err = readQR(shot); err == nil {
			return text
		}
	}
	t.Fatalf("%s: no QR code can be read from the screen: %v", p.name, err)
	return ""
}
