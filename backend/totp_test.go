package backend

import (
	"encoding/base32"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
)

// TestTOTPVectors: RFC 6238, appendix B, for SHA-1; six digits are the last six of
// its eight.
func TestTOTPVectors(t *testing.T) {
	r := &totpRecord{Secret: base32.StdEncoding.EncodeToString([]byte("12345678901234567890"))}
	for _, v := range []struct {
		at   int64
		code string
	}{
		{59, "94287082"}, {1111111109, "07081804"}, {1111111111, "14050471"},
		{1234567890, "89005924"}, {2000000000, "69279037"}, {20000000000, "65353130"},
	} {
		step, ok := r.match(v.code[2:], time.Unix(v.at, 0))
		if !ok || step != uint64(v.at/30) {
			t.Errorf("at %d: step %d, %v", v.at, step, ok)
		}
		// One step early and late, for clocks that differ; no more.
		for off, want := range map[int64]bool{-60: false, -30: true, 30: true, 60: false} {
			if _, ok := r.match(v.code[2:], time.Unix(v.at+off, 0)); v.at+off > 0 && ok != want {
				t.Errorf("at %d, %d s off: %v", v.at, off, ok)
			}
		}
	}
}

func codeAt(t testing.TB, secret string, at time.Time) string {
	t.Helper()
	code, err := totp.GenerateCodeCustom(secret, at, totp.ValidateOpts{Period: 30, Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// otpMount is a mount with an approver and a clock.
func otpMount(t *testing.T) (*mount, *clock) {
	t.Helper()
	at := newClock()
	m := openAt(t, &logical.InmemStorage{}, newFake(t), at.now)
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	m.must(logical.UpdateOperation, "approvers/alice", map[string]any{"no_entity": true})
	return m, at
}

func TestTOTP(t *testing.T) {
	m, at := otpMount(t)
	id := m.must(logical.ReadOperation, "approvers/alice", nil)["id"].(string)
	state := func() any {
		return m.must(logical.ReadOperation, "approvers/alice", nil)["totp"].(map[string]any)["state"]
	}
	m.fails(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": "123456"}, http.StatusConflict, "no one-time codes")
	m.fails(logical.DeleteOperation, "approvers/alice/totp", nil, http.StatusNotFound, "no one-time codes")
	out := m.must(logical.UpdateOperation, "approvers/alice/totp", nil)
	u, err := url.Parse(out["url"].(string))
	if err != nil || u.Scheme != "otpauth" || u.Query().Get("secret") != out["secret"] || !strings.Contains(u.Path, "alice") {
		t.Errorf("the URL is %v: %v", out["url"], err)
	}
	// A secret that nobody confirmed is replaced, and counts for nothing.
	secret := m.must(logical.UpdateOperation, "approvers/alice/totp", nil)["secret"].(string)
	if secret == out["secret"] || state() != "unconfirmed" {
		t.Errorf("the secret is the same, or %v", state())
	}
	if err := m.b.checkTOTP(t.Context(), id, codeAt(t, secret, at.now())); err == nil {
		t.Error("a code counts before the secret was confirmed")
	}
	m.fails(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": codeAt(t, out["secret"].(string), at.now())}, http.StatusForbidden, "is not right")
	used := codeAt(t, secret, at.now())
	if got := m.must(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": used[:3] + " " + used[3:]}); fmt.Sprint(got["checked"]) != "[totp]" || state() != "confirmed" {
		t.Errorf("alice has %v, %v", got["checked"], state())
	}
	m.fails(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": used}, http.StatusConflict, "confirmed before")
	m.fails(logical.UpdateOperation, "approvers/alice/totp", nil, http.StatusConflict, "has one-time codes already")
	// The code that confirmed is used, also after a restart; so is every earlier one.
	if err := m.b.checkTOTP(t.Context(), id, used); err == nil {
		t.Error("the code that confirmed is taken again")
	}
	at.add(30 * time.Second)
	next := codeAt(t, secret, at.now())
	m.ok(m.b.checkTOTP(t.Context(), id, next))
	m.b.Cleanup(t.Context())
	m = openAt(t, m.storage, m.fake, at.now)
	for _, code := range []string{next, used, codeAt(t, secret, at.now().Add(-30*time.Second))} {
		if err := m.b.checkTOTP(t.Context(), id, code); err == nil {
			t.Errorf("code %s is taken again", code)
		}
	}
	at.add(30 * time.Second)
	m.ok(m.b.checkTOTP(t.Context(), id, codeAt(t, secret, at.now())))
	for _, code := range []string{"", "12345", "1234567", "abcdef", "      ", "١٢٣٤٥٦"} {
		if err := m.b.checkTOTP(t.Context(), id, code); err == nil {
			t.Errorf("%q is taken", code)
		}
		m.b.people.codes.succeeded(id)
	}
	// Nobody has codes whom nobody knows.
	for _, other := range []string{"", "x", strings.Repeat("ab", 16), strings.ToUpper(id)} {
		if err := m.b.checkTOTP(t.Context(), other, next); err == nil {
			t.Errorf("an approver %q has codes", other)
		}
	}
	m.must(logical.DeleteOperation, "approvers/alice/totp", nil)
	if state() != "none" {
		t.Errorf("the state is %v", state())
	}
	if strings.Contains(m.logs.String(), secret) {
		t.Error("the log has the secret")
	}
	r := &totpRecord{Secret: secret}
	if s := fmt.Sprintf("%v %+v %#v %s", r, r, r, r); strings.Contains(s, secret) {
		t.Error("formatting shows the secret")
	}
}

// TestTOTPGuesses: five wrong codes in a row, and also the right one waits.
func TestTOTPGuesses(t *testing.T) {
	m, at := otpMount(t)
	id := m.must(logical.ReadOperation, "approvers/alice", nil)["id"].(string)
	secret := m.must(logical.UpdateOperation, "approvers/alice/totp", nil)["secret"].(string)
	m.must(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": codeAt(t, secret, at.now())})
	wrong := func(now time.Time) string { // no code of these minutes
		for n := 0; ; n++ {
			code, near := fmt.Sprintf("%06d", n), false
			for off := -2; off <= 2; off++ {
				near = near || code == codeAt(t, secret, now.Add(time.Duration(off)*totpStep))
			}
			if !near {
				return code
			}
		}
	}
	at.add(time.Minute)
	for range 4 {
		if err := m.b.checkTOTP(t.Context(), id, wrong(at.now())); err == nil || !strings.Contains(err.Error(), "is not right") {
			t.Fatalf("%v", err)
		}
	}
	m.ok(m.b.checkTOTP(t.Context(), id, codeAt(t, secret, at.now()))) // forgets them
	for range 5 {
		if err := m.b.checkTOTP(t.Context(), id, wrong(at.now())); err == nil || !strings.Contains(err.Error(), "is not right") {
			t.Fatalf("%v", err)
		}
	}
	at.add(45 * time.Second)
	if err := m.b.checkTOTP(t.Context(), id, codeAt(t, secret, at.now())); err == nil || !strings.Contains(err.Error(), "too many wrong") {
		t.Errorf("%v", err)
	}
	at.add(45 * time.Second)
	m.ok(m.b.checkTOTP(t.Context(), id, codeAt(t, secret, at.now())))
}

// TestTOTPAtOnce: of one code that comes several times at once, one counts.
func TestTOTPAtOnce(t *testing.T) {
	m, at := otpMount(t)
	id := m.must(logical.ReadOperation, "approvers/alice", nil)["id"].(string)
	secret := m.must(logical.UpdateOperation, "approvers/alice/totp", nil)["secret"].(string)
	m.must(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": codeAt(t, secret, at.now())})
	at.add(time.Minute)
	code := codeAt(t, secret, at.now())
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { errs[i] = m.b.checkTOTP(t.Context(), id, code) })
	}
	wg.Wait()
	took := 0
	for _, err := range errs {
		if err == nil {
			took++
		}
	}
	if took != 1 {
		t.Errorf("%d were taken", took)
	}
}

// TestTOTPNotStored: a code whose step could not be stored is not taken.
func TestTOTPNotStored(t *testing.T) {
	m, at := otpMount(t)
	id := m.must(logical.ReadOperation, "approvers/alice", nil)["id"].(string)
	secret := m.must(logical.UpdateOperation, "approvers/alice/totp", nil)["secret"].(string)
	m.must(logical.UpdateOperation, "approvers/alice/totp/confirm", map[string]any{"code": codeAt(t, secret, at.now())})
	at.add(time.Minute)
	m.b.Cleanup(t.Context())
	c := openAt(t, &crashing{Storage: m.storage}, m.fake, at.now)
	if err := c.b.checkTOTP(t.Context(), id, codeAt(t, secret, at.now())); err == nil {
		t.Error("it is taken")
	}
}

func FuzzCodeDigits(f *testing.F) {
	f.Add("1234-5678")
	f.Add("12 34 56 78")
	f.Fuzz(func(t *testing.T, text string) {
		code, ok := codeDigits(text)
		if !ok {
			return
		}
		if again, ok := codeDigits(code); !ok || again != code || len(code) != 9 {
			t.Errorf("%q becomes %q", text, code)
		}
	})
}
