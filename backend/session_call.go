package backend

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// A call is a request to another path of this mount, sent through a session instead
// of with a Vault token. Operation and path are in clear, so that Vault's audit log
// shows them, and authenticated with the message. What may be called is in
// session_rules.go; the path's own handler does the rest, and its answer, errors
// included, goes back sealed.

func (b *backend) sessionCall(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := identity.ParseID(data.Get("session").(string))
	if err != nil {
		return nil, errNoSession()
	}
	sequence := data.Get("sequence").(int64)
	if sequence < 1 {
		return nil, invalid("sequence begins with 1 and rises with every call")
	}
	operation := identity.Operation(data.Get("operation").(string))
	if !operation.Valid() {
		return nil, invalid("operation must be read, list, write or delete")
	}
	path := data.Get("path").(string)
	parts, err := identity.SplitPath(path)
	if err != nil {
		return nil, invalid("path must be a path below the mount, such as identities/alice")
	}
	message, err := decode64("message", data.Get("message").(string), 16, identity.MaxChannelMessage)
	if err != nil {
		return nil, err
	}
	s, err := b.sessions.enter(ctx, id)
	if err != nil {
		return nil, err
	}
	defer s.leave()
	body, err := s.channel.Open(uint64(sequence), identity.SessionCallContext(id, uint64(sequence), operation, path), message)
	switch {
	case errors.Is(err, identity.ErrReplay):
		return nil, conflict("a call with this sequence number, or a later one, was taken before: nothing was done. Numbers rise with every call; where an answer was lost, look at what there is before sending it again")
	case errors.Is(err, identity.ErrOpen), errors.Is(err, identity.ErrRecord):
		return nil, invalid("the message does not open: it was changed on its way, or belongs to another session, sequence number, operation or path. Nothing was done")
	case err != nil:
		return nil, errNoSession() // ended just now
	}
	defer secret.Wipe(body)
	status, answer, err := b.call(ctx, req, s, &called{operation: operation, path: path, parts: parts}, body)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	sealed, err := s.channel.Seal(uint64(sequence), identity.SessionAnswerContext(id, uint64(sequence), operation, path, status), plain)
	if err != nil {
		// It was reported lost, or ended, while the call was under way.
		return nil, errNoSession()
	}
	return &logical.Response{Data: map[string]any{"status": status, "message": encode64(sealed)}}, nil
}

// called is a call that has opened.
type called struct {
	operation identity.Operation
	path      string
	parts     []string
}

// call does what was asked for. An error is one of the outer request; what the
// path refuses is an answer.
func (b *backend) call(ctx context.Context, req *logical.Request, s *session, c *called, body []byte) (int, *identity.AnswerMessage, error) {
	data, err := identity.ParseCallMessage(body)
	if err != nil {
		return http.StatusBadRequest, refusal("the message is not a JSON object of fields"), nil
	}
	if err := b.allowed(ctx, s, c); err != nil {
		var f *fault
		if errors.As(err, &f) {
			return f.status, refusal(f.msg), nil
		}
		return 0, nil, err
	}
	inner := &logical.Request{
		ID: req.ID, Operation: vaultOperation(c.operation), Path: c.path, Data: data, Storage: req.Storage,
		MountPoint: req.MountPoint, MountType: req.MountType, MountAccessor: req.MountAccessor, Connection: req.Connection,
	}
	if c.operation == identity.ListOperation {
		inner.Path += "/" // as Vault sends it
	}
	if inner.Operation == logical.UpdateOperation {
		found, exists, err := b.HandleExistenceCheck(ctx, inner)
		if err != nil {
			return 0, nil, err
		}
		if found && !exists {
			inner.Operation = logical.CreateOperation
		}
	}
	resp, err := b.HandleRequest(inSession(ctx, s), inner)
	status := statusOf(inner, resp, err)
	switch {
	case status == 0:
		return 0, nil, logical.ErrReadOnly
	case errors.Is(err, logical.ErrUnsupportedOperation):
		return http.StatusMethodNotAllowed, refusal("this path has no such operation"), nil
	case err != nil && resp != nil && resp.IsError():
		return status, refusal(resp.Error().Error()), nil
	case err != nil:
		return status, refusal(err.Error()), nil
	case resp == nil:
		return status, &identity.AnswerMessage{}, nil
	}
	return status, &identity.AnswerMessage{Data: resp.Data, Warnings: resp.Warnings}, nil
}

func refusal(text string) *identity.AnswerMessage {
	return &identity.AnswerMessage{Errors: []string{strings.TrimSpace(text)}}
}

func vaultOperation(o identity.Operation) logical.Operation {
	switch o {
	case identity.ReadOperation:
		return logical.ReadOperation
	case identity.ListOperation:
		return logical.ListOperation
	case identity.DeleteOperation:
		return logical.DeleteOperation
	}
	return logical.UpdateOperation
}

func (b *backend) sessionEnd(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := identity.ParseID(data.Get("session").(string))
	if err != nil {
		return nil, errNoSession()
	}
	b.sessions.end(id)
	return nil, nil
}

// sessionKey is the key of the session in the context of a call.
type sessionKey struct{}

func inSession(ctx context.Context, s *session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// sessionOf returns the session that a handler is called through; nil where it is
// called with a Vault token. The handler runs in the session's turn.
func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}
