package cli

import (
	"fmt"
	"net/url"
	"strings"
)

// parseTokenURI reads what mpckms uses of a PKCS#11 URI (RFC 7512, 2.3): token,
// serial, object and id, percent-encoded; type=private is allowed. Others are
// refused and not ignored, since who gives one wants it to matter; a PIN must not
// be in there at all.
func parseTokenURI(s string) (TokenKey, error) {
	var k TokenKey
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return k, fmt.Errorf("--token takes a URI of the form pkcs11:token=LABEL;object=LABEL")
	}
	if strings.Contains(rest, "?") {
		return k, fmt.Errorf("the URI of the token must have no part behind a question mark: PINs come from the terminal or --token-pin-file, the library from --module")
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(rest, ";") {
		name, value, ok := strings.Cut(part, "=")
		value, err := url.PathUnescape(value)
		if !ok || err != nil || value == "" || seen[name] {
			return k, fmt.Errorf("the URI of the token has a part that is empty, given twice, or not name=value with %% escapes")
		}
		seen[name] = true
		switch name {
		case "token":
			k.TokenLabel = value
		case "serial":
			k.Serial = value
		case "object":
			k.Label = value
		case "id":
			k.ID = []byte(value)
		case "type":
			if value != "private" {
				return k, fmt.Errorf("the URI of the token names something else than a private key")
			}
		default:
			return k, fmt.Errorf("mpckms does not know %q in the URI of a token: it uses token, serial, object and id", name)
		}
	}
	if k.TokenLabel+k.Serial == "" || k.Label == "" && len(k.ID) == 0 {
		return k, fmt.Errorf("the URI of the token needs token or serial, and object or id")
	}
	return k, nil
}
