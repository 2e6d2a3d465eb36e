package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	// A request has few items at first, and then as many as took about batchPace
	// the last time: all items of a request share the engine's session_timeout
	// (30 s by default), and a signature takes between milliseconds and, for
	// ECDSA without presignatures on a busy machine, seconds. It has at most
	// batchItems, the most the engine takes, and batchGrowth times as many as
	// the last.
	batchFirst, batchGrowth, batchItems = 4, 4, 128
	batchPace                           = 5 * time.Second
	// batchBytes bounds the input of one request, in base64. The engine takes
	// 4 MiB before base64.
	batchBytes = 5 << 20
)

// batchDoc is the JSON document of `account sign-batch`. It is printed also
// where items failed.
type batchDoc struct {
	Name    string        `json:"name"`
	Failed  int           `json:"failed"`
	Results []batchResult `json:"results"` // in the order of the items
}

// batchResult is the signature of one item, or its error.
type batchResult struct {
	Item      int    `json:"item"` // counted from 1
	Reference string `json:"reference,omitempty"`
	Error     string `json:"error,omitempty"`
	// Status is the error's HTTP status; 0 where the item was not answered.
	Status int      `json:"error_status,omitempty"`
	Sign   *signDoc `json:"signed,omitempty"`
}

// pending reports whether the item waits for auxiliary keys.
func (r batchResult) pending() bool {
	return r.Status == http.StatusConflict && strings.HasPrefix(r.Error, auxiliaryKeyWords)
}

func (a *app) accountSignBatchCommand() *cobra.Command {
	var (
		kinds   inputFlags
		child   childFlags
		file    string
		timeout time.Duration
		noWait  bool
	)
	cmd := &cobra.Command{
		Use:   "sign-batch NAME --file ITEMS",
		Short: "Sign many messages with an account",
		Long: `Sign many messages with an account. ITEMS is a file of JSON objects, one per line,
or one JSON list of them; - is standard input. Each object has

  text, digest or input   the message as text, a digest in hex, or bytes in base64
  reference               free text that comes back with the result
  request_id              signs once, however often the command is run

and, where they differ from the flags here, message_type, hash_algorithm,
signature_format, derivation_path and taproot_tweak.

Results come in the order of the items, also where some of them failed: their
errors are named, the others are signed, and the exit code is 1.`,
		Example: `  mpckms account sign-batch hot --file payments.jsonl -o json
  echo '{"text":"hello","reference":"first"}' | mpckms account sign-batch hot --file -`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usagef(cmd, "--timeout must be longer than 0")
			}
			items, err := a.readItems(file)
			if err != nil {
				return usagef(cmd, "%v", err)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			shared := map[string]any{"partial_failure_response_code": http.StatusOK}
			kinds.addKinds(shared)
			child.add(shared)
			b := &batch{app: a, client: c, account: args[0], shared: shared, items: items, noWait: noWait,
				doc: batchDoc{Name: args[0], Results: make([]batchResult, len(items))}}
			failed := b.run(cmd.Context(), timeout)
			return errors.Join(a.print(b.doc, b.doc.write), failed)
		},
	}
	kinds.registerKinds(cmd)
	child.register(cmd)
	cmd.Flags().StringVar(&file, "file", "", "the items: JSON objects, one per line, or a JSON list; - is standard input")
	waitFlags(cmd, &timeout, &noWait)
	return cmd
}

// batch is one run of sign-batch.
type batch struct {
	*app
	*client
	account string
	shared  map[string]any // fields of every request
	items   []batchItem
	noWait  bool
	took    time.Duration // for the last request
	doc     batchDoc
}

// run signs the items, request by request, and says at the end what it could
// not. Where a request fails as a whole it stops: what was signed until then is
// in the results, and the rest says why it is not.
func (b *batch) run(ctx context.Context, timeout time.Duration) error {
	waitCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer b.bar.clear()
	progress := &progressLine{app: b.app, client: b.client, account: b.account}
	for i := range b.doc.Results {
		b.doc.Results[i] = batchResult{Item: i + 1, Reference: b.items[i].reference, Error: "not signed: an earlier request failed"}
	}
	var stopped error
	for from, size := 0, batchFirst; from < len(b.items) && stopped == nil; {
		b.bar.draw("Signing", from, len(b.items), fmt.Sprintf("%d of %d", from, len(b.items)))
		next := b.chunk(from, size)
		stopped = b.sign(waitCtx, ctx, from, next, progress)
		size = nextSize(next-from, b.took, b.batchPace)
		from = next
	}
	for _, r := range b.doc.Results {
		if r.Error != "" {
			b.doc.Failed++
		}
	}
	switch {
	case stopped != nil:
		return stopped
	case b.doc.Failed > 0:
		return &refusal{what: fmt.Sprintf("%d of %d items were not signed", b.doc.Failed, len(b.items)),
			advice: "The output names them; the other signatures are good."}
	}
	return nil
}

// nextSize is how many items the next request has, after one with that many has
// taken so long.
func nextSize(items int, took, pace time.Duration) int {
	most := min(items*batchGrowth, batchItems)
	fit := int64(items) * int64(pace/time.Microsecond) / max(int64(took/time.Microsecond), 1)
	return int(max(min(fit, int64(most)), 1))
}

// chunk returns the end of the request that begins with an item and has at most
// so many.
func (b *batch) chunk(from, items int) int {
	size := 0
	for i := from; i < len(b.items); i++ {
		size += b.items[i].size
		if i > from && (i-from == items || size > batchBytes) {
			return i
		}
	}
	return len(b.items)
}

// sign signs the items from up to next, again and again those that wait for
// auxiliary keys.
func (b *batch) sign(waitCtx, ctx context.Context, from, next int, progress *progressLine) error {
	todo := make([]int, 0, next-from)
	for i := from; i < next; i++ {
		todo = append(todo, i)
	}
	for {
		waiting, err := b.once(waitCtx, todo, progress)
		if err != nil || len(waiting) == 0 || b.noWait {
			return b.inTime(ctx, waitCtx, err)
		}
		if progress.needed = true; !progress.shown {
			b.note("Waiting: %s", b.doc.Results[waiting[0]].Error)
			progress.shown = true
		}
		select {
		case <-ctx.Done():
			return &refusal{what: "cannot sign the rest", cause: ctx.Err()}
		case <-waitCtx.Done():
			return b.inTime(ctx, waitCtx, &refusal{cause: waitCtx.Err()})
		case <-time.After(b.retryPause):
		}
		todo = waiting
	}
}

// inTime says of an error at the deadline that the time was up.
func (b *batch) inTime(ctx, waitCtx context.Context, err error) error {
	var r *refusal
	if errors.As(err, &r) && ctx.Err() == nil && r.timedOut() && expired(waitCtx) {
		r.what, r.advice = "not everything was signed within --timeout", "What the output shows as signed is. Run it again for the rest, with a longer --timeout;\nitems with a request_id are not signed twice."
	}
	return err
}

// once sends one request and returns the items that wait for auxiliary keys.
func (b *batch) once(ctx context.Context, todo []int, progress *progressLine) (waiting []int, err error) {
	input := make([]map[string]any, len(todo))
	for i, item := range todo {
		input[i] = b.items[item].fields
	}
	body := map[string]any{"batch_input": input}
	for k, v := range b.shared {
		body[k] = v
	}
	var answer struct {
		Results []struct {
			signDoc
			Error  string `json:"error"`
			Status int    `json:"error_status"`
		} `json:"batch_results"`
	}
	begun := time.Now()
	found, err := b.signOnce(ctx, b.client, request{
		what:       fmt.Sprintf("sign items %d to %d with account %q", todo[0]+1, todo[len(todo)-1]+1, b.account),
		capability: capUpdate, path: "sign/" + b.account, body: body, account: b.account, withResults: true,
	}, &answer, progress, b.noWait)
	b.took = time.Since(begun)
	if !found || len(answer.Results) != len(todo) {
		if err == nil {
			err = &refusal{what: fmt.Sprintf("the server answered %d items with %d results", len(todo), len(answer.Results)),
				advice: "mpckms and the plugin may be of versions that do not fit together."}
		}
		for _, i := range todo {
			if !b.doc.Results[i].pending() { // what it waits for says more
				b.doc.Results[i].Error = brief(err)
			}
		}
		return nil, err
	}
	// Results came with the answer, so its status is about items.
	for at, i := range todo {
		r := answer.Results[at]
		result := &b.doc.Results[i]
		result.Error, result.Status, result.Sign = r.Error, r.Status, nil
		switch {
		case r.Error == "" && r.Signature != "":
			sign := r.signDoc
			sign.Name = b.account
			if sign.Signers == nil {
				sign.Signers = []signer{}
			}
			result.Sign = &sign
		case r.Error == "":
			result.Error = "the answer holds neither a signature nor an error"
		case result.pending():
			waiting = append(waiting, i)
		}
	}
	return waiting, nil
}

func (d batchDoc) write(t *text) {
	rows := make([][]string, len(d.Results))
	for i, r := range d.Results {
		signature, said := "", r.Error
		if r.Sign != nil {
			signature = r.Sign.Signature
			if r.Sign.Replayed {
				said = "signed before (request_id)"
			}
		}
		if r.Status != 0 {
			said += fmt.Sprintf(" (status %d)", r.Status)
		}
		rows[i] = []string{strconv.Itoa(r.Item), r.Reference, signature, said}
	}
	t.table("", []string{"ITEM", "REFERENCE", "SIGNATURE", "REMARK"}, rows)
}
