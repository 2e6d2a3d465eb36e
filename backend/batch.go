package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// batchWidth is how many items of one batch nodes sign side by side: as many
// sessions as one node runs at once by default, enough to keep all processors
// busy, and an eighth of the line that an account may have before nodes
// (pool.Config.MaxWaitingPerAccount). So a few batches of one account neither
// refuse each other nor keep out its single requests.
const batchWidth = pool.DefaultSessionsPerNode

// batchWidthOf is batchWidth, or for ECDSA one item for each processor. Without
// presignatures an ECDSA signature is a second of work and more for each node,
// and a batch that does all at once may be out of time with none done; one after
// another, what fits into session_timeout is done.
func batchWidthOf(a mpc.Algorithm) int {
	if a.NeedsAuxiliaryKeys() {
		return min(batchWidth, runtime.GOMAXPROCS(0))
	}
	return batchWidth
}

// errItemPanic stands for a panic, whose value is not passed on.
var errItemPanic = errors.New("the item met a fault of this program and was given up; the other items were not affected. The log says where")

// item is one entry of batch_input.
type item struct {
	at        int // its place, from 0
	data      *framework.FieldData
	reference string
	signing   *signing
	after     *item         // an earlier item with the same request_id
	done      chan struct{} // closed when it has its answer or err

	answer map[string]any
	err    error
}

func (b *backend) signBatch(ctx context.Context, req *logical.Request, data *framework.FieldData, name string, record *mpc.PublicRecord) (*logical.Response, error) {
	batch, err := parseBatch(data, batchItemFields("request_id", requestIDField()))
	if err != nil {
		return nil, err
	}
	b.prepare(batch, record)
	sideBySide(len(batch.items), batchWidthOf(record.Algorithm), func(i int) {
		it := batch.items[i]
		defer close(it.done)
		if it.err != nil {
			return
		}
		if it.after != nil {
			// An earlier item is begun before this one, and ends with ctx.
			<-it.after.done
		}
		it.err = b.guard(func() (err error) {
			it.answer, err = b.signOnce(ctx, name, it.signing)
			return err
		})
	})
	return b.batchAnswer("sign", req, batch)
}

// prepare reads every item and finds those that repeat a request_id: the first
// of them signs, and the others get its answer.
func (b *backend) prepare(batch *batch, record *mpc.PublicRecord) {
	firsts := map[string]*item{}
	for _, it := range batch.items {
		if it.err == nil {
			it.err = b.guard(func() (err error) {
				it.signing, err = parseSigning(record, it.data)
				return err
			})
		}
		if it.err != nil || it.signing.requestID == "" {
			continue
		}
		first := firsts[it.signing.requestID]
		switch {
		case first == nil:
			firsts[it.signing.requestID] = it
		case first.signing.signedID() != it.signing.signedID():
			it.err = conflict("batch_input[%d] has the same request_id and another payload: a request_id belongs to one request, use a new one", first.at)
		default:
			it.after = first
		}
	}
}

// guard runs f and turns a panic into an error, which the log says the place of.
func (b *backend) guard(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			b.log.Error("an item of a batch panicked", "at", callers())
			err = errItemPanic
		}
	}()
	return f()
}

// callers lists functions and lines, without any value, of who panicked. It is
// called by the deferred function.
func callers() string {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var out []string
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			out = append(out, fmt.Sprintf("%s:%d", f.Function, f.Line))
		}
		if !more {
			return strings.Join(out, " < ")
		}
	}
}

// sideBySide calls do with 0 to n-1, begun in that order, by at most width
// goroutines, and returns when all calls have.
func sideBySide(n, width int, do func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, width) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	workers.Wait()
}

// batchAnswer is the response to a batch whose items all have an answer or an
// error.
func (b *backend) batchAnswer(op string, req *logical.Request, batch *batch) (*logical.Response, error) {
	results := make([]map[string]any, len(batch.items))
	var statuses []int
	var failed []string
	for i, it := range batch.items {
		results[i] = it.answer
		if it.err != nil {
			if strings.Contains(it.err.Error(), logical.ErrReadOnly.Error()) {
				return nil, it.err // the whole request belongs on another server
			}
			status, msg := b.classifyItem(op, it.err)
			results[i] = map[string]any{"error": msg, "error_status": status}
			statuses = append(statuses, status)
			if status >= http.StatusInternalServerError {
				failed = append(failed, fmt.Sprintf("batch_input[%d]: %s", it.at, msg))
			}
		}
		if it.reference != "" {
			results[i]["reference"] = it.reference
		}
	}
	if len(failed) > 0 {
		b.log.Error("items of a batch failed", "operation", op, "items", len(batch.items), "failed", len(failed), "first", failed[0])
	}
	resp := &logical.Response{Data: map[string]any{"batch_results": results}, Warnings: batch.warnings()}
	status := batchStatus(statuses, len(batch.items), batch.partialStatus)
	if status == http.StatusOK {
		return resp, nil
	}
	return respondWithStatus(resp, req, status, batch.failures(statuses, results))
}

// classifyItem returns the status and text that the item's error would have had
// in a request of its own.
func (b *backend) classifyItem(op string, err error) (int, string) {
	if errors.Is(err, context.Canceled) && b.ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", pool.ErrClosed, err)
	}
	status, msg := b.classify(err)
	if status >= http.StatusInternalServerError {
		msg = op + ": " + msg
	}
	return status, msg
}

// batchStatus is the status of a batch of so many items of which some failed
// with the given statuses. partial is 0 where the caller chose none.
//
// Clients repeat 429 and 5xx by themselves. That is no use where an item has to
// be mended first, so such an item makes it 400.
func batchStatus(failures []int, items, partial int) int {
	switch {
	case len(failures) == 0:
		return http.StatusOK
	case partial != 0 && len(failures) < items:
		return partial
	case slices.ContainsFunc(failures, func(s int) bool { return s < 500 && s != http.StatusTooManyRequests }):
		return http.StatusBadRequest
	}
	return slices.Max(failures)
}

// failures says in few words what went wrong, for clients that show no more of
// an answer than its errors.
func (batch *batch) failures(statuses []int, results []map[string]any) string {
	const shown = 3
	var first []string
	for i, r := range results {
		if r["error"] != nil && len(first) < shown {
			first = append(first, fmt.Sprintf("batch_input[%d]: %v", i, r["error"]))
		}
	}
	text := fmt.Sprintf("%d of %d items failed, see batch_results: %s", len(statuses), len(results), strings.Join(first, "; "))
	if len(statuses) > shown {
		text += fmt.Sprintf("; and %d more", len(statuses)-shown)
	}
	return text
}
