package backend

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

const (
	testPublicURL = "https://vault.example.com:8200"
	testEntity    = "7d2e3179-f69b-450c-7179-ac8ee8bd8ca9"
)

// phone is an approver's device in software: a device key, and where they are there
// a passkey and the key of a certificate.
type phone struct {
	m           *mount
	device      *ecdsa.PrivateKey
	passkey     *softPasskey
	certificate crypto.Signer
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spki(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signRaw is r‖s, 64 bytes, over SHA-256.
func signRaw(t testing.TB, k *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// softPasskey is an authenticator in software. Its fields may be changed to play one
// that misbehaves.
type softPasskey struct {
	key        *ecdsa.PrivateKey
	credential []byte
	rpID       string
	origin     string
	kind       string // of the ceremony
	cross      bool
	flags      byte
	format     string
	cose       map[int]any // nil: that of key
}

func newPasskey(t testing.TB, u *uiRecord) *softPasskey {
	t.Helper()
	return &softPasskey{key: p256(t), credential: randomBytes(32), rpID: u.RPID, origin: u.PublicURL, kind: "webauthn.create", flags: 0x45, format: "none"}
}

// coseKey is the public key as authenticators write it.
func (p *softPasskey) coseKey() map[int]any {
	if p.cose != nil {
		return p.cose
	}
	x, y := make([]byte, 32), make([]byte, 32)
	p.key.X.FillBytes(x)
	p.key.Y.FillBytes(y)
	return map[int]any{1: 2, 3: -7, -1: 1, -2: x, -3: y}
}

// register returns attestation object and client data for a challenge.
func (p *softPasskey) register(t testing.TB, challenge string) (attestation, clientData []byte) {
	t.Helper()
	clientData, err := json.Marshal(map[string]any{"type": p.kind, "challenge": challenge, "origin": p.origin, "crossOrigin": p.cross})
	if err != nil {
		t.Fatal(err)
	}
	cose, err := webauthncbor.Marshal(p.coseKey())
	if err != nil {
		t.Fatal(err)
	}
	rp := sha256.Sum256([]byte(p.rpID))
	data := append(rp[:], p.flags, 0, 0, 0, 0)
	data = append(data, make([]byte, 16)...) // AAGUID
	data = binary.BigEndian.AppendUint16(data, uint16(len(p.credential)))
	data = append(append(data, p.credential...), cose...)
	attestation, err = webauthncbor.Marshal(map[string]any{"fmt": p.format, "attStmt": map[string]any{}, "authData": data})
	if err != nil {
		t.Fatal(err)
	}
	return attestation, clientData
}

// key is the passkey as the device names it.
func (p *softPasskey) approvalKey(t testing.TB) approval.Key {
	t.Helper()
	return approval.Key{Kind: approval.Passkey, Public: spki(t, &p.key.PublicKey), RPID: p.rpID, Credential: p.credential}
}

// keys are all that the device has, as it offers them.
func (p *phone) keys() []approval.Key {
	p.m.t.Helper()
	out := []approval.Key{{Kind: approval.Device, Public: spki(p.m.t, &p.device.PublicKey)}}
	if p.passkey != nil {
		out = append(out, p.passkey.approvalKey(p.m.t))
	}
	if p.certificate != nil {
		out = append(out, approval.Key{Kind: approval.Certificate, Public: spki(p.m.t, p.certificate.Public())})
	}
	return out
}

// opened is an enrolment as the link has it.
type openedLink struct {
	enrolment, secret string
}

func (l openedLink) body() map[string]any {
	return map[string]any{"enrolment": l.enrolment, "secret": l.secret}
}

// opens opens an enrolment for an approver.
func (m *mount) opensEnrolment(name string) openedLink {
	m.t.Helper()
	out := m.must(logical.UpdateOperation, "approvers/"+name+"/enrol", map[string]any{"label": "phone"})
	return openedLink{out["enrolment"].(string), out["secret"].(string)}
}

func idOf(t testing.TB, text string) (id approval.ID) {
	t.Helper()
	id, err := approval.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// offer is the body of approve/enrol/finish, after approve/enrol, and the code that
// the device has computed.
func (p *phone) offer(l openedLink) (body map[string]any, code string) {
	p.m.t.Helper()
	begun := p.m.must(logical.UpdateOperation, "approve/enrol", l.body())
	return p.offerFor(l, begun)
}

func (p *phone) offerFor(l openedLink, begun map[string]any) (body map[string]any, code string) {
	p.m.t.Helper()
	t := p.m.t
	var mount [16]byte
	raw, err := hex.DecodeString(begun["mount_id"].(string))
	if err != nil || copy(mount[:], raw) != 16 {
		t.Fatalf("mount_id %v: %v", begun["mount_id"], err)
	}
	enrolment, approver, keys := idOf(t, l.enrolment), idOf(t, begun["approver_id"].(string)), p.keys()
	message := approval.EnrolMessage(mount, enrolment, approver, keys)
	body = l.body()
	body["device"] = map[string]any{"name": "Alice's phone", "public": b64(keys[0].Public), "signature": b64(signRaw(t, p.device, message))}
	if p.passkey != nil {
		attestation, clientData := p.passkey.register(t, begun["challenge"].(string))
		body["passkey"] = map[string]any{
			"name": "passkey", "attestation_object": base64.RawURLEncoding.EncodeToString(attestation),
			"client_data_json": base64.RawURLEncoding.EncodeToString(clientData), "transports": []any{"internal", "hybrid"},
		}
	}
	if p.certificate != nil {
		sum := sha256.Sum256(message)
		signature, err := p.certificate.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		body["certificate"] = map[string]any{"name": "card", "public": b64(spki(t, p.certificate.Public())), "signature": b64(signature)}
	}
	return body, approval.EnrolCode(mount, enrolment, approver, keys)
}

// enrols does all of it, and returns what the approver has then.
func (p *phone) enrols(name string) map[string]any {
	p.m.t.Helper()
	l := p.m.opensEnrolment(name)
	body, code := p.offer(l)
	out := p.m.must(logical.UpdateOperation, "approve/enrol/finish", body)
	if out["code"] != code {
		p.m.t.Fatalf("the server says code %v, the device %s", out["code"], code)
	}
	return p.m.must(logical.UpdateOperation, "approvers/"+name+"/confirm", map[string]any{"code": code})
}

// enrolmentState asks as a device does.
func (m *mount) enrolmentState(l openedLink) string {
	m.t.Helper()
	return m.must(logical.UpdateOperation, "approve/enrol/state", l.body())["state"].(string)
}

// approvable is a mount with a page and the approver alice.
func approvable(t *testing.T) *mount {
	t.Helper()
	m := configured(t)
	m.must(logical.UpdateOperation, "config/ui", map[string]any{"public_url": testPublicURL})
	m.must(logical.UpdateOperation, "approvers/alice", map[string]any{"entity_ids": testEntity})
	return m
}

func (m *mount) testUI() *uiRecord {
	m.t.Helper()
	u, err := m.b.ui(m.t.Context())
	m.ok(err)
	return u
}

// newPhone has a device key and a passkey.
func (m *mount) newPhone() *phone {
	m.t.Helper()
	return &phone{m: m, device: p256(m.t), passkey: newPasskey(m.t, m.testUI())}
}

// statusOfSend is the status and text of a write.
func (m *mount) statusOfSend(path string, data map[string]any) (int, string) {
	m.t.Helper()
	_, status, msg := m.send(path, data)
	return status, msg
}
