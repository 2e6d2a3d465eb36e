package pkcs11

import (
	"errors"
	"fmt"
	"strings"
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
	ErrNewProcess    = hsm.ErrNewProcess
	ErrNoSuite       = hsm.ErrNoSuite
)

// Defaults of Config.
const (
	DefaultSessions = 4
	DefaultTimeout  = 3 * time.Second
)

// adminFactor times Config.Timeout is the limit of starting, finding and
// destroying keys and of making P-256 keys, rsaFactor times that of making an
// RSA key: tokens need seconds for the former and up to a minute for the latter.
const (
	adminFactor = 5
	rsaFactor   = 20
)

// Config says which token to use and how.
type Config struct {
	// Module is the path of the PKCS#11 library. It is code that runs in this
	// process: take it from the host's operator only.
	Module string
	// InitArgs is handed to the library when it starts
	// (CK_C_INITIALIZE_ARGS.pReserved), without a NUL: NSS is told its database
	// so. It has no effect on a library that this process started before.
	// Default: nothing.
	InitArgs string
	// AllowSHA1 permits hsm.SuiteRSA3072OAEPSHA1. For tests. Default: not.
	AllowSHA1 bool
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
	// Timeout bounds one ECDH or decryption with its wait for a session.
	// Default 3 s. The other calls have five times that, and making an RSA key
	// has twenty times. A context may shorten each.
	Timeout time.Duration
}

// KeyRequest and KeyObject are hsm's, so that test doubles need not import this
// package.
type (
	KeyRequest = hsm.KeyRequest
	KeyObject  = hsm.KeyObject
)

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
	case strings.ContainsRune(c.InitArgs, 0):
		return c, fmt.Errorf("%w: a NUL in its arguments", ErrModule)
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
