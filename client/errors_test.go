package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestErrorsAreToldApart(t *testing.T) {
	framed := func(s string) []string { return []string{"1 error occurred:\n\t* " + s + "\n\n"} }
	pending := "auxiliary keys are still being made (local-1 40 %): ECDSA signing works once they are ready; watch nodes/ and repeat the request then"
	all := []error{ErrInvalid, ErrDenied, ErrNotFound, ErrConflict, ErrAuxiliaryKeysPending, ErrBusy, ErrUnavailable}
	tests := []struct {
		name   string
		answer reply
		is     []error
		says   string
	}{
		{"invalid", reply{status: 400, errors: []string{"shares must be at most 16"}}, []error{ErrInvalid}, "shares must be at most 16"},
		{"denied", reply{status: 403, errors: framed("permission denied")}, []error{ErrDenied}, ": permission denied (status 403)"},
		{"unknown", reply{status: 404, errors: framed("no account x")}, []error{ErrNotFound}, "no account x"},
		{"unknown without a word", reply{status: 404}, []error{ErrNotFound}, "not found"},
		{"pending", reply{status: 409, errors: framed(pending)}, []error{ErrConflict, ErrAuxiliaryKeysPending}, "local-1 40 %"},
		{"frozen for a misleading reason", reply{status: 409, errors: framed(`account "x" is frozen: ` + pending)}, []error{ErrConflict}, "is frozen"},
		{"the same words with another status", reply{status: 500, errors: framed(pending)}, nil, "local-1 40 %"},
		{"busy", reply{status: 429, errors: framed("too much")}, []error{ErrBusy}, "too much"},
		{"sealed", reply{status: 503, errors: []string{"Vault is sealed"}}, []error{ErrUnavailable}, "Vault is sealed"},
		{"internal", reply{status: 500, errors: framed("out of order")}, nil, "out of order"},
		{"a proxy", reply{status: 503, raw: "<html>secret page</html>"}, []error{ErrUnavailable}, "not one of Vault's"},
		{"no Vault", reply{raw: "<html>welcome</html>"}, nil, "not one of Vault's"},
		{"another engine", reply{data: map[string]any{"value": 1}}, nil, "holds no account"},
		{"another form", reply{data: map[string]any{"shares": "many"}}, nil, "expected form"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := start(t, func(request) reply { return tt.answer })
			_, err := c.Account(context.Background(), "x")
			if err == nil {
				t.Fatal("no error")
			}
			for _, sentinel := range all {
				if got := errors.Is(err, sentinel); got != slices.Contains(tt.is, sentinel) {
					t.Errorf("is %q: %v", sentinel, got)
				}
			}
			if !strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), `cannot read account "x": `) || strings.Contains(err.Error(), "<html>") {
				t.Errorf("says %q", err)
			}
			if refused := (*Error)(nil); errors.As(err, &refused) && refused.Status != tt.answer.status {
				t.Errorf("status %d", refused.Status)
			}
		})
	}
}

func TestSeveralMessagesAreTakenApart(t *testing.T) {
	got := unframed([]string{"2 errors occurred:\n\t* one\n\t* two\n\n", " three ", ""})
	if !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("%q", got)
	}
}

func TestOtherErrorsKeepTheirCause(t *testing.T) {
	c, _ := start(t, answering(nil))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Account(ctx, "x")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := c.Account(late, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestNamesReachNoOtherPath: a name may come from outside.
func TestNamesReachNoOtherPath(t *testing.T) {
	c, f := start(t, answering(nil))
	ctx := context.Background()
	for _, name := range []string{"", ".", "..", "x/freeze", "../../sys/seal", "x?list=true", "x%2Ffreeze", "x\n", "-x", strings.Repeat("x", 129), "ä"} {
		calls := map[string]func() error{
			"Account":   func() error { _, err := c.Account(ctx, name); return err },
			"Create":    func() error { _, err := c.CreateAccount(ctx, name, CreateOptions{}); return err },
			"Sign":      func() error { _, err := c.Sign(ctx, name, SignRequest{}); return err },
			"SignBatch": func() error { _, err := c.SignBatch(ctx, name, make([]BatchItem, 1)); return err },
			"Verify":    func() error { _, err := c.Verify(ctx, name, VerifyRequest{}); return err },
			"Derive":    func() error { _, err := c.Derive(ctx, name, Key{}); return err },
			"Addresses": func() error { _, err := c.Addresses(ctx, name, AddressOptions{}); return err },
			"JWK":       func() error { _, err := c.JWK(ctx, name, ""); return err },
			"CSR":       func() error { _, err := c.CSR(ctx, name, CSRRequest{}); return err },
			"Delete":    func() error { _, err := c.Delete(ctx, name, DeleteOptions{}); return err },
			"Rename":    func() error { _, err := c.Rename(ctx, name, "y"); return err },
			"Rename to": func() error { _, err := c.Rename(ctx, "x", name); return err },
			"Signer":    func() error { _, err := c.Signer(ctx, name); return err },
		}
		for what, call := range calls {
			if err := call(); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s of %q: %v", what, name, err)
			}
		}
	}
	if seen := f.requests(); len(seen) > 0 {
		t.Errorf("requests were sent: %v", seen)
	}
}

// TestRepetitionsCarryTheRequestID: the api.Client repeats 5xx by itself.
func TestRepetitionsCarryTheRequestID(t *testing.T) {
	n := 0
	c, f := start(t, func(r request) reply {
		if n++; n < 3 {
			return reply{status: 503, errors: []string{"standby"}}
		}
		return reply{data: signed(map[string]any{"request_id": r.body["request_id"], "replayed": true})}
	})
	id := NewRequestID()
	sig := must[*Signature](t)(c.Sign(context.Background(), "x", SignRequest{Input: []byte("m"), RequestID: id}))
	if !sig.Replayed || sig.RequestID != id {
		t.Errorf("%+v", sig)
	}
	for _, r := range f.requests() {
		if r.body["request_id"] != id {
			t.Errorf("%v", r.body)
		}
	}
	if len(f.requests()) != 3 {
		t.Errorf("%d requests", len(f.requests()))
	}
	if other := NewRequestID(); other == id || len(id) != 26 {
		t.Errorf("IDs %q, %q", id, other)
	}
}
