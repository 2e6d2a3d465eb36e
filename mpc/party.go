package mpc

import (
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/secret"
)

// Limits on what one party accepts. The largest honest message is a CMP
// round-2 message of about 9 KiB per peer.
const (
	MaxMessageSize = 256 << 10 // bytes of Data in one message
	MaxSessionSize = 8 << 20   // bytes a party accepts in one session
)

// Message is one protocol message between two parties, before it is sealed.
// The receiver's session fills From in from the key that opened the message;
// it is never read from the wire.
type Message struct {
	From, To  Index // To is 0 for a message to every other party
	Broadcast bool  // reliable broadcast: its echo is checked in the next round
	Round     uint8
	// Transcript is a 32-byte digest of the protocol's own session identifier.
	// Parties whose inputs differ have different ones and find out at once.
	Transcript [32]byte
	// Echo is the hash of the previous round's broadcasts, 0 or 64 bytes.
	Echo []byte
	Data []byte
}

// Party is one share's side of one session: messages in, messages out. It does
// no I/O, reads no clock and shows no goroutine. It is used by one goroutine
// at a time and is never serialised: restoring a used nonce leaks the key.
type Party interface {
	// Start returns the first messages. It is called once, before Step.
	Start() ([]Message, error)
	// Step consumes one message and returns what follows from it. After an
	// error the session is over; the error is an *AbortError where the
	// protocol can tell who is to blame.
	Step(Message) ([]Message, error)
	// Done reports whether the party has its result.
	Done() bool
	// Wipe clears secrets and ends the party, whatever its state.
	Wipe()
}

// KeyShare is the outcome of key generation or refresh for one party.
type KeyShare struct {
	Index Index
	// Share is the private share xᵢ: 32 bytes, big-endian, below the order.
	Share *secret.Bytes
	// PublicKey and PublicShares are encoded as in PublicRecord.
	PublicKey    []byte
	PublicShares [][]byte
	// ChainCode is zero after a refresh: the account keeps its own.
	ChainCode [32]byte
}

// AbortError ends a session and names the parties the protocol blames, if any.
type AbortError struct {
	Culprits []Index
	Err      error
}

func (e *AbortError) Error() string {
	if len(e.Culprits) == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (blamed: share %v)", e.Err, e.Culprits)
}

func (e *AbortError) Unwrap() error { return e.Err }

// Errors a party returns, usually inside an *AbortError.
var (
	ErrMalformedMessage = errors.New("malformed protocol message")
	ErrOtherSession     = errors.New("the party runs with other inputs")
	ErrPanic            = errors.New("the protocol library panicked on a message")
	// ErrShareMismatch: a share does not belong to its public share.
	ErrShareMismatch = errors.New("the share does not match its public share")
)
