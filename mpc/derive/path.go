package derive

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxDepth bounds the steps of a path; BIP-32 stores a depth in one byte, and
// the common schemes use five.
const MaxDepth = 16

// hardened is the first index that BIP-32 derives from the private key.
const hardened = 1 << 31

// Errors that callers may want to tell apart. All are the caller's to mend.
var (
	// ErrPath: the text is no path of unhardened steps.
	ErrPath = errors.New("derivation path")
	// ErrTweak: the text names no Taproot tweak.
	ErrTweak = errors.New("taproot tweak")
	// ErrAlgorithm: the account's algorithm has no such child keys.
	ErrAlgorithm = errors.New("derivation")
)

// ParsePath reads "m", "m/0/7" or "0/7". Steps are decimal, 0 to 2³¹−1. Both
// "" and "m" are the account's own key.
func ParsePath(s string) ([]uint32, error) {
	rest := strings.TrimPrefix(s, "m")
	switch {
	case rest == "":
		return nil, nil
	case rest != s && !strings.HasPrefix(rest, "/"):
		return nil, fmt.Errorf("%w: after m comes a slash, as in m/0/7", ErrPath)
	}
	steps := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	if strings.HasPrefix(s, "/") {
		return nil, fmt.Errorf("%w: it begins with m or a number, as in m/0/7", ErrPath)
	}
	if len(steps) > MaxDepth {
		return nil, fmt.Errorf("%w: %d steps, at most %d are allowed", ErrPath, len(steps), MaxDepth)
	}
	path := make([]uint32, len(steps))
	for i, step := range steps {
		if strings.HasSuffix(step, "'") || strings.HasSuffix(step, "h") || strings.HasSuffix(step, "H") {
			return nil, fmt.Errorf("%w: step %d is hardened, which needs the whole private key, and nobody has it: use unhardened steps, or one account for each hardened branch", ErrPath, i+1)
		}
		n, err := strconv.ParseUint(step, 10, 32)
		switch {
		case err != nil || (len(step) > 1 && step[0] == '0'):
			return nil, fmt.Errorf("%w: step %d is not a decimal number", ErrPath, i+1)
		case n >= hardened:
			return nil, fmt.Errorf("%w: step %d is over 2147483647, which means a hardened step: nobody has the private key it needs", ErrPath, i+1)
		}
		path[i] = uint32(n)
	}
	return path, nil
}
