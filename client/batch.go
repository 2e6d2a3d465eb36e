package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// MaxBatch is how many items the engine takes in one batch.
const MaxBatch = 128

// BatchItem is one thing to sign.
type BatchItem struct {
	SignRequest
	Reference string // comes back with the result; at most 256 bytes
}

// BatchResult is what became of the item at the same place: Signature or Err.
type BatchResult struct {
	Signature *Signature
	Reference string
	Err       error // *Error, with the status the item would have had by itself
}

// batchBody is a batch as it is sent.
type batchBody struct {
	Input []*messageBody `json:"batch_input"`
	// PartialFailure asks for 200 where some items failed and some did not. With
	// any status that the api.Client repeats, those that went well would be
	// signed again.
	PartialFailure int `json:"partial_failure_response_code"`
}

// batchData is its answer.
type batchData struct {
	Results []struct {
		signatureData
		Reference   string `json:"reference"`
		Error       string `json:"error"`
		ErrorStatus int    `json:"error_status"`
	} `json:"batch_results"`
}

// SignBatch signs 1 to MaxBatch items with one account; the engine works on some
// of them side by side. The results stand in the order of the items. The error is
// about the batch as a whole, which then has no results; failures of items are in
// their results, even if all of them failed. With WaitForAuxiliaryKeys only the
// items that need it are sent again.
func (c *Client) SignBatch(ctx context.Context, account string, items []BatchItem, opts ...Option) ([]BatchResult, error) {
	results := make([]BatchResult, len(items))
	left := make([]int, len(items)) // places of the items that are still to be sent
	for i := range left {
		left[i] = i
	}
	o := optionsOf(opts)
	sent := false
	err := o.waiting(ctx, func() error {
		some, err := c.signBatch(ctx, account, items, left)
		if err != nil {
			return err
		}
		sent = true
		var pending []int
		for i, place := range left {
			results[place] = some[i]
			if errors.Is(some[i].Err, ErrAuxiliaryKeysPending) {
				pending, err = append(pending, place), some[i].Err
			}
		}
		left = pending
		return err
	})
	switch {
	case err == nil, sent && errors.Is(err, ErrAuxiliaryKeysPending):
		return results, nil
	case !sent:
		return nil, err
	}
	// A repetition failed as a whole. What was signed before is not thrown away.
	for _, place := range left {
		results[place] = BatchResult{Reference: items[place].Reference, Err: err}
	}
	return results, nil
}

// signBatch sends the items at the given places once.
func (c *Client) signBatch(ctx context.Context, account string, items []BatchItem, places []int) ([]BatchResult, error) {
	body := &batchBody{PartialFailure: http.StatusOK, Input: make([]*messageBody, len(places))}
	for i, place := range places {
		body.Input[i] = items[place].body()
		body.Input[i].Reference = items[place].Reference
	}
	r, err := onAccount(http.MethodPut, "sign/", account, "", "sign a batch with", body)
	if err != nil {
		return nil, err
	}
	a, refused := c.send(ctx, r)
	if a == nil {
		return nil, refused
	}
	var d batchData
	if err := a.decode(r.op, &d); err != nil {
		return nil, errors.Join(refused, err)
	}
	if refused != nil && len(d.Results) == 0 { // else every item failed, and says why
		return nil, refused
	}
	if len(d.Results) != len(places) {
		return nil, fmt.Errorf("cannot %s: the answer has %d results for %d items", r.op, len(d.Results), len(places))
	}
	results := make([]BatchResult, len(places))
	for i := range d.Results {
		got, item := &d.Results[i], &items[places[i]]
		results[i].Reference = item.Reference
		if got.Error != "" || got.ErrorStatus != 0 {
			results[i].Err = &Error{Op: r.op, Status: got.ErrorStatus, Messages: unframed([]string{got.Error})}
			continue
		}
		results[i].Signature, results[i].Err = got.signature(r.op, &item.SignRequest, a.Warnings)
	}
	return results, nil
}
