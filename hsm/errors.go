package hsm

import "errors"

// Errors of envelopes.
var (
	// ErrEnvelope says that the bytes are not an envelope this version reads.
	// No key was used.
	ErrEnvelope = errors.New("hsm: not a readable envelope")

	// ErrOpen says that authentication failed: the context is another one, the
	// key is another one, or the envelope was changed. These cases cannot be
	// told apart. Nothing was opened and the envelope is unchanged.
	ErrOpen = errors.New("hsm: the envelope does not open: wrong context, wrong key or changed bytes")

	// ErrUnknownKeyVersion says that the envelope is sealed to none of the
	// wrapping keys the caller offered.
	ErrUnknownKeyVersion = errors.New("hsm: the envelope is sealed to none of the known wrapping keys")

	// ErrNeedsCustodyKey says that the token alone cannot open the envelope:
	// its owner's custody key is required too.
	ErrNeedsCustodyKey = errors.New("hsm: the envelope also needs its custody key")
)

// Errors of tokens, whatever implements them.
var (
	// ErrModule says that the PKCS#11 library could not be loaded or started.
	ErrModule = errors.New("hsm: cannot use the PKCS#11 module")

	// ErrTokenNotFound says that not exactly one token matches.
	ErrTokenNotFound = errors.New("hsm: token not found")

	// ErrPINIncorrect says that the token refused the PIN. It must not be tried
	// again: real tokens lock after a few attempts.
	ErrPINIncorrect = errors.New("hsm: the token refused the PIN")

	// ErrPINLocked says that the PIN is locked, or would be after one more
	// mistake, and was not tried.
	ErrPINLocked = errors.New("hsm: the token's PIN is locked")

	// ErrUnavailable says that the token did not answer or is gone. Nothing is
	// lost; a process that keeps getting it should be restarted, because many
	// modules recover in a new process only.
	ErrUnavailable = errors.New("hsm: token unavailable")

	// ErrNewProcess comes with ErrUnavailable where the module is known not to
	// recover in this process, however long one waits: SoftHSM never looks
	// again for a token that vanished once. A new process sees the token as
	// soon as it is back.
	ErrNewProcess = errors.New("only a new process will see the token again")

	// ErrNoSuite says that the token can do none of the wanted suites.
	ErrNoSuite = errors.New("hsm: the token can do none of the wanted suites")

	// ErrKeyNotFound says that the token is there, answers, and does not hold
	// the whole key pair. A token that is away is ErrUnavailable instead.
	ErrKeyNotFound = errors.New("hsm: wrapping key not found in the token")

	// ErrKeyMismatch says that what the token holds under the key's ID is not
	// the pinned key, not alone, or not protected as required.
	ErrKeyMismatch = errors.New("hsm: the token's key is not the pinned wrapping key")
)
