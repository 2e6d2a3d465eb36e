//go:build e2e

package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// fakeApprovals answers the paths below approve/ for one approver and one request, so
// that pages can be looked at in every state without a Vault. What it is sent is
// checked by package approval, as nodes check it.
type fakeApprovals struct {
	t      *testing.T
	mount  [16]byte
	me     approval.Approver
	others []*approvaltest.Approver

	mu        sync.Mutex
	enrolment approval.ID
	state     string // of the enrolment
	code      string
	factors   int
	requester string
	subject   approval.Subject
	input     []byte
	next      *approval.Policy
	seed      []byte
	created   time.Time
	period    time.Duration
	status    string
	answered  []map[string]any
	given     []approval.Given
	refuse    func(path string) (int, string) // what to answer instead, or 0
	claim     *string                         // the digest to name instead of the message's, empty for none
}

const fakePeriod = 2 * time.Second

func newFakeApprovals(t *testing.T) *fakeApprovals {
	t.Helper()
	f := &fakeApprovals{t: t, mount: approvaltest.RandomID(), enrolment: approvaltest.RandomID(), state: "open", factors: 2,
		me:   approval.Approver{ID: approvaltest.RandomID(), Name: "alice", Requesters: []string{"entity:0f3c"}, Checked: []approval.Kind{approval.TOTP}},
		seed: make([]byte, approval.SeedSize), status: "pending", created: time.Now(), period: fakePeriod}
	_, _ = rand.Read(f.seed)
	bob, zoe := approvaltest.New(t, "bob"), approvaltest.New(t, "zoe")
	zoe.Name = "Zoë Müller"
	f.others = []*approvaltest.Approver{bob, zoe}
	return f
}

func (f *fakeApprovals) policy() *approval.Policy {
	p := &approval.Policy{Quorum: 2, Factors: f.factors, SignatureFactors: 2, Expiry: 10 * time.Minute, Approvers: []approval.Approver{f.me}}
	for _, o := range f.others {
		p.Approvers = append(p.Approvers, o.Approver)
	}
	return p
}

// ask makes a request for one signature.
func (f *fakeApprovals) ask(input string, kind mpc.MessageType, hash mpc.HashAlgorithm) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reset(approval.Sign)
	f.input = []byte(input)
	f.subject.MessageType, f.subject.Hash, f.subject.Message = kind, hash, sha256.Sum256(f.input)
}

// askPolicy makes a request for another policy.
func (f *fakeApprovals) askPolicy(change func(*approval.Policy)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reset(approval.ChangePolicy)
	f.next = f.policy()
	f.next.Since = 301
	change(f.next)
	if err := f.next.Check(); err != nil {
		f.t.Fatal(err)
	}
	f.subject.NextPolicy, f.subject.Epoch = f.next.Hash(), f.next.Since
}

func (f *fakeApprovals) reset(action approval.Action) {
	public := sha256.Sum256([]byte("treasury"))
	f.status, f.answered, f.given, f.input, f.next, f.created = "pending", nil, nil, nil, nil, time.Now()
	requester := f.requester
	if requester == "" {
		requester = "entity:9d2f61c0-5a5b-7d1e-9f50-0f1c2b7f7a10"
	}
	f.subject = approval.Subject{Action: action, Mount: f.mount, Account: mpc.AccountID(public[:16]), PublicKey: append([]byte{2}, public[:]...),
		Request: approvaltest.RandomID(), Requester: requester, RequesterName: "carol@example.com", Algorithm: mpc.ECDSASecp256k1,
		Policy: f.policy().Hash(), Expires: time.Now().Add(9*time.Minute + 42*time.Second).Unix()}
}

// form is what stands behind "#" in the present code.
func (f *fakeApprovals) form() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return approval.Link("", f.subject.Request, approval.FormAt(f.seed, f.subject.Request, approval.Period(f.created, time.Now(), f.period)))
}

func (f *fakeApprovals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		in = map[string]any{}
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/mpc/approve/")
	status, out := f.answer(path, in)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body := map[string]any{"data": out}
	if said, bad := out.(string); bad {
		body = map[string]any{"errors": []string{"1 error occurred:\n\t* " + said + "\n\n"}}
	}
	_ = json.NewEncoder(w).Encode(body)
}

func (f *fakeApprovals) answer(path string, in map[string]any) (int, any) {
	if f.refuse != nil {
		if status, text := f.refuse(path); status != 0 {
			return status, text
		}
	}
	data, err := map[string]any{}, error(nil)
	switch path {
	case "enrol":
		data = map[string]any{"approver": f.me.Name, "approver_id": f.me.ID.String(), "mount_id": hex.EncodeToString(f.mount[:]), "rp_id": "localhost", "rp_name": "Vault approvals",
			"user_id": base64.RawURLEncoding.EncodeToString(f.me.ID[:]), "user_name": f.me.Name, "challenge": base64.RawURLEncoding.EncodeToString(f.seed), "expires_time": time.Now().Add(14 * time.Minute).UTC().Format(time.RFC3339)}
	case "enrol/finish":
		err = f.enrolled(in)
		data["code"] = f.code
	case "enrol/state":
		data["state"] = f.state
	case "open":
		data, err = f.opened(in)
	case "answer":
		data, err = f.decided(in)
	case "progress":
		proof := approval.ProgressProof(f.seed, f.subject.Request)
		if in["request"] != f.subject.Request.String() || in["proof"] != base64.StdEncoding.EncodeToString(proof[:]) {
			return http.StatusForbidden, "refused"
		}
		data = map[string]any{"state": f.status, "account": "treasury-main", "action": f.subject.Action, "approvals": len(f.given), "refusals": 0, "quorum": 2, "answered": f.answered,
			"expires": f.subject.Expires, "server_unix_ms": time.Now().UnixMilli(), "server_time": time.Now().Unix()}
	default:
		return http.StatusNotFound, "no such path"
	}
	if err != nil {
		return http.StatusForbidden, err.Error()
	}
	return http.StatusOK, data
}

// enrolled takes the device key that was offered. The passkey's is added by the test,
// from the authenticator.
func (f *fakeApprovals) enrolled(in map[string]any) error {
	device, ok := in["device"].(map[string]any)
	if !ok {
		return fmt.Errorf("no device in %v", in)
	}
	public, _ := base64.StdEncoding.DecodeString(fmt.Sprint(device["public"]))
	f.me.Keys = slices.Insert(f.me.Keys, 0, approval.Key{Kind: approval.Device, Name: fmt.Sprint(device["name"]), Public: public})
	message := approval.EnrolMessage(f.mount, f.enrolment, f.me.ID, f.me.Keys)
	signature, _ := base64.StdEncoding.DecodeString(fmt.Sprint(device["signature"]))
	if !f.me.Keys[0].VerifyOpen(message, signature) {
		return fmt.Errorf("the device key has not signed mount, enrolment, approver and keys")
	}
	f.state, f.code = "offered", approval.EnrolCode(f.mount, f.enrolment, f.me.ID, f.me.Keys)
	return nil
}

// addPasskey makes a credential of a virtual authenticator the approver's.
func (f *fakeApprovals) addPasskey(pkcs8, credential []byte, origin string) error {
	private, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return err
	}
	key, ok := private.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return fmt.Errorf("the passkey's key is a %T", private)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.me.Keys = append(f.me.Keys, approval.Key{Kind: approval.Passkey, Name: "Computer", Public: public, RPID: "localhost", Origins: []string{origin}, Credential: credential})
	return err
}

func (f *fakeApprovals) opened(in map[string]any) (map[string]any, error) {
	form, err := base64.RawURLEncoding.DecodeString(fmt.Sprint(in["form"]))
	if err != nil || len(form) != approval.FormSize || in["request"] != f.subject.Request.String() {
		return nil, fmt.Errorf("the code is not valid any more")
	}
	now, _ := in["time"].(float64)
	signature, _ := base64.StdEncoding.DecodeString(fmt.Sprint(in["signature"]))
	key := f.me.Keys[0]
	message := approval.OpenMessage(f.mount, f.subject.Request, approval.Form(form), key.ID(), int64(now))
	n := approval.Period(f.created, time.Now(), f.period)
	fresh := approval.FormAt(f.seed, f.subject.Request, n) == approval.Form(form) || n > 0 && approval.FormAt(f.seed, f.subject.Request, n-1) == approval.Form(form)
	if !fresh || in["key"] != key.ID().String() || !key.VerifyOpen(message, signature) || time.Since(time.Unix(int64(now), 0)).Abs() > 5*time.Second {
		return nil, fmt.Errorf("the code is not valid any more, or is not for this device")
	}
	s := &f.subject
	out := map[string]any{"ticket": "dGlja2V0", "request": s.Request.String(), "state": f.status, "action": s.Action, "mount_id": hex.EncodeToString(s.Mount[:]), "account_id": s.Account.String(),
		"account": "treasury-main", "public_key": hex.EncodeToString(s.PublicKey), "algorithm": s.Algorithm, "requester": s.Requester, "requester_name": s.RequesterName, "expires": s.Expires,
		"policy": base64.StdEncoding.EncodeToString(f.policy().Marshal()), "epoch": s.Epoch, "approvals": len(f.given), "refusals": 0, "quorum": 2,
		"message_type": s.MessageType, "hash_algorithm": s.Hash, "derivation_path": "", "taproot_tweak": "", "input": base64.StdEncoding.EncodeToString(f.input), "next_policy": "",
		"approver_id": f.me.ID.String(), "approver_name": f.me.Name, "login": false, "server_unix_ms": time.Now().UnixMilli()}
	if f.next != nil {
		out["next_policy"] = base64.StdEncoding.EncodeToString(f.next.Marshal())
	} else if digest, err := mpc.SigningInput(s.Algorithm, s.MessageType, s.Hash, f.input); err == nil {
		out["digest"] = hex.EncodeToString(digest)
	}
	if f.claim != nil {
		out["digest"] = *f.claim
	}
	return out, nil
}

func (f *fakeApprovals) decided(in map[string]any) (map[string]any, error) {
	given := approval.Given{Approver: f.me.ID}
	list, _ := in["signatures"].([]any)
	for _, one := range list {
		s, _ := one.(map[string]any)
		part := func(name string) []byte {
			text, _ := s[name].(string)
			b, _ := base64.StdEncoding.DecodeString(text)
			return b
		}
		id, err := approval.ParseID(fmt.Sprint(s["key"]))
		if err != nil {
			return nil, err
		}
		given.Signatures = append(given.Signatures, approval.Signature{Key: id, Signature: part("signature"), AuthenticatorData: part("authenticator_data"), ClientData: part("client_data")})
	}
	if in["decision"] == string(approval.Refuse) {
		st := approval.Statement{Subject: f.subject, Decision: approval.Refuse, Approver: f.me.ID}
		if len(given.Signatures) != 1 || f.me.Keys[0].Verify(&st, &given.Signatures[0]) != nil {
			return nil, fmt.Errorf("the device has not signed the refusal")
		}
		f.status = "refused"
		f.answered = append(f.answered, map[string]any{"name": f.me.Name, "decision": "refuse"})
		return map[string]any{"state": f.status, "approvals": 0, "refusals": 1, "quorum": 2}, nil
	}
	if err := approval.VerifyGiven(f.policy(), &f.subject, &given); err != nil {
		return nil, err
	}
	if f.factors == 3 && in["totp"] != "123456" {
		return nil, fmt.Errorf("the one-time code is wrong. Nothing was recorded; 2 more tries, then the code has to be scanned anew")
	}
	f.given = append(f.given, given)
	f.answered = append(f.answered, map[string]any{"name": f.me.Name, "decision": "approve"})
	return map[string]any{"state": f.status, "approvals": len(f.given), "refusals": 0, "quorum": 2}, nil
}
