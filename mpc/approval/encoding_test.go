package approval_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

func signRSA(t *testing.T, private *rsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	s, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// passkeyMessage is what an authenticator signs (WebAuthn, section 6.3.3).
func passkeyMessage(s *approval.Signature) []byte {
	sum := sha256.Sum256(s.ClientData)
	return append(bytes.Clone(s.AuthenticatorData), sum[:]...)
}

// TestPolicyBytes: no byte of a policy can be changed, taken away or added without
// another hash or a refusal: every encoding that is read is the only one.
func TestPolicyBytes(t *testing.T) {
	p := approvaltest.Policy(t, 1, approvaltest.New(t, "ann"), approvaltest.New(t, "bob"))
	b := p.Marshal()
	one := func(in []byte) {
		t.Helper()
		got, err := approval.ParsePolicy(in)
		if err == nil && (!bytes.Equal(got.Marshal(), in) || got.Hash() == p.Hash()) {
			t.Errorf("%x is read as something else", in)
		}
	}
	for i := range b {
		for _, bit := range []byte{1, 0x80} {
			in := bytes.Clone(b)
			in[i] ^= bit
			one(in)
		}
		one(b[:i])
	}
	one(append(bytes.Clone(b), 0))
	one(make([]byte, approval.MaxPolicy+1))
}

func TestBundleBounds(t *testing.T) {
	full := func() *approval.Bundle {
		b := &approval.Bundle{Request: approvaltest.RandomID(), Requester: "entity:" + strings.Repeat("x", 505), RequesterName: strings.Repeat("n", 128), Expires: 253402300799}
		for range approval.MaxApprovers {
			g := approval.Given{Approver: approvaltest.RandomID()}
			for range 3 {
				g.Signatures = append(g.Signatures, approval.Signature{Key: approvaltest.RandomID(), Signature: make([]byte, 1024), AuthenticatorData: make([]byte, 1024), ClientData: make([]byte, 2048)})
			}
			b.Given = append(b.Given, g)
		}
		return b
	}
	b := full()
	if back, err := approval.ParseBundle(b.Marshal()); err != nil || !reflect.DeepEqual(back, b) {
		t.Fatalf("the largest bundle that its parts allow, %d bytes: %v", len(b.Marshal()), err)
	}
	for name, spoil := range map[string]func(b *approval.Bundle){
		"an approver more":        func(b *approval.Bundle) { b.Given = append(b.Given, b.Given[0]) },
		"a signature more":        func(b *approval.Bundle) { b.Given[3].Signatures = append(b.Given[3].Signatures, approval.Signature{}) },
		"a longer signature":      func(b *approval.Bundle) { b.Given[3].Signatures[1].Signature = make([]byte, 1025) },
		"more authenticator data": func(b *approval.Bundle) { b.Given[3].Signatures[1].AuthenticatorData = make([]byte, 1025) },
		"more client data":        func(b *approval.Bundle) { b.Given[3].Signatures[1].ClientData = make([]byte, 2049) },
		"a later end":             func(b *approval.Bundle) { b.Expires++ },
		"an end before 1970":      func(b *approval.Bundle) { b.Expires = -1 },
		"a longer requester":      func(b *approval.Bundle) { b.Requester += "x" },
		"a longer name":           func(b *approval.Bundle) { b.RequesterName += "x" },
		"broken UTF-8":            func(b *approval.Bundle) { b.RequesterName = "\xff" },
	} {
		b := full()
		spoil(b)
		if _, err := approval.ParseBundle(b.Marshal()); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	for _, in := range [][]byte{nil, {}, {0, 0, 0, 0}, b.Marshal()[1:], append(b.Marshal(), 0), make([]byte, approval.MaxBundle+1), approvaltest.Policy(t, 1, approvaltest.New(t, "ann")).Marshal()} {
		if _, err := approval.ParseBundle(in); err == nil {
			t.Errorf("%d bytes that are no bundle are read", len(in))
		}
	}
}

// TestStatementsDiffer: no field of a statement can be another without another hash,
// nor can what stands at the end of one field be at the start of the next.
func TestStatementsDiffer(t *testing.T) {
	r := newRig(t)
	st := approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
	st.Subject.DerivationPath, st.Subject.TaprootTweak = "m/0", "bip86"
	seen := map[[32]byte]string{st.Hash(): "itself"}
	add := func(name string, st approval.Statement) {
		t.Helper()
		if was, ok := seen[st.Hash()]; ok {
			t.Errorf("%s has the hash of %s", name, was)
		}
		seen[st.Hash()] = name
	}
	v := reflect.TypeOf(st.Subject)
	for i := range v.NumField() {
		other := st
		other.Subject.PublicKey = bytes.Clone(st.Subject.PublicKey)
		f := reflect.ValueOf(&other.Subject).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "x")
		case reflect.Array, reflect.Slice:
			f.Index(0).SetUint(f.Index(0).Uint() ^ 1)
		case reflect.Uint64:
			f.SetUint(f.Uint() + 1)
		case reflect.Int64:
			f.SetInt(f.Int() + 1)
		default:
			t.Fatalf("field %s is of kind %s", v.Field(i).Name, f.Kind())
		}
		add(v.Field(i).Name, other)
	}
	other := st
	other.Decision = approval.Refuse
	add("decision", other)
	other = st
	other.Approver[0] ^= 1
	add("approver", other)
	other = st
	other.Subject.DerivationPath, other.Subject.TaprootTweak = "m/0b", "ip86"
	add("moved border", other)
}

func TestLink(t *testing.T) {
	id, form := approvaltest.RandomID(), approval.FormAt(make([]byte, 32), approval.ID{1}, 2)
	for _, base := range []string{"https://vault.example.com/v1/mpc/ui/phone", "mpc:", ""} {
		gotID, gotForm, err := approval.ParseLink(approval.Link(base, id, form))
		if err != nil || gotID != id || gotForm != form {
			t.Errorf("%q: %v", base, err)
		}
	}
	whole := approval.Link("", id, form)
	for name, link := range map[string]string{
		"nothing": "", "no form": "#r=" + id.String(), "no request": strings.Replace(whole, "r=", "q=", 1),
		"a capital": strings.Replace(whole, id.String(), "A"+id.String()[1:], 1), "two requests": whole + "&r=" + id.String(), "two forms": whole + whole[strings.Index(whole, "&"):],
		"padded": whole + "==", "cut off": whole[:len(whole)-1], "longer": whole + "A", "bits left over": whole[:len(whole)-1] + "B", "too long": whole + "&x=" + strings.Repeat("x", 2048),
	} {
		if _, _, err := approval.ParseLink(link); err == nil {
			t.Errorf("%s: %s is read", name, link)
		}
	}
}

func TestPeriod(t *testing.T) {
	created := time.Unix(1000, 0)
	for ms, want := range map[int64]uint64{-5000: 0, -1: 0, 0: 0, 1: 0, 1999: 0, 2000: 1, 3999: 1, 4000: 2} {
		if got := approval.Period(created, created.Add(time.Duration(ms)*time.Millisecond), 2*time.Second); got != want {
			t.Errorf("after %d ms it is period %d", ms, got)
		}
	}
	if approval.Period(created, created.Add(time.Hour), 0) != 0 {
		t.Error("a period of no length")
	}
}

// TestOpen: what a device signs to see a request is nothing else, and only device
// keys sign it.
func TestOpen(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	k := ann.Of(t, approval.Device)
	mount, id := [16]byte{1}, approvaltest.RandomID()
	message := approval.OpenMessage(mount, id, approval.Form{2}, k.ID(), 3)
	s := approvaltest.SignRaw(t, ann.Private(t, k.ID()), message)
	if !k.VerifyOpen(message, s) {
		t.Fatal("not verified")
	}
	for name, other := range map[string][]byte{
		"mount":   approval.OpenMessage([16]byte{2}, id, approval.Form{2}, k.ID(), 3),
		"request": approval.OpenMessage(mount, approval.ID{1}, approval.Form{2}, k.ID(), 3),
		"form":    approval.OpenMessage(mount, id, approval.Form{3}, k.ID(), 3),
		"key":     approval.OpenMessage(mount, id, approval.Form{2}, approval.ID{}, 3),
		"time":    approval.OpenMessage(mount, id, approval.Form{2}, k.ID(), 4),
	} {
		if k.VerifyOpen(other, s) {
			t.Errorf("another %s verifies", name)
		}
	}
	card := ann.Of(t, approval.Certificate)
	if card.VerifyOpen(message, approvaltest.SignRaw(t, ann.Private(t, card.ID()), message)) {
		t.Error("the key of a certificate opens")
	}
	if k.VerifyOpen(message, s[:63]) || k.VerifyOpen(message, append(bytes.Clone(s), 0)) || k.VerifyOpen(message, nil) {
		t.Error("a signature of another length")
	}
}

// TestEnrolCode: the order of keys does not matter, everything else does.
func TestEnrolCode(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	mount, enrolment := [16]byte{1}, approval.ID{2}
	code := approval.EnrolCode(mount, enrolment, ann.ID, ann.Keys)
	if len(code) != 9 || code[4] != '-' {
		t.Errorf("code %q", code)
	}
	turned := []approval.Key{ann.Keys[2], ann.Keys[0], ann.Keys[1]}
	if approval.EnrolCode(mount, enrolment, ann.ID, turned) != code {
		t.Error("the order of keys changes the code")
	}
	for name, other := range map[string]string{
		"mount":     approval.EnrolCode([16]byte{2}, enrolment, ann.ID, ann.Keys),
		"enrolment": approval.EnrolCode(mount, approval.ID{3}, ann.ID, ann.Keys),
		"approver":  approval.EnrolCode(mount, enrolment, approval.ID{4}, ann.Keys),
		"fewer":     approval.EnrolCode(mount, enrolment, ann.ID, ann.Keys[:2]),
		"others":    approval.EnrolCode(mount, enrolment, ann.ID, approvaltest.New(t, "ann").Keys),
	} {
		if other == code { // by chance once in 10⁸
			t.Errorf("another %s has the same code", name)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	p := approvaltest.Policy(f, 1, approvaltest.New(f, "ann"))
	f.Add(p.Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := approval.ParsePolicy(in)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), in) || p.Hash() != sha256.Sum256(in) || p.Check() != nil || p.Quorum < 1 || p.Factors < 2 || p.SignatureFactors < 1 {
			t.Errorf("%x is read as %+v", in, p)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	r := newRig(f)
	f.Add(r.bundle.Marshal())
	f.Add(binary.BigEndian.AppendUint32(nil, 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := approval.ParseBundle(in)
		if err != nil {
			return
		}
		if !bytes.Equal(b.Marshal(), in) {
			t.Errorf("%x is read as %+v", in, b)
		}
		// What nobody signed approves nothing: that is, whatever is not the rig's.
		if _, err := approval.Verify(r.policy, r.built(), b, r.now); err == nil && (b.Request != r.bundle.Request || b.Requester != r.bundle.Requester || b.RequesterName != r.bundle.RequesterName || b.Expires != r.bundle.Expires) {
			t.Errorf("%x is accepted", in)
		}
	})
}

func FuzzParseLink(f *testing.F) {
	f.Add("https://vault.example.com/v1/mpc/ui/phone#r=00112233445566778899aabbccddeeff&f=AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("r=00112233445566778899aabbccddeeff&f=AAAAAAAAAAAAAAAAAAAAAA&x=%zz")
	f.Fuzz(func(t *testing.T, link string) {
		id, form, err := approval.ParseLink(link)
		if err != nil {
			return
		}
		again, same, err := approval.ParseLink(approval.Link("mpc:", id, form))
		if err != nil || again != id || same != form {
			t.Errorf("%q is read as %s, %x, which comes back as %s, %x, %v", link, id, form, again, same, err)
		}
	})
}

// TestGoldenFilesAreAllRead: a file that no test reads holds nobody to anything.
func TestGoldenFilesAreAllRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldenDir, "*"))
	if err != nil || len(files) != 6 {
		t.Errorf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("null")) {
			t.Errorf("%s: %v, or something in it is null", file, err)
		}
	}
}
