package backend

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Field sizes of CK_TOKEN_INFO (PKCS #11 v2.40, section 3.2), in bytes.
const (
	maxTokenLabel  = 32
	maxTokenSerial = 16
	maxURI         = 512
)

// tokenURI is what a PKCS#11 URI (RFC 7512) may say here: which token, by
// label or serial number or both, and the name of a module.
type tokenURI struct {
	Label, Serial string
	Module        string
}

// refusedAttributes says for attributes of RFC 7512 why they are not taken.
var refusedAttributes = map[string]string{ // read only
	"slot-id":     "slot numbers change when tokens are added or the HSM restarts: use token or serial",
	"module-path": "a path would run code on Vault's host: use module-name with a name from the host's list",
	"pin-value":   "a URI is readable: use the pin field",
	"pin-source":  "it would read a file on Vault's host: use the pin field",
}

// parseTokenURI reads "pkcs11:token=…;serial=…?module-name=…".
func parseTokenURI(s string) (*tokenURI, error) {
	if len(s) > maxURI {
		return nil, fmt.Errorf("uri is longer than %d bytes", maxURI)
	}
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return nil, errors.New("uri must begin with pkcs11:, for example pkcs11:token=prod?module-name=softhsm")
	}
	path, query, _ := strings.Cut(rest, "?")
	u := &tokenURI{}
	if err := u.attributes(path, ";", map[string]*string{"token": &u.Label, "serial": &u.Serial}); err != nil {
		return nil, err
	}
	if err := u.attributes(query, "&", map[string]*string{"module-name": &u.Module}); err != nil {
		return nil, err
	}
	switch {
	case u.Label == "" && u.Serial == "":
		return nil, errors.New("uri names no token: add token=LABEL or serial=NUMBER")
	case len(u.Label) > maxTokenLabel:
		return nil, fmt.Errorf("uri: a token label has at most %d bytes", maxTokenLabel)
	case len(u.Serial) > maxTokenSerial:
		return nil, fmt.Errorf("uri: a serial number has at most %d bytes", maxTokenSerial)
	case u.Module == "":
		return nil, errors.New("uri names no module: add ?module-name=NAME")
	}
	return u, nil
}

// attributes reads one component into the variables of the known attributes.
func (u *tokenURI) attributes(component, separator string, known map[string]*string) error {
	if component == "" {
		return nil
	}
	for part := range strings.SplitSeq(component, separator) {
		name, raw, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return fmt.Errorf("uri: expected attribute=value between %q", separator)
		}
		dst, isKnown := known[name]
		if !isKnown {
			if why, refused := refusedAttributes[name]; refused {
				return fmt.Errorf("uri: %s is not accepted: %s", name, why)
			}
			// The value is not repeated: it may be a misspelt pin-value.
			return fmt.Errorf("uri: attribute %q is not accepted; use token, serial and ?module-name", clip(name))
		}
		if *dst != "" {
			return fmt.Errorf("uri: %s appears twice", name)
		}
		value, err := decodeAttribute(raw)
		if err != nil {
			return fmt.Errorf("uri: %s %w", name, err)
		}
		*dst = value
	}
	return nil
}

// decodeAttribute undoes percent-encoding. Only characters that RFC 7512
// allows may stand for themselves.
func decodeAttribute(raw string) (string, error) {
	for _, c := range raw {
		if c <= ' ' || c >= utf8.RuneSelf || strings.ContainsRune(`"#<>\^{}`+"`\x7f", c) {
			return "", errors.New("must be percent-encoded (a space is %20)")
		}
	}
	value, err := url.PathUnescape(raw)
	if err != nil {
		return "", errors.New("has a broken percent-encoding")
	}
	if value == "" {
		return "", errors.New("is empty")
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return "", errors.New("is not printable UTF-8")
	}
	return value, nil
}

// clip shortens text of a caller that goes into a message.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
