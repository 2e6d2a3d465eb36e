package session

import (
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
)

// Kind says what a sealed body holds.
type Kind uint8

const (
	// KindProtocol is a message of the MPC protocol.
	KindProtocol Kind = 1
	// KindConfirm is the hash of the record a party arrived at.
	KindConfirm Kind = 2
)

// Layout of a protocol body: kind, round, flags (1 byte each), transcript (32
// bytes), echo length (1 byte, 0 or 64), echo, data. Sender and recipient are
// not in it: they are the keys that sealed and opened it.
const (
	flagBroadcast = 1
	headerSize    = 1 + 1 + 1 + 32 + 1
)

// EncodeProtocol writes a protocol message.
func EncodeProtocol(m mpc.Message) ([]byte, error) {
	if len(m.Data) > mpc.MaxMessageSize || (len(m.Echo) != 0 && len(m.Echo) != 64) {
		return nil, fmt.Errorf("protocol message of %d bytes is too long", len(m.Data))
	}
	b := make([]byte, 0, headerSize+len(m.Echo)+len(m.Data))
	flags := byte(0)
	if m.Broadcast {
		flags = flagBroadcast
	}
	b = append(b, byte(KindProtocol), m.Round, flags)
	b = append(b, m.Transcript[:]...)
	b = append(b, byte(len(m.Echo)))
	b = append(b, m.Echo...)
	return append(b, m.Data...), nil
}

// EncodeConfirm writes a confirmation of the record with that hash.
func EncodeConfirm(recordHash [32]byte) []byte {
	return append([]byte{byte(KindConfirm)}, recordHash[:]...)
}

// Body is a decoded sealed body.
type Body struct {
	Kind    Kind
	Message mpc.Message // KindProtocol, without From and To
	Record  [32]byte    // KindConfirm
}

// Decode reads a body. from and to are the session's, not the sender's claim.
func Decode(b []byte, from, to mpc.Index) (Body, error) {
	if len(b) == 0 {
		return Body{}, fmt.Errorf("%w: empty", ErrMessage)
	}
	switch Kind(b[0]) {
	case KindConfirm:
		if len(b) != 1+32 {
			return Body{}, fmt.Errorf("%w: confirmation of %d bytes", ErrMessage, len(b))
		}
		return Body{Kind: KindConfirm, Record: [32]byte(b[1:])}, nil
	case KindProtocol:
		m, err := decodeProtocol(b, from, to)
		if err != nil {
			return Body{}, fmt.Errorf("%w: %w", ErrMessage, err)
		}
		return Body{Kind: KindProtocol, Message: m}, nil
	}
	return Body{}, fmt.Errorf("%w: kind %d", ErrMessage, b[0])
}

func decodeProtocol(b []byte, from, to mpc.Index) (mpc.Message, error) {
	if len(b) < headerSize {
		return mpc.Message{}, errors.New("short header")
	}
	m := mpc.Message{From: from, To: to, Round: b[1]}
	switch b[2] {
	case 0:
	case flagBroadcast:
		m.Broadcast, m.To = true, 0
	default:
		return mpc.Message{}, errors.New("unknown flags")
	}
	copy(m.Transcript[:], b[3:])
	echo := int(b[headerSize-1])
	rest := b[headerSize:]
	if (echo != 0 && echo != 64) || len(rest) < echo {
		return mpc.Message{}, errors.New("bad echo")
	}
	if echo > 0 {
		m.Echo = rest[:echo]
	}
	m.Data = rest[echo:]
	if len(m.Data) > mpc.MaxMessageSize {
		return mpc.Message{}, errors.New("too long")
	}
	return m, nil
}
