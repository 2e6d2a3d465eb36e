package backend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// signedFor is how long an answer is given again.
	signedFor = 24 * time.Hour
	// storeReserve is what is left of a request's time for storing its answer.
	storeReserve = 500 * time.Millisecond
	maxRequestID = 128
)

func requestIDField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString,
		Description: "Makes the request safe to repeat: the same request_id for the same account and the same fields returns the stored answer for 24 hours, " +
			"with replayed=true; with other fields it is refused. 1 to 128 printable ASCII characters without spaces.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Request ID"},
	}
}

// parseRequestID returns an empty string where none was given.
func parseRequestID(data *framework.FieldData) (string, error) {
	v, given := data.GetOk("request_id")
	id, _ := v.(string)
	if !given {
		return "", nil
	}
	if len(id) < 1 || len(id) > maxRequestID || strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		return "", invalid("request_id must be 1 to %d printable ASCII characters without spaces; leave it out if the request need not be safe to repeat", maxRequestID)
	}
	return id, nil
}

// signedID names a request that has a request_id.
type signedID struct {
	key     [sha256.Size]byte // of the account and request_id
	payload [sha256.Size]byte // of everything that was asked for
}

// signedID hashes the key, SHA-256(account ID (16 bytes) ‖ request_id), and the
// payload: the account and all that decides about signature and format, each
// with its length in 8 bytes before it. Defaults count as if they had been
// given.
func (q *signing) signedID() signedID {
	id := signedID{key: sha256.Sum256(append(q.account[:], q.requestID...))}
	h := sha256.New()
	for _, part := range [][]byte{
		[]byte("vault-mpc signed request v1"), q.account[:], []byte(q.kind), []byte(q.hash), []byte(q.format),
		[]byte(q.derivation.Path), []byte(q.derivation.TaprootTweak), q.input,
	} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes everything
		h.Write(part)
	}
	h.Sum(id.payload[:0])
	return id
}

type signedConfig struct {
	Store *store
	// Closing ends when the mount does.
	Closing context.Context
	Logger  hclog.Logger
	now     func() time.Time
	step    func(ctx context.Context, name string) error
}

// signedRequests keeps the answers of requests that have a request_id. Its
// methods may be called concurrently. It holds no lock while anything is signed,
// read or written.
type signedRequests struct {
	cfg   signedConfig
	index *signedIndex

	mu      sync.Mutex
	running map[[sha256.Size]byte]*signedNow // by signedID.key
}

// signedNow is a request under way.
type signedNow struct {
	payload [sha256.Size]byte
	done    chan struct{}
	answer  []byte // JSON; nil where it failed. Read it after done.
}

func newSignedRequests(cfg signedConfig) *signedRequests {
	return &signedRequests{cfg: cfg, index: newSignedIndex(cfg.Store), running: map[[sha256.Size]byte]*signedNow{}}
}

// once returns the answer that was stored for the request, or has sign make one
// and stores it before it returns. Of several at once for one request_id, one
// signs and the others wait; where it fails, the next one tries.
//
// The process may die after sign and before the answer is stored. Then a
// repetition signs the same payload once more.
func (s *signedRequests) once(ctx context.Context, id signedID, sign func(context.Context) (map[string]any, error)) (answer map[string]any, replayed bool, err error) {
	for {
		now, first := s.begin(id)
		if first {
			return s.first(ctx, id, now, sign)
		}
		if now.payload != id.payload {
			return nil, false, conflict("a request with this request_id and another payload is being signed for this account: nothing was signed for this one; a request_id belongs to one request, use a new one")
		}
		select {
		case <-now.done:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("waiting for another request with this request_id: %w", ctx.Err())
		}
		if now.answer != nil {
			answer, err := decodeAnswer(now.answer)
			return answer, err == nil, err
		}
	}
}

// begin returns the request under way for the key, or makes id's that.
func (s *signedRequests) begin(id signedID) (now *signedNow, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now = s.running[id.key]; now != nil {
		return now, false
	}
	now = &signedNow{payload: id.payload, done: make(chan struct{})}
	s.running[id.key] = now
	return now, true
}

// first is once for whom begin has let in.
func (s *signedRequests) first(ctx context.Context, id signedID, now *signedNow, sign func(context.Context) (map[string]any, error)) (answer map[string]any, replayed bool, err error) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, id.key)
		close(now.done)
	}()
	kept, err := s.find(ctx, id.key)
	if err != nil {
		return nil, false, fmt.Errorf("whether this request_id was used before is not known, so nothing was signed: %w", err)
	}
	if kept != nil {
		if kept.Payload != hex.EncodeToString(id.payload[:]) {
			return nil, false, conflict("this request_id was used for this account at %s with another payload: nothing was signed now; a request_id belongs to one request, use a new one", rfc3339(kept.Time))
		}
		if answer, err = decodeAnswer(kept.Answer); err != nil {
			return nil, false, err
		}
		now.answer = kept.Answer
		return answer, true, nil
	}
	signing, storing, cancel := s.share(ctx)
	defer cancel()
	if answer, err = sign(signing); err != nil {
		return nil, false, err
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, false, fmt.Errorf("encoding the answer: %w", err)
	}
	if err := s.cfg.step(ctx, stepSignMade); err != nil {
		return nil, false, err
	}
	if err := s.keep(storing, id, raw); err != nil {
		return nil, false, err
	}
	now.answer = raw
	if err := s.cfg.step(ctx, stepSignStored); err != nil {
		return nil, false, err
	}
	return answer, false, nil
}

// share splits the request's time between signing and storing. Storing goes on
// when the client goes away: its repetition then finds the answer.
func (s *signedRequests) share(ctx context.Context) (signing, storing context.Context, cancel func()) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(requestTimeout)
	}
	reserve := max(0, min(storeReserve, time.Until(deadline)/4))
	signing, cancelSigning := context.WithDeadline(ctx, deadline.Add(-reserve))
	storing, cancelStoring := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	stop := context.AfterFunc(s.cfg.Closing, cancelStoring)
	return signing, storing, func() {
		stop()
		cancelSigning()
		cancelStoring()
	}
}

// find returns the answer that is kept under a key, nil for none.
func (s *signedRequests) find(ctx context.Context, key [sha256.Size]byte) (*signedRequestRecord, error) {
	oldest := s.cfg.now().Add(-signedFor)
	hours, err := s.index.hoursWith(ctx, key, hourOf(oldest))
	if err != nil {
		return nil, err
	}
	for _, hour := range hours {
		r := &signedRequestRecord{}
		ok, err := s.cfg.Store.get(ctx, signedKey(hour, key), r)
		if err != nil {
			return nil, err
		}
		if ok && !r.Time.Before(oldest) {
			return r, nil
		}
	}
	return nil, nil
}

// keep stores an answer.
func (s *signedRequests) keep(ctx context.Context, id signedID, answer []byte) error {
	now := s.cfg.now()
	hour := hourOf(now)
	s.index.add(hour, id.key) // before it can be there
	err := s.cfg.Store.put(ctx, signedKey(hour, id.key), &signedRequestRecord{
		Version: recordVersion, Time: now.UTC(), Payload: hex.EncodeToString(id.payload[:]), Answer: answer,
	})
	if err == nil || strings.Contains(err.Error(), logical.ErrReadOnly.Error()) {
		return err
	}
	s.cfg.Logger.Error("an answer was not stored", "error", err)
	return &fault{
		status: http.StatusServiceUnavailable,
		msg:    "nodes have signed, but the answer could not be stored and so is not given out: repeat the request with the same request_id once Vault's storage takes writes again. It may then be signed a second time, with the same payload",
		err:    err,
	}
}

// signedKey is where the answer of a request is stored.
func signedKey(hour int64, key [sha256.Size]byte) string {
	return fmt.Sprintf("%s%d/%x", prefixSigned, hour, key)
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// decodeAnswer reads what signAnswer made; numbers stay as they were written.
func decodeAnswer(raw []byte) (map[string]any, error) {
	var answer map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&answer); err != nil || answer == nil {
		return nil, fmt.Errorf("the answer stored for this request_id cannot be read; nothing was signed, use a new request_id: %w", err)
	}
	return answer, nil
}
