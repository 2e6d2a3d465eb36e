package backend

import (
	"bytes"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// What approvers' devices send, decoded. Everything is bounded before it is decoded,
// and an error depends on nothing but what was sent.

// Bounds of one signature factor, in bytes: those of approval.ParseBundle.
const (
	maxFactorSignature     = 1024
	maxFactorAuthenticator = 2048
	maxFactorClientData    = 2048
	// deviceSignatureSize is that of r‖s on P-256.
	deviceSignatureSize = 64
	maxTOTPText         = 16
)

// decodeAnyBase64 reads base64 by either alphabet (RFC 4648, sections 4 and 5), with
// padding or without: browsers and Go programs write different ones.
func decodeAnyBase64(field, text string, least, most int) ([]byte, error) {
	if len(text) > base64.StdEncoding.EncodedLen(most) {
		return nil, invalid("%s is too long: it has %d to %d bytes, in base64", field, least, most)
	}
	plain := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	raw, err := base64.RawStdEncoding.Strict().DecodeString(plain)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, invalid("%s is not base64", field)
	}
	if len(raw) < least || len(raw) > most {
		return nil, invalid("%s has %d bytes in base64, and must have %d to %d", field, len(raw), least, most)
	}
	return raw, nil
}

func textOf(data *framework.FieldData, field string) string {
	s, _ := data.Get(field).(string)
	return s
}

func approvalID(data *framework.FieldData, field string) (approval.ID, error) {
	id, err := approval.ParseID(textOf(data, field))
	if err != nil || id == (approval.ID{}) {
		return approval.ID{}, invalid("%s must have 32 lower-case hex digits", field)
	}
	return id, nil
}

// opening is what approve/open takes.
type opening struct {
	request, key approval.ID
	form         approval.Form
	time         int64 // Unix seconds, by the device's clock
	signature    []byte
}

func parseOpening(data *framework.FieldData) (o opening, err error) {
	if o.request, err = approvalID(data, "request"); err != nil {
		return o, err
	}
	if o.key, err = approvalID(data, "key"); err != nil {
		return o, err
	}
	form, err := decodeAnyBase64("form", textOf(data, "form"), approval.FormSize, approval.FormSize)
	if err != nil {
		return o, err
	}
	o.form = approval.Form(form)
	if o.time, _ = data.Get("time").(int64); o.time < 1 || o.time > 1<<40 {
		return o, invalid("time is the device's clock, in seconds since 1970")
	}
	o.signature, err = decodeAnyBase64("signature", textOf(data, "signature"), deviceSignatureSize, deviceSignatureSize)
	return o, err
}

// answering is what approve/answer takes.
type answering struct {
	ticket     []byte
	decision   approval.Decision
	signatures []approval.Signature
	totp       string
}

func parseAnswering(data *framework.FieldData) (a answering, err error) {
	if a.ticket, err = decodeAnyBase64("ticket", textOf(data, "ticket"), approveTicketSize, approveTicketSize); err != nil {
		return a, err
	}
	a.decision = approval.Decision(textOf(data, "decision"))
	if a.decision != approval.Approve && a.decision != approval.Refuse {
		return a, invalid("decision must be approve or refuse")
	}
	if a.totp = textOf(data, "totp"); len(a.totp) > maxTOTPText {
		return a, invalid("totp is a one-time code of six digits")
	}
	if a.decision == approval.Refuse && a.totp != "" {
		return a, invalid("a refusal takes no one-time code: the signature of the device is enough, and the code stays good")
	}
	list, _ := data.Get("signatures").([]any)
	if len(list) == 0 || len(list) > approval.MaxKeys {
		return a, invalid("signatures must be a list of 1 to %d objects with key and signature, the device's own among them", approval.MaxKeys)
	}
	for _, item := range list {
		s, err := parseFactor(item)
		if err != nil {
			return a, err
		}
		if slices.ContainsFunc(a.signatures, func(o approval.Signature) bool { return o.Key == s.Key }) {
			return a, invalid("signatures has key %s twice", s.Key)
		}
		a.signatures = append(a.signatures, s)
	}
	return a, nil
}

// parseFactor reads one item of signatures.
func parseFactor(item any) (s approval.Signature, err error) {
	fields, ok := item.(map[string]any)
	if !ok {
		return s, invalid("signatures must be a list of objects with key and signature")
	}
	known := []string{"authenticator_data", "client_data", "key", "signature"}
	text := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, ok := fields[name].(string)
		if !ok && fields[name] != nil || !slices.Contains(known, name) {
			return s, invalid("an item of signatures has texts as fields: %s; %q is none of them, or is no text", strings.Join(known, ", "), clip(name))
		}
		text[name] = value
	}
	if s.Key, err = approval.ParseID(text["key"]); err != nil {
		return s, invalid("key of an item of signatures must have 32 lower-case hex digits")
	}
	if s.Signature, err = decodeAnyBase64("signature of an item of signatures", text["signature"], 1, maxFactorSignature); err != nil {
		return s, err
	}
	if s.AuthenticatorData, err = decodeAnyBase64("authenticator_data", text["authenticator_data"], 0, maxFactorAuthenticator); err != nil {
		return s, err
	}
	s.ClientData, err = decodeAnyBase64("client_data", text["client_data"], 0, maxFactorClientData)
	return s, err
}

// size is what the signatures take in a bundle, in bytes.
func (a *answering) size() (n int) {
	for i := range a.signatures {
		s := &a.signatures[i]
		n += 4*4 + len(s.Key) + len(s.Signature) + len(s.AuthenticatorData) + len(s.ClientData)
	}
	return n
}

// factors is what is stored of them.
func (a *answering) factors() []signedFactor {
	out := make([]signedFactor, len(a.signatures))
	for i, s := range a.signatures {
		out[i] = signedFactor{
			Key: s.Key.String(), Signature: bytes.Clone(s.Signature),
			AuthenticatorData: bytes.Clone(s.AuthenticatorData), ClientData: bytes.Clone(s.ClientData),
		}
	}
	return out
}
