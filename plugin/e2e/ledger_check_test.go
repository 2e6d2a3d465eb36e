//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

// TestLedgerNoticesLosses breaks each promise once: a ledger that misses one
// would let every test that relies on it pass.
func TestLedgerNoticesLosses(t *testing.T) {
	answer := func(key string, epoch string) map[string]any {
		return map[string]any{"algorithm": bip340, "public_key": "PEM " + key, "public_key_hex": key, "share_epoch": json.Number(epoch)}
	}
	l := newLedger()
	if err := l.adopt("alice", bip340, answer("aa", "3")); err != nil {
		t.Fatal(err)
	}
	before := l.promised("alice")
	if err := l.saw(before, answer("aa", "4")); err != nil || l.promised("alice").epoch != 4 {
		t.Fatalf("a newer epoch: %v, %+v", err, l.promised("alice"))
	}
	// An answer that was on its way while another showed the newer epoch.
	if err := l.saw(before, answer("aa", "3")); err != nil || l.promised("alice").epoch != 4 {
		t.Fatalf("an answer overtaken by another: %v, %+v", err, l.promised("alice"))
	}
	for what, bad := range map[string]map[string]any{
		"another key":    answer("bb", "5"),
		"another PEM":    {"public_key": "PEM bb", "share_epoch": json.Number("5")},
		"an older epoch": answer("aa", "3"),
		"no key":         {"share_epoch": json.Number("5")},
		"no epoch":       {"public_key": "aa"},
	} {
		count := len(l.losses())
		if err := l.saw(l.promised("alice"), bad); !errors.Is(err, errLost) || len(l.losses()) != count+1 {
			t.Errorf("%s was not noticed: %v", what, err)
		}
	}
	if err := l.adopt("bob", ed25519, answer("cc", "1")); !errors.Is(err, errLost) {
		t.Errorf("an account of another algorithm: %v", err)
	}
	one, two := bytes.Repeat([]byte{1}, 64), append(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)...)
	for _, sig := range [][]byte{one, one} {
		if err := l.noteNonce("alice", nil, sig); err != nil {
			t.Errorf("the same signature again: %v", err)
		}
	}
	if err := l.noteNonce("alice", nil, two); !errors.Is(err, errLost) {
		t.Errorf("a nonce used twice was not noticed: %v", err)
	}
	if err := l.noteNonce("bob", nil, two); err != nil {
		t.Errorf("the same nonce of another key: %v", err)
	}
}
