// Package approvaltest makes approvers for tests: a device key, a passkey and a
// certificate's key in software, that sign what the real ones sign. Production code
// does not import it, and its border is the approval package's: it knows nothing of
// Vault, pages or nodes.
package approvaltest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// RPID and Origin are those of the passkeys that New makes.
const (
	RPID   = "vault.example.com"
	Origin = "https://vault.example.com"
)

// Approver is a person with keys. Not safe for concurrent changes of its fields;
// signing is.
type Approver struct {
	// Approver goes into a policy. It has all three keys and both Checked kinds;
	// tests take away what they do not want.
	approval.Approver
	private map[approval.ID]*ecdsa.PrivateKey
}

// New makes an approver who may ask for signatures as entity:NAME.
func New(t testing.TB, name string) *Approver {
	t.Helper()
	a := &Approver{Approver: approval.Approver{
		ID: RandomID(), Name: name, Requesters: []string{"entity:" + name}, Checked: []approval.Kind{approval.TOTP, approval.Login},
	}}
	for _, kind := range []approval.Kind{approval.Device, approval.Passkey, approval.Certificate} {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		a.Add(t, kind, private)
	}
	return a
}

// Add gives the approver one more key, and returns its ID.
func (a *Approver) Add(t testing.TB, kind approval.Kind, private *ecdsa.PrivateKey) approval.ID {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	k := approval.Key{Kind: kind, Name: a.Name + "'s " + string(kind), Public: public}
	if kind == approval.Passkey {
		credential := sha256.Sum256(public)
		k.RPID, k.Origins, k.Credential = RPID, []string{Origin}, credential[:]
	}
	a.Keys = append(a.Keys, k)
	if a.private == nil {
		a.private = map[approval.ID]*ecdsa.PrivateKey{}
	}
	id := k.ID()
	a.private[id] = private
	return id
}

// Of returns the approver's first key of a kind; the test fails where there is none.
func (a *Approver) Of(t testing.TB, kind approval.Kind) *approval.Key {
	t.Helper()
	for i := range a.Keys {
		if a.Keys[i].Kind == kind {
			return &a.Keys[i]
		}
	}
	t.Fatalf("%s has no key of kind %s", a.Name, kind)
	return nil
}

// Private returns the private half of one of the approver's keys.
func (a *Approver) Private(t testing.TB, id approval.ID) *ecdsa.PrivateKey {
	t.Helper()
	private := a.private[id]
	if private == nil {
		t.Fatalf("%s has no key %s", a.Name, id)
	}
	return private
}

// Sign signs a statement with the approver's first key of a kind, as the statement
// stands: also one that names somebody else.
func (a *Approver) Sign(t testing.TB, kind approval.Kind, st *approval.Statement) approval.Signature {
	t.Helper()
	return a.SignWith(t, a.Of(t, kind), st)
}

// SignWith is Sign with a certain key.
func (a *Approver) SignWith(t testing.TB, k *approval.Key, st *approval.Statement) approval.Signature {
	t.Helper()
	private := a.Private(t, k.ID())
	switch k.Kind {
	case approval.Device:
		return approval.Signature{Key: k.ID(), Signature: SignRaw(t, private, st.DeviceMessage())}
	case approval.Certificate:
		return approval.Signature{Key: k.ID(), Signature: SignDER(t, private, st.CertificateMessage())}
	}
	hash := st.Hash()
	return a.Assert(t, k, Assertion{Challenge: hash[:]})
}

// Give is a whole approval of a subject with keys of the given kinds; device key and
// passkey where none is named.
func (a *Approver) Give(t testing.TB, subject *approval.Subject, kinds ...approval.Kind) approval.Given {
	t.Helper()
	if len(kinds) == 0 {
		kinds = []approval.Kind{approval.Device, approval.Passkey}
	}
	g := approval.Given{Approver: a.ID}
	for _, kind := range kinds {
		g.Signatures = append(g.Signatures, a.Sign(t, kind, &approval.Statement{Subject: *subject, Decision: approval.Approve, Approver: a.ID}))
	}
	return g
}

// Bundle is what goes to the nodes for a subject: its request, requester and expiry,
// and what was given.
func Bundle(subject *approval.Subject, given ...approval.Given) *approval.Bundle {
	return &approval.Bundle{Request: subject.Request, Requester: subject.Requester, RequesterName: subject.RequesterName, Expires: subject.Expires, Given: given}
}

// Policy makes a policy of two factors, one of which nodes verify, and an expiry of
// ten minutes; the test fails where it does not pass Check.
func Policy(t testing.TB, quorum int, approvers ...*Approver) *approval.Policy {
	t.Helper()
	p := &approval.Policy{Quorum: quorum, Factors: 2, SignatureFactors: 1, Expiry: 10 * time.Minute}
	for _, a := range approvers {
		p.Approvers = append(p.Approvers, a.Approver)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return p
}

// RandomID draws an ID.
func RandomID() (id approval.ID) {
	rand.Read(id[:])
	return id
}

// SignRaw signs SHA-256 of a message; r‖s, 64 bytes. The signature is deterministic
// (RFC 6979).
func SignRaw(t testing.TB, private *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	raw, err := rawOf(SignDER(t, private, message))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// SignDER is SignRaw in DER.
func SignDER(t testing.TB, private *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	der, err := private.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
