//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// Alive asks whether the token that was opened is there and logged in, and logs
// in again if the module lost that. Errors wrap ErrUnavailable, and
// ErrNewProcess where waiting in this process is in vain, or are about the PIN.
// It is cheap enough to be asked every second, and does not wait for a key that
// is being made.
func (t *Token) Alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	if err := t.present(ctx); err != nil {
		return err
	}
	if len(t.admin) == 0 {
		return nil // somebody works with objects, and looks after the login
	}
	if err := t.recover(ctx, faultNone, t.generation()); err != nil {
		return outward("looking after the token", t.diagnose(ctx, err))
	}
	return nil
}

// present asks the module about the token itself. A token that is away often
// looks like one that is empty: SoftHSM 2.6.1 goes on finding nothing, without
// an error and with the login in place, after its token's folder has vanished,
// even when the folder is back. What C_GetTokenInfo says is then the only sign.
func (t *Token) present(ctx context.Context) error {
	_, err := inside(ctx, t, func() (struct{}, error) {
		return struct{}{}, t.checkPresence()
	}, nil)
	return err
}

// checkPresence is present for callers that are inside the module.
func (t *Token) checkPresence() error {
	ti, err := t.mod.GetTokenInfo(t.slot)
	switch {
	case classify(err) == faultVague || errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)):
		return fmt.Errorf("%w: the module cannot read token %q any more, and %w: %w; nothing is lost, bring the token back", ErrUnavailable, t.info.Label, ErrNewProcess, err)
	case err != nil:
		return fmt.Errorf("%w: the module does not see token %q: %w; nothing is lost, bring the token back", ErrUnavailable, t.info.Label, err)
	}
	now := tokenInfo(ti)
	if ti.Flags&p11.CKF_TOKEN_INITIALIZED == 0 || now.Label != t.info.Label || now.Serial != t.info.Serial {
		return fmt.Errorf("%w: in the place of token %q (serial %s) there is %q (serial %s); bring the right one back", ErrUnavailable, t.info.Label, t.info.Serial, now.Label, now.Serial)
	}
	return nil
}

// diagnose tells a token that is away from the trouble that a call seems to
// have had: whatever the module said about keys, sessions or objects means
// nothing if the token is not there.
func (t *Token) diagnose(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // too late to ask, so nothing is said about the key
		if classify(err) == faultHandle || errors.Is(err, ErrKeyMismatch) {
			return ended(ctx, "no answer from the token in time")
		}
		return err
	}
	for _, settled := range []error{ErrUnavailable, ErrPINIncorrect, ErrPINLocked, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, settled) {
			return err
		}
	}
	if away := t.present(ctx); away != nil {
		// The first error's sentinels must not survive, its text may.
		return fmt.Errorf("%w (noticed by: %v)", away, err)
	}
	return err
}
