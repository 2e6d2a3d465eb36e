package hsm

import (
	"errors"
	"fmt"
)

// KeyRequest asks a token for a new wrapping key.
type KeyRequest struct {
	Domain  string // 1 to MaxDomain bytes
	Version uint32 // from 1
	Label   string // CKA_LABEL of both halves; may be in use already
	// Suites are tried in this order; the first one that the token really does
	// is taken. At least one.
	Suites []Suite
}

// Check says whether r is complete.
func (r KeyRequest) Check() error {
	switch {
	case r.Domain == "" || len(r.Domain) > MaxDomain || r.Version == 0:
		return fmt.Errorf("hsm: a wrapping key needs a domain of 1 to %d bytes and a version from 1", MaxDomain)
	case len(r.Suites) == 0:
		return errors.New("hsm: a wrapping key needs at least one suite to try")
	}
	return nil
}

// KeyObject counts the key objects that have one CKA_ID in a token. One of each
// is a pair.
type KeyObject struct {
	ID              []byte // empty for objects without a CKA_ID
	Private, Public int
}
