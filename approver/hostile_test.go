package approver_test

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// Whatever field a server changes, either the device refuses, or what it signs is what
// it shows, and no approval of what nodes were asked for.
func TestHostileServer(t *testing.T) {
	encode := func(p *approval.Policy) string { return base64.StdEncoding.EncodeToString(p.Marshal()) }
	stranger := newRig(t) // another device, and a policy that has that one
	for _, test := range []struct {
		name string
		lie  func(r *rig, f map[string]any)
		// refused: the device does not even show it. Else it shows the lie, and its
		// signature is for that alone.
		refused bool
	}{
		{"message", func(_ *rig, f map[string]any) { f["input"] = b64("pay 5000 to Eve"); delete(f, "digest") }, false},
		{"message and not its digest", func(_ *rig, f map[string]any) { f["input"] = b64("pay 5000 to Eve") }, true},
		{"digest", func(_ *rig, f map[string]any) { f["digest"] = strings.Repeat("00", 32) }, true},
		{"hash", func(_ *rig, f map[string]any) { f["hash_algorithm"] = "keccak-256"; delete(f, "digest") }, false},
		{"hash unknown", func(_ *rig, f map[string]any) { f["hash_algorithm"] = "md5"; delete(f, "digest") }, true},
		{"message type", func(_ *rig, f map[string]any) {
			f["message_type"], f["hash_algorithm"] = "eip191", "keccak-256"
			delete(f, "digest")
		}, false},
		{"message as a digest", func(_ *rig, f map[string]any) { f["message_type"] = "digest"; delete(f, "digest") }, true},
		{"no message", func(_ *rig, f map[string]any) { f["input"] = ""; delete(f, "digest") }, true},
		{"derivation path", func(_ *rig, f map[string]any) { f["derivation_path"] = "m/0/8" }, false},
		{"tweak", func(_ *rig, f map[string]any) { f["taproot_tweak"] = "bip86" }, false},
		{"requester", func(_ *rig, f map[string]any) { f["requester"] = "entity:mallory" }, false},
		{"requester's name", func(_ *rig, f map[string]any) { f["requester_name"] = "the boss" }, false},
		{"no requester", func(_ *rig, f map[string]any) { f["requester"] = "" }, true},
		{"requester is the approver", func(_ *rig, f map[string]any) { f["requester"] = "entity:alice" }, true},
		{"account ID, never seen", func(_ *rig, f map[string]any) { f["account_id"] = id(0x41).String() }, false},
		{"account ID malformed", func(_ *rig, f map[string]any) { f["account_id"] = "gold" }, true},
		{"public key, never seen", func(_ *rig, f map[string]any) { f["public_key"] = "03" + strings.Repeat("08", 32) }, false},
		{"public key cut", func(_ *rig, f map[string]any) { f["public_key"] = "03" + strings.Repeat("08", 31) }, true},
		{"algorithm", func(_ *rig, f map[string]any) { f["algorithm"] = "ecdsa-p256" }, false},
		{"algorithm unknown", func(_ *rig, f map[string]any) { f["algorithm"] = "rsa" }, true},
		{"mount", func(_ *rig, f map[string]any) { f["mount_id"] = id(0x11).String() }, true},
		{"approver", func(_ *rig, f map[string]any) { f["approver_id"] = id(0x21).String() }, true},
		{"no ticket", func(_ *rig, f map[string]any) { f["ticket"] = "" }, true},
		{"longer expiry", func(_ *rig, f map[string]any) { f["expires"] = now.Add(12 * time.Minute).Unix() }, true},
		{"a little longer expiry", func(_ *rig, f map[string]any) { f["expires"] = now.Add(6 * time.Minute).Unix() }, false},
		{"over", func(_ *rig, f map[string]any) { f["expires"] = now.Unix() }, true},
		{"expiry before 1970", func(_ *rig, f map[string]any) { f["expires"] = -1 }, true},
		{"action", func(_ *rig, f map[string]any) { f["action"] = "policy" }, true},
		{"action unknown", func(_ *rig, f map[string]any) { f["action"] = "export" }, true},
		{"a new policy beside the message", func(r *rig, f map[string]any) { f["next_policy"] = f["policy"] }, true},
		{"an epoch beside the message", func(_ *rig, f map[string]any) { f["epoch"] = 3 }, true},
		{"no policy", func(_ *rig, f map[string]any) { f["policy"] = "" }, true},
		{"policy malformed", func(_ *rig, f map[string]any) { f["policy"] = b64("none") }, true},
		{"policy without this approver", func(_ *rig, f map[string]any) { f["policy"] = encode(stranger.policy) }, true},
		{"policy with another key for this approver", func(r *rig, f map[string]any) {
			p := *r.policy
			p.Approvers = []approval.Approver{r.policy.Approvers[0]}
			p.Approvers[0].Keys = stranger.keys
			f["policy"] = encode(&p)
		}, true},
		{"policy with a longer expiry", func(r *rig, f map[string]any) {
			p := *r.policy
			p.Expiry = time.Hour
			f["policy"] = encode(&p)
		}, false},
		{"policy with this device's key as another's", func(r *rig, f map[string]any) {
			p := *r.policy
			mine := r.policy.Approvers[0]
			mine.ID = id(0x22)
			p.Approvers = []approval.Approver{mine}
			f["policy"] = encode(&p)
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.lie = func(f map[string]any) {
				if _, ok := f["ticket"]; ok {
					test.lie(r, f)
				}
			}
			q, err := r.open(t)
			if (err != nil) != test.refused {
				t.Fatalf("%v", err)
			}
			if err != nil {
				if r.answered != nil || len(r.device.Accounts) != 0 {
					t.Error("something was signed or pinned")
				}
				return
			}
			if reflect.DeepEqual(q.Subject, r.subject()) {
				t.Fatal("the lie changed nothing: the test is for nothing")
			}
			if _, err := q.Approve(t.Context(), r.server, r.ring, approver.Factors{TOTP: "1"}, now); err != nil {
				t.Fatal(err)
			}
			given := r.given(t)
			shown := approval.Statement{Subject: q.Subject, Decision: approval.Approve, Approver: r.approver}
			if err := r.keys[0].Verify(&shown, &given.Signatures[0]); err != nil {
				t.Errorf("the signature is not for what was shown: %v", err)
			}
			u := r.subject()
			b := &approval.Bundle{Request: u.Request, Requester: u.Requester, RequesterName: u.RequesterName, Expires: u.Expires, Given: []approval.Given{given}}
			if _, err := approval.Verify(r.policy, u, b, now); !errors.Is(err, approval.ErrSignature) {
				t.Errorf("nodes take it for what they were asked: %v", err)
			}
		})
	}
}

// The request is the link's, whatever the server answers.
func TestRequestOfTheLink(t *testing.T) {
	r := newRig(t)
	other := id(0x60)
	r.link = approval.Link("mpc:", other, approval.Form{1})
	q, err := r.open(t)
	if err != nil {
		t.Fatal(err)
	}
	if q.Subject.Request != other || r.opened["request"] != other.String() {
		t.Errorf("opened %v, signs for %s", r.opened["request"], q.Subject.Request)
	}
	for _, link := range []string{"", "mpc:", "mpc:#r=" + requestID.String(), "mpc:#f=AAAA", strings.Repeat("x", 4096)} {
		r.link, r.opened = link, nil
		if _, err := r.open(t); err == nil || r.opened != nil {
			t.Errorf("%q: %v", link, err)
		}
	}
}

// Accounts are pinned when they are first seen.
func TestPinnedAccounts(t *testing.T) {
	r := newRig(t)
	if _, err := r.open(t); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		lie    func(f map[string]any)
		accept bool // does --accept-account take it
	}{
		"another public key":           {func(f map[string]any) { f["public_key"] = "03" + strings.Repeat("08", 32) }, false},
		"another algorithm":            {func(f map[string]any) { f["algorithm"] = "ecdsa-p256" }, false},
		"another account of the name":  {func(f map[string]any) { f["account_id"] = id(0x41).String() }, true},
		"the account by another name":  {func(f map[string]any) { f["account"] = "petty-cash" }, true},
		"the same account in capitals": {func(f map[string]any) { f["account"] = "GOLD" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			saved := map[string]approver.Pin{}
			for k, v := range r.device.Accounts {
				saved[k] = v
			}
			defer func() { r.device.Accounts, r.lie = saved, nil }()
			r.lie = test.lie
			if _, err := r.open(t); !errors.Is(err, approver.ErrAccount) || errors.Is(err, approver.ErrHostile) == test.accept {
				t.Errorf("%v", err)
			}
			if !reflect.DeepEqual(r.device.Accounts, saved) {
				t.Error("what was refused was pinned")
			}
			_, err := r.device.Open(t.Context(), r.server, r.ring, approver.Opening{Link: r.link, AcceptAccount: true}, now)
			if (err == nil) != test.accept {
				t.Errorf("accepted: %v", err)
			}
		})
	}
	if _, err := r.open(t); err != nil {
		t.Errorf("the account that is pinned: %v", err)
	}
	// Another policy is said.
	p := *r.policy
	p.Since = 4
	r.facts["policy"] = base64.StdEncoding.EncodeToString(p.Marshal())
	if q, err := r.open(t); err != nil || !q.PolicyChanged {
		t.Errorf("%v", err)
	}
	if q, err := r.open(t); err != nil || q.PolicyChanged {
		t.Errorf("said twice: %v", err)
	}
}

// A change of policy is shown in full and signed over both hashes.
func TestChangeOfPolicy(t *testing.T) {
	r := newRig(t)
	next := *r.policy
	next.Since, next.Expiry = 3, time.Hour
	for _, k := range []string{"input", "digest", "message_type", "hash_algorithm", "derivation_path"} {
		delete(r.facts, k)
	}
	r.facts["action"], r.facts["epoch"], r.facts["next_policy"] = "policy", 3, base64.StdEncoding.EncodeToString(next.Marshal())
	q, err := r.open(t)
	if err != nil {
		t.Fatal(err)
	}
	want := approval.PolicySubject(r.mount, &r.record, &next)
	want.Request, want.Requester, want.RequesterName, want.Expires = requestID, "entity:carol", "carol", now.Add(5*time.Minute).Unix()
	if !reflect.DeepEqual(q.Subject, want) {
		t.Errorf("the device would sign\n%+v\nand nodes check\n%+v", q.Subject, want)
	}
	changes := strings.Join(approver.Compare(q.Policy, q.Next), "\n")
	for _, part := range []string{"- requests end after 10m0s", "+ requests end after 1h0m0s", "  1 of 1 approvers", r.device.KeyID()} {
		if !strings.Contains(changes, part) {
			t.Errorf("%q is missing in\n%s", part, changes)
		}
	}
	if m := q.Message(); !reflect.DeepEqual(m, approver.Message{}) {
		t.Errorf("%+v", m)
	}
	for name, lie := range map[string]func(map[string]any){
		"the old policy":     func(f map[string]any) { f["next_policy"], f["epoch"] = f["policy"], 0 },
		"another epoch":      func(f map[string]any) { f["epoch"] = 4 },
		"a message":          func(f map[string]any) { f["input"] = b64("pay") },
		"a policy of no one": func(f map[string]any) { f["next_policy"] = "" },
		"a policy cut":       func(f map[string]any) { f["next_policy"] = f["next_policy"].(string)[:40] },
		"signing":            func(f map[string]any) { f["action"] = "sign" },
		"a policy of the past": func(f map[string]any) {
			p := *r.policy
			p.Since = 9
			f["policy"] = base64.StdEncoding.EncodeToString(p.Marshal())
		},
	} {
		r.lie = lie
		if _, err := r.open(t); !errors.Is(err, approver.ErrHostile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// Messages are shown as what they are, and nothing in them can look like this
// program's words.
func TestMessage(t *testing.T) {
	typed := `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"Mail":[{"name":"to","type":"string"},{"name":"ids","type":"uint256[]"},{"name":"none","type":"uint256[]"}]},
		"primaryType":"Mail","domain":{"name":"Ether Mail"},"message":{"to":"Bob","ids":[1,"2"],"none":[]}}`
	for name, test := range map[string]struct {
		kind, input string
		check       func(m approver.Message) bool
	}{
		"text": {"raw", "pay 5\nto Bob", func(m approver.Message) bool { return m.Kind == "text" && m.Text == "pay 5\nto Bob" && m.Hex == "" }},
		"bytes": {"raw", "pay\x00", func(m approver.Message) bool {
			return m.Kind == "bytes" && m.Text == "" && m.Hex == hex.EncodeToString([]byte("pay\x00"))
		}},
		"escapes":   {"raw", "pay \x1b[2J", func(m approver.Message) bool { return m.Text == "" }},
		"reordered": {"raw", "pay \u202e5", func(m approver.Message) bool { return m.Text == "" }},
		"not UTF-8": {"raw", "\xff\xfe", func(m approver.Message) bool { return m.Text == "" && m.Hex == "fffe" }},
		"long": {"raw", strings.Repeat("é", 3000), func(m approver.Message) bool {
			return m.Cut && m.Size == 6000 && len(m.Text) <= approver.MaxShown && strings.HasPrefix(m.Text, "éé")
		}},
		"eip191": {"eip191", "hello", func(m approver.Message) bool {
			return m.Kind == "Ethereum message (EIP-191), text" && m.Text == "hello"
		}},
		"eip712": {"eip712", typed, func(m approver.Message) bool {
			want := []approver.Field{{Name: "type", Value: "Mail"}, {Name: "domain.name", Value: "Ether Mail"}, {Name: "message.to", Value: "Bob"},
				{Name: "message.ids[0]", Value: "1"}, {Name: "message.ids[1]", Value: "2"}, {Name: "message.none", Value: "(empty list)"}}
			return reflect.DeepEqual(m.Fields, want)
		}},
		"digest": {"digest", strings.Repeat("x", 32), func(m approver.Message) bool { return strings.Contains(m.Kind, "cannot be seen") && m.Hex != "" }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.facts["input"], r.facts["message_type"] = b64(test.input), test.kind
			delete(r.facts, "digest")
			if test.kind != "raw" {
				r.facts["hash_algorithm"] = ""
			}
			q, err := r.open(t)
			if err != nil {
				t.Fatal(err)
			}
			if m := q.Message(); !test.check(m) {
				t.Errorf("%+v", m)
			}
		})
	}
}
