//go:build e2e

package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"image"
	"image/color"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/pquerna/otp/totp"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// terminalRequest is a request as mpckms prints it.
type terminalRequest struct {
	Request   string   `json:"request"`
	State     string   `json:"state"`
	Action    string   `json:"action"`
	Approvals int      `json:"approvals"`
	Quorum    int      `json:"quorum"`
	Approvers []string `json:"approvers"`
	Signature string   `json:"signature"`
	Answers   []struct {
		Approver  string            `json:"approver"`
		Decision  string            `json:"decision"`
		CheckedBy map[string]string `json:"checked_by"`
	} `json:"answers"`
	Result map[string]any `json:"result"`
}

// printedAs decodes what a command printed.
func printedAs[T any](t *testing.T, r e2e.Result) (doc T) {
	t.Helper()
	ok(t, r)
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return doc
}

// terminalAsker is a user with a Vault token of an entity.
type terminalAsker struct {
	*user
	token string
}

func (p *terminalAsker) asks(t *testing.T, args ...string) e2e.Result {
	t.Helper()
	return p.result(t, p.token, args)
}

// newTerminalAsker logs in with userpass; the token may do everything below the mount.
func newTerminalAsker(t *testing.T, e *engine, name string) *terminalAsker {
	t.Helper()
	sys := e.Client.Sys()
	auths, err := sys.ListAuth()
	if err != nil {
		t.Fatal(err)
	}
	if auths["askers/"] == nil {
		ok(t, e.CLI(t, "auth", "enable", "-path=askers", "userpass"))
	}
	if err := sys.PutPolicy("askers-"+e.path, `path "`+e.path+`/*" { capabilities = ["create", "read", "update", "delete", "list"] }`); err != nil {
		t.Fatal(err)
	}
	ok(t, e.CLI(t, "write", "auth/askers/users/"+name, "password=password of "+name, "policies=askers-"+e.path))
	s, err := e.Client.Logical().Write("auth/askers/login/"+name, map[string]any{"password": "password of " + name})
	if err != nil || s == nil || s.Auth == nil || s.Auth.EntityID == "" {
		t.Fatalf("logging in as %s: %v", name, err)
	}
	return &terminalAsker{newUser(t, e), s.Auth.ClientToken}
}

// terminalApprover is an approver's device: a home without a Vault token.
type terminalApprover struct {
	*user
	name string
	flag []string // that give the second factor
}

// newTerminalApprover stores an approver and enrols a device for it, with a certificate as
// the second factor where that is asked for.
func newTerminalApprover(t *testing.T, e *engine, name string, certificate bool) *terminalApprover {
	t.Helper()
	a := &terminalApprover{user: newUser(t, e, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent"), name: name}
	ok(t, a.admin(t, "approver", "create", name, "--no-entity"))
	link := printedAs[struct{ Link string }](t, a.admin(t, "approver", "enrol", name, "--label", "laptop", "-o", "json")).Link
	args := []string{"device", "enrol", link, "--name", "laptop", "-o", "json"}
	if certificate {
		cert, key := a.certificate(t)
		a.flag = []string{"--certificate", cert, "--key", key}
		args = append(args, a.flag...)
	}
	made := printedAs[struct {
		Code    string
		Factors []struct {
			KeyID string `json:"key_id"`
		}
	}](t, a.run(t, args...))
	// The link is used up.
	second := newUser(t, e, a.more...)
	refusedWith(t, second.run(t, "device", "enrol", link, "--name", "other"), 1, "link")
	wrong := "0000-0000"
	if made.Code == wrong {
		wrong = "1111-1111"
	}
	if r := a.admin(t, "approver", "confirm", name, "--code", wrong); r.Code != 1 {
		t.Errorf("a wrong code: exit %d: %s", r.Code, r.Stdout)
	}
	shown := a.admin(t, "approver", "confirm", name, "--code", made.Code)
	if shown.Code != 0 {
		// A second device with the link ends the enrolment: two have the link then.
		t.Logf("ended by the second device, as it should be: %s", shown.Stderr)
		link = printedAs[struct{ Link string }](t, a.admin(t, "approver", "enrol", name, "--label", "laptop", "-o", "json")).Link
		args[2], args[4] = link, "desk"
		made = printedAs[struct {
			Code    string
			Factors []struct {
				KeyID string `json:"key_id"`
			}
		}](t, a.run(t, args...))
		ok(t, a.admin(t, "approver", "confirm", name, "--code", made.Code))
		a.flag = append(a.flag, "--device", "desk")
	}
	ok(t, a.admin(t, "approver", "show", name), made.Factors[0].KeyID)
	return a
}

// certificate makes a certificate and its key in files.
func (a *terminalApprover) certificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: a.name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return a.file(t, "certificate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		a.file(t, "certificate.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
}

// codes are one-time codes, each used once.
type codes struct {
	secret string
	last   int64 // step that was used last
}

// next is a code that was not used, of a step that the engine takes: it allows one
// before and one after the present one.
func (c *codes) next(t *testing.T) string {
	t.Helper()
	step := max(c.last+1, time.Now().Unix()/30)
	await(t, "the step of the next one-time code", func() bool { return step <= time.Now().Unix()/30+1 })
	c.last = step
	code, err := totp.GenerateCode(c.secret, time.Unix(step*30, 0))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// withCodes gives the approver one-time codes.
func (a *terminalApprover) withCodes(t *testing.T) *codes {
	t.Helper()
	c := &codes{secret: printedAs[struct{ Secret string }](t, a.admin(t, "approver", "totp", a.name, "-o", "json")).Secret}
	ok(t, a.admin(t, "approver", "totp", a.name, "--confirm", c.next(t)))
	return c
}

// scan shows the code as a terminal does and reads it as a camera does.
func (p *terminalAsker) scan(t *testing.T, request string) string {
	t.Helper()
	r := p.asks(t, "request", "qr", request, "--once")
	ok(t, r)
	link := readTerminalCode(t, r.Stdout)
	if !strings.HasSuffix(r.Stdout, link+"\n") {
		t.Errorf("the code says %q, and the link below it is another:\n%s", link, r.Stdout)
	}
	return link
}

// readTerminalCode decodes a code of half blocks: on a dark terminal blocks are light.
func readTerminalCode(t *testing.T, printed string) string {
	t.Helper()
	const scale = 6
	var rows [][]rune
	for line := range strings.Lines(printed) {
		if line = strings.TrimRight(line, "\n"); line != "" && strings.Trim(line, "█▀▄ ") == "" {
			rows = append(rows, []rune(line))
		}
	}
	if len(rows) == 0 {
		t.Fatalf("no code in\n%s", printed)
	}
	img := image.NewGray(image.Rect(0, 0, len(rows[0])*scale, len(rows)*2*scale))
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			r, upper := rows[y/(2*scale)][x/scale], y%(2*scale) < scale
			if r == '█' || r == '▀' && upper || r == '▄' && !upper {
				img.SetGray(x, y, color.Gray{255})
			}
		}
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, printed)
	}
	return result.GetText()
}

// approves scans the present code and approves.
func (a *terminalApprover) approves(t *testing.T, p *terminalAsker, request string, more ...string) e2e.Result {
	t.Helper()
	return a.run(t, append(append([]string{"device", "approve", p.scan(t, request), "--yes", "-o", "json"}, a.flag...), more...)...)
}

// TestDeviceApprovals goes the terminal's way: a requester and two approvers with homes
// of their own, each mpckms a process, codes read from what the terminal shows.
func TestDeviceApprovals(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvals-cli", 3)
	// Longer than two processes need to start on a busy machine.
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200", "qr_period": "20s"})
	carol, dave := newTerminalAsker(t, e, "carol"), newTerminalAsker(t, e, "dave")
	alice, ben := newTerminalApprover(t, e, "alice", true), newTerminalApprover(t, e, "ben", false)
	once := ben.withCodes(t)
	code := func() []string { return []string{"--totp-file", ben.file(t, "code", once.next(t)+"\n")} }
	ok(t, carol.admin(t, "account", "create", "gold", "--algorithm", bip340, "--approver", "alice", "--approver", "ben", "--quorum", "2"))
	ok(t, carol.asks(t, "account", "policy", "show", "gold"), "2 of 2", "alice", "ben", "coordinator")

	t.Run("signature", func(t *testing.T) {
		r := carol.asks(t, "sign", "gold", "--input", "pay 5 to Bob", "--request-id", "order-7", "-o", "json")
		q := printedAs[terminalRequest](t, r)
		if q.State != "pending" || q.Quorum != 2 || q.Signature != "" || len(q.Approvers) != 2 || !strings.Contains(r.Stderr, "request qr "+q.Request) {
			t.Fatalf("%+v: %s", q, r.Stderr)
		}
		link := carol.scan(t, q.Request)
		if !strings.HasPrefix(link, "https://vault.example.com:8200/v1/approvals-cli/ui/phone#r="+q.Request) {
			t.Errorf("the link is %q", link)
		}
		shown := alice.run(t, append([]string{"device", "show", link}, deviceFlag(alice)...)...)
		ok(t, shown, "  | pay 5 to Bob", "NEW TO THIS DEVICE", "carol", "0 of 2")
		// One device uses a form once; and it is of no use to a stranger's device.
		refusedWith(t, alice.run(t, append([]string{"device", "approve", link, "--yes"}, alice.flag...)...), 1, "scan the present one")
		await(t, "the next form", func() bool { return carol.scan(t, q.Request) != link })
		done := printedAs[struct {
			Decision string
			Outcome  struct {
				State     string
				Approvals int
			}
		}](t, alice.approves(t, carol, q.Request))
		if done.Decision != "approved" || done.Outcome.Approvals != 1 || done.Outcome.State != "pending" {
			t.Errorf("%+v", done)
		}
		// Nobody counts twice, one factor is too few, and time over is no approval.
		refusedWith(t, carol.asks(t, "request", "wait", q.Request, "--timeout", "1s"), 1, "has not ended")
		refusedWith(t, ben.approves(t, carol, q.Request), 1, "totp")
		await(t, "the next form", func() bool { return carol.scan(t, q.Request) != link })
		// The refusal above used a form up for ben.
		var given e2e.Result
		await(t, "a form that ben has not used", func() bool {
			given = ben.approves(t, carol, q.Request, code()...)
			return given.Code == 0 || !strings.Contains(given.Stderr, "scan the present one")
		})
		ok(t, given, `"decision": "approved"`)
		signed := printedAs[terminalRequest](t, carol.asks(t, "request", "wait", q.Request, "--timeout", "1m", "-o", "json"))
		signature, _ := signed.Result["signature"].(string)
		if signed.State != "signed" || signature == "" || len(signed.Answers) != 2 {
			t.Fatalf("%+v", signed)
		}
		for _, a := range signed.Answers {
			if a.CheckedBy["device"] != "nodes" || a.Approver == "alice" && a.CheckedBy["certificate"] != "nodes" || a.Approver == "ben" && a.CheckedBy["totp"] != "coordinator" {
				t.Errorf("%+v", a)
			}
		}
		ok(t, carol.asks(t, "account", "verify", "gold", "--input", "pay 5 to Bob", "--signature", signature))
		// The same command again has the signature; somebody else does not.
		again := printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", "pay 5 to Bob", "--request-id", "order-7", "-o", "json"))
		if again.Signature != signature {
			t.Errorf("the same request ID answers %+v", again)
		}
		if other := printedAs[terminalRequest](t, dave.asks(t, "request", "show", q.Request, "-o", "json")); other.Result != nil {
			t.Error("somebody else has the result")
		}
	})

	t.Run("refused", func(t *testing.T) {
		q := printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", "pay 6 to Eve", "-o", "json"))
		refusedWith(t, dave.asks(t, "request", "qr", q.Request, "--once"), 1, "403")
		ok(t, alice.run(t, append([]string{"device", "refuse", carol.scan(t, q.Request)}, deviceFlag(alice)...)...), "was refused by you")
		refusedWith(t, carol.asks(t, "request", "wait", q.Request), 1, "is refused")
		// Nothing is left to answer.
		refusedWith(t, carol.asks(t, "request", "qr", q.Request, "--once"), 1, "refused")
	})

	t.Run("cancelled", func(t *testing.T) {
		q := printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", "x", "-o", "json"))
		link := carol.scan(t, q.Request)
		ok(t, carol.asks(t, "request", "cancel", q.Request), "cancelled")
		refusedWith(t, alice.run(t, append([]string{"device", "show", link}, deviceFlag(alice)...)...), 1, "cancelled")
		ok(t, carol.asks(t, "request", "list", "--account", "gold", "--state", "cancelled"), q.Request)
	})

	t.Run("nobody", func(t *testing.T) {
		refusedWith(t, carol.admin(t, "sign", "gold", "--input", "x"), 1, "entity")
		stranger := newTerminalApprover(t, e, "mallory", true)
		q := printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", "y", "-o", "json"))
		refusedWith(t, stranger.approves(t, carol, q.Request), 1, "not for this device")
		ok(t, carol.asks(t, "request", "cancel", q.Request))
	})

	t.Run("policy", func(t *testing.T) {
		before := printedAs[map[string]any](t, carol.asks(t, "account", "policy", "show", "gold", "-o", "json"))
		q := printedAs[terminalRequest](t, carol.asks(t, "account", "policy", "set", "gold", "--approver", "alice", "--approver", "ben", "--quorum", "1", "-o", "json"))
		if q.Action != "policy" || q.State != "pending" {
			t.Fatalf("%+v", q)
		}
		r := alice.approves(t, carol, q.Request)
		ok(t, r, `"- 2 of 2 approvers"`, `"+ 1 of 2 approvers"`)
		ok(t, ben.approves(t, carol, q.Request, code()...))
		done := printedAs[terminalRequest](t, carol.asks(t, "request", "wait", q.Request, "--timeout", "1m", "-o", "json"))
		after := printedAs[map[string]any](t, carol.asks(t, "account", "policy", "show", "gold", "-o", "json"))
		if done.State != "signed" || after["policy_hash"] == before["policy_hash"] || after["quorum"] != 1.0 {
			t.Errorf("%+v, %v", done, after)
		}
		// It is in force: one approval is enough, and --wait has the signature.
		q = printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", "z", "-o", "json"))
		r = alice.approves(t, carol, q.Request)
		ok(t, r, `"policy_changed": true`)
		ok(t, carol.asks(t, "request", "wait", q.Request), "Signature hex")
	})
}

// deviceFlag is --device where a home has several.
func deviceFlag(a *terminalApprover) []string {
	for i, f := range a.flag {
		if f == "--device" {
			return a.flag[i : i+2]
		}
	}
	return nil
}
