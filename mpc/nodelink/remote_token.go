package nodelink

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// EnrolWindow is how long an enrolment token works.
const EnrolWindow = 15 * time.Minute

const (
	tokenPrefix   = "mpcnode1." // names the version of the form
	secretSize    = 32
	checkSize     = 4   // leading bytes of a SHA-256 over the rest, against tokens cut off by a copy
	maxName       = 48  // bytes of each name in it; recipient sets take no longer ones
	maxTokenBytes = 512 // more than four names of maxName and the fixed parts need
)

// EnrolToken is what `node enrol` prints on the node's host and an operator gives
// to Vault: who the node is, how it is known on the network, and a secret that
// works once. Whoever holds it can enrol a coordinator until it expires.
type EnrolToken struct {
	NodeID, Domain, Region, Zone string
	// Identity signs in sessions.
	Identity mpc.NodeIdentity
	// Pin is that of the certificate the node shows.
	Pin [32]byte
	// Secret has 32 bytes; the holder of the token wipes it.
	Secret  *secret.Bytes
	Expires time.Time // whole seconds
}

// NewEnrolSecret draws the secret of a token.
func NewEnrolSecret() *secret.Bytes {
	b := make([]byte, secretSize)
	_, _ = rand.Read(b) // never fails
	return secret.New(b)
}

// errToken never quotes the token.
var errToken = errors.New("this is no enrolment token of a node; it starts with " + tokenPrefix + " and is printed by `node enrol`, copy all of it, without line breaks")

// Encode returns the token as text, secret included: it is for the operator's
// terminal and no log. (It is not String, which logs would call.)
//
// The text is "mpcnode1." and base64url without padding of: node ID, domain,
// region, zone, each preceded by its length (1 byte); identity (32); pin (32);
// secret (32); expiry in Unix seconds (8, big-endian); the first 4 bytes of the
// SHA-256 of all before.
func (t *EnrolToken) Encode() string {
	var b []byte
	for _, s := range []string{t.NodeID, t.Domain, t.Region, t.Zone} {
		s = s[:min(len(s), maxName)] // longer ones are refused before a token is made
		b = append(append(b, byte(len(s))), s...)
	}
	b = append(append(b, t.Identity[:]...), t.Pin[:]...)
	b = append(b, t.Secret.Expose()...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.Unix()))
	sum := sha256.Sum256(b)
	b = append(b, sum[:checkSize]...)
	defer secret.Wipe(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseEnrolToken reads what Encode writes, and nothing else: each token has one
// form. It does not look at the time.
func ParseEnrolToken(s string) (*EnrolToken, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(maxTokenBytes) {
		return nil, errToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errToken // the decoder's own error quotes positions; the token is short
	}
	defer secret.Wipe(raw)
	if len(raw) < checkSize {
		return nil, errToken
	}
	body, check := raw[:len(raw)-checkSize], raw[len(raw)-checkSize:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:checkSize], check) {
		return nil, fmt.Errorf("%w: a part is missing or was changed", errToken)
	}
	t := &EnrolToken{}
	for _, field := range []*string{&t.NodeID, &t.Domain, &t.Region, &t.Zone} {
		if len(body) < 1 || int(body[0]) > min(len(body)-1, maxName) {
			return nil, errToken
		}
		*field, body = string(body[1:1+body[0]]), body[1+body[0]:]
	}
	const fixed = 32 + 32 + secretSize + 8
	if len(body) != fixed {
		return nil, errToken
	}
	if !ValidName(t.NodeID) || !ValidName(t.Domain) || !ValidLabel(t.Region) || !ValidLabel(t.Zone) {
		return nil, errToken
	}
	copy(t.Identity[:], body)
	copy(t.Pin[:], body[32:])
	seconds := binary.BigEndian.Uint64(body[96:])
	if seconds > 1<<40 {
		return nil, errToken
	}
	t.Expires = time.Unix(int64(seconds), 0).UTC()
	t.Secret = secret.Copy(body[64:96])
	return t, nil
}

// String shows who the token is for and never the secret.
func (t *EnrolToken) String() string {
	return fmt.Sprintf("enrolment token of node %s (domain %s, region %s, zone %s), expires %s", t.NodeID, t.Domain, t.Region, t.Zone, t.Expires.UTC().Format(time.RFC3339))
}

// GoString implements fmt.GoStringer.
func (t *EnrolToken) GoString() string { return t.String() }

// ValidName reports whether s can name a node or a wrapping domain: 1 to 48
// characters out of a-z, 0-9, dot, dash and underscore, with a letter or digit
// first.
func ValidName(s string) bool {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	return s != "" && len(s) <= maxName && strings.Trim(s[:1], first) == "" && strings.Trim(s, first+".-_") == ""
}

// ValidLabel reports whether s can name a region or a zone: as ValidName, or empty.
func ValidLabel(s string) bool { return s == "" || ValidName(s) }
