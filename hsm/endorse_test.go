package hsm

import (
	"crypto/ed25519"
	"testing"
)

func TestEndorsementCoversTheKey(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	k := WrappingKey{Domain: "eu", Version: 7, Suite: SuiteHPKEP256, ID: make([]byte, 16), PublicKey: []byte{4, 1}, Label: "a"}
	mount := [16]byte{1}
	signature := EndorseKey(private, mount, k)
	relabelled := k
	relabelled.Label = "b" // for people only
	if !VerifyKeyEndorsement(public, mount, k, signature) || !VerifyKeyEndorsement(public, mount, relabelled, signature) {
		t.Fatal("an endorsement does not verify")
	}
	for name, change := range map[string]func(*WrappingKey){
		"domain":  func(k *WrappingKey) { k.Domain = "us" },
		"version": func(k *WrappingKey) { k.Version++ },
		"suite":   func(k *WrappingKey) { k.Suite = SuiteRSA3072OAEPSHA256 },
		"id":      func(k *WrappingKey) { k.ID = append([]byte{1}, make([]byte, 15)...) },
		"key":     func(k *WrappingKey) { k.PublicKey = []byte{4, 2} },
	} {
		changed := k
		if change(&changed); VerifyKeyEndorsement(public, mount, changed, signature) {
			t.Errorf("it covers no %s", name)
		}
	}
	if VerifyKeyEndorsement(public, [16]byte{2}, k, signature) || VerifyKeyEndorsement(other, mount, k, signature) ||
		VerifyKeyEndorsement(public, mount, k, nil) || VerifyKeyEndorsement(nil, mount, k, signature) {
		t.Error("it verifies for another mount or node, or is none")
	}
}
