package approver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/secret"
)

// now is the device's clock in these tests.
var now = time.Unix(1_800_000_000, 0)

// ring is a Keyring in memory.
type ring map[string][]byte

func (r ring) Set(name string, s *secret.Bytes) error {
	r[name] = bytes.Clone(s.Expose())
	return nil
}

func (r ring) Get(name string) (*secret.Bytes, error) {
	if r[name] == nil {
		return nil, errors.New("no such key")
	}
	return secret.Copy(r[name]), nil
}

func (r ring) Delete(name string) error {
	delete(r, name)
	return nil
}

// server is an honest one: it does what the engine documents, with one approver and
// one account. lie changes an answer before it is sent.
type server struct {
	t        *testing.T
	mount    [16]byte
	approver approval.ID
	keys     []approval.Key // enrolled
	facts    map[string]any // of the request that approve/open answers
	lie      func(map[string]any)
	link     string

	opened   map[string]any
	answered map[string]any
	enrolled map[string]any
}

func (s *server) Post(_ context.Context, path string, in map[string]any, out any) error {
	// As over the wire.
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var body map[string]any
	if err := json.Unmarshal(raw, &body); err != nil {
		return err
	}
	var answer map[string]any
	switch path {
	case "approve/enrol":
		answer = map[string]any{"approver": "alice", "approver_id": s.approver.String(), "mount_id": hex.EncodeToString(s.mount[:])}
	case "approve/enrol/finish":
		s.enrolled = body
		answer = map[string]any{"code": "0000-0000"}
	case "approve/open":
		s.opened = body
		answer = map[string]any{}
		for k, v := range s.facts {
			answer[k] = v
		}
	case "approve/answer":
		s.answered = body
		answer = map[string]any{"state": "approved", "approvals": 1, "quorum": 1}
	default:
		return fmt.Errorf("no path %q", path)
	}
	if s.lie != nil {
		s.lie(answer)
	}
	if raw, err = json.Marshal(answer); err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// rig is an enrolled device with a request that waits for it.
type rig struct {
	*server
	ring    ring
	device  *approver.Device
	policy  *approval.Policy
	record  mpc.PublicRecord
	input   []byte
	certKey *certificate
}

type certificate struct{ private *ecdsa.PrivateKey }

func newCertificate(t *testing.T) *certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &certificate{k}
}

func (c *certificate) Public() any { return &c.private.PublicKey }

func (c *certificate) SignSHA256(_ context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, c.private, sum[:])
}

func id(first byte) (out approval.ID) {
	for i := range out {
		out[i] = first + byte(i)
	}
	return out
}

var requestID = id(0x50)

func newRig(t *testing.T) *rig {
	t.Helper()
	s := &server{t: t, mount: id(0x10), approver: id(0x20)}
	r := &rig{server: s, ring: ring{}, certKey: newCertificate(t)}
	invitation, err := approver.ParseInvitation("mpc:#e=" + id(0x30).String() + "&s=" + base64.RawURLEncoding.EncodeToString([]byte("secret of the link")))
	if err != nil {
		t.Fatal(err)
	}
	r.device, err = approver.Enrol(t.Context(), s, r.ring, approver.Enrolment{Invitation: invitation, Name: "laptop", Certificate: r.certKey, CertificateName: "card"}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.device.Keys {
		s.keys = append(s.keys, approval.Key{Kind: k.Kind, Name: k.Name, Public: k.Public})
	}
	r.policy = &approval.Policy{Quorum: 1, Factors: 2, SignatureFactors: 1, Expiry: 10 * time.Minute, Approvers: []approval.Approver{{
		ID: s.approver, Name: "alice", Requesters: []string{"entity:alice"}, Keys: s.keys, Checked: []approval.Kind{approval.TOTP},
	}}}
	if err := r.policy.Check(); err != nil {
		t.Fatal(err)
	}
	r.record = mpc.PublicRecord{AccountID: mpc.AccountID(id(0x40)), Algorithm: mpc.ECDSASecp256k1, PublicKey: append([]byte{2}, bytes.Repeat([]byte{7}, 32)...), PolicyHash: r.policy.Hash()}
	r.input = []byte("pay 5 to Bob")
	digest := sha256.Sum256(r.input)
	r.facts = map[string]any{
		"ticket": "dGlja2V0", "request": requestID.String(), "approver_id": s.approver.String(), "mount_id": hex.EncodeToString(s.mount[:]),
		"account_id": r.record.AccountID.String(), "account": "gold", "public_key": hex.EncodeToString(r.record.PublicKey),
		"algorithm": string(r.record.Algorithm), "action": "sign", "message_type": "raw", "hash_algorithm": "sha2-256",
		"input": base64.StdEncoding.EncodeToString(r.input), "derivation_path": "m/0/7", "taproot_tweak": "",
		"requester": "entity:carol", "requester_name": "carol", "expires": now.Add(5 * time.Minute).Unix(),
		"policy": base64.StdEncoding.EncodeToString(r.policy.Marshal()), "digest": hex.EncodeToString(digest[:]), "approvals": 0,
	}
	r.link = approval.Link("mpc:", requestID, approval.FormAt(bytes.Repeat([]byte{9}, approval.SeedSize), requestID, 3))
	return r
}

func (r *rig) open(t *testing.T) (*approver.Request, error) {
	t.Helper()
	return r.device.Open(t.Context(), r.server, r.ring, approver.Opening{Link: r.link}, now)
}

// subject is what nodes work out by themselves.
func (r *rig) subject() approval.Subject {
	u := approval.SignSubject(r.mount, &r.record, r.input, mpc.MessageRaw, mpc.HashSHA256, mpc.Derivation{Path: "m/0/7"})
	u.Request, u.Requester, u.RequesterName, u.Expires = requestID, "entity:carol", "carol", now.Add(5*time.Minute).Unix()
	return u
}

// given reads what approve/answer was sent.
func (r *rig) given(t *testing.T) approval.Given {
	t.Helper()
	g := approval.Given{Approver: r.approver}
	for _, s := range r.answered["signatures"].([]any) {
		fields := s.(map[string]any)
		key, err := approval.ParseID(fields["key"].(string))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := base64.StdEncoding.DecodeString(fields["signature"].(string))
		if err != nil {
			t.Fatal(err)
		}
		g.Signatures = append(g.Signatures, approval.Signature{Key: key, Signature: raw})
	}
	return g
}

// What is enrolled can be checked by the server, and the code is computed here.
func TestEnrol(t *testing.T) {
	r := newRig(t)
	device := r.enrolled["device"].(map[string]any)
	signature, err := base64.StdEncoding.DecodeString(device["signature"].(string))
	if err != nil {
		t.Fatal(err)
	}
	message := approval.EnrolMessage(r.mount, id(0x30), r.approver, r.keys)
	if !r.keys[0].VerifyOpen(message, signature) {
		t.Error("the device's signature over the enrolment does not verify")
	}
	card := r.enrolled["certificate"].(map[string]any)
	raw, err := base64.StdEncoding.DecodeString(card["signature"].(string))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(&r.certKey.private.PublicKey, sum[:], raw) {
		t.Error("the certificate's signature over the enrolment does not verify")
	}
	if want := approval.EnrolCode(r.mount, id(0x30), r.approver, r.keys); r.device.Code != want {
		t.Errorf("code %s, want %s: the server's is not to be believed", r.device.Code, want)
	}
	// The record is public: nothing in it is the key.
	record, err := json.Marshal(r.device)
	if err != nil {
		t.Fatal(err)
	}
	private := r.ring["laptop"]
	for _, form := range []string{hex.EncodeToString(private), base64.StdEncoding.EncodeToString(private), "secret of the link"} {
		if len(private) != 32 || bytes.Contains(record, []byte(form)) {
			t.Fatal("the device's record holds a secret")
		}
	}
	if err := r.device.Check(); err != nil {
		t.Error(err)
	}
	// A second device of the name does not replace the key.
	if _, err := approver.Enrol(t.Context(), r.server, r.ring, approver.Enrolment{Name: "laptop"}, now); err == nil || !bytes.Equal(r.ring["laptop"], private) {
		t.Errorf("enrolled over another device: %v", err)
	}
}

// An enrolment that the server does not take leaves no key.
func TestEnrolFails(t *testing.T) {
	r := ring{}
	s := failing{&server{t: t, mount: id(1), approver: id(2)}}
	invitation, err := approver.ParseInvitation("https://vault/v1/mpc/ui/phone#e=" + id(3).String() + "&s=AAAA")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := approver.Enrol(t.Context(), s, r, approver.Enrolment{Invitation: invitation, Name: "x"}, now); !errors.Is(err, errRefused) {
		t.Errorf("%v", err)
	}
	if len(r) != 0 {
		t.Error("a key stayed")
	}
	if got := fmt.Sprintf("%v %+v %#v %s", invitation, invitation, invitation, invitation); strings.Contains(got, "AAAA") {
		t.Error("the invitation prints its secret")
	}
}

var errRefused = errors.New("refused")

type failing struct{ *server }

func (f failing) Post(ctx context.Context, path string, in map[string]any, out any) error {
	if path == "approve/enrol/finish" {
		return errRefused
	}
	return f.server.Post(ctx, path, in, out)
}

// What the device signs is what nodes check by themselves.
func TestApprove(t *testing.T) {
	for name, f := range map[string]approver.Factors{"code": {TOTP: "123456"}, "certificate": {}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if name == "certificate" {
				f.Certificate = r.certKey
			}
			q, err := r.open(t)
			if err != nil {
				t.Fatal(err)
			}
			// The server learns who opens it from the device's key.
			signature, err := base64.StdEncoding.DecodeString(r.opened["signature"].(string))
			if err != nil {
				t.Fatal(err)
			}
			_, form, err := approval.ParseLink(r.link)
			if err != nil {
				t.Fatal(err)
			}
			if !r.keys[0].VerifyOpen(approval.OpenMessage(r.mount, requestID, form, r.keys[0].ID(), now.Unix()), signature) {
				t.Error("the signature over the opening does not verify")
			}
			if q.Known || q.PolicyChanged || q.Account != "gold" || !bytes.Equal(q.Input, r.input) || q.Left(now) != 5*time.Minute {
				t.Errorf("%+v", q)
			}
			if !reflect.DeepEqual(q.Subject, r.subject()) {
				t.Errorf("the device would sign\n%+v\nand nodes check\n%+v", q.Subject, r.subject())
			}
			out, err := q.Approve(t.Context(), r.server, r.ring, f, now)
			if err != nil || out.State != "approved" {
				t.Fatalf("%+v, %v", out, err)
			}
			b := &approval.Bundle{Request: requestID, Requester: "entity:carol", RequesterName: "carol", Expires: now.Add(5 * time.Minute).Unix(), Given: []approval.Given{r.given(t)}}
			if _, err := approval.Verify(r.policy, r.subject(), b, now); err != nil {
				t.Errorf("nodes refuse it: %v", err)
			}
			if code, _ := r.answered["totp"].(string); code != f.TOTP {
				t.Errorf("the code that was sent is %q", code)
			}
			// Now it is known.
			if q, err = r.open(t); err != nil || !q.Known {
				t.Errorf("%+v, %v", q, err)
			}
		})
	}
}

// A refusal is signed by the device alone, and is none that counts as an approval.
func TestRefuse(t *testing.T) {
	r := newRig(t)
	q, err := r.open(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Refuse(t.Context(), r.server, r.ring, now); err != nil {
		t.Fatal(err)
	}
	g := r.given(t)
	if r.answered["decision"] != "refuse" || len(g.Signatures) != 1 {
		t.Fatalf("%v", r.answered)
	}
	for decision, want := range map[approval.Decision]bool{approval.Refuse: true, approval.Approve: false} {
		st := approval.Statement{Subject: r.subject(), Decision: decision, Approver: r.approver}
		if err := r.keys[0].Verify(&st, &g.Signatures[0]); (err == nil) != want {
			t.Errorf("as %s: %v", decision, err)
		}
	}
}

// Too few kinds of factors, kinds that the policy does not take, and a certificate that
// it does not have are noticed before anything is sent.
func TestFactors(t *testing.T) {
	r := newRig(t)
	for name, f := range map[string]approver.Factors{
		"device alone": {}, "a login that the policy does not take": {LoggedIn: true}, "another certificate": {Certificate: newCertificate(t)},
	} {
		q, err := r.open(t)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Approve(t.Context(), r.server, r.ring, f, now); err == nil || r.answered != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	q, err := r.open(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Approve(t.Context(), r.server, r.ring, approver.Factors{TOTP: "1"}, now.Add(6*time.Minute)); err == nil || r.answered != nil {
		t.Errorf("approved after the end: %v", err)
	}
	// Not the device's own key any more.
	other := newRig(t)
	r.ring["laptop"] = other.ring["laptop"]
	if _, err := q.Approve(t.Context(), r.server, r.ring, approver.Factors{TOTP: "1"}, now); err == nil || r.answered != nil {
		t.Errorf("signed with another key: %v", err)
	}
}
