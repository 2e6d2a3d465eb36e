package pool

import (
	"errors"
	"fmt"
	"strings"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// maxFailureText bounds what a node's explanation adds to errors and logs, in
// bytes.
const maxFailureText = 512

// failureText is a node's explanation, cut to a bearable length.
func failureText(f *nodepb.Failure) string {
	text := f.GetText()
	if len(text) > maxFailureText {
		text = text[:maxFailureText] + "…"
	}
	return text
}

// failureKind is this package's error for a node's reason, or nil where
// callers have nothing to branch on.
func failureKind(f *nodepb.Failure) error {
	switch f.GetReason() {
	case nodepb.Failure_PIN_INCORRECT:
		return ErrPINIncorrect
	case nodepb.Failure_PIN_LOCKED:
		return ErrPINLocked
	case nodepb.Failure_TOKEN_NOT_FOUND:
		return ErrTokenNotFound
	case nodepb.Failure_MODULE:
		return ErrModule
	case nodepb.Failure_HSM_UNAVAILABLE:
		return ErrHSMUnavailable
	case nodepb.Failure_NO_SUITE:
		return ErrNoSuite
	case nodepb.Failure_WRAPPING_KEY:
		return ErrWrappingKey
	case nodepb.Failure_SHARE_UNUSABLE:
		return ErrShareUnusable
	case nodepb.Failure_BELOW_FLOOR:
		return ErrBelowFloor
	case nodepb.Failure_SWITCHED_OFF:
		return ErrSwitchedOff
	case nodepb.Failure_UNPINNED:
		return ErrUnpinned
	case nodepb.Failure_DRAINING:
		return ErrDraining
	case nodepb.Failure_APPROVALS:
		return ErrApprovals
	}
	return nil
}

// fromFailure turns a node's failure into an error; nil stays nil.
func fromFailure(f *nodepb.Failure) error {
	if f == nil {
		return nil
	}
	kind, text := failureKind(f), failureText(f)
	if kind == nil {
		return errors.New(text)
	}
	// The node's text usually begins with the same words.
	if _, rest, ok := strings.Cut(text, kind.Error()); ok {
		text = strings.TrimLeft(rest, ":; ")
	}
	if text == "" {
		return kind
	}
	return fmt.Errorf("%w: %s", kind, text)
}

// isHSM reports whether err says that a node cannot work with its token.
func isHSM(err error) bool {
	for _, kind := range []error{ErrHSMUnavailable, ErrTokenNotFound, ErrModule, ErrPINIncorrect, ErrPINLocked, ErrWrappingKey} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
