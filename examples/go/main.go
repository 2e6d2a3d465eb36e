// Command go is an example: it makes a threshold account, signs a message with it
// and verifies the signature with the standard library. See README.md.
//
// Border: it uses the client package and VAULT_ADDR and VAULT_TOKEN, as a program
// of somebody else's would.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: go run ./examples/go ACCOUNT MESSAGE")
	}
	name, message := args[0], []byte(args[1])

	vault, err := api.NewClient(api.DefaultConfig()) // reads VAULT_ADDR, VAULT_TOKEN, …
	if err != nil {
		return err
	}
	mount := os.Getenv("MPC_MOUNT")
	if mount == "" {
		mount = "mpc"
	}
	mpc := client.New(vault, mount)

	// If the account is there already, with the same shares, this just returns it.
	account, err := mpc.CreateAccount(ctx, name, client.CreateOptions{
		Algorithm: client.ECDSAP256, Threshold: 2, Shares: 3,
	})
	if err != nil {
		return err
	}
	fmt.Printf("account    %s, %s, %d of %d\n", account.Name, account.Algorithm, account.Threshold, account.Shares)

	// An application stores the ID with the order, payment or document first.
	// Should the answer get lost, the same request gives the same signature.
	request := client.SignRequest{Input: message, RequestID: client.NewRequestID()}
	wait := client.WaitForAuxiliaryKeys(3 * time.Minute) // nodes may just have started
	signature, err := mpc.Sign(ctx, name, request, wait)
	if err != nil {
		return err
	}
	fmt.Printf("signature  %s\n", base64.StdEncoding.EncodeToString(signature.Bytes))
	for _, s := range signature.Signers {
		fmt.Printf("signed by  %s with share %d\n", s.Node, s.Index)
	}
	again, err := mpc.Sign(ctx, name, request, wait)
	if err != nil {
		return err
	}
	fmt.Printf("repeated   replayed=%v\n", again.Replayed)

	if err := verify(account.PublicKeyPEM, message, signature.Bytes); err != nil {
		return err
	}
	fmt.Println("verified   by the standard library")
	return nil
}

// verify needs no Vault: the signature is an ordinary one.
func verify(publicKeyPEM string, message, signature []byte) error {
	block, _ := pem.Decode([]byte(publicKeyPEM))
	if block == nil {
		return errors.New("the public key is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	ecdsaKey, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the public key is a %T", key)
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(ecdsaKey, digest[:], signature) {
		return errors.New("the signature is not valid")
	}
	return nil
}
