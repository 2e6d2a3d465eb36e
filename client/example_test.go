package client_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/client"
)

// connect is what an application does once. VAULT_ADDR, VAULT_TOKEN and the other
// variables of Vault's own tools are read by the api package.
func connect() *client.Client {
	vault, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	return client.New(vault, "mpc")
}

// Make an account and sign with it.
func Example() {
	ctx := context.Background()
	mpc := connect()

	account, err := mpc.CreateAccount(ctx, "example-orders", client.CreateOptions{
		Algorithm: client.Ed25519, Threshold: 2, Shares: 3,
	})
	if err != nil {
		log.Fatal(err)
	}
	message := []byte("order 4711: 5 pieces")
	sig, err := mpc.Sign(ctx, "example-orders", client.SignRequest{Input: message, RequestID: client.NewRequestID()})
	if err != nil {
		log.Fatal(err)
	}
	valid, err := mpc.Verify(ctx, "example-orders", client.VerifyRequest{Input: message, Signature: sig.Bytes})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, %d of %d, signed by %d nodes: valid=%v\n", account.Algorithm, account.Threshold, account.Shares, len(sig.Signers), valid)
}

// Sign a repeatable request, and tell apart what can go wrong.
func ExampleClient_Sign() {
	ctx := context.Background()
	mpc := connect()

	// The ID comes from what the application stores anyway, so that after a crash
	// it sends the same one.
	request := client.SignRequest{Input: []byte("invoice 12"), RequestID: "invoice-12"}
	for range 2 {
		sig, err := mpc.Sign(ctx, "example-orders", request)
		switch {
		case errors.Is(err, client.ErrNotFound):
			log.Fatal("no such account")
		case errors.Is(err, client.ErrConflict):
			log.Fatal("frozen, deleted, or the ID was used for something else: ", err)
		case errors.Is(err, client.ErrBusy), errors.Is(err, client.ErrUnavailable):
			log.Fatal("send the same request again later: ", err)
		case err != nil:
			log.Fatal(err)
		}
		fmt.Printf("%d bytes, replayed=%v\n", len(sig.Bytes), sig.Replayed)
	}
	// Another input under the same ID is refused.
	request.Input = []byte("invoice 13")
	_, err := mpc.Sign(ctx, "example-orders", request)
	fmt.Println("another input: conflict", errors.Is(err, client.ErrConflict))
}

// Sign many things in one request. Each has a result of its own.
func ExampleClient_SignBatch() {
	ctx := context.Background()
	mpc := connect()
	results, err := mpc.SignBatch(ctx, "example-orders", []client.BatchItem{
		{SignRequest: client.SignRequest{Input: []byte("one")}, Reference: "1"},
		{SignRequest: client.SignRequest{Input: []byte("two"), HashAlgorithm: "none-such"}, Reference: "2"},
	})
	if err != nil {
		log.Fatal(err) // nothing was signed
	}
	for _, r := range results {
		if r.Err != nil {
			fmt.Printf("%s: invalid=%v\n", r.Reference, errors.Is(r.Err, client.ErrInvalid))
			continue
		}
		fmt.Printf("%s: %d bytes\n", r.Reference, len(r.Signature.Bytes))
	}
}

// Go through all accounts that match; pages are read as needed.
func ExampleClient_Accounts() {
	mpc := connect()
	for a, err := range mpc.Accounts(context.Background(), client.Filter{Prefix: "example-", Algorithm: client.Ed25519, State: client.StateActive}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(a.Name, a.Algorithm, a.Shares)
	}
}

// Be a certificate authority whose key nobody has. The same crypto.Signer serves
// as PrivateKey of a tls.Certificate, and golang.org/x/crypto/ssh takes it with
// NewSignerFromSigner.
func ExampleClient_Signer() {
	ctx := context.Background()
	mpc := connect()
	if _, err := mpc.CreateAccount(ctx, "example-ca", client.CreateOptions{Algorithm: client.ECDSAP256}); err != nil {
		log.Fatal(err)
	}
	signer, err := mpc.Signer(ctx, "example-ca", client.WaitForAuxiliaryKeys(5*time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"},
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		log.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cert.Subject, cert.SignatureAlgorithm, cert.CheckSignatureFrom(cert) == nil)
}

// Sign for Ethereum: r, s and v.
func ExampleSignature_RSV() {
	ctx := context.Background()
	mpc := connect()
	if _, err := mpc.CreateAccount(ctx, "example-ethereum", client.CreateOptions{Algorithm: client.ECDSASecp256k1}); err != nil {
		log.Fatal(err)
	}
	sig, err := mpc.Sign(ctx, "example-ethereum", client.SignRequest{
		Input: []byte("hello"), MessageType: client.MessageEIP191, Format: client.FormatEthereum,
	}, client.WaitForAuxiliaryKeys(5*time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	r, s, v, err := sig.RSV()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.BitLen() > 0, s.BitLen() > 0, v+27 == sig.Bytes[64])
}

// Take an account out of use and back.
func ExampleClient_Delete() {
	ctx := context.Background()
	mpc := connect()
	if _, err := mpc.CreateAccount(ctx, "example-old", client.CreateOptions{Algorithm: client.Ed25519}); err != nil {
		log.Fatal(err)
	}
	deleted, err := mpc.Delete(ctx, "example-old", client.DeleteOptions{After: 30 * 24 * time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	_, err = mpc.Sign(ctx, "example-old", client.SignRequest{Input: []byte("x")})
	fmt.Println(deleted.State, deleted.DestroyTime.After(time.Now().AddDate(0, 0, 29)), errors.Is(err, client.ErrConflict))
	restored, err := mpc.Restore(ctx, "example-old")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(restored.State)
}

// TestExamples runs the examples above on a real Vault with the engine at mpc/.
// plugin/e2e starts one, runs this in it and checks what is printed.
func TestExamples(t *testing.T) {
	if os.Getenv("MPC_CLIENT_EXAMPLES") == "" {
		t.Skip("run by TestClientExamples of plugin/e2e, on a real Vault")
	}
	for _, e := range []struct {
		name string
		run  func()
	}{
		{"Example", Example}, {"ExampleClient_Sign", ExampleClient_Sign}, {"ExampleClient_SignBatch", ExampleClient_SignBatch},
		{"ExampleClient_Accounts", ExampleClient_Accounts}, {"ExampleClient_Signer", ExampleClient_Signer},
		{"ExampleSignature_RSV", ExampleSignature_RSV}, {"ExampleClient_Delete", ExampleClient_Delete},
	} {
		fmt.Println("=", e.name)
		e.run()
	}
}
