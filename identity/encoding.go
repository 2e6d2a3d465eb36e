package identity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds, in bytes where nothing else is said.
const (
	// MaxSecret bounds one asset key.
	MaxSecret = 32 << 10
	// MaxManifest bounds an encoded manifest, MaxAsset an encoded asset,
	// MaxAuthenticator an encoded authenticator.
	MaxManifest      = 384 << 10
	MaxAsset         = 256 << 10
	MaxAuthenticator = 64 << 10
	// MaxRoles, MaxLevels and MaxGrants bound the lists of a manifest, MaxKeys
	// that of an asset.
	MaxRoles  = 32
	MaxLevels = 32
	MaxGrants = 64
	MaxKeys   = 16
	// MaxSuccession bounds how often the owner role can have new keys.
	MaxSuccession = 256
	// MaxName bounds every name; MaxText text for people.
	MaxName = 64
	MaxText = 512
)

// ErrRecord: a record is malformed, too large, or of another version. It is also
// what a record gives that was tampered with so that it does not parse.
var ErrRecord = errors.New("identity: malformed record")

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`) // read only

// CheckName says what is wrong with a name of an identity, role, level, asset,
// asset key or authenticator: 1 to 64 lower-case letters, digits, dots, dashes and
// underscores with a letter or digit at both ends.
func CheckName(what, name string) error {
	if len(name) > MaxName || !namePattern.MatchString(name) {
		return fmt.Errorf("%w: the name of the %s must have 1 to %d lower-case letters, digits, dots, dashes or underscores, with a letter or digit at both ends", ErrRecord, what, MaxName)
	}
	return nil
}

// ID is 16 bytes, written as 32 lower-case hex digits. The zero ID is none.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText accepts 32 lower-case hex digits that are not all zero.
func (id *ID) UnmarshalText(text []byte) error {
	got, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = got
	return nil
}

// ParseID reads String's form of an ID that is not zero.
func ParseID(s string) (id ID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != s || bytes.Equal(b, id[:]) && ID(b) == (ID{}) {
		return ID{}, fmt.Errorf("%w: an ID has 32 lower-case hex digits", ErrRecord)
	}
	return ID(b), nil
}

// fields joins byte strings, each behind its length as 4 bytes big-endian, so
// that two different lists never give the same bytes.
func fields(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// decodeStrict reads one JSON value of at most limit bytes, in exactly the bytes
// that json.Marshal gives for it: no other fields, no field twice or in another
// case, no other order or space. Two readers in two languages that keep to that
// can never see two different records in the same signed bytes. Its errors quote
// nothing of the input.
func decodeStrict(what string, raw []byte, limit int, into any) error {
	if len(raw) > limit {
		return fmt.Errorf("%w: a %s of %d bytes, more than %d", ErrRecord, what, len(raw), limit)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%w: the %s is not JSON with the fields of its format", ErrRecord, what)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: the %s is followed by other data", ErrRecord, what)
	}
	if again, err := json.Marshal(into); err != nil || !bytes.Equal(again, raw) {
		return fmt.Errorf("%w: the %s is not in the one form that it is written in", ErrRecord, what)
	}
	return nil
}

// checkText refuses what is too long, not UTF-8, or would do things to a terminal.
func checkText(what, text string) error {
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if len(text) > MaxText || !utf8.ValidString(text) || strings.ContainsFunc(text, control) {
		return invalid("the %s has more than %d bytes, or other characters than text", what, MaxText)
	}
	return nil
}

// invalid is an ErrRecord with a reason.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRecord, fmt.Sprintf(format, args...))
}
