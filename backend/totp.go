package backend

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// One-time codes, RFC 6238 with what every authenticator app does: SHA-1, six digits,
// steps of 30 seconds. The coordinator checks them and keeps their secret, so they
// are worth as much as it: nodes are not told of them.

const (
	totpStep   = 30 * time.Second
	totpDigits = 6
	// totpSkew is how many steps before and after the present one are taken, for
	// clocks that differ (RFC 6238, section 5.2, recommends one).
	totpSkew = 1
	// totpSecretSize is in bytes: that of SHA-1's output (RFC 4226, section 4).
	totpSecretSize = 20
)

// errCode has one text for a code that is wrong, used or too old.
func errCode() error {
	return forbidden("the one-time code is not right, was used before, or is too old: nothing was done. Each code counts once; wait for the next one")
}

// checkTOTP takes a one-time code of an approver, who is named by its ID in hex. It
// is nil where the code is right; from then on this code and earlier ones are
// refused. It is a 403 where the code is wrong, where there is no such approver or
// it has no one-time codes, and where there were too many guesses.
//
// Guesses are counted per approver in memory, by the thresholds of logins
// (login_limits.go); a right code forgets them.
func (b *backend) checkTOTP(ctx context.Context, approverID, code string) error {
	if _, err := approval.ParseID(approverID); err != nil {
		return errCode()
	}
	release, err := b.people.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	name, r, err := b.approverByID(ctx, approverID)
	if err != nil {
		return err
	}
	if r == nil || r.TOTP == nil || !r.TOTP.Confirmed {
		return errCode()
	}
	return b.takeCode(ctx, name, r, code)
}

// takeCode checks a code of a record that was just read, and stores its step. The
// caller has the turn.
func (b *backend) takeCode(ctx context.Context, name string, r *approverRecord, code string) error {
	if err := b.people.codes.begin(r.ID, false); err != nil {
		return tooManyGuesses("one-time codes of approver %q", name)
	}
	step, ok := r.TOTP.match(code, b.cfg.now())
	if !ok {
		b.log.Warn("a one-time code of an approver was not right", "approver", name, "approver_id", r.ID)
		return errCode()
	}
	r.TOTP.LastStep = step
	r.TOTP.Confirmed = true
	if err := b.store.putApprover(ctx, name, r); err != nil {
		b.people.codes.undo(r.ID)
		return err // not taken: whether the step is stored is not known
	}
	b.people.codes.succeeded(r.ID)
	return nil
}

// tooManyGuesses is a 429.
func tooManyGuesses(format string, args ...any) error {
	e := invalid("too many wrong "+format+": no more are taken for a while. Nothing was changed; try again in some minutes, or later where it goes on", args...).(*fault)
	e.status = http.StatusTooManyRequests
	return e
}

// match returns the step that a code is of. Steps up to the last one that was taken
// are not looked at. The library compares in constant time.
func (r *totpRecord) match(code string, now time.Time) (uint64, bool) {
	code = strings.ReplaceAll(strings.TrimSpace(code), " ", "") // apps show "123 456"
	if len(code) != totpDigits {
		return 0, false
	}
	present := now.Unix() / int64(totpStep/time.Second)
	found, ok := uint64(0), false
	for n := present - totpSkew; n <= present+totpSkew; n++ {
		if n < 0 || uint64(n) <= r.LastStep {
			continue
		}
		right, err := hotp.ValidateCustom(code, uint64(n), r.Secret, hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err == nil && right && !ok {
			found, ok = uint64(n), true
		}
	}
	return found, ok
}
