package pool_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// TestRenewal renews the auxiliary keys of one of three real nodes while they
// sign, and works with presignatures before and after it. (Stub nodes serve for
// everything that goes wrong; this is for the real nodes' part.)
func TestRenewal(t *testing.T) {
	if testing.Short() {
		t.Skip("making auxiliary keys takes minutes under the race detector; this test runs without -short")
	}
	f := start(t, 3)
	account := f.create(t, mpc.ECDSAP256, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	f.waitAuxiliary(t)
	status := func(id string) pool.AuxStatus {
		nodes := f.pool.Nodes()
		return nodes[slices.IndexFunc(nodes, func(s pool.NodeStatus) bool { return s.ID == id })].Aux
	}
	nonces := map[[32]byte]bool{}
	sign := func(message string, presigned bool) {
		t.Helper()
		r := f.sign(t, account, l, []byte(message))
		if r.Presigned != presigned || nonces[r.Signature.R] {
			t.Fatalf("%q: presigned %v, want %v; the same r before: %v", message, r.Presigned, presigned, nonces[r.Signature.R])
		}
		nonces[r.Signature.R] = true
	}
	stock := func(count int) {
		t.Helper()
		for range count {
			if err := f.pool.Presign(deadline(t, 30*time.Second), pool.PresignRequest{Account: account, Lifetime: time.Hour, Expose: l.expose}); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.pool.Presignatures(account.Record.AccountID, account.Record.Hash()); n != count {
			t.Fatalf("%d presignatures, want %d", n, count)
		}
	}

	stock(2)
	sign("one", true)
	digest, err := f.pool.Sign(deadline(t, 30*time.Second), pool.SignRequest{Account: account, Input: bytes.Repeat([]byte{1}, 32),
		MessageType: mpc.MessageDigest, Hash: mpc.HashSHA256, Expose: l.expose})
	if err != nil || digest.Presigned {
		t.Fatalf("a digest: %v, presigned %v", err, digest != nil && digest.Presigned)
	}
	sign("two", true)
	sign("three", false)

	if err := f.pool.RenewAuxiliary("local-2"); err != nil {
		t.Fatal(err)
	}
	meanwhile, renewing := 0, false
	for end := time.Now().Add(5 * time.Minute); status("local-2").Generation < 2; meanwhile++ {
		if time.Now().After(end) {
			t.Fatalf("no new keys: %+v", f.pool.Nodes())
		}
		renewing = renewing || status("local-2").State == "renewing"
		sign(time.Now().String(), false)
		time.Sleep(500 * time.Millisecond) // making keys has the lowest priority
	}
	t.Logf("%d signatures meanwhile", meanwhile)
	if meanwhile < 2 || !renewing {
		t.Errorf("%d signatures during the renewal, seen as renewing: %v", meanwhile, renewing)
	}
	f.waitAuxiliary(t)
	time.Sleep(3 * time.Second) // old keys are retired by then
	for range 4 {
		sign(time.Now().String(), false)
	}
	stock(1)
	sign("with the new keys", true)
	if status("local-1").Generation != 1 || status("local-3").Generation != 1 {
		t.Error("others made new keys")
	}

	r, err := f.pool.Refresh(deadline(t, 10*time.Second), pool.RefreshRequest{Account: account, Expose: l.expose})
	if err != nil {
		t.Fatal(err)
	}
	account, l = r.Account, &ledger{by: maps.Clone(r.Account.Exposures)}
	sign("refreshed", false)
}
