//go:build e2e

package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// enrollee is an approver's device in software, as it is before it is enrolled. It
// has no Vault token.
type enrollee struct {
	api        apiCaller
	device     *ecdsa.PrivateKey
	passkey    *ecdsa.PrivateKey // nil for none
	credential []byte
	rpID       string
}

func newEnrollee(t testing.TB, e *engine, passkey bool) *enrollee {
	t.Helper()
	d := &enrollee{api: outside(t, e), device: p256Key(t), credential: make([]byte, 32)}
	if passkey {
		d.passkey = p256Key(t)
		if _, err := rand.Read(d.credential); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func p256Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func publicInfo(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// keys are what the device offers.
func (d *enrollee) keys(t testing.TB) []approval.Key {
	t.Helper()
	keys := []approval.Key{{Kind: approval.Device, Public: publicInfo(t, d.device)}}
	if d.passkey != nil {
		keys = append(keys, approval.Key{Kind: approval.Passkey, Public: publicInfo(t, d.passkey), RPID: d.rpID, Credential: d.credential})
	}
	return keys
}

// registration is what a browser's authenticator returns for a new passkey: client
// data, and an attestation object of kind none (WebAuthn Level 3, sections 5.8.1, 6.5).
func (d *enrollee) registration(t testing.TB, challenge, origin string) (attestation, clientData []byte) {
	t.Helper()
	clientData, err := json.Marshal(map[string]any{"type": "webauthn.create", "challenge": challenge, "origin": origin, "crossOrigin": false})
	if err != nil {
		t.Fatal(err)
	}
	rp := sha256.Sum256([]byte(d.rpID))
	data := append(rp[:], 0x45, 0, 0, 0, 0)  // user present and verified, key included; counter
	data = append(data, make([]byte, 16)...) // AAGUID
	data = append(binary.BigEndian.AppendUint16(data, uint16(len(d.credential))), d.credential...)
	point := publicInfo(t, d.passkey)
	point = point[len(point)-64:]
	// COSE key in CBOR: {1: 2, 3: -7, -1: 1, -2: x, -3: y}.
	data = append(append(data, 0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32), point[:32]...)
	data = append(append(data, 0x22, 0x58, 32), point[32:]...)
	attestation = append([]byte("\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData"), 0x59)
	return append(binary.BigEndian.AppendUint16(attestation, uint16(len(data))), data...), clientData
}

// link is an enrolment as the device's owner gets it.
type enrolLink struct{ enrolment, secret, origin string }

func (l enrolLink) body() map[string]any {
	return map[string]any{"enrolment": l.enrolment, "secret": l.secret}
}

// opensLink reads a link as a device does.
func opensLink(t testing.TB, e *engine, approver string) enrolLink {
	t.Helper()
	out := e.write(t, "approvers/"+approver+"/enrol", map[string]any{"label": "phone", "ttl": "5m"})
	link := out["link"].(string)
	page, behind, ok := strings.Cut(link, "#")
	origin, isPage := strings.CutSuffix(page, "/v1/"+e.path+"/ui/phone")
	if !ok || !isPage || behind != "e="+out["enrolment"].(string)+"&s="+out["secret"].(string) {
		t.Fatalf("the link is %s", link)
	}
	return enrolLink{out["enrolment"].(string), out["secret"].(string), origin}
}

// offer is what the device sends last, and the code that it shows.
func (d *enrollee) offer(t testing.TB, l enrolLink) (body map[string]any, code string) {
	t.Helper()
	var begun struct {
		ApproverID string `json:"approver_id"`
		MountID    string `json:"mount_id"`
		RPID       string `json:"rp_id"`
		Challenge  string `json:"challenge"`
	}
	if err := d.api.Call(t.Context(), keyholder.Write, "approve/enrol", l.body(), &begun); err != nil {
		t.Fatal(err)
	}
	d.rpID = begun.RPID
	raw, err := hex.DecodeString(begun.MountID)
	if err != nil || len(raw) != 16 {
		t.Fatalf("%+v: %v", begun, err)
	}
	enrolment, err1 := approval.ParseID(l.enrolment)
	approver, err2 := approval.ParseID(begun.ApproverID)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	keys := d.keys(t)
	message := approval.EnrolMessage([16]byte(raw), enrolment, approver, keys)
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, d.device, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	body = l.body()
	body["device"] = map[string]any{"name": "phone", "public": b64(keys[0].Public), "signature": b64(signature)}
	if d.passkey != nil {
		attestation, clientData := d.registration(t, begun.Challenge, l.origin)
		body["passkey"] = map[string]any{"attestation_object": b64(attestation), "client_data_json": b64(clientData), "transports": []string{"internal"}}
	}
	return body, approval.EnrolCode([16]byte(raw), enrolment, approver, keys)
}

// state asks how the enrolment stands.
func (d *enrollee) state(t testing.TB, l enrolLink) string {
	t.Helper()
	var out struct {
		State string `json:"state"`
	}
	if err := d.api.Call(t.Context(), keyholder.Write, "approve/enrol/state", l.body(), &out); err != nil {
		t.Fatal(err)
	}
	return out.State
}

func (d *enrollee) finishes(t testing.TB, body map[string]any) {
	t.Helper()
	if err := d.api.Call(t.Context(), keyholder.Write, "approve/enrol/finish", body, nil); err != nil {
		t.Fatal(err)
	}
}

// TestApprovers: devices are enrolled over Vault's HTTP API without a Vault token,
// across a restart of the plugin, and nobody comes in whom the code does not confirm.
func TestApprovers(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvers", 2)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200"})
	e.refuse(t, "config/ui", map[string]any{"public_url": "http://127.0.0.1:8200"}, http.StatusBadRequest, "IP address")
	e.refuse(t, "approvers/alice", nil, http.StatusBadRequest, "not said who the approver is")
	e.write(t, "approvers/alice", map[string]any{"entity_ids": "7d2e3179-f69b-450c-7179-ac8ee8bd8ca9"})

	phone, l := newEnrollee(t, e, true), opensLink(t, e, "alice")
	// Without a token nothing else of approvers is to be had.
	err := phone.api.Call(t.Context(), keyholder.Read, "approvers/alice", nil, nil)
	refusedBy(t, "reading an approver without a token", err, http.StatusForbidden, "")
	for _, wrong := range []enrolLink{
		{strings.Repeat("00", 16), l.secret, ""},
		{l.enrolment, base64.RawURLEncoding.EncodeToString(make([]byte, 32)), ""},
	} {
		err := phone.api.Call(t.Context(), keyholder.Write, "approve/enrol", wrong.body(), nil)
		refusedBy(t, "a wrong link", err, http.StatusForbidden, "there is no such enrolment, or its time is over, or the secret is not right")
	}
	body, code := phone.offer(t, l)
	e.reload(t) // in the middle
	phone.finishes(t, body)
	if s := phone.state(t, l); s != "offered" {
		t.Errorf("it is %s", s)
	}
	e.reload(t)
	wrong := "0000-0000"
	if code == wrong {
		wrong = "0000-0001"
	}
	e.refuse(t, "approvers/alice/confirm", map[string]any{"code": wrong}, http.StatusForbidden, "2 more are taken")
	out := e.write(t, "approvers/alice/confirm", map[string]any{"code": code})
	var ids []string
	for _, f := range out["factors"].([]any) {
		ids = append(ids, f.(map[string]any)["key_id"].(string))
	}
	var want []string
	for _, k := range phone.keys(t) {
		want = append(want, k.ID().String())
	}
	if !slices.Equal(ids, want) {
		t.Errorf("the factors are %v, the device has %v", ids, want)
	}
	if s := phone.state(t, l); s != "confirmed" {
		t.Errorf("it is %s", s)
	}

	// Somebody else uses the link first: both sides are told, and neither is enrolled.
	l = opensLink(t, e, "alice")
	thief, second := newEnrollee(t, e, true), newEnrollee(t, e, false)
	stolen, code := thief.offer(t, l)
	own, _ := second.offer(t, l)
	thief.finishes(t, stolen)
	err = second.api.Call(t.Context(), keyholder.Write, "approve/enrol/finish", own, nil)
	refusedBy(t, "the second to use a link", err, http.StatusConflict, "WARNING: another device has used this link")
	e.refuse(t, "approvers/alice/confirm", map[string]any{"code": code}, http.StatusConflict, "WARNING")

	// A one-time code beside it.
	made := e.write(t, "approvers/alice/totp", nil)
	now, err := totp.GenerateCode(made["secret"].(string), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	out = e.write(t, "approvers/alice/totp/confirm", map[string]any{"code": now})
	if state := out["totp"].(map[string]any)["state"]; state != "confirmed" {
		t.Errorf("one-time codes are %v", state)
	}
	got := e.read(t, "approvers/alice")
	for _, secret := range []string{made["secret"].(string), l.secret} {
		if text, _ := json.Marshal(got); strings.Contains(string(text), secret) {
			t.Error("reading an approver shows a secret")
		}
	}
	e.cli(t, 0, "delete", e.path+"/approvers/alice/factors/"+ids[1])
	if left := e.read(t, "approvers/alice")["factors"].([]any); len(left) != 1 {
		t.Errorf("left are %v", left)
	}

	// Who is an identity confirms in a session of it.
	a, keys := enrolFrom(t, e, "carol", password("correct horse"), keyholder.RegisterOptions{})
	founds(t, e, "carol-home", a, keys, "mail")
	e.write(t, "approvers/carol", map[string]any{"identity": "carol-home"})
	laptop, l := newEnrollee(t, e, false), opensLink(t, e, "carol")
	body, code = laptop.offer(t, l)
	laptop.finishes(t, body)
	e.refuse(t, "approvers/carol/confirm", map[string]any{"code": code}, http.StatusForbidden, "its owner confirms after logging in")
	s := logIn(t, outside(t, e), "carol", password("correct horse"))
	if err := s.Call(t.Context(), keyholder.Write, "approvers/carol/confirm", map[string]any{"code": code}, nil); err != nil {
		t.Error(err)
	}
	refusedBy(t, "another's approver", s.Call(t.Context(), keyholder.Read, "approvers/alice", nil, nil), http.StatusForbidden, "may not do that")
	if s := laptop.state(t, l); s != "confirmed" {
		t.Errorf("it is %s", s)
	}
	e.remove(t, "approvers/alice")
	e.gone(t, "approvers/alice")
}
