package backend

import (
	"errors"
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
)

func TestEnvelopeRefs(t *testing.T) {
	foreign, err := (&hsm.Envelope{Ciphertext: make([]byte, 20), Holders: []hsm.Holder{{Kind: hsm.HolderDomain, Seals: []hsm.SealedKey{
		{Suite: hsm.SuiteHPKEP256, Domain: hsm.DefaultDomain, Version: 4, Sealed: make([]byte, 113)},
		{Suite: hsm.SuiteHPKEP256, Domain: "recovery:bank", Version: 9, Sealed: make([]byte, 113)},
	}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(v ...uint32) []byte { return fakeEnvelope([]byte("x"), v...) }
	for name, c := range map[string]struct {
		envelopes [][]byte
		want      refs
	}{
		"one version":          {[][]byte{sealed(2), sealed(2)}, refs{versions: []uint32{2}, sealed: 2}},
		"two versions":         {[][]byte{sealed(3), sealed(2)}, refs{versions: []uint32{2, 3}, sealed: 2}},
		"two seals":            {[][]byte{sealed(1, 5), sealed(4)}, refs{versions: []uint32{1, 4, 5}, sealed: 4}},
		"another domain":       {[][]byte{foreign, sealed(5)}, refs{versions: []uint32{4, 5}, sealed: 4}},
		"one cannot be read":   {[][]byte{sealed(3), []byte("?")}, refs{versions: []uint32{3}, broken: true}},
		"none of them can be":  {[][]byte{nil}, refs{broken: true}},
		"there is no envelope": {nil, refs{}},
	} {
		if got := envelopeRefs(c.envelopes); fmt.Sprint(got.versions, got.sealed, got.broken) != fmt.Sprint(c.want.versions, c.want.sealed, c.want.broken) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	r := &accountRecord{Current: epochRecord{Shares: [][]byte{sealed(3)}}, Previous: &epochRecord{Shares: [][]byte{sealed(1)}}}
	if got := r.refers(); fmt.Sprint(got.versions, got.sealed) != "[1 3] 3" {
		t.Errorf("an account between two versions: %+v", got)
	}
}

// TestScanAndWrites: what a scan has read is taken over unless memory is newer.
func TestScanAndWrites(t *testing.T) {
	at := func(v uint32) *accountRecord {
		return &accountRecord{Current: epochRecord{Shares: [][]byte{fakeEnvelope([]byte("x"), v)}}}
	}
	write := func(x *references, key string, v uint32, err error) {
		t.Helper()
		done, refused := x.begin(key, at(v))
		if refused != nil {
			t.Fatal(refused)
		}
		done(err)
	}
	x := newReferences()
	write(x, "accounts/old", 1, nil)
	if x.tally(1).free() || x.tally(2).free() {
		t.Error("something is certain before anything was read")
	}
	s := x.scan()
	s.found("accounts/read", at(1))
	s.found("accounts/rewritten", at(1))
	s.found("accounts/destroyed", at(1))
	s.found("accounts/failed", at(1))
	write(x, "accounts/rewritten", 2, nil)
	write(x, "accounts/created", 2, nil)
	write(x, "accounts/failed", 2, errors.New("no answer"))
	x.deleted("accounts/destroyed", nil)
	x.end(s, true)
	// "old" was not found: it is gone.
	if a, b := x.tally(1), x.tally(2); a.accounts != 2 || b.accounts != 3 || !a.complete {
		t.Errorf("version 1: %+v, version 2: %+v", a, b)
	}
	if got := x.behind(prefixAccounts, 2); fmt.Sprint(got) != "[accounts/failed accounts/read]" {
		t.Errorf("behind: %v", got)
	}
	if err := x.doom(t.Context(), 2); err == nil {
		t.Error("doomed although a write that failed may still take effect")
	}
	write(x, "accounts/failed", 1, nil)
	if err := x.doom(t.Context(), 2); err != nil {
		t.Error(err)
	}

	// A deletion that failed: the record counts until all have been read after it.
	s = x.scan()
	s.found("accounts/read", at(1))
	s.found("accounts/failed", at(1))
	x.deleted("accounts/read", errors.New("no answer"))
	x.end(s, true)
	if a := x.tally(1); a.accounts != 2 || a.complete {
		t.Errorf("after a deletion that failed: %+v", a)
	}
	s = x.scan()
	s.found("accounts/failed", at(1))
	x.end(s, true)
	if a := x.tally(1); a.accounts != 1 || !a.complete {
		t.Errorf("the deletion has taken effect: %+v", a)
	}

	// Another server wrote: nothing is certain before the next scan, and a scan
	// that ran meanwhile does not make it so.
	s = x.scan()
	s.found("accounts/read", at(1))
	x.invalidate("accounts/read")
	x.end(s, true)
	if x.isComplete() || x.tally(9).free() {
		t.Error("certain after an invalidation")
	}
	x.end(x.scan(), false)
	if x.isComplete() {
		t.Error("certain after a scan with gaps")
	}
	x.end(x.scan(), true)
	if !x.tally(1).free() || !x.tally(2).free() {
		t.Error("a mount without accounts refers to something")
	}
	x.invalidate(keyNodes)
	if !x.isComplete() {
		t.Error("an entry without envelopes makes uncertain")
	}
}
