package backend

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// TestRecipientSeals: shares that lack their recipient, or have another, never
// replace good ones.
func TestRecipientSeals(t *testing.T) {
	key := func() []byte {
		k, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k.PublicKey().Bytes()
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var list []recovery.Recipient
	for i := range 3 {
		list = append(list, recovery.Recipient{Name: fmt.Sprintf("c%d", i+1), Version: 1, PublicKey: key()})
	}
	set, err := recovery.NewSet(1, list)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := set.Sign(private)
	if err != nil {
		t.Fatal(err)
	}
	own := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: key()}
	seal := func(to ...hsm.WrappingKey) []byte {
		e, err := hsm.Seal(hsm.ProbeContext(), secret.New([]byte("share")), append([]hsm.WrappingKey{own}, to...))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	r := func(i int) hsm.WrappingKey { return list[i-1].Key() }
	newer := r(2)
	newer.Version = 2
	for what, x := range map[string]struct {
		envelopes [][]byte
		set       []byte
		text      string
	}{
		"no set":            {[][]byte{seal(), seal(), seal()}, nil, ""},
		"a set":             {[][]byte{seal(r(1)), seal(r(2)), seal(r(3))}, signed, ""},
		"one left out":      {[][]byte{seal(r(1)), seal(), seal(r(3))}, signed, "share 2 to its recovery recipient c2"},
		"one changed":       {[][]byte{seal(r(1)), seal(r(2)), seal(r(2))}, signed, "share 3"},
		"one too many":      {[][]byte{seal(r(1), r(2)), seal(r(2)), seal(r(3))}, signed, "share 1"},
		"another key":       {[][]byte{seal(r(1)), seal(newer), seal(r(3))}, signed, "share 2"},
		"without being set": {[][]byte{seal(), seal(), seal(r(3))}, nil, "has no recipients"},
		"no envelope":       {[][]byte{seal(r(1)), []byte("x"), seal(r(3))}, signed, "share 2"},
	} {
		err := checkRecipientSeals(x.envelopes, x.set)
		if (err == nil) != (x.text == "") || err != nil && !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: %v", what, err)
		}
	}

	// A set that names wrapping domains only has nobody to seal to.
	node := recovery.DomainNode{ID: "eu-1", Identity: hex.EncodeToString(public)}
	domains, err := recovery.NewDomainSet(2, nil, []recovery.Domain{{Name: "eu", Nodes: []recovery.DomainNode{node}}})
	if err != nil {
		t.Fatal(err)
	}
	without, err := domains.Sign(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkRecipientSeals([][]byte{seal(), seal(), seal()}, without); err != nil {
		t.Errorf("a set of domains: %v", err)
	}
	if err := checkRecipientSeals([][]byte{seal(), seal(r(2)), seal()}, without); err == nil || !strings.Contains(err.Error(), "has no recipients") {
		t.Errorf("a recipient that a set of domains does not name: %v", err)
	}

	// The fake engine seals to the token alone, as a broken node would.
	m := wrapped(t, &logical.InmemStorage{}, newFake(t), newClock())
	m.must(logical.UpdateOperation, "config/authority", map[string]any{"public_key": hex.EncodeToString(public)})
	m.must(logical.UpdateOperation, "config/recovery", map[string]any{"set": string(signed)})
	before := m.record("alice").Current
	if _, err := m.b.refreshAccount(t.Context(), "alice"); err == nil || !strings.Contains(err.Error(), "recovery recipient c1") {
		t.Errorf("a refresh that left the recipients out: %v", err)
	}
	if now := m.record("alice").Current; string(now.Record) != string(before.Record) || mustAccount(t, m.record("alice")).Record.RecipientsHash != mpc.EmptySetHash() {
		t.Error("the shares were replaced")
	}

	// The set of domains replaces it: no custodians from then on, and the mount says so.
	data := m.warns(logical.UpdateOperation, "config/recovery", map[string]any{"set": string(without)}, "names no custodians")
	if nodes := fmt.Sprint(data["domains"]); nodes != "map[eu:[eu-1]]" {
		t.Errorf("domains %v", nodes)
	}
	if _, err := m.b.refreshAccount(t.Context(), "alice"); err != nil {
		t.Errorf("a refresh to it: %v", err)
	}
	if _, status, msg := m.do(logical.ReadOperation, "recovery/export/alice", nil); status != http.StatusBadRequest || !strings.Contains(msg, "names wrapping domains only") {
		t.Errorf("an export without custodians: %d, %s", status, msg)
	}
}
