package backend

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// newInV7 names the records that no version before 7 has.
var newInV7 = []string{"account-policy", "account-policy-previous", "ui", "ui-period", "approver", "approver-identity", "enrolment", "enrolment-offered",
	"request-pending", "request-approved", "request-signed", "request-refused", "request-policy"}

// fixedPublic is a public key on P-256 that is the same for ever, DER.
func fixedPublic(n int) []byte {
	k, err := ecdh.P256().NewPrivateKey(append(make([]byte, 31), byte(n)))
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.PublicKey())
	if err != nil {
		panic(err)
	}
	return der
}

// fixedKeys are a device key and a passkey of an approver.
func fixedKeys(n int, at time.Time) []approverKeyRecord {
	device := approverKeyRecord{Kind: approval.Device, Name: "phone", Public: fixedPublic(2 * n), Added: at}
	key := device.key()
	device.Device = key.ID().String()
	return []approverKeyRecord{device, {Kind: approval.Passkey, Name: "phone", Public: fixedPublic(2*n + 1), RPID: "vault.example.com",
		Origins: []string{"https://vault.example.com"}, Credential: []byte{byte(n), 2, 3}, Transports: []string{"internal"}, Device: device.Device, Added: at}}
}

// fixedPolicy asks two of two approvers.
func fixedPolicy() *approval.Policy {
	p := &approval.Policy{Quorum: 2, Factors: 2, SignatureFactors: 1, Expiry: 10 * time.Minute, Since: 5}
	for i, name := range []string{"ann", "ben"} {
		a := approval.Approver{ID: approval.ID{0xa0, byte(i + 1)}, Name: name, Requesters: []string{"entity:" + name}, Checked: []approval.Kind{approval.TOTP}}
		for _, k := range fixedKeys(i+1, time.Time{}) {
			a.Keys = append(a.Keys, k.key())
		}
		p.Approvers = append(p.Approvers, a)
	}
	return p
}

// goldenApprovals has one record of every type that approvals brought, in several
// states where it has them.
func goldenApprovals(at time.Time) map[string]storedRecord {
	policy := fixedPolicy()
	record := mpc.PublicRecord{
		AccountID: mpc.AccountID{1, 2, 3}, Algorithm: mpc.ECDSASecp256k1, Threshold: 2, Shares: 3,
		PublicKey: append([]byte{2}, bytes.Repeat([]byte{0x11}, 32)...), ChainCode: [32]byte{0x22},
		Epoch: 8, EpochID: mpc.EpochID{0xee, 8}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: policy.Hash(),
	}
	epoch := epochRecord{Exposures: map[string]mpc.Index{}, WrappingVersion: 8, Started: at.Add(time.Hour), Policy: policy.Marshal()}
	for i := range 3 {
		record.PublicShares = append(record.PublicShares, append([]byte{3}, bytes.Repeat([]byte{8, byte(i)}, 16)...))
		epoch.Shares = append(epoch.Shares, fmt.Appendf(nil, "envelope %d of epoch 8", i+1))
		epoch.Exposures[nodeIdentity(i+1).String()] = mpc.Index(i + 1)
		epoch.Certificate = append(epoch.Certificate, endorsementRecord{
			Node: fmt.Sprintf("local-%d", i+1), Identity: nodeIdentity(i + 1).String(), Signature: bytes.Repeat([]byte{byte(i)}, 64)})
	}
	epoch.Record = record.Marshal()
	before := epoch
	before.WrappingVersion, before.Started = 7, at
	account := func(previous *epochRecord) *accountRecord {
		return &accountRecord{Version: recordVersion, ID: record.AccountID.String(), Created: at, Current: epoch, Previous: previous,
			Birth: birthRecord{RecordHash: strings.Repeat("ab", 32), Certificate: epoch.Certificate}}
	}

	secret := sha256.Sum256([]byte("the link's secret"))
	enrolment := func() *enrolmentRecord {
		return &enrolmentRecord{Version: recordVersion, ID: strings.Repeat("e1", 16), Approver: "ann", ApproverID: policy.Approvers[0].ID.String(),
			SecretHash: hex.EncodeToString(secret[:]), Created: at, Expires: at.Add(15 * time.Minute)}
	}
	offered := enrolment()
	offered.Challenge, offered.Keys, offered.Code, offered.Tries = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", fixedKeys(1, at), "1234-5678", 2

	request := func(state requestState, given ...givenRecord) *requestRecord {
		r := &requestRecord{Version: recordVersion, ID: strings.Repeat("5e", 16), Action: approval.Sign, Account: "alice", AccountID: record.AccountID.String(),
			State: state, Created: at, Expires: at.Add(10 * time.Minute).Truncate(time.Second), Requester: "entity:carl", RequesterName: "carl", RequestID: "order-7",
			Payload: strings.Repeat("ab", 32), Policy: policy.Marshal(), Input: []byte("pay 7"), MessageType: "raw", HashAlgorithm: "sha2-256",
			DerivationPath: "m/0/7", SignatureFormat: "der", Seed: bytes.Repeat([]byte{7}, approval.SeedSize), Period: 2000, Given: given}
		if state.ended() {
			r.Ended = at.Add(time.Minute)
		}
		return r
	}
	approved := func(i int) givenRecord {
		g := givenRecord{Approver: policy.Approvers[i].ID.String(), Name: policy.Approvers[i].Name, Decision: approval.Approve,
			Kinds: []approval.Kind{approval.Device, approval.Passkey}, Time: at.Add(time.Minute)}
		for n, k := range policy.Approvers[i].Keys {
			s := signedFactor{Key: k.ID().String(), Signature: bytes.Repeat([]byte{byte(i), byte(n)}, 32)}
			if k.Kind == approval.Passkey {
				s.AuthenticatorData, s.ClientData = []byte("authenticator data"), []byte(`{"type":"webauthn.get"}`)
			}
			g.Signatures = append(g.Signatures, s)
		}
		return g
	}
	signed := request(requestSigned, approved(0), approved(1))
	signed.Result = []byte(`{"signature":"AA=="}`)
	refusal := approved(1)
	refusal.Decision, refusal.Kinds, refusal.Signatures = approval.Refuse, refusal.Kinds[:1], refusal.Signatures[:1]
	refused := request(requestRefused, refusal)
	refused.Reason = "ben refused"
	pending := request(requestPending, approved(0))
	pending.Given[0].Kinds = []approval.Kind{approval.Device, approval.TOTP}
	pending.Given[0].Signatures = pending.Given[0].Signatures[:1]
	pending.Logins = map[string]time.Time{policy.Approvers[1].ID.String(): at.Add(time.Minute)}
	pending.TaprootTweak = "bip86"
	change := request(requestFailed, approved(0), approved(1))
	change.Action, change.Input, change.MessageType, change.HashAlgorithm, change.DerivationPath, change.SignatureFormat = approval.ChangePolicy, nil, "", "", "", ""
	next := fixedPolicy()
	next.Quorum, next.Since = 1, 8
	change.NextPolicy, change.Epoch, change.Reason = next.Marshal(), 8, "the policy was changed meanwhile"

	return map[string]storedRecord{
		"account-policy":          account(nil),
		"account-policy-previous": account(&before),
		"ui": &uiRecord{Version: recordVersion, PublicURL: "https://vault.example.com", RPID: "vault.example.com",
			Origins: []string{"https://vault.example.com", "https://vault.example.com:8200"}, QRPeriod: 2000},
		"ui-period": &uiRecord{Version: recordVersion, QRPeriod: 1000},
		"approver": &approverRecord{Version: recordVersion, ID: policy.Approvers[0].ID.String(), Entities: []string{"ann"}, Keys: fixedKeys(1, at),
			TOTP: &totpRecord{Secret: "JBSWY3DPEHPK3PXP", Confirmed: true, LastStep: 59_000_000, Added: at}, Created: at},
		"approver-identity": &approverRecord{Version: recordVersion, ID: policy.Approvers[1].ID.String(), Identity: strings.Repeat("1d", 16), NoEntities: true, Created: at},
		"enrolment":         enrolment(),
		"enrolment-offered": offered,
		"request-pending":   pending,
		"request-approved":  request(requestApproved, approved(0), approved(1)),
		"request-signed":    signed,
		"request-refused":   refused,
		"request-policy":    change,
	}
}

// spoilt demands that no spoilt form of a golden record is read.
func spoilt[R any](t *testing.T, name string, spoil map[string]func(*R)) {
	t.Helper()
	for what, f := range spoil {
		r := goldenRecords()[name]
		f(any(r).(*R))
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeRecord(raw, empty(r)); err == nil {
			t.Errorf("%s, %s: accepted", name, what)
		}
	}
}

// TestDecodeApprovalsRefuses: what is stored of approvals agrees with itself and is
// bounded.
func TestDecodeApprovalsRefuses(t *testing.T) {
	long := strings.Repeat("x", maxStoredText+1)
	spoilt(t, "ui", map[string]func(*uiRecord){
		"URL without passkeys":  func(r *uiRecord) { r.RPID = "" },
		"passkeys without URL":  func(r *uiRecord) { r.PublicURL = "" },
		"no origin":             func(r *uiRecord) { r.Origins = nil },
		"empty origin":          func(r *uiRecord) { r.Origins[0] = "" },
		"many origins":          func(r *uiRecord) { r.Origins = slices.Repeat(r.Origins, 20) },
		"long URL":              func(r *uiRecord) { r.PublicURL = long },
		"period of less than 1": func(r *uiRecord) { r.QRPeriod = 999 },
		"period of more":        func(r *uiRecord) { r.QRPeriod = 60_001 },
	})
	spoilt(t, "approver", map[string]func(*approverRecord){
		"no ID":              func(r *approverRecord) { r.ID = "" },
		"nobody":             func(r *approverRecord) { r.Entities = nil },
		"none and some":      func(r *approverRecord) { r.NoEntities = true },
		"identity's name":    func(r *approverRecord) { r.Identity = "ann" },
		"long entity":        func(r *approverRecord) { r.Entities[0] = long },
		"no time":            func(r *approverRecord) { r.Created = time.Time{} },
		"no TOTP secret":     func(r *approverRecord) { r.TOTP.Secret = "" },
		"key twice":          func(r *approverRecord) { r.Keys[1] = r.Keys[0] },
		"many keys":          func(r *approverRecord) { r.Keys = slices.Repeat(r.Keys, 5) },
		"one-time code":      func(r *approverRecord) { r.Keys[0].Kind = approval.TOTP },
		"no public key":      func(r *approverRecord) { r.Keys[0].Public = nil },
		"device with origin": func(r *approverRecord) { r.Keys[0].Origins = []string{"https://x"} },
		"passkey of nowhere": func(r *approverRecord) { r.Keys[1].RPID = "" },
		"of no device":       func(r *approverRecord) { r.Keys[1].Device = "" },
	})
	spoilt(t, "enrolment-offered", map[string]func(*enrolmentRecord){
		"no ID":           func(r *enrolmentRecord) { r.ID = "x" },
		"of nobody":       func(r *enrolmentRecord) { r.Approver = "" },
		"no approver ID":  func(r *enrolmentRecord) { r.ApproverID = "" },
		"no secret":       func(r *enrolmentRecord) { r.SecretHash = "" },
		"never":           func(r *enrolmentRecord) { r.Expires = r.Created },
		"tries":           func(r *enrolmentRecord) { r.Tries = maxEnrolTries + 1 },
		"fewer tries":     func(r *enrolmentRecord) { r.Tries = -1 },
		"no public key":   func(r *enrolmentRecord) { r.Keys[0].Public = nil },
		"upper-case hash": func(r *enrolmentRecord) { r.SecretHash = strings.ToUpper(r.SecretHash) },
	})
	spoilt(t, "request-signed", map[string]func(*requestRecord){
		"no ID":              func(r *requestRecord) { r.ID = "" },
		"no account":         func(r *requestRecord) { r.AccountID = "" },
		"no name":            func(r *requestRecord) { r.Account = "" },
		"unknown action":     func(r *requestRecord) { r.Action = "export" },
		"unknown state":      func(r *requestRecord) { r.State = "done" },
		"no policy":          func(r *requestRecord) { r.Policy = nil },
		"nobody asked":       func(r *requestRecord) { r.Requester = "" },
		"short seed":         func(r *requestRecord) { r.Seed = r.Seed[1:] },
		"never made":         func(r *requestRecord) { r.Created = time.Time{} },
		"expired before":     func(r *requestRecord) { r.Expires = r.Created.Truncate(time.Second) },
		"fractions":          func(r *requestRecord) { r.Expires = r.Expires.Add(time.Millisecond) },
		"ended at no time":   func(r *requestRecord) { r.Ended = time.Time{} },
		"ended and goes on":  func(r *requestRecord) { r.State = requestPending },
		"fast code":          func(r *requestRecord) { r.Period = 500 },
		"no message type":    func(r *requestRecord) { r.MessageType = "" },
		"policy as well":     func(r *requestRecord) { r.NextPolicy = r.Policy },
		"epoch":              func(r *requestRecord) { r.Epoch = 7 },
		"long input":         func(r *requestRecord) { r.Input = make([]byte, maxInput+1) },
		"answer twice":       func(r *requestRecord) { r.Given[1].Approver = r.Given[0].Approver },
		"answer of nobody":   func(r *requestRecord) { r.Given[0].Approver = "ann" },
		"no decision":        func(r *requestRecord) { r.Given[0].Decision = "" },
		"no signature":       func(r *requestRecord) { r.Given[0].Signatures = nil },
		"empty signature":    func(r *requestRecord) { r.Given[0].Signatures[0].Signature = nil },
		"signature of none":  func(r *requestRecord) { r.Given[0].Signatures[0].Key = "" },
		"unknown kind":       func(r *requestRecord) { r.Given[0].Kinds[0] = "shout" },
		"kind twice":         func(r *requestRecord) { r.Given[0].Kinds[1] = r.Given[0].Kinds[0] },
		"login of nobody":    func(r *requestRecord) { r.Logins = map[string]time.Time{"ann": r.Created} },
		"answered at no day": func(r *requestRecord) { r.Given[0].Time = time.Time{} },
	})
	spoilt(t, "request-policy", map[string]func(*requestRecord){
		"no new policy": func(r *requestRecord) { r.NextPolicy = nil },
		"no epoch":      func(r *requestRecord) { r.Epoch = 0 },
		"message":       func(r *requestRecord) { r.Input = []byte("pay 7") },
		"message type":  func(r *requestRecord) { r.MessageType = "raw" },
	})
}

// TestDecodePolicyRefuses: an account whose record names a policy has that one, and
// an account whose record names none has none.
func TestDecodePolicyRefuses(t *testing.T) {
	other := fixedPolicy()
	other.Quorum = 1
	spoilt(t, "account-policy-previous", map[string]func(*accountRecord){
		"missing":           func(r *accountRecord) { r.Current.Policy = nil },
		"another":           func(r *accountRecord) { r.Current.Policy = other.Marshal() },
		"followed by data":  func(r *accountRecord) { r.Current.Policy = append(slices.Clone(r.Current.Policy), 0) },
		"not a policy":      func(r *accountRecord) { r.Current.Policy = []byte("policy") },
		"missing, previous": func(r *accountRecord) { r.Previous.Policy = nil },
		"another, previous": func(r *accountRecord) { r.Previous.Policy = other.Marshal() },
	})
	spoilt(t, "account", map[string]func(*accountRecord){
		"nobody asked for it": func(r *accountRecord) { r.Current.Policy = other.Marshal() },
	})
}
