package pkcs11

import (
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// The errors to branch on are hsm's, so that callers need not import this
// package. Where the module gave a code, it is in the text (CKR_…).
var (
	ErrModule        = hsm.ErrModule
	ErrTokenNotFound = hsm.ErrTokenNotFound
	ErrPINIncorrect  = hsm.ErrPINIncorrect
	ErrPINLocked     = hsm.ErrPINLocked
	ErrUnavailable   = hsm.ErrUnavailable
	ErrKeyNotFound   = hsm.ErrKeyNotFound
	ErrKeyMismatch   = hsm.ErrKeyMismatch
)

// Defaults of Config.
const (
	DefaultSessions = 4
	DefaultTimeout  = 3 * time.Second
)

// adminFactor times Config.Timeout is the limit of starting, making, finding
// and destroying keys: tokens need seconds for some of them.
const adminFactor = 5

// Config says which token to use and how.
type Config struct {
	// Module is the path of the PKCS#11 library. It is code that runs in this
	// process: take it from the host's operator only.
	Module string
	// Label and Serial select the token; what is empty is not compared, and
	// not both may be empty. Slot numbers are not offered: they change.
	Label, Serial string
	// PIN is the user PIN; Open copies it and the caller wipes its own. The
	// copy is kept until Close, to log in again when the module lost its
	// sessions.
	PIN *secret.Bytes
	// Sessions bounds the calls that are inside the module at once, 1 to 256.
	// Default 4. One more session is held open for the login.
	Sessions int
	// Timeout bounds one ECDH with its wait for a session. Default 3 s. Open,
	// Bind, GenerateWrappingKey and DestroyWrappingKey have five times that.
	// A context may shorten both.
	Timeout   time.Duration
	InitArgs  string
	AllowSHA1 bool
}

func (c Config) withDefaults() (Config, error) {
	if c.Sessions == 0 {
		c.Sessions = DefaultSessions
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	switch {
	case c.Module == "":
		return c, fmt.Errorf("%w: no path given", ErrModule)
	case c.Label == "" && c.Serial == "":
		return c, fmt.Errorf("%w: give its label or serial number", ErrTokenNotFound)
	case c.PIN.Len() == 0:
		return c, fmt.Errorf("%w: the PIN is empty, so it was not tried; tokens with their own PIN pad are not supported", ErrPINIncorrect)
	case c.Sessions < 1 || c.Sessions > 256:
		return c, fmt.Errorf("pkcs11: %d sessions; choose 1 to 256", c.Sessions)
	case c.Timeout < 0:
		return c, errors.New("pkcs11: a negative timeout")
	}
	return c, nil
}

// TokenInfo describes a token, without the padding blanks.
type TokenInfo struct {
	Label, Serial, Manufacturer, Model string
	// PINChecked says that the token itself accepted the PIN when it was
	// opened. It is false if this process was logged in already: modules keep
	// one login per process and then do not look at the PIN.
	PINChecked bool
}
