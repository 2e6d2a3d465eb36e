package client

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// What errors.Is finds in an *Error.
var (
	// ErrInvalid (400): the request has to be changed.
	ErrInvalid = errors.New("invalid request")
	// ErrDenied (403): the token is missing, expired, or lacks a policy.
	ErrDenied = errors.New("denied")
	// ErrNotFound (404): no such account, node or path; also no such mount, and a
	// path that the engine, being older, does not have.
	ErrNotFound = errors.New("not found")
	// ErrConflict (409): a right request at a wrong moment. The account is frozen
	// or deleted, is being changed by somebody else, exists already; or the
	// RequestID was used for something else. Account tells the first from the rest.
	ErrConflict = errors.New("conflict")
	// ErrAuxiliaryKeysPending (409, so ErrConflict too): ECDSA signatures are not
	// possible yet, since the nodes are still making their auxiliary keys, which
	// takes them about a minute once they have started. See WaitForAuxiliaryKeys.
	ErrAuxiliaryKeysPending = errors.New("auxiliary keys are still being made")
	// ErrBusy (429): more requests wait for nodes than are let in, or a quota of
	// Vault's is used up. The api.Client has repeated the request with pauses.
	ErrBusy = errors.New("busy")
	// ErrUnavailable (503): Vault is sealed or standing by, too few nodes are
	// ready, the HSM does not answer, or time ran out. Nothing half-made stays.
	ErrUnavailable = errors.New("unavailable")
)

// Error is a refusal by Vault or the engine.
type Error struct {
	Op     string // what was tried: `sign with account "payments"`
	Status int    // HTTP status; of an item of a batch, the status it would have had by itself
	// Messages are the texts of the answer, written for people and free of
	// secrets. There may be none.
	Messages []string
}

func (e *Error) Error() string {
	text := strings.Join(e.Messages, "; ")
	if text == "" {
		text = strings.ToLower(http.StatusText(e.Status))
	}
	return fmt.Sprintf("cannot %s: %s (status %d)", e.Op, text, e.Status)
}

// Is lets errors.Is find the sentinels above.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrInvalid:
		return e.Status == http.StatusBadRequest
	case ErrDenied:
		return e.Status == http.StatusForbidden
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrConflict:
		return e.Status == http.StatusConflict
	case ErrAuxiliaryKeysPending:
		return e.auxiliaryKeysPending()
	case ErrBusy:
		return e.Status == http.StatusTooManyRequests
	case ErrUnavailable:
		return e.Status == http.StatusServiceUnavailable
	}
	return false
}

// auxiliaryKeysPending tells this 409 from the others, which waiting does not
// help. The engine has no code for it; its text begins with these words, and no
// other does, whatever names and reasons people put into the texts of others.
func (e *Error) auxiliaryKeysPending() bool {
	if e.Status != http.StatusConflict {
		return false
	}
	for _, m := range e.Messages {
		if strings.HasPrefix(m, "auxiliary keys are still being made") {
			return true
		}
	}
	return false
}

// unframed takes off what Vault puts around the text of a plugin's coded error:
// "1 error occurred:\n\t* text\n\n".
func unframed(messages []string) []string {
	out := make([]string, 0, len(messages))
	for _, m := range messages {
		if first, rest, ok := strings.Cut(m, "\n\t* "); ok && strings.HasSuffix(first, " occurred:") {
			for part := range strings.SplitSeq(rest, "\n\t* ") {
				out = append(out, strings.TrimSpace(part))
			}
			continue
		}
		if m = strings.TrimSpace(m); m != "" {
			out = append(out, m)
		}
	}
	return out
}
