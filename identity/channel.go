package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"vault-plugin-secrets-mpc/secret"
)

// MaxChannelMessage bounds what goes through a channel at once, in bytes.
const MaxChannelMessage = 2 << 20

const (
	labelChannelUp   = "mpc identity channel v1: client to server"
	labelChannelDown = "mpc identity channel v1: server to client"
)

// ErrReplay: a message with this sequence number, or a later one, was taken
// already. Nothing was done for it.
var ErrReplay = errors.New("identity: a message of this session was sent again or too late")

// Channel protects what a session transfers: AES-256-GCM with a key for each
// direction, which HKDF-SHA256 derives from OPAQUE's session key, and the sequence
// number as nonce (4 zero bytes ‖ 8 bytes big-endian). A message goes through once
// and in order: each end takes sequence numbers that rise, and a number that was
// lost on the way is not used again, since a nonce must not be. An answer has its
// request's number, so an end sends each number once; 0 is for what the server
// sends before the first request. Methods may be called concurrently.
type Channel struct {
	mu         sync.Mutex
	out, in    cipher.AEAD // nil after Wipe
	sent, seen uint64      // the next sequence number that may be sent, or taken
}

// NewChannel makes one end's channel of a session key (64 bytes), of which it keeps
// nothing but derived keys. It panics for a key of another length, which is a
// mistake in the program.
func NewChannel(sessionKey *secret.Bytes, client bool) *Channel {
	if sessionKey.Len() != SessionKeySize {
		panic("identity: a channel needs a session key of 64 bytes")
	}
	up, down := channelAEAD(sessionKey, labelChannelUp), channelAEAD(sessionKey, labelChannelDown)
	if client {
		return &Channel{out: up, in: down}
	}
	return &Channel{out: down, in: up}
}

func channelAEAD(sessionKey *secret.Bytes, label string) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, sessionKey.Expose(), nil, label, keySize)
	if err != nil {
		panic("identity: HKDF of a session key failed")
	}
	defer secret.Wipe(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("identity: AES with 32 bytes failed")
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("identity: GCM failed")
	}
	return aead
}

var errChannelOver = errors.New("identity: the session is over")

// Seal encrypts body for the other end; clear is authenticated and not sent. The
// sequence number must be higher than that of every earlier call; ErrReplay
// otherwise, and nothing is encrypted.
func (c *Channel) Seal(sequence uint64, clear, body []byte) ([]byte, error) {
	if len(body) > MaxChannelMessage {
		return nil, invalid("a message of %d bytes, more than %d", len(body), MaxChannelMessage)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		return nil, errChannelOver
	}
	if err := follows(sequence, c.sent); err != nil {
		return nil, err
	}
	c.sent = sequence + 1
	return c.out.Seal(nil, channelNonce(sequence), body, clear), nil
}

// Open decrypts what the other end sealed with that sequence number and the same
// clear. ErrReplay where a message with this number or a later one has been opened,
// ErrOpen for what was changed on the way or belongs to another session; neither
// moves the channel on.
func (c *Channel) Open(sequence uint64, clear, message []byte) ([]byte, error) {
	if len(message) > MaxChannelMessage+16 {
		return nil, invalid("a message of %d bytes", len(message))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil {
		return nil, errChannelOver
	}
	if err := follows(sequence, c.seen); err != nil {
		return nil, err
	}
	body, err := c.in.Open(nil, channelNonce(sequence), message, clear)
	if err != nil {
		return nil, ErrOpen
	}
	c.seen = sequence + 1
	return body, nil
}

// Wipe ends the channel. Go's AES keeps its own schedule of the keys, which is left
// to the garbage collector.
func (c *Channel) Wipe() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out, c.in = nil, nil
}

func follows(sequence, next uint64) error {
	if sequence < next {
		return fmt.Errorf("%w: number %d, and %d is the next", ErrReplay, sequence, next)
	}
	if sequence == math.MaxUint64 {
		return invalid("a sequence number that nothing can follow")
	}
	return nil
}

func channelNonce(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, nonceSize), sequence)
}
