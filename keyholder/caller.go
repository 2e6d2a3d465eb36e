package keyholder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"vault-plugin-secrets-mpc/secret"
)

// Op is what a request does to a path.
type Op string

// The operations, as session/call names them.
const (
	Read   Op = "read"
	List   Op = "list"
	Write  Op = "write" // creates or updates
	Delete Op = "delete"
)

// Caller sends requests to one mount of the engine. Paths are below the mount.
// `in` is encoded as JSON, so byte slices travel as base64; out, which may be nil,
// is decoded from the answer's data. A refusal of the engine is a *Refusal; other
// errors mean that no answer came. Safe for concurrent use.
type Caller interface {
	Call(ctx context.Context, op Op, path string, in map[string]any, out any) error
}

// Refusal is an answer with an error status.
type Refusal struct {
	Status   int      // of HTTP
	Messages []string // the engine's own
	// Cause, if there is one, is the sender's own error, whose text is shown.
	Cause error
}

func (r *Refusal) Error() string {
	switch {
	case r.Cause != nil:
		return r.Cause.Error()
	case len(r.Messages) > 0:
		return fmt.Sprintf("%s (status %d)", strings.Join(r.Messages, "; "), r.Status)
	case r.Status == http.StatusNotFound:
		return "not found (status 404)"
	}
	return fmt.Sprintf("the server refused with status %d and no message", r.Status)
}

func (r *Refusal) Unwrap() error { return r.Cause }

// Refused reports whether err is a refusal with this status.
func Refused(err error, status int) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status == status
}

// Topic says which secret a Question is about, so that whoever answers without a
// person can tell them apart.
type Topic string

// Topics.
const (
	TopicPassword Topic = "password"
	TopicPIN      Topic = "pin"       // of a third-party account or phone, part of the login
	TopicAnswer   Topic = "answer"    // personal information
	TopicTokenPIN Topic = "token-pin" // of a smart card, which stays between it and its owner
	TopicKey      Topic = "key"       // passphrase of a private key file
)

// Question asks for a secret.
type Question struct {
	Topic Topic
	Text  string // for people, without a colon
	// Fresh: the secret is a new one; a person is asked twice.
	Fresh bool
}

// Prompter is the person, or what stands in for one. Its methods are called one
// after the other.
type Prompter interface {
	// Ask asks for something that may be seen.
	Ask(ctx context.Context, text string) (string, error)
	// AskSecret asks for something that may not. The caller wipes it.
	AskSecret(ctx context.Context, q Question) (*secret.Bytes, error)
	// Show tells something.
	Show(text string)
	// OpenURL opens a page in the browser. An error is no end: the text that
	// is shown before holds the address too.
	OpenURL(url string) error
}
