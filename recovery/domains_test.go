package recovery_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// nodeIdentity is that of the test node number i.
func nodeIdentity(i byte) mpc.NodeIdentity {
	return mpc.NodeIdentity(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{i}, 32)).Public().(ed25519.PublicKey))
}

func testDomains() []recovery.Domain {
	return []recovery.Domain{
		{Name: "default", Nodes: []recovery.DomainNode{{ID: "local-1", Identity: nodeIdentity(1).String()}, {ID: "local-2", Identity: nodeIdentity(2).String()}}},
		{Name: "eu", Nodes: []recovery.DomainNode{{ID: "eu-1", Identity: nodeIdentity(3).String()}}},
	}
}

// domainSet signs a set that names domains.
func domainSet(t testing.TB, p *people, recipients []recovery.Recipient) []byte {
	t.Helper()
	set, err := recovery.NewDomainSet(2, recipients, testDomains())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := set.Sign(p.authority)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestDomains(t *testing.T) {
	p := newPeople(t, 3)
	first, err := recovery.ParseSignedSet(p.set)
	if err != nil || first.Unverified().Format != "mpc-recipient-set-1" || bytes.Contains(p.set, []byte("domains")) {
		t.Fatalf("a set without domains is written differently: %s, %v", p.set, err)
	}
	people := first.Unverified().Recipients
	for what, recipients := range map[string][]recovery.Recipient{"with recipients": people, "without": nil} {
		signed, err := recovery.ParseSignedSet(domainSet(t, p, recipients))
		if err != nil {
			t.Fatal(err)
		}
		set, err := signed.Verify(p.public())
		if err != nil || set.Format != "mpc-recipient-set-2" || len(set.Recipients) != len(recipients) {
			t.Fatalf("%s: %+v, %v", what, set, err)
		}
		if !set.HasDomain("eu") || set.HasDomain("us") || !set.Vouches("eu", nodeIdentity(3)) || !set.Vouches("default", nodeIdentity(2)) ||
			set.Vouches("eu", nodeIdentity(2)) || set.Vouches("us", nodeIdentity(3)) || set.Vouches("eu", mpc.NodeIdentity{}) {
			t.Errorf("%s: who vouches for what", what)
		}
		if _, err := signed.Verify(newPeople(t, 2).public()); !errors.Is(err, recovery.ErrSignature) {
			t.Errorf("%s: another authority: %v", what, err)
		}
	}

	for what, c := range map[string]struct {
		change func([]recovery.Domain) []recovery.Domain
		text   string
	}{
		"no domain":      {func([]recovery.Domain) []recovery.Domain { return nil }, "0 wrapping domains"},
		"a domain twice": {func(d []recovery.Domain) []recovery.Domain { d[1].Name = "default"; return d }, "default is in the set twice"},
		"a node twice":   {func(d []recovery.Domain) []recovery.Domain { d[1].Nodes[0].ID = "local-1"; return d }, "is in the set twice"},
		"an identity twice": {func(d []recovery.Domain) []recovery.Domain {
			d[1].Nodes[0].Identity = nodeIdentity(1).String()
			return d
		}, "the same identity"},
		"a domain without nodes": {func(d []recovery.Domain) []recovery.Domain { d[1].Nodes = nil; return d }, "nobody can vouch"},
		"a recipient's name":     {func(d []recovery.Domain) []recovery.Domain { d[1].Name = "recovery:custodian-1"; return d }, "name has"},
		"a domain without name":  {func(d []recovery.Domain) []recovery.Domain { d[1].Name = ""; return d }, "name has"},
		"a node without name":    {func(d []recovery.Domain) []recovery.Domain { d[1].Nodes[0].ID = ""; return d }, "node's name"},
		"a short identity":       {func(d []recovery.Domain) []recovery.Domain { d[1].Nodes[0].Identity = "00"; return d }, "64 lower-case hex digits"},
		"an identity of zeros": {func(d []recovery.Domain) []recovery.Domain {
			d[1].Nodes[0].Identity = strings.Repeat("0", 64)
			return d
		}, "64 lower-case hex digits"},
		"an upper-case identity": {func(d []recovery.Domain) []recovery.Domain {
			d[1].Nodes[0].Identity = strings.ToUpper(d[1].Nodes[0].Identity)
			return d
		}, "64 lower-case hex digits"},
		"too many domains": {func(d []recovery.Domain) []recovery.Domain {
			for len(d) <= 32 {
				d = append(d, d[0])
			}
			return d
		}, "33 wrapping domains"},
	} {
		if _, err := recovery.NewDomainSet(2, people, c.change(testDomains())); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := recovery.NewDomainSet(2, people[:1], testDomains()); err == nil {
		t.Error("one recipient is taken, who could rebuild nothing")
	}
	// The format says what is in the file, whoever wrote it.
	for what, payload := range map[string]string{
		"domains in the first format":   `{"format":"mpc-recipient-set-1","serial":1,"recipients":[],"domains":[]}`,
		"the second format without":     `{"format":"mpc-recipient-set-2","serial":1,"recipients":[]}`,
		"the second without recipients": `{"format":"mpc-recipient-set-2","serial":1,"domains":[{"name":"eu","nodes":[{"id":"eu-1","identity":"` + nodeIdentity(3).String() + `"}]}]}`,
		"a third format":                `{"format":"mpc-recipient-set-3","serial":1,"recipients":[]}`,
		"a field twice":                 `{"format":"mpc-recipient-set-2","serial":1,"recipients":[],"domains":[{"name":"eu","name":"us","nodes":[{"id":"eu-1","identity":"` + nodeIdentity(3).String() + `"}]}]}`,
		"no recipients in the first":    `{"format":"mpc-recipient-set-1","serial":1,"recipients":[]}`,
	} {
		if _, err := recovery.ParseSignedSet(signedPayload(t, payload)); err == nil {
			t.Errorf("%s is read", what)
		}
	}
	if _, err := recovery.ParseSignedSet(signedPayload(t, `{"format":"mpc-recipient-set-2","serial":1,"recipients":[],"domains":[{"name":"eu","nodes":[{"id":"eu-1","identity":"`+nodeIdentity(3).String()+`"}]}]}`)); err != nil {
		t.Errorf("what the others were made from: %v", err)
	}
}

// TestBundleWithoutRecipients: an account whose set names domains only has no
// bundle, and the error says so.
func TestBundleWithoutRecipients(t *testing.T) {
	p := newPeople(t, 3)
	record, bundle := account(t, mpc.Ed25519, 2, 3, p)
	signed, err := recovery.ParseSignedSet(domainSet(t, p, nil))
	if err != nil {
		t.Fatal(err)
	}
	record.RecipientsHash = signed.Hash()
	bundle.Record, bundle.Recipients = record.Marshal(), domainSet(t, p, nil)
	if _, err := bundle.Marshal(); !errors.Is(err, recovery.ErrNoRecipients) {
		t.Errorf("%v", err)
	}
}

// TestGoldenDomains: sets of the second format, made once, are read for ever.
func TestGoldenDomains(t *testing.T) {
	p := &people{authority: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))}
	first, err := os.ReadFile(filepath.Join(goldenDir, "set.json"))
	if err != nil {
		t.Fatal(err)
	}
	old, err := recovery.ParseSignedSet(first)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		recipients []recovery.Recipient
		hash       string
	}{
		"set-2.json":         {old.Unverified().Recipients, "2b78ae027dadc274ed89ddec462eb7c13261355c44588ca8cbbaeef299879216"},
		"set-2-domains.json": {nil, "e5459ce88b07b7e7067a4a9a88911026b7b71861eced63c0344b032c74aec7e2"},
	} {
		path := filepath.Join(filepath.Dir(goldenDir), "recovery-v2", name)
		made := domainSet(t, p, c.recipients)
		if _, err := os.Stat(path); *writeGolden && os.IsNotExist(err) {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, made, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, made) {
			t.Errorf("%s is written differently", name)
		}
		signed, err := recovery.ParseSignedSet(raw)
		if err != nil {
			t.Fatal(err)
		}
		if hash := signed.Hash(); hex.EncodeToString(hash[:]) != c.hash {
			t.Errorf("%s: its hash is %x, it was %s", name, hash, c.hash)
		}
		if set, err := signed.Verify(p.public()); err != nil || set.Serial != 2 || len(set.Recipients) != len(c.recipients) || !set.Vouches("eu", nodeIdentity(3)) {
			t.Errorf("%s: %+v, %v", name, set, err)
		}
	}
}

// signedPayload is a file with that payload and a signature of the right length.
func signedPayload(t *testing.T, payload string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string][]byte{"payload": []byte(payload), "signature": make([]byte, ed25519.SignatureSize)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
