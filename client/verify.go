package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
)

// VerifyRequest says what to verify: the fields of SignRequest with the same
// values as for signing, and the signature.
type VerifyRequest struct {
	Input          []byte
	MessageType    MessageType
	HashAlgorithm  HashAlgorithm
	Format         SignatureFormat // of Signature
	DerivationPath string
	TaprootTweak   string
	Signature      []byte
}

// Verify asks the engine whether a signature is the account's. It needs no node
// and no HSM. False is an answer, not an error.
func (c *Client) Verify(ctx context.Context, account string, req VerifyRequest) (bool, error) {
	body := (&SignRequest{
		Input: req.Input, MessageType: req.MessageType, HashAlgorithm: req.HashAlgorithm, Format: req.Format,
		DerivationPath: req.DerivationPath, TaprootTweak: req.TaprootTweak,
	}).body()
	body.Signature = base64.StdEncoding.EncodeToString(req.Signature)
	if req.Format == FormatJWS {
		body.Signature = base64.RawURLEncoding.EncodeToString(req.Signature)
	}
	r, err := onAccount(http.MethodPut, "verify/", account, "", "verify a signature of", body)
	if err != nil {
		return false, err
	}
	var d struct {
		Valid *bool `json:"valid"`
	}
	if _, err := c.do(ctx, r, &d); err != nil {
		return false, err
	}
	if d.Valid == nil {
		return false, fmt.Errorf("cannot %s: %w", r.op, errors.New("the answer does not say whether it is valid"))
	}
	return *d.Valid, nil
}
