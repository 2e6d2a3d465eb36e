package recovery_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// TestCustodyIsNotRecovered: custodians have one of two keys of an account with
// user custody. They are told so, and what they have opens nothing.
func TestCustodyIsNotRecovered(t *testing.T) {
	p := newPeople(t, 3)
	record, bundle := account(t, mpc.Ed25519, 2, 3, p)
	m := newMount(t, p)
	d1, d2 := deal(t, p, bundle, 0, m), deal(t, p, bundle, 1, m)

	owner, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	record.Custody = mpc.CustodyHash(owner.PublicKey().Bytes())
	bundle.Record = record.Marshal()
	c := hsm.ShareContext(1, record.Hash())
	if bundle.Shares[0], _, err = hsm.SealCustody(c, secret.Copy(make([]byte, 32)), []hsm.WrappingKey{recipientKey(t, p, 1)}, owner.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if d, err := recovery.MakeDeal(t.Context(), bundle, name(0), p.custodians[0], p.public(), m.parsed(t)); d != nil || !errors.Is(err, recovery.ErrCustody) {
		t.Errorf("dealt: %v", err)
	}
	if _, err := recovery.NewRecord(record, m.hash, record.RecipientsHash, []*recovery.Deal{d1, d2}); !errors.Is(err, recovery.ErrCustody) {
		t.Errorf("a new record: %v", err)
	}
	// Not only by these functions' word.
	keys := []hsm.WrappingKey{recipientKey(t, p, 1)}
	if _, _, err := hsm.Open(t.Context(), hsm.SoftwareKey(p.custodians[0]), keys, c, bundle.Shares[0]); !errors.Is(err, hsm.ErrNeedsCustodyKey) {
		t.Errorf("a custodian's key alone: %v", err)
	}
}
