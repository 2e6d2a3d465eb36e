package approval

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// People decide by what a page or a terminal shows them, and encodings are mirrored
// in another language. So texts are valid UTF-8, and names have no character that is
// invisible or moves the others around: no controls (also line breaks and escapes),
// no format characters (zero width, bidirectional), no line separators, no space but
// U+0020. Letters that only look alike pass; IDs tell such names apart, and pages
// show them.

// CheckName verifies that a name is 1 to MaxName bytes that people see as they are.
func CheckName(s string) error {
	switch {
	case s == "" || len(s) > MaxName:
		return fmt.Errorf("needs a name of 1 to %d bytes", MaxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, hidden):
		return errors.New("its name has invalid UTF-8, or control, invisible or direction-changing characters")
	case s != strings.TrimSpace(s):
		return errors.New("its name begins or ends with a space")
	}
	return nil
}

// CleanName makes a name that passes CheckName, or is empty, from one that came from
// elsewhere: what CheckName refuses becomes "?", and what is too long is cut off.
func CleanName(s string) string {
	var out strings.Builder
	for _, r := range s { // invalid UTF-8 becomes U+FFFD
		if hidden(r) || r == utf8.RuneError {
			r = '?'
		}
		if out.Len()+utf8.RuneLen(r) > MaxName {
			break
		}
		out.WriteRune(r)
	}
	return strings.TrimSpace(out.String())
}

func hidden(r rune) bool {
	return unicode.Is(unicode.C, r) || unicode.Is(unicode.Z, r) && r != ' ' || slices.Contains(blank, r)
}

// blank are letters that are drawn as nothing: Hangul and Khmer fillers, and the
// combining grapheme joiner.
var blank = []rune{0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x3164, 0xffa0}

// noRequester in Approver.Requesters says that there are no identifiers.
const noRequester = "none"

// checkRequester verifies an identifier of somebody who asks: what kind it is, a
// colon, and the identifier, in printable ASCII without spaces.
func checkRequester(s string) error {
	kind, id, ok := strings.Cut(s, ":")
	if !ok || id == "" || !slices.Contains([]string{"entity", "identity", "token"}, kind) || len(s) > maxText || !printableASCII(s) {
		return fmt.Errorf("requester %q is not entity:…, identity:… or token:… in up to %d ASCII characters", clip(s), maxText)
	}
	return nil
}

// checkOrigin verifies the origin of a page that may use a passkey: scheme and host,
// in the form that browsers write (WebAuthn, section 5.8.1; RFC 6454, section 6.2).
// HTTPS, or HTTP on localhost: browsers give passkeys to no other.
func checkOrigin(s string) error {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxText || !printableASCII(s) || s != strings.ToLower(s) || u.Host == "" || s != u.Scheme+"://"+u.Host ||
		u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost") {
		return fmt.Errorf("origin %q is not https:// and a host in lower case, or http://localhost, with a port where it is not the usual one and no path", clip(s))
	}
	return nil
}

// printableASCII reports whether all of s is U+0021 to U+007E.
func printableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// clip shortens what came from outside for an error, which quotes it.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "?") + "…"
	}
	return s
}
