package recovery_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// TestBundlePolicy: a bundle carries the approval policy that its record names, that
// one and no other, and so does what is read of it.
func TestBundlePolicy(t *testing.T) {
	p := newPeople(t, 3)
	record, bundle := account(t, mpc.Ed25519, 2, 3, p)
	policy := []byte("an approval policy, which this package does not read")
	bundle.Policy = policy
	if _, err := bundle.Marshal(); err == nil {
		t.Error("a policy that the account does not name was taken")
	}
	record.PolicyHash = sha256.Sum256(policy)
	bundle.Record = record.Marshal()
	text, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := recovery.ParseBundle(text)
	if err != nil || !bytes.Equal(back.Policy, policy) {
		t.Errorf("read as %q, %v", back.Policy, err)
	}
	for what, bad := range map[string][]byte{"none": nil, "another": []byte("x"), "longer": append(bytes.Clone(policy), 0)} {
		bundle.Policy = bad
		if _, err := bundle.Marshal(); err == nil {
			t.Errorf("%s was taken for the policy that the account names", what)
		}
	}
}
