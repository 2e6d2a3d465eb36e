package backend

import (
	"encoding/base64"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestEnrolmentUserHandle: each enrolment has a user handle of its own. An
// authenticator replaces a passkey that has the same one, and an account's policy may
// pin the key that would be gone.
func TestEnrolmentUserHandle(t *testing.T) {
	m := approvable(t)
	seen := map[string]bool{}
	for range 2 {
		l := m.opensEnrolment("alice")
		handle := m.must(logical.UpdateOperation, "approve/enrol", l.body())["user_id"].(string)
		if again := m.must(logical.UpdateOperation, "approve/enrol", l.body())["user_id"]; again != handle {
			t.Errorf("a page that is loaded again gets %v after %s", again, handle)
		}
		// WebAuthn Level 3, section 5.4.3: 1 to 64 bytes.
		if raw, err := base64.RawURLEncoding.DecodeString(handle); err != nil || len(raw) != 32 {
			t.Errorf("the handle %q has %d bytes (%v)", handle, len(raw), err)
		}
		if seen[handle] {
			t.Errorf("two enrolments have the handle %s", handle)
		}
		seen[handle] = true
	}
}
