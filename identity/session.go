package identity

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// A session is what a finished login yields: both ends have a Channel, whose
// sequence number 0 carries the server's LoginMessage and whose numbers from 1 on
// carry one call each, client to server, and its answer under the same number. What
// stands beside a message in clear, so that Vault's audit log shows it, is
// authenticated with it: the contexts here.

const (
	labelSessionLogin  = "mpc identity session login v1"
	labelSessionCall   = "mpc identity session call v1"
	labelSessionAnswer = "mpc identity session answer v1"
)

// Operation is what a call does to a path.
type Operation string

// Operations of a call.
const (
	ReadOperation   Operation = "read"
	ListOperation   Operation = "list"
	WriteOperation  Operation = "write"
	DeleteOperation Operation = "delete"
)

// Valid reports whether o is one of the operations.
func (o Operation) Valid() bool {
	return o == ReadOperation || o == ListOperation || o == WriteOperation || o == DeleteOperation
}

// MaxPath bounds the path of a call, in bytes.
const MaxPath = 512

// SessionLoginContext is what a LoginMessage is sealed with: fields(label, session).
func SessionLoginContext(session ID) Context {
	return fields([]byte(labelSessionLogin), session[:])
}

// SessionCallContext is what the body of a call is sealed with: fields(label,
// session, sequence as 8 bytes, operation, path below the mount).
func SessionCallContext(session ID, sequence uint64, operation Operation, path string) Context {
	return fields([]byte(labelSessionCall), session[:], number(sequence), []byte(operation), []byte(path))
}

// SessionAnswerContext is what the answer to that call is sealed with: its fields
// under another label and the status (as of HTTP) as 8 bytes.
func SessionAnswerContext(session ID, sequence uint64, operation Operation, path string, status int) Context {
	return fields([]byte(labelSessionAnswer), session[:], number(sequence), []byte(operation), []byte(path), number(uint64(max(status, 0))))
}

// LoginMessage is the body of the server's first message.
type LoginMessage struct {
	// Authenticator and Signature are the SignedAuthenticator, which nobody gets
	// outside of a session of its own: its seed is in there, wrapped.
	Authenticator []byte `json:"authenticator"`
	Signature     []byte `json:"signature"`
	// Identities are those that it has a level in, ascending by name.
	Identities []LoginIdentity `json:"identities"`
	Expires    time.Time       `json:"expires_time"`
}

// LoginIdentity is an identity as the server lists it. It is a hint: what the
// authenticator opens is known from the identity's manifest alone.
type LoginIdentity struct {
	Name  string   `json:"name"`
	ID    ID       `json:"id"`
	Level string   `json:"level"`
	Roles []string `json:"roles"`
	State string   `json:"state"` // active or frozen
}

// AnswerMessage is the body of an answer: what the path gives a Vault client.
type AnswerMessage struct {
	Data     map[string]any `json:"data,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Errors   []string       `json:"errors,omitempty"`
}

// ParseLoginMessage reads the body of the server's first message.
func ParseLoginMessage(body []byte) (*LoginMessage, error) {
	m := &LoginMessage{}
	if err := decodeMessage("login message", body, m); err != nil {
		return nil, err
	}
	if len(m.Authenticator) == 0 || len(m.Signature) == 0 {
		return nil, invalid("the server's login message has no authenticator")
	}
	return m, nil
}

// ParseAnswerMessage reads the body of an answer.
func ParseAnswerMessage(body []byte) (*AnswerMessage, error) {
	m := &AnswerMessage{}
	return m, decodeMessage("answer", body, m)
}

// ParseCallMessage reads the body of a call: a JSON object, or nothing.
func ParseCallMessage(body []byte) (map[string]any, error) {
	var m map[string]any
	if len(body) == 0 {
		return m, nil
	}
	return m, decodeMessage("call", body, &m)
}

// decodeMessage is not strict: the two ends may be of different versions, and the
// channel has authenticated what the other one said.
func decodeMessage(what string, body []byte, into any) error {
	if len(body) > MaxChannelMessage {
		return invalid("a %s of %d bytes", what, len(body))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: the %s is not JSON of its form", ErrRecord, what)
	}
	return nil
}

// SplitPath takes a path apart. It has no empty, "." or ".." part and at most
// MaxPath bytes, so that no two texts mean one path.
func SplitPath(path string) ([]string, error) {
	if len(path) > MaxPath {
		return nil, invalid("a path of %d bytes, more than %d", len(path), MaxPath)
	}
	parts := strings.Split(path, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, invalid("a path with an empty part or a character that paths do not have")
		}
	}
	return parts, nil
}
