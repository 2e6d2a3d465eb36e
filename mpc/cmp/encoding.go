package cmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed: bytes are not the canonical encoding of what they should be.
var ErrMalformed = errors.New("malformed encoding")

// fields builds canonical encodings: every field is preceded by its length (4
// bytes, big-endian), the first one is a label that ends with a version.
type fields []byte

func newFields(label string) fields { return fields{}.put([]byte(label)) }

func (f fields) put(b []byte) fields {
	f = binary.BigEndian.AppendUint32(f, uint32(len(b)))
	return append(f, b...)
}

func (f fields) uint64(n uint64) fields { return f.put(binary.BigEndian.AppendUint64(nil, n)) }

// reader takes such an encoding apart. Its fields alias the input. After the
// first fault every further read is empty, and end reports it.
type reader struct {
	in  []byte
	err error
}

// newReader refuses inputs over limit bytes and labels of other versions.
func newReader(b []byte, limit int, label string) *reader {
	r := &reader{in: b}
	if len(b) > limit {
		r.err = fmt.Errorf("%w: %d bytes is too long", ErrMalformed, len(b))
		return r
	}
	if got := r.between(0, len(label)); r.err != nil || string(got) != label {
		r.err = fmt.Errorf("%w: not a version this program reads", ErrMalformed)
	}
	return r
}

// between reads a field of least to most bytes.
func (r *reader) between(least, most int) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.in) < 4 {
		r.err = fmt.Errorf("%w: truncated", ErrMalformed)
		return nil
	}
	n := uint64(binary.BigEndian.Uint32(r.in))
	if n > uint64(len(r.in)-4) || n < uint64(least) || n > uint64(most) {
		r.err = fmt.Errorf("%w: a field of %d bytes", ErrMalformed, n)
		return nil
	}
	f := r.in[4 : 4+n]
	r.in = r.in[4+n:]
	return f
}

// fixed reads a field of exactly len(dst) bytes into dst.
func (r *reader) fixed(dst []byte) { copy(dst, r.between(len(dst), len(dst))) }

func (r *reader) uint64() uint64 {
	var b [8]byte
	r.fixed(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// rejectf records a fault of meaning; the first fault wins.
func (r *reader) rejectf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
}

// end reports the first fault; bytes left over are one.
func (r *reader) end() error {
	if r.err == nil && len(r.in) != 0 {
		r.err = fmt.Errorf("%w: %d bytes too many", ErrMalformed, len(r.in))
	}
	return r.err
}

// inRange reports 0 < x < n for big-endian numbers of equal length.
func inRange(x, n []byte) bool {
	return len(x) == len(n) && bytes.Compare(x, n) < 0 && !isZero(x)
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// errLibraryPanic takes the place of a panic's value, which may hold anything
// that was in memory.
var errLibraryPanic = errors.New("the protocol library panicked")

// guarded runs f and turns a panic of the library into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errLibraryPanic
		}
	}()
	return f()
}
