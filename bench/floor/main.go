// Command floor is the least that a Vault plugin which signs can do: one
// Ed25519 key in memory, no storage, no token, no second process. `make bench`
// measures it to tell what Vault and its plugin protocol cost by themselves.
// It is not a secrets engine to use: its key ends with the process.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.Serve(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	b := &framework.Backend{BackendType: logical.TypeLogical, Paths: []*framework.Path{{
		Pattern:         "sign",
		HelpSynopsis:    "Sign with a key that this process made.",
		HelpDescription: "Answers with the Ed25519 signature of input, both base64.",
		Fields:          map[string]*framework.FieldSchema{"input": {Type: framework.TypeString, Description: "Message, base64."}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{Summary: "Sign.", Callback: sign(key)},
		},
	}}}
	return b, b.Setup(ctx, conf)
}

func sign(key ed25519.PrivateKey) framework.OperationFunc {
	return func(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		input, err := base64.StdEncoding.DecodeString(data.Get("input").(string))
		if err != nil {
			return logical.ErrorResponse("input is not base64"), logical.ErrInvalidRequest
		}
		return &logical.Response{Data: map[string]any{"signature": base64.StdEncoding.EncodeToString(ed25519.Sign(key, input))}}, nil
	}
}
