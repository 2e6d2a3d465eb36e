package recovery_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// Golden files were made once and must be read, verified, dealt from and
// combined for ever: bundles lie in safes for years. The keys are test keys and
// public.
const goldenDir = "../testdata/golden/recovery-v1"

var writeGolden = flag.Bool("write-golden", false, "make golden files that are not there yet; existing ones are never changed")

// goldenFacts is what the golden files must lead to, in hex.
type goldenFacts struct {
	Authority   string   `json:"authority_seed_test_key"`
	Custodians  []string `json:"custodian_scalars_test_keys"`
	Token       string   `json:"mount_scalar_test_key"`
	SetHash     string   `json:"set_hash"`
	TargetHash  string   `json:"target_hash"`
	RecordHash  string   `json:"old_record_hash"`
	RebuiltHash string   `json:"new_record_hash"`
	NewShares   []string `json:"new_shares"`
}

func TestGolden(t *testing.T) {
	if _, err := os.Stat(goldenDir); *writeGolden && os.IsNotExist(err) {
		makeGolden(t)
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	same := func(what string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s is %x, it was %s", what, got, want)
		}
	}
	var facts goldenFacts
	if err := json.Unmarshal(read("facts.json"), &facts); err != nil {
		t.Fatal(err)
	}
	p, m := facts.people(t, read("set.json")), &mount{key: p256Key(t, facts.Token), target: read("target.signed.json")}

	set, err := recovery.ParseSignedSet(p.set)
	if err != nil {
		t.Fatal(err)
	}
	hash := set.Hash()
	same("the set's hash", hash[:], facts.SetHash)
	if s, err := set.Verify(p.public()); err != nil || s.Serial != 5 || len(s.Recipients) != 3 || s.Recipients[2].Name != name(2) {
		t.Errorf("the set: %+v, error %v", s, err)
	}
	target, err := recovery.ParseTarget(read("target.json"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := target.Marshal(); err != nil || !bytes.Equal(again, read("target.json")) {
		t.Errorf("the target is written differently: %s, error %v", again, err)
	}
	signed := m.parsed(t)
	if _, err := signed.Verify(p.public()); err != nil {
		t.Error(err)
	}
	m.hash = signed.Hash()
	same("the target's hash", m.hash[:], facts.TargetHash)

	bundle, err := recovery.ParseBundle(read("bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := bundle.Marshal(); err != nil || !bytes.Equal(again, read("bundle.json")) {
		t.Errorf("the bundle is written differently: error %v", err)
	}
	old, _, err := bundle.Open()
	if err != nil {
		t.Fatal(err)
	}
	hash = old.Hash()
	same("the record's hash", hash[:], facts.RecordHash)

	var deals []*recovery.Deal
	for _, name := range []string{"1.deal.json", "3.deal.json"} {
		d, err := recovery.ParseDeal(read(name))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := d.Marshal(); err != nil || !bytes.Equal(again, read(name)) {
			t.Errorf("%s is written differently: error %v", name, err)
		}
		deals = append(deals, d)
	}
	record, shares := rebuild(t, old, m, deals)
	hash = record.Hash()
	same("the new record's hash", hash[:], facts.RebuiltHash)
	for i, want := range facts.NewShares {
		same("a new share", shares[mpc.Index(i+1)].Expose(), want)
	}
	// And the bundle can be dealt from still.
	if record, _ = rebuild(t, old, m, []*recovery.Deal{deal(t, p, bundle, 1, m), deal(t, p, bundle, 2, m)}); !bytes.Equal(record.PublicKey, old.PublicKey) {
		t.Error("the key changed")
	}
	if err := frost.CheckRecord(record); err != nil {
		t.Error(err)
	}
}

func (f goldenFacts) people(t *testing.T, set []byte) *people {
	t.Helper()
	seed, err := hex.DecodeString(f.Authority)
	if err != nil || len(seed) != ed25519.SeedSize {
		t.Fatal("the authority's seed cannot be read")
	}
	p := &people{authority: ed25519.NewKeyFromSeed(seed), set: set}
	for _, c := range f.Custodians {
		p.custodians = append(p.custodians, p256Key(t, c))
	}
	return p
}

func p256Key(t *testing.T, scalar string) *ecdh.PrivateKey {
	t.Helper()
	b, err := hex.DecodeString(scalar)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdh.P256().NewPrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func makeGolden(t *testing.T) {
	t.Helper()
	p := newPeople(t, 3)
	facts := goldenFacts{Authority: hex.EncodeToString(p.authority.Seed())}
	for _, c := range p.custodians {
		facts.Custodians = append(facts.Custodians, hex.EncodeToString(c.Bytes()))
	}
	set, err := recovery.ParseSignedSet(p.set)
	if err != nil {
		t.Fatal(err)
	}
	fifth, err := recovery.NewSet(5, set.Unverified().Recipients)
	if err != nil {
		t.Fatal(err)
	}
	if p.set, err = fifth.Sign(p.authority); err != nil {
		t.Fatal(err)
	}
	old, bundle := account(t, mpc.BIP340Secp256k1, 2, 3, p)
	m := newMount(t, p)
	facts.Token = hex.EncodeToString(m.key.Bytes())
	if set, err = recovery.ParseSignedSet(p.set); err != nil {
		t.Fatal(err)
	}
	target, err := m.parsed(t).Unverified().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"set.json": p.set, "target.json": target, "target.signed.json": m.target, "bundle.json": text}
	deals := []*recovery.Deal{deal(t, p, bundle, 0, m), deal(t, p, bundle, 2, m)}
	for k, name := range []string{"1.deal.json", "3.deal.json"} {
		if files[name], err = deals[k].Marshal(); err != nil {
			t.Fatal(err)
		}
	}
	record, shares := rebuild(t, old, m, deals)
	for i := range mpc.Index(old.Shares) {
		facts.NewShares = append(facts.NewShares, hex.EncodeToString(shares[i+1].Expose()))
	}
	setHash, oldHash, newHash := set.Hash(), old.Hash(), record.Hash()
	facts.SetHash, facts.TargetHash = hex.EncodeToString(setHash[:]), hex.EncodeToString(m.hash[:])
	facts.RecordHash, facts.RebuiltHash = hex.EncodeToString(oldHash[:]), hex.EncodeToString(newHash[:])
	if files["facts.json"], err = json.MarshalIndent(facts, "", "  "); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(goldenDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(goldenDir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStrictFiles: a file that a person and the program could read differently
// is refused, and so is one that is not whole.
func TestStrictFiles(t *testing.T) {
	p := newPeople(t, 3)
	_, bundle := account(t, mpc.Ed25519, 2, 3, p)
	m := newMount(t, p)
	target, err := m.parsed(t).Unverified().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	dealt, err := deal(t, p, bundle, 0, m).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	custodian, err := json.Marshal(recovery.Recipient{Name: "alice", Version: 1, PublicKey: p.custodians[0].PublicKey().Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	ignore := func(_ any, err error) error { return err }
	for kind, f := range map[string]struct {
		good  []byte
		field string // one of the file's
		parse func([]byte) error
	}{
		"set":           {p.set, "payload", func(b []byte) error { return ignore(recovery.ParseSignedSet(b)) }},
		"target":        {target, "public_key", func(b []byte) error { return ignore(recovery.ParseTarget(b)) }},
		"signed target": {m.target, "signature", func(b []byte) error { return ignore(recovery.ParseSignedTarget(b)) }},
		"bundle":        {text, "record", func(b []byte) error { return ignore(recovery.ParseBundle(b)) }},
		"deal":          {dealt, "dealer", func(b []byte) error { return ignore(recovery.ParseDeal(b)) }},
		"custodian":     {custodian, "public_key", func(b []byte) error { return ignore(recovery.ParseRecipient(b)) }},
	} {
		if err := f.parse(f.good); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if err := f.parse(append(bytes.Clone(f.good), '\n')); err != nil {
			t.Errorf("%s with a line end behind it: %v", kind, err)
		}
		name := `"` + f.field + `"`
		_, behind, _ := bytes.Cut(f.good, []byte(name))
		value := behind[:bytes.IndexAny(behind, ",}\n")]
		for what, bad := range map[string][]byte{
			"empty":           {},
			"null":            []byte("null"),
			"a list":          []byte("[]"),
			"two values":      append(append(bytes.Clone(f.good), ' '), f.good...),
			"cut short":       f.good[:len(f.good)/2],
			"unknown field":   bytes.Replace(f.good, []byte("{"), []byte(`{"more":1,`), 1),
			"capital field":   bytes.Replace(f.good, []byte(name), bytes.ToUpper([]byte(name)), 1),
			"field twice":     bytes.Replace(f.good, []byte("{"), append(append([]byte("{"+name), value...), ','), 1),
			"without a field": bytes.Replace(f.good, append([]byte(name), value...), []byte(`"format":""`), 1),
			"far too long":    append(bytes.Repeat([]byte(" "), 256<<10), f.good...),
		} {
			if err := f.parse(bad); err == nil {
				t.Errorf("%s, %s: accepted", kind, what)
			}
		}
	}
	for _, year := range []string{"0000-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"} {
		late := bytes.Replace(target, []byte("1970-01-01T00:00:02Z"), []byte(year), 1)
		if _, err := recovery.ParseTarget(late); err == nil || bytes.Equal(late, target) {
			t.Errorf("a target of %s: %v", year, err)
		}
	}
}

// TestBundleParts: a bundle whose parts do not belong together is refused when it
// is read, before a custodian's key is asked for.
func TestBundleParts(t *testing.T) {
	p, others := newPeople(t, 3), newPeople(t, 3)
	old, good := account(t, mpc.Ed25519, 2, 3, p)
	_, foreign := account(t, mpc.Ed25519, 2, 3, others)
	more := *old
	more.Shares, more.PublicShares = 4, append(more.PublicShares, more.PublicShares[0])
	for what, change := range map[string]func(b *recovery.Bundle){
		"another set":       func(b *recovery.Bundle) { b.Recipients = others.set },
		"no set":            func(b *recovery.Bundle) { b.Recipients = nil },
		"no record":         func(b *recovery.Bundle) { b.Record = nil },
		"another record":    func(b *recovery.Bundle) { b.Record = foreign.Record },
		"a share too few":   func(b *recovery.Bundle) { b.Shares = b.Shares[:2] },
		"a share too many":  func(b *recovery.Bundle) { b.Shares = append(b.Shares[:3:3], b.Shares[0]) },
		"no shares":         func(b *recovery.Bundle) { b.Shares = nil },
		"swapped shares":    func(b *recovery.Bundle) { b.Shares = [][]byte{b.Shares[1], b.Shares[0], b.Shares[2]} },
		"an empty share":    func(b *recovery.Bundle) { b.Shares = [][]byte{b.Shares[0], nil, b.Shares[2]} },
		"more than the set": func(b *recovery.Bundle) { b.Record, b.Shares = more.Marshal(), append(b.Shares[:3:3], b.Shares[0]) },
		"a long name":       func(b *recovery.Bundle) { b.Account = string(bytes.Repeat([]byte("a"), 129)) },
		"unsealed to custodians": func(b *recovery.Bundle) {
			b.Shares = append([][]byte{tokenOnly(t)}, b.Shares[1:]...)
		},
	} {
		b := *good
		change(&b)
		if _, err := b.Marshal(); err == nil {
			t.Errorf("%s: written", what)
		}
		if _, err := recovery.MakeDeal(t.Context(), &b, name(0), p.custodians[0], p.public(), newMount(t, p).parsed(t)); err == nil {
			t.Errorf("%s: dealt from", what)
		}
	}
}

// tokenOnly seals something to a token and to nobody else.
func tokenOnly(t *testing.T) []byte {
	t.Helper()
	key := p256Key(t, "0101010101010101010101010101010101010101010101010101010101010101")
	own := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 3, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: key.PublicKey().Bytes()}
	envelope, err := hsm.Seal(hsm.ShareContext(1, [32]byte{1}), secretOf(1), []hsm.WrappingKey{own})
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func secretOf(b byte) *secret.Bytes { return secret.Copy(bytes.Repeat([]byte{b}, 32)) }
