package approval_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// rig is a policy of two out of ann, bob and carol, each of whom has every factor, a
// message that eve asked to have signed, and the approvals of ann and bob.
type rig struct {
	ann, bob, carol *approvaltest.Approver
	policy          *approval.Policy
	record          *mpc.PublicRecord
	mount           [16]byte
	now             time.Time
	input           []byte
	derivation      mpc.Derivation
	asked           approval.Subject // what approvers sign
	bundle          *approval.Bundle
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{ann: approvaltest.New(t, "ann"), bob: approvaltest.New(t, "bob"), carol: approvaltest.New(t, "carol"),
		mount: approvaltest.RandomID(), now: time.Unix(1_900_000_000, 0), input: []byte("pay 5 to alice"), derivation: mpc.Derivation{Path: "m/0/7"}}
	r.policy = approvaltest.Policy(t, 2, r.ann, r.bob, r.carol)
	r.policy.SignatureFactors = 2
	r.record = &mpc.PublicRecord{AccountID: mpc.AccountID(approvaltest.RandomID()), Algorithm: mpc.ECDSASecp256k1,
		PublicKey: append([]byte{3}, make([]byte, 32)...), PolicyHash: r.policy.Hash(), Epoch: 3}
	r.ask()
	r.give(t)
	return r
}

// ask makes the subject anew after a change of what it is made from.
func (r *rig) ask() {
	r.asked = r.built()
	r.asked.Request, r.asked.Requester, r.asked.RequesterName = approvaltest.RandomID(), "entity:eve", "Eve"
	r.asked.Expires = r.now.Add(r.policy.Expiry).Unix()
}

func (r *rig) give(t testing.TB) {
	t.Helper()
	r.bundle = approvaltest.Bundle(&r.asked, r.ann.Give(t, &r.asked), r.bob.Give(t, &r.asked))
}

// built is the subject as a node builds it.
func (r *rig) built() approval.Subject {
	return approval.SignSubject(r.mount, r.record, r.input, mpc.MessageRaw, mpc.HashSHA256, r.derivation)
}

func (r *rig) verify() ([]approval.ID, error) {
	return approval.Verify(r.policy, r.built(), r.bundle, r.now)
}

// annsPasskey replaces the assertion that ann's passkey made.
func (r *rig) annsPasskey(t testing.TB, change func(*approvaltest.Assertion, *approval.Statement)) {
	t.Helper()
	st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
	hash := st.Hash()
	as := approvaltest.Assertion{Challenge: hash[:]}
	change(&as, st)
	r.bundle.Given[0].Signatures[1] = r.ann.Assert(t, r.ann.Of(t, approval.Passkey), as)
}

func TestVerify(t *testing.T) {
	any := errors.New("any")
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, r *rig)
		is    error // any: an error that is none of the sentinels
		says  string
	}{
		{"as it should be", func(*testing.T, *rig) {}, nil, ""},
		{"three of two", func(t *testing.T, r *rig) { r.bundle.Given = append(r.bundle.Given, r.carol.Give(t, &r.asked)) }, nil, ""},
		{"with certificates", func(t *testing.T, r *rig) {
			r.bundle.Given[1] = r.bob.Give(t, &r.asked, approval.Certificate, approval.Device)
		}, nil, ""},
		{"all three kinds", func(t *testing.T, r *rig) {
			r.bundle.Given[1] = r.bob.Give(t, &r.asked, approval.Device, approval.Passkey, approval.Certificate)
		}, nil, ""},
		{"in the last second", func(t *testing.T, r *rig) { r.now = time.Unix(r.asked.Expires, -1) }, nil, ""},
		{"in an epoch after", func(t *testing.T, r *rig) { r.record.Epoch++ }, nil, ""},
		{"the requester has no name", func(t *testing.T, r *rig) { r.asked.RequesterName = ""; r.give(t) }, nil, ""},

		{"none at all", func(t *testing.T, r *rig) { r.bundle = nil }, approval.ErrMissing, "none"},
		{"no policy", func(t *testing.T, r *rig) { r.policy = nil }, approval.ErrMissing, "none"},
		{"none given", func(t *testing.T, r *rig) { r.bundle.Given = nil }, approval.ErrMissing, "none of 2"},
		{"one of two", func(t *testing.T, r *rig) { r.bundle.Given = r.bundle.Given[:1] }, approval.ErrMissing, "1 of 2"},
		{"an approver who signed nothing", func(t *testing.T, r *rig) { r.bundle.Given[1].Signatures = nil }, approval.ErrMissing, "0 kinds"},
		{"too few kinds", func(t *testing.T, r *rig) {
			r.bundle.Given[1].Signatures = r.bundle.Given[1].Signatures[:1]
		}, approval.ErrMissing, "1 kinds"},
		{"too few kinds of one more", func(t *testing.T, r *rig) {
			r.bundle.Given = append(r.bundle.Given, r.carol.Give(t, &r.asked, approval.Device))
		}, approval.ErrMissing, "carol"},

		{"an approver twice", func(t *testing.T, r *rig) { r.bundle.Given[1] = r.bundle.Given[0] }, any, "twice"},
		{"an approver twice, with other keys", func(t *testing.T, r *rig) {
			r.bundle.Given[1] = r.ann.Give(t, &r.asked, approval.Certificate, approval.Device)
		}, any, "twice"},
		{"a key twice", func(t *testing.T, r *rig) {
			r.bundle.Given[0].Signatures[1] = r.bundle.Given[0].Signatures[0]
		}, any, "each kind counts once"},
		{"a key twice beside enough", func(t *testing.T, r *rig) {
			r.bundle.Given[0].Signatures = append(r.bundle.Given[0].Signatures, r.bundle.Given[0].Signatures[0])
		}, any, "each kind counts once"},
		{"two keys of one kind", func(t *testing.T, r *rig) {
			id := r.ann.Add(t, approval.Device, newKey(t))
			r.policy.Approvers[0] = r.ann.Approver
			r.record.PolicyHash = r.policy.Hash()
			r.ask()
			r.give(t)
			st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
			r.bundle.Given[0].Signatures[1] = r.ann.SignWith(t, r.ann.Key(id), st)
		}, any, "each kind counts once"},
		{"more signatures than kinds", func(t *testing.T, r *rig) {
			r.bundle.Given[0].Signatures = make([]approval.Signature, 4)
		}, any, "more than there are kinds"},

		{"somebody else", func(t *testing.T, r *rig) { r.bundle.Given[0] = approvaltest.New(t, "ann").Give(t, &r.asked) }, approval.ErrSignature, "no approver"},
		{"in somebody's name", func(t *testing.T, r *rig) { r.bundle.Given[0].Approver = r.carol.ID }, approval.ErrSignature, "no key"},
		{"in somebody's name with their key's ID", func(t *testing.T, r *rig) {
			other := approvaltest.New(t, "other")
			g := other.Give(t, &r.asked)
			g.Approver = r.carol.ID
			for i := range g.Signatures {
				g.Signatures[i].Key = r.carol.Of(t, []approval.Kind{approval.Device, approval.Passkey}[i]).ID()
			}
			r.bundle.Given[1] = g
		}, approval.ErrSignature, "carol"},
		{"a statement in another approver's name", func(t *testing.T, r *rig) {
			st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.bob.ID}
			r.bundle.Given[0].Signatures[0] = r.ann.Sign(t, approval.Device, st)
		}, approval.ErrSignature, "ann"},
		{"a refusal offered as approval", func(t *testing.T, r *rig) {
			st := &approval.Statement{Subject: r.asked, Decision: approval.Refuse, Approver: r.ann.ID}
			for i, kind := range []approval.Kind{approval.Device, approval.Passkey} {
				r.bundle.Given[0].Signatures[i] = r.ann.Sign(t, kind, st)
			}
		}, approval.ErrSignature, "ann"},

		{"expired", func(t *testing.T, r *rig) { r.now = time.Unix(r.asked.Expires, 0) }, approval.ErrExpired, "2030"},
		{"longer than the policy allows", func(t *testing.T, r *rig) {
			r.asked.Expires = r.now.Add(r.policy.Expiry + time.Minute + time.Second).Unix()
			r.give(t)
		}, any, "longer than"},
		{"expiry put off", func(t *testing.T, r *rig) { r.bundle.Expires++; r.now = r.now.Add(time.Minute) }, approval.ErrSignature, ""},
		{"no expiry", func(t *testing.T, r *rig) { r.bundle.Expires = 0 }, any, "expiry"},
		{"an expiry below zero", func(t *testing.T, r *rig) { r.bundle.Expires = -1 }, any, "expiry"},

		{"another message", func(t *testing.T, r *rig) { r.input = []byte("pay 500 to alice") }, approval.ErrSignature, ""},
		{"an empty message", func(t *testing.T, r *rig) { r.input = nil }, approval.ErrSignature, ""},
		{"another path", func(t *testing.T, r *rig) { r.derivation.Path = "m/0/8" }, approval.ErrSignature, ""},
		{"another tweak", func(t *testing.T, r *rig) { r.derivation.TaprootTweak = "bip86" }, approval.ErrSignature, ""},
		{"another account", func(t *testing.T, r *rig) { r.record.AccountID = mpc.AccountID(approvaltest.RandomID()) }, approval.ErrSignature, ""},
		{"another public key", func(t *testing.T, r *rig) { r.record.PublicKey[5]++ }, approval.ErrSignature, ""},
		{"another algorithm", func(t *testing.T, r *rig) { r.record.Algorithm = mpc.ECDSAP256 }, approval.ErrSignature, ""},
		{"another mount", func(t *testing.T, r *rig) { r.mount[0]++ }, approval.ErrSignature, ""},
		{"another request", func(t *testing.T, r *rig) { r.bundle.Request[3]++ }, approval.ErrSignature, ""},
		{"no request", func(t *testing.T, r *rig) { r.bundle.Request = approval.ID{} }, any, "request"},
		{"another requester", func(t *testing.T, r *rig) { r.bundle.Requester = "entity:mallory" }, approval.ErrSignature, ""},
		{"another requester's name", func(t *testing.T, r *rig) { r.bundle.RequesterName = "Alice" }, approval.ErrSignature, ""},
		{"no requester", func(t *testing.T, r *rig) { r.bundle.Requester = "" }, any, "who asks"},
		{"requester none", func(t *testing.T, r *rig) { r.bundle.Requester = "none" }, any, "who asks"},
		{"a requester's name that turns the page", func(t *testing.T, r *rig) { r.bundle.RequesterName = "a\u202eb" }, any, "who asks"},
		{"the requester approves", func(t *testing.T, r *rig) {
			r.asked.Requester = "entity:ann"
			r.give(t)
		}, approval.ErrRequester, "ann"},
		{"the requester approves as a third", func(t *testing.T, r *rig) {
			r.asked.Requester = "entity:carol"
			r.give(t)
			r.bundle.Given = append(r.bundle.Given, r.carol.Give(t, &r.asked))
		}, approval.ErrRequester, "carol"},

		{"another policy", func(t *testing.T, r *rig) { r.policy.Expiry -= time.Second }, any, "not the account's"},
		{"a policy of fewer", func(t *testing.T, r *rig) { r.policy.Quorum = 1; r.bundle.Given = r.bundle.Given[:1] }, any, "not the account's"},
		{"a later policy", func(t *testing.T, r *rig) { r.policy.Since++ }, any, "not the account's"},
		{"under another policy", func(t *testing.T, r *rig) {
			r.policy.Expiry -= time.Second
			r.record.PolicyHash = r.policy.Hash()
		}, approval.ErrSignature, ""},
		{"an account without a policy", func(t *testing.T, r *rig) { r.record.PolicyHash = mpc.EmptySetHash() }, any, "policy in force"},
		{"a policy that asks for nothing", func(t *testing.T, r *rig) {
			r.policy.Quorum = 0
			r.record.PolicyHash = r.policy.Hash()
		}, any, "quorum"},

		{"a certificate's signature with the device's label", func(t *testing.T, r *rig) {
			st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
			k := r.ann.Of(t, approval.Certificate)
			r.bundle.Given[0].Signatures[1] = approval.Signature{Key: k.ID(), Signature: approvaltest.SignDER(t, r.ann.Private(t, k.ID()), st.DeviceMessage())}
		}, approval.ErrSignature, "certificate"},
		{"a device's signature with the certificate's label", func(t *testing.T, r *rig) {
			st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
			k := r.ann.Of(t, approval.Device)
			r.bundle.Given[0].Signatures[0].Signature = approvaltest.SignRaw(t, r.ann.Private(t, k.ID()), st.CertificateMessage())
		}, approval.ErrSignature, "device"},
		{"a device's signature in DER", func(t *testing.T, r *rig) {
			st := &approval.Statement{Subject: r.asked, Decision: approval.Approve, Approver: r.ann.ID}
			k := r.ann.Of(t, approval.Device)
			r.bundle.Given[0].Signatures[0].Signature = approvaltest.SignDER(t, r.ann.Private(t, k.ID()), st.DeviceMessage())
		}, approval.ErrSignature, "device"},
		{"a device's signature with a byte more", func(t *testing.T, r *rig) {
			s := &r.bundle.Given[0].Signatures[0]
			s.Signature = append(s.Signature, 0)
		}, approval.ErrSignature, "device"},
		{"a device's signature of zeros", func(t *testing.T, r *rig) {
			clear(r.bundle.Given[0].Signatures[0].Signature)
		}, approval.ErrSignature, "device"},
		{"a device's signature with client data", func(t *testing.T, r *rig) {
			r.bundle.Given[0].Signatures[0].ClientData = []byte("{}")
		}, approval.ErrSignature, "device"},
		{"a certificate's signature with authenticator data", func(t *testing.T, r *rig) {
			r.bundle.Given[0] = r.ann.Give(t, &r.asked, approval.Device, approval.Certificate)
			r.bundle.Given[0].Signatures[1].AuthenticatorData = []byte{1}
		}, approval.ErrSignature, "certificate"},
		{"the other half of a malleable signature", func(t *testing.T, r *rig) {
			s := r.bundle.Given[0].Signatures[0].Signature
			half := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s[32:]))
			half.FillBytes(s[32:])
		}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.spoil(t, r)
			approvers, err := r.verify()
			switch {
			case tt.is == nil:
				if err != nil || len(approvers) != len(r.bundle.Given) {
					t.Fatalf("%v, %v", approvers, err)
				}
				return
			case err == nil || len(approvers) > 0:
				t.Fatalf("accepted, approvers %v", approvers)
			case tt.is == any:
				for _, sentinel := range []error{approval.ErrMissing, approval.ErrExpired, approval.ErrSignature, approval.ErrRequester} {
					if errors.Is(err, sentinel) {
						t.Errorf("is %v", err)
					}
				}
			case !errors.Is(err, tt.is):
				t.Errorf("is %v, not %v", err, tt.is)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q does not say %q", err, tt.says)
			}
		})
	}
}

// TestVerifyPolicyChange: approvals of one change fit no other, and no signature.
func TestVerifyPolicyChange(t *testing.T) {
	r := newRig(t)
	next := *r.policy
	next.Quorum, next.Since = 1, 3
	asked := approval.PolicySubject(r.mount, r.record, &next)
	asked.Request, asked.Requester, asked.Expires = approvaltest.RandomID(), "entity:eve", r.now.Add(time.Minute).Unix()
	b := approvaltest.Bundle(&asked, r.ann.Give(t, &asked), r.carol.Give(t, &asked))
	if _, err := approval.Verify(r.policy, approval.PolicySubject(r.mount, r.record, &next), b, r.now); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, p *approval.Policy, s approval.Subject, b *approval.Bundle) {
		t.Helper()
		if _, err := approval.Verify(p, s, b, r.now); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	other := next
	other.Expiry += time.Second
	refused("another next policy", r.policy, approval.PolicySubject(r.mount, r.record, &other), b)
	refused("as a signature", r.policy, r.built(), b)
	refused("a signature's approvals", r.policy, approval.PolicySubject(r.mount, r.record, &next), r.bundle)
	later := next
	later.Since++
	refused("the same once more later", r.policy, approval.PolicySubject(r.mount, r.record, &later), b)
	refused("under the next policy", &next, approval.PolicySubject(r.mount, r.record, &next), b)
	none := approval.PolicySubject(r.mount, r.record, &next)
	none.NextPolicy = mpc.EmptySetHash()
	refused("no policy any more", r.policy, none, b)
}

func TestVerifyGiven(t *testing.T) {
	r := newRig(t)
	for i := range r.bundle.Given {
		if err := approval.VerifyGiven(r.policy, &r.asked, &r.bundle.Given[i]); err != nil {
			t.Error(err)
		}
	}
	g := r.bundle.Given[0]
	g.Approver = r.bob.ID
	if err := approval.VerifyGiven(r.policy, &r.asked, &g); !errors.Is(err, approval.ErrSignature) {
		t.Error(err)
	}
	incomplete := r.asked
	incomplete.Requester = ""
	if err := approval.VerifyGiven(r.policy, &incomplete, &r.bundle.Given[0]); err == nil {
		t.Error("a subject without a requester")
	}
	other := *r.policy
	other.Quorum = 1
	if err := approval.VerifyGiven(&other, &r.asked, &r.bundle.Given[0]); err == nil {
		t.Error("another policy")
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}
