package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// signed is a signature as the engine sends it: r is 1, s is 2.
func signed(more map[string]any) map[string]any {
	s := map[string]any{
		"signature": "AAEC", "signature_hex": "000102", "signature_format": "der",
		"r": strings.Repeat("00", 31) + "01", "s": strings.Repeat("00", 31) + "02", "v": 1, "digest": "dd", "public_key": "02aa",
		"share_epoch": 3, "signers": []any{map[string]any{"index": 2, "node": "local-4"}}, "session_id": "5e", "attempts": 1, "presigned": true,
	}
	maps.Copy(s, more)
	return s
}

var pendingReply = reply{status: 409, errors: []string{"1 error occurred:\n\t* auxiliary keys are still being made (local-1 40 %)\n\n"}} // read only

func TestSign(t *testing.T) {
	c, f := start(t, answering(signed(map[string]any{"signature_format": "ethereum", "request_id": "order-7"})))
	got := must[*Signature](t)(c.Sign(context.Background(), "alice", SignRequest{
		Input: []byte("hello"), MessageType: MessageRaw, HashAlgorithm: Keccak256, Format: FormatEthereum, DerivationPath: "m/7", RequestID: "order-7",
	}))
	one, two := make([]byte, 32), make([]byte, 32)
	one[31], two[31] = 1, 2
	want := &Signature{Bytes: []byte{0, 1, 2}, Format: FormatEthereum, R: one, S: two, RecoveryID: 1, Digest: []byte{0xdd}, PublicKey: []byte{2, 0xaa},
		RequestID: "order-7", ShareEpoch: 3, Signers: []Signer{{2, "local-4"}}, SessionID: "5e", Attempts: 1, Presigned: true, Warnings: []string{"a word"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	r, s, v, err := got.RSV()
	if err != nil || r.Cmp(big.NewInt(1)) != 0 || s.Cmp(big.NewInt(2)) != 0 || v != 1 {
		t.Errorf("%v %v %v %v", r, s, v, err)
	}
	f.expect("PUT", "team/mpc/sign/alice", map[string]any{"input": "aGVsbG8=", "message_type": "raw", "hash_algorithm": "keccak-256", "signature_format": "ethereum", "derivation_path": "m/7", "request_id": "order-7"}, nil)

	c, f = start(t, answering(signed(map[string]any{"v": nil})))
	got = must[*Signature](t)(c.Sign(context.Background(), "alice", SignRequest{Input: []byte("hello")}))
	if _, _, _, err := got.RSV(); err == nil || got.RecoveryID != -1 {
		t.Error("a signature without recovery ID has one")
	}
	f.expect("PUT", "team/mpc/sign/alice", map[string]any{"input": "aGVsbG8="}, nil)
}

// TestIgnoredFieldsAreNoticed: Vault passes unknown fields without an error, so an
// older engine would answer with something else than was asked for.
func TestIgnoredFieldsAreNoticed(t *testing.T) {
	old := signed(nil)
	delete(old, "signature_format")
	for name, req := range map[string]SignRequest{"format": {Input: []byte("m"), Format: FormatDER}, "request_id": {Input: []byte("m"), RequestID: "7"}} {
		c, _ := start(t, answering(old))
		if sig, err := c.Sign(context.Background(), "alice", req); err == nil {
			t.Errorf("%s: %+v", name, sig)
		}
		c, _ = start(t, answering(map[string]any{"batch_results": []any{old}}))
		if got, err := c.SignBatch(context.Background(), "alice", []BatchItem{{SignRequest: req}}); err != nil || got[0].Err == nil || got[0].Signature != nil {
			t.Errorf("%s in a batch: %+v, %v", name, got, err)
		}
	}
	c, _ := start(t, answering(map[string]any{"keys": "x"}))
	if sig, err := c.Sign(context.Background(), "alice", SignRequest{Input: []byte("m")}); err == nil {
		t.Errorf("no signature: %+v", sig)
	}
}

func TestWaitForAuxiliaryKeys(t *testing.T) {
	n := 0
	handler := func(request) reply {
		if n++; n < 4 {
			return pendingReply
		}
		return reply{data: signed(nil)}
	}
	ctx, req := context.Background(), SignRequest{Input: []byte("m")}
	c, _ := start(t, handler)
	if _, err := c.Sign(ctx, "alice", req); !errors.Is(err, ErrAuxiliaryKeysPending) || n != 1 {
		t.Errorf("without the option: %v after %d requests", err, n)
	}
	n = 0
	must[*Signature](t)(c.Sign(ctx, "alice", req, WaitForAuxiliaryKeys(time.Minute), quickly))
	if n != 4 {
		t.Errorf("%d requests", n)
	}
	c, _ = start(t, func(request) reply { return pendingReply })
	if _, err := c.Sign(ctx, "alice", req, WaitForAuxiliaryKeys(20*time.Millisecond), quickly); !errors.Is(err, ErrAuxiliaryKeysPending) {
		t.Errorf("after the maximum: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := c.Sign(short, "alice", req, WaitForAuxiliaryKeys(time.Minute), quickly); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the context: %v", err)
	}
	c, f := start(t, func(request) reply { return reply{status: 409, errors: []string{"account is frozen"}} })
	if _, err := c.Sign(ctx, "alice", req, WaitForAuxiliaryKeys(time.Minute), quickly); !errors.Is(err, ErrConflict) || len(f.requests()) != 1 {
		t.Errorf("another conflict: %v", err)
	}
}

func TestBatch(t *testing.T) {
	items := []BatchItem{
		{SignRequest: SignRequest{Input: []byte("a"), Format: FormatDER, RequestID: "1"}, Reference: "first"},
		{SignRequest: SignRequest{Input: []byte("b")}},
	}
	failed := map[string]any{"error": "account is frozen", "error_status": 409, "reference": ""}
	good := signed(map[string]any{"request_id": "1", "reference": "first"})
	for name, tt := range map[string]struct {
		status  int
		results []any
		good    bool
	}{
		"all good":             {0, []any{good, signed(nil)}, true},
		"some failed":          {200, []any{good, failed}, true},
		"all failed":           {400, []any{failed, failed}, false},
		"all failed, repeated": {500, []any{failed, failed}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, f := start(t, func(request) reply {
				return reply{status: tt.status, data: map[string]any{"batch_results": tt.results}}
			})
			got := must[[]BatchResult](t)(c.SignBatch(context.Background(), "alice", items))
			if len(got) != 2 || got[0].Reference != "first" || (got[0].Err == nil) != tt.good || (got[0].Signature != nil) != tt.good {
				t.Errorf("%+v", got)
			}
			if name != "all good" && !errors.Is(got[1].Err, ErrConflict) {
				t.Errorf("%v", got[1].Err)
			}
			want := map[string]any{"partial_failure_response_code": 200.0, "batch_input": []any{
				map[string]any{"input": "YQ==", "signature_format": "der", "request_id": "1", "reference": "first"}, map[string]any{"input": "Yg=="}}}
			for _, r := range f.requests() {
				if r.path != "team/mpc/sign/alice" || !reflect.DeepEqual(r.body, want) {
					t.Errorf("%s %v", r.path, r.body)
				}
			}
		})
	}
	for name, answer := range map[string]reply{
		"refused":    {status: 403, errors: []string{"permission denied"}},
		"too few":    {data: map[string]any{"batch_results": []any{good}}},
		"no results": {data: map[string]any{"signature": "x"}},
		"no form":    {status: 400, data: map[string]any{"batch_results": "x"}},
	} {
		c, _ := start(t, func(request) reply { return answer })
		if got, err := c.SignBatch(context.Background(), "alice", items); err == nil || got != nil || (name == "refused") != errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestBatchSendsOnlyPendingItemsAgain, and keeps what was signed before whatever
// becomes of them.
func TestBatchSendsOnlyPendingItemsAgain(t *testing.T) {
	pending := map[string]any{"error": "auxiliary keys are still being made (local-1 40 %)", "error_status": 409}
	items := []BatchItem{{SignRequest: SignRequest{Input: []byte("a")}}, {SignRequest: SignRequest{Input: []byte("b")}, Reference: "late"}, {SignRequest: SignRequest{Input: []byte("c")}}}
	run := func(second reply) []BatchResult {
		n := 0
		c, f := start(t, func(r request) reply {
			if n++; n == 1 {
				return reply{data: map[string]any{"batch_results": []any{signed(nil), pending, signed(nil)}}}
			}
			if len(r.body["batch_input"].([]any)) != 1 {
				t.Errorf("the second time: %v", r.body)
			}
			return second
		})
		got := must[[]BatchResult](t)(c.SignBatch(context.Background(), "alice", items, WaitForAuxiliaryKeys(time.Minute), quickly))
		if got[0].Signature == nil || got[2].Signature == nil || got[1].Reference != "late" || len(f.requests()) != 2 {
			t.Errorf("%+v after %d requests", got, len(f.requests()))
		}
		return got
	}
	if got := run(reply{data: map[string]any{"batch_results": []any{signed(nil)}}}); got[1].Signature == nil || got[1].Err != nil {
		t.Errorf("%+v", got[1])
	}
	if got := run(reply{status: 403, errors: []string{"token expired"}}); !errors.Is(got[1].Err, ErrDenied) {
		t.Errorf("%+v", got[1])
	}
}

func TestVerify(t *testing.T) {
	raw := bytes.Repeat([]byte{0xfb}, 64)
	for format, text := range map[SignatureFormat]string{"": base64.StdEncoding.EncodeToString(raw), FormatJWS: base64.RawURLEncoding.EncodeToString(raw)} {
		for _, valid := range []bool{true, false} {
			c, f := start(t, answering(map[string]any{"valid": valid}))
			got := must[bool](t)(c.Verify(context.Background(), "alice", VerifyRequest{Input: []byte("hello"), HashAlgorithm: SHA512, Format: format, DerivationPath: "m/1", Signature: raw}))
			if got != valid {
				t.Errorf("%v", got)
			}
			want := map[string]any{"input": "aGVsbG8=", "hash_algorithm": "sha2-512", "derivation_path": "m/1", "signature": text}
			if format != "" {
				want["signature_format"] = string(format)
			}
			f.expect(http.MethodPut, "team/mpc/verify/alice", want, nil)
		}
	}
}
