package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"
)

// ErrPending: the account demands approvals, and the request for them was made. It is
// what errors.Is finds in a *PendingError. Nothing was signed.
var ErrPending = errors.New("approvals are needed")

// PendingError is the answer of Sign where people have to approve first. The request
// goes on by itself, unless it is held; RequestWait waits for its signature.
type PendingError struct {
	Op      string
	Request *Request
}

func (e *PendingError) Error() string {
	if e.Request.Held() {
		return fmt.Sprintf("cannot %s yet: request %s is approved and held: %s", e.Op, e.Request.ID, e.Request.Reason)
	}
	return fmt.Sprintf("cannot %s yet: request %s has %d of %d approvals", e.Op, e.Request.ID, e.Request.Approvals, e.Request.Quorum)
}

// Is lets errors.Is find ErrPending.
func (e *PendingError) Is(target error) bool { return target == ErrPending }

// RequestState is where a request is in its life.
type RequestState string

// States of a request. It moves from RequestPending to RequestApproved to
// RequestSigned, or ends with one of the others.
const (
	RequestPending RequestState = "pending"
	// RequestApproved: the signature is being made, or, of an account with user
	// custody, waits for the account's owner; or it is held (Request.Held).
	RequestApproved  RequestState = "approved"
	RequestSigned    RequestState = "signed" // of a change of policy: in force
	RequestRefused   RequestState = "refused"
	RequestExpired   RequestState = "expired"
	RequestCancelled RequestState = "cancelled"
	RequestFailed    RequestState = "failed"
)

// Ended reports whether nothing more happens to the request.
func (s RequestState) Ended() bool { return s != RequestPending && s != RequestApproved }

// Request is a request for approvals.
type Request struct {
	ID            string // 32 hex digits
	Account       string // its name when it was asked
	AccountID     string // hex
	Action        string // "sign", or "policy"
	State         RequestState
	Reason        string // why it ended, where that was said, or why it is held
	Requester     string // "entity:…" or "identity:…"
	RequesterName string
	RequestID     string // the caller's, where one was given
	PolicyHash    string // hex
	MessageHash   []byte // SHA-256 of the input
	Quorum        int
	Approvals     int
	Refusals      int
	Approvers     []string // who may answer
	Answers       []RequestAnswer
	ByOwner       bool // the account's owner does what was approved: signs, or refreshes with the policy
	Created       time.Time
	Expires       time.Time
	Ended         time.Time // zero before
	// Format is the encoding that the signature was asked for in.
	Format SignatureFormat

	result json.RawMessage
}

// Held reports that the request is approved and does not go on by itself, for Reason:
// its account was frozen. After that Sign with the same SignRequest goes on with it,
// and Request, or the RequestID that it had; until it expires.
func (r *Request) Held() bool { return r.State == RequestApproved && r.Reason != "" }

// RequestAnswer is what one approver answered.
type RequestAnswer struct {
	Approver string
	Decision string // "approve" or "refuse"
	// Kinds of factors that were used, and who checked each: "nodes", or the
	// "coordinator" alone.
	Kinds     []string
	CheckedBy map[string]string
	Time      time.Time
}

// EndedError is a request that ended without a signature.
type EndedError struct{ Request *Request }

func (e *EndedError) Error() string {
	reason := ""
	if e.Request.Reason != "" {
		reason = ": " + e.Request.Reason
	}
	return fmt.Sprintf("request %s is %s%s; nothing was signed", e.Request.ID, e.Request.State, reason)
}

// requestData is a request as it is sent.
type requestData struct {
	Request       string          `json:"request"`
	Account       string          `json:"account"`
	AccountID     string          `json:"account_id"`
	Action        string          `json:"action"`
	State         RequestState    `json:"state"`
	Reason        string          `json:"reason"`
	Requester     string          `json:"requester"`
	RequesterName string          `json:"requester_name"`
	RequestID     string          `json:"request_id"`
	PolicyHash    string          `json:"policy_hash"`
	Digest        hexText         `json:"digest"`
	Quorum        int             `json:"quorum"`
	Approvals     int             `json:"approvals"`
	Refusals      int             `json:"refusals"`
	Approvers     []string        `json:"approvers"`
	ByOwner       bool            `json:"by_owner"`
	Created       stamp           `json:"created_time"`
	Expires       stamp           `json:"expires_time"`
	Ended         stamp           `json:"ended_time"`
	Format        SignatureFormat `json:"signature_format"`
	Answers       []struct {
		Approver  string            `json:"approver"`
		Decision  string            `json:"decision"`
		Kinds     []string          `json:"kinds"`
		CheckedBy map[string]string `json:"checked_by"`
		Time      stamp             `json:"time"`
	} `json:"answers"`
	Result json.RawMessage `json:"result"`
}

func (d *requestData) request() *Request {
	r := &Request{
		ID: d.Request, Account: d.Account, AccountID: d.AccountID, Action: d.Action, State: d.State, Reason: d.Reason, Requester: d.Requester,
		RequesterName: d.RequesterName, RequestID: d.RequestID, PolicyHash: d.PolicyHash, MessageHash: d.Digest, Quorum: d.Quorum, Approvals: d.Approvals,
		Refusals: d.Refusals, Approvers: d.Approvers, ByOwner: d.ByOwner, Created: d.Created.Time, Expires: d.Expires.Time, Ended: d.Ended.Time,
		Format: d.Format, result: d.Result,
	}
	for _, a := range d.Answers {
		r.Answers = append(r.Answers, RequestAnswer{a.Approver, a.Decision, a.Kinds, a.CheckedBy, a.Time.Time})
	}
	return r
}

// Signature returns the signature of a request that is signed. It is given to whoever
// asked, and to nobody else.
func (r *Request) Signature() (*Signature, error) {
	op := "use request " + r.ID
	switch {
	case r.State.Ended() && r.State != RequestSigned:
		return nil, &EndedError{r}
	case r.State != RequestSigned:
		return nil, &PendingError{op, r}
	case r.Action != "" && r.Action != "sign":
		return nil, fmt.Errorf("cannot %s: it is of a change of policy and has no signature", op)
	case len(r.result) == 0 || string(r.result) == "null":
		return nil, fmt.Errorf("cannot %s: it is signed, and the signature is given to whoever asked for it alone", op)
	}
	var d signatureData
	if err := json.Unmarshal(r.result, &d); err != nil {
		return nil, fmt.Errorf("cannot %s: its result does not have the expected form: %w", op, err)
	}
	return d.signature(op, &SignRequest{Format: r.Format}, nil)
}

// answerOfSign is a signature or a request.
type answerOfSign struct {
	signatureData
	pending *requestData
}

// UnmarshalJSON takes nothing for a request that has a signature in it, and nothing
// for a signature that is a request.
func (a *answerOfSign) UnmarshalJSON(b []byte) error {
	var q struct {
		requestData
		Signature json.RawMessage `json:"signature"`
	}
	if json.Unmarshal(b, &q) == nil && q.Request != "" && q.State != "" && len(q.Signature) == 0 {
		a.pending = &q.requestData
		return nil
	}
	return json.Unmarshal(b, &a.signatureData)
}

// result is the signature, or a *PendingError. The same RequestID again finds the same
// request, which may be signed by now.
func (a *answerOfSign) result(op string, asked *SignRequest, warnings []string) (*Signature, error) {
	if a.pending == nil {
		return a.signature(op, asked, warnings)
	}
	r := a.pending.request()
	switch {
	case !requestName.MatchString(r.ID):
		return nil, fmt.Errorf("cannot %s: the answer holds neither a signature nor a request", op)
	case r.State == RequestSigned && len(r.result) > 0:
		return r.Signature()
	case r.State.Ended():
		return nil, &EndedError{r}
	}
	return nil, &PendingError{op, r}
}

// requestName is the ID of a request; checked before it becomes part of a path.
var requestName = regexp.MustCompile(`^[0-9a-f]{32}$`) // read only

func onRequest(method, id, suffix, what string, body any) (call, error) {
	r := call{op: what + " request " + id, method: method, path: "requests/" + id + suffix, body: body}
	if !requestName.MatchString(id) {
		return r, &Error{Op: fmt.Sprintf("%s request %.40q", what, id), Status: http.StatusBadRequest, Messages: []string{"the ID of a request has 32 hex digits (nothing was sent)"}}
	}
	return r, nil
}

func (c *Client) aboutRequest(ctx context.Context, method, id, suffix, what string, body any) (*Request, error) {
	r, err := onRequest(method, id, suffix, what, body)
	if err != nil {
		return nil, err
	}
	var d requestData
	if _, err := c.do(ctx, r, &d); err != nil {
		return nil, err
	}
	if d.Request != id || d.State == "" {
		return nil, fmt.Errorf("cannot %s: the answer is about another request, or none", r.op)
	}
	return d.request(), nil
}

// Request reads a request.
func (c *Client) Request(ctx context.Context, id string) (*Request, error) {
	return c.aboutRequest(ctx, http.MethodGet, id, "", "read", nil)
}

// CancelRequest ends a request that has not ended.
func (c *Client) CancelRequest(ctx context.Context, id string) (*Request, error) {
	return c.aboutRequest(ctx, http.MethodPut, id, "/cancel", "cancel", struct{}{})
}

// waitStep is how long one request of RequestWait stays open at the engine, which
// allows no more.
const waitStep = 5 * time.Second

// RequestWait waits until a request has ended, as long as the context lasts, and
// returns its signature. A request that ended without one is an *EndedError. One of an
// account with user custody, which its owner has to finish once it is approved, is a
// *PendingError then, and so is one that is held.
func (c *Client) RequestWait(ctx context.Context, id string) (*Signature, error) {
	pause := optionsOf(nil).pause
	for {
		begun := time.Now()
		r, err := c.aboutRequest(ctx, http.MethodPut, id, "/wait", "wait for", map[string]any{"timeout": durationText(waitStep)})
		if err != nil {
			return nil, err
		}
		if r.State.Ended() || r.ByOwner && r.State == RequestApproved || r.Held() {
			return r.Signature()
		}
		// An engine that answers at once, as one that is going on with an approved
		// request does, is not asked again at once.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot wait for request %s any longer; it goes on without that: %w", id, ctx.Err())
		case <-time.After(pause - min(time.Since(begun), pause)):
		}
	}
}
