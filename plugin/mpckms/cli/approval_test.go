package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// approvalDesk stands in for the approval flow of an engine with one approver, alice, and one
// request of an account with a policy. The engine's own checks are tested with it, and
// together with this program in plugin/e2e.
type approvalDesk struct {
	*server
	mount, approver, enrolment, request approval.ID
	seed                                []byte

	mu       sync.Mutex
	keys     []approval.Key // of the enrolled device
	policy   *approval.Policy
	state    string
	answered map[string]any
	lie      func(map[string]any)
}

func fixedID(first byte) (id approval.ID) {
	for i := range id {
		id[i] = first + byte(i)
	}
	return id
}

func newApprovalDesk(t *testing.T) *approvalDesk {
	t.Helper()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
	t.Setenv(envHome, filepath.Join(t.TempDir(), "home"))
	d := &approvalDesk{server: engine(t), mount: fixedID(0x10), approver: fixedID(0x20), enrolment: fixedID(0x30), request: fixedID(0x50),
		seed: bytes.Repeat([]byte{7}, approval.SeedSize), state: "pending"}
	d.on("PUT mpc/approve/enrol", func(w http.ResponseWriter, r *http.Request) {
		d.tokenless(t, r)
		reply(map[string]any{"approver": "alice", "approver_id": d.approver.String(), "mount_id": d.mount.String()})(w, r)
	})
	d.on("PUT mpc/approve/enrol/finish", func(w http.ResponseWriter, r *http.Request) {
		d.tokenless(t, r)
		body := bodyOf(r)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.keys = nil
		for _, kind := range []approval.Kind{approval.Device, approval.Certificate} {
			k, ok := body[string(kind)].(map[string]any)
			if !ok {
				continue
			}
			public, _ := base64.StdEncoding.DecodeString(k["public"].(string))
			d.keys = append(d.keys, approval.Key{Kind: kind, Name: k["name"].(string), Public: public})
		}
		d.policy = &approval.Policy{Quorum: 1, Factors: 2, SignatureFactors: 1, Expiry: 10 * time.Minute, Approvers: []approval.Approver{{
			ID: d.approver, Name: "alice", Requesters: []string{"entity:alice"}, Keys: d.keys, Checked: []approval.Kind{approval.TOTP},
		}}}
		reply(map[string]any{"code": "0000-0000"})(w, r)
	})
	d.on("PUT mpc/approve/open", func(w http.ResponseWriter, r *http.Request) {
		d.tokenless(t, r)
		d.mu.Lock()
		defer d.mu.Unlock()
		facts := d.facts()
		if d.lie != nil {
			d.lie(facts)
		}
		reply(facts)(w, r)
	})
	d.on("PUT mpc/approve/answer", func(w http.ResponseWriter, r *http.Request) {
		d.tokenless(t, r)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.answered = bodyOf(r)
		n := 1
		if d.answered["decision"] == "refuse" {
			n = 0
		}
		reply(map[string]any{"state": map[int]string{0: "refused", 1: "approved"}[n], "approvals": n, "quorum": 1})(w, r)
	})
	return d
}

// tokenless: what devices send carries no Vault token.
func (d *approvalDesk) tokenless(t *testing.T, r *http.Request) {
	if r.Header.Get("X-Vault-Token") != "" {
		t.Errorf("%s came with a token", r.URL.Path)
	}
}

func (d *approvalDesk) facts() map[string]any {
	input := []byte("pay 5 to Bob")
	return map[string]any{
		"ticket": "dGlja2V0", "request": d.request.String(), "approver_id": d.approver.String(), "mount_id": d.mount.String(),
		"account_id": fixedID(0x40).String(), "account": "gold", "public_key": "02" + strings.Repeat("07", 32), "algorithm": string(mpc.ECDSASecp256k1),
		"action": "sign", "message_type": "raw", "hash_algorithm": "sha2-256", "input": base64.StdEncoding.EncodeToString(input),
		"derivation_path": "", "taproot_tweak": "", "requester": "entity:carol", "requester_name": "carol",
		"expires": time.Now().Add(5 * time.Minute).Unix(), "policy": base64.StdEncoding.EncodeToString(d.policy.Marshal()), "approvals": 0,
	}
}

func (d *approvalDesk) link() string {
	return approval.Link("https://vault.example.com/v1/mpc/ui/phone", d.request, approval.FormAt(d.seed, d.request, 0))
}

func (d *approvalDesk) invitation() string {
	return "mpc:#e=" + d.enrolment.String() + "&s=" + base64.RawURLEncoding.EncodeToString([]byte("the secret of the link"))
}

func bodyOf(r *http.Request) (body map[string]any) {
	_ = json.NewDecoder(r.Body).Decode(&body)
	return body
}

func reply(v map[string]any) http.HandlerFunc {
	raw, _ := json.Marshal(v)
	return data(string(raw))
}

// enrolled makes the home's device.
func (d *approvalDesk) enrolled(t *testing.T) {
	t.Helper()
	run(t, "device", "enrol", d.invitation(), "--name", "laptop").want(t, 0, "in clear")
}

// The whole way of a device: enrol, show, approve, refuse.
func TestDeviceApproves(t *testing.T) {
	d := newApprovalDesk(t)
	res := run(t, "device", "enrol", d.invitation(), "--name", "laptop", "-o", "json")
	res.want(t, 0, "in clear")
	var made struct {
		Code    string
		Factors []struct {
			KeyID string `json:"key_id"`
		}
	}
	if err := json.Unmarshal([]byte(res.stdout), &made); err != nil {
		t.Fatal(err)
	}
	if want := approval.EnrolCode(d.mount, d.enrolment, d.approver, d.keys); made.Code != want || len(made.Factors) != 1 || made.Factors[0].KeyID != idOf(d.keys[0]) {
		t.Errorf("%+v, want code %s", made, want)
	}
	info, err := os.Stat(filepath.Join(os.Getenv(envHome), "approver-keyring", "laptop"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if strings.Contains(res.stdout+res.stderr, "the secret of the link") || strings.Contains(res.stdout+res.stderr, base64.RawURLEncoding.EncodeToString([]byte("the secret of the link"))) {
		t.Error("the link's secret was printed")
	}
	run(t, "device", "enrol", d.invitation(), "--name", "laptop").want(t, 2, "already")

	res = run(t, "device", "show", d.link())
	res.want(t, 0)
	for _, part := range []string{"  | pay 5 to Bob", "gold (NEW TO THIS DEVICE", "carol (entity:carol), says the server", strings.Repeat("07", 32), "device \"laptop\" " + idOf(d.keys[0])} {
		if !strings.Contains(res.stdout, part) {
			t.Errorf("%q is missing:\n%s", part, res.stdout)
		}
	}
	code := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(code, []byte("123456\nmore"), 0o600); err != nil {
		t.Fatal(err)
	}
	// There is nobody to ask, and one kind of factor is too few.
	run(t, "device", "approve", d.link()).want(t, 2, "--yes")
	run(t, "device", "approve", d.link(), "--yes").want(t, 1, "nothing was signed", "totp")
	if d.answered != nil {
		t.Fatal("something was answered")
	}
	res = run(t, "device", "approve", d.link(), "--yes", "--totp-file", code)
	res.want(t, 0, "| pay 5 to Bob", "seen by this device before")
	if !strings.Contains(res.stdout, "was approved by you. Its state: approved, approvals 1 of 1.") || d.answered["totp"] != "123456" || d.answered["decision"] != "approve" {
		t.Errorf("%s%v", res.stdout, d.answered)
	}
	if strings.Contains(res.stdout+res.stderr, "123456") {
		t.Error("the one-time code was printed")
	}
	res = run(t, "device", "refuse", d.link(), "-o", "json")
	res.want(t, 0)
	if d.answered["decision"] != "refuse" || !strings.Contains(res.stdout, `"decision": "refused"`) {
		t.Errorf("%s%v", res.stdout, d.answered)
	}
}

func idOf(k approval.Key) string { return k.ID().String() }

// A lie ends with 1 and its reason, and nothing is answered.
func TestDeviceRefusesLies(t *testing.T) {
	d := newApprovalDesk(t)
	d.enrolled(t)
	run(t, "device", "show", d.link()).want(t, 0)
	for name, test := range map[string]struct {
		lie  func(map[string]any)
		says string
	}{
		"mount":      {func(f map[string]any) { f["mount_id"] = fixedID(0x11).String() }, "another mount"},
		"approver":   {func(f map[string]any) { f["approver_id"] = fixedID(0x21).String() }, "another approver"},
		"expiry":     {func(f map[string]any) { f["expires"] = time.Now().Add(time.Hour).Unix() }, "longer than the 10m"},
		"digest":     {func(f map[string]any) { f["digest"] = strings.Repeat("0", 64) }, "the message that it shows has"},
		"public key": {func(f map[string]any) { f["public_key"] = "03" + strings.Repeat("08", 32) }, "its key never changes"},
		"name":       {func(f map[string]any) { f["account"] = "petty-cash" }, "--accept-account"},
		"escapes":    {func(f map[string]any) { f["mount_id"] = "\x1b[2J" }, "another mount"},
	} {
		t.Run(name, func(t *testing.T) {
			d.lie = test.lie
			res := run(t, "device", "approve", d.link(), "--yes", "--totp-file", os.DevNull)
			res.want(t, 1, test.says)
			if d.answered != nil || strings.ContainsRune(res.stdout+res.stderr, '\x1b') {
				t.Errorf("answered %v", d.answered)
			}
		})
	}
	d.lie = func(f map[string]any) { f["account"] = "petty-cash" }
	run(t, "device", "show", d.link(), "--accept-account").want(t, 0)
}

func TestDeviceUsage(t *testing.T) {
	d := newApprovalDesk(t)
	run(t, "device", "show", d.link()).want(t, 2, "mpckms device enrol")
	run(t, "device", "factors").want(t, 0)
	for _, args := range [][]string{{"enrol", "https://vault"}, {"enrol"}, {"show", "x"}, {"approve"}, {"refuse", "r=1&f=2"}, {"enrol", d.invitation(), "--name", "../x"}} {
		run(t, append([]string{"device"}, args...)...).want(t, 2, "--help")
	}
	if len(d.called("PUT mpc/approve/open")) != 0 {
		t.Error("something was sent")
	}
}

// The code of a request is derived here, of what was fetched once.
func TestRequestQR(t *testing.T) {
	d := newApprovalDesk(t)
	created := time.Now().Add(-3 * time.Second)
	d.on("PUT mpc/requests/"+d.request.String()+"/code", reply(map[string]any{
		"seed": base64.StdEncoding.EncodeToString(d.seed), "period_ms": 60_000, "created_unix_ms": created.UnixMilli(),
		"server_unix_ms": time.Now().UnixMilli(), "link_base": "https://vault.example.com/v1/mpc/ui/phone",
	}))
	run(t, "request", "qr", d.request.String()).want(t, 2, "no terminal")
	if len(d.called("PUT mpc/requests/"+d.request.String()+"/code")) != 0 {
		t.Error("the seed was fetched for nothing")
	}
	res := run(t, "request", "qr", d.request.String(), "--link")
	res.want(t, 0)
	if res.stdout != d.link()+"\n" {
		t.Errorf("%q, want %q", res.stdout, d.link())
	}
	res = run(t, "request", "qr", d.request.String(), "--once")
	res.want(t, 0)
	if got := readBlocks(t, res.stdout); got != d.link() {
		t.Errorf("the blocks read as %q, want %q", got, d.link())
	}
	if strings.Contains(res.stdout+res.stderr, hex.EncodeToString(d.seed)) || strings.Contains(res.stdout, base64.StdEncoding.EncodeToString(d.seed)) {
		t.Error("the seed was printed")
	}
	run(t, "request", "qr", "nonsense").want(t, 2, "32 lower-case hex digits")
}

const somePolicyHash = "0d0d"

// TestApprovalGolden: what commands print.
func TestApprovalGolden(t *testing.T) {
	d := newApprovalDesk(t)
	id := d.request.String()
	pending := `"request":"` + id + `","account":"gold","account_id":"aa","action":"sign","state":"pending","requester":"entity:e1","requester_name":"carol",
		"created_time":"2026-01-02T03:04:05Z","expires_time":"2026-01-02T03:14:05Z","approvals":0,"refusals":0,"quorum":2,"approvers":["alice","ben"],
		"answers":[],"digest":"cc","signing_digest":"dd","message_type":"raw","hash_algorithm":"sha2-256","signature_format":"der","policy_hash":"0d0d","by_owner":false`
	answers := `[{"approver":"alice","approver_id":"aa","decision":"approve","kinds":["device","totp"],"checked_by":{"device":"nodes","totp":"coordinator"},"time":"2026-01-02T03:05:05Z"},
		{"approver":"ben","approver_id":"bb","decision":"approve","kinds":["device","certificate"],"checked_by":{"device":"nodes","certificate":"nodes"},"time":"2026-01-02T03:05:35Z"}]`
	done := strings.NewReplacer(`"state":"pending"`, `"state":"signed"`, `"approvals":0`, `"approvals":2`, `"answers":[]`, `"answers":`+answers).Replace(pending) + `,"ended_time":"2026-01-02T03:05:36Z","result":` + signData
	d.on("PUT mpc/sign/gold", data("{"+pending+"}"))
	d.on("LIST mpc/requests", data(`{"keys":["`+id+`"],"key_info":{"`+id+`":{`+pending+`}}}`))
	d.on("GET mpc/requests/"+id, data("{"+done+"}"))
	waits := 0
	d.on("PUT mpc/requests/"+id+"/wait", func(w http.ResponseWriter, r *http.Request) {
		waits++
		data("{"+map[bool]string{true: pending, false: done}[waits%2 == 1]+"}")(w, r)
	})
	d.on("PUT mpc/requests/"+id+"/cancel", data("{"+strings.Replace(pending, `"state":"pending"`, `"state":"cancelled","reason":"by entity:e1"`, 1)+"}"))
	alice := `{"name":"alice","id":"00112233445566778899aabbccddeeff","identity":"","entity_ids":["e7"],"no_entity":false,"requesters":["entity:e7"],
		"factors":[{"key_id":"aa00","kind":"device","name":"laptop","added_time":"2026-01-02T03:04:05Z","checked_by":"nodes"}],"checked":["totp"],
		"totp":{"state":"confirmed","checked_by":"coordinator"},"created_time":"2026-01-02T03:04:05Z"}`
	d.on("LIST mpc/approvers", data(`{"keys":["alice","ben"]}`))
	d.on("GET mpc/approvers/alice", data(alice))
	d.on("GET mpc/approvers/dora", fails(404, `there is no approver "dora"`))
	d.on("PUT mpc/approvers/dora", data(`{"name":"dora","id":"0022","factors":[],"requesters":["none"],"no_entity":true,"totp":{"state":"none"},"created_time":"2026-01-02T03:04:05Z"}`))
	d.on("PUT mpc/approvers/alice/enrol", data(`{"enrolment":"0f0f","link":"mpc:#e=0f0f&s=AAAA","secret":"AAAA","expires_time":"2026-01-02T03:14:05Z"}`))
	d.on("PUT mpc/approvers/ben/enrol", data(`{"enrolment":"0f0f","link":"https://vault.example.com/v1/mpc/ui/phone#e=`+d.enrolment.String()+`&s=AAAA","secret":"AAAA","expires_time":"2026-01-02T03:14:05Z"}`))
	d.on("PUT mpc/approvers/alice/confirm", data(alice))
	d.on("PUT mpc/approvers/alice/totp", data(`{"url":"otpauth://totp/mpc:alice?secret=ABC","secret":"ABC"}`))
	d.on("PUT mpc/approvers/alice/totp/confirm", data(alice))
	d.on("DELETE mpc/approvers/alice", data(`{"accounts":["gold","cold"]}`))
	policy := `{"approvers":[{"name":"alice","id":"aa","requesters":["entity:e7"],"keys":[{"key_id":"aa00","kind":"device","name":"laptop","public_key":"AA=="}],"checked":["totp"]}],
		"quorum":1,"factors":2,"signature_factors":1,"request_expiry":600,"since_epoch":3,"policy_hash":"` + somePolicyHash + `","policy_bytes":"AA=="}`
	d.on("GET mpc/accounts/gold/policy", data(policy))
	d.on("GET mpc/accounts/treasury/policy", data(`{}`))
	d.on("PUT mpc/accounts/treasury/policy", data(policy))
	d.on("PUT mpc/accounts/gold/policy", data("{"+strings.Replace(pending, `"action":"sign"`, `"action":"policy","next_policy_hash":"0e0e","epoch":3`, 1)+"}"))
	for _, test := range []struct{ name, args string }{
		{"sign_pending", "sign gold --input hello"},
		{"sign_wait", "account sign gold --input hello --wait"},
		{"request_list", "request list --account gold --state pending"},
		{"request_show", "request show " + id},
		{"request_wait", "request wait " + id},
		{"request_cancel", "request cancel " + id},
		{"approver_list", "approver list"},
		{"approver_show", "approver show alice"},
		{"approver_create", "approver create dora --no-entity"},
		{"approver_enrol", "approver enrol alice --label laptop --ttl 5m"},
		{"approver_enrol_code", "approver enrol ben --qr"},
		{"approver_confirm", "approver confirm alice --code 1234-5678"},
		{"approver_totp", "approver totp alice"},
		{"approver_totp_confirm", "approver totp alice --confirm 123456"},
		{"approver_delete", "approver delete alice"},
		{"account_policy_show", "account policy show gold"},
		{"account_policy_none", "account policy show treasury"},
		{"account_policy_set", "account policy set treasury --approver alice"},
		{"account_policy_change", "account policy set gold --approver alice --approver ben --quorum 2"},
	} {
		for _, format := range []string{"table", "json"} {
			t.Run(test.name+"/"+format, func(t *testing.T) {
				waits = 0
				res := runConfig(t, Config{Args: append(strings.Fields(test.args), "-o", format), Version: "v1.2.3"})
				if res.code != 0 {
					t.Errorf("exit code %d: %s", res.code, res.stderr)
				}
				golden(t, test.name+"."+format, res.stdout)
				if format == "json" && !json.Valid([]byte(res.stdout)) {
					t.Error("stdout is not one JSON document")
				}
			})
		}
	}
	if calls := d.called("LIST mpc/requests"); len(calls) == 0 || calls[0].query.Get("account") != "gold" || calls[0].query.Get("state") != "pending" {
		t.Errorf("%+v", calls)
	}
	if calls := d.called("PUT mpc/accounts/gold/policy"); len(calls) == 0 || fmt.Sprint(calls[0].body) != "map[approvers:[alice ben] quorum:2]" {
		t.Errorf("%+v", calls)
	}
	// What ended otherwise ends with 1.
	for _, state := range []string{"refused", "expired", "cancelled", "failed"} {
		d.on("PUT mpc/requests/"+id+"/wait", data("{"+strings.Replace(pending, "pending", state, 1)+"}"))
		said := "is " + state
		if state == "failed" {
			said = "has failed"
		}
		run(t, "request", "wait", id).want(t, 1, said, "nothing was signed")
		res := run(t, "sign", "gold", "--input", "hello", "--wait")
		res.want(t, 1, said)
		if strings.Contains(res.stdout, "Signature ") {
			t.Errorf("something looks like a signature:\n%s", res.stdout)
		}
	}
	d.on("PUT mpc/requests/"+id+"/wait", data("{"+pending+"}"))
	run(t, "request", "wait", id, "--timeout", "50ms").want(t, 1, "has not ended within", "waits again")
}

// TestPolicyOfNewAccount: the flags of account create.
func TestPolicyOfNewAccount(t *testing.T) {
	s := engine(t)
	run(t, "account", "create", "fresh", "--algorithm", "ed25519", "--approver", "alice", "--approver", "ben", "--quorum", "1", "--factors", "3",
		"--signature-factors", "2", "--request-expiry", "30m").want(t, 0)
	calls := s.called("PUT mpc/accounts/fresh")
	if len(calls) != 1 {
		t.Fatalf("%d requests", len(calls))
	}
	got, _ := json.Marshal(calls[0].body)
	if want := `{"algorithm":"ed25519","approvers":["alice","ben"],"factors":3,"quorum":1,"request_expiry":"30m0s","shares":3,"signature_factors":2,"threshold":2}`; string(got) != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	run(t, "account", "create", "fresh", "--algorithm", "ed25519", "--quorum", "1").want(t, 2, "go with --approver")
	run(t, "account", "policy", "set", "fresh").want(t, 2, "cannot be taken off")
}
