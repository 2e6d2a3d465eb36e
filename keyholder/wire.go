package keyholder

import "encoding/binary"

// The contexts of what a session transfers; the engine has the same.
const (
	labelSessionLogin  = "mpc identity session login v1"
	labelSessionCall   = "mpc identity session call v1"
	labelSessionAnswer = "mpc identity session answer v1"
)

// fields joins byte strings, each behind its length as 4 bytes big-endian.
func fields(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
