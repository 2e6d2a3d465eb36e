//go:build e2e

package e2e_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/eip712"
)

// fact is what the page has beside a name, without the gaps between groups.
func fact(name string) string {
	return fmt.Sprintf("[...document.querySelectorAll('dt')].find((e) => e.textContent === %q)?.nextElementSibling.textContent", name)
}

// stopped: the request can be refused and not approved, whatever is done to the button.
func (s *screens) stopped(f *fakeApprovals) {
	s.t.Helper()
	s.run(shows("cannot be approved here"), until("[...document.querySelectorAll('button')].some((b) => b.textContent === 'Refuse' && !b.disabled)"))
	var disabled bool
	s.run(chromedp.Evaluate("(() => { const b = [...document.querySelectorAll('button')].find((b) => b.textContent === 'Approve'); const was = b.disabled; b.disabled = false; b.click(); b.disabled = was; return was; })()", &disabled))
	s.run(chromedp.Evaluate("new Promise((done) => setTimeout(done, 300))", nil))
	f.mu.Lock()
	given := len(f.given)
	f.mu.Unlock()
	if !disabled || given != 0 {
		s.t.Errorf("Approve is disabled: %v, approvals given: %d", disabled, given)
	}
	s.run(press("Refuse"), press("Yes, refuse"), titled("You refused"))
}

// TestPageStops: what the page cannot read, or what the server has another digest for
// than the page computes, is not approved there; it can be refused.
func TestPageStops(t *testing.T) {
	f := newFakeApprovals(t)
	server := servePages(t, f)
	site := localServer(server)
	s := newScreens(t, openTab(t, harness.StartBrowser(t).WebSocket))
	s.enrolDevice(f, site)
	phone := site + "/v1/mpc/ui/phone"
	claim := func(digest *string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.claim = digest
	}

	digest, err := eip712.Digest([]byte(typedData))
	if err != nil {
		t.Fatal(err)
	}
	own, other, none := hex.EncodeToString(digest[:]), strings.Repeat("5e", 32), ""
	for name, named := range map[string]*string{"the server's digest": nil, "no digest of the server's": &none} {
		claim(named)
		f.ask(typedData, mpc.MessageEIP712, mpc.HashKeccak256)
		s.run(goTo(phone+f.form()), titled("Sign this?"), until(fact("Digest")+" === "+fmt.Sprintf("%q", own)))
		s.run(press("Approve"), titled("You approved"))
		if len(f.given) != 1 {
			t.Errorf("%s: %d approvals", name, len(f.given))
		}
	}

	claim(&other)
	for _, c := range []struct {
		input string
		kind  mpc.MessageType
		hash  mpc.HashAlgorithm
	}{
		{typedData, mpc.MessageEIP712, mpc.HashKeccak256}, {"hello", mpc.MessageEIP191, mpc.HashKeccak256}, {"hello", mpc.MessageRaw, mpc.HashSHA256}, {strings.Repeat("\x5a", 32), mpc.MessageDigest, mpc.HashNone},
	} {
		f.ask(c.input, c.kind, c.hash)
		s.run(goTo(phone+f.form()), titled("Sign this?"), shows("The server names another digest"), shows("The server says another one: "+other))
		if c.kind == mpc.MessageEIP712 {
			s.run(until(fact("Digest") + ".startsWith(" + fmt.Sprintf("%q", own) + ")"))
			s.shoot("phone-other-digest", [2]int64{390, 844}, [2]int64{320, 640})
		}
		s.stopped(f)
	}

	// A hostile server names its digest of what it wants signed, and shows a document
	// that readers take apart in different ways.
	replace := func(old, with string) string { return strings.Replace(typedData, old, with, 1) }
	for _, c := range []struct{ input, why string }{
		{replace(`"amount":"250000000000000000"`, `"amount":"1","amount":"250000000000000000"`), "“message.amount” is there twice."},
		{replace(`"amount":"250000000000000000"`, `"amount":250000000000000001`), "beyond 2^53"},
		{replace(`"amount":"250000000000000000"`, `"amount":"1","fee":"250000000000000000"`), "“message.fee” is not expected here."},
		{replace(`"memo":"Invoice 1042"`, `"memo":"Invoice 1042`), "not JSON"},
		{replace(`"chainId","type":"uint256"`, `"chainId","type":"uint64"`), "“types.EIP712Domain.chainId” must have the type uint256."},
		{"Pay \xff\xfe", "not UTF-8"},
		{replace(`"message":{`, `"message":{"\u202emoc.elpmaxe":1,`), `\u{202e}moc.elpmaxe`},
	} {
		for _, named := range []*string{nil, &other} {
			claim(named)
			f.ask(c.input, mpc.MessageEIP712, mpc.HashKeccak256)
			s.run(goTo(phone+f.form()), titled("Sign this?"), shows("This page cannot work out what would be signed"), shows(c.why), shows("not readable"))
			if strings.Contains(c.why, "twice") && named == nil {
				s.shoot("phone-unreadable", [2]int64{390, 844}, [2]int64{320, 640})
			}
			s.stopped(f)
		}
	}
	claim(nil)
	f.ask("hello", mpc.MessageRaw, mpc.HashAlgorithm("md5"))
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("in a way that this page does not know"))
	s.stopped(f)
	f.ask(typedData, mpc.MessageEIP712, mpc.HashKeccak256)
	f.mu.Lock()
	f.subject.Algorithm = mpc.ECDSAP256
	f.mu.Unlock()
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("signs no messages of this type"))
	s.stopped(f)

	// Lists in lists and long values fit on the smallest screen.
	nested := `{"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"salt","type":"bytes32"}],"Node":[{"name":"label","type":"string"},{"name":"children","type":"Node[]"}],"Batch":[{"name":"root","type":"Node"},{"name":"limits","type":"int256[2][]"},{"name":"data","type":"bytes"},{"name":"empty","type":"string"},{"name":"on","type":"bool"},{"name":"flags","type":"uint8"}]},"primaryType":"Batch","domain":{"name":"Deep","salt":"0x` + strings.Repeat("a1", 32) + `"},` +
		`"message":{"root":` + strings.Repeat(`{"label":"a level","children":[`, 10) + strings.Repeat(`]}`, 10) + `,"limits":[["-57896044618658097711785492504343953926634992332820282019728792003956564819968","1"],[-42,1000000]],"data":"0x` + strings.Repeat("c0ffee", 90) + `","empty":"","on":true,"flags":"0x1f"}}`
	f.ask(nested, mpc.MessageEIP712, mpc.HashKeccak256)
	s.run(goTo(phone+f.form()), titled("Sign this?"), shows("In message.root.children[0].children[0]"), shows("an empty text"), shows("31 written as 0x1f"), shows("-57896044618658097711785492504343953926634992332820282019728792003956564819968"))
	s.shoot("phone-nested", [2]int64{320, 2400}, [2]int64{390, 844})

	// A broken link: the line that says so covers nothing.
	s.run(goTo(phone+"#r=broken"), titled("Ready to approve"), until("document.getElementById('status').textContent.includes('not complete')"))
	s.shoot("phone-broken-link", [2]int64{390, 844}, [2]int64{320, 640}, [2]int64{1280, 800})
	s.run(until("document.getElementById('status').getBoundingClientRect().height > 20 && document.getElementById('status').getBoundingClientRect().bottom <= document.querySelector('h1').getBoundingClientRect().top"))
	s.run(press("Scan a code"), until("document.getElementById('status').textContent === ''"))
}
