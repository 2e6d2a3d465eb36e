package approver

import "testing"

// TestReadable: what draws nothing makes a message bytes, which are shown in hex; so
// no two messages look alike as text.
func TestReadable(t *testing.T) {
	for in, want := range map[string]bool{
		"pay 100 to Bob\n\tnow": true, "鍵 é ∑": true, "with love \u2764\ufe0f": true,
		"pay 1\ufe0f00": false, "\ufe0fpay": false, "\u2764\ufe0f\ufe0f": false, "pay\ufe01": false, "pay\U000e0101": false,
		"pay\u180b": false, "pay\u2800": false, "pay\u3164": false, "pay\u034f": false, "pay\u202e": false, "pay\u200b": false,
		"pay\x00": false, "\xff": false, "": false,
	} {
		if _, ok := readable([]byte(in), false); ok != want {
			t.Errorf("%q is text: %v, want %v", in, ok, want)
		}
	}
}
