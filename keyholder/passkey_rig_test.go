package keyholder

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"
)

// softBrowser is a person's browser with one authenticator: it goes to the page and
// does what its script would do. Tests change how it goes wrong.
type softBrowser struct {
	t       testing.TB
	key     *ecdsa.PrivateKey
	prf     []byte // key of the PRF
	id      []byte
	change  func(b *softBrowser, t *passkeyTask, a map[string]any) // the answer, before it is sent
	cross   bool
	origin  string // in place of the page's
	site    string // in place of the task's
	flags   byte
	format  string
	visited []string
	status  int // of the answer
}

func newSoftBrowser(t testing.TB) *softBrowser {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &softBrowser{t: t, key: key, prf: random(32).Expose(), id: random(20).Expose(), flags: 0x05, format: "none"}
}

// browse is what the system's browser does with an address. It only says what failed
// through its error: it may be called in any goroutine.
func (b *softBrowser) browse(address string) error {
	b.visited = append(b.visited, address)
	for _, file := range []string{"", "page.js", "page.css"} {
		if _, err := fetch(address + file); err != nil {
			return err
		}
	}
	raw, err := fetch(address + "task")
	if err != nil {
		return err
	}
	task := &passkeyTask{}
	if err := json.Unmarshal(raw, task); err != nil {
		return err
	}
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	task.Origin = "http://" + u.Host
	answer, err := b.answer(task)
	if err != nil {
		return err
	}
	if raw, err = json.Marshal(answer); err != nil {
		return err
	}
	b.status, err = post(address+"answer", task.Origin, raw)
	return err
}

func fetch(address string) ([]byte, error) {
	resp, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") || resp.Header.Get("Cache-Control") != "no-store" {
		return nil, fmt.Errorf("%s is answered with %s, %v", address, resp.Status, resp.Header)
	}
	return io.ReadAll(resp.Body)
}

func post(address, origin string, body []byte) (status int, err error) {
	req, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", origin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// answer makes the passkey, if it is to be made, and uses it.
func (b *softBrowser) answer(task *passkeyTask) (map[string]any, error) {
	site, origin := task.Site, task.Origin
	if b.site != "" {
		site = b.site
	}
	if b.origin != "" {
		origin = b.origin
	}
	a := map[string]any{"credential": b.id}
	clientData := func(kind string, challenge []byte) []byte {
		raw, _ := json.Marshal(map[string]any{"type": kind, "challenge": base64.RawURLEncoding.EncodeToString(challenge), "origin": origin, "crossOrigin": b.cross})
		return raw
	}
	rp := sha256.Sum256([]byte(site))
	if task.Make {
		x, y := make([]byte, 32), make([]byte, 32)
		b.key.X.FillBytes(x)
		b.key.Y.FillBytes(y)
		cose, err := webauthncbor.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: x, -3: y})
		if err != nil {
			return nil, err
		}
		data := append(bytes.Clone(rp[:]), b.flags|0x40, 0, 0, 0, 0)
		data = binary.BigEndian.AppendUint16(append(data, make([]byte, 16)...), uint16(len(b.id)))
		data = append(append(data, b.id...), cose...)
		attestation, err := webauthncbor.Marshal(map[string]any{"fmt": b.format, "attStmt": map[string]any{}, "authData": data})
		if err != nil {
			return nil, err
		}
		a["attestation"], a["make_client_data"] = attestation, clientData("webauthn.create", task.MakeChallenge)
	}
	data, client := append(bytes.Clone(rp[:]), b.flags, 0, 0, 0, 1), clientData("webauthn.get", task.UseChallenge)
	sum := sha256.Sum256(client)
	digest := sha256.Sum256(append(bytes.Clone(data), sum[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, b.key, digest[:])
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, b.prf)
	mac.Write(task.Salt)
	a["authenticator_data"], a["client_data"], a["signature"], a["output"] = data, client, signature, mac.Sum(nil)
	if b.change != nil {
		b.change(b, task, a)
	}
	return a, nil
}
