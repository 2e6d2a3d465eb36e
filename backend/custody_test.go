package backend

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// owned makes an account with user custody and returns its owner.
func (m *mount) owned(name, algorithm string) *owner {
	m.t.Helper()
	o := newOwner(m.t, m.storage, "owner-of-"+name)
	d := m.must(logical.UpdateOperation, "accounts/"+name, map[string]any{
		"algorithm": algorithm, "custody_identity": o.name, "custody_asset": "key"})
	if c, _ := d["custody"].(map[string]any); c["identity"] != o.name || c["asset"] != "key" || c["public_key"] != o.public(identity.CustodyKey) ||
		c["identity_id"] != o.identity.ID || c["asset_id"] != o.asset.ID.String() {
		m.t.Fatalf("made with custody %v", d["custody"])
	}
	return o
}

func (m *mount) beginOwned(name string, data map[string]any) map[string]any {
	m.t.Helper()
	return m.must(logical.UpdateOperation, "custody/"+name+"/begin", data)
}

var helloToSign = map[string]any{"operation": "sign", "input": "aGVsbG8="} // read only

// finishing is what the owner's client sends.
func (m *mount) finishing(begun map[string]any, more map[string]any) map[string]any {
	m.t.Helper()
	out := map[string]any{"release": begun["release"], "releases": releasesFor(m.t, begun)}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func (m *mount) finishOwned(name string, begun map[string]any) map[string]any {
	m.t.Helper()
	return m.must(logical.UpdateOperation, "custody/"+name+"/finish", m.finishing(begun, nil))
}

// signsOwned signs as the owner does.
func (m *mount) signsOwned(name string) map[string]any {
	m.t.Helper()
	d := m.finishOwned(name, m.beginOwned(name, helloToSign))
	if v := m.must(logical.UpdateOperation, "verify/"+name, map[string]any{"input": "aGVsbG8=", "signature": d["signature"]}); v["valid"] != true {
		m.t.Errorf("the signature of %s is not valid", name)
	}
	return d
}

func TestCustodySigns(t *testing.T) {
	for _, algorithm := range mpc.Algorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			m := configured(t)
			o := m.owned("carol", string(algorithm))
			r := m.record("carol")
			a, err := r.Current.account()
			if err != nil {
				t.Fatal(err)
			}
			if a.Record.Custody != mpc.CustodyHash(o.asset.Key(identity.CustodyKey).Public) {
				t.Error("the public record names another custody key")
			}
			begun := m.beginOwned("carol", helloToSign)
			if begun["custody_public_key"] != o.public(identity.CustodyKey) || begun["next_custody_public_key"] != o.public(identity.CustodyKey) || begun["refresh_due"] != false {
				t.Errorf("begun: %v", begun)
			}
			if raw, _ := base64.StdEncoding.DecodeString(begun["record"].(string)); !bytes.Equal(raw, r.Current.Record) {
				t.Error("begin shows another record")
			}
			signers := begun["signers"].([]map[string]any)
			if len(signers) != 2 {
				t.Fatalf("%d signers", len(signers))
			}
			for _, s := range signers {
				if raw, _ := base64.StdEncoding.DecodeString(s["envelope"].(string)); !bytes.Equal(raw, r.Current.Shares[s["index"].(int)-1]) {
					t.Errorf("signer %v has another envelope", s["index"])
				}
			}
			d := m.finishOwned("carol", begun)
			for _, field := range []string{"signature", "signature_format", "share_epoch", "signers", "public_key"} {
				if d[field] == nil {
					t.Errorf("the answer has no %s", field)
				}
			}
			m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), http.StatusConflict, "begin again")
			m.signsOwned("carol")
			if n, _ := value(m.scrape(), "mpc_signatures_total", "algorithm="+string(algorithm), "presigned=false"); n != 2 {
				t.Errorf("the metrics count %v signatures", n)
			}
		})
	}
}

// TestCustodyNeedsItsOwner: nothing that opens shares goes without the owner, and
// everything that does not is as ever.
func TestCustodyNeedsItsOwner(t *testing.T) {
	m := configured(t)
	m.owned("carol", "ecdsa-p256")
	m.create("dave", "ed25519")
	const own = "mpckms account"
	for path, data := range map[string]map[string]any{
		"sign/carol":             {"input": "aGVsbG8="},
		"accounts/carol/csr":     {"common_name": "carol"},
		"accounts/carol/refresh": nil,
	} {
		m.fails(logical.UpdateOperation, path, data, http.StatusConflict, own)
	}
	m.fails(logical.UpdateOperation, "sign/carol", map[string]any{"batch_input": []any{map[string]any{"input": "aGVsbG8="}}}, http.StatusConflict, own)
	m.fails(logical.ReadOperation, "recovery/export/carol", nil, http.StatusBadRequest, "cannot rebuild it")
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"presign": 1}, http.StatusBadRequest, "no presignatures")
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"custody_identity": "x", "custody_asset": "y"}, http.StatusBadRequest, "cannot be changed")
	m.fails(logical.UpdateOperation, "custody/dave/begin", helloToSign, http.StatusBadRequest, "no user custody")
	m.fails(logical.UpdateOperation, "custody/nobody/begin", helloToSign, http.StatusNotFound, "no account")
	m.fails(logical.UpdateOperation, "custody/carol/begin", map[string]any{"operation": "export"}, http.StatusBadRequest, "sign or refresh")
	m.fails(logical.UpdateOperation, "custody/carol/begin", map[string]any{"operation": "refresh", "input": "aGVsbG8="}, http.StatusBadRequest, "signs nothing")
	m.fails(logical.UpdateOperation, "custody/carol/begin", map[string]any{"operation": "sign"}, http.StatusBadRequest, "input is missing")
	if _, err := m.b.RefreshAccount(context.Background(), "carol"); err == nil {
		t.Error("the clock refreshed it")
	}
	m.must(logical.ReadOperation, "accounts/carol/jwk", nil)
	if d := m.must(logical.ReadOperation, "accounts/carol", nil); d["last_refresh_error"] != "" {
		t.Errorf("what was refused shows as a failed refresh: %v", d["last_refresh_error"])
	}
	m.must(logical.UpdateOperation, "accounts/carol", map[string]any{"metadata": map[string]any{"a": "b"}})
	m.signs("dave")
}

func TestCustodyCreateRefuses(t *testing.T) {
	m := configured(t)
	o := newOwner(t, m.storage, "carol")
	base := map[string]any{"algorithm": "ed25519", "custody_identity": "carol", "custody_asset": "key"}
	with := func(more map[string]any) map[string]any {
		out := map[string]any{}
		for _, list := range []map[string]any{base, more} {
			for k, v := range list {
				out[k] = v
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		data   map[string]any
		status int
		text   string
	}{
		"no asset named":   {map[string]any{"algorithm": "ed25519", "custody_identity": "carol"}, 400, "go together"},
		"no such identity": {with(map[string]any{"custody_identity": "nobody"}), 400, "no identity"},
		"no such asset":    {with(map[string]any{"custody_asset": "nothing"}), 400, "no asset"},
		"a path":           {with(map[string]any{"custody_asset": "../key"}), 400, "custody_asset"},
		"presignatures":    {with(map[string]any{"algorithm": "ecdsa-p256", "presign": 1}), 400, "no presignatures"},
	} {
		t.Run(name, func(t *testing.T) {
			m.fails(logical.UpdateOperation, "accounts/x", c.data, c.status, c.text)
		})
	}
	o.freeze(true)
	m.fails(logical.UpdateOperation, "accounts/x", base, 409, "frozen")
	o.freeze(false)
	m.must(logical.UpdateOperation, "accounts/x", base)
	m.fails(logical.UpdateOperation, "accounts/y", base, 409, "tied to this asset already")
	o.write(o.asset, func(a *identity.Asset) error { a.Account = strings.Repeat("ab", 16); return nil })
	m.fails(logical.UpdateOperation, "accounts/y", base, 409, "belongs to the account")

	// Nodes that leave the custody key out, or put one in, make no account.
	o2 := newOwner(t, m.storage, "dave")
	m.fake.mismatch = func(r *pool.KeyResult) { r.Account.Record.Custody = [32]byte{} }
	m.fails(logical.UpdateOperation, "accounts/z", map[string]any{"algorithm": "ed25519", "custody_identity": "dave", "custody_asset": "key"}, 500, "no account was created")
	m.fake.mismatch = func(r *pool.KeyResult) {
		for i := range r.Account.Shares {
			r.Account.Shares[i].Envelope = envelope(r.Account.Shares[i].Index, r.Account.Record.Hash(), 1)
		}
	}
	m.fails(logical.UpdateOperation, "accounts/z", map[string]any{"algorithm": "ed25519", "custody_identity": "dave", "custody_asset": "key"}, 500, "no account was created")
	m.fake.mismatch = nil
	_ = o2
	if r, err := m.b.store.account(context.Background(), "z"); err != nil || r != nil {
		t.Errorf("an account is there: %v %v", r, err)
	}
}

func TestCustodyFinishRefuses(t *testing.T) {
	m := configured(t)
	o := m.owned("carol", "ed25519")
	m.owned("other", "ed25519")
	begun := m.beginOwned("carol", helloToSign)
	one := m.finishing(begun, nil)
	bad := func(change func(map[string]any)) map[string]any {
		out := m.finishing(begun, nil)
		change(out)
		return out
	}
	for name, c := range map[string]struct {
		path   string
		data   map[string]any
		status int
		text   string
	}{
		"no release":          {"carol", bad(func(d map[string]any) { delete(d, "release") }), 400, "release is missing"},
		"an unknown release":  {"carol", bad(func(d map[string]any) { d["release"] = strings.Repeat("00", 16) }), 409, "begin again"},
		"another account":     {"other", one, 409, "begin again"},
		"no releases":         {"carol", bad(func(d map[string]any) { delete(d, "releases") }), 400, "JSON list"},
		"not a list":          {"carol", bad(func(d map[string]any) { d["releases"] = "hello" }), 400, "JSON list"},
		"one missing":         {"carol", bad(func(d map[string]any) { d["releases"] = d["releases"].([]map[string]any)[:1] }), 400, "none for share"},
		"one twice":           {"carol", bad(func(d map[string]any) { l := d["releases"].([]map[string]any); l[1]["index"] = l[0]["index"] }), 400, "JSON list"},
		"a foreign format":    {"carol", bad(func(d map[string]any) { d["signature_format"] = "der" }), 400, "signature_format"},
		"a malformed request": {"carol", bad(func(d map[string]any) { d["request_id"] = "with space" }), 400, "request_id"},
	} {
		t.Run(name, func(t *testing.T) {
			m.fails(logical.UpdateOperation, "custody/"+c.path+"/finish", c.data, c.status, c.text)
		})
	}
	// None of these has used the release up.
	m.finishOwned("carol", begun)

	// Text as the CLI sends it.
	begun = m.beginOwned("carol", helloToSign)
	var text strings.Builder
	for i, r := range releasesFor(t, begun) {
		fmt.Fprintf(&text, `%s{"index":%v,"release":%q}`, map[bool]string{true: "[", false: ","}[i == 0], r["index"], r["release"])
	}
	m.must(logical.UpdateOperation, "custody/carol/finish", map[string]any{"release": begun["release"], "releases": text.String() + "]"})

	// A wrong release uses it up: nodes were told.
	begun = m.beginOwned("carol", helloToSign)
	wrong := m.finishing(begun, nil)
	wrong["releases"].([]map[string]any)[0]["release"] = "AAAA"
	m.fails(logical.UpdateOperation, "custody/carol/finish", wrong, 409, "begin again")
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), 409, "begin again")

	// Where nodes were told nothing it can be used again.
	begun = m.beginOwned("carol", helloToSign)
	m.fake.custodyErr = &pool.BusyError{Waiting: 7}
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), 429, "busy")
	m.fake.custodyErr = nil
	m.finishOwned("carol", begun)

	// Frozen in between: the account, the identity.
	begun = m.beginOwned("carol", helloToSign)
	m.must(logical.UpdateOperation, "accounts/carol/freeze", nil)
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), 409, "frozen")
	m.fails(logical.UpdateOperation, "custody/carol/begin", helloToSign, 409, "frozen")
	m.must(logical.UpdateOperation, "accounts/carol/unfreeze", nil)
	o.freeze(true)
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), 409, "identity")
	for _, operation := range []string{"sign", "refresh"} {
		data := map[string]any{"operation": operation}
		if operation == "sign" {
			data["input"] = "aGVsbG8="
		}
		m.fails(logical.UpdateOperation, "custody/carol/begin", data, 409, "stolen")
	}
	o.freeze(false)
	m.finishOwned("carol", begun)

	// Its time is over.
	begun = m.beginOwned("carol", helloToSign)
	m.b.custody.now = func() time.Time { return time.Now().Add(custodyWait) }
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), 409, "begin again")
}

func TestCustodyRequestID(t *testing.T) {
	m := configured(t)
	m.owned("carol", "ecdsa-secp256k1")
	id := map[string]any{"request_id": "order-1"}
	first := m.must(logical.UpdateOperation, "custody/carol/finish", m.finishing(m.beginOwned("carol", helloToSign), id))
	again := m.must(logical.UpdateOperation, "custody/carol/finish", m.finishing(m.beginOwned("carol", helloToSign), id))
	if first["replayed"] != false || again["replayed"] != true || first["signature"] != again["signature"] {
		t.Errorf("first %v, again %v", first, again)
	}
	other := m.beginOwned("carol", map[string]any{"operation": "sign", "input": "d29ybGQ="})
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(other, id), 409, "another payload")
}

func TestCustodyRefresh(t *testing.T) {
	m := configured(t)
	o := m.owned("carol", "ed25519")
	before := m.must(logical.ReadOperation, "accounts/carol", nil)
	signing := m.beginOwned("carol", helloToSign)
	begun := m.beginOwned("carol", map[string]any{"operation": "refresh"})
	if n := len(begun["signers"].([]map[string]any)); n != 3 {
		t.Fatalf("%d of 3 nodes take part", n)
	}
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, map[string]any{"request_id": "a"}), 400, "for a refresh")
	after := m.finishOwned("carol", begun)
	if after["share_epoch"] != uint64(2) || after["public_key"] != before["public_key"] || after["epoch_id"] == before["epoch_id"] || after["session_id"] == nil {
		t.Errorf("after the refresh: %v", after)
	}
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(signing, nil), 409, "begin again")
	m.signsOwned("carol")

	// Another custody key takes over, in the same Put as the shares.
	o.replace()
	if d := m.must(logical.ReadOperation, "accounts/carol", nil); d["custody_pending"] != true {
		t.Errorf("a key waits: %v", d)
	}
	old, next := o.public(identity.CustodyKey), o.public(identity.NextCustodyKey)
	m.signsOwned("carol") // with the old one
	begun = m.beginOwned("carol", map[string]any{"operation": "refresh"})
	if begun["custody_public_key"] != old || begun["next_custody_public_key"] != next {
		t.Errorf("begin says %v and %v", begun["custody_public_key"], begun["next_custody_public_key"])
	}
	d := m.finishOwned("carol", begun)
	if c := d["custody"].(map[string]any); c["public_key"] != next || d["custody_pending"] != false {
		t.Errorf("after the replacement: %v, pending %v", c, d["custody_pending"])
	}
	a, err := m.record("carol").Current.account()
	if err != nil || a.Record.Custody != mpc.CustodyHash(o.asset.Key(identity.NextCustodyKey).Public) {
		t.Errorf("the record names another custody key (%v)", err)
	}
	o.promote()
	m.signsOwned("carol")
	if d := m.must(logical.ReadOperation, "accounts/carol", nil); d["custody_pending"] != false {
		t.Errorf("nothing waits: %v", d)
	}

	// The asset changes between begin and finish.
	begun = m.beginOwned("carol", map[string]any{"operation": "refresh"})
	o.replace()
	m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(begun, nil), 409, "begin again")

	// Nodes that seal to another key than was agreed change nothing.
	epoch := m.record("carol").Current.Record
	for name, change := range map[string]func(*pool.KeyResult){
		"another custody key": func(r *pool.KeyResult) { r.Account.Record.Custody[0] ^= 1 },
		"no custody key":      func(r *pool.KeyResult) { r.Account.Record.Custody = [32]byte{} },
		"no seal": func(r *pool.KeyResult) {
			r.Account.Shares[1].Envelope = envelope(2, r.Account.Record.Hash(), r.WrappingVersion)
		},
	} {
		m.fake.mismatch = change
		m.fails(logical.UpdateOperation, "custody/carol/finish", m.finishing(m.beginOwned("carol", map[string]any{"operation": "refresh"}), nil), 500, "void")
		if !bytes.Equal(m.record("carol").Current.Record, epoch) {
			t.Errorf("%s: the account has other shares", name)
		}
	}
	m.fake.mismatch = nil
	m.finishOwned("carol", m.beginOwned("carol", map[string]any{"operation": "refresh"}))

	// Frozen accounts are refreshed as any other.
	m.must(logical.UpdateOperation, "accounts/carol/freeze", nil)
	m.finishOwned("carol", m.beginOwned("carol", map[string]any{"operation": "refresh"}))
}

// TestCustodyClock: the clock leaves these accounts to their owners, and rewraps
// them by itself.
func TestCustodyClock(t *testing.T) {
	clk, fake := newClock(), newFake(t)
	m := openWith(t, &logical.InmemStorage{}, fake, func(c *Config) { c.now = clk.now })
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	m.owned("carol", "ed25519")
	if d := m.must(logical.ReadOperation, "accounts/carol", nil); d["refresh_due"] != false {
		t.Errorf("due at once: %v", d["refresh_due"])
	}
	clk.add(30 * 24 * time.Hour)
	if d := m.must(logical.ReadOperation, "accounts/carol", nil); d["refresh_due"] != true {
		t.Errorf("not due after a month: %v", d["refresh_due"])
	}
	if begun := m.beginOwned("carol", helloToSign); begun["refresh_due"] != true {
		t.Error("begin does not say that a refresh is due")
	}
	records, err := m.b.Schedule(context.Background())
	if err != nil || len(records) != 1 || !records[0].ByOwner {
		t.Fatalf("%+v %v", records, err)
	}
	m.b.runner.Set(records[0])
	if p := m.b.runner.Progress(); p.Overdue != 0 || p.Due != 0 || p.ByOwner != 1 {
		t.Errorf("progress %+v", p)
	}
	m.signsOwned("carol")

	version := m.rotate()
	before := m.record("carol").Current
	begun := m.beginOwned("carol", helloToSign) // stays good over the rewrap
	m.rewrap("carol")
	r := m.record("carol")
	if r.Current.WrappingVersion != version || r.Previous != nil || !bytes.Equal(r.Current.Record, before.Record) {
		t.Errorf("after the rewrap: version %d, previous kept %v", r.Current.WrappingVersion, r.Previous != nil)
	}
	m.finishOwned("carol", begun)

	// Nodes that change more than the seals are not believed, nor is a seal that
	// does not open.
	m.rotate()
	kept := m.record("carol").Current.Shares
	fake.rewrapMismatch = func(res *pool.RewrapResult) {
		res.Shares[0].Envelope = custodyEnvelope([]byte("something else"), res.WrappingVersion)
	}
	if _, err := m.b.RewrapAccount(context.Background(), "carol"); err == nil || !strings.Contains(err.Error(), "more than its seals") {
		t.Errorf("a rewrap that changes the content: %v", err)
	}
	fake.rewrapMismatch, fake.garbage = nil, true
	if _, err := m.b.RewrapAccount(context.Background(), "carol"); !errors.Is(err, errRolledBack) {
		t.Errorf("a rewrap whose seal does not open: %v", err)
	}
	if now := m.record("carol").Current.Shares; !bytes.Equal(now[0], kept[0]) {
		t.Error("it did not go back to the old shares")
	}
	m.signsOwned("carol")
}

// TestCustodyWithoutItsAsset: an account whose identity is gone is readable, and
// does nothing else.
func TestCustodyWithoutItsAsset(t *testing.T) {
	m := configured(t)
	o := m.owned("carol", "ed25519")
	if err := m.storage.Delete(context.Background(), prefixAssets+o.identity.ID+"/key"); err != nil {
		t.Fatal(err)
	}
	d := m.must(logical.ReadOperation, "accounts/carol", nil)
	if c := d["custody"].(map[string]any); c["asset"] != "" || c["asset_id"] != o.asset.ID.String() {
		t.Errorf("custody %v", c)
	}
	m.fails(logical.UpdateOperation, "custody/carol/begin", helloToSign, 409, "restore")
}

func TestCustodyOpsBounds(t *testing.T) {
	now := time.Now()
	c := newCustodyOps(func() time.Time { return now })
	offer := func(size int) *pool.CustodyOffer {
		return &pool.CustodyOffer{Request: pool.CustodyRequest{Input: make([]byte, size)}, Expires: time.Now().Add(time.Minute)}
	}
	first, err := c.add("a", offer(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range maxCustodyPerAccount {
		now = now.Add(time.Millisecond)
		if _, err := c.add("a", offer(1), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.take("a", first.release); err == nil {
		t.Error("the oldest did not make room")
	}
	var busy *pool.BusyError
	if _, err := c.add("b", offer(maxCustodyBytes), nil); !errors.As(err, &busy) {
		t.Errorf("too many bytes: %v", err)
	}
	for i := 0; len(c.ops) < maxCustodyOps; i++ {
		if _, err := c.add(fmt.Sprint("x", i), offer(0), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.add("b", offer(0), nil); !errors.As(err, &busy) {
		t.Errorf("too many: %v", err)
	}
	now = now.Add(time.Hour)
	op, err := c.add("b", offer(0), nil)
	if err != nil || len(c.ops) != 1 || c.bytes != 0 {
		t.Fatalf("after their time: %v, %d kept with %d bytes", err, len(c.ops), c.bytes)
	}
	if _, err := c.take("b", op.release); err != nil {
		t.Fatal(err)
	}
	if _, err := c.take("b", op.release); err == nil || !strings.Contains(err.Error(), "being used") {
		t.Errorf("taken twice: %v", err)
	}
	c.giveBack(op)
	if _, err := c.take("b", op.release); err != nil {
		t.Error(err)
	}
	c.drop(op)
	if _, err := c.take("b", op.release); err == nil {
		t.Error("dropped and taken")
	}
}

var ownedByCarol = map[string]any{"algorithm": "ed25519", "custody_identity": "owner-of-carol", "custody_asset": "key"} // read only

// tryOwned begins and finishes an operation as far as it gets.
func (m *mount) tryOwned(name string, data map[string]any) {
	m.t.Helper()
	begun, status, _ := m.do(logical.UpdateOperation, "custody/"+name+"/begin", data)
	if status == http.StatusOK {
		m.do(logical.UpdateOperation, "custody/"+name+"/finish", m.finishing(begun.Data, nil))
	}
}

// TestCustodyCatchUp: catching up leaves these accounts out, and says so.
func TestCustodyCatchUp(t *testing.T) {
	m := openWith(t, &logical.InmemStorage{}, newFake(t), func(c *Config) { c.now = time.Now })
	configure(m)
	m.owned("carol", "ed25519")
	m.b.startBackground()
	m.b.tasks.Wait()
	until(t, m, "the accounts are read", func(d map[string]any) bool { return d["accounts"] == 1 && m.b.runner.Progress().Loaded })
	resp, status, _ := m.do(logical.UpdateOperation, "rotation/catch-up", map[string]any{"all": true})
	if status != http.StatusOK || resp.Data["remaining"] != 0 || !strings.Contains(fmt.Sprint(resp.Warnings), "1 account(s) with user custody") {
		t.Errorf("status %d, %+v", status, resp)
	}
	if d := m.must(logical.ReadOperation, "accounts/carol", nil); d["share_epoch"] != uint64(1) || d["refresh_due"] != false {
		t.Errorf("epoch %v, due %v", d["share_epoch"], d["refresh_due"])
	}

	// Other recovery custodians: only the owner can bring the account to them.
	var hash [32]byte
	hash[0] = 1
	if err := m.b.store.put(context.Background(), keyRecovery, &recoveryRecord{Version: recordVersion, Authority: strings.Repeat("ab", 32), Pinned: time.Now(),
		SetHash: fmt.Sprintf("%x", hash), Serial: 1}); err != nil {
		t.Fatal(err)
	}
	r := m.record("carol")
	if _, err := m.b.refreshDue(context.Background(), "carol", r); err == nil {
		t.Error("a set in force that is missing from storage goes unnoticed")
	}
	if err := m.b.store.put(context.Background(), prefixRecipients+fmt.Sprintf("%x", hash), &recipientSetRecord{Version: recordVersion, Set: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if due, err := m.b.refreshDue(context.Background(), "carol", r); err != nil || !due {
		t.Errorf("due %v %v", due, err)
	}
}
