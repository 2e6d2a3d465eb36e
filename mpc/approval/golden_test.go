package approval_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// The golden files hold inputs and the bytes that they become. Policies are in
// accounts' public records and statements in people's signatures, so no encoding may
// change; and the web page's mirror of the encodings is held to the same files. The
// keys are test keys and public. Everything is hex unless it is text.
const goldenDir = "../../testdata/golden/approval-v1"

var writeGolden = flag.Bool("write-golden", false, "make golden files that are not there yet; existing ones are never changed")

// hexed is a byte string that JSON shows in hex.
type hexed []byte

func (h hexed) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

type (
	goldenKey struct {
		Kind       approval.Kind `json:"kind"`
		Name       string        `json:"name"`
		Public     hexed         `json:"public"`
		RPID       string        `json:"rp_id"`
		Origins    []string      `json:"origins"`
		Credential hexed         `json:"credential"`
		ID         string        `json:"id"`
	}
	goldenApprover struct {
		ID         string          `json:"id"`
		Name       string          `json:"name"`
		Requesters []string        `json:"requesters"`
		Keys       []goldenKey     `json:"keys"`
		Checked    []approval.Kind `json:"checked"`
	}
	goldenPolicy struct {
		Quorum           int              `json:"quorum"`
		Factors          int              `json:"factors"`
		SignatureFactors int              `json:"signature_factors"`
		ExpirySeconds    int64            `json:"expiry_seconds"`
		Since            uint64           `json:"since"`
		Approvers        []goldenApprover `json:"approvers"`
		Bytes            hexed            `json:"bytes"`
		Hash             hexed            `json:"hash"`
	}
	goldenStatement struct {
		Action         approval.Action   `json:"action"`
		Decision       approval.Decision `json:"decision"`
		Approver       string            `json:"approver"`
		MountID        hexed             `json:"mount_id"`
		AccountID      hexed             `json:"account_id"`
		PublicKey      hexed             `json:"public_key"`
		Request        string            `json:"request"`
		Requester      string            `json:"requester"`
		RequesterName  string            `json:"requester_name"`
		Algorithm      mpc.Algorithm     `json:"algorithm"`
		MessageType    mpc.MessageType   `json:"message_type"`
		HashAlgorithm  mpc.HashAlgorithm `json:"hash_algorithm"`
		Input          hexed             `json:"input"` // Message is its SHA-256
		Message        hexed             `json:"message"`
		DerivationPath string            `json:"derivation_path"`
		TaprootTweak   string            `json:"taproot_tweak"`
		Policy         hexed             `json:"policy"`
		NextPolicy     hexed             `json:"next_policy"`
		Epoch          uint64            `json:"epoch"`
		Expires        int64             `json:"expires"`

		Bytes              hexed             `json:"bytes"`
		Hash               hexed             `json:"hash"`
		DeviceMessage      hexed             `json:"device_message"`
		CertificateMessage hexed             `json:"certificate_message"`
		Signatures         []goldenSignature `json:"signatures"`
	}
	goldenSignature struct {
		Kind              approval.Kind `json:"kind"`
		Key               string        `json:"key"`
		Signature         hexed         `json:"signature"`
		AuthenticatorData hexed         `json:"authenticator_data"`
		ClientData        string        `json:"client_data"`
	}
	goldenBundle struct {
		Request       string        `json:"request"`
		Requester     string        `json:"requester"`
		RequesterName string        `json:"requester_name"`
		Expires       int64         `json:"expires"`
		Given         []goldenGiven `json:"given"`
		Bytes         hexed         `json:"bytes"`
	}
	goldenGiven struct {
		Approver   string            `json:"approver"`
		Signatures []goldenSignature `json:"signatures"`
	}
	goldenForms struct {
		Seed          hexed        `json:"seed"`
		Request       string       `json:"request"`
		LinkBase      string       `json:"link_base"`
		CreatedUnixMS int64        `json:"created_unix_ms"`
		PeriodMS      int64        `json:"period_ms"`
		Forms         []goldenForm `json:"forms"`
		ProgressProof hexed        `json:"progress_proof"`
	}
	goldenForm struct {
		NowUnixMS int64  `json:"now_unix_ms"`
		Number    uint64 `json:"number"`
		Form      hexed  `json:"form"`
		Link      string `json:"link"`
	}
	goldenOpen struct {
		MountID   hexed  `json:"mount_id"`
		Request   string `json:"request"`
		Form      hexed  `json:"form"`
		Key       string `json:"key"`
		Time      int64  `json:"time"`
		Bytes     hexed  `json:"bytes"`
		Signature hexed  `json:"signature"`
	}
	goldenEnrolment struct {
		MountID   hexed       `json:"mount_id"`
		Enrolment string      `json:"enrolment"`
		Approver  string      `json:"approver"`
		Keys      []goldenKey `json:"keys"`
		Bytes     hexed       `json:"bytes"`
		Code      string      `json:"code"`
		Signature hexed       `json:"signature"`
	}
)

// fixed are the people of the golden files: their keys follow from their names.
func fixed(t *testing.T, name string, kinds ...approval.Kind) *approvaltest.Approver {
	t.Helper()
	sum := sha256.Sum256([]byte("approver " + name))
	a := &approvaltest.Approver{Approver: approval.Approver{ID: approval.ID(sum[:16]), Name: name}}
	for _, kind := range kinds {
		curve := elliptic.P256()
		size := 32
		if kind == approval.Certificate {
			curve, size = elliptic.P384(), 48
		}
		scalar := sha256.Sum256([]byte(name + " " + string(kind)))
		private, err := ecdsa.ParseRawPrivateKey(curve, append(make([]byte, size-32), scalar[:]...))
		if err != nil {
			t.Fatal(err)
		}
		a.Add(t, kind, private)
	}
	return a
}

func fixedBytes(what string, n int) []byte {
	sum := sha256.Sum256([]byte(what))
	return sum[:n]
}

func TestGolden(t *testing.T) {
	zoe := fixed(t, "Zoë Ünal", approval.Device, approval.Passkey, approval.Certificate)
	zoe.Requesters = []string{"entity:1b2c", "identity:" + hex.EncodeToString(fixedBytes("identity", 16))}
	zoe.Checked = []approval.Kind{approval.TOTP, approval.Login}
	bob := fixed(t, "bob", approval.Device, approval.Passkey)
	bob.Requesters = []string{"none"}
	p := approvaltest.Policy(t, 2, zoe, bob)
	p.SignatureFactors, p.Expiry, p.Since = 2, 90*time.Second, 300
	hash := p.Hash()

	mount := [16]byte(fixedBytes("mount", 16))
	request := approval.ID(fixedBytes("request", 16))
	record := &mpc.PublicRecord{AccountID: mpc.AccountID(fixedBytes("account", 16)), Algorithm: mpc.ECDSASecp256k1,
		PublicKey: append([]byte{2}, fixedBytes("public key", 32)...), PolicyHash: hash, Epoch: 7}
	ask := func(s approval.Subject) approval.Subject {
		s.Request, s.Requester, s.RequesterName, s.Expires = request, "entity:9f", "Frédéric, treasury", 1_900_000_000
		return s
	}
	text := []byte("pay 5 € to alice\n")
	sign := ask(approval.SignSubject(mount, record, text, mpc.MessageRaw, mpc.HashSHA256, mpc.Derivation{Path: "m/0/7"}))
	bip := *record
	bip.Algorithm, bip.PublicKey = mpc.BIP340Secp256k1, fixedBytes("x only", 32)
	digest := fixedBytes("a digest", 32)
	taproot := ask(approval.SignSubject(mount, &bip, digest, mpc.MessageDigest, mpc.HashNone, mpc.Derivation{TaprootTweak: "bip86"}))
	after := *p
	after.Quorum, after.Since = 1, 301
	next := ask(approval.PolicySubject(mount, record, &after))
	empty := ask(approval.SignSubject(mount, record, nil, mpc.MessageRaw, mpc.HashKeccak256, mpc.Derivation{}))
	empty.RequesterName = ""

	goldenFile(t, "policy", goldenPolicyOf(p))
	goldenFile(t, "statements", []goldenStatement{
		statementOf(t, sign, approval.Approve, zoe, text),
		statementOf(t, sign, approval.Refuse, zoe, text),
		statementOf(t, sign, approval.Approve, bob, text),
		statementOf(t, taproot, approval.Approve, bob, digest),
		statementOf(t, next, approval.Approve, zoe, nil),
		statementOf(t, empty, approval.Approve, bob, []byte{}),
	})
	b := approvaltest.Bundle(&sign, zoe.Give(t, &sign, approval.Device, approval.Passkey, approval.Certificate), bob.Give(t, &sign))
	gb := goldenBundle{Request: b.Request.String(), Requester: b.Requester, RequesterName: b.RequesterName, Expires: b.Expires, Bytes: b.Marshal()}
	for i, g := range b.Given {
		gb.Given = append(gb.Given, goldenGiven{g.Approver.String(), signaturesOf([]*approvaltest.Approver{zoe, bob}[i], g.Signatures)})
	}
	goldenFile(t, "bundle", gb)

	seed := fixedBytes("seed", approval.SeedSize)
	created, period := time.UnixMilli(1_800_000_000_123), 2*time.Second
	proof := approval.ProgressProof(seed, request)
	forms := goldenForms{Seed: seed, Request: request.String(), LinkBase: "https://vault.example.com/v1/mpc/ui/phone",
		CreatedUnixMS: created.UnixMilli(), PeriodMS: period.Milliseconds(), ProgressProof: proof[:]}
	for _, ms := range []int64{-5000, 0, 1999, 2000, 3999, 600_000, 1 << 41} {
		now := created.Add(time.Duration(ms) * time.Millisecond)
		n := approval.Period(created, now, period)
		f := approval.FormAt(seed, request, n)
		forms.Forms = append(forms.Forms, goldenForm{now.UnixMilli(), n, f[:], approval.Link(forms.LinkBase, request, f)})
	}
	goldenFile(t, "forms", forms)

	form := approval.FormAt(seed, request, 1)
	device := zoe.Of(t, approval.Device)
	open := approval.OpenMessage(mount, request, form, device.ID(), 1_800_000_003)
	goldenFile(t, "open", goldenOpen{mount[:], request.String(), form[:], device.ID().String(), 1_800_000_003, open,
		approvaltest.SignRaw(t, zoe.Private(t, device.ID()), open)})

	enrolment := approval.ID(fixedBytes("enrolment", 16))
	enrol := approval.EnrolMessage(mount, enrolment, zoe.ID, zoe.Keys)
	alone := zoe.Keys[:1]
	goldenFile(t, "enrolments", []goldenEnrolment{
		{mount[:], enrolment.String(), zoe.ID.String(), keysOf(zoe.Keys), enrol, approval.EnrolCode(mount, enrolment, zoe.ID, zoe.Keys),
			approvaltest.SignRaw(t, zoe.Private(t, device.ID()), enrol)},
		{mount[:], enrolment.String(), zoe.ID.String(), keysOf(alone), approval.EnrolMessage(mount, enrolment, zoe.ID, alone),
			approval.EnrolCode(mount, enrolment, zoe.ID, alone),
			approvaltest.SignRaw(t, zoe.Private(t, device.ID()), approval.EnrolMessage(mount, enrolment, zoe.ID, alone))},
	})

	// The files are not only what this program writes: it reads and accepts them.
	read, err := approval.ParsePolicy(p.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := approval.ParseBundle(b.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	asked := approval.SignSubject(mount, record, text, mpc.MessageRaw, mpc.HashSHA256, mpc.Derivation{Path: "m/0/7"})
	approvers, err := approval.Verify(read, asked, bundle, time.Unix(sign.Expires-1, 0))
	if err != nil || !slices.Equal(approvers, []approval.ID{zoe.ID, bob.ID}) {
		t.Fatalf("approvers %v, %v", approvers, err)
	}
}

// goldenFile compares v with a golden file, byte for byte.
func goldenFile(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join(goldenDir, name+".json")
	want, err := os.ReadFile(path)
	if os.IsNotExist(err) && *writeGolden {
		if err := os.MkdirAll(goldenDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		a, b := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
		for i := range min(len(a), len(b)) {
			if !bytes.Equal(a[i], b[i]) {
				t.Errorf("%s has changed at line %d: an encoding is not what signatures were made over\n now %s\n was %s", path, i+1, a[i], b[i])
				return
			}
		}
		t.Errorf("%s has %d lines, it had %d", path, len(a), len(b))
	}
}

func keysOf(keys []approval.Key) (out []goldenKey) {
	for i := range keys {
		k := &keys[i]
		out = append(out, goldenKey{k.Kind, k.Name, k.Public, k.RPID, append([]string{}, k.Origins...), k.Credential, k.ID().String()})
	}
	return out
}

func goldenPolicyOf(p *approval.Policy) goldenPolicy {
	hash := p.Hash()
	g := goldenPolicy{Quorum: p.Quorum, Factors: p.Factors, SignatureFactors: p.SignatureFactors, ExpirySeconds: int64(p.Expiry / time.Second), Since: p.Since, Bytes: p.Marshal(), Hash: hash[:]}
	for _, a := range p.Approvers {
		g.Approvers = append(g.Approvers, goldenApprover{a.ID.String(), a.Name, a.Requesters, keysOf(a.Keys), append([]approval.Kind{}, a.Checked...)})
	}
	return g
}

func statementOf(t *testing.T, s approval.Subject, d approval.Decision, a *approvaltest.Approver, input []byte) goldenStatement {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	st := &approval.Statement{Subject: s, Decision: d, Approver: a.ID}
	hash := st.Hash()
	g := goldenStatement{Action: s.Action, Decision: d, Approver: a.ID.String(), MountID: s.Mount[:], AccountID: s.Account[:], PublicKey: s.PublicKey,
		Request: s.Request.String(), Requester: s.Requester, RequesterName: s.RequesterName, Algorithm: s.Algorithm, MessageType: s.MessageType,
		HashAlgorithm: s.Hash, Input: input, Message: s.Message[:], DerivationPath: s.DerivationPath, TaprootTweak: s.TaprootTweak,
		Policy: s.Policy[:], NextPolicy: s.NextPolicy[:], Epoch: s.Epoch, Expires: s.Expires,
		Bytes: st.Marshal(), Hash: hash[:], DeviceMessage: st.DeviceMessage(), CertificateMessage: st.CertificateMessage()}
	var signatures []approval.Signature
	for i := range a.Keys {
		signatures = append(signatures, a.SignWith(t, &a.Keys[i], st))
		if err := a.Keys[i].Verify(st, &signatures[i]); err != nil {
			t.Errorf("%s: %v", a.Keys[i].Name, err)
		}
	}
	g.Signatures = signaturesOf(a, signatures)
	return g
}

func signaturesOf(a *approvaltest.Approver, signatures []approval.Signature) (out []goldenSignature) {
	for _, s := range signatures {
		out = append(out, goldenSignature{a.Key(s.Key).Kind, s.Key.String(), s.Signature, s.AuthenticatorData, string(s.ClientData)})
	}
	return out
}
