package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// goldenRecovery holds a bundle of a real account, with the test keys of its
// custodians; package recovery makes and checks it.
const goldenRecovery = "../../../testdata/golden/recovery-v1"

const testPassphrase = "correct horse battery"

// fastScrypt makes key files of tests cheap to open.
const fastScrypt = 10

// desk is a folder with files, and what is run there.
type desk struct {
	t   *testing.T
	dir string
}

func newDesk(t *testing.T) *desk {
	d := &desk{t, t.TempDir()}
	d.write("passphrase", testPassphrase+"\r\nsecond line\n")
	return d
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *desk) write(name, content string) {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) read(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

func (d *desk) missing(names ...string) {
	d.t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(d.path(name)); !os.IsNotExist(err) {
			d.t.Errorf("%s was made (%v)", name, err)
		}
	}
}

// run replaces words that start with @ by paths in the folder.
func (d *desk) run(stdin string, args ...string) result {
	d.t.Helper()
	for k, arg := range args {
		if name, ok := strings.CutPrefix(arg, "@"); ok {
			args[k] = d.path(name)
		}
	}
	res := runConfig(d.t, Config{Args: args, Stdin: strings.NewReader(stdin), scryptWork: fastScrypt})
	if strings.Contains(res.stdout+res.stderr, testPassphrase) {
		d.t.Errorf("the passphrase was printed:\n%s%s", res.stdout, res.stderr)
	}
	return res
}

func (d *desk) ok(args ...string) result {
	d.t.Helper()
	res := d.run("", args...)
	if res.code != 0 {
		d.t.Fatalf("%v: exit code %d\n%s", args, res.code, res.stderr)
	}
	return res
}

// words splits a command line; there are no spaces in its words.
func words(format string, args ...any) []string { return strings.Fields(fmt.Sprintf(format, args...)) }

// facts of the golden files.
func goldenFacts(t *testing.T) (f struct {
	Authority  string   `json:"authority_seed_test_key"`
	Custodians []string `json:"custodian_scalars_test_keys"`
	TargetHash string   `json:"target_hash"`
}) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenRecovery, "facts.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// goldenDesk has the golden files, and key files of their people.
func goldenDesk(t *testing.T) *desk {
	d := newDesk(t)
	for _, name := range []string{"set.json", "target.json", "target.signed.json", "bundle.json", "1.deal.json", "3.deal.json"} {
		b, err := os.ReadFile(filepath.Join(goldenRecovery, name))
		if err != nil {
			t.Fatal(err)
		}
		d.write(name, string(b))
	}
	f := goldenFacts(t)
	seed := unhex(t, f.Authority)
	d.writeKey("authority.key", keyFile{Kind: kindAuthority, Private: seed})
	d.write("authority.key.pub", hex.EncodeToString(ed25519.NewKeyFromSeed(seed)[32:]))
	for i, scalar := range f.Custodians {
		d.writeKey(fmt.Sprintf("%d.key", i+1), keyFile{Kind: kindCustodian, Name: fmt.Sprintf("custodian-%d", i+1), Version: 1, Private: unhex(t, scalar)})
	}
	return d
}

func (d *desk) writeKey(name string, k keyFile) {
	d.t.Helper()
	pass := secret.Copy([]byte(testPassphrase))
	sealed, err := (&app{scryptWork: fastScrypt}).sealKey(&k, pass)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write(name, string(sealed))
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const bySecret = "--passphrase-file @passphrase"

// TestOfflineCommands: the authority and its custodians make keys and sign, with
// no server anywhere.
func TestOfflineCommands(t *testing.T) {
	s := newServer(t)
	d := goldenDesk(t)
	d.ok(words("authority init --out @a.key %s", bySecret)...)
	for _, name := range []string{"alice", "bob", "carol"} {
		res := d.ok(words("recovery keygen --name %s --out @%s.key %s -o json", name, name, bySecret)...)
		var doc custodianDoc
		if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil || doc.Name != name || doc.Version != 1 || doc.Fingerprint == "" {
			t.Errorf("keygen said %s (%v)", res.stdout, err)
		}
	}
	for name, mode := range map[string]os.FileMode{"a.key": 0o600, "alice.key": 0o600, "a.key.pub": 0o644, "alice.key.pub": 0o644} {
		info, err := os.Stat(d.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}
	if key := d.read("alice.key"); !strings.HasPrefix(key, "-----BEGIN AGE ENCRYPTED FILE-----\n") || strings.Contains(key, "private") {
		t.Errorf("the key file is not encrypted: %s", key)
	}

	// What is signed is shown first, on stderr.
	set := words("authority sign-set @alice.key.pub @bob.key.pub @carol.key.pub --serial 3 --key @a.key --out @set --passphrase-file @passphrase -o json")
	for _, answer := range []string{"", "no\n", "y\n", "yes please\n", "YES\n"} {
		d.run(answer, slices.Clone(set)...).want(t, 2, "serial 3", "alice", "not confirmed: nothing was signed")
		d.missing("set")
	}
	res := d.run("yes\n", slices.Clone(set)...)
	res.want(t, 0, "SHARE", "carol", "Sign this?")
	var signed signedDoc
	if err := json.Unmarshal([]byte(res.stdout), &signed); err != nil || signed.Authority != d.read("a.key.pub") {
		t.Errorf("sign-set said %s (%v)", res.stdout, err)
	}
	d.ok(words("authority sign-target @target.json --key @a.key --out @target --yes %s", bySecret)...)

	// Both can be shown, and only as what they are and whose they are.
	res = d.ok(words("authority show @set --authority @a.key.pub -o json")...)
	var shown shownDoc
	if err := json.Unmarshal([]byte(res.stdout), &shown); err != nil || shown.Set == nil || shown.Set.Serial != 3 || shown.Set.Recipients[2].Name != "carol" || shown.Target != nil {
		t.Errorf("show said %s (%v)", res.stdout, err)
	}
	if res = d.ok(words("authority show @set --authority @a.key.pub")...); !strings.Contains(res.stdout, fingerprint(shown.Set.Recipients[0].PublicKey)) {
		t.Errorf("no fingerprint of alice:\n%s", res.stdout)
	}
	if res = d.ok(words("authority show @target --authority @a.key.pub")...); !strings.Contains(res.stdout, "default version 1, hpke-p256") {
		t.Errorf("show said %s", res.stdout)
	}
	for _, file := range []string{"set", "target"} {
		d.run("", words("authority show @%s --authority @authority.key.pub", file)...).want(t, 1, "cannot be trusted", "not signed by this authority")
	}
	d.write("changed", strings.Replace(d.read("set"), `"signature":"`+d.read("set")[strings.Index(d.read("set"), `"signature":"`)+13:][:4], `"signature":"AAAA`, 1))
	d.run("", words("authority show @changed --authority @a.key.pub")...).want(t, 1, "cannot be trusted")
	d.run("", words("authority show @target.json --authority @a.key.pub")...).want(t, 2, "neither a signed set nor a signed target")
	d.run("", words("authority show @set")...).want(t, 2, "--authority")
	if len(s.calls) != 0 {
		t.Errorf("offline commands sent %v", s.calls)
	}
}

// TestKeysAreNotLost: nothing is overwritten, nothing is made by halves, and
// keys open under their passphrase and as what they are only.
func TestKeysAreNotLost(t *testing.T) {
	d := goldenDesk(t)
	before := d.read("authority.key")
	d.run("", words("authority init --out @authority.key %s", bySecret)...).want(t, 2, "exists already")
	d.write("half.key.pub", "here first")
	d.run("", words("authority init --out @half.key %s", bySecret)...).want(t, 2, "half.key.pub exists already")
	d.run("", words("recovery keygen --name alice --out @half.key %s", bySecret)...).want(t, 2, "half.key.pub exists already")
	d.missing("half.key")
	d.run("", words("authority init --out @no/such/folder.key %s", bySecret)...).want(t, 2, "no such file")
	if d.read("authority.key") != before || d.read("half.key.pub") != "here first" {
		t.Error("a file was overwritten")
	}

	d.write("short", "12345678901\n")
	d.write("none", "\n")
	d.write("long", strings.Repeat("x", maxPassphrase+1))
	for _, file := range []string{"short", "none", "long"} {
		d.run("", words("authority init --out @new.key --passphrase-file @%s", file)...).want(t, 2, "12 to 1024 characters")
		d.missing("new.key", "new.key.pub")
	}
	d.run("", words("authority init --out @new.key --passphrase-file @nothing")...).want(t, 2, "cannot be read")
	d.run("", words("authority init --out @new.key")...).want(t, 2, "no terminal", "--passphrase-file")
	d.missing("new.key", "new.key.pub")

	d.write("wrong", "another horse battery\n")
	sign := "authority sign-target @target.json --yes --out @signed --key "
	d.run("", words("%s @authority.key --passphrase-file @wrong", sign)...).want(t, 2, "the passphrase is another one")
	d.run("", words("%s @1.key %s", sign, bySecret)...).want(t, 2, "another kind")
	d.run("", words("%s @target.json %s", sign, bySecret)...).want(t, 2, "no key file")
	d.write("cut.key", before[:len(before)-60]+before[len(before)-35:])
	d.run("", words("%s @cut.key %s", sign, bySecret)...).want(t, 2, "cut.key")
	d.write("empty.key", "")
	d.run("", words("%s @empty.key %s", sign, bySecret)...).want(t, 2, "empty.key")
	d.missing("signed")
	d.run("", words("authority sign-target @target.json --yes --out @set.json --key @authority.key %s", bySecret)...).want(t, 2, "exists already")

	if err := os.Chmod(d.path("passphrase"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.run("", words("%s @authority.key %s", sign, bySecret)...).want(t, 0, "Warning:", "chmod 600")
}

func TestSignSetRefuses(t *testing.T) {
	d := goldenDesk(t)
	d.ok(words("recovery keygen --name alice --out @alice.key %s", bySecret)...)
	d.ok(words("recovery keygen --name bob --out @bob.key %s", bySecret)...)
	alice := d.read("alice.key.pub")
	eu, us := strings.Repeat("e1", 32), strings.Repeat("51", 32)
	d.write("again.pub", strings.Replace(alice, "alice", "mallory", 1))
	d.write("twice.pub", strings.Replace(alice, `"name"`, `"name": "carol", "name"`, 1))
	d.write("broken.pub", strings.Replace(alice, `"version": 1`, `"version": 0`, 1))
	for args, says := range map[string]string{
		"@alice.key.pub @bob.key.pub":                                        "serial numbers of sets count from 1",
		"@alice.key.pub --serial 1":                                          "2 to 16",
		"@alice.key.pub @alice.key.pub --serial 1":                           "twice",
		"@alice.key.pub @again.pub --serial 1":                               "the same key",
		"@bob.key.pub @twice.pub --serial 1":                                 "not a custodian's public file",
		"@bob.key.pub @broken.pub --serial 1":                                "not a custodian's public file",
		"@bob.key.pub @bob.key --serial 1":                                   "not a custodian's public file",
		"--serial 1":                                                         "public files",
		"--serial 1 --domain eu":                                             "NAME=NODE:IDENTITY",
		"--serial 1 --domain eu=eu-1":                                        "NODE:IDENTITY",
		"--serial 1 --domain eu=eu-1:00":                                     "64 lower-case hex digits",
		"--serial 1 --domain EU=eu-1:" + eu:                                  "a-z",
		"--serial 1 --domain eu=eu-1:" + eu + " --domain eu=eu-2:" + us:      "eu is in the set twice",
		"--serial 1 --domain eu=eu-1:" + eu + " --domain us=us-1:" + eu:      "the same identity",
		"--serial 1 --domain eu=eu-1:" + eu + " @alice.key.pub":              "not 2 to 16",
		"--serial 0 --domain eu=eu-1:" + eu + " @alice.key.pub @bob.key.pub": "count from 1",
	} {
		d.run("", words("authority sign-set --yes --key @authority.key --out @set %s %s", bySecret, args)...).want(t, 2, says)
		d.missing("set")
	}
	for args, says := range map[string]string{
		"--name Alice --out @x.key":             "a-z",
		"--name alice --out @x.key --version 0": "count from 1",
		"--name alice":                          "--name and --out",
	} {
		d.run("", words("recovery keygen %s %s", bySecret, args)...).want(t, 2, says)
		d.missing("x.key", "x.key.pub")
	}
}

// TestDeal: custodians deal what a mount combines, to a target that their
// authority has signed and to nothing else.
func TestDeal(t *testing.T) {
	d := goldenDesk(t)
	command := func(more string) []string {
		return words("recovery deal --key @1.key --bundle @bundle.json --target @target.signed.json --authority @authority.key.pub --out @out.deal %s %s", bySecret, more)
	}
	res := d.run("", command("")...)
	res.want(t, 0, "Account", "treasury", "Recovery target", "Fingerprint")
	if !strings.Contains(res.stdout, "share 1 of treasury, by custodian-1") {
		t.Errorf("deal said %s", res.stdout)
	}
	if info, err := os.Stat(d.path("out.deal")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the deal's file: %v (%v)", info, err)
	}
	b, err := recovery.ParseBundle([]byte(d.read("bundle.json")))
	if err != nil {
		t.Fatal(err)
	}
	record, _, err := b.Open()
	if err != nil {
		t.Fatal(err)
	}
	var deals []*recovery.Deal
	for _, file := range []string{"out.deal", "3.deal.json"} {
		deal, err := recovery.ParseDeal([]byte(d.read(file)))
		if err != nil {
			t.Fatal(err)
		}
		deals = append(deals, deal)
	}
	rebuilt, err := recovery.NewRecord(record, [32]byte(unhex(t, goldenFacts(t).TargetHash)), record.RecipientsHash, deals)
	if err != nil || !bytes.Equal(rebuilt.PublicKey, record.PublicKey) {
		t.Errorf("the deals do not combine: %v", err)
	}

	d.run("", command("")...).want(t, 2, "out.deal exists already")
	if err := os.Remove(d.path("out.deal")); err != nil {
		t.Fatal(err)
	}
	d.ok(words("authority init --out @other.key %s", bySecret)...)
	d.ok(words("authority sign-target @target.json --key @other.key --out @other.target --yes %s", bySecret)...)
	d.ok(words("recovery keygen --name custodian-1 --out @impostor.key %s", bySecret)...)
	d.write("cut.json", strings.Replace(d.read("bundle.json"), `"shares"`, `"shared"`, 1))
	d.write("wrong", "another horse battery\n")
	for more, want := range map[string]struct {
		code int
		says string
	}{
		"--target @target.json":              {2, "not a signed target"},
		"--target @set.json":                 {2, "not a signed target"},
		"--target @other.target":             {1, "nothing was dealt"},
		"--authority @other.key.pub":         {1, "not signed by this authority"},
		"--authority @set.json":              {2, "not an authority's public file"},
		"--bundle @cut.json":                 {2, "not a whole bundle"},
		"--bundle @nothing":                  {2, "no such file"},
		"--key @authority.key":               {2, "another kind"},
		"--key @impostor.key":                {1, "not a key of custodian-1"},
		"--passphrase-file @wrong":           {2, "the passphrase is another one"},
		"--authority= --target @target.json": {2, "are all needed"},
	} {
		res := d.run("", command(more)...)
		res.want(t, want.code, want.says)
		if res.stdout != "" {
			t.Errorf("%s: stdout %s", more, res.stdout)
		}
		d.missing("out.deal")
	}
}

// exporting is a mount with two accounts that can be exported, one that cannot
// and one whose bundle is damaged.
func exporting(t *testing.T, d *desk) *server {
	s := newServer(t)
	s.on("LIST mpc/accounts", data(`{"keys":["hot","young","broken","treasury"]}`))
	bundle := func(text string) http.HandlerFunc {
		b, err := json.Marshal(map[string]any{"bundle": text, "epoch": 99, "threshold": 1, "recipients": []string{"nobody"}})
		if err != nil {
			t.Fatal(err)
		}
		return data(string(b))
	}
	s.on("GET mpc/recovery/export/treasury", bundle(d.read("bundle.json")))
	s.on("GET mpc/recovery/export/hot", bundle(d.read("bundle.json")))
	s.on("GET mpc/recovery/export/young", fails(400, `account "young" has no recovery recipients`))
	s.on("GET mpc/recovery/export/broken", bundle(strings.Replace(d.read("bundle.json"), `"record": "A`, `"record": "B`, 1)))
	return s
}

func TestExportAll(t *testing.T) {
	d := goldenDesk(t)
	s := exporting(t, d)
	if err := os.Mkdir(d.path("bundles"), 0o700); err != nil {
		t.Fatal(err)
	}
	all := func() (exportDoc, result) {
		t.Helper()
		res := d.run("", words("recovery export --all --out-dir @bundles -o json")...)
		var doc exportDoc
		if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil {
			t.Fatalf("%v: %s", err, res.stdout)
		}
		return doc, res
	}
	doc, res := all()
	res.want(t, 1, "2 of 4 accounts were not exported")
	if len(doc.Bundles) != 2 || len(doc.Failed) != 2 || doc.Failed[0].Account != "young" || !strings.Contains(doc.Failed[0].Error, "no recovery recipients") ||
		doc.Failed[1].Account != "broken" || !strings.Contains(doc.Failed[1].Error, "is of no use") {
		t.Errorf("got %+v", doc)
	}
	// What is shown is what the bundle says, not what the server says of it.
	if b := doc.Bundles[1]; b.Account != "treasury" || b.State != bundleWritten || b.Epoch != 7 || b.Threshold != 2 || b.File != d.path("bundles/treasury.bundle") ||
		strings.Join(b.Recipients, " ") != "custodian-1 custodian-2 custodian-3" {
		t.Errorf("got %+v", b)
	}
	if d.read("bundles/treasury.bundle") != d.read("bundle.json") {
		t.Error("the file is not the bundle")
	}
	d.missing("bundles/young.bundle", "bundles/broken.bundle")

	// Again: good bundles are kept, and nothing that lies there is overwritten.
	d.write("bundles/hot.bundle", "damaged")
	doc, _ = all()
	if len(doc.Bundles) != 2 || doc.Bundles[0].State != bundleWritten || doc.Bundles[0].File != d.path("bundles/hot@7.bundle") || doc.Bundles[1].State != bundleKept {
		t.Errorf("got %+v", doc)
	}
	if d.read("bundles/hot.bundle") != "damaged" || d.read("bundles/hot@7.bundle") != d.read("bundle.json") {
		t.Error("the bundle of hot was written elsewhere")
	}
	d.write("bundles/hot@7.bundle", "damaged, too")
	if doc, _ = all(); len(doc.Failed) != 3 || !strings.Contains(doc.Failed[0].Error, "hot@7.bundle exists already") {
		t.Errorf("got %+v", doc)
	}

	// Where going on makes no sense, it stops and says what was done.
	s.on("GET mpc/recovery/export/young", fails(403, "permission denied"))
	doc, res = all()
	res.want(t, 1, `path "mpc/recovery/export/young" { capabilities = ["read", "sudo"] }`)
	if len(s.called("GET mpc/recovery/export/broken")) != 3 || len(doc.Failed) != 1 {
		t.Errorf("went on after a refusal: %+v", doc)
	}
	s.on("LIST mpc/accounts", data(`{"keys":["../x"]}`))
	if doc, _ = all(); len(doc.Failed) != 1 || !strings.Contains(doc.Failed[0].Error, "no name") {
		t.Errorf("got %+v", doc)
	}
	s.on("LIST mpc/accounts", fails(404))
	doc, res = all()
	res.want(t, 0)
	if doc.Bundles == nil || len(doc.Bundles) != 0 {
		t.Errorf("got %s", res.stdout)
	}
}

func TestExportOne(t *testing.T) {
	d := goldenDesk(t)
	exporting(t, d)
	d.ok(words("recovery export treasury --out @t --authority @authority.key.pub")...)
	if d.read("t") != d.read("bundle.json") {
		t.Error("the file is not the bundle")
	}
	d.run("", words("recovery export treasury --out @t")...).want(t, 2, "exists already")
	d.ok(words("authority init --out @other.key %s", bySecret)...)
	d.run("", words("recovery export treasury --out @u --authority @other.key.pub")...).want(t, 1, "is of no use", "not signed by this authority")
	d.run("", words("recovery export broken --out @u")...).want(t, 1, "is of no use and was not written")
	d.run("", words("recovery export young --out @u")...).want(t, 1, "no recovery recipients")
	for _, args := range []string{"", "treasury", "--all", "--all treasury --out-dir @d", "--all --out @u", "treasury --out @u --out-dir @d", "a b --out @u"} {
		d.run("", words("recovery export %s", args)...).want(t, 2, "give an account and --out, or --all and --out-dir")
	}
	d.run("", words("recovery export ../x --out @u")...).want(t, 2, "not an account name")
	d.run("", words("recovery export --all --out-dir @nothing")...).want(t, 2, "is not a folder")
	d.missing("u")
}

// TestRecoveryRequests: what is sent is the files as they are, and nothing is
// sent that cannot be meant.
func TestRecoveryRequests(t *testing.T) {
	d := goldenDesk(t)
	s := newServer(t)
	target, err := json.Marshal(map[string]string{"target": d.read("target.json")})
	if err != nil {
		t.Fatal(err)
	}
	s.on("PUT new/recovery/target", data(string(target)))
	s.on("PUT new/recovery/import/treasury", data(accountData))
	s.on("PUT mpc/config/authority", data(`{"public_key":"ab","pinned_time":"2026-01-02T03:04:05Z"}`))
	s.on("PUT mpc/config/recovery", data(`{"serial":5,"hash":"0f","recipients":["custodian-1","custodian-2"]}`))
	sent := func(key string) map[string]any {
		t.Helper()
		calls := s.called(key)
		if len(calls) != 1 {
			t.Fatalf("%d requests %s", len(calls), key)
		}
		return calls[0].body
	}

	d.ok(words("recovery target --mount new --out @t.json")...)
	if d.read("t.json") != d.read("target.json") {
		t.Error("the file is not the target")
	}
	d.run("", words("recovery target --mount new --out @t.json")...).want(t, 2, "exists already")
	sent("PUT new/recovery/target")

	d.ok(words("recovery import treasury --mount new --bundle @bundle.json --target @target.signed.json @1.deal.json @3.deal.json")...)
	body := sent("PUT new/recovery/import/treasury")
	if body["bundle"] != d.read("bundle.json") || body["target"] != d.read("target.signed.json") || fmt.Sprint(body["deals"]) != fmt.Sprint([]any{d.read("1.deal.json"), d.read("3.deal.json")}) || len(body) != 3 {
		t.Errorf("sent %v", body)
	}

	d.ok(words("authority pin @authority.key.pub")...)
	if body = sent("PUT mpc/config/authority"); body["public_key"] != d.read("authority.key.pub") || len(body) != 1 {
		t.Errorf("sent %v", body)
	}
	d.ok(words("recovery set @set.json")...)
	if body = sent("PUT mpc/config/recovery"); body["set"] != d.read("set.json") {
		t.Errorf("sent %v", body)
	}

	s.forget()
	for args, says := range map[string]string{
		"recovery set":                     "the signed set's file",
		"recovery set @target.signed.json": "not a signed recipient set",
		"recovery set @nothing":            "no such file",
		"authority pin":                    "the authority's public file",
		"authority pin @set.json":          "not an authority's public file",
		"recovery target":                  "--out",
		"recovery import":                  "which account",
		"recovery import a/b --bundle @bundle.json --target @target.signed.json @1.deal.json":      "not an account name",
		"recovery import treasury --bundle @bundle.json --target @target.signed.json":              "the custodians' deals",
		"recovery import treasury --bundle @bundle.json @1.deal.json":                              "--target",
		"recovery import treasury --bundle @bundle.json --target @target.signed.json @bundle.json": "not a deal",
		"recovery import treasury --bundle @nothing --target @target.signed.json @1.deal.json":     "no such file",
		"recovery nonsense":  "unknown command",
		"authority nonsense": "unknown command",
		"recovery export treasury --out @x --authority @nothing":                                       "no such file",
		"recovery deal --bundle @bundle.json --target @target.signed.json --out @x --key @1.key --yes": "unknown flag",
	} {
		d.run("", words("%s", args)...).want(t, 2, says)
	}
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}

	s.on("PUT mpc/config/authority", fails(403, "permission denied"))
	d.run("", words("authority pin @authority.key.pub")...).want(t, 1, `path "mpc/config/authority" { capabilities = ["create", "update", "sudo"] }`)
	s.on("PUT mpc/recovery/target", data(`{"target":"{}"}`))
	d.run("", words("recovery target --out @x")...).want(t, 1, "cannot be used and was not written")
	d.missing("x")
}

// Files are asked for before commands begin; what counts is that writing them
// cannot replace one that has come meanwhile, nor leave half of a pair.
func TestWriteNew(t *testing.T) {
	d := newDesk(t)
	d.write("there", "first")
	if err := os.Symlink(d.path("elsewhere"), d.path("link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"there", "link"} {
		if err := writeNew(d.path(name), []byte("second"), 0o600); err == nil {
			t.Errorf("%s: overwritten", name)
		}
		if err := absent(d.path(name)); err == nil {
			t.Errorf("%s passes for absent", name)
		}
	}
	if d.read("there") != "first" {
		t.Error("the file was changed")
	}
	if err := writeKeyPair(d.path("key"), []byte("x"), d.path("no/folder.pub"), []byte("y")); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	d.missing("elsewhere", "key")
}

// TestSignDomains: an authority signs wrapping domains and their nodes, with
// custodians or without, and sees what it signs.
func TestSignDomains(t *testing.T) {
	d := goldenDesk(t)
	for _, name := range []string{"alice", "bob"} {
		d.ok(words("recovery keygen --name %s --out @%s.key %s", name, name, bySecret)...)
	}
	d.ok(words("authority init --out @a.key %s", bySecret)...)
	one, two, three := strings.Repeat("e1", 32), strings.Repeat("e2", 32), strings.Repeat("51", 32)
	domains := "--domain eu=eu-1:" + one + ",eu-2:" + strings.ToUpper(two) + " --domain us=us-1:" + three
	for file, custodians := range map[string]string{"both": "@alice.key.pub @bob.key.pub ", "alone": ""} {
		res := d.run("yes\n", words("authority sign-set %s%s --serial 4 --key @a.key --out @%s --passphrase-file @passphrase", custodians, domains, file)...)
		res.want(t, 0, "DOMAIN", "eu-2", two, "us-1", three)
		if said := strings.Contains(res.stderr, "nobody can rebuild"); said != (custodians == "") {
			t.Errorf("%s: that nobody can rebuild was said: %t", file, said)
		}
		res = d.ok(words("authority show @%s --authority @a.key.pub -o json", file)...)
		var shown shownDoc
		if err := json.Unmarshal([]byte(res.stdout), &shown); err != nil || shown.Set == nil || len(shown.Set.Domains) != 2 || shown.Set.Domains[0].Nodes[1] != (recovery.DomainNode{ID: "eu-2", Identity: two}) {
			t.Errorf("show said %s (%v)", res.stdout, err)
		}
	}
}
