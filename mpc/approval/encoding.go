package approval

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ID names a request or an approver: 16 random bytes, 32 hex digits where it is
// text.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads 32 lower-case hex digits.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != s {
		return id, errors.New("an ID has 32 lower-case hex digits")
	}
	copy(id[:], b)
	return id, nil
}

// writer writes the canonical encoding.
type writer []byte

func (w *writer) bytes(b []byte) {
	*w = binary.BigEndian.AppendUint32(*w, uint32(len(b)))
	*w = append(*w, b...)
}
func (w *writer) text(s string) { w.bytes([]byte(s)) }
func (w *writer) number(n uint64) {
	w.bytes(binary.BigEndian.AppendUint64(nil, n))
}

// reader reads it. Every length has one encoding and every field its place, so bytes
// that are read to their end are the only ones of what they mean. After a failure it returns zero values; done tells.
type reader struct {
	in  []byte
	bad bool
}

func (r *reader) bytes(most int) []byte {
	if r.bad || len(r.in) < 4 {
		r.bad = true
		return nil
	}
	n := binary.BigEndian.Uint32(r.in)
	if uint64(n) > uint64(len(r.in)-4) || n > uint32(most) {
		r.bad = true
		return nil
	}
	var b []byte // nil for an empty one
	if n > 0 {
		b = append(b, r.in[4:4+n]...)
	}
	r.in = r.in[4+n:]
	return b
}

// text reads UTF-8: mirrors of the encodings have strings that hold nothing else.
func (r *reader) text(most int) string {
	b := r.bytes(most)
	if !utf8.Valid(b) {
		r.bad = true
		return ""
	}
	return string(b)
}
func (r *reader) number() uint64 {
	b := r.bytes(8)
	if len(b) != 8 {
		r.bad = true
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
func (r *reader) fixed(dst []byte) {
	b := r.bytes(len(dst))
	if len(b) != len(dst) {
		r.bad = true
		return
	}
	copy(dst, b)
}

// count reads how many items follow, most at the most.
func (r *reader) count(most int) int {
	n := r.number()
	if n > uint64(most) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) done(what string) error {
	if r.bad || len(r.in) != 0 {
		return fmt.Errorf("approval: malformed %s", what)
	}
	return nil
}
