package approval

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// The moving code. A request has a random seed of SeedSize bytes, which the display
// gets once; from it the display derives the form of every period by itself. What a
// scanned form proves is that whoever scanned it saw a display of this request
// within the last two periods, or was told by somebody who did: freshness, not
// presence.

// SeedSize and FormSize are the lengths in bytes of a seed and of a form.
const (
	SeedSize = 32
	FormSize = 16
)

// Form is what the code shows in one period.
type Form [FormSize]byte

// FormAt derives the form of period number n (0 for the time of the request's
// creation): the first FormSize bytes of HMAC-SHA256 under the seed over label,
// request and number.
func FormAt(seed []byte, request ID, n uint64) Form {
	var w writer
	w.text("vault-plugin-secrets-mpc approval code v1")
	w.bytes(request[:])
	w.number(n)
	h := hmac.New(sha256.New, seed)
	h.Write(w)
	return Form(h.Sum(nil)[:FormSize])
}

// Period is the number of the period that a time is in. Times before created are in
// period 0.
func Period(created, now time.Time, period time.Duration) uint64 {
	if !now.After(created) || period <= 0 {
		return 0
	}
	return uint64(now.Sub(created) / period)
}

// ProgressProof is what the display shows to be told of the request's progress:
// HMAC-SHA256 under the seed, so that the seed itself is sent to nobody.
func ProgressProof(seed []byte, request ID) [32]byte {
	var w writer
	w.text("vault-plugin-secrets-mpc approval progress v1")
	w.bytes(request[:])
	h := hmac.New(sha256.New, seed)
	h.Write(w)
	return [32]byte(h.Sum(nil))
}

var errUnknownForm = errors.New("approval: not a form of the code")

// Link is the text of the code. base is the mount's page, such as
// https://vault.example.com/v1/mpc/ui/phone. What is secret stands behind "#", which
// browsers do not send to servers.
func Link(base string, request ID, f Form) string {
	return base + "#r=" + request.String() + "&f=" + base64.RawURLEncoding.EncodeToString(f[:])
}

// ParseLink reads request and form from a link, whatever its page is, or from what
// stands behind its "#".
func ParseLink(link string) (ID, Form, error) {
	var f Form
	if len(link) > 2048 {
		return ID{}, f, errUnknownForm
	}
	if _, behind, ok := strings.Cut(link, "#"); ok {
		link = behind
	}
	v, err := url.ParseQuery(link)
	if err != nil {
		return ID{}, f, errUnknownForm
	}
	if len(v["r"]) > 1 || len(v["f"]) > 1 {
		return ID{}, f, fmt.Errorf("%w: it names two requests or forms", errUnknownForm)
	}
	id, err := ParseID(v.Get("r"))
	if err != nil {
		return ID{}, f, fmt.Errorf("%w: no request in it", errUnknownForm)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(v.Get("f"))
	if err != nil || len(b) != FormSize {
		return ID{}, f, fmt.Errorf("%w: no form in it", errUnknownForm)
	}
	return id, Form(b), nil
}

// OpenMessage is what a device key signs, with SHA-256, to see a request: mount,
// request, the form that it scanned, its own key's ID and the time (Unix seconds).
func OpenMessage(mount [16]byte, request ID, f Form, key ID, now int64) []byte {
	var w writer
	w.text("vault-plugin-secrets-mpc approval open v1")
	w.bytes(mount[:])
	w.bytes(request[:])
	w.bytes(f[:])
	w.bytes(key[:])
	w.number(uint64(now))
	return w
}

// VerifyOpen checks the signature over an OpenMessage, r‖s, 64 bytes.
func (k *Key) VerifyOpen(message, signature []byte) bool {
	public, err := k.parse()
	return err == nil && k.Kind == Device && verifyRaw(public, message, signature)
}
